//! Everything a step needs that the caller's thread can make before the container exists:
//! detached mounts, mount points, pipes.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::devices::{self, DEVICES, Devices};
use crate::error::{Error, Step};
use crate::place::{Lifetime, Make, Place, Tree, View};
use crate::plan::{self, Prepared, PreparedMount, PreparedSource, Supervisor};
use crate::source::{Shown, Source, Sources, no_devices, normal};
use crate::spec::{Mount, Privileges, Root, Spec};
use crate::stage::{Stage, clone_tree};
use crate::stubs::Stubs;
use crate::{filesystem, overlay, teardown, watch};

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

impl Assembly {
    /// # Errors
    /// [`Error::Setup`] with the step that failed. Mount points made until then are removed.
    pub(crate) fn new(spec: &Spec) -> Result<Self, Error> {
        let stage = Stage::get()?;
        let (root, surface) = open_root(&spec.root, spec.privileges)?;
        let devices = stage.devices(spec.shm_size.unwrap_or(devices::SHM_SIZE))?;
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

    pub(crate) fn prepared<'f>(
        &'f self,
        stdout: &'f OwnedFd,
        stderr: &'f OwnedFd,
        supervisor: Option<Supervisor<'f>>,
        watch: Option<watch::ForChild<'f>>,
    ) -> Prepared<'f> {
        let mounts = self.mounts.iter().map(|(target, source)| PreparedMount {
            target: target.clone(),
            source: match source.shown {
                Shown::Whole => PreparedSource::Whole(source.fd.as_fd()),
                Shown::Part => PreparedSource::Part(source.fd.as_fd()),
                Shown::File => PreparedSource::File(source.fd.as_fd()),
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
            supervisor,
            network: None,
            watch,
        }
    }

    /// Whether the mounts may go after the step: not if something has to be removed from an upper
    /// directory, which may not be changed below an overlay.
    pub(crate) fn may_outlive_step(&self) -> bool {
        self.stubs.is_empty()
    }

    /// Lets go of the mounts, which the child holds by now.
    pub(crate) fn into_stubs(self) -> Stubs {
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
    tree.mount(&proc, View::Opaque);
    let sysfs = mount_point(tree, Path::new("/sys"), Make::Directory)?;
    tree.mount(&sysfs, View::Opaque);
    let dev = mount_point(tree, Path::new("/dev"), Make::Directory)?;
    tree.mount(&dev, View::Directory(duplicate(&devices.dev)?));
    for name in ["pts", "mqueue"] {
        let place = Place {
            path: dev.path.join(name),
            kind: None,
        };
        tree.mount(&place, View::Opaque);
    }
    let shm = Place {
        path: dev.path.join("shm"),
        kind: None,
    };
    tree.mount(&shm, View::Directory(duplicate(&devices.shm)?));

    let ordered = in_order(&spec.mounts);
    let sources = Sources::new(&ordered, spec.emulation.as_ref())?;
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
        if place.kind.is_some_and(|kind| kind != make) {
            return Err(Error::MountType {
                target: mount.target.clone(),
                mounted: make.name(),
                covered: if source.is_directory {
                    Make::File.name()
                } else {
                    Make::Directory.name()
                },
            });
        }
        let view = if source.is_directory {
            View::Directory(duplicate(&source.fd)?)
        } else {
            View::File
        };
        tree.mount(&place, view);
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
pub(crate) fn in_order(mounts: &[Mount]) -> Vec<&Mount> {
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
            teardown::wait_for_teardown();
            let mount = overlay::overlay(lowers, Some((upper, work)), no_devices(privileges))?;
            Ok((mount, open_directory(upper)?))
        }
        Root::Plain(path) => {
            let attributes = no_devices(privileges).bits().into();
            let mount = filesystem::bind(path, attributes)
                .map_err(|errno| Step::OpenRoot { path: path.clone() }.error(errno))?;
            filesystem::allow_programs(&mount, path)?;
            Ok((mount, open_directory(path)?))
        }
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
