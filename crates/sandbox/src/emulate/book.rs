//! The book of owners: attributes of files, and a table for files that take none.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Statx, StatxFlags, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::place::Place;
use super::{Emulation, InodeOwner, Owner};

/// Longer values are not ours.
const VALUE_MAX: usize = 64;

/// A step cannot note owners of more files that take no attribute.
const FILES_MAX: usize = 1 << 21;

/// A file that takes no attribute, as the step sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Seen {
    device: (u32, u32),
    inode: u64,
    born: (i64, u32),
}

impl Seen {
    fn new(statx: &Statx) -> Self {
        Self {
            device: (statx.stx_dev_major, statx.stx_dev_minor),
            inode: statx.stx_ino,
            born: (statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec),
        }
    }
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Book {
    emulation: Emulation,
    /// A /proc in which this process has a number.
    proc: BorrowedFd<'static>,
    /// The upper directory of the root; `None` when the root is changed in place.
    upper: Option<OwnedFd>,
    /// The device of the root, where numbers of lower inodes count.
    root: Option<(u32, u32)>,
    /// Files of this step.
    seen: HashMap<Seen, Owner>,
    /// The same, as they lie in the upper directory.
    kept: HashMap<u64, InodeOwner>,
}

impl Book {
    pub(super) fn new(
        emulation: Emulation,
        proc: BorrowedFd<'static>,
        upper: Option<OwnedFd>,
    ) -> Self {
        Self {
            emulation,
            proc,
            upper,
            root: None,
            seen: HashMap::new(),
            kept: HashMap::new(),
        }
    }

    /// To be called once names are resolved from the root of the step.
    pub(super) fn enter(&mut self) {
        let root = look(c"/", true).ok();
        self.root = root.map(|statx| (statx.stx_dev_major, statx.stx_dev_minor));
    }

    pub(super) fn into_kept(self) -> Vec<InodeOwner> {
        self.kept.into_values().collect()
    }

