//! The directory itself, by file descriptors: no path is looked up from the host's root again, and
//! none leads through a symlink (`openat2`, Linux 5.6).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::statcache::Identity;
use crate::engine::copy::{LinkId, Node, NodeKind};

const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK);

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

    /// A directory to be listed.
    pub(super) fn open_directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        Ok(self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    /// The regular file at `path`; never blocks on what may be there instead.
    pub(super) fn open_file(&self, path: &[u8]) -> io::Result<File> {
        Ok(self.open_at(path, FILE)?.into())
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

/// What has this name; `ENOENT` when nothing has.
pub(super) fn describe(directory: &OwnedFd, name: &[u8]) -> Result<Found, Errno> {
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
    let node = Node {
        mode: if file_type == FileType::Symlink {
            0o777
        } else {
            stat.st_mode & 0o7777
        },
        uid: 0,
        gid: 0,
        mtime: None,
        // Not copied (rule O09), so nothing depends on them.
        xattrs: Vec::new(),
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

/// All names in a directory, sorted.
pub(super) fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort();
    Ok(names)
}

/// Like [`Disk::open_file`], for one name.
pub(super) fn open_file_in(directory: &OwnedFd, name: &[u8]) -> io::Result<File> {
    let flags = FILE | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?.into())
}

/// # Errors
/// That it is not a regular file.
pub(super) fn regular(file: &File) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("no longer a regular file"));
    }
    Ok(Identity::of(&stat))
}
