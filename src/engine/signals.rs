//! SIGINT and SIGTERM stop a build: the first asks the steps to stop, a second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use graph::Cancel;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, FailureKind};

/// Which signal stopped the build, if any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopped(Arc<AtomicU8>);

impl Stopped {
    pub(crate) fn kind(&self) -> Option<FailureKind> {
        match self.0.load(Ordering::Relaxed) {
            2 => Some(FailureKind::Interrupted),
            15 => Some(FailureKind::Terminated),
            _ => None,
        }
    }
}

/// Listens from now on.
pub(crate) fn listen(runtime: &Runtime, cancel: &Cancel) -> Result<Stopped, Failure> {
    let stopped = Stopped::default();
    for (kind, number) in [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15)] {
        let guard = runtime.enter();
        let mut stream = signal(kind).map_err(|e| {
            Failure::new(FailureKind::Environment, format!("listen for signals: {e}"))
        })?;
        drop(guard);
        let (cancel, stopped) = (cancel.clone(), stopped.clone());
        runtime.spawn(async move {
            while stream.recv().await.is_some() {
                stopped.0.store(number, Ordering::Relaxed);
                cancel.cancel();
            }
        });
    }
    Ok(stopped)
}
