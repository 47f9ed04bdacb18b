//! Compression threads, shared by all layers that are made at the same time.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads that run short jobs. They start with the first job and end when the
/// last clone of this handle is dropped.
#[derive(Clone)]
pub struct Workers(Arc<Shared>);

struct Shared {
    count: usize,
    queue: Mutex<Option<Sender<Job>>>,
}

impl Workers {
    /// `count` threads, at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Shared {
            count: count.max(1),
            queue: Mutex::new(None),
        }))
    }

    /// One thread for each core this process may use.
    #[must_use]
    pub fn one_per_core() -> Self {
        Self::new(thread::available_parallelism().map_or(1, usize::from))
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// The result arrives in the receiver; nothing arrives when `work` panicked.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Receiver<T> {
        let (sender, receiver) = channel();
        // An asker that has gone wants no result.
        let job: Job = Box::new(move || drop(sender.send(work())));
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let started = queue.get_or_insert_with(|| start(self.0.count));
        if let Err(refused) = started.send(job) {
            // No thread could be started or all have panicked: the work is done here.
            drop(queue);
            refused.0();
        }
        receiver
    }
}

fn start(count: usize) -> Sender<Job> {
    let (sender, receiver) = channel::<Job>();
    let receiver = Arc::new(Mutex::new(receiver));
    for number in 0..count {
        let receiver = receiver.clone();
        let body = move || {
            loop {
                let next = receiver
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .recv();
                let Ok(job) = next else { return };
                job();
            }
        };
        // With fewer threads than wanted the work is merely slower; with none, `run` does it.
        drop(
            thread::Builder::new()
                .name(format!("compress-{number}"))
                .spawn(body),
        );
    }
    sender
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workers").field(&self.0.count).finish()
    }
}
