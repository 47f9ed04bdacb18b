//! The child of a step: carries the operations out and becomes the command.
//!
//! This code runs in a process that shares its memory with the caller (see `sys::spawn`) while
//! other threads of the caller go on: a lock may be held by one of them for ever, and the
//! allocator has locks. So nothing here allocates, locks, panics or returns early: it reads what
//! was prepared and makes system calls. `rustix` calls the kernel directly.

use std::ffi::{CStr, CString, c_int};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::plan::{Command, Op, stage_paths};
use crate::{passing, sys};

/// No failure was recorded.
const NONE: u32 = u32::MAX;
/// The exec failed: [`Program::exec_path`] says at which candidate.
const EXEC: u32 = u32::MAX - 1;
/// The exec failed although the file exists: its interpreter does not.
const INTERPRETER: u32 = u32::MAX - 2;

/// Everything the child needs, and where it says how it failed.
#[derive(Debug)]
pub(crate) struct Program<'f> {
    operations: Vec<Op<'f>>,
    command: Command,
    failed_at: AtomicU32,
    candidate: AtomicU32,
    errno: AtomicI32,
}

/// How the child failed before the command ran.
#[derive(Debug)]
pub(crate) enum Failure<'p, 'f> {
    Operation(&'p Op<'f>, Errno),
    /// No candidate could be executed. The file is the one that decided the error.
    Exec(&'p CStr, Errno),
    /// The file exists, but not what its first line or its header names.
    Interpreter(&'p CStr),
}

impl<'f> Program<'f> {
    pub(crate) fn new(operations: Vec<Op<'f>>, command: Command) -> Self {
        Self {
            operations,
            command,
            failed_at: AtomicU32::new(NONE),
            candidate: AtomicU32::new(0),
            // Not zero, which is no errno.
            errno: AtomicI32::new(libc::EIO),
        }
    }

    /// What the child recorded, once it has exec'd or exited.
    pub(crate) fn failure(&self) -> Option<Failure<'_, 'f>> {
        let errno = Errno::from_raw_os_error(self.errno.load(Ordering::Acquire));
        let candidate = self.candidate.load(Ordering::Acquire) as usize;
        let path = self
            .command
            .candidates
            .get(candidate)
            .map_or(c"", |path| path.as_c_str());
        match self.failed_at.load(Ordering::Acquire) {
            NONE => None,
            EXEC => Some(Failure::Exec(path, errno)),
            INTERPRETER => Some(Failure::Interpreter(path)),
            at => Some(Failure::Operation(self.operations.get(at as usize)?, errno)),
        }
    }

    /// Runs in the child; returns only when something failed, with the exit status.
    pub(crate) fn execute(&self) -> c_int {
        for (at, operation) in self.operations.iter().enumerate() {
            if let Err(errno) = perform(operation) {
                if is_optional(operation, errno) {
                    continue;
                }
                self.record(at as u32, 0, errno);
                return 127;
            }
        }
        self.exec();
        127
    }

    fn record(&self, at: u32, candidate: u32, errno: Errno) {
        self.errno.store(errno.raw_os_error(), Ordering::Release);
        self.candidate.store(candidate, Ordering::Release);
        self.failed_at.store(at, Ordering::Release);
    }

    /// Tries the candidates as execvp(3) does: one that does not exist is skipped, one that may
    /// not be executed is remembered, anything else ends the search.
    fn exec(&self) {
        let mut refused = None;
        for (at, path) in self.command.candidates.iter().enumerate() {
            let errno = sys::execve(path, &self.command.argv, &self.command.envp);
            let at = at as u32;
            match errno {
                Errno::NOENT if exists(path) => {
                    return self.record(INTERPRETER, at, errno);
                }
                Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::STALE => {}
                Errno::ACCESS => refused = refused.or(Some(at)),
                _ => return self.record(EXEC, at, errno),
            }
        }
        match refused {
            Some(at) => self.record(EXEC, at, Errno::ACCESS),
            None => self.record(EXEC, 0, Errno::NOENT),
        }
    }
}

fn exists(path: &CStr) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::empty()).is_ok()
}

/// Whether the step works without this.
fn is_optional(operation: &Op<'_>, errno: Errno) -> bool {
    match operation {
        Op::CgroupNamespace | Op::SessionKeyring => true,
        Op::MaskFile { .. } | Op::MaskDirectory { .. } | Op::ReadOnly { .. } => {
            errno == Errno::NOENT
        }
        // The filter of an outer container; the step then sees that container's name.
        Op::Hostname { is_required, .. } => !is_required && errno == Errno::PERM,
        // A kernel without POSIX message queues.
        Op::NewMount { filesystem, .. } => *filesystem == c"mqueue" && errno == Errno::NODEV,
        _ => false,
    }
}

