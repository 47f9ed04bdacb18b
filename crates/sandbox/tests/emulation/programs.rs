//! Kinds of programs, and kinds of names: what asks for owners and identities in unusual ways.
//!
//! Busybox, which nearly all tests run, is a static program, and so is this one.

use crate::tests::{kept, sh, this};
use crate::{Test, fixture::set_mode};

pub const TESTS: &[Test] = &[
    ("vfork_children_are_somebody", vfork_children_are_somebody),
    ("threads_without_libc", threads_without_libc),
    ("programs_without_libc", programs_without_libc),
    ("own_names_of_files", own_names_of_files),
    ("names_of_standard_streams", names_of_standard_streams),
    ("descriptors_of_paths", descriptors_of_paths),
    ("lists_of_access", lists_of_access),
    (
        "lists_of_access_of_others_cannot_be_changed",
        lists_of_access_of_others_cannot_be_changed,
    ),
    ("lists_of_access_name_others", lists_of_access_name_others),
];

/// Its changes are its own, also when it fails to execute.
fn vfork_children_are_somebody() {
    let (root, child) = ("[0, 0] [0, 0] 0\n", "[42, 42] [50, 50] 0\n");
    let expected = [child, root, root, root, child, root].concat();
    assert_eq!(this("vfork").output(), expected);
}

fn threads_without_libc() {
    let step = this("threads");
    assert_eq!(step.output(), "[42, 42] [50, 50] 0\n");
    assert_eq!(kept(&step.upper().join("tmp/job1")), Some((3, 4)));
    assert_eq!(kept(&step.upper().join("tmp/job400")), Some((402, 403)));
}

/// `chown("/tmp/f", 5, 6)`, `setresuid(42, 42, 42)`, `exit(getuid())`.
#[cfg(target_arch = "x86_64")]
const BARE: &[u8] = b"\xb8\x5c\0\0\0\x48\x8d\x3d\x32\0\0\0\xbe\x05\0\0\0\xba\x06\0\0\0\x0f\x05\
    \xb8\x75\0\0\0\xbf\x2a\0\0\0\xbe\x2a\0\0\0\xba\x2a\0\0\0\x0f\x05\
    \xb8\x66\0\0\0\x0f\x05\x89\xc7\xb8\x3c\0\0\0\x0f\x05\
    /tmp/f\0";
/// The same with `fchownat`.
#[cfg(target_arch = "aarch64")]
const BARE: &[u8] = b"\x60\x0c\x80\x92\xe1\x01\0\x10\xa2\0\x80\xd2\xc3\0\x80\xd2\
    \x04\0\x80\xd2\xc8\x06\x80\xd2\x01\0\0\xd4\x40\x05\x80\xd2\
    \x41\x05\x80\xd2\x42\x05\x80\xd2\x68\x12\x80\xd2\x01\0\0\xd4\
    \xc8\x15\x80\xd2\x01\0\0\xd4\xa8\x0b\x80\xd2\x01\0\0\xd4\
    /tmp/f\0";

/// `e_machine` of an ELF header.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else {
    183
};

fn programs_without_libc() {
    const ADDRESS: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2_u16, MACHINE] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [ADDRESS + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // One segment, to be read and executed.
    for word in [1_u32, 5] {
        elf.extend(word.to_le_bytes());
    }
    let size = HEADERS + BARE.len() as u64;
    for word in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(BARE);
    let mut step = sh("echo > /tmp/f; /bare; echo $?; stat -c %u:%g /tmp/f; id -u");
    let layer = step.directory("layer");
    std::fs::write(layer.join("bare"), elf).unwrap();
    set_mode(&layer.join("bare"), 0o755);
    step.add_lower(layer);
    assert_eq!(step.output(), "42\n5:6\n0\n");
}

fn own_names_of_files() {
    assert_eq!(this("names").output(), "ok\n");
}

fn names_of_standard_streams() {
    assert_eq!(this("streams").output(), "ok\n");
}

fn descriptors_of_paths() {
    assert_eq!(this("path-descriptors").output(), "ok\n");
}

fn lists_of_access() {
    assert_eq!(this("acl").output(), "ok\n");
}

fn lists_of_access_of_others_cannot_be_changed() {
    assert_eq!(this("acl-stranger").output(), "ok\n");
}

/// With what they do to modes; a named limitation is that they are shown with the user namespace's
/// one id.
fn lists_of_access_name_others() {
    let expected = "shown as set: false\nok\n";
    assert_eq!(this("acl-others").output(), expected);
}
