//! Lets the mounts of a step go without anybody waiting for it.
//!
//! The last process of a mount namespace takes the mounts down as it exits, and is not reported
//! dead before: two RCU grace periods, 0.3 ms that a step of 1 ms would wait for. A descriptor of
//! the namespace keeps it alive past its processes; closing that in another thread moves the work
//! there. All processes of the step are dead by then, so nothing changes any more.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use crate::sys::{self, Child};

/// The mount namespace of a step that has started. Dropping it at once is always right.
#[derive(Debug)]
pub(crate) struct Held(OwnedFd);

/// `None` where the kernel cannot give it (before Linux 6.11): then the step takes its mounts
/// down itself.
pub(crate) fn hold(child: &Child) -> Option<Held> {
    sys::mount_namespace(&child.pidfd).ok().map(Held)
}

impl Held {
    /// Closes the namespace in another thread.
    pub(crate) fn release(self) {
        let closer = Closer::get();
        closer.count(|progress| progress.released += 1);
        let unsent = match &closer.queue {
            Some(queue) => {
                let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.send(self.0).err().map(|error| error.0)
            }
            None => Some(self.0),
        };
        if let Some(namespace) = unsent {
            drop(namespace);
            closer.count(|progress| progress.gone += 1);
        }
    }
}

/// Waits until all mounts are gone of steps that have ended by now. A directory that one of them
/// wrote to through an overlay may be a lower one of another only then (else the kernel warns).
pub fn wait_for_teardown() {
    // Without a thread nothing was released, and none is started for that.
    let Some(closer) = CLOSER.get() else { return };
    let mut progress = closer.progress();
    let target = progress.released;
    // In order: what was released first goes first.
    while progress.gone < target {
        let waited = closer.changed.wait(progress);
        progress = waited.unwrap_or_else(PoisonError::into_inner);
    }
}

#[derive(Debug, Default)]
struct Progress {
    released: u64,
    gone: u64,
}

static CLOSER: OnceLock<Closer> = OnceLock::new();

struct Closer {
    /// `None` if no thread could be started.
    queue: Option<Mutex<Sender<OwnedFd>>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Closer {
    fn get() -> &'static Self {
        CLOSER.get_or_init(|| {
            let (queue, released) = channel::<OwnedFd>();
            let thread = std::thread::Builder::new().name("teardown".to_owned());
            let thread = thread.spawn(move || {
                for namespace in released {
                    drop(namespace);
                    Self::get().count(|progress| progress.gone += 1);
                }
            });
            Self {
                queue: thread.is_ok().then_some(Mutex::new(queue)),
                progress: Mutex::default(),
                changed: Condvar::new(),
            }
        })
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
    }
}
