//! The system calls that neither `nix` nor `rustix` offers safely: the only `unsafe` code of the
//! workspace. Everything here is a thin, checked door; no policy.

#![expect(
    unsafe_code,
    reason = "clone with a shared address space, exec, and calls that no crate wraps"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::child::Program;

pub(crate) mod notify;

/// Bytes of stack for the child until it execs: ample for a loop of system calls also in a debug
/// build. One more page below it is unmapped by protection.
const CHILD_STACK: usize = 256 * 1024;

/// The number of signals of the kernel (`_NSIG`).
const SIGNAL_MAX: c_int = 64;

/// A child that `spawn` made: not yet waited for.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// What `wait4(2)` reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    /// The exit code, if the process exited.
    pub(crate) code: Option<i32>,
    /// The signal, if one killed it.
    pub(crate) signal: Option<i32>,
    pub(crate) user_cpu: Duration,
    pub(crate) system_cpu: Duration,
    /// Kibibytes.
    pub(crate) peak_rss: u64,
    /// Blocks of 512 bytes.
    pub(crate) blocks_in: u64,
    /// Blocks of 512 bytes.
    pub(crate) blocks_out: u64,
}

/// Strings and the null-terminated array of pointers to them that `execve(2)` wants, made before
/// the clone because the child may not allocate.
#[derive(Debug)]
pub(crate) struct CStringArray {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStringArray {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        // The heap block of a CString does not move when the vector does.
        let pointers = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self { strings, pointers }
    }

    #[cfg(test)]
    pub(crate) fn strings(&self) -> &[CString] {
        &self.strings
    }

    /// Never empty: it ends with a null pointer.
    fn as_ptr(&self) -> *const *const c_char {
        debug_assert_eq!(self.pointers.len(), self.strings.len() + 1);
        self.pointers.as_ptr()
    }
}

/// A private anonymous mapping with a guard page at its low end.
struct Stack {
    base: *mut c_void,
    size: usize,
}

impl Stack {
    fn new() -> io::Result<Self> {
        let page = rustix::param::page_size();
        let size = CHILD_STACK + page;
        // SAFETY: a new anonymous mapping at an address the kernel chooses aliases nothing.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base, size };
        // SAFETY: the first page of the mapping made above; nothing points into it.
        if unsafe { libc::mprotect(base, page, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    /// The end of the mapping: stacks grow down. Page-aligned, so aligned for every ABI.
    fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(self.size)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: `base` and `size` are those of the mapping this value owns.
        unsafe { libc::munmap(self.base, self.size) };
    }
}

extern "C" fn child_main(program: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a pointer to a `Program` it borrows until the child has exec'd or
    // exited, and only shared references to it exist.
    let program = unsafe { &*program.cast_const().cast::<Program<'_>>() };
    program.execute()
}

/// Starts `program` in a child that shares this address space until it execs or exits, in the
/// namespaces that `namespaces` (`CLONE_NEW*`) names. The calling thread stands still meanwhile.
///
/// The address space is shared because a plain fork copies the page tables: with 500 MB resident
/// that is 16 ms, with this call it is 0.06 ms.
///
/// # Errors
/// Those of `clone(2)` and `mmap(2)`. A failure inside `program` is in [`Program::failure`].
pub(crate) fn spawn(program: &Program<'_>, namespaces: c_int) -> io::Result<Child> {
    let stack = Stack::new()?;
    let flags = namespaces | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let argument = ptr::from_ref(program).cast_mut().cast::<c_void>();
    let mut pidfd: RawFd = -1;
    // No handler of this program may run in the child: it would work on shared memory as if it
    // were here. The child unblocks signals after it has reset every handler.
    let blocked = BlockedSignals::all()?;
    // SAFETY: CLONE_VFORK keeps this thread, and with it `stack`, `program` and `pidfd`, in place
    // until the child has left the address space. `Program::execute` is written for that
    // situation: it only reads `program` (its record of failure is atomic), makes system calls,
    // takes no lock, does not allocate, and ends in exec or in the exit that follows its return.
    let pid = unsafe {
        libc::clone(
            child_main,
            stack.top(),
            flags,
            argument,
            ptr::from_mut(&mut pidfd),
        )
    };
    let error = io::Error::last_os_error();
    drop(blocked);
    let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
        return Err(error);
    };
    // SAFETY: clone succeeded with CLONE_PIDFD, so the kernel stored a new descriptor here.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Blocks every signal in this thread for as long as the value lives.
struct BlockedSignals(u64);

impl BlockedSignals {
    fn all() -> io::Result<Self> {
        set_signal_mask(u64::MAX).map(Self).map_err(io::Error::from)
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // The mask came from the kernel, so setting it back cannot be refused.
        let _ = set_signal_mask(self.0);
    }
}

/// Sets the kernel's signal mask of this thread (bit n-1 for signal n), also for the two signals
/// that the C library keeps for itself, and returns the previous one.
pub(crate) fn set_signal_mask(mask: u64) -> Result<u64, Errno> {
    let mut previous = 0_u64;
    // SAFETY: both pointers are to 8-byte masks, the size that is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            ptr::from_ref(&mask),
            ptr::from_mut(&mut previous),
            size_of::<u64>(),
        )
    })?;
    Ok(previous)
}

