//! A real /proc, terminals and a host name for a step in a chroot, where layercake may mount after
//! all: root with `CAP_SYS_ADMIN`. They are in namespaces of the step's own.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::error::Error;
use crate::plan::{self, MASKED_DIRECTORIES, MASKED_FILES, Op, READ_ONLY};
use crate::{child, devices, sys, watch};

/// The new namespaces of a step (`CLONE_NEW*`).
pub(super) const NAMESPACES: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWUTS;

/// Mounts for one step.
pub(super) struct Live {
    proc: OwnedFd,
    pts: OwnedFd,
}

impl Live {
    /// `None` where mounts are refused.
    pub(super) fn new() -> Option<Self> {
        static CAN: OnceLock<bool> = OnceLock::new();
        let can = *CAN.get_or_init(|| super::has_admin() && try_in_own_namespace().is_ok());
        can.then(Self::make)?.ok()
    }

    fn make() -> Result<Self, Errno> {
        Ok(Self {
            proc: proc()?,
            pts: devices::devpts()?,
        })
    }

    /// What the child, in [`NAMESPACES`], does to enter `root`.
    pub(super) fn operations(&self, root: &Path, hostname: &str) -> Result<Vec<Op<'_>>, Error> {
        let mut ops = vec![
            Op::Hostname {
                name: hostname.as_bytes().to_vec(),
                is_required: false,
            },
            Op::EnterDirectory {
                path: plan::c_string("root", root.as_os_str())?,
            },
            Op::Attach {
                mount: self.proc.as_fd(),
                target: c"proc".to_owned(),
            },
            Op::Attach {
                mount: self.pts.as_fd(),
                target: c"dev/pts".to_owned(),
            },
        ];
        let covers = MASKED_FILES.map(|name| (c"dev/null", name));
        // Any empty directory; that of /sys is one.
        let empty = MASKED_DIRECTORIES.map(|name| (c"sys", name));
        for (cover, name) in covers.into_iter().chain(empty) {
            ops.push(Op::MaskFile {
                null: cover.to_owned(),
                target: below_proc(name)?,
            });
        }
        for name in READ_ONLY {
            let target = below_proc(name)?;
            ops.push(Op::ReadOnly { target });
        }
        ops.push(Op::ChangeRootHere);
        // There is no pid namespace to keep signals in.
        ops.extend(watch::scope().map(|ruleset| Op::SignalScope { ruleset }));
        Ok(ops)
    }
}

fn below_proc(name: &str) -> Result<CString, Error> {
    plan::c_string("path", format!("proc/{name}").as_ref())
}

/// Of this pid namespace, but a step sees only its own processes: what it may not trace is hidden
/// from it (by mount, so the names of options that Linux 5.8 brought).
fn proc() -> Result<OwnedFd, Errno> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "proc")?;
    fsconfig_set_string(&context, "hidepid", "ptraceable")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Mounts for nobody to see: a security module or a filter may refuse any of the calls.
fn try_in_own_namespace() -> Result<(), Errno> {
    let attempt = || {
        sys::unshare(NAMESPACES)?;
        child::make_private(c"/")?;
        let live = Live::make()?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&live.proc, c"", CWD, c"/proc", flags)
    };
    std::thread::scope(|scope| match scope.spawn(attempt).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
