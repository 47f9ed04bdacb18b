//! What the mounts of a step show: opened by the caller's thread, as detached mounts or as parts of
//! such.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::emulate::{Emulation, Owner};
use crate::error::{Error, Step};
use crate::spec::{Mount, MountKind, Privileges};
use crate::{filesystem, overlay};

/// What a mount shows.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) fd: OwnedFd,
    pub(crate) shown: Shown,
    pub(crate) is_directory: bool,
}

/// What the descriptor of a source is open on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// A detached mount.
    Whole,
    /// A part of one in the list of wholes.
    Part,
    /// A small file, which is such a part.
    File,
}

/// Opens what the mounts of a spec show. Small files are on a tmpfs: those that may be executed
/// on one, all others, which programs are never to be run from, on another. The child makes its
/// view of them read-only: here a descriptor of a file just written may still be in the hands of
/// a child that another thread is starting at this moment, and would keep the mount busy.
pub(crate) struct Sources {
    pub(crate) programs: Option<OwnedFd>,
    pub(crate) data: Option<OwnedFd>,
}

impl Sources {
    pub(crate) fn new(mounts: &[&Mount], emulation: Option<&Emulation>) -> Result<Self, Error> {
        let mut sources = Self {
            programs: None,
            data: None,
        };
        for (index, mount) in mounts.iter().enumerate() {
            if let MountKind::File {
                content,
                mode,
                uid,
                gid,
            } = &mount.kind
            {
                let failed = |errno: Errno| {
                    Step::WriteFile {
                        target: mount.target.clone(),
                    }
                    .error(errno)
                };
                let executable = is_executable(*mode);
                let base = match sources.tmpfs(executable) {
                    Some(base) => base,
                    empty => empty.insert(small_tmpfs(executable).map_err(failed)?),
                };
                let attributes = (*mode, *uid, *gid);
                write_file(base, &index.to_string(), content, attributes, emulation)
                    .map_err(failed)?;
            }
        }
        Ok(sources)
    }

    fn tmpfs(&mut self, executable: bool) -> &mut Option<OwnedFd> {
        if executable {
            &mut self.programs
        } else {
            &mut self.data
        }
    }

    pub(crate) fn open(
        &self,
        index: usize,
        mount: &Mount,
        privileges: Privileges,
        wholes: &mut Vec<OwnedFd>,
    ) -> Result<Source, Error> {
        match &mount.kind {
            MountKind::Bind { source, read_only } => bind(source, *read_only, privileges),
            MountKind::Overlay {
                lowers,
                upper,
                work,
                subpath,
            } => {
                let attributes = no_devices(privileges);
                let whole = overlay::overlay(lowers, Some((upper, work)), attributes)?;
                part(whole, subpath, wholes)
            }
            MountKind::Lowers { lowers, subpath } => {
                let attributes = no_devices(privileges) | MountAttrFlags::MOUNT_ATTR_RDONLY;
                let whole = match lowers.as_slice() {
                    // Overlayfs wants two; one directory is what it would show.
                    [only] => filesystem::bind(only, attributes.bits().into())
                        .map_err(|errno| Step::OpenSource { path: only.clone() }.error(errno))?,
                    lowers => overlay::overlay(lowers, None, attributes)?,
                };
                part(whole, subpath, wholes)
            }
            MountKind::Tmpfs {
                size,
                mode,
                read_only,
            } => tmpfs(*size, *mode, *read_only, &mount.target),
            MountKind::File { mode, .. } => {
                let files = if is_executable(*mode) {
                    &self.programs
                } else {
                    &self.data
                };
                file(files, index, &mount.target)
            }
        }
    }
}

/// The file written for the mount with this index, as a part of its tmpfs.
fn file(files: &Option<OwnedFd>, index: usize, target: &Path) -> Result<Source, Error> {
    let failed = |errno: Errno| {
        Step::WriteFile {
            target: target.to_owned(),
        }
        .error(errno)
    };
    let files = files.as_ref().ok_or_else(|| failed(Errno::NOENT))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(files, index.to_string(), flags, Mode::empty()).map_err(failed)?;
    Ok(Source {
        fd,
        shown: Shown::File,
        is_directory: false,
    })
}