/// Gives every signal its default action. For the child only: it has its own table (no
/// `CLONE_SIGHAND`), so the caller's handlers stay.
pub(crate) fn reset_signal_actions() {
    // `struct sigaction` of the kernel on x86-64 and aarch64: handler, flags, restorer, mask.
    let default = [0_u64; 4];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: `default` has the layout and the mask size that the kernel expects; the old
        // action is not asked for. SIGKILL and SIGSTOP answer EINVAL, which is right.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                ptr::from_ref(&default),
                ptr::null::<u8>(),
                size_of::<u64>(),
            );
        }
    }
}

/// Gives SIGCHLD its default action. A program may be started with it ignored, and then the kernel
/// reaps children itself: nobody could wait for them.
pub(crate) fn reset_child_signal() {
    // SAFETY: SIG_DFL runs no code of this program.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// `execve(2)`; returns only when it failed.
pub(crate) fn execve(path: &CStr, argv: &CStringArray, envp: &CStringArray) -> Errno {
    // SAFETY: a null-terminated string and two null-terminated arrays of such strings that live
    // across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execve,
            path.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    match check(result) {
        Err(errno) => errno,
        // The kernel never returns success here.
        Ok(_) => Errno::NOEXEC,
    }
}

/// `mount_setattr(2)` (Linux 5.12): sets attributes on the mount that `path`, relative to `at`,
/// names; `AT_EMPTY_PATH` with an empty path means `at` itself.
pub(crate) fn mount_setattr(
    at: BorrowedFd<'_>,
    path: &CStr,
    flags: c_int,
    set: u64,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: `attributes` is the structure the call reads, with its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            path.as_ptr(),
            flags,
            ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// `mount_setattr(2)`: clears attributes of a mount.
pub(crate) fn mount_clear_attributes(mount: BorrowedFd<'_>, clear: u64) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: `attributes` is the structure the call reads, with its size; the path is empty.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Closes every descriptor from `first` on (Linux 5.9).
pub(crate) fn close_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: for the child just before exec: no owner of a descriptor runs there any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}

/// Joins a new anonymous session keyring, so that the step does not possess the caller's keys.
pub(crate) fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<c_char>(),
        )
    })?;
    Ok(())
}

/// One instruction of a seccomp filter (`struct sock_filter`).
pub(crate) use libc::sock_filter as BpfInstruction;

/// Installs a seccomp filter on this thread. Without `no_new_privs` it needs `CAP_SYS_ADMIN` in
/// the user namespace.
pub(crate) fn install_seccomp(program: &[BpfInstruction]) -> Result<(), Errno> {
    let Ok(length) = u16::try_from(program.len()) else {
        return Err(Errno::INVAL);
    };
    let filter = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions from `filter` and does not write to them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            ptr::from_ref(&filter),
        )
    })?;
    Ok(())
}

/// Brings the interface `lo` of this network namespace up, through any INET socket in it.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: all zeroes is a valid ifreq: a name, and a union of plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq from the pointer.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            ptr::from_ref(&request),
        )
    })?;
    Ok(())
}

/// Gives up the controlling terminal that `tty` (an open /dev/tty) stands for. Of this process
/// only, as it is no session leader.
pub(crate) fn give_terminal_up(tty: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: TIOCNOTTY takes no argument.
    check(unsafe { libc::syscall(libc::SYS_ioctl, tty.as_raw_fd(), libc::TIOCNOTTY, 0) })?;
    Ok(())
}

