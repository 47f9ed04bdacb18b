//! New file systems as detached mounts: made by the caller's thread, attached by the child.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{Error, Step};
use crate::plan::DEVICES;
use crate::stage::descriptor_path;
use crate::sys;

/// The longest string that fsconfig(2) takes, without the null byte.
const OPTION_MAX: usize = 255;
/// What overlayfs stacks at most (`OVL_MAX_STACK`).
pub(crate) const LOWERS_MAX: usize = 500;

/// Directories stacked top first; with `upper` (and `work` on the same file system) writable.
///
/// * `userxattr`, as the store keeps opaque marks in `user.overlay.*` for root and user alike;
/// * `volatile` (Linux 5.10): no sync of the upper file system at unmount or at the command's
///   own fsyncs. The store syncs once, when it keeps the result.
pub(crate) fn overlay(
    lowers: &[impl AsRef<Path>],
    upper: Option<(&Path, &Path)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Error> {
    let at = |option: &str| {
        let option = option.to_owned();
        move |errno: Errno| Step::Overlay { option }.error(errno)
    };
    if lowers.is_empty() || lowers.len() > LOWERS_MAX {
        let reason = format!(
            "{} lower directories, {LOWERS_MAX} are possible",
            lowers.len()
        );
        return Err(Error::Invalid {
            field: "overlay",
            reason,
        });
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen"))?;
    // Keeps descriptors of directories with long names open until the mount exists.
    let mut opened = Vec::new();
    fsconfig_set_string(&context, "source", "overlay").map_err(at("source"))?;
    for lower in lowers {
        let lower = lower.as_ref();
        set_path(&context, "lowerdir+", lower, &mut opened)
            .map_err(at(&format!("lowerdir+={}", lower.display())))?;
    }
    if let Some((upper, work)) = upper {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            set_path(&context, key, path, &mut opened)
                .map_err(at(&format!("{key}={}", path.display())))?;
        }
        fsconfig_set_flag(&context, "volatile").map_err(at("volatile"))?;
    }
    fsconfig_set_flag(&context, "userxattr").map_err(at("userxattr"))?;
    fsconfig_create(&context).map_err(|errno| {
        let reason = kernel_message(context.as_fd());
        Step::Overlay {
            option: format!("create{reason}"),
        }
        .error(errno)
    })?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount"))
}

fn set_path(
    context: &OwnedFd,
    key: &str,
    path: &Path,
    opened: &mut Vec<OwnedFd>,
) -> Result<(), Errno> {
    if path.as_os_str().len() <= OPTION_MAX {
        return fsconfig_set_string(context, key, path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let short = descriptor_path(directory.as_fd());
    opened.push(directory);
    fsconfig_set_string(context, key, short.as_c_str())
}

/// What the kernel wrote about the failure into the context, as `": text"`, or nothing.
fn kernel_message(context: std::os::fd::BorrowedFd<'_>) -> String {
    let mut text = String::new();
    let mut buffer = [0_u8; 512];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        let Some(line) = buffer.get(..length).filter(|line| !line.is_empty()) else {
            break;
        };
        // Lines start with their level: "e ", "w " or "i ".
        text.push_str(": ");
        text.push_str(String::from_utf8_lossy(line.get(2..).unwrap_or(line)).trim());
    }
    text
}

/// An empty tmpfs of at most `size` bytes (rounded up to pages; the kernel's default, half of the
/// memory, when `None`).
pub(crate) fn tmpfs(
    size: Option<u64>,
    mode: u32,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "tmpfs")?;
    if let Some(size) = size {
        fsconfig_set_string(&context, "size", size.to_string())?;
    }
    fsconfig_set_string(&context, "mode", format!("{:o}", mode & 0o7777))?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached copy of what is at `path`, whose last component is not followed, with the mounts
/// below it.
pub(crate) fn bind(path: &Path, attributes: u64) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let mount = rustix::mount::open_tree(CWD, path, flags)?;
    if attributes != 0 {
        let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
        sys::mount_setattr(mount.as_fd(), c"", flags, attributes)?;
    }
    Ok(mount)
}

/// The file systems of one step's /dev.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) dev: OwnedFd,
    pub(crate) pts: OwnedFd,
    pub(crate) shm: OwnedFd,
    /// Bytes of `shm`.
    pub(crate) shm_size: u64,
}

/// Links that every container has in /dev.
const LINKS: [(&str, &str); 6] = [
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
    pub(crate) fn new(shm_size: u64) -> Result<Self, Error> {
        let at = |action: &'static str| move |errno: Errno| Step::Devices { action }.error(errno);
        let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID;
        let noexec = MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let nodev = MountAttrFlags::MOUNT_ATTR_NODEV;
        let dev = tmpfs(Some(64 << 20), 0o755, nosuid | nodev).map_err(at("tmpfs"))?;
        for name in ["pts", "shm", "mqueue"] {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))
                .map_err(at("directories"))?;
        }
        for name in DEVICES {
            make_node_target(&dev, OsStr::new(name)).map_err(at("mount points of nodes"))?;
        }
        for (name, target) in LINKS {
            rustix::fs::symlinkat(target, &dev, name).map_err(at("links"))?;
        }
        let pts = devpts().map_err(at("devpts"))?;
        let shm = tmpfs(Some(shm_size), 0o1777, nosuid | noexec | nodev).map_err(at("shm"))?;
        Ok(Self {
            dev,
            pts,
            shm,
            shm_size,
        })
    }
}

/// An empty file to attach a device node to.
pub(crate) fn make_node_target(dev: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(dev, name.as_bytes(), FileType::RegularFile, mode, 0)
}

/// Terminals of their own, owned by the group `tty` where that id exists.
fn devpts() -> Result<OwnedFd, Errno> {
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
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
