//! The seccomp filter of a step: Docker's default profile as a deny list (rule R32).
//!
//! The filter is a classic BPF program over `struct seccomp_data`. It has one block for the
//! machine's own calls and one for its 32-bit calls, which have other numbers; x32 calls do not
//! exist as far as a step can see. No rule can look behind a pointer, so `clone3` answers
//! `ENOSYS` and the C library falls back to `clone`, whose flags are in a register.

mod denied;

use std::sync::OnceLock;

use crate::sys::BpfInstruction;
use denied::{DENIED, NEWEST, NONE};

// Opcodes of include/uapi/linux/bpf_common.h that the filter uses.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`; low halves of the arguments (little endian).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_0: u32 = 16;
const ARGUMENT_1: u32 = 24;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NOT_IMPLEMENTED: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// `CLONE_NEW*` flags that Docker's profile denies to `clone`: all but the time namespace, whose
/// bit `clone` uses for the exit signal.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// Set in the number of an x32 call on x86-64.
const X32_BIT: u32 = 0x4000_0000;
/// Calls from here on are private to 32-bit Arm (`cacheflush`, `set_tls`, ...).
const ARM_PRIVATE: u32 = 0x000f_0000;

/// Address families that `socket` denies: the kernel's crypto interface and the hypervisor.
const FAMILIES: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];
/// Terminal requests that type into the terminal of whoever looks on.
const TERMINAL_REQUESTS: [u32; 2] = [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */];
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x20000, 0x20008, u32::MAX];

/// What is particular to one set of system call numbers.
#[derive(Debug)]
struct Abi {
    /// `AUDIT_ARCH_*`.
    architecture: u32,
    /// Column of [`denied::Denied::numbers`].
    column: usize,
    clone: u32,
    ioctl: u32,
    personality: u32,
    socket: u32,
    has_x32: bool,
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
        personality: 135,
        socket: 41,
        has_x32: true,
        has_private_calls: false,
    },
    Abi {
        architecture: 0x4000_0003,
        column: 1,
        clone: 120,
        ioctl: 54,
        personality: 136,
        socket: 359,
        has_x32: false,
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
        personality: 92,
        socket: 198,
        has_x32: false,
        has_private_calls: false,
    },
    Abi {
        architecture: 0x4000_0028,
        column: 3,
        clone: 120,
        ioctl: 54,
        personality: 136,
        socket: 281,
        has_x32: false,
        has_private_calls: true,
    },
];

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi; 2] = &X86_64;
#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi; 2] = &AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the seccomp filter has no table of system calls for this architecture");

/// The filter for this machine, assembled on first use.
pub(crate) fn filter() -> &'static [BpfInstruction] {
    static FILTER: OnceLock<Vec<BpfInstruction>> = OnceLock::new();
    FILTER.get_or_init(|| assemble(ABIS))
}

fn assemble(abis: &[Abi]) -> Vec<BpfInstruction> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for abi in abis {
        let block = block(abi);
        // Conditional jumps reach 255 instructions only, so the block is jumped over in two hops.
        program.push(branch(JUMP_EQUAL, abi.architecture, 1, 0));
        program.push(statement(JUMP, block.len() as u32));
        program.extend(block);
    }
    program.push(statement(RETURN, NOT_IMPLEMENTED));
    program
}