fn is_executable(mode: u32) -> bool {
    mode & 0o111 != 0
}

fn small_tmpfs(executable: bool) -> Result<OwnedFd, Errno> {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !executable);
    filesystem::tmpfs(None, 0o700, attributes)
}

pub(crate) fn write_file(
    directory: &OwnedFd,
    name: &str,
    content: &[u8],
    (mode, uid, gid): (u32, u32, u32),
    emulation: Option<&Emulation>,
) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    give(&file, (uid, gid), emulation)?;
    // After the owner: a change of owner clears set-id bits.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))
}

fn give(file: &OwnedFd, owner: Owner, emulation: Option<&Emulation>) -> Result<(), Errno> {
    let (uid, gid) = owner;
    match emulation {
        _ if owner == (0, 0) => Ok(()),
        None => rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
        Some(emulation) => {
            let value = (emulation.encode)(owner);
            match rustix::fs::fsetxattr(file, emulation.attribute, &value, XattrFlags::empty()) {
                // A tmpfs before Linux 6.6. Any user of the step can read the file all the same.
                Err(Errno::OPNOTSUPP) => Ok(()),
                other => other,
            }
        }
    }
}

fn bind(source: &Path, read_only: bool, privileges: Privileges) -> Result<Source, Error> {
    let failed = |errno: Errno| {
        Step::OpenSource {
            path: source.to_owned(),
        }
        .error(errno)
    };
    let mut attributes = no_devices(privileges);
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    let fd = filesystem::bind(source, attributes.bits().into()).map_err(failed)?;
    let stat = rustix::fs::statat(&fd, "", rustix::fs::AtFlags::EMPTY_PATH).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        return Err(failed(Errno::LOOP));
    }
    let is_directory = kind == FileType::Directory;
    Ok(Source {
        fd,
        shown: Shown::Whole,
        is_directory,
    })
}

/// `subpath` of the tree `whole`, which is kept to be attached at the stage if only a part of it
/// is wanted: a part can only be copied from an attached mount (before Linux 6.15).
fn part(whole: OwnedFd, subpath: &Path, wholes: &mut Vec<OwnedFd>) -> Result<Source, Error> {
    let relative = normal(subpath);
    if relative.as_os_str().is_empty() {
        return Ok(Source {
            fd: whole,
            shown: Shown::Whole,
            is_directory: true,
        });
    }
    let failed = |errno: Errno| {
        Step::OpenSubpath {
            subpath: subpath.to_owned(),
        }
        .error(errno)
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(&whole, subpath, flags, Mode::empty(), resolve).map_err(failed)?;
    let stat = rustix::fs::statat(&fd, "", rustix::fs::AtFlags::EMPTY_PATH).map_err(failed)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    wholes.push(whole);
    Ok(Source {
        fd,
        shown: Shown::Part,
        is_directory,
    })
}

fn tmpfs(size: Option<u64>, mode: u32, read_only: bool, target: &Path) -> Result<Source, Error> {
    // The options of BuildKit's tmpfs mounts, and what a user namespace enforces.
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    let fd = filesystem::tmpfs(size, mode, attributes).map_err(|errno| {
        Step::Tmpfs {
            target: target.to_owned(),
        }
        .error(errno)
    })?;
    Ok(Source {
        fd,
        shown: Shown::Whole,
        is_directory: true,
    })
}

/// A step of real root may make device nodes (`CAP_MKNOD` is among Docker's defaults); this keeps
/// it from opening them, as Docker's device cgroup does. In a user namespace it is so anyway.
pub(crate) fn no_devices(privileges: Privileges) -> MountAttrFlags {
    match privileges {
        Privileges::Default => MountAttrFlags::MOUNT_ATTR_NODEV,
        Privileges::Insecure => MountAttrFlags::empty(),
    }
}

/// The path without `.` and with `..` taken lexically, for comparison only.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                result.pop();
            }
            Component::Normal(name) => result.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    result
}
