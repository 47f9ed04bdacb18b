//! Everything a step needs that the caller's thread can make before the container exists:
//! detached mounts, mount points, pipes.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::devices::{self, DEVICES, Devices};
use crate::error::{Error, Step};
use crate::place::{Lifetime, Make, Place, Tree, View};
use crate::plan::{self, Prepared, PreparedMount, PreparedSource};
use crate::spec::{Mount, MountKind, Privileges, Root, Spec};
use crate::stage::{Stage, clone_tree};
use crate::stubs::Stubs;
use crate::sys;
use crate::{filesystem, overlay};

/// Docker's default for /dev/shm, in bytes.
const SHM_SIZE: u64 = 64 << 20;

/// The caller's half of a step: owns what [`Prepared`] borrows.
#[derive(Debug)]
pub(crate) struct Assembly {
    stage: &'static Stage,
    root: OwnedFd,
    devices: Devices,
    proc_target: CString,
    dev_target: CString,
    sys_target: CString,
    host_sys: Option<OwnedFd>,
    host_devices: Vec<(OwnedFd, CString)>,
    wholes: Vec<OwnedFd>,
    mounts: Vec<(CString, Source)>,
    stubs: Stubs,
}

/// What a mount shows.
#[derive(Debug)]
struct Source {
    fd: OwnedFd,
    /// `fd` is a detached mount, else it is open on a part of one in [`Assembly::wholes`].
    is_whole: bool,
    is_directory: bool,
    /// Things made below it outlive the step, so they are to be removed.
    is_durable: bool,
}

impl Assembly {
    /// # Errors
    /// [`Error::Setup`] with the step that failed. Mount points made until then are removed.
    pub(crate) fn new(spec: &Spec) -> Result<Self, Error> {
        let stage = Stage::get()?;
        let (root, surface) = open_root(&spec.root, spec.privileges)?;
        let devices = stage.devices(spec.shm_size.unwrap_or(SHM_SIZE))?;
        let is_overlay = matches!(spec.root, Root::Overlay { .. });
        let mut tree = Tree::new(duplicate(&root)?, surface, is_overlay);
        let mut wholes = Vec::new();
        match place_all(spec, &mut tree, &devices, &mut wholes) {
            Ok(placed) => {
                let stubs = into_stubs(tree)?;
                let (host_sys, host_devices) = host_view(spec.privileges, &devices)?;
                Ok(Self {
                    stage,
                    root,
                    devices,
                    proc_target: placed.proc_target,
                    dev_target: placed.dev_target,
                    sys_target: placed.sys_target,
                    host_sys,
                    host_devices,
                    wholes,
                    mounts: placed.mounts,
                    stubs,
                })
            }
            Err(error) => {
                // The overlay must be gone before its upper directory is cleaned.
                drop(root);
                if let Ok(stubs) = into_stubs(tree) {
                    let _ = stubs.remove();
                }
                Err(error)
            }
        }
    }

    pub(crate) fn prepared<'f>(&'f self, stdout: &'f OwnedFd, stderr: &'f OwnedFd) -> Prepared<'f> {
        let mounts = self.mounts.iter().map(|(target, source)| PreparedMount {
            target: target.clone(),
            source: if source.is_whole {
                PreparedSource::Whole(source.fd.as_fd())
            } else {
                PreparedSource::Part(source.fd.as_fd())
            },
        });
        Prepared {
            stage: self.stage.namespace(),
            root: self.root.as_fd(),
            dev: self.devices.dev.as_fd(),
            pts: self.devices.pts.as_fd(),
            shm: self.devices.shm.as_fd(),
            nodes: self.devices.nodes.as_ref().map(|nodes| {
                (
                    nodes.mount.as_fd(),
                    nodes.views.iter().map(|fd| fd.as_fd()).collect(),
                )
            }),
            proc_target: self.proc_target.clone(),
            dev_target: self.dev_target.clone(),
            sys_target: self.sys_target.clone(),
            host_sys: self.host_sys.as_ref().map(|fd| fd.as_fd()),
            host_devices: self
                .host_devices
                .iter()
                .map(|(fd, name)| (fd.as_fd(), name.clone()))
                .collect(),
            wholes: self.wholes.iter().map(|fd| fd.as_fd()).collect(),
            mounts: mounts.collect(),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
        }
    }

    /// Lets go of the mounts, which the child holds by now, and uses the time that it runs to
    /// prepare for the next.
    pub(crate) fn into_stubs(self) -> Stubs {
        self.stage.make_spare(self.devices.shm_size);
        self.stubs
    }
}

struct Placed {
    proc_target: CString,
    dev_target: CString,
    sys_target: CString,
    mounts: Vec<(CString, Source)>,
}