fn perform(operation: &Op<'_>) -> Result<(), Errno> {
    match operation {
        Op::MountNamespace { stage } => sys::copy_mount_namespace(*stage),
        Op::TellNamespace { channel } => tell_namespace(*channel),
        // 0 is the writer itself.
        Op::JoinCgroup { procs } => rustix::io::write(procs, b"0").map(drop),
        Op::CgroupNamespace => sys::unshare(libc::CLONE_NEWCGROUP),
        Op::AttachAtStage { mount, at } => attach(*mount, at),
        Op::EnterRoot { root } => rustix::process::fchdir(root),
        Op::Attach { mount, target } => attach_below(*mount, target),
        Op::AttachPart {
            view,
            target,
            read_only,
        } => attach_part(*view, target, *read_only),
        Op::MoveFromStage { from, target } => {
            rustix::mount::mount_move(from.as_c_str(), target.as_c_str())
        }
        Op::OwnSysfs {
            target,
            cgroup,
            masked,
        } => own_sysfs(target, cgroup, masked),
        Op::NewMount { filesystem, target } => new_mount(filesystem, target),
        Op::MaskFile { null, target } => {
            rustix::mount::mount_bind(null.as_c_str(), target.as_c_str())
        }
        Op::MaskDirectory { target } => {
            rustix::mount::mount_bind(stage_paths::EMPTY, target.as_c_str())
        }
        Op::ReadOnly { target } => read_only(target),
        Op::StdinNull { null } => stdin_null(null),
        Op::NoTerminal { tty } => no_terminal(tty),
        Op::PivotRoot => pivot_root(),
        Op::ChangeRoot { root } => change_root(*root),
        Op::EnterDirectory { path } => {
            make_private(c"/")?;
            rustix::process::chdir(path.as_c_str())
        }
        Op::ChangeRootHere => rustix::process::chroot(c"."),
        _ => perform_on_process(operation),
    }
}

fn perform_on_process(operation: &Op<'_>) -> Result<(), Errno> {
    match operation {
        Op::Hostname { name, .. } => rustix::system::sethostname(name),
        Op::LoopbackUp => loopback_up(),
        Op::EnterNetwork { namespace } => rustix::thread::move_into_link_name_space(
            *namespace,
            Some(rustix::thread::LinkNameSpaceType::Network),
        ),
        Op::Stdin { fd } => rustix::stdio::dup2_stdin(fd),
        Op::Streams {
            stdout,
            stderr,
            uid,
            gid,
        } => streams(*stdout, *stderr, *uid, *gid),
        Op::WorkingDirectory { path } => rustix::process::chdir(path.as_c_str()),
        Op::ResourceLimit {
            resource,
            soft,
            hard,
        } => sys::set_rlimit(0, resource.number(), *soft, *hard),
        Op::SessionKeyring => sys::new_session_keyring(),
        Op::ProcessGroup => process_group(),
        Op::Signals => {
            sys::reset_signal_actions();
            sys::set_signal_mask(0).map(drop)
        }
        Op::SignalScope { ruleset } => sys::landlock_restrict(*ruleset),
        Op::Seccomp { filter } => sys::install_seccomp(filter),
        Op::Notify { filter, channel } => notify(filter, *channel),
        Op::BoundingSet { keep } => bounding_set(*keep),
        Op::Groups { groups } => rustix::thread::set_thread_groups(groups),
        Op::Gid { gid } => {
            let gid = Gid::from_raw(*gid);
            rustix::thread::set_thread_res_gid(gid, gid, gid)
        }
        Op::Uid { uid } => {
            let uid = Uid::from_raw(*uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid)
        }
        Op::Capabilities { keep } => capabilities(*keep),
        Op::ParentDeathSignal => {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        }
        Op::CloseDescriptors => sys::close_from(3),
        // All others are in `perform`.
        _ => Err(Errno::NOSYS),
    }
}

