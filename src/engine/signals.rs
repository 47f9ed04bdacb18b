//! SIGINT and SIGTERM stop a build: steps are stopped and it ends.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use graph::Cancel;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::failure::{Failure, FailureKind};

/// The process inside loses a signal that comes before it listens.
const AGAIN: Duration = Duration::from_millis(100);

/// Which signal stopped the build, if any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopped(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    number: AtomicU8,
    /// One signal is remembered for the one who waits.
    came: Notify,
}

impl Stopped {
    pub(crate) fn kind(&self) -> Option<FailureKind> {
        self.signal().map(|signal| match signal {
            Signal::INT => FailureKind::Interrupted,
            _ => FailureKind::Terminated,
        })
    }

    fn signal(&self) -> Option<Signal> {
        match self.0.number.load(Ordering::Relaxed) {
            2 => Some(Signal::INT),
            15 => Some(Signal::TERM),
            _ => None,
        }
    }

    /// Sends the signal that stopped the build, or that will, to `process` until that has ended.
    pub(crate) fn pass_on(&self, runtime: &Runtime, process: OwnedFd) {
        let stopped = self.clone();
        runtime.spawn(async move {
            let signal = loop {
                match stopped.signal() {
                    Some(signal) => break signal,
                    None => stopped.0.came.notified().await,
                }
            };
            while pidfd_send_signal(&process, signal).is_ok() {
                tokio::time::sleep(AGAIN).await;
            }
        });
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
                stopped.0.number.store(number, Ordering::Relaxed);
                stopped.0.came.notify_one();
                cancel.cancel();
            }
        });
    }
    Ok(stopped)
}
