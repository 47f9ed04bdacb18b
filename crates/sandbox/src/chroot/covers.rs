//! Puts things into a root directory for one step, over what is there, and takes them out again.
//!
//! Nothing else works on the root meanwhile but the step itself, and that only between
//! [`Covers::seal`] and [`Covers::undo`]. Every directory is kept open, so that renames by the
//! step lead nowhere else.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::devices::{self, DEVICES};
use crate::error::{Error, Step};
use crate::plan::{MASKED_DIRECTORIES, MASKED_FILES};
use crate::source;

/// Files of /proc that do not concern a process, and a few settings that programs ask for.
const PROC_FILES: [&str; 14] = [
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "uptime",
    "version",
    "sys/kernel/cap_last_cap",
    "sys/kernel/hostname",
    "sys/kernel/ngroups_max",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/pid_max",
    "sys/vm/overcommit_memory",
];
/// Links of /dev, which lead nowhere without a real /proc: a program that opens one fails, and does
/// not read another input than the one it was given.
const DEVICE_LINKS: [(&str, &str); 2] = [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0")];

/// One thing in the root.
struct Cover {
    target: PathBuf,
    parent: OwnedFd,
    name: OsString,
    /// What was there, in the scratch directory.
    aside: Option<PathBuf>,
    /// Where the thing came from and goes back to.
    home: Option<PathBuf>,
}

/// A directory whose time must not tell what was done here.
struct Touched {
    directory: OwnedFd,
    before: Stat,
    sealed: Option<Stat>,
}

/// A directory that was made to hold a cover.
struct Made {
    parent: OwnedFd,
    name: OsString,
}

pub(super) struct Covers<'a> {
    root: OwnedFd,
    scratch: &'a Path,
    next: u32,
    covers: Vec<Cover>,
    made: Vec<Made>,
    touched: Vec<Touched>,
}

impl<'a> Covers<'a> {
    pub(super) fn new(root: &Path, scratch: &'a Path) -> Result<Self, Error> {
        Ok(Self {
            root: super::open_root(root)?,
            scratch,
            next: 0,
            covers: Vec::new(),
            made: Vec::new(),
            touched: Vec::new(),
        })
    }

    fn fresh(&mut self) -> PathBuf {
        self.next += 1;
        self.scratch.join(self.next.to_string())
    }

    /// A new directory in the scratch directory.
    pub(super) fn new_directory(&mut self, mode: u32) -> Result<PathBuf, Error> {
        let path = self.fresh();
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::mkdir(&path, Mode::RWXU)
            .and_then(|()| rustix::fs::chmod(&path, mode))
            .map_err(|errno| scratch_error(&path, errno))?;
        Ok(path)
    }

    /// A new file with these bytes, mode, owner and group.
    pub(super) fn new_file(
        &mut self,
        content: &[u8],
        owner: (u32, u32, u32),
    ) -> Result<PathBuf, Error> {
        let path = self.fresh();
        let directory = super::open_root(self.scratch)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        source::write_file(&directory, &name, content, owner, None)
            .map_err(|errno| scratch_error(&path, errno))?;
        Ok(path)
    }

