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

    /// Gives `name` in `directory` (not followed when it is a symlink) to `uid:gid`. The file was
    /// made by this process, so 0:0 needs no call.
    pub(crate) fn set(
        self,
        directory: impl AsFd,
        name: &[u8],
        uid: u32,
        gid: u32,
    ) -> io::Result<()> {
        match self {
            Self::Inode if (uid, gid) == (0, 0) => Ok(()),
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
