//! The seccomp filter of a step: Docker's default profile as a deny list (rule R32).
//!
//! The filter is a classic BPF program over `struct seccomp_data`. It has one block for the
//! machine's own calls and one for its 32-bit calls, which have other numbers; x32 calls, which are
//! x86-64 calls with a high bit set, do not exist as far as a step can see. No rule can look behind
//! a pointer, so `clone3` answers `ENOSYS` and the C library falls back to `clone`, whose flags are
//! in a register.
//!
//! In a plain root it also answers the calls that wait for the disk ([`Syncs::Ignored`]).

mod denied;
pub(crate) mod others;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::sys::BpfInstruction;
use denied::{Call, DENIED, NEWEST, NONE, SYNCS};

// Opcodes of include/uapi/linux/bpf_common.h that the filter uses.
pub(crate) const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
pub(crate) const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
pub(crate) const JUMP_ANY_BIT: u16 = 0x45;
pub(crate) const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`; low halves of the arguments (little endian).
pub(crate) const NUMBER: u32 = 0;
pub(crate) const ARCHITECTURE: u32 = 4;
const ARGUMENT_0: u32 = 16;
const ARGUMENT_1: u32 = 24;
const ARGUMENT_2: u32 = 32;

pub(crate) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NOT_IMPLEMENTED: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
/// The call returns 0 without being made.
const DONE: u32 = libc::SECCOMP_RET_ERRNO;

/// `CLONE_NEW*` flags that Docker's profile denies to `clone`: all but the time namespace, whose
/// bit `clone` uses for the exit signal.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// Calls from here on are private to 32-bit Arm (`cacheflush`, `set_tls`, ...).
const ARM_PRIVATE: u32 = 0x000f_0000;

/// Address families that `socket` denies: the kernel's crypto interface and the hypervisor.
const FAMILIES: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];
/// Terminal requests that type into the terminal of whoever looks on.
const TERMINAL_REQUESTS: [u32; 2] = [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */];
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x20000, 0x20008, u32::MAX];

/// What becomes of `fsync` and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syncs {
    /// They are made. An overlay mounted `volatile` ignores them anyway.
    Made,
    /// They succeed at once. What a step leaves behind is kept or lost as a whole: its root is
    /// removed when the machine goes down before its layer is in the store (docs/design/0006).
    Ignored,
}

/// What is particular to one set of system call numbers.
#[derive(Debug)]
struct Abi {
    /// `AUDIT_ARCH_*`.
    architecture: u32,
    /// Column of [`denied::Call::numbers`].
    column: usize,
    clone: u32,
    ioctl: u32,
    msync: u32,
    personality: u32,
    prlimit: u32,
    socket: u32,
    has_private_calls: bool,
}

/// The same number everywhere.
const CLONE3: u32 = 435;

#[cfg(any(target_arch = "x86_64", test))]
const X86_64: [Abi; 2] = [
    Abi {
        architecture: 0xc000_003e,
        column: 0,
        clone: 56,
        ioctl: 16,
        msync: 26,
        personality: 135,
        prlimit: 302,
        socket: 41,
        has_private_calls: false,
    },
    Abi {
        architecture: 0x4000_0003,
        column: 1,
        clone: 120,
        ioctl: 54,
        msync: 144,
        personality: 136,
        prlimit: 340,
        socket: 359,
        has_private_calls: false,
    },
];

#[cfg(any(target_arch = "aarch64", test))]
const AARCH64: [Abi; 2] = [
    Abi {
        architecture: 0xc000_00b7,
        column: 2,
        clone: 220,
        ioctl: 29,
        msync: 227,
        personality: 92,
        prlimit: 261,
        socket: 198,
        has_private_calls: false,
    },
    Abi {
        architecture: 0x4000_0028,
        column: 3,
        clone: 120,
        ioctl: 54,
        msync: 144,
        personality: 136,
        prlimit: 369,
        socket: 281,
        has_private_calls: true,
    },
];

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi; 2] = &X86_64;
#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi; 2] = &AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the seccomp filter has no table of system calls for this architecture");

/// `AUDIT_ARCH_*` of this machine's own calls.
pub(crate) const NATIVE_ARCHITECTURE: u32 = ABIS[0].architecture;

/// The filter for this machine, assembled on first use.
pub(crate) fn filter(syncs: Syncs) -> &'static [BpfInstruction] {
    static FILTERS: [OnceLock<Vec<BpfInstruction>>; 2] = [const { OnceLock::new() }; 2];
    FILTERS[usize::from(syncs == Syncs::Ignored)].get_or_init(|| assemble(ABIS, syncs))
}

fn assemble(abis: &[Abi], syncs: Syncs) -> Vec<BpfInstruction> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for abi in abis {
        let block = block(abi, syncs);
        // Conditional jumps reach 255 instructions only, so the block is jumped over in two hops.
        program.push(branch(JUMP_EQUAL, abi.architecture, 1, 0));
        program.push(statement(JUMP, block.len() as u32));
        program.extend(block);
    }
    program.push(statement(RETURN, NOT_IMPLEMENTED));
    program
}

/// What happens to the calls of one number or of a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    Answer(u32),
    /// A program that looks at an argument and returns on every path.
    Inspect(Vec<BpfInstruction>),
}

/// Decides one call; every path through it returns.
///
/// The numbers are searched in a balanced tree, not one after the other: when a filter is
/// installed the kernel interprets it once for every call it has, to find those that are always
/// allowed, and that is most of what a filter costs (190 us for a chain, 20 us for this).
fn block(abi: &Abi, syncs: Syncs) -> Vec<BpfInstruction> {
    let mut block = vec![statement(LOAD, NUMBER)];
    block.extend(search(&ranges(abi, syncs)));
    block
}

/// The rules by ascending first number; each is valid up to the next.
fn ranges(abi: &Abi, syncs: Syncs) -> Vec<(u32, Rule)> {
    let mut single = answers(DENIED, abi, NOT_PERMITTED);
    if syncs == Syncs::Ignored {
        single.extend(answers(SYNCS, abi, DONE));
        // Other flags are no wait: programs use them to ask whether an address is mapped.
        let waits = [libc::MS_SYNC as u32];
        let msync = inspect(ARGUMENT_2, JUMP_ANY_BIT, &waits, DONE, ALLOW);
        single.insert(abi.msync, msync);
    }
    single.insert(CLONE3, Rule::Answer(NOT_IMPLEMENTED));
    single.insert(
        abi.ioctl,
        inspect(
            ARGUMENT_1,
            JUMP_EQUAL,
            &TERMINAL_REQUESTS,
            NOT_PERMITTED,
            ALLOW,
        ),
    );
    single.insert(
        abi.clone,
        inspect(
            ARGUMENT_0,
            JUMP_ANY_BIT,
            &[CLONE_NAMESPACES],
            NOT_PERMITTED,
            ALLOW,
        ),
    );
    single.insert(
        abi.socket,
        inspect(ARGUMENT_0, JUMP_EQUAL, &FAMILIES, NOT_PERMITTED, ALLOW),
    );
    single.insert(
        abi.personality,
        inspect(ARGUMENT_0, JUMP_EQUAL, &PERSONALITIES, ALLOW, NOT_PERMITTED),
    );

    let mut starts = vec![(0, Rule::Answer(ALLOW))];
    for (number, rule) in single {
        starts.push((number, rule));
        starts.push((number + 1, Rule::Answer(ALLOW)));
    }
    // Also all numbers with the x32 bit. Only 32-bit Arm has calls that are far above.
    starts.push((NEWEST + 1, Rule::Answer(NOT_IMPLEMENTED)));
    if abi.has_private_calls {
        starts.push((ARM_PRIVATE, Rule::Answer(ALLOW)));
    }
    // Of two rules from one number on, the later one counts; equal neighbours are one.
    let mut ranges: Vec<(u32, Rule)> = Vec::with_capacity(starts.len());
    for (start, rule) in starts {
        ranges.pop_if(|last| last.0 == start);
        if ranges.last().is_none_or(|last| last.1 != rule) {
            ranges.push((start, rule));
        }
    }
    ranges
}

fn answers(calls: &[Call], abi: &Abi, answer: u32) -> BTreeMap<u32, Rule> {
    calls
        .iter()
        .map(|call| call.numbers[abi.column])
        .filter(|&number| number != NONE)
        .map(|number| (number, Rule::Answer(answer)))
        .collect()
}

/// A binary search over the ranges, with the number in the accumulator.
pub(crate) fn search(ranges: &[(u32, Rule)]) -> Vec<BpfInstruction> {
    match ranges {
        [] => Vec::new(),
        [(_, Rule::Answer(verdict))] => vec![statement(RETURN, *verdict)],
        [(_, Rule::Inspect(program))] => program.clone(),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (first, low, high) = (high[0].0, search(low), search(high));
            let mut program = Vec::new();
            match u8::try_from(low.len()) {
                Ok(length) => program.push(branch(JUMP_AT_LEAST, first, length, 0)),
                // Conditional jumps reach 255 instructions only.
                Err(_) => {
                    program.push(branch(JUMP_AT_LEAST, first, 0, 1));
                    program.push(statement(JUMP, low.len() as u32));
                }
            }
            program.extend(low);
            program.extend(high);
            program
        }
    }
}

/// `hit` if the condition holds for the argument and one of the values, else `miss`.
pub(crate) fn inspect(argument: u32, condition: u16, values: &[u32], hit: u32, miss: u32) -> Rule {
    let mut program = vec![statement(LOAD, argument)];
    for value in values {
        program.push(branch(condition, *value, 0, 1));
        program.push(statement(RETURN, hit));
    }
    program.push(statement(RETURN, miss));
    Rule::Inspect(program)
}

pub(crate) fn statement(code: u16, k: u32) -> BpfInstruction {
    BpfInstruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

pub(crate) fn branch(code: u16, k: u32, jt: u8, jf: u8) -> BpfInstruction {
    BpfInstruction { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the program as the kernel would.
    pub(super) fn verdict<const N: usize>(
        program: &[BpfInstruction],
        number: u32,
        architecture: u32,
        args: [u64; N],
    ) -> u32 {
        let mut accumulator = 0_u32;
        let mut at = 0_usize;
        loop {
            let BpfInstruction { code, jt, jf, k } = program[at];
            at += 1;
            let mut jump = |taken: bool| at += usize::from(if taken { jt } else { jf });
            match code {
                LOAD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        ARGUMENT_0 => args[0] as u32,
                        ARGUMENT_1 => args[1] as u32,
                        ARGUMENT_2 => args[2] as u32,
                        other if other == ARGUMENT_2 + 4 => (args[2] >> 32) as u32,
                        other => panic!("load from {other}"),
                    }
                }
                JUMP => at += k as usize,
                JUMP_EQUAL => jump(accumulator == k),
                JUMP_AT_LEAST => jump(accumulator >= k),
                JUMP_ANY_BIT => jump(accumulator & k != 0),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn r32_verdicts_follow_dockers_default_profile() {
        let x86_64 = 0xc000_003e;
        let i386 = 0x4000_0003;
        let cases: &[(&str, u32, u32, [u64; 2], u32)] = &[
            ("read", 0, x86_64, [0, 0], ALLOW),
            ("mount", 165, x86_64, [0, 0], NOT_PERMITTED),
            ("unshare", 272, x86_64, [0, 0], NOT_PERMITTED),
            ("keyctl", 250, x86_64, [0, 0], NOT_PERMITTED),
            ("io_uring_setup", 425, x86_64, [0, 0], NOT_PERMITTED),
            ("chroot", 161, x86_64, [0, 0], ALLOW),
            ("ptrace", 101, x86_64, [0, 0], ALLOW),
            ("mknod", 133, x86_64, [0, 0], ALLOW),
            ("clone3", 435, x86_64, [0, 0], NOT_IMPLEMENTED),
            ("clone thread", 56, x86_64, [0x003d_0f00, 0], ALLOW),
            ("clone newuser", 56, x86_64, [0x1000_0011, 0], NOT_PERMITTED),
            ("clone newns", 56, x86_64, [0x0002_0011, 0], NOT_PERMITTED),
            ("ioctl TCGETS", 16, x86_64, [0, 0x5401], ALLOW),
            ("ioctl TIOCSTI", 16, x86_64, [0, 0x5412], NOT_PERMITTED),
            (
                "ioctl TIOCSTI, high bits set",
                16,
                x86_64,
                [0, 0xf_0000_5412],
                NOT_PERMITTED,
            ),
            ("socket inet", 41, x86_64, [2, 0], ALLOW),
            ("socket vsock", 41, x86_64, [40, 0], NOT_PERMITTED),
            ("personality linux32", 135, x86_64, [8, 0], ALLOW),
            (
                "personality no-randomize",
                135,
                x86_64,
                [0x0004_0000, 0],
                NOT_PERMITTED,
            ),
            ("personality query", 135, x86_64, [0xffff_ffff, 0], ALLOW),
            ("removexattrat", 466, x86_64, [0, 0], ALLOW),
            ("from the future", 467, x86_64, [0, 0], NOT_IMPLEMENTED),
            ("x32 read", 0x4000_0000, x86_64, [0, 0], NOT_IMPLEMENTED),
            ("x32 ptrace", 0x4000_0209, x86_64, [0, 0], NOT_IMPLEMENTED),
            ("i386 read", 3, i386, [0, 0], ALLOW),
            ("i386 mount", 21, i386, [0, 0], NOT_PERMITTED),
            ("i386 write is no mount", 4, i386, [0, 0], ALLOW),
            (
                "i386 clone newuser",
                120,
                i386,
                [0x1000_0011, 0],
                NOT_PERMITTED,
            ),
            ("another machine", 0, 0xc000_00b7, [0, 0], NOT_IMPLEMENTED),
        ];
        let program = assemble(&X86_64, Syncs::Made);
        for (name, number, architecture, args, expected) in cases {
            assert_eq!(
                verdict(&program, *number, *architecture, *args),
                *expected,
                "{name}"
            );
        }
    }

    #[test]
    fn arm_block_keeps_the_private_calls() {
        let program = assemble(&AARCH64, Syncs::Made);
        assert_eq!(verdict(&program, 0x000f_0002, 0x4000_0028, [0, 0]), ALLOW);
        assert_eq!(verdict(&program, 470, 0x4000_0028, [0, 0]), NOT_IMPLEMENTED);
        assert_eq!(verdict(&program, 40, 0xc000_00b7, [0, 0]), NOT_PERMITTED);
        assert_eq!(
            verdict(&program, 220, 0xc000_00b7, [0x1000_0000, 0]),
            NOT_PERMITTED
        );
    }

    #[test]
    fn calls_that_wait_for_the_disk_are_answered_where_they_are_ignored() {
        let x86_64 = 0xc000_003e;
        let cases = [
            ("fsync", 74, [3, 0, 0], DONE),
            ("fdatasync", 75, [3, 0, 0], DONE),
            ("sync", 162, [0; 3], DONE),
            ("syncfs", 306, [3, 0, 0], DONE),
            ("sync_file_range", 277, [3, 0, 0], DONE),
            ("msync MS_SYNC", 26, [0x1000, 0x1000, 4], DONE),
            ("msync MS_ASYNC", 26, [0x1000, 0x1000, 1], ALLOW),
            ("truncate", 76, [0; 3], ALLOW),
            ("mount", 165, [0; 3], NOT_PERMITTED),
        ];
        let (made, ignored) = (
            assemble(&X86_64, Syncs::Made),
            assemble(&X86_64, Syncs::Ignored),
        );
        for (name, number, args, expected) in cases {
            assert_eq!(verdict(&ignored, number, x86_64, args), expected, "{name}");
            let expected = if expected == DONE { ALLOW } else { expected };
            assert_eq!(verdict(&made, number, x86_64, args), expected, "{name}");
        }
    }

    /// The search tree answers as the table says, for every number.
    #[test]
    fn every_number_has_the_verdict_of_the_table() {
        for abis in [&X86_64, &AARCH64] {
            let program = assemble(abis, Syncs::Made);
            for abi in abis {
                let inspected = [abi.ioctl, abi.clone, abi.socket, abi.personality];
                for number in (0..=NEWEST + 100).filter(|number| !inspected.contains(number)) {
                    let is_denied = DENIED.iter().any(|c| c.numbers[abi.column] == number);
                    let expected = match number {
                        CLONE3 => NOT_IMPLEMENTED,
                        _ if is_denied => NOT_PERMITTED,
                        _ if number > NEWEST => NOT_IMPLEMENTED,
                        _ => ALLOW,
                    };
                    let found = verdict(&program, number, abi.architecture, [0, 0]);
                    assert_eq!(found, expected, "{number} of {:#x}", abi.architecture);
                }
            }
        }
    }

    #[test]
    fn kernel_takes_the_program_length() {
        for abis in [&X86_64, &AARCH64] {
            assert!(assemble(abis, Syncs::Ignored).len() <= libc::BPF_MAXINSNS as usize);
        }
    }

    /// The numbers of this machine agree with the C library's, by name.
    #[test]
    fn table_has_this_machines_numbers() {
        let expected = [
            ("add_key", libc::SYS_add_key),
            ("bpf", libc::SYS_bpf),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("kexec_load", libc::SYS_kexec_load),
            ("keyctl", libc::SYS_keyctl),
            ("mount", libc::SYS_mount),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("open_by_handle_at", libc::SYS_open_by_handle_at),
            ("perf_event_open", libc::SYS_perf_event_open),
            ("pivot_root", libc::SYS_pivot_root),
            ("setns", libc::SYS_setns),
            ("swapon", libc::SYS_swapon),
            ("umount2", libc::SYS_umount2),
            ("unshare", libc::SYS_unshare),
            ("userfaultfd", libc::SYS_userfaultfd),
            ("fsync", libc::SYS_fsync),
            ("fdatasync", libc::SYS_fdatasync),
            ("sync", libc::SYS_sync),
            ("sync_file_range", libc::SYS_sync_file_range),
            ("syncfs", libc::SYS_syncfs),
        ];
        assert_eq!(i64::from(ABIS[0].msync), libc::SYS_msync);
        for (name, number) in expected {
            let call = DENIED.iter().chain(SYNCS).find(|call| call.name == name);
            let numbers = call.map(|call| call.numbers[ABIS[0].column]);
            assert_eq!(numbers, Some(number as u32), "{name}");
        }
    }
}
