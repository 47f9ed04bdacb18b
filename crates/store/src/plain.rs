//! Root file systems as plain directories, for where overlayfs is refused (nested overlays, odd
//! file systems, containers that may not mount).
//!
//! A plain root holds the merged tree of some layers. A step changes it in place; what it changed
//! is found by comparing the state of every file (inode, times, owner, mode, size) with that
//! before the step, so no file is read to find out. The change time, which no program can set,
//! makes that certain.
//!
//! The result is the layer that an overlay would give. For that no two names share an inode before
//! a step: overlayfs, too, separates the names of a file of a lower layer when one is written to.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Stat, Uid};
use walkdir::WalkDir;

use crate::content::{Content, Item, Reader};
use crate::dirwriter::{DirWriter, split};
use crate::error::{Error, Result};
use crate::owner::Owners;
use crate::scan::{StepClock, remove_socket, scan_where, whiteout};
use crate::tree::{Entry, Index, Kind, compare_paths};
use crate::view::{Found, View};

/// How long to wait for the clock of a file system to move on: several of its ticks.
const TICK_MAX: Duration = Duration::from_millis(100);

/// Opens the bytes of a regular file of a view.
pub type Open<'a> = &'a (dyn Fn(&Found<'_>) -> io::Result<Reader> + Sync);

/// So many threads write a whole tree at most: more would wait for the file system.
const WRITERS_MAX: usize = 8;
/// So many files a thread takes at once, mostly of one directory, which stays open meanwhile.
const FILES_AT_ONCE: usize = 64;

/// [`write_tree`] of all of `view` by several threads, each with a writer for the same directory.
///
/// # Errors
/// As [`write_tree`].
pub fn write_whole_tree(
    view: &View,
    writer: &(dyn Fn() -> Result<DirWriter> + Sync),
    open: Open<'_>,
) -> Result<()> {
    let mut directories = writer()?;
    let mut files = Vec::new();
    for visited in view.walk(b"") {
        if visited.found.is_directory() {
            write_one(view, &visited.found, visited.path, &mut directories, open)?;
        } else {
            files.push(visited);
        }
    }
    let parts = Mutex::new(files.chunks(FILES_AT_ONCE));
    let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
    let write_parts = || -> Result<()> {
        let mut writer = writer()?;
        while let Some(part) = next() {
            for visited in part {
                write_one(view, &visited.found, visited.path, &mut writer, open)?;
            }
        }
        writer.finish()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads
        .min(WRITERS_MAX)
        .min(files.len().div_ceil(FILES_AT_ONCE));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(write_parts)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    // Times last: every file written into a directory changes its own.
    directories.finish()
}

/// Writes the part of `view` at and below `below` (`""`: all of it) with `writer`, whose directory
/// stands for `below`. Files that the file system can share are shared (`FICLONE`), others copied.
///
/// # Errors
/// Those of `open` and of [`DirWriter`].
pub fn write_tree(view: &View, below: &[u8], writer: &mut DirWriter, open: Open<'_>) -> Result<()> {
    for visited in view.walk(below) {
        let rest = visited.path.get(below.len()..).unwrap_or_default();
        let path = rest.strip_prefix(b"/").unwrap_or(rest);
        if !path.is_empty() {
            write_one(view, &visited.found, path, writer, open)?;
        }
    }
    Ok(())
}

/// Brings a directory that holds the layers of `view` except the top one up to date.
///
/// # Errors
/// Those of `open` and of [`DirWriter`].
pub fn write_top_layer(view: &View, writer: &mut DirWriter, open: Open<'_>) -> Result<()> {
    let Some((layer, index)) = view.layers().iter().enumerate().next_back() else {
        return Ok(());
    };
    for entry in index.entries() {
        if entry.kind == Kind::Whiteout {
            writer.remove(&entry.path)?;
        } else {
            write_one(view, &Found { entry, layer }, &entry.path, writer, open)?;
        }
    }
    for path in parents(index) {
        let mtime = view.lookup(path).map_or(0, |found| found.entry.mtime);
        writer.set_directory_time(path, mtime);
    }
    Ok(())
}

/// Directories in which something changes, without the root.
fn parents(index: &Index) -> HashSet<&[u8]> {
    let parents = index.entries().iter().map(|entry| split(&entry.path).0);
    parents.filter(|path| !path.is_empty()).collect()
}

/// True when [`write_top_layer`] can do it: opaque directories hide what it does not look at.
#[must_use]
pub fn can_be_applied(index: &Index) -> bool {
    let is_opaque = |entry: &Entry| matches!(entry.kind, Kind::Directory { opaque: true });
    !index.entries().iter().any(is_opaque)
}

fn write_one(
    view: &View,
    found: &Found<'_>,
    path: &[u8],
    writer: &mut DirWriter,
    open: Open<'_>,
) -> Result<()> {
    let file = view.file_of(*found).unwrap_or(*found);
    let mut entry = Entry {
        path: path.to_vec(),
        ..file.entry.clone()
    };
    if let Kind::Directory { opaque } = &mut entry.kind {
        // There is nothing below to be hidden.
        *opaque = false;
    }
    if !matches!(entry.kind, Kind::File { .. }) {
        return writer.write(&entry, &mut io::empty());
    }
    let name = String::from_utf8_lossy(path).into_owned();
    match open(&file).map_err(Error::io("open", name))? {
        Reader::File(source) => writer.write_copy(&entry, &source),
        mut other => writer.write(&entry, &mut other),
    }
}

/// What tells whether a file was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Print {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[allow(
    clippy::cast_possible_wrap,
    clippy::unnecessary_cast,
    reason = "the types differ between platforms; nanoseconds are below 2^30"
)]
impl Print {
    fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino as u64,
            mode: stat.st_mode as u32,
            owner: (stat.st_uid, stat.st_gid),
            size: stat.st_size as i64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

/// What a step changed in a plain root.
#[derive(Debug)]
pub struct Changes {
    pub items: Vec<Item>,
    /// The directory holds what the layers and these changes say. A socket in the place of a file
    /// is in no layer (rule L13), so the file is in the image and not in the directory.
    pub is_whole: bool,
}

/// The state of a plain root before a step.
#[derive(Debug, Default)]
pub struct Snapshot {
    prints: HashMap<Vec<u8>, Print>,
}

impl Snapshot {
    /// Looks at every file below `directory`, after making it what a step on an overlay would
    /// find: without sockets, which no layer holds, and with one name per file. `scratch` is a
    /// path on the same file system at which nothing is. Waits until the clock of the file system
    /// has moved on, so that every later change gives a new change time.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn take(directory: &Path, scratch: &Path) -> Result<Self> {
        separate_names(directory, scratch)?;
        let mut prints = HashMap::new();
        let mut latest = (0, 0);
        for found in walk(directory) {
            let (path, stat) = found?;
            let print = Print::of(&stat);
            latest = latest.max(print.changed);
            prints.insert(relative(&path, directory).to_vec(), print);
        }
        wait_for_tick(scratch, latest)?;
        Ok(Self { prints })
    }

    /// The clock of the file system, as `(seconds, nanoseconds)` since 1970.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn now(scratch: &Path) -> Result<(i64, i64)> {
        File::create_new(scratch).map_err(Error::io("create", scratch))?;
        let stat = stat(scratch);
        std::fs::remove_file(scratch).map_err(Error::io("remove", scratch))?;
        Ok(Print::of(&stat?).changed)
    }

    /// What changed since, in the order and form of [`crate::scan::scan`]; removed names are
    /// whiteouts.
    ///
    /// # Errors
    /// As [`crate::scan::scan`].
    pub fn changes(
        &self,
        directory: &Path,
        owners: Owners,
        clock: Option<&StepClock>,
    ) -> Result<Changes> {
        let mut present = HashSet::with_capacity(self.prints.len());
        let mut is_whole = true;
        let mut items = scan_where(directory, owners, clock, |path, stat| {
            let before = self.prints.get_key_value(path);
            if let Some((path, _)) = before {
                present.insert(path.as_slice());
                is_whole &= FileType::from_raw_mode(stat.st_mode) != FileType::Socket;
            }
            before.is_none_or(|(_, print)| *print != Print::of(stat))
        })?;
        for item in &mut items {
            if let Kind::Directory { opaque } = &mut item.entry.kind {
                // A mark of overlayfs has no meaning here: whoever set it meant something else.
                *opaque = false;
            }
        }
        let is_gone = |path: &[u8]| self.prints.contains_key(path) && !present.contains(path);
        let gone = self.prints.keys().map(Vec::as_slice).filter(|path| {
            // Of a removed directory only the top; a name that replaced it hides what was below.
            is_gone(path) && !is_gone(split(path).0) && is_directory(directory, split(path).0)
        });
        items.extend(gone.map(|path| Item {
            entry: whiteout(path),
            content: Content::None,
        }));
        items.sort_by(|a, b| compare_paths(&a.entry.path, &b.entry.path));
        Ok(Changes { items, is_whole })
    }
}

