//! /dev of a step.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{Error, Step};
use crate::filesystem::tmpfs;

/// Docker's default for /dev/shm, in bytes.
pub(crate) const SHM_SIZE: u64 = 64 << 20;

/// The device nodes of every container (rule R12): name, major and minor number of
/// Documentation/admin-guide/devices.txt.
pub(crate) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;

/// The file systems of one step's /dev.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) dev: OwnedFd,
    pub(crate) pts: OwnedFd,
    pub(crate) shm: OwnedFd,
    /// The device nodes, if they are the step's own and not the host's.
    pub(crate) nodes: Option<Nodes>,
    /// Bytes of `shm`.
    pub(crate) shm_size: u64,
}

/// A tmpfs with device nodes. It is never attached where the step could see it, only its nodes
/// are: a file system that steps can write to must not allow devices to be opened.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) mount: OwnedFd,
    /// Open on the nodes, in the order of [`DEVICES`].
    pub(crate) views: Vec<OwnedFd>,
}

/// Links that every container has in /dev.
pub(crate) const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// The group that owns terminals (`tty` in every distribution).
const TTY_GROUP: u32 = 5;

impl Devices {
    /// Fresh ones, so that nothing a step leaves in /dev reaches another: a tmpfs with mount
    /// points for the nodes, its own pseudo terminals, and shared memory of `shm_size` bytes.
    ///
    /// With `own_nodes` the device nodes are new ones, which only real root can make. It must:
    /// where it bound the host's, `chmod /dev/null` in a step would change the host's.
    pub(crate) fn new(shm_size: u64, own_nodes: bool) -> Result<Self, Error> {
        let at = |action: &'static str| move |errno: Errno| Step::Devices { action }.error(errno);
        let dev = tmpfs(Some(64 << 20), 0o755, NOSUID | NODEV).map_err(at("tmpfs"))?;
        for name in ["pts", "shm", "mqueue"] {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))
                .map_err(at("directories"))?;
        }
        for (name, ..) in DEVICES {
            make_node_target(&dev, OsStr::new(name)).map_err(at("mount points of nodes"))?;
        }
        for (name, target) in LINKS {
            rustix::fs::symlinkat(target, &dev, name).map_err(at("links"))?;
        }
        let pts = devpts().map_err(at("devpts"))?;
        let shm = tmpfs(Some(shm_size), 0o1777, NOSUID | NOEXEC | NODEV).map_err(at("shm"))?;
        let nodes = own_nodes
            .then(Nodes::new)
            .transpose()
            .map_err(at("nodes"))?;
        Ok(Self {
            dev,
            pts,
            shm,
            nodes,
            shm_size,
        })
    }
}

impl Nodes {
    fn new() -> Result<Self, Errno> {
        let mount = tmpfs(Some(1 << 20), 0o700, NOSUID | NOEXEC)?;
        let mut views = Vec::with_capacity(DEVICES.len());
        for (name, major, minor) in DEVICES {
            make_node(&mount, name, major, minor)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            views.push(rustix::fs::openat(&mount, name, flags, Mode::empty())?);
        }
        Ok(Self { mount, views })
    }
}

/// Makes a character device that everybody may use.
pub(crate) fn make_node(
    directory: &OwnedFd,
    name: &str,
    major: u32,
    minor: u32,
) -> Result<(), Errno> {
    let (mode, device) = (
        Mode::from_raw_mode(0o666),
        rustix::fs::makedev(major, minor),
    );
    rustix::fs::mknodat(directory, name, FileType::CharacterDevice, mode, device)?;
    // Whatever the umask of the caller is.
    rustix::fs::chmodat(directory, name, mode, AtFlags::empty())
}

/// An empty file to attach a device node to.
pub(crate) fn make_node_target(dev: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(dev, name.as_bytes(), FileType::RegularFile, mode, 0)
}

/// Terminals of their own, owned by the group `tty` where that id exists.
pub(crate) fn devpts() -> Result<OwnedFd, Errno> {
    match devpts_with(Some(TTY_GROUP)) {
        // A user namespace with too few ids.
        Err(Errno::INVAL) => devpts_with(None),
        result => result,
    }
}

fn devpts_with(group: Option<u32>) -> Result<OwnedFd, Errno> {
    let context = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "devpts")?;
    fsconfig_set_flag(&context, "newinstance")?;
    fsconfig_set_string(&context, "ptmxmode", "0666")?;
    fsconfig_set_string(&context, "mode", "0620")?;
    if let Some(group) = group {
        fsconfig_set_string(&context, "gid", group.to_string())?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, NOSUID | NOEXEC)
}
