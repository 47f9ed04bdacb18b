//! `docker_like PROGRAM [ARGUMENTS]` (as root) runs a program with the limits that Docker puts on
//! a container by default, as far as they matter to a builder: its capabilities, and no system
//! calls that mount or make namespaces. For tests of what layercake does there.
//!
//! The limits are those of moby's default profile (seccomp) and default capabilities.

#![expect(unsafe_code, reason = "installs a filter and drops capabilities")]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Docker's default capabilities, as in CapBnd of a container.
const CAPABILITIES: u64 = 0xa804_25fb;
/// `CLONE_NEW*` of clone(2), whose other flags stay allowed.
const NAMESPACES: u32 = 0x7e02_0000;

const REFUSED: [libc::c_long; 14] = [
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_bpf,
    libc::SYS_keyctl,
];

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn refuse(errno: i32) -> libc::sock_filter {
    instruction(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0)
}

/// The number of the call is at offset 0 of `struct seccomp_data`, the first argument at 16.
fn filter() -> Vec<libc::sock_filter> {
    let mut filter = vec![instruction(LOAD, 0, 0, 0)];
    for call in REFUSED {
        filter.push(instruction(EQUAL, call as u32, 0, 1));
        filter.push(refuse(libc::EPERM));
    }
    // So that the C library falls back to clone, whose flags can be looked at.
    filter.push(instruction(EQUAL, libc::SYS_clone3 as u32, 0, 1));
    filter.push(refuse(libc::ENOSYS));
    filter.push(instruction(EQUAL, libc::SYS_clone as u32, 0, 3));
    filter.push(instruction(LOAD, 16, 0, 0));
    filter.push(instruction(ANY_BIT, NAMESPACES, 0, 1));
    filter.push(refuse(libc::EPERM));
    filter.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    filter
}

fn restrict() -> std::io::Result<()> {
    let filter = filter();
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the instructions, which live across the call.
    let installed = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            std::ptr::from_ref(&program),
        )
    };
    if installed != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // The program gets no more than the bounding set at its exec.
    for capability in (0..64).filter(|bit| CAPABILITIES & (1 << bit) == 0) {
        // SAFETY: takes numbers only; one past the last capability is refused, which is right.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        return ExitCode::from(2);
    };
    if restrict().is_err() {
        return ExitCode::from(125);
    }
    let _error = Command::new(program).args(arguments).exec();
    ExitCode::from(127)
}
