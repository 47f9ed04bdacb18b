//! The stage: a small mount namespace that every step starts from a copy of.
//!
//! A step that copied the caller's namespace would pay for each of its mounts (0.1 ms on an
//! ordinary machine) and would carry them until it has pivoted away. The stage has only what
//! steps need from the host:
//!
//! ```text
//! /        tmpfs, read-only
//! /root    where a step attaches its root
//! /parts   where it attaches mounts of which it shows a part
//! /empty   an empty directory, to cover others with
//! /dev     the device nodes, each a bind of the host's, unless steps have their own
//! /sys     the host's, recursively read-only, masked
//! /proc    the host's: the kernel lets a user namespace mount a new /proc only where an
//!          unmasked one is visible
//! ```

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::devices::{self, DEVICES, Devices};
use crate::error::{Error, Step};
use crate::{child, sys};

/// Below /sys, as containerd's default spec masks them.
pub(crate) const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// The stage of this process.
#[derive(Debug)]
pub(crate) struct Stage {
    namespace: OwnedFd,
    /// Whether this process may make device nodes, so that steps get their own.
    has_own_nodes: bool,
    /// A /dev for the next step, with the default size of /dev/shm; made by a thread of its own
    /// while steps run: 0.1 ms that none waits for. Nothing comes if there is no such thread.
    spare: Mutex<Receiver<Devices>>,
}

