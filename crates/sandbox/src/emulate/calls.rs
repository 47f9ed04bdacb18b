//! Which system calls the supervisor answers, and the filter that brings them to it.

use std::ffi::c_long;
use std::sync::OnceLock;

use crate::seccomp::{
    ALLOW, ARCHITECTURE, JUMP_ANY_BIT, JUMP_EQUAL, LOAD, NATIVE_ARCHITECTURE, NUMBER, RETURN, Rule,
    branch, inspect, search, statement,
};
use crate::sys::BpfInstruction;

/// What is asked for, whatever the call that asks is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "newer machines lack the older calls")
)]
pub(super) enum Call {
    Chown,
    Lchown,
    Fchown,
    Fchownat,
    Getuid,
    Geteuid,
    Getgid,
    Getegid,
    Getresuid,
    Getresgid,
    Getgroups,
    Setuid,
    Setgid,
    Setreuid,
    Setregid,
    Setresuid,
    Setresgid,
    Setfsuid,
    Setfsgid,
    Setgroups,
    Capget,
    Capset,
    Prctl,
    Getrlimit,
    Prlimit,
    Getsockopt,
    Chroot,
    Execve,
    Execveat,
    Stat,
    Lstat,
    Fstat,
    Newfstatat,
    Statx,
    Open,
    Creat,
    Openat,
    Openat2,
    Mkdir,
    Mkdirat,
    Symlink,
    Symlinkat,
    Mknod,
    Mknodat,
    Rename,
    Renameat,
    Link,
    Linkat,
    Utimensat,
    Setxattr,
    Lsetxattr,
    Fsetxattr,
    Removexattr,
    Lremovexattr,
    Fremovexattr,
}

/// When a call goes to the supervisor.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// This argument has one of these bits.
    Bits(u32, u32),
    /// This argument is one of these.
    Is(u32, &'static [u32]),
}

/// Names of files are made.
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
const NO_FOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;
const KEEP_CAPS: &[u32] = &[libc::PR_GET_KEEPCAPS as u32, libc::PR_SET_KEEPCAPS as u32];
/// The limit that holds the number of the credentials.
const LOCKS: &[u32] = &[super::LIMIT];
const PEER_CREDENTIALS: &[u32] = &[libc::SO_PEERCRED as u32];

const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
/// Answers success without doing anything.
const PRETEND: u32 = libc::SECCOMP_RET_ERRNO;

/// Offset of the low half of an argument in `struct seccomp_data`.
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const CALLS: &[(c_long, Call, When)] = &[
    (libc::SYS_fchown, Call::Fchown, When::Always),
    (libc::SYS_fchownat, Call::Fchownat, When::Always),
    (libc::SYS_getuid, Call::Getuid, When::Always),
    (libc::SYS_geteuid, Call::Geteuid, When::Always),
    (libc::SYS_getgid, Call::Getgid, When::Always),
    (libc::SYS_getegid, Call::Getegid, When::Always),
    (libc::SYS_getresuid, Call::Getresuid, When::Always),
    (libc::SYS_getresgid, Call::Getresgid, When::Always),
    (libc::SYS_getgroups, Call::Getgroups, When::Always),
    (libc::SYS_setuid, Call::Setuid, When::Always),
    (libc::SYS_setgid, Call::Setgid, When::Always),
    (libc::SYS_setreuid, Call::Setreuid, When::Always),
    (libc::SYS_setregid, Call::Setregid, When::Always),
    (libc::SYS_setresuid, Call::Setresuid, When::Always),
    (libc::SYS_setresgid, Call::Setresgid, When::Always),
    (libc::SYS_setfsuid, Call::Setfsuid, When::Always),
    (libc::SYS_setfsgid, Call::Setfsgid, When::Always),
    (libc::SYS_setgroups, Call::Setgroups, When::Always),
    (libc::SYS_capget, Call::Capget, When::Always),
    (libc::SYS_capset, Call::Capset, When::Always),
    (libc::SYS_prctl, Call::Prctl, When::Is(0, KEEP_CAPS)),
    (libc::SYS_prlimit64, Call::Prlimit, When::Is(1, LOCKS)),
    (
        libc::SYS_getsockopt,
        Call::Getsockopt,
        When::Is(2, PEER_CREDENTIALS),
    ),
    (libc::SYS_chroot, Call::Chroot, When::Always),
    (libc::SYS_execve, Call::Execve, When::Always),
    (libc::SYS_execveat, Call::Execveat, When::Always),
    (libc::SYS_fstat, Call::Fstat, When::Always),
    (libc::SYS_newfstatat, Call::Newfstatat, When::Always),
    (libc::SYS_statx, Call::Statx, When::Always),
    (libc::SYS_openat, Call::Openat, When::Bits(2, CREATES)),
    (libc::SYS_openat2, Call::Openat2, When::Always),
    (libc::SYS_mkdirat, Call::Mkdirat, When::Always),
    (libc::SYS_symlinkat, Call::Symlinkat, When::Always),
    (libc::SYS_mknodat, Call::Mknodat, When::Always),
    (libc::SYS_setxattr, Call::Setxattr, When::Always),
    (libc::SYS_lsetxattr, Call::Lsetxattr, When::Always),
    (libc::SYS_fsetxattr, Call::Fsetxattr, When::Always),
    (libc::SYS_removexattr, Call::Removexattr, When::Always),
    (libc::SYS_lremovexattr, Call::Lremovexattr, When::Always),
    (libc::SYS_fremovexattr, Call::Fremovexattr, When::Always),
];