fn place_all(
    spec: &Spec,
    tree: &mut Tree,
    devices: &Devices,
    wholes: &mut Vec<OwnedFd>,
) -> Result<Placed, Error> {
    let proc = mount_point(tree, Path::new("/proc"), Make::Directory)?;
    tree.mount(&proc, View::Opaque, None);
    let sysfs = mount_point(tree, Path::new("/sys"), Make::Directory)?;
    tree.mount(&sysfs, View::Opaque, None);
    let dev = mount_point(tree, Path::new("/dev"), Make::Directory)?;
    tree.mount(&dev, View::Directory(duplicate(&devices.dev)?), None);
    for name in ["pts", "mqueue"] {
        let place = Place {
            path: dev.path.join(name),
        };
        tree.mount(&place, View::Opaque, None);
    }
    let shm = Place {
        path: dev.path.join("shm"),
    };
    tree.mount(&shm, View::Directory(duplicate(&devices.shm)?), None);

    let ordered = in_order(&spec.mounts);
    let sources = Sources::new(&ordered)?;
    let mut mounts = Vec::with_capacity(ordered.len());
    for (index, mount) in ordered.into_iter().enumerate() {
        let source = sources.open(index, mount, spec.privileges, wholes)?;
        let make = if source.is_directory {
            Make::Directory
        } else {
            Make::File
        };
        let place = mount_point(tree, &mount.target, make)?;
        if place.path.as_os_str().is_empty() {
            return Err(Error::TargetIsRoot {
                target: mount.target.clone(),
            });
        }
        let view = if source.is_directory {
            View::Directory(duplicate(&source.fd)?)
        } else {
            View::File
        };
        let surface = source
            .is_durable
            .then(|| duplicate(&source.fd))
            .transpose()?;
        tree.mount(&place, view, surface);
        mounts.push((place.c_path(), source));
    }
    wholes.extend(sources.programs.into_iter().chain(sources.data));
    tree.place(&spec.cwd, Make::Directory, Lifetime::Kept)
        .map_err(|errno| {
            Step::MakeWorkingDirectory {
                path: spec.cwd.clone(),
            }
            .error(errno)
        })?;
    Ok(Placed {
        proc_target: proc.c_path(),
        dev_target: dev.c_path(),
        sys_target: sysfs.c_path(),
        mounts,
    })
}

/// Sorted by target, parents first; of several with one target the last remains (rule R31).
fn in_order(mounts: &[Mount]) -> Vec<&Mount> {
    let mut ordered: Vec<(PathBuf, &Mount)> = mounts
        .iter()
        .map(|mount| (normal(&mount.target), mount))
        .collect();
    ordered.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut result: Vec<(PathBuf, &Mount)> = Vec::with_capacity(ordered.len());
    for entry in ordered {
        match result.last_mut() {
            Some(last) if last.0 == entry.0 => *last = entry,
            _ => result.push(entry),
        }
    }
    result.into_iter().map(|(_, mount)| mount).collect()
}

/// The path without `.` and with `..` taken lexically, for comparison only.
fn normal(path: &Path) -> PathBuf {
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

fn mount_point(tree: &mut Tree, target: &Path, make: Make) -> Result<Place, Error> {
    tree.place(target, make, Lifetime::Step).map_err(|errno| {
        Step::MountPoint {
            target: target.to_owned(),
        }
        .error(errno)
    })
}

fn into_stubs(tree: Tree) -> Result<Stubs, Error> {
    tree.into_stubs().map_err(|errno| {
        Step::MountPoint {
            target: PathBuf::from("/"),
        }
        .error(errno)
    })
}

/// The root as a detached mount, and the directory in which changes to it will be found.
fn open_root(root: &Root, privileges: Privileges) -> Result<(OwnedFd, OwnedFd), Error> {
    match root {
        Root::Overlay {
            lowers,
            upper,
            work,
        } => {
            let mount = overlay::overlay(lowers, Some((upper, work)), no_devices(privileges))?;
            Ok((mount, open_directory(upper)?))
        }
        Root::Plain(path) => {
            let attributes = no_devices(privileges).bits().into();
            let mount = filesystem::bind(path, attributes)
                .map_err(|errno| Step::OpenRoot { path: path.clone() }.error(errno))?;
            Ok((mount, open_directory(path)?))
        }
    }
}

/// A step of real root may make device nodes (`CAP_MKNOD` is among Docker's defaults); this keeps
/// it from opening them, as Docker's device cgroup does. In a user namespace it is so anyway.
fn no_devices(privileges: Privileges) -> MountAttrFlags {
    match privileges {
        Privileges::Default => MountAttrFlags::MOUNT_ATTR_NODEV,
        Privileges::Insecure => MountAttrFlags::empty(),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| {
        Step::OpenRoot {
            path: path.to_owned(),
        }
        .error(errno)
    })
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|errno| Step::Pipe.error(errno))
}

