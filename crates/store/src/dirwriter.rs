//! Writes the entries of one layer into a directory in the form overlayfs takes as a lower:
//! whiteouts are character devices 0:0, opaque directories carry `user.overlay.opaque`
//! (kernel 5.11 `userxattr`).
//!
//! Nothing an entry says leads out of the directory: every parent is opened with `openat2`
//! `BENEATH | NO_SYMLINKS`. A parent that an earlier entry made something other than a directory
//! is replaced by one, as [`crate::tree::Index`] sees it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::owner::Owners;
use crate::tree::{Entry, Kind};

const OPAQUE: &str = "user.overlay.opaque";
const WHITEOUT: &str = "user.overlay.whiteout";
/// `open` flags of a directory that is only passed through.
const PARENT: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// The bytes of a regular file.
enum Bytes<'a> {
    Stream(&'a mut dyn Read),
    File(&'a File),
}

impl Bytes<'_> {
    fn write_to(self, file: &mut File, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Stream(reader) => copy(reader, file, buffer),
            // Refused by most file systems, and between two of them.
            Self::File(source) => match rustix::fs::ioctl_ficlone(&*file, source) {
                Ok(()) => Ok(()),
                Err(_) => io::copy(&mut &*source, file).map(drop),
            },
        }
    }
}

/// Bytes copied at once; `io::copy` would take 8 KiB.
const BUFFER: usize = 128 << 10;

/// See the module text. Call [`DirWriter::finish`]; without it directory times are not set.
#[derive(Debug)]
pub struct DirWriter {
    root: OwnedFd,
    owners: Owners,
    /// The parent opened last: entries mostly come directory by directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directory times, set at the end because every write into one changes them.
    directory_times: BTreeMap<Vec<u8>, i64>,
    skipped: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl DirWriter {
    #[must_use]
    pub fn new(root: OwnedFd, owners: Owners) -> Self {
        Self {
            root,
            owners,
            parent: None,
            directory_times: BTreeMap::new(),
            skipped: Vec::new(),
            buffer: vec![0; BUFFER],
        }
    }

    /// Writes one entry, replacing what an earlier entry of the same name made; two directories
    /// merge. `content` is read for regular files only, to its end.
    ///
    /// # Errors
    /// [`Error::Io`] with the entry's path; [`Error::Entry`] for a path that is not clean.
    pub fn write(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        self.write_checked(entry, Bytes::Stream(content))
    }

    /// Like [`DirWriter::write`], with the bytes of a whole file: shared with it (`FICLONE`) where
    /// the file system can, else copied by the kernel.
    ///
    /// # Errors
    /// As [`DirWriter::write`].
    pub fn write_copy(&mut self, entry: &Entry, source: &File) -> Result<()> {
        self.write_checked(entry, Bytes::File(source))
    }

    /// Removes what is at `path`, with everything below it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&mut self, path: &[u8]) -> Result<()> {
        // It may be, or be in, what goes.
        self.parent = None;
        let (parent, name) = split(path);
        let removed = match open_parent(&self.root, parent) {
            Ok(parent) => remove(&parent, name),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(e) => Err(e.into()),
        };
        removed.map_err(|source| Error::Io {
            action: "remove",
            path: lossy(path).into(),
            source,
        })
    }

    /// Sets the time that [`DirWriter::finish`] will give to the directory at `path`.
    pub fn set_directory_time(&mut self, path: &[u8], mtime: i64) {
        self.directory_times.insert(path.to_vec(), mtime);
    }

    fn write_checked(&mut self, entry: &Entry, content: Bytes<'_>) -> Result<()> {
        let path = &entry.path;
        if !is_clean(path) {
            return Err(Error::Entry {
                path: lossy(path),
                reason: "not a clean relative path",
            });
        }
        self.write_entry(entry, content)
            .map_err(|source| Error::Io {
                action: "write layer entry",
                path: lossy(path).into(),
                source,
            })
    }

    /// Makes `entry`, a regular file, a further name of the file at `source_path` below `source`,
    /// metadata included.
    ///
    /// # Errors
    /// [`Error::Io`], with `EMLINK` when the file has too many names, `EXDEV` when it is on
    /// another file system.
    pub fn link_from(&mut self, entry: &Entry, source: &OwnedFd, source_path: &[u8]) -> Result<()> {
        let (parent_path, name) = split(&entry.path);
        let result = self
            .open_parent_of(parent_path)
            .and_then(|()| match &self.parent {
                Some((_, parent)) => link(source, source_path, parent, name),
                None => Err(io::Error::other("no parent")),
            });
        result.map_err(Error::io("link layer entry", lossy(&entry.path)))
    }