/// Attaches a detached mount at an absolute path of the stage.
fn attach(mount: BorrowedFd<'_>, at: &CStr) -> Result<(), Errno> {
    rustix::mount::move_mount(mount, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Attaches a detached mount below the root, which is the working directory. The target was
/// resolved by the caller; a symlink that someone put there since (in a directory shared with
/// another step) is refused, not followed.
fn attach_below(mount: BorrowedFd<'_>, target: &CStr) -> Result<(), Errno> {
    let at = rustix::fs::openat2(
        CWD,
        target,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", at, c"", flags)
}

fn attach_part(view: BorrowedFd<'_>, target: &CStr, read_only: bool) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let part = rustix::mount::open_tree(view, c"", flags)?;
    if read_only {
        let flags = libc::AT_EMPTY_PATH;
        sys::mount_setattr(part.as_fd(), c"", flags, libc::MOUNT_ATTR_RDONLY)?;
    }
    attach_below(part.as_fd(), target)
}

/// See [`Op::OwnSysfs`].
fn own_sysfs(target: &CStr, cgroup: &CStr, masked: &[CString]) -> Result<(), Errno> {
    if new_mount(c"sysfs", target).is_err() {
        return rustix::mount::mount_move(stage_paths::SYS, target);
    }
    match rustix::mount::mount_bind_recursive(stage_paths::CGROUP, cgroup) {
        // A kernel without control groups.
        Err(Errno::NOENT) => {}
        result => result?,
    }
    for target in masked {
        match rustix::mount::mount_bind(stage_paths::EMPTY, target.as_c_str()) {
            Err(Errno::NOENT) => {}
            result => result?,
        }
    }
    only_to_read(target)
}

/// Makes the mounts at and below `target` read-only, and nothing in them can be run or is a device.
pub(crate) fn only_to_read(target: &CStr) -> Result<(), Errno> {
    let attributes = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    sys::mount_setattr(CWD, target, libc::AT_RECURSIVE, attributes)
}

fn new_mount(filesystem: &CStr, target: &CStr) -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(filesystem, target, filesystem, flags, None)
}

fn read_only(target: &CStr) -> Result<(), Errno> {
    // With what is mounted below, which the kernel does not let go of in a user namespace.
    rustix::mount::mount_bind_recursive(target, target)?;
    sys::mount_setattr(CWD, target, libc::AT_RECURSIVE, libc::MOUNT_ATTR_RDONLY)
}

fn stdin_null(null: &CStr) -> Result<(), Errno> {
    let null = rustix::fs::openat(CWD, null, OFlags::RDONLY | OFlags::NOCTTY, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)
}

/// Makes the working directory the root and lets go of the stage. `pivot_root(".", ".")` puts
/// the old root on top of the new one, from where it is detached.
fn pivot_root() -> Result<(), Errno> {
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

fn change_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")
}

pub(crate) fn loopback_up() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sys::loopback_up(socket.as_fd())
}

fn streams(
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
    uid: u32,
    gid: u32,
) -> Result<(), Errno> {
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    if uid == 0 {
        return Ok(());
    }
    for pipe in [stdout, stderr] {
        rustix::fs::fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

/// Gives the caller's terminal up, if there is one: a program that asks for a password there must
/// fail at once, as in any container, and not wait for the user of the build.
fn no_terminal(tty: &CStr) -> Result<(), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, tty, flags, Mode::empty()) {
        Ok(tty) => sys::give_terminal_up(tty.as_fd()),
        // No terminal, or (of another user's, in a user namespace) none that could be opened.
        Err(Errno::NXIO | Errno::IO | Errno::ACCESS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// A process group of its own, so that neither the terminal nor `kill 0` reaches across.
///
/// Not a session: a new session is a new scheduling group (sched_autogroup), and moving into one
/// makes the process queue again behind everybody who runs. On a busy machine that costs 2.7 ms
/// per step.
fn process_group() -> Result<(), Errno> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::setpgid(None, None)
}

/// Installs the filter and sends its listener away. From here on calls wait for the supervisor.
fn notify(filter: &[sys::BpfInstruction], channel: BorrowedFd<'_>) -> Result<(), Errno> {
    let listener = sys::notify::install_notifying_filter(filter)?;
    passing::send(channel, sys::notify::borrow(listener))
}

/// Sends the own mount namespace away. At the stage, which has a /proc.
fn tell_namespace(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::openat(CWD, c"/proc/self/ns/mnt", flags, Mode::empty())?;
    passing::send(channel, namespace.as_fd())
}

fn bounding_set(keep: u64) -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let capability = 1_u64 << bit;
        if keep & capability != 0 {
            continue;
        }
        let set = CapabilitySet::from_bits_retain(capability);
        match rustix::thread::remove_capability_from_bounding_set(set) {
            // Past the last capability of this kernel.
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

fn capabilities(keep: u64) -> Result<(), Errno> {
    rustix::thread::clear_ambient_capability_set()?;
    let keep = CapabilitySet::from_bits_retain(keep);
    // A caller that has less (in an outer container) can only keep what it has.
    let have = rustix::thread::capabilities(None)?.permitted;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: keep.intersection(have),
            permitted: keep.intersection(have),
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Used by the stage, which is set up with the same calls: everything below `path` stops
/// receiving and sending mount events.
pub(crate) fn make_private(path: &CStr) -> Result<(), Errno> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(path, flags)
}
