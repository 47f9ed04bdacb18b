//! One notification: who asks, what for, and the answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, Statx};
use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;

use super::book::{Book, look};
use super::calls::{Call, call};
use super::credentials::{Credentials, Table};
use super::place::{self, PATH_MAX, Place};
use super::{InodeOwner, LIMIT};
use crate::caps;
use crate::spec::Processes;
use crate::sys::notify::{Notification, Reply};
use crate::sys::{self, notify};

/// How a notified call ends.
#[derive(Debug)]
pub(super) enum Answer {
    Reply(Reply),
    /// With a copy of this descriptor as its result.
    Descriptor {
        fd: OwnedFd,
        close_on_exec: bool,
    },
}

/// Left to the kernel.
pub(super) const CONTINUE: Answer = Answer::Reply(Reply::Continue);

impl Answer {
    pub(super) fn value(value: impl Into<i64>) -> Self {
        Self::Reply(Reply::Value(value.into()))
    }

    pub(super) fn done(result: Result<(), Errno>) -> Self {
        match result {
            Ok(()) => Self::value(0),
            Err(errno) => Self::Reply(Reply::Error(errno)),
        }
    }
}

/// The supervisor's state over one step.
#[derive(Debug)]
pub(super) struct Session {
    listener: OwnedFd,
    /// A /proc with the numbers that notifications name.
    pub(super) proc: BorrowedFd<'static>,
    pub(super) table: Table,
    pub(super) book: Book,
    /// The step sees this process in its /proc.
    pub(super) shares_processes: bool,
    /// Whether this thread is in the mount namespace of the step.
    is_inside: bool,
    /// A process of the step has called `chroot`, so roots may differ from process to process.
    roots_differ: bool,
    /// The root of this thread, as [`Session::follow_root`] knows it.
    root: Option<(u64, u64)>,
}

impl Session {
    pub(super) fn new(
        listener: OwnedFd,
        proc: BorrowedFd<'static>,
        table: Table,
        book: Book,
        processes: Processes,
    ) -> Self {
        Self {
            listener,
            proc,
            table,
            book,
            shares_processes: processes == Processes::Host,
            is_inside: false,
            roots_differ: false,
            root: None,
        }
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(super) fn into_owners(self) -> Vec<InodeOwner> {
        self.book.into_kept()
    }

    pub(super) fn answer(&mut self, n: &Notification) -> Answer {
        if !self.is_inside && self.enter(n).is_err() {
            return Answer::Reply(Reply::Error(Errno::NOSYS));
        }
        if self.roots_differ && self.follow_root(n).is_err() {
            return CONTINUE;
        }
        let Some(call) = call(n.number) else {
            return CONTINUE;
        };
        match call {
            Call::Stat | Call::Lstat | Call::Fstat | Call::Newfstatat | Call::Statx => {
                self.stat(n, call)
            }
            Call::Chown | Call::Lchown | Call::Fchown | Call::Fchownat => {
                Answer::done(self.chown(n, call))
            }
            Call::Open
            | Call::Creat
            | Call::Openat
            | Call::Openat2
            | Call::Mkdir
            | Call::Mkdirat
            | Call::Symlink
            | Call::Symlinkat
            | Call::Mknod
            | Call::Mknodat => self.create(n, call),
            Call::Setxattr
            | Call::Lsetxattr
            | Call::Fsetxattr
            | Call::Removexattr
            | Call::Lremovexattr
            | Call::Fremovexattr => self.attribute(n, call),
            Call::Execve | Call::Execveat => self.execute(n, call),
            Call::Chroot => self.chroot(n),
            Call::Rename | Call::Renameat | Call::Link | Call::Linkat | Call::Utimensat => {
                self.copy_up(n, call)
            }
            _ => self.identity(n, call),
        }
    }

    /// Goes to where the step is: the first caller has its mount namespace, and no process of the
    /// step can get another.
    fn enter(&mut self, n: &Notification) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = format!("{}/ns/mnt", n.thread);
        let namespace = rustix::fs::openat(self.proc, path, flags, Mode::empty())?;
        self.check(n)?;
        rustix::thread::move_into_link_name_space(
            namespace.as_fd(),
            Some(LinkNameSpaceType::Mount),
        )?;
        self.book.enter();
        self.is_inside = true;
        Ok(())
    }