/// Opens what the mounts of a spec show. Small files are on a tmpfs: those that may be executed
/// on one, all others, which programs are never to be run from, on another.
struct Sources {
    programs: Option<OwnedFd>,
    data: Option<OwnedFd>,
}

impl Sources {
    fn new(mounts: &[&Mount]) -> Result<Self, Error> {
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
                write_file(base, &index.to_string(), content, (*mode, *uid, *gid))
                    .map_err(failed)?;
            }
        }
        for base in [&sources.programs, &sources.data].into_iter().flatten() {
            seal(base).map_err(|errno| {
                Step::Devices {
                    action: "seal files",
                }
                .error(errno)
            })?;
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

    fn open(
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
            MountKind::Tmpfs { size, mode } => tmpfs(*size, *mode, &mount.target),
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
        is_whole: false,
        is_directory: false,
        is_durable: false,
    })
}

/// Makes the mount read-only. A child that another thread is starting at this moment has copies
/// of all descriptors until it executes; one of a file just written keeps the mount busy for that
/// long.
fn seal(mount: &OwnedFd) -> Result<(), Errno> {
    const ATTEMPTS: u32 = 5000;
    const PAUSE: std::time::Duration = std::time::Duration::from_micros(500);
    for _ in 1..ATTEMPTS {
        let flags = libc::AT_EMPTY_PATH;
        match sys::mount_setattr(mount.as_fd(), c"", flags, libc::MOUNT_ATTR_RDONLY) {
            Err(Errno::BUSY) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    Err(Errno::BUSY)
}

fn is_executable(mode: u32) -> bool {
    mode & 0o111 != 0
}

fn small_tmpfs(executable: bool) -> Result<OwnedFd, Errno> {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !executable);
    filesystem::tmpfs(None, 0o700, attributes)
}

fn write_file(
    directory: &OwnedFd,
    name: &str,
    content: &[u8],
    (mode, uid, gid): (u32, u32, u32),
) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    if (uid, gid) != (0, 0) {
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    // After the owner: a change of owner clears set-id bits.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))
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
        is_whole: true,
        is_directory,
        is_durable: is_directory && !read_only,
    })
}

/// `subpath` of the tree `whole`, which is kept to be attached at the stage if only a part of it
/// is wanted: a part can only be copied from an attached mount (before Linux 6.15).
fn part(whole: OwnedFd, subpath: &Path, wholes: &mut Vec<OwnedFd>) -> Result<Source, Error> {
    let relative = normal(subpath);
    if relative.as_os_str().is_empty() {
        return Ok(Source {
            fd: whole,
            is_whole: true,
            is_directory: true,
            is_durable: false,
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
        is_whole: false,
        is_directory,
        is_durable: false,
    })
}

fn tmpfs(size: Option<u64>, mode: u32, target: &Path) -> Result<Source, Error> {
    // The options of BuildKit's tmpfs mounts, and what a user namespace enforces.
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let fd = filesystem::tmpfs(size, mode, attributes).map_err(|errno| {
        Step::Tmpfs {
            target: target.to_owned(),
        }
        .error(errno)
    })?;
    Ok(Source {
        fd,
        is_whole: true,
        is_directory: true,
        is_durable: false,
    })
}

type HostView = (Option<OwnedFd>, Vec<(OwnedFd, CString)>);

/// What an insecure step sees of the host: a writable /sys and every device node (rule R33).
fn host_view(privileges: Privileges, devices: &Devices) -> Result<HostView, Error> {
    if privileges == Privileges::Default {
        return Ok((None, Vec::new()));
    }
    let failed = |errno: Errno| {
        Step::Devices {
            action: "host devices",
        }
        .error(errno)
    };
    let sysfs = clone_tree("/sys", true).map_err(|errno| Step::Sysfs.error(errno))?;
    let mut nodes = Vec::new();
    let entries = std::fs::read_dir("/dev").map_err(|error| {
        Step::Devices {
            action: "list host devices",
        }
        .error(error)
    })?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_known = DEVICES.iter().any(|(known, ..)| OsStr::new(known) == name);
        let is_node = entry.file_type().is_ok_and(|kind| {
            use std::os::unix::fs::FileTypeExt;
            kind.is_char_device() || kind.is_block_device()
        });
        if is_known || !is_node || name == "ptmx" {
            continue;
        }
        let node = filesystem::bind(&entry.path(), 0).map_err(failed)?;
        devices::make_node_target(&devices.dev, &name).map_err(failed)?;
        nodes.push((
            node,
            plan::c_string("device", OsStr::from_bytes(name.as_bytes()))?,
        ));
    }
    Ok((Some(sysfs), nodes))
}