    /// /dev: nodes and, unless /proc `is_live`, named pipes as standard output and error.
    pub(super) fn new_device_directory(&mut self, is_live: bool) -> Result<PathBuf, Error> {
        let path = self.new_directory(0o755)?;
        let at = |action: &'static str| move |errno: Errno| Step::Devices { action }.error(errno);
        let directory = super::open_root(&path)?;
        for (name, major, minor) in DEVICES {
            devices::make_node(&directory, name, major, minor).map_err(at("make nodes"))?;
        }
        let (links, pipes): (&[_], &[_]) = if is_live {
            (&devices::LINKS, &[])
        } else {
            (&DEVICE_LINKS, &["stdout", "stderr"])
        };
        for (name, target) in links {
            rustix::fs::symlinkat(*target, &directory, *name).map_err(at("links"))?;
        }
        for name in pipes {
            let mode = Mode::from_raw_mode(0o622);
            rustix::fs::mknodat(&directory, *name, FileType::Fifo, mode, 0).map_err(at("pipes"))?;
            rustix::fs::chmodat(&directory, *name, mode, AtFlags::empty()).map_err(at("pipes"))?;
        }
        for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::mkdirat(&directory, name, Mode::RWXU).map_err(at("directories"))?;
            rustix::fs::chmodat(&directory, name, mode, AtFlags::empty())
                .map_err(at("directories"))?;
        }
        Ok(path)
    }

    /// /proc: copies of [`PROC_FILES`], a table of mounts with the root alone, and what a container
    /// finds empty.
    pub(super) fn new_proc_directory(&mut self) -> Result<PathBuf, Error> {
        let path = self.new_directory(0o755)?;
        for name in PROC_FILES {
            // Masked in some containers, missing in some kernels.
            let Ok(content) = std::fs::read(Path::new("/proc").join(name)) else {
                continue;
            };
            write(&path.join(name), &content)?;
        }
        write(&path.join("mounts"), b"rootfs / rootfs rw 0 0\n")?;
        mask(&path)?;
        Ok(path)
    }

    /// Puts `thing`, which is on the root's file system, at `target`. With `is_kept` it goes back
    /// to where it was afterwards, else it is removed.
    pub(super) fn cover(
        &mut self,
        target: &Path,
        thing: &Path,
        is_kept: bool,
    ) -> Result<(), Error> {
        let failed = |errno: Errno| {
            Step::MountPoint {
                target: target.to_owned(),
            }
            .error(errno)
        };
        let path = source::normal(target);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::TargetIsRoot {
                target: target.to_owned(),
            });
        };
        let parent = self.open(parent, true).map_err(failed)?;
        self.touch(parent.as_fd()).map_err(failed)?;
        let aside = self.fresh();
        let aside = match rustix::fs::renameat(&parent, name, CWD, &aside) {
            Ok(()) => Some(aside),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed(errno)),
        };
        self.covers.push(Cover {
            target: target.to_owned(),
            parent: duplicate(&parent).map_err(failed)?,
            name: name.to_owned(),
            aside,
            home: is_kept.then(|| thing.to_owned()),
        });
        rustix::fs::renameat(CWD, thing, &parent, name).map_err(failed)
    }

    /// Makes the working directory when it is missing; it stays (rule R03).
    pub(super) fn make_working_directory(&mut self, path: &Path) -> Result<(), Error> {
        self.open(&source::normal(path), false)
            .map(drop)
            .map_err(|errno| {
                Step::MakeWorkingDirectory {
                    path: path.to_owned(),
                }
                .error(errno)
            })
    }

    /// Opens a directory of the root, symlinks staying inside. Makes what is missing, `for_step` to
    /// be removed again.
    fn open(&mut self, path: &Path, for_step: bool) -> Result<OwnedFd, Errno> {
        let mut at = PathBuf::new();
        let mut directory = duplicate(&self.root)?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            at.push(name);
            let next = match open_in_root(&self.root, &at) {
                Err(Errno::NOENT) => {
                    if for_step {
                        self.touch(directory.as_fd())?;
                    }
                    make_directory(&directory, name)?;
                    if for_step {
                        self.made.push(Made {
                            parent: duplicate(&directory)?,
                            name: name.to_owned(),
                        });
                    }
                    open_in_root(&self.root, &at)
                }
                other => other,
            };
            directory = next?;
        }
        Ok(directory)
    }

    /// To be called before a name of `directory` changes.
    fn touch(&mut self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        let before = stat(directory)?;
        let same = |touched: &Touched| {
            (touched.before.st_dev, touched.before.st_ino) == (before.st_dev, before.st_ino)
        };
        if !self.touched.iter().any(same) {
            self.touched.push(Touched {
                directory: rustix::io::fcntl_dupfd_cloexec(directory, 3)?,
                before,
                sealed: None,
            });
        }
        Ok(())
    }

    /// To be called when all is in place: the state that the step finds.
    pub(super) fn seal(&mut self) -> Result<(), Error> {
        for touched in &mut self.touched {
            let sealed = stat(touched.directory.as_fd());
            touched.sealed = Some(sealed.map_err(|errno| {
                Step::MountPoint {
                    target: PathBuf::from("/"),
                }
                .error(errno)
            })?);
        }
        Ok(())
    }

    /// Takes everything out again, newest first, and puts times of directories back unless the step
    /// changed them.
    pub(super) fn undo(self) -> Result<(), Error> {
        let found: Vec<_> = self
            .touched
            .iter()
            .map(|touched| stat(touched.directory.as_fd()))
            .collect();
        let mut first_error = Ok(());
        for (number, cover) in self.covers.iter().enumerate().rev() {
            let undone = uncover(cover, self.scratch, number).map_err(|errno| {
                Step::RemoveMountPoint {
                    path: cover.target.clone(),
                }
                .error(errno)
            });
            first_error = first_error.and(undone);
        }
        for made in self.made.iter().rev() {
            // In use by the step's own files, or gone.
            let _ = rustix::fs::unlinkat(&made.parent, &made.name, AtFlags::REMOVEDIR);
        }
        for (touched, found) in self.touched.iter().zip(found) {
            let (Ok(found), Some(sealed)) = (found, &touched.sealed) else {
                continue;
            };
            let is_untouched = mtime(&found) == mtime(sealed);
            let times = if is_untouched {
                &touched.before
            } else {
                &found
            };
            set_times(&touched.directory, times);
        }
        first_error
    }
}