/// Calls that copy a symlink of a lower layer up, to another inode. They matter only when there are
/// symlinks with owners.
const COPY_UP_CALLS: &[(c_long, Call, When)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, Call::Rename, When::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, Call::Link, When::Always),
    (libc::SYS_renameat, Call::Renameat, When::Always),
    (libc::SYS_renameat2, Call::Renameat, When::Always),
    (libc::SYS_linkat, Call::Linkat, When::Always),
    (
        libc::SYS_utimensat,
        Call::Utimensat,
        When::Bits(3, NO_FOLLOW),
    ),
];

/// Calls that newer machines no longer have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(c_long, Call, When)] = &[
    (libc::SYS_chown, Call::Chown, When::Always),
    (libc::SYS_lchown, Call::Lchown, When::Always),
    (libc::SYS_getrlimit, Call::Getrlimit, When::Is(0, LOCKS)),
    (libc::SYS_stat, Call::Stat, When::Always),
    (libc::SYS_lstat, Call::Lstat, When::Always),
    (libc::SYS_open, Call::Open, When::Bits(1, CREATES)),
    (libc::SYS_creat, Call::Creat, When::Always),
    (libc::SYS_mkdir, Call::Mkdir, When::Always),
    (libc::SYS_symlink, Call::Symlink, When::Always),
    (libc::SYS_mknod, Call::Mknod, When::Always),
];
/// 64-bit Arm has `getrlimit`, but none of the others.
#[cfg(target_arch = "aarch64")]
const OLD_CALLS: &[(c_long, Call, When)] =
    &[(libc::SYS_getrlimit, Call::Getrlimit, When::Is(0, LOCKS))];

/// The call with a number; `None` for one that the filter does not bring.
pub(super) fn call(number: i32) -> Option<Call> {
    CALLS
        .iter()
        .chain(OLD_CALLS)
        .chain(COPY_UP_CALLS)
        .find(|(known, ..)| *known == c_long::from(number))
        .map(|(_, call, _)| *call)
}

/// The filter of emulated steps, in addition to the deny list. Calls of other architectures, which
/// it could not tell apart, kill the process.
/// `copy_up`: with the calls that matter only when lower layers have symlinks with owners.
pub(crate) fn filter(copy_up: bool) -> &'static [BpfInstruction] {
    static FILTER: OnceLock<Vec<BpfInstruction>> = OnceLock::new();
    static WITH_COPY_UP: OnceLock<Vec<BpfInstruction>> = OnceLock::new();
    if copy_up {
        WITH_COPY_UP.get_or_init(|| assemble(COPY_UP_CALLS))
    } else {
        FILTER.get_or_init(|| assemble(&[]))
    }
}

fn assemble(further: &[(c_long, Call, When)]) -> Vec<BpfInstruction> {
    let mut rules: Vec<(u32, Rule)> = CALLS
        .iter()
        .chain(OLD_CALLS)
        .chain(further)
        .map(|(number, _, when)| (*number as u32, rule(*when)))
        .collect();
    // The hard limit must stay as it is, or the supervisor could not set the soft one.
    let pretend = inspect(argument(0), JUMP_EQUAL, LOCKS, PRETEND, ALLOW);
    rules.push((libc::SYS_setrlimit as u32, pretend));
    rules.sort_by_key(|(number, _)| *number);
    let mut ranges = vec![(0, Rule::Answer(ALLOW))];
    for (number, rule) in rules {
        ranges.pop_if(|last| last.0 == number);
        ranges.push((number, rule));
        ranges.push((number + 1, Rule::Answer(ALLOW)));
    }
    let mut program = vec![
        statement(LOAD, ARCHITECTURE),
        branch(JUMP_EQUAL, NATIVE_ARCHITECTURE, 1, 0),
        statement(RETURN, KILL),
        statement(LOAD, NUMBER),
    ];
    program.extend(search(&ranges));
    program
}

fn rule(when: When) -> Rule {
    match when {
        When::Always => Rule::Answer(NOTIFY),
        When::Bits(index, bits) => inspect(argument(index), JUMP_ANY_BIT, &[bits], NOTIFY, ALLOW),
        When::Is(index, values) => inspect(argument(index), JUMP_EQUAL, values, NOTIFY, ALLOW),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_listed_once() {
        let all = CALLS.iter().chain(OLD_CALLS).chain(COPY_UP_CALLS);
        let mut numbers: Vec<_> = all.map(|c| c.0).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }

    #[test]
    fn calls_are_found_by_number() {
        assert_eq!(call(libc::SYS_fchownat as i32), Some(Call::Fchownat));
        assert_eq!(call(libc::SYS_read as i32), None);
    }

    #[test]
    fn kernel_takes_the_program_length() {
        assert!(assemble(COPY_UP_CALLS).len() <= libc::BPF_MAXINSNS as usize);
    }
}
