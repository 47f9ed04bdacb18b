//! Mount points that were made for a step, and their removal after it (rules R13, R14).
//!
//! A step must not leave in its layer what only its mounts needed: neither the mount point, nor
//! the parents made for it, nor new times of the directory it was made in, nor the copy of that
//! directory that overlayfs put into the upper.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::place::Make;

/// A directory tree in which things were made, as it can be reached after the step.
#[derive(Debug)]
struct Surface {
    directory: OwnedFd,
    /// The upper directory of an overlay, empty before the step: what is in it and was not made
    /// by the command is a copy from below.
    is_upper: bool,
}

#[derive(Debug)]
struct Made {
    surface: usize,
    path: PathBuf,
    kind: Make,
}

/// A directory that was there before and in which (or below which) something was made.
#[derive(Debug)]
struct Touched {
    surface: usize,
    path: PathBuf,
    /// Before the first thing was made in it.
    before: Stat,
    /// When everything was made and the command had not started.
    sealed: Option<Stat>,
}

/// What was made, in order.
#[derive(Debug, Default)]
pub(crate) struct Stubs {
    surfaces: Vec<Surface>,
    made: Vec<Made>,
    touched: Vec<Touched>,
}

impl Stubs {
    pub(crate) fn add_surface(&mut self, directory: OwnedFd, is_upper: bool) -> usize {
        self.surfaces.push(Surface {
            directory,
            is_upper,
        });
        self.surfaces.len() - 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// To be called before `path` is made in the directory that `parent` is open on.
    pub(crate) fn will_make(
        &mut self,
        surface: usize,
        path: &Path,
        kind: Make,
        parent: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let is_known = self
            .touched
            .iter()
            .any(|t| t.surface == surface && t.path == directory)
            || self
                .made
                .iter()
                .any(|made| made.surface == surface && made.path == directory);
        if !is_known {
            let before = rustix::fs::statat(parent, "", AtFlags::EMPTY_PATH)?;
            self.touched.push(Touched {
                surface,
                path: directory.to_owned(),
                before,
                sealed: None,
            });
        }
        self.made.push(Made {
            surface,
            path: path.to_owned(),
            kind,
        });
        Ok(())
    }

    /// To be called once everything is made: records the state that the command finds. `root` is
    /// the merged view of the first surface.
    pub(crate) fn seal(&mut self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        self.add_ancestors(root)?;
        for touched in &mut self.touched {
            let from = match self.surfaces.get(touched.surface) {
                Some(surface) if touched.surface != 0 => surface.directory.as_fd(),
                _ => root,
            };
            touched.sealed = Some(stat_below(from, &touched.path)?);
        }
        // The deepest first: a directory can only go after what is in it.
        self.touched
            .sort_by_key(|t| std::cmp::Reverse(t.path.components().count()));
        Ok(())
    }

    /// Overlayfs copies a directory up with all its ancestors; they are candidates to go too.
    fn add_ancestors(&mut self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        let paths: Vec<PathBuf> = self
            .touched
            .iter()
            .filter(|touched| touched.surface == 0)
            .flat_map(|touched| touched.path.ancestors().skip(1).map(Path::to_owned))
            .collect();
        for path in paths {
            if !self
                .touched
                .iter()
                .any(|t| t.surface == 0 && t.path == path)
            {
                // Copying a child up leaves its parent's times as they were.
                let before = stat_below(root, &path)?;
                self.touched.push(Touched {
                    surface: 0,
                    path,
                    before,
                    sealed: None,
                });
            }
        }
        Ok(())
    }

    /// Removes what is still empty and puts times back. The container must be gone: an upper
    /// directory may not be changed below a mounted overlay.
    ///
    /// # Errors
    /// The path for which the file system refused.
    pub(crate) fn remove(self) -> Result<(), (PathBuf, Errno)> {
        if self.is_empty() {
            return Ok(());
        }
        let found: Vec<Option<Stat>> = self
            .touched
            .iter()
            .map(|touched| self.open(touched.surface, &touched.path).ok())
            .map(|directory| stat_of(directory?.as_fd()).ok())
            .collect();
        for made in self.made.iter().rev() {
            self.remove_one(made)
                .map_err(|errno| (made.path.clone(), errno))?;
        }
        // Prune first, because it changes the times of parents.
        let mut remaining = Vec::new();
        for (touched, found) in self.touched.iter().zip(found) {
            let Some(found) = found else { continue };
            if !self.prune(touched, &found) {
                remaining.push((touched, found));
            }
        }
        for (touched, found) in remaining {
            self.restore_times(touched, &found)
                .map_err(|errno| (touched.path.clone(), errno))?;
        }
        Ok(())
    }

    fn remove_one(&self, made: &Made) -> Result<(), Errno> {
        let Some(name) = made.path.file_name() else {
            return Ok(());
        };
        let directory = match self.open(made.surface, made.path.parent().unwrap_or(Path::new(""))) {
            // The command removed or replaced the directory around it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            directory => directory?,
        };
        let result = match made.kind {
            Make::Directory => rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR),
            Make::File if is_empty_file(directory.as_fd(), name) => {
                rustix::fs::unlinkat(&directory, name, AtFlags::empty())
            }
            Make::File => Ok(()),
        };
        match result {
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR | Errno::EXIST) => Ok(()),
            result => result,
        }
    }

    /// Removes a directory from the upper that is there only because something was made in it:
    /// empty now, and not changed by the command.
    fn prune(&self, touched: &Touched, found: &Stat) -> bool {
        let is_upper = self
            .surfaces
            .get(touched.surface)
            .is_some_and(|s| s.is_upper);
        let untouched = touched
            .sealed
            .as_ref()
            .is_some_and(|sealed| is_same(sealed, found));
        let (Some(parent), Some(name)) = (touched.path.parent(), touched.path.file_name()) else {
            return false;
        };
        if !is_upper || !untouched {
            return false;
        }
        let Ok(parent) = self.open(touched.surface, parent) else {
            return false;
        };
        rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok()
    }

    /// The times before the mount point was made, or what the command made of them.
    fn restore_times(&self, touched: &Touched, found: &Stat) -> Result<(), Errno> {
        let Ok(directory) = self.open(touched.surface, &touched.path) else {
            return Ok(());
        };
        let by_command = touched
            .sealed
            .as_ref()
            .is_none_or(|sealed| mtime(sealed) != mtime(found));
        let source = if by_command { found } else { &touched.before };
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: source.st_atime as _,
                tv_nsec: source.st_atime_nsec as _,
            },
            last_modification: Timespec {
                tv_sec: source.st_mtime as _,
                tv_nsec: source.st_mtime_nsec as _,
            },
        };
        rustix::fs::utimensat(directory, "", &times, AtFlags::EMPTY_PATH)
    }

    fn open(&self, surface: usize, path: &Path) -> Result<OwnedFd, Errno> {
        let surface = self.surfaces.get(surface).ok_or(Errno::NOENT)?;
        open_below(surface.directory.as_fd(), path)
    }
}

/// Opens a directory below another, never through a symlink: the command wrote here.
fn open_below(directory: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)
}

fn stat_below(directory: BorrowedFd<'_>, path: &Path) -> Result<Stat, Errno> {
    stat_of(open_below(directory, path)?.as_fd())
}

fn stat_of(file: BorrowedFd<'_>) -> Result<Stat, Errno> {
    rustix::fs::statat(file, "", AtFlags::EMPTY_PATH)
}

fn is_empty_file(directory: BorrowedFd<'_>, name: &OsStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0
    })
}

fn mtime(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime, stat.st_mtime_nsec as i64)
}

/// Whether nobody changed the directory between the two looks.
fn is_same(a: &Stat, b: &Stat) -> bool {
    let ctime = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec as i64);
    let rest = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    mtime(a) == mtime(b) && ctime(a) == ctime(b) && rest(a) == rest(b)
}
