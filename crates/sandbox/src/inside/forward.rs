//! Passing signals on to a process that this one waits for.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::pidfd_send_signal;

use crate::cancel::retry;

/// The signals that A passes to C and C to W.
pub(super) fn signals() -> SigSet {
    [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ]
    .into_iter()
    .collect()
}

/// Waits for the end of the process and passes `signals`, which this thread must have blocked, on
/// to it meanwhile. The process is left to be waited for, unless `signals` has SIGCHLD: for that
/// `reap` is called.
pub(super) fn until_end(
    pidfd: BorrowedFd<'_>,
    signals: &SigSet,
    mut reap: impl FnMut(),
) -> io::Result<()> {
    let pending = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            PollFd::new(&pending, PollFlags::IN),
        ];
        retry(|| poll(&mut fds, None))?;
        let [process, _] = &fds;
        if !process.revents().is_empty() {
            return Ok(());
        }
        while let Some(info) = pending.read_signal()? {
            if info.ssi_signo == Signal::SIGCHLD as u32 {
                reap();
                continue;
            }
            // What the terminal sends (from the kernel: a positive code) went to its whole
            // foreground process group, the other process included.
            if info.ssi_code > 0 {
                continue;
            }
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
                // It may have ended meanwhile.
                let _ = pidfd_send_signal(pidfd, signal);
            }
        }
    }
}