fn is_directory(root: &Path, path: &[u8]) -> bool {
    let path = root.join(std::ffi::OsStr::from_bytes(path));
    path.symlink_metadata().is_ok_and(|m| m.is_dir())
}

/// Every file below `directory`, each directory before what is in it.
fn walk(directory: &Path) -> impl Iterator<Item = Result<(std::path::PathBuf, Stat)>> + '_ {
    WalkDir::new(directory)
        .min_depth(1)
        .into_iter()
        .map(|found| {
            let found = found.map_err(|e| {
                let path = e.path().unwrap_or(directory).to_path_buf();
                Error::io("read", path)(io::Error::from(e))
            })?;
            let stat = stat(found.path())?;
            Ok((found.into_path(), stat))
        })
}

fn stat(path: &Path) -> Result<Stat> {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(Error::io("stat", path))
}

fn relative<'a>(path: &'a Path, directory: &Path) -> &'a [u8] {
    path.strip_prefix(directory)
        .unwrap_or(path)
        .as_os_str()
        .as_bytes()
}

/// Gives every further name of a file a copy of it, and removes sockets.
fn separate_names(directory: &Path, scratch: &Path) -> Result<()> {
    let mut seen = HashSet::new();
    let mut further = Vec::new();
    for found in walk(directory) {
        let (path, stat) = found?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            FileType::Socket => further.push((path, stat)),
            _ if stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) => {
                further.push((path, stat));
            }
            _ => {}
        }
    }
    for (path, before) in further {
        let parent = path.parent().unwrap_or(directory);
        let times = stat(parent)?;
        match FileType::from_raw_mode(before.st_mode) {
            FileType::Socket => remove_socket(&path)?,
            FileType::RegularFile => separate(&path, &before, scratch)?,
            _ => separate_node(&path, &before, scratch)?,
        }
        set_times(parent, &times)?;
    }
    Ok(())
}

