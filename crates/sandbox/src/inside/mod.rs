//! Entering the namespaces in which steps run and the store is written: process structure.
//!
//! See the crate documentation for the three processes. The order is given by the kernel:
//!
//! * the setuid helpers newuidmap and newgidmap must run outside the new user namespace, so A,
//!   which is outside, starts them for C;
//! * `unshare(CLONE_NEWUSER)` is for single-threaded processes, so C is a fresh exec;
//! * `unshare(CLONE_NEWPID)` takes effect for children, so C forks W;
//! * a change of credentials clears the parent death signal, so it is set again after it.

mod entry;
mod forward;
mod launcher;
mod wire;

use std::ffi::OsString;
use std::os::fd::OwnedFd;

pub use entry::enter;
pub use launcher::{Launcher, Running};

use crate::spec::Processes;

/// The first argument of a program that is to call [`enter`] and continue inside.
pub const ARGUMENT: &str = "__layercake-inside";

/// Stands for no [`Isolation`] in particular among the arguments of the program inside.
const AUTOMATIC: &str = "auto";

/// As many descriptors as one message passes (the kernel allows 253).
pub const FDS_MAX: usize = 64;

/// How steps are kept away from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// The ids of a user namespace, mapped to the user and to subordinate ids.
    UserNamespace,
    /// A user namespace with one id, the user's own: owners and identities other than root are
    /// emulated (see [`crate::emulate`]).
    SingleId,
    /// Real root (or root of an outer user namespace): the same ids as the caller.
    Root,
    /// Root that may neither mount nor make namespaces, as in a container with Docker's defaults:
    /// steps are run by [`crate::chroot`], in the caller's namespaces.
    Chroot,
}

impl Isolation {
    pub const ALL: [Self; 4] = [
        Self::UserNamespace,
        Self::SingleId,
        Self::Root,
        Self::Chroot,
    ];

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "userns",
            Self::SingleId => "single-id",
            Self::Root => "root",
            Self::Chroot => "chroot",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|each| each.name() == name)
    }
}

/// What the process inside knows about where it is.
#[derive(Debug)]
pub struct Inside {
    /// The arguments given to [`Launcher::new`].
    pub args: Vec<OsString>,
    /// The descriptors given to [`Launcher::fd`], in order.
    pub fds: Vec<OwnedFd>,
    pub isolation: Isolation,
    /// Whether there is a pid namespace; never with [`Isolation::Chroot`].
    pub processes: Processes,
    /// User ids 0 to this (exclusive) exist; at most 4294967295.
    pub uids: u32,
    /// Group ids 0 to this (exclusive) exist.
    pub gids: u32,
}
