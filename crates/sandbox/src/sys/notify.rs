//! Calls of a seccomp supervisor: notifications, the memory and the limits of another process,
//! `stat` in the kernel's own layout.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::{BpfInstruction, check};

/// Wakes the supervisor on the processor of the caller, and the caller on the supervisor's (Linux
/// 6.6). Not in the libc crate.
const SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: u64 = 1;

/// One system call that waits for an answer (`struct seccomp_notif`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    /// What answers refer to; the kernel never uses one twice for a listener.
    pub(crate) id: u64,
    /// The calling thread, in the pid namespace of the supervisor.
    pub(crate) thread: u32,
    pub(crate) number: i32,
    pub(crate) args: [u64; 6],
}

/// Installs a filter on this thread and returns the listener that its `USER_NOTIF` verdicts go to.
/// A call that the supervisor has begun to answer is interrupted by fatal signals only, where the
/// kernel can do that (Linux 5.19).
pub(crate) fn install_notifying_filter(program: &[BpfInstruction]) -> Result<RawFd, Errno> {
    let Ok(length) = u16::try_from(program.len()) else {
        return Err(Errno::INVAL);
    };
    let filter = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let install = |flags: libc::c_ulong| {
        // SAFETY: the kernel copies `len` instructions from `filter` and does not write to them.
        check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                std::ptr::from_ref(&filter),
            )
        })
    };
    let fd = match install(listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => install(listener)?,
        result => result?,
    };
    RawFd::try_from(fd).map_err(|_| Errno::BADF)
}

/// Borrows a descriptor that the kernel just made in this process.
pub(crate) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: for the child of a step, whose descriptors stay open until it closes all of them.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Asks for handovers without a detour through the scheduler; false where the kernel cannot.
pub(crate) fn wake_synchronously(listener: BorrowedFd<'_>) -> bool {
    // SAFETY: this request takes a number, not a pointer.
    check(i64::from(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
            SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP,
        )
    }))
    .is_ok()
}

/// Waits for the next notification.
///
/// # Errors
/// `ENOENT` when the caller died meanwhile, or (Linux 6.6) when nobody is left who could call.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    // SAFETY: all zeroes is a valid seccomp_notif, and what the kernel demands.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request fills one seccomp_notif.
    check(i64::from(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut raw,
        )
    }))?;
    Ok(Notification {
        id: raw.id,
        thread: raw.pid,
        number: raw.data.nr,
        args: raw.data.args,
    })
}

/// Whether the caller still waits, and so whether its thread number still means the same thread.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the request reads one u64.
    check(i64::from(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            std::ptr::from_ref(&id),
        )
    }))
    .is_ok()
}

/// How a notified call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The kernel carries the call out.
    Continue,
    Value(i64),
    Error(Errno),
}

/// Ends a notified call.
///
/// # Errors
/// `ENOENT` when the caller is gone.
pub(crate) fn reply(listener: BorrowedFd<'_>, id: u64, reply: Reply) -> Result<(), Errno> {
    let (val, error, flags) = match reply {
        Reply::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Reply::Value(value) => (value, 0, 0),
        Reply::Error(errno) => (0, -errno.raw_os_error(), 0),
    };
    let response = libc::seccomp_notif_resp {
        id,
        val,
        error,
        flags,
    };
    // SAFETY: the request reads one seccomp_notif_resp.
    check(i64::from(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            std::ptr::from_ref(&response),
        )
    }))?;
    Ok(())
}

/// Ends a notified call with a copy of `fd` as its result (Linux 5.9; in one step from 5.14 on).
///
/// # Errors
/// `ENOENT` when the caller is gone; `EMFILE` when it may have no more descriptors.
pub(crate) fn reply_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> Result<(), Errno> {
    let mut request = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: fd.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec {
            libc::O_CLOEXEC as u32
        } else {
            0
        },
    };
    let add = |request: &libc::seccomp_notif_addfd| {
        // SAFETY: the request reads one seccomp_notif_addfd.
        check(i64::from(unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ADDFD,
                std::ptr::from_ref(request),
            )
        }))
    };
    match add(&request) {
        Err(Errno::INVAL) => {
            request.flags = 0;
            let number = add(&request)?;
            reply(listener, id, Reply::Value(number))
        }
        other => other.map(drop),
    }
}