    /// Device nodes that this process may not make (rule L17), in order.
    #[must_use]
    pub fn skipped(&self) -> &[Vec<u8>] {
        &self.skipped
    }

    /// Sets the times of directories.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        for (path, mtime) in &self.directory_times {
            // A later entry may have replaced the directory.
            match open_parent(&self.root, path) {
                Ok(fd) => rustix::fs::futimens(&fd, &times(*mtime))
                    .map_err(Error::io("set the time of", lossy(path)))?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(Error::io("open", lossy(path))(e)),
            }
        }
        Ok(())
    }

    fn write_entry(&mut self, entry: &Entry, content: Bytes<'_>) -> io::Result<()> {
        let (parent_path, name) = split(&entry.path);
        self.open_parent_of(parent_path)?;
        let Some((_, parent)) = &self.parent else {
            return Err(io::Error::other("no parent"));
        };
        match &entry.kind {
            Kind::Directory { opaque } => {
                let is_new = make_directory(parent, name)?;
                if *opaque {
                    let fd = rustix::fs::openat(parent, name, PARENT, Mode::empty())?;
                    rustix::fs::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty())?;
                }
                self.directory_times.insert(entry.path.clone(), entry.mtime);
                let owner = (entry.uid, entry.gid);
                self.owners.set(parent, name, owner, is_new)?;
                set_xattrs(parent, name, &entry.xattrs)?;
                return Ok(rustix::fs::chmodat(
                    parent,
                    name,
                    Mode::from_raw_mode(entry.mode),
                    AtFlags::empty(),
                )?);
            }
            Kind::File { .. } => return self.write_file(entry, name, content),
            Kind::HardLink { target } => {
                return link(&self.root, target, parent, name);
            }
            _ => {}
        }
        remove(parent, name)?;
        match &entry.kind {
            Kind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), parent, name)?,
            Kind::Whiteout => return make_whiteout(parent, name),
            Kind::Fifo => make_node(parent, name, FileType::Fifo, 0)?,
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                let kind = match entry.kind {
                    Kind::CharDevice { .. } => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                match make_node(parent, name, kind, rustix::fs::makedev(*major, *minor)) {
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                        self.skipped.push(entry.path.clone());
                        return Ok(());
                    }
                    other => other?,
                }
            }
            Kind::Directory { .. } | Kind::File { .. } | Kind::HardLink { .. } => {}
        }
        self.owners
            .set(parent, name, (entry.uid, entry.gid), true)?;
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            rustix::fs::chmodat(
                parent,
                name,
                Mode::from_raw_mode(entry.mode),
                AtFlags::empty(),
            )?;
        }
        Ok(rustix::fs::utimensat(
            parent,
            name,
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    fn write_file(&mut self, entry: &Entry, name: &[u8], content: Bytes<'_>) -> io::Result<()> {
        let Some((_, parent)) = &self.parent else {
            return Err(io::Error::other("no parent"));
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let fd = match rustix::fs::openat(parent, name, flags, mode) {
            Err(Errno::EXIST) => {
                remove(parent, name)?;
                rustix::fs::openat(parent, name, flags, mode)?
            }
            other => other?,
        };
        let mut file = File::from(fd);
        content.write_to(&mut file, &mut self.buffer)?;
        self.owners
            .set(parent, name, (entry.uid, entry.gid), true)?;
        for (key, value) in &entry.xattrs {
            set_xattr(&file, key, value)?;
        }
        // After chown, which clears setuid and setgid; also undoes the process's umask.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        Ok(rustix::fs::futimens(&file, &times(entry.mtime))?)
    }

    /// Leaves the directory `path` open in `self.parent`, made (0755) where it is missing.
    fn open_parent_of(&mut self, path: &[u8]) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(open, _)| open == path) {
            return Ok(());
        }
        let fd = match open_parent(&self.root, path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.make_parents(path)?,
            Err(e) => return Err(e.into()),
        };
        self.parent = Some((path.to_vec(), fd));
        Ok(())
    }

    fn make_parents(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut directory = open_parent(&self.root, b"")?;
        let mut at = 0;
        for name in path.split(|b| *b == b'/') {
            at += name.len() + usize::from(at > 0);
            if make_directory(&directory, name)? {
                // Implied parents are 0755 root with no time of their own (rule D05).
                self.directory_times.insert(path[..at].to_vec(), 0);
            }
            directory = rustix::fs::openat(&directory, name, PARENT, Mode::empty())?;
        }
        Ok(directory)
    }
}

