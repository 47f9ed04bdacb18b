//! The supervisor's thread: from the start of a step to its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::answer::{Answer, Session};
use super::book::Book;
use super::credentials::{Credentials, Table};
use super::{Emulation, InodeOwner};
use crate::error::{Error, Step};
use crate::passing;
use crate::plan::Supervisor;
use crate::spec::{self, Processes};
use crate::sys::{self, notify};

/// The supervisor of one step, from outside of its thread.
#[derive(Debug)]
pub(crate) struct Emulator {
    /// Where the child sends the listener.
    channel: Option<OwnedFd>,
    thread: Option<JoinHandle<Vec<InodeOwner>>>,
    /// Of the credentials that the step starts with.
    number: u64,
    copy_up: bool,
}

impl Emulator {
    /// Starts the thread; it waits for the child to send its listener. `root` is where changes to
    /// the root will be found.
    ///
    /// # Errors
    /// [`Error::Setup`] with [`Step::Emulation`].
    pub(crate) fn start(
        emulation: &Emulation,
        user: &spec::Credentials,
        root: &spec::Root,
        processes: Processes,
    ) -> Result<Self, Error> {
        let at = |action: &'static str| move |errno: Errno| Step::Emulation { action }.error(errno);
        let proc = proc_of(processes).map_err(at("mount /proc"))?;
        let upper = match root {
            spec::Root::Overlay { upper, .. } => {
                Some(open_directory(upper).map_err(at("open the upper directory"))?)
            }
            spec::Root::Plain(_) => None,
        };
        let (ours, theirs) = passing::pair().map_err(at("create a socket"))?;
        let mut table = Table::default();
        let number = table
            .number(Credentials::new(user))
            .map_err(at("note the user"))?;
        let book = Book::new(emulation.clone(), proc, upper);
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || supervise(&ours, proc, table, book, processes))
            .map_err(|error| {
                Step::Emulation {
                    action: "start a thread",
                }
                .error(error)
            })?;
        Ok(Self {
            channel: Some(theirs),
            thread: Some(thread),
            number,
            copy_up: !emulation.inodes.is_empty(),
        })
    }

    /// What the child needs; `None` after [`Self::close_channel`].
    pub(crate) fn for_child(&self) -> Option<Supervisor<'_>> {
        let channel = self.channel.as_ref()?.as_fd();
        Some(Supervisor {
            channel,
            number: self.number,
            copy_up: self.copy_up,
        })
    }

    /// Without this end the supervisor would wait for ever for a child that failed before it had a
    /// listener.
    pub(crate) fn close_channel(&mut self) {
        self.channel = None;
    }

    /// Waits for the thread, which ends when all processes of the step have.
    pub(crate) fn finish(mut self) -> Vec<InodeOwner> {
        self.channel = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(owners)) => owners,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Vec::new(),
        }
    }
}

/// A /proc of this process's pid namespace, which also numbers the processes of steps. A new one is
/// not attached anywhere.
fn proc_of(processes: Processes) -> Result<BorrowedFd<'static>, Errno> {
    static PROC: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(proc) = PROC.get() {
        return Ok(proc.as_fd());
    }
    let proc = match processes {
        Processes::Own => new_proc()?,
        Processes::Host => open_directory(Path::new("/proc"))?,
    };
    Ok(PROC.get_or_init(|| proc).as_fd())
}

fn new_proc() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

fn supervise(
    channel: &OwnedFd,
    proc: BorrowedFd<'static>,
    table: Table,
    book: Book,
    processes: Processes,
) -> Vec<InodeOwner> {
    // Own root, working directory and umask, which all threads share otherwise.
    if sys::unshare(libc::CLONE_FS).is_err() {
        return Vec::new();
    }
    // Without a listener there is no step.
    let Some(listener) = passing::receive(channel) else {
        return Vec::new();
    };
    let mut session = Session::new(listener, proc, table, book, processes);
    let blocks_safely = notify::wake_synchronously(session.listener());
    loop {
        if !blocks_safely && !wait(session.listener()) {
            break;
        }
        let notification = match notify::receive(session.listener()) {
            Ok(notification) => notification,
            Err(Errno::NOENT | Errno::INTR) => {
                // The caller died, or all of them.
                if is_over(session.listener()) {
                    break;
                }
                continue;
            }
            // No listener any more: the kernel answers ENOSYS in our place.
            Err(_) => break,
        };
        let answer = session.answer(&notification);
        let result = match answer {
            Answer::Reply(reply) => notify::reply(session.listener(), notification.id, reply),
            Answer::Descriptor { fd, close_on_exec } => notify::reply_descriptor(
                session.listener(),
                notification.id,
                fd.as_fd(),
                close_on_exec,
            )
            .or_else(|errno| {
                let reply = notify::Reply::Error(errno);
                notify::reply(session.listener(), notification.id, reply)
            }),
        };
        // A caller that was killed meanwhile needs no answer.
        let _ = result;
    }
    session.into_owners()
}

/// Waits for a notification; false when there can be no more.
fn wait(listener: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
    match poll(&mut fds, None) {
        Ok(_) => fds.iter().all(|fd| fd.revents().contains(PollFlags::IN)),
        Err(errno) => errno == Errno::INTR,
    }
}

/// Whether no process with the filter is left.
fn is_over(listener: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
}
