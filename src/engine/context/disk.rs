//! The directory itself, by file descriptors: no path is looked up from the host's root again, and
//! none leads through a symlink (`openat2`, Linux 5.6).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::statcache::Identity;
use crate::engine::copy::{LinkId, Node, NodeKind, Xattrs};

/// As long as Linux lets a value, and all names together, be (xattr(7)).
const MAX_XATTR: usize = 64 << 10;
const CAPABILITY: &str = "security.capability";

#[derive(Debug)]
pub(super) struct Disk {
    root: Arc<OwnedFd>,
    identity: (u64, u64),
}

pub(super) struct Found {
    pub node: Node,
    pub seen: Option<Seen>,
}

/// What a [`Node`] that is a file does not tell.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen {
    File(Identity),
    /// It looks like an empty file, but it cannot be opened (rule C13).
    Socket,
}

pub(super) struct Child {
    pub name: Vec<u8>,
    pub node: Node,
    pub seen: Option<Seen>,
}

impl Disk {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&root)?;
        Ok(Self {
            root: Arc::new(root),
            identity: (stat.st_dev, stat.st_ino),
        })
    }

    pub(super) fn root(&self) -> Arc<OwnedFd> {
        self.root.clone()
    }

    /// Device and inode of the root.
    pub(super) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// `None` when nothing is there, also for paths through symlinks and other non-directories.
    pub(super) fn node(&self, path: &[u8]) -> io::Result<Option<Found>> {
        let (parent, name) = match path.iter().rposition(|c| *c == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let directory = match self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => other?,
        };
        let name = if name.is_empty() { b"." } else { name };
        match describe(&directory, name) {
            Err(Errno::NOENT) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// Names in a directory that `wanted` accepts, sorted. What vanishes meanwhile is left out.
    pub(super) fn list(
        &self,
        path: &[u8],
        wanted: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Vec<Child>> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && wanted(name) {
                names.push(name.to_vec());
            }
        }
        names.sort();
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            match describe(&directory, &name) {
                Ok(Found { node, seen }) => children.push(Child { name, node, seen }),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(children)
    }

    /// The regular file at `path`; never blocks on what may be there instead.
    pub(super) fn open_file(&self, path: &[u8]) -> io::Result<(File, Stat)> {
        let file = self.open_at(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("no longer a regular file"));
        }
        Ok((file.into(), stat))
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::CLOEXEC;
        loop {
            // EAGAIN: a rename somewhere raced with the look-up (openat2(2)).
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), confined) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }
}

fn describe(directory: &OwnedFd, name: &[u8]) -> Result<Found, Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    let kind = match file_type {
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
            NodeKind::Symlink {
                target: target.into_bytes(),
            }
        }
        FileType::CharacterDevice => NodeKind::CharDevice { major, minor },
        FileType::BlockDevice => NodeKind::BlockDevice { major, minor },
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::File { size: 0 },
        FileType::RegularFile | FileType::Unknown => NodeKind::File {
            size: u64::try_from(stat.st_size).unwrap_or(0),
        },
    };
    let linked = file_type == FileType::RegularFile && stat.st_nlink > 1;
    let xattrs = match kind {
        NodeKind::Directory => directory_xattrs(directory, name),
        _ => Vec::new(),
    };
    let node = Node {
        mode: if file_type == FileType::Symlink {
            0o777
        } else {
            stat.st_mode & 0o7777
        },
        uid: 0,
        gid: 0,
        mtime: None,
        xattrs,
        link: linked.then_some(LinkId::Inode {
            device: stat.st_dev,
            inode: stat.st_ino,
        }),
        kind,
    };
    Ok(Found {
        node,
        seen: match file_type {
            FileType::RegularFile => Some(Seen::File(Identity::of(&stat))),
            FileType::Socket => Some(Seen::Socket),
            _ => None,
        },
    })
}

/// None where they cannot be read, as for directories closed to us.
fn directory_xattrs(parent: &OwnedFd, name: &[u8]) -> Xattrs {
    // Named through /proc, so that no open is needed; almost no directory has any.
    let path = [
        format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(),
        name,
    ]
    .concat();
    let names = with_buffer(|buffer| rustix::fs::llistxattr(path.as_slice(), buffer));
    if names.is_ok_and(|names| names.is_empty()) {
        return Vec::new();
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
    opened
        .map(|directory| xattrs(std::os::fd::AsFd::as_fd(&directory)))
        .unwrap_or_default()
}

/// `user.*` and `security.capability`, sorted; what overlayfs keeps for itself left out.
pub(super) fn xattrs(file: BorrowedFd<'_>) -> Xattrs {
    let names = with_buffer(|buffer| rustix::fs::flistxattr(file, buffer));
    let mut found = Vec::new();
    for name in names.unwrap_or_default().split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let text = name.to_bytes();
        let ours = text.starts_with(b"user.") && !text.starts_with(b"user.overlay.");
        if !ours && text != CAPABILITY.as_bytes() {
            continue;
        }
        if let Ok(value) = with_buffer(|buffer| rustix::fs::fgetxattr(file, name, buffer)) {
            found.push((text.to_vec(), value));
        }
    }
    found.sort();
    found
}

/// A short buffer does almost always.
fn with_buffer(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut short = [0; 256];
    match call(&mut short) {
        Ok(length) => Ok(short[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut long = vec![0; MAX_XATTR];
            let length = call(&mut long)?;
            long.truncate(length);
            Ok(long)
        }
        Err(error) => Err(error),
    }
}