    /// The owner of a file when it is another than the kernel would say.
    ///
    /// # Errors
    /// Those of the way to the file.
    pub(super) fn find(&self, path: &CStr, follow: bool) -> Result<Option<Owner>, Errno> {
        let mut value = [0_u8; VALUE_MAX];
        let attribute = self.emulation.attribute;
        let read = if follow {
            rustix::fs::getxattr(path, attribute, &mut value)
        } else {
            rustix::fs::lgetxattr(path, attribute, &mut value)
        };
        match read {
            Ok(length) => Ok(value.get(..length).and_then(self.emulation.decode)),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {
                Ok(self.find_inode(path, follow))
            }
            // A longer value is not ours.
            Err(Errno::RANGE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn find_inode(&self, path: &CStr, follow: bool) -> Option<Owner> {
        if self.seen.is_empty() && self.emulation.inodes.is_empty() {
            return None;
        }
        let seen = Seen::new(&look(path, follow).ok()?);
        if let Some(owner) = self.seen.get(&seen) {
            return Some(*owner);
        }
        let known = self.emulation.inodes.get(&seen.inode)?;
        // Elsewhere than in the root (a socket mounted into it) the birth time, which nobody can
        // choose, tells files of one number apart.
        let comparable = Some(seen.device) == self.root || known.born != (0, 0);
        (comparable && known.born == seen.born).then_some(known.owner)
    }

    /// The owner of a file, root if nothing is known.
    pub(super) fn owner(&self, path: &CStr, follow: bool) -> Owner {
        self.find(path, follow).ok().flatten().unwrap_or((0, 0))
    }

    /// What `chown` does: with the kernel for the copy into the upper directory, the change time
    /// and the set-id bits, and with the book for the owner.
    pub(super) fn give(&mut self, place: &Place, follow: bool, owner: Owner) -> Result<(), Errno> {
        let flags = if follow {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        let path = place.path.as_c_str();
        rustix::fs::chownat(CWD, path, Some(Uid::ROOT), Some(Gid::ROOT), flags)?;
        self.record(path, follow, owner)
    }

    /// Copies a file that takes no attribute up if it has an owner in a lower directory.
    pub(super) fn keep(&mut self, place: &Place, follow: bool) -> Result<(), Errno> {
        let kind = FileType::from_raw_mode(look(&place.path, follow)?.stx_mode.into());
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(());
        }
        match self.find_inode(&place.path, follow) {
            Some(owner) => self.give(place, follow, owner),
            None => Ok(()),
        }
    }

    /// Notes the owner of a file that exists.
    pub(super) fn record(&mut self, path: &CStr, follow: bool, owner: Owner) -> Result<(), Errno> {
        let attribute = self.emulation.attribute;
        let result = if owner == (0, 0) {
            let removed = if follow {
                rustix::fs::removexattr(path, attribute)
            } else {
                rustix::fs::lremovexattr(path, attribute)
            };
            match removed {
                Err(Errno::NODATA) => Ok(()),
                other => other,
            }
        } else {
            let value = (self.emulation.encode)(owner);
            if follow {
                rustix::fs::setxattr(path, attribute, &value, XattrFlags::empty())
            } else {
                rustix::fs::lsetxattr(path, attribute, &value, XattrFlags::empty())
            }
        };
        match result {
            Err(Errno::PERM | Errno::OPNOTSUPP) => self.record_inode(path, follow, owner),
            other => other,
        }
    }

    /// Notes the owner of an open file.
    pub(super) fn record_open(&mut self, fd: impl AsFd, owner: Owner) -> Result<(), Errno> {
        let value = (self.emulation.encode)(owner);
        let attribute = self.emulation.attribute;
        match rustix::fs::fsetxattr(fd, attribute, &value, XattrFlags::empty()) {
            // A file system without attributes, whose files live no longer than the step.
            Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    fn record_inode(&mut self, path: &CStr, follow: bool, owner: Owner) -> Result<(), Errno> {
        let seen = Seen::new(&look(path, follow)?);
        if owner == (0, 0) && !self.seen.contains_key(&seen) && self.emulation.inodes.is_empty() {
            return Ok(());
        }
        if self.seen.len() >= FILES_MAX {
            return Err(Errno::NOSPC);
        }
        self.seen.insert(seen, owner);
        if Some(seen.device) == self.root
            && let Some((inode, born)) = self.in_upper(path, follow)
        {
            let kept = InodeOwner { inode, born, owner };
            self.kept.insert(inode, kept);
            // A further name of the file is shown with its number in the upper directory.
            self.seen.insert(
                Seen {
                    inode,
                    born,
                    ..seen
                },
                owner,
            );
        }
        Ok(())
    }

    /// Number and birth time of the file in the upper directory: overlayfs shows the number that
    /// a file had below it before it was copied up.
    fn in_upper(&self, path: &CStr, follow: bool) -> Option<(u64, (i64, u32))> {
        let flags = if follow {
            OFlags::PATH | OFlags::CLOEXEC
        } else {
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
        };
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
        let Some(upper) = &self.upper else {
            let seen = Seen::new(&look_at(&fd).ok()?);
            return Some((seen.inode, seen.born));
        };
        let link = format!("self/fd/{}", fd.as_raw_fd());
        let name = rustix::fs::readlinkat(self.proc, link, Vec::new()).ok()?;
        let name = Path::new(std::ffi::OsStr::new(name.to_str().ok()?));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let name = name.strip_prefix("/").ok()?;
        let file = rustix::fs::openat2(upper, name, flags, Mode::empty(), resolve).ok()?;
        let found = look_at(&file).ok()?;
        let same_kind = |mode: u16| FileType::from_raw_mode(mode.into());
        let shown = look_at(&fd).ok()?;
        (same_kind(found.stx_mode) == same_kind(shown.stx_mode)).then(|| {
            let seen = Seen::new(&found);
            (seen.inode, seen.born)
        })
    }
}

/// `statx` of what the book needs.
pub(super) fn look(path: &CStr, follow: bool) -> Result<Statx, Errno> {
    let flags = if follow {
        AtFlags::empty()
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    };
    rustix::fs::statx(
        CWD,
        path,
        flags,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    )
}

fn look_at(fd: impl AsFd) -> Result<Statx, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, mask)
}