fn separate(path: &Path, before: &Stat, scratch: &Path) -> Result<()> {
    let copy = || -> io::Result<()> {
        let source = File::open(path)?;
        let mut file = File::create_new(scratch)?;
        if rustix::fs::ioctl_ficlone(&file, &source).is_err() {
            io::copy(&mut &source, &mut file)?;
        }
        let (uid, gid) = (Uid::from_raw(before.st_uid), Gid::from_raw(before.st_gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        copy_attributes(&source, &file)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(before.st_mode & 0o7777))?;
        rustix::fs::futimens(&file, &timestamps(before))?;
        std::fs::rename(scratch, path)
    };
    copy().map_err(Error::io("separate the names of", path))
}

/// [`separate`] for what has no content: a symlink, a named pipe, a device node.
fn separate_node(path: &Path, before: &Stat, scratch: &Path) -> Result<()> {
    let file_type = FileType::from_raw_mode(before.st_mode);
    let mode = Mode::from_raw_mode(before.st_mode & 0o7777);
    let copy = || -> io::Result<()> {
        if file_type == FileType::Symlink {
            std::os::unix::fs::symlink(std::fs::read_link(path)?, scratch)?;
        } else {
            rustix::fs::mknodat(CWD, scratch, file_type, mode, before.st_rdev)?;
        }
        let (uid, gid) = (Uid::from_raw(before.st_uid), Gid::from_raw(before.st_gid));
        rustix::fs::chownat(
            CWD,
            scratch,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        if file_type != FileType::Symlink {
            // After chown, which clears setuid and setgid; also undoes the process's umask.
            rustix::fs::chmod(scratch, mode)?;
        }
        let times = timestamps(before);
        rustix::fs::utimensat(CWD, scratch, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        std::fs::rename(scratch, path)
    };
    copy().map_err(Error::io("separate the names of", path))
}

fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    use rustix::io::Errno;
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    let mut value = vec![0_u8; 64 << 10];
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let length = rustix::fs::fgetxattr(from, name, &mut value)?;
        match rustix::fs::fsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty()) {
            // Not ours to give, such as labels of a security module.
            Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            other => other?,
        }
    }
    Ok(())
}

fn timestamps(stat: &Stat) -> rustix::fs::Timestamps {
    rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: stat.st_atime as _,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: stat.st_mtime as _,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

fn set_times(path: &Path, stat: &Stat) -> Result<()> {
    rustix::fs::utimensat(CWD, path, &timestamps(stat), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(Error::io("set the time of", path))
}

/// Returns when files changed from now on get a later change time than `latest`.
fn wait_for_tick(scratch: &Path, latest: (i64, i64)) -> Result<()> {
    let started = std::time::Instant::now();
    // A clock that was set back would never come: then the inode and the size have to do.
    while Snapshot::now(scratch)? <= latest && started.elapsed() < TICK_MAX {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