/// Reads memory of another process into the front of `buffer`; returns how many bytes there were
/// before the first page that cannot be read.
pub(crate) fn read_memory(thread: u32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address as usize),
        iov_len: buffer.len(),
    };
    // SAFETY: writes at most `buffer.len()` bytes to `buffer`; the remote address is never
    // dereferenced here.
    let read = check(unsafe {
        libc::syscall(
            libc::SYS_process_vm_readv,
            thread as i64,
            &raw const local,
            1_u64,
            &raw const remote,
            1_u64,
            0_u64,
        )
    })?;
    usize::try_from(read).map_err(|_| Errno::FAULT)
}

/// The soft and the hard limit of another process.
pub(crate) fn limit_of(thread: u32, resource: u32) -> Result<(u64, u64), Errno> {
    let mut limit = MaybeUninit::<libc::rlimit64>::uninit();
    // SAFETY: fills one rlimit64 when it succeeds; no new limit is given.
    let limit = unsafe {
        check(libc::syscall(
            libc::SYS_prlimit64,
            thread as i64,
            resource,
            std::ptr::null::<u8>(),
            limit.as_mut_ptr(),
        ))?;
        limit.assume_init()
    };
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// `struct stat` of a path as the kernel writes it, with another owner put in.
pub(crate) fn stat_bytes(
    path: &CStr,
    follow: bool,
    owner: (u32, u32),
) -> Result<[u8; size_of::<libc::stat>()], Errno> {
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    // SAFETY: all zeroes is a valid stat (numbers and reserved space).
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: fills one `struct stat`; the libc crate's type has the kernel's layout on 64-bit
    // machines.
    check(unsafe {
        libc::syscall(
            libc::SYS_newfstatat,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut stat,
            flags,
        )
    })?;
    (stat.st_uid, stat.st_gid) = owner;
    // SAFETY: the value was zeroed with its padding, and any bytes are valid.
    Ok(unsafe { std::mem::transmute::<libc::stat, [u8; size_of::<libc::stat>()]>(stat) })
}

/// `struct statx` of a path as the kernel writes it, with another owner put in. `flags` are those
/// of the caller but for how the path is followed.
pub(crate) fn statx_bytes(
    path: &CStr,
    flags: i32,
    mask: u32,
    owner: (u32, u32),
) -> Result<[u8; size_of::<libc::statx>()], Errno> {
    // SAFETY: all zeroes is a valid statx.
    let mut statx: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: fills one `struct statx`.
    check(unsafe {
        libc::syscall(
            libc::SYS_statx,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            mask,
            &raw mut statx,
        )
    })?;
    (statx.stx_uid, statx.stx_gid) = owner;
    // SAFETY: as for `stat_bytes`.
    Ok(unsafe { std::mem::transmute::<libc::statx, [u8; size_of::<libc::statx>()]>(statx) })
}

/// `openat(2)` below the working directory with the caller's raw flags.
pub(crate) fn open_raw(path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: a null-terminated path; the result is a new descriptor.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags | libc::O_CLOEXEC,
            mode,
        )
    })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of a descriptor of another process (Linux 5.6). `thread` must lead its process.
pub(crate) fn take_descriptor(thread: u32, fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed; the result is a new descriptor.
    let process = check(unsafe { libc::syscall(libc::SYS_pidfd_open, thread as i64, 0_u64) })?;
    let process = RawFd::try_from(process).map_err(|_| Errno::BADF)?;
    // SAFETY: nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    // SAFETY: as above.
    let copy =
        check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0_u64) })?;
    let copy = RawFd::try_from(copy).map_err(|_| Errno::BADF)?;
    // SAFETY: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The process at the other end of a socket, by its number in this pid namespace.
pub(crate) fn peer(socket: &OwnedFd) -> Result<u32, Errno> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(|_| Errno::SRCH)
}
