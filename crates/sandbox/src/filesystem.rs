//! New file systems and binds as detached mounts: made by the caller's thread, attached by the
//! child.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::error::Error;
use crate::sys;

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

/// Lets programs, also setuid ones, run from a mount of the directory `path`, whatever the mount
/// says that it is a copy of.
///
/// # Errors
/// [`Error::NoPrograms`] where only the owner of an outer user namespace may change that.
pub(crate) fn allow_programs(mount: &OwnedFd, path: &Path) -> Result<(), Error> {
    let refused = StatVfsMountFlags::NOEXEC | StatVfsMountFlags::NOSUID;
    if !mount_flags(path).intersects(refused) {
        return Ok(());
    }
    let clear = libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID;
    match sys::mount_clear_attributes(mount.as_fd(), clear) {
        Ok(()) => Ok(()),
        Err(_) => expect_programs(path),
    }
}

/// Tells where nothing can be executed, which would be told as if it were the program's fault.
pub(crate) fn expect_programs(path: &Path) -> Result<(), Error> {
    if mount_flags(path).contains(StatVfsMountFlags::NOEXEC) {
        let path = path.to_owned();
        return Err(Error::NoPrograms { path });
    }
    Ok(())
}

fn mount_flags(path: &Path) -> StatVfsMountFlags {
    rustix::fs::statvfs(path).map_or(StatVfsMountFlags::empty(), |found| found.f_flag)
}
