//! Owners and identities for steps of a user who has only one id.
//!
//! In a user namespace with a single id every process is root and every file belongs to root:
//! `chown` and `setuid` to anybody else fail, and with them `useradd`, package managers, `su`. Here
//! a *supervisor*, a thread of this process, answers those calls of the step in the kernel's place,
//! through a seccomp listener:
//!
//! * the owner that a file should have is kept in an extended attribute of the file, or, where the
//!   file takes none (symlinks, fifos), in a table by inode ([`book`]);
//! * who a process believes to be is a number in its soft limit `RLIMIT_LOCKS`, which nothing has
//!   used since Linux 2.4 and which the kernel passes on over fork and exec ([`credentials`]);
//! * `stat` shows the kept owner, `get*id` the believed identity; files made by a process that
//!   believes to be somebody else are made for it, with that owner.
//!
//! A call that the supervisor has no opinion about, and any that fails in its hands before it
//! changed something, is left to the kernel, which then gives the true answer or the true error.
//!
//! The supervisor has no rights that the step lacks: both are root of the same user namespace, and
//! it resolves names from the step's own root. A step that races with it or lies to it can only
//! make a wrong owner appear in its own layer, which it may also do by asking.

mod acl;
mod answer;
mod book;
mod calls;
mod create;
mod credentials;
mod files;
mod identity;
mod links;
mod pin;
mod place;
mod supervisor;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use calls::filter;
pub(crate) use supervisor::Emulator;

/// `RLIMIT_LOCKS`.
pub(crate) const LIMIT: u32 = 10;

/// User and group id as the image has them.
pub type Owner = (u32, u32);

/// How owners are kept with the files of the root.
#[derive(Debug, Clone)]
pub struct Emulation {
    /// The extended attribute (`user.*`) that holds the owner of a regular file or a directory;
    /// without it that is root.
    pub attribute: &'static str,
    pub encode: fn(Owner) -> Vec<u8>,
    pub decode: fn(&[u8]) -> Option<Owner>,
    /// Owners of files in the lower directories that take no attribute, by inode number: all
    /// directories of the root lie on one file system.
    pub inodes: Arc<HashMap<u64, InodeOwner>>,
}

/// The owner of a file on disk that takes no attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InodeOwner {
    pub inode: u64,
    /// Birth time in seconds and nanoseconds, zero where the file system has none: tells a later
    /// file with the same number apart.
    pub born: (i64, u32),
    pub owner: Owner,
}
