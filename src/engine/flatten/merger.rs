//! Merges while steps run, ahead of those that will need it.

use std::collections::HashSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use store::owner::Owners;
use store::{Digest, Store};

use super::run::Run;
use crate::failure::Failure;

#[derive(Default)]
pub(in crate::engine) struct Merger(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What was asked for, once each: what fails is tried again by who needs it.
    asked: HashSet<Digest>,
    /// Those of it that are not made yet.
    open: HashSet<Digest>,
    thread: Option<Thread>,
}

struct Thread {
    queue: Sender<Run>,
    handle: JoinHandle<()>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Merger {
    /// Has the directory `name` made, if nobody asked before.
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
        let mut state = self.0.state();
        if !state.asked.insert(*name) {
            return Ok(());
        }
        if state.thread.is_none() {
            state.thread = start(&self.0, store, owners);
        }
        if let Some(thread) = &state.thread
            && thread.queue.send(run()?).is_ok()
        {
            state.open.insert(*name);
        }
        Ok(())
    }

    /// Waits if the directory `name` is being made.
    pub(super) fn wait(&self, name: &Digest) {
        let is_open = |state: &mut State| state.open.contains(name);
        // Poisoned or not, it is over.
        drop(self.0.changed.wait_while(self.0.state(), is_open));
    }
}

/// `None` when there can be no thread: everything is then made by who needs it.
fn start(shared: &Arc<Shared>, store: &Arc<Store>, owners: Owners) -> Option<Thread> {
    let (queue, runs) = channel::<Run>();
    let (shared, store) = (shared.clone(), store.clone());
    let work = move || {
        for run in runs {
            // Whoever needs it meets the error again.
            let _ = run.make(&store, owners);
            shared.state().open.remove(&run.name);
            shared.changed.notify_all();
        }
    };
    let thread = std::thread::Builder::new().name("merge".to_owned());
    let handle = thread.spawn(work).ok()?;
    Some(Thread { queue, handle })
}

impl Drop for Merger {
    fn drop(&mut self) {
        let thread = self.0.state().thread.take();
        if let Some(Thread { queue, handle }) = thread {
            drop(queue);
            // It only writes to the store, whose folder for drafts is removed when nobody uses it.
            let _ = handle.join();
        }
    }
}