/// Decides one call; every path through it returns.
fn block(abi: &Abi) -> Vec<BpfInstruction> {
    let mut block = vec![statement(LOAD, NUMBER)];
    if abi.has_x32 {
        answer(&mut block, JUMP_AT_LEAST, X32_BIT, NOT_IMPLEMENTED);
    }
    // First the common calls with arguments to check: the kernel caches verdicts per number only
    // for calls whose arguments do not matter.
    on_call(&mut block, abi.ioctl, ARGUMENT_1, |rule| {
        for request in TERMINAL_REQUESTS {
            answer(rule, JUMP_EQUAL, request, NOT_PERMITTED);
        }
        rule.push(statement(RETURN, ALLOW));
    });
    on_call(&mut block, abi.clone, ARGUMENT_0, |rule| {
        answer(rule, JUMP_ANY_BIT, CLONE_NAMESPACES, NOT_PERMITTED);
        rule.push(statement(RETURN, ALLOW));
    });
    on_call(&mut block, abi.socket, ARGUMENT_0, |rule| {
        for family in FAMILIES {
            answer(rule, JUMP_EQUAL, family, NOT_PERMITTED);
        }
        rule.push(statement(RETURN, ALLOW));
    });
    on_call(&mut block, abi.personality, ARGUMENT_0, |rule| {
        for personality in PERSONALITIES {
            answer(rule, JUMP_EQUAL, personality, ALLOW);
        }
        rule.push(statement(RETURN, NOT_PERMITTED));
    });
    answer(&mut block, JUMP_EQUAL, CLONE3, NOT_IMPLEMENTED);
    for number in DENIED
        .iter()
        .map(|call| call.numbers[abi.column])
        .filter(|&n| n != NONE)
    {
        answer(&mut block, JUMP_EQUAL, number, NOT_PERMITTED);
    }
    if abi.has_private_calls {
        answer(&mut block, JUMP_AT_LEAST, ARM_PRIVATE, ALLOW);
    }
    answer(&mut block, JUMP_GREATER, NEWEST, NOT_IMPLEMENTED);
    block.push(statement(RETURN, ALLOW));
    block
}

/// `if accumulator <condition> value: return verdict`.
fn answer(program: &mut Vec<BpfInstruction>, condition: u16, value: u32, verdict: u32) {
    program.push(branch(condition, value, 0, 1));
    program.push(statement(RETURN, verdict));
}

/// `if number == call: load argument; rule`. The rule must return on every path, because the
/// accumulator no longer holds the number after it.
fn on_call(
    program: &mut Vec<BpfInstruction>,
    call: u32,
    argument: u32,
    rule: impl FnOnce(&mut Vec<BpfInstruction>),
) {
    let mut body = vec![statement(LOAD, argument)];
    rule(&mut body);
    // The rules have at most a dozen instructions.
    program.push(branch(JUMP_EQUAL, call, 0, body.len() as u8));
    program.extend(body);
}

fn statement(code: u16, k: u32) -> BpfInstruction {
    BpfInstruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> BpfInstruction {
    BpfInstruction { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the program as the kernel would.
    fn verdict(program: &[BpfInstruction], number: u32, architecture: u32, args: [u64; 2]) -> u32 {
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
                        other => panic!("load from {other}"),
                    }
                }
                JUMP => at += k as usize,
                JUMP_EQUAL => jump(accumulator == k),
                JUMP_GREATER => jump(accumulator > k),
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
        let program = assemble(&X86_64);
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
        let program = assemble(&AARCH64);
        assert_eq!(verdict(&program, 0x000f_0002, 0x4000_0028, [0, 0]), ALLOW);
        assert_eq!(verdict(&program, 470, 0x4000_0028, [0, 0]), NOT_IMPLEMENTED);
        assert_eq!(verdict(&program, 40, 0xc000_00b7, [0, 0]), NOT_PERMITTED);
        assert_eq!(
            verdict(&program, 220, 0xc000_00b7, [0x1000_0000, 0]),
            NOT_PERMITTED
        );
    }

    #[test]
    fn kernel_takes_the_program_length() {
        for abis in [&X86_64, &AARCH64] {
            assert!(assemble(abis).len() <= libc::BPF_MAXINSNS as usize);
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
        ];
        for (name, number) in expected {
            let call = DENIED.iter().find(|call| call.name == name);
            let numbers = call.map(|call| call.numbers[ABIS[0].column]);
            assert_eq!(numbers, Some(number as u32), "{name}");
        }
    }
}