impl Stage {
    /// The stage, built on first use (0.5 ms) and kept for the life of the process.
    ///
    /// # Errors
    /// [`Error::Setup`] with [`Step::Stage`]; the next call tries again.
    pub(crate) fn get() -> Result<&'static Self, Error> {
        static STAGE: OnceLock<Stage> = OnceLock::new();
        match STAGE.get() {
            Some(stage) => Ok(stage),
            None => {
                let stage = Self::build()?;
                Ok(STAGE.get_or_init(|| stage))
            }
        }
    }

    /// The mount namespace, as a descriptor for `setns(2)`.
    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Fresh file systems for one step's /dev, with `shm_size` bytes of shared memory.
    ///
    /// # Errors
    /// [`Error::Setup`] with [`Step::Devices`].
    pub(crate) fn devices(&self, shm_size: u64) -> Result<Devices, Error> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        match spare.try_recv() {
            Ok(devices) if devices.shm_size == shm_size => Ok(devices),
            _ => Devices::new(shm_size, self.has_own_nodes),
        }
    }

    /// Builds it in a thread of its own, because a thread that has left the process's mount
    /// namespace cannot come back.
    fn build() -> Result<Self, Error> {
        let thread = std::thread::Builder::new()
            .name("stage".to_owned())
            .spawn(build_in_this_thread)
            .map_err(|error| {
                Step::Stage {
                    action: "start a thread",
                }
                .error(error)
            })?;
        match thread.join() {
            Ok(result) => result.map(|(namespace, has_own_nodes)| Self {
                namespace,
                has_own_nodes,
                spare: Mutex::new(make_spares(has_own_nodes)),
            }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Makes one more /dev whenever the last was taken, until it cannot.
fn make_spares(has_own_nodes: bool) -> Receiver<Devices> {
    let (sender, receiver) = sync_channel(0);
    let thread = std::thread::Builder::new().name("spare-devices".to_owned());
    let make = move || {
        // The next step meets the error, if it lasts.
        while let Ok(devices) = Devices::new(devices::SHM_SIZE, has_own_nodes) {
            if sender.send(devices).is_err() {
                break;
            }
        }
    };
    // Steps make their own without the thread.
    let _: std::io::Result<_> = thread.spawn(make);
    receiver
}

/// Returns the namespace and whether device nodes can be made.
fn build_in_this_thread() -> Result<(OwnedFd, bool), Error> {
    let at = |action: &'static str| move |errno: Errno| Step::Stage { action }.error(errno);
    sys::unshare(libc::CLONE_NEWNS).map_err(at("unshare the mount namespace"))?;
    child::make_private(c"/").map_err(at("make mounts private"))?;
    let proc = clone_tree("/proc", true).map_err(at("clone /proc"))?;
    let sysfs = clone_tree("/sys", true).map_err(at("clone /sys"))?;
    let root = tmpfs().map_err(at("create a tmpfs"))?;
    // Any directory that surely exists can hold the new root until it is the root.
    attach(root.as_fd(), "/proc").map_err(at("attach the tmpfs"))?;
    for name in ["root", "parts", "empty", "dev", "sys", "proc"] {
        rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755))
            .map_err(at("make directories"))?;
    }
    let has_own_nodes = devices::make_node(&root, "null", 1, 3).is_ok();
    let devices = if has_own_nodes {
        &[]
    } else {
        DEVICES.as_slice()
    };
    let devices = devices
        .iter()
        .map(|(name, ..)| (name, clone_tree(&format!("/dev/{name}"), false)));
    let devices: Vec<_> = devices.collect();
    rustix::process::fchdir(&root).map_err(at("enter the tmpfs"))?;
    attach(proc.as_fd(), "proc").map_err(at("attach /proc"))?;
    attach(sysfs.as_fd(), "sys").map_err(at("attach /sys"))?;
    for (name, device) in devices {
        let device = device.map_err(at("clone a device node"))?;
        protect_node(device.as_fd()).map_err(at("protect a device node"))?;
        attach_file(device.as_fd(), &format!("dev/{name}")).map_err(at("attach a device node"))?;
    }
    restrict_sys().map_err(at("restrict /sys"))?;
    rustix::process::pivot_root(".", ".").map_err(at("pivot"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(at("detach the old root"))?;
    rustix::process::chdir("/").map_err(at("enter the new root"))?;
    sys::mount_setattr(CWD, c"/", 0, libc::MOUNT_ATTR_RDONLY).map_err(at("make it read-only"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::openat(CWD, "/proc/thread-self/ns/mnt", flags, Mode::empty())
        .map_err(at("open the namespace"))?;
    Ok((namespace, has_own_nodes))
}

/// Keeps the host's device node as it is. In a user namespace that maps the host's root (one of a
/// root without `CAP_SYS_ADMIN`) a step could change its mode; on a read-only mount nobody can,
/// and the device can still be written to.
fn protect_node(node: BorrowedFd<'_>) -> Result<(), Errno> {
    let owner = rustix::fs::statat(node, "", AtFlags::EMPTY_PATH)?.st_uid;
    // The owner's rights matter only if the owner is mapped, and root is what it would be.
    if owner != 0 {
        return Ok(());
    }
    sys::mount_setattr(node, c"", libc::AT_EMPTY_PATH, libc::MOUNT_ATTR_RDONLY)
}

/// Covers what containers may not see and makes the whole tree read-only.
fn restrict_sys() -> Result<(), Errno> {
    for name in MASKED_SYS {
        match rustix::mount::mount_bind("empty", format!("sys/{name}")) {
            Err(Errno::NOENT) => {}
            result => result?,
        }
    }
    child::only_to_read(c"sys")
}

fn tmpfs() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "size", "64k")?;
    rustix::mount::fsconfig_set_string(&context, "mode", "0755")?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached copy of the mount at `path`, with those below it when `recursive` (in a user
/// namespace the kernel refuses to show what the mounts below cover).
pub(crate) fn clone_tree(path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
}

fn attach(mount: BorrowedFd<'_>, target: &str) -> Result<(), Errno> {
    rustix::mount::move_mount(
        mount,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn attach_file(mount: BorrowedFd<'_>, target: &str) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(CWD, target, FileType::RegularFile, mode, 0)?;
    attach(mount, target)
}

/// A path in a descriptor's table of this process, for interfaces that take only short paths.
pub(crate) fn descriptor_path(fd: BorrowedFd<'_>) -> CString {
    use std::os::fd::AsRawFd;
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}