fn uncover(cover: &Cover, scratch: &Path, number: usize) -> Result<(), Errno> {
    let out = match &cover.home {
        Some(home) => home.clone(),
        // Out of the root at once; it is removed with the scratch directory.
        None => scratch.join(format!("used-{number}")),
    };
    match rustix::fs::renameat(&cover.parent, &cover.name, CWD, &out) {
        // The step removed it.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let Some(aside) = &cover.aside else {
        return Ok(());
    };
    match rustix::fs::renameat(CWD, aside, &cover.parent, &cover.name) {
        // The step removed the directory around it, and so what was in it.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Puts /dev/null, or an empty directory, where this machine has something that a step may not see.
fn mask(proc: &Path) -> Result<(), Error> {
    let failed = |errno: Errno| {
        Step::Devices {
            action: "mask /proc",
        }
        .error(errno)
    };
    let directory = super::open_root(proc)?;
    let is_there = |name: &str| Path::new("/proc").join(name).exists();
    let [(_, major, minor), ..] = DEVICES;
    for name in MASKED_FILES.into_iter().filter(|name| is_there(name)) {
        devices::make_node(&directory, name, major, minor).map_err(failed)?;
    }
    for name in MASKED_DIRECTORIES.into_iter().filter(|n| is_there(n)) {
        let mode = Mode::from_raw_mode(0o555);
        rustix::fs::mkdirat(&directory, name, mode).map_err(failed)?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let write = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, content)
    };
    write().map_err(|error| {
        Step::WriteFile {
            target: path.to_owned(),
        }
        .error(error)
    })
}

fn scratch_error(path: &Path, errno: Errno) -> Error {
    Step::WriteFile {
        target: path.to_owned(),
    }
    .error(errno)
}

fn open_in_root(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(parent, name, mode)?;
    rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

fn stat(directory: BorrowedFd<'_>) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, "", AtFlags::EMPTY_PATH)
}

fn mtime(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime, stat.st_mtime_nsec as i64)
}

fn set_times(directory: &OwnedFd, stat: &Stat) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime as _,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime as _,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    // Refused only for a directory that is gone.
    let _ = rustix::fs::utimensat(directory, "", &times, AtFlags::EMPTY_PATH);
}
