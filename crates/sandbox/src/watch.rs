//! What takes the place of a pid namespace where there is none ([`Processes::Host`]).
//!
//! * A pid namespace ends with its process 1. Here every process in the step's mount namespace is
//!   killed; the step's filter lets none get into another.
//! * Nobody outside can be signalled: by a Landlock domain with `LANDLOCK_SCOPE_SIGNAL` (Linux
//!   6.12). Without it a step can signal processes of the same user, layercake's included.
//! * Nobody outside can be traced, nor can memory, files and environment be read: by the rules of
//!   `ptrace(2)`, as layercake has more capabilities than a step and other processes are in an
//!   outer user namespace. Between steps it is the Landlock domain; without it one runs at a time.
//! * Limits of others cannot be set: by a filter ([`crate::seccomp::others`]).
//! * Others are not seen. Here they are: names, command lines, use of resources.
//!
//! Orphans of a step go to the process that waits for this one (`inside::entry`), which reaps them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Step};
use crate::spec::Processes;
use crate::{passing, sys};

/// Killed processes may take this long to go (a slow disk); then they are given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// As long a number is taken for the same process: in less not all numbers can be used up.
const MEMORY: Duration = Duration::from_millis(500);
/// As often it is looked again at once; then there is something that takes its time to end.
const AT_ONCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);
/// As often it is looked again for somebody who vanished.
const LOOKS_MAX: u32 = 1000;

/// The rules of the Landlock domain of a step: no signals to processes outside. `None` where the
/// kernel has no such rule.
pub(crate) fn scope() -> Option<BorrowedFd<'static>> {
    static SCOPE: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let scope = SCOPE.get_or_init(|| sys::landlock_signal_scope().ok());
    scope.as_ref().map(AsFd::as_fd)
}

/// Whether steps without a pid namespace can neither signal nor trace each other (Linux 6.12).
#[must_use]
pub fn keeps_steps_apart() -> bool {
    scope().is_some()
}

/// Over one step. Dropped, it kills what is left of the step.
#[derive(Debug)]
pub(crate) struct Watch {
    ours: OwnedFd,
    /// Where the child sends its mount namespace.
    theirs: Option<OwnedFd>,
    /// Held, so that its number is not given to another step.
    namespace: Option<(OwnedFd, Stat)>,
}

/// What the child needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForChild<'f> {
    pub(crate) channel: BorrowedFd<'f>,
    pub(crate) scope: Option<BorrowedFd<'static>>,
}

impl Watch {
    /// `None` for steps with a pid namespace.
    ///
    /// # Errors
    /// [`Error::Setup`] with [`Step::Pipe`].
    pub(crate) fn new(processes: Processes) -> Result<Option<Self>, Error> {
        if processes == Processes::Own {
            return Ok(None);
        }
        let (ours, theirs) = passing::pair().map_err(|errno| Step::Pipe.error(errno))?;
        Ok(Some(Self {
            ours,
            theirs: Some(theirs),
            namespace: None,
        }))
    }

    pub(crate) fn for_child(&self) -> Option<ForChild<'_>> {
        let channel = self.theirs.as_ref()?.as_fd();
        Some(ForChild {
            channel,
            scope: scope(),
        })
    }

    /// To be called when the child runs, or failed.
    pub(crate) fn started(&mut self) {
        self.theirs = None;
        self.namespace = passing::receive(&self.ours).and_then(|namespace| {
            let stat = rustix::fs::fstat(&namespace).ok()?;
            Some((namespace, stat))
        });
    }

    /// Kills every process of the step.
    ///
    /// # Errors
    /// When one does not end within a minute.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let Some((_, namespace)) = &self.namespace else {
            return Ok(());
        };
        let started = Instant::now();
        let mut hunt = Hunt::new(namespace);
        let mut looks = 0;
        loop {
            let seen = hunt.look()?;
            looks += 1;
            match seen {
                Seen::Strangers => return Ok(()),
                // On a busy machine these may be strangers, over and over.
                Seen::Vanished if looks > LOOKS_MAX => return Ok(()),
                Seen::Killed if started.elapsed() > PATIENCE => {
                    let message = "a process that the step left running cannot be killed";
                    return Err(io::Error::other(message));
                }
                Seen::Vanished | Seen::Killed => {}
            }
            if looks > AT_ONCE {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Whoever wants to know calls it before.
        let _ = self.kill();
    }
}

/// The search for the processes of a step.
struct Hunt<'a> {
    namespace: &'a Stat,
    /// Processes that are not of the step, and since when that is known: numbers are given again.
    strangers: HashSet<i32>,
    since: Instant,
}

/// What a look at all processes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// Nobody of the step. That is certain: whoever forks and ends is listed, or its child is.
    Strangers,
    /// Somebody who was gone before it was clear who it was.
    Vanished,
    /// Somebody of the step, who was killed.
    Killed,
}

impl<'a> Hunt<'a> {
    fn new(namespace: &'a Stat) -> Self {
        Self {
            namespace,
            strangers: HashSet::new(),
            since: Instant::now(),
        }
    }

    fn look(&mut self) -> io::Result<Seen> {
        if self.since.elapsed() > MEMORY {
            self.strangers.clear();
            self.since = Instant::now();
        }
        let mut pids: Vec<i32> = fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| !self.strangers.contains(pid))
            .collect();
        // The newest first: they may not live long.
        pids.sort_unstable_by(|a, b| b.cmp(a));
        let mut seen = Seen::Strangers;
        for pid in pids {
            match self.meet(pid) {
                Seen::Strangers => {
                    self.strangers.insert(pid);
                }
                other => seen = seen.max(other),
            }
        }
        Ok(seen)
    }

    fn meet(&self, pid: i32) -> Seen {
        let process = PathBuf::from(format!("/proc/{pid}"));
        match is_in(&process, self.namespace) {
            Some(true) => {}
            Some(false) => return Seen::Strangers,
            None => return Seen::Vanished,
        }
        let pidfd = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        // Once more: what is looked at now is what is killed, or it is dead.
        if let Some(Ok(pidfd)) = pidfd
            && is_in(&process, self.namespace) == Some(true)
        {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        Seen::Killed
    }
}

/// Whether a thread of the process is in the namespace; `None` when the process is gone. The first
/// thread may have ended before the others; it has no namespaces then.
fn is_in(process: &Path, namespace: &Stat) -> Option<bool> {
    let same = |thread: &Path| {
        rustix::fs::statat(CWD, thread.join("ns/mnt"), AtFlags::empty())
            .map(|stat| (stat.st_dev, stat.st_ino) == (namespace.st_dev, namespace.st_ino))
    };
    match same(process) {
        Ok(same) => Some(same),
        // One that this process may not look into, so not of the step; or one that just ended.
        Err(Errno::ACCESS) => process.exists().then_some(false),
        Err(_) => {
            let threads = fs::read_dir(process.join("task")).ok()?;
            Some(
                threads
                    .flatten()
                    .any(|thread| same(&thread.path()).unwrap_or(false)),
            )
        }
    }
}