/// Sets a limit (`RLIMIT_*`) of a process, 0 being this one.
pub(crate) fn set_rlimit(pid: u32, resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: reads one rlimit64; the old limit is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            i64::from(pid),
            resource,
            ptr::from_ref(&limit),
            ptr::null::<u8>(),
        )
    })?;
    Ok(())
}

/// Waits for the end of a child of this process and collects what it used.
pub(crate) fn wait4(pid: Pid) -> io::Result<Waited> {
    let mut status: c_int = 0;
    // SAFETY: all zeroes is a valid rusage: it has only numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to values of the types that the call fills.
        let result = unsafe {
            libc::wait4(
                pid.as_raw_nonzero().get(),
                &raw mut status,
                0,
                &raw mut usage,
            )
        };
        if result >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(Waited {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        user_cpu: duration(usage.ru_utime),
        system_cpu: duration(usage.ru_stime),
        peak_rss: unsigned(usage.ru_maxrss),
        blocks_in: unsigned(usage.ru_inblock),
        blocks_out: unsigned(usage.ru_oublock),
    })
}

/// The mount namespace of a process (Linux 6.11).
pub(crate) fn mount_namespace(pidfd: &OwnedFd) -> Result<OwnedFd, Errno> {
    /// `PIDFD_GET_MNT_NAMESPACE`, which no crate has: `_IO(0xFF, 3)`.
    const GET_MOUNT_NAMESPACE: libc::Ioctl = 0xFF03;
    // SAFETY: the request takes no argument.
    let fd = check(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_MOUNT_NAMESPACE, 0).into() })?;
    // SAFETY: the kernel returned a new descriptor; it has the close-on-exec flag.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The peak resident size of this process so far, in kibibytes.
pub(crate) fn own_peak_rss() -> u64 {
    // SAFETY: all zeroes is a valid rusage, and the call fills one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    unsigned(usage.ru_maxrss)
}

/// `fork(2)` of a process with one thread; `None` in the child.
///
/// # Errors
/// Those of `fork(2)`, and `EBUSY` when the process has more than one thread: their locks would
/// stay taken in the child for ever.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(Errno::BUSY.into());
    }
    // SAFETY: there is one thread, so the child has a whole, consistent copy of the process.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Ends the process at once: no destructors, no handlers of the C library.
pub(crate) fn exit(code: c_int) -> ! {
    // SAFETY: ends the process; nothing is observed afterwards.
    unsafe { libc::_exit(code) }
}

/// A Landlock ruleset that says one thing: no signals to processes outside of the domain
/// (`LANDLOCK_SCOPE_SIGNAL`, Linux 6.12).
///
/// # Errors
/// `EINVAL` where the kernel is older, `ENOSYS` or `EOPNOTSUPP` where it has no Landlock.
pub(crate) fn landlock_signal_scope() -> Result<OwnedFd, Errno> {
    /// `struct landlock_ruleset_attr` of include/uapi/linux/landlock.h.
    #[repr(C)]
    struct Attributes {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    const SCOPE_SIGNAL: u64 = 1 << 1;
    let attributes = Attributes {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: SCOPE_SIGNAL,
    };
    // SAFETY: reads `size_of` bytes of the structure.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(&attributes),
            size_of::<Attributes>(),
            0_u32,
        )
    })?;
    // SAFETY: the kernel returned a new descriptor; it has the close-on-exec flag.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Puts this thread into a new Landlock domain with the rules; needs `CAP_SYS_ADMIN`.
pub(crate) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) })?;
    Ok(())
}

/// `setns(2)` into the mount namespace `namespace` and then into a copy of it. For the child: it
/// has its own root and working directory (no `CLONE_FS`).
pub(crate) fn copy_mount_namespace(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::thread::move_into_link_name_space(
        namespace.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::Mount),
    )?;
    unshare(libc::CLONE_NEWNS)
}

/// `unshare(2)` of namespaces and of the root and working directory; never of descriptors.
pub(crate) fn unshare(flags: c_int) -> Result<(), Errno> {
    debug_assert_eq!(flags & libc::CLONE_FILES, 0);
    // SAFETY: without CLONE_FILES the call does not take descriptors away from other threads.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) })?;
    Ok(())
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: errno of this thread. The child of `spawn` shares it with its parent, which stands
    // still and reads its own only after the child is gone.
    let errno = unsafe { *libc::__errno_location() };
    Err(Errno::from_raw_os_error(errno))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

fn unsigned(number: c_long) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