    /// Goes to the /proc/PID of the caller. What is opened in it is this caller's or nothing, also
    /// when the caller dies and its number is given to another.
    pub(super) fn stand_with(&self, n: &Notification) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(self.proc, n.thread.to_string(), flags, Mode::empty())?;
        self.check(n)?;
        rustix::process::fchdir(directory)
    }

    /// Takes on the root of the caller.
    fn follow_root(&mut self, n: &Notification) -> Result<(), Errno> {
        self.stand_with(n)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, c"root", flags, Mode::empty())?;
        let statx = rustix::fs::statx(
            &root,
            c"",
            rustix::fs::AtFlags::EMPTY_PATH,
            rustix::fs::StatxFlags::INO | rustix::fs::StatxFlags::MNT_ID,
        )?;
        let identity = (statx.stx_mnt_id, statx.stx_ino);
        if self.root == Some(identity) {
            return Ok(());
        }
        self.root = None;
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(c".")?;
        self.root = Some(identity);
        Ok(())
    }

    fn chroot(&mut self, n: &Notification) -> Answer {
        if !self.credentials(n).can(caps::SYS_CHROOT) {
            return Answer::done(Err(Errno::PERM));
        }
        self.roots_differ = true;
        CONTINUE
    }

    /// Who the caller believes to be.
    pub(super) fn credentials(&self, n: &Notification) -> Credentials {
        let number = notify::limit_of(n.thread, LIMIT).map_or(u64::MAX, |(soft, _)| soft);
        match self.table.get(number) {
            Some(credentials) => credentials.clone(),
            // The table never is empty.
            None => Credentials::new(&crate::spec::Credentials::default()),
        }
    }

    /// Makes the caller believe to be somebody else.
    pub(super) fn set_credentials(
        &mut self,
        n: &Notification,
        credentials: Credentials,
    ) -> Result<(), Errno> {
        let number = self.table.number(credentials)?;
        let (soft, hard) = notify::limit_of(n.thread, LIMIT)?;
        if soft == number {
            return Ok(());
        }
        self.check(n)?;
        sys::set_rlimit(n.thread, LIMIT, number, hard)
    }

    /// Fails when the caller is gone, whose number could mean another thread by now.
    fn check(&self, n: &Notification) -> Result<(), Errno> {
        if notify::is_waiting(self.listener(), n.id) {
            Ok(())
        } else {
            Err(Errno::SRCH)
        }
    }

    /// Fills memory of the caller.
    ///
    /// By a descriptor, which stays that of the caller when its number is given to another.
    pub(super) fn write(&self, n: &Notification, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let path = format!("{}/mem", n.thread);
        let memory = rustix::fs::openat(self.proc, path, flags, Mode::empty())?;
        self.check(n)?;
        match rustix::io::pwrite(memory, bytes, address) {
            Ok(length) if length == bytes.len() => Ok(()),
            Ok(_) | Err(Errno::IO) => Err(Errno::FAULT),
            Err(errno) => Err(errno),
        }
    }

    /// Memory of the caller.
    pub(super) fn read(
        &self,
        n: &Notification,
        address: u64,
        size: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; size];
        match notify::read_memory(n.thread, address, &mut bytes) {
            Ok(length) if length == size => Ok(bytes),
            Ok(_) => Err(Errno::FAULT),
            Err(errno) => Err(errno),
        }
    }

    /// A string of the caller, without the null byte.
    pub(super) fn read_string(&self, n: &Notification, address: u64) -> Result<Vec<u8>, Errno> {
        /// Most paths are shorter.
        const FIRST: usize = 256;
        const PAGE: u64 = 4096;
        let mut text = Vec::with_capacity(FIRST);
        while text.len() < PATH_MAX {
            let at = address.wrapping_add(text.len() as u64);
            // Never over the end of a page, behind which nothing may be.
            let rest = (PAGE - at % PAGE) as usize;
            let mut chunk = [0_u8; PAGE as usize];
            let wanted = rest.min(if text.is_empty() { FIRST } else { PATH_MAX });
            let chunk = chunk.get_mut(..wanted).ok_or(Errno::FAULT)?;
            let length = notify::read_memory(n.thread, at, chunk)?;
            let chunk = chunk.get(..length).unwrap_or_default();
            match chunk.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend_from_slice(chunk.get(..end).unwrap_or_default());
                    return Ok(text);
                }
                None if chunk.is_empty() => return Err(Errno::FAULT),
                None => text.extend_from_slice(chunk),
            }
        }
        Err(Errno::NAMETOOLONG)
    }

    /// What a call with a directory and a path means. `empty_is_open`: the flag `AT_EMPTY_PATH`.
    pub(super) fn place(
        &self,
        n: &Notification,
        directory: u64,
        path: u64,
        empty_is_open: bool,
    ) -> Result<Place, Errno> {
        if empty_is_open && path == 0 {
            return self.descriptor(n, directory);
        }
        let text = self.read_string(n, path)?;
        if text.is_empty() && empty_is_open {
            return self.descriptor(n, directory);
        }
        let place = place::path(directory, &text)?;
        if place::is_relative(&place) {
            self.stand_with(n)?;
        }
        Ok(place)
    }

    /// What a descriptor of the caller is open on.
    pub(super) fn descriptor(&self, n: &Notification, fd: u64) -> Result<Place, Errno> {
        self.stand_with(n)?;
        Ok(place::descriptor(fd))
    }

    /// `statx` of a place.
    pub(super) fn look(&self, place: &Place, follow: bool) -> Result<Statx, Errno> {
        look(&place.path, follow || place.is_open)
    }
}
