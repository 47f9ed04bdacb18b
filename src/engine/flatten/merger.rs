//! Merges while steps run: the next ones do with the parts until the whole is there.

use std::collections::HashSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use store::owner::Owners;
use store::{Digest, Store};

use super::run::Run;
use crate::failure::Failure;

#[derive(Default)]
pub(in crate::engine) struct Merger(Mutex<State>);

#[derive(Default)]
struct State {
    /// That were asked for, once each: what fails is tried again when it is waited for.
    asked: HashSet<Digest>,
    thread: Option<Thread>,
}

struct Thread {
    queue: Sender<Run>,
    handle: JoinHandle<()>,
}

impl Merger {
    /// Has the directory `name` made some time, if nobody asked before.
    ///
    /// # Errors
    /// Those of `run`.
    pub(super) fn ask(
        &self,
        store: &Arc<Store>,
        owners: Owners,
        name: &Digest,
        run: impl FnOnce() -> Result<Run, Failure>,
    ) -> Result<(), Failure> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.asked.insert(*name) {
            return Ok(());
        }
        if state.thread.is_none() {
            state.thread = start(store, owners);
        }
        if let Some(thread) = &state.thread {
            // It ends only with us.
            let _ = thread.queue.send(run()?);
        }
        Ok(())
    }
}

/// `None` when there can be no thread: stacks are then merged when they are too high.
fn start(store: &Arc<Store>, owners: Owners) -> Option<Thread> {
    let (queue, runs) = channel::<Run>();
    let store = store.clone();
    let work = move || {
        for run in runs {
            // Without it the stack is higher.
            let _ = run.make(&store, owners);
        }
    };
    let thread = std::thread::Builder::new().name("merge".to_owned());
    let handle = thread.spawn(work).ok()?;
    Some(Thread { queue, handle })
}

impl Drop for Merger {
    fn drop(&mut self) {
        let state = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(Thread { queue, handle }) = state.thread.take() {
            drop(queue);
            // It only writes to the store, whose folder for drafts is removed when nobody uses it.
            let _ = handle.join();
        }
    }
}