fn copy(from: &mut dyn Read, to: &mut File, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => io::Write::write_all(to, &buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// A device 0:0 or, where the file system makes none (overlayfs itself, below a store in the root of
/// a container), the form of whiteouts that needs none (Linux 6.7, `overlay.whiteout`).
fn make_whiteout(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let kind = FileType::CharacterDevice;
    match rustix::fs::mknodat(parent, name, kind, Mode::empty(), 0) {
        Err(Errno::PERM) => {}
        other => return Ok(other?),
    }
    let mut value = [0_u8; 8];
    match rustix::fs::fgetxattr(parent, OPAQUE, &mut value) {
        // Nothing below it can be seen anyway.
        Ok(1) if value.first() == Some(&b'y') => return Ok(()),
        _ => rustix::fs::fsetxattr(parent, OPAQUE, b"x", XattrFlags::empty())?,
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(rustix::fs::fsetxattr(
        &file,
        WHITEOUT,
        b"y",
        XattrFlags::empty(),
    )?)
}

/// Opens a directory below `root`; `""` is the root itself.
fn open_parent(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, PARENT, Mode::empty(), resolve)
}

/// True when it was not there; anything else of that name is removed first.
fn make_directory(parent: impl AsFd, name: &[u8]) -> io::Result<bool> {
    let parent = parent.as_fd();
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Ok(false);
            }
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            Ok(true)
        }
        other => {
            other?;
            Ok(true)
        }
    }
}

fn make_node(parent: impl AsFd, name: &[u8], kind: FileType, device: u64) -> io::Result<()> {
    Ok(rustix::fs::mknodat(
        parent,
        name,
        kind,
        Mode::from_raw_mode(0o600),
        device,
    )?)
}

fn link(root: &OwnedFd, target: &[u8], parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let (directory, target_name) = split(target);
    let directory = open_parent(root, directory)?;
    let before = rustix::fs::statat(&directory, target_name, AtFlags::SYMLINK_NOFOLLOW)?;
    if let Ok(there) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        if (there.st_dev, there.st_ino) == (before.st_dev, before.st_ino) {
            return Ok(());
        }
        remove(parent, name)?;
    }
    Ok(rustix::fs::linkat(
        &directory,
        target_name,
        parent,
        name,
        AtFlags::empty(),
    )?)
}

/// Removes whatever has this name, a directory with all that is in it.
fn remove(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let parent = parent.as_fd();
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let fd = rustix::fs::openat(parent, name, PARENT, Mode::empty())?;
    let names: Vec<Vec<u8>> = rustix::fs::Dir::read_from(&fd)?
        .map(|e| e.map(|e| e.file_name().to_bytes().to_vec()))
        .collect::<Result<_, _>>()?;
    for child in names
        .iter()
        .filter(|n| !matches!(n.as_slice(), b"." | b".."))
    {
        remove(&fd, child)?;
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn set_xattrs(parent: &OwnedFd, name: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let fd = rustix::fs::openat(parent, name, PARENT, Mode::empty())?;
    xattrs
        .iter()
        .try_for_each(|(key, value)| set_xattr(&fd, key, value))
}

/// File systems and namespaces refuse some names; an archive's attribute is then left out
/// (rule D04). `overlay` and `layercake` names are ours.
fn set_xattr(fd: impl AsFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let ours = [b"user.overlay.".as_slice(), b"user.layercake.", b"trusted."];
    if ours.into_iter().any(|prefix| key.starts_with(prefix)) {
        return Ok(());
    }
    match rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()) {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::ACCESS) => Ok(()),
        other => Ok(other?),
    }
}

pub(crate) fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Parent path and last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn is_clean(path: &[u8]) -> bool {
    !path.is_empty()
        && !path.contains(&0)
        && path
            .split(|b| *b == b'/')
            .all(|c| !matches!(c, b"" | b"." | b".."))
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Opens an existing directory to write a layer into.
///
/// # Errors
/// [`Error::Io`].
pub fn open_directory(path: &std::path::Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, PARENT, Mode::empty()).map_err(Error::io("open", path))
}
