//! Who owns a file of a layer directory: the one place that knows how owners are kept on disk.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Stat, Uid};

/// How owners are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// In the inode: this process may give files away (root, or root of a user namespace with a
    /// range of ids).
    Inode,
}

impl Owners {
    /// Owner and group as the image has them.
    #[must_use]
    pub fn of(self, stat: &Stat) -> (u32, u32) {
        match self {
            Self::Inode => (stat.st_uid, stat.st_gid),
        }
    }

    /// Gives `name` in `directory` (not followed when it is a symlink) to `uid:gid`. Also when that
    /// is 0:0: a file made in a setgid directory has the directory's group.
    pub(crate) fn set(
        self,
        directory: impl AsFd,
        name: &[u8],
        uid: u32,
        gid: u32,
    ) -> io::Result<()> {
        match self {
            Self::Inode => Ok(rustix::fs::chownat(
                directory,
                name,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?),
        }
    }
}
