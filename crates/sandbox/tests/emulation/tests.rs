//! What steps see, and what remains of it.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use layercake_sandbox::emulate::{Emulation, InodeOwner, Owner};
use layercake_sandbox::spec::{Outcome, Privileges, Status};

use crate::fixture::{Fixture, set_mode};
use crate::{Test, step};

pub const TESTS: &[Test] = &[
    (
        "owners_are_kept_with_the_file",
        owners_are_kept_with_the_file,
    ),
    (
        "owners_of_lower_layers_are_seen",
        owners_of_lower_layers_are_seen,
    ),
    (
        "symlinks_and_fifos_have_owners",
        symlinks_and_fifos_have_owners,
    ),
    ("user_of_the_step", user_of_the_step),
    ("su_and_back", su_and_back),
    ("user_may_not_become_root", user_may_not_become_root),
    ("users_make_their_own_files", users_make_their_own_files),
    (
        "setgid_directories_hand_their_group_down",
        setgid_directories_hand_their_group_down,
    ),
    ("setuid_programs_work", setuid_programs_work),
    ("setuid_scripts_do_not", setuid_scripts_do_not),
    (
        "chown_by_descriptor_and_relative_name",
        chown_by_descriptor_and_relative_name,
    ),
    ("chown_clears_setuid", chown_clears_setuid),
    ("archives_keep_owners", archives_keep_owners),
    (
        "errors_are_those_of_the_kernel",
        errors_are_those_of_the_kernel,
    ),
    ("threads_are_one_somebody", threads_are_one_somebody),
    ("chroot_in_the_step", chroot_in_the_step),
    ("devices_cannot_be_made", devices_cannot_be_made),
    ("limit_cannot_be_changed", limit_cannot_be_changed),
    ("many_processes", many_processes),
    ("host_files_are_out_of_reach", host_files_are_out_of_reach),
    (
        "other_architectures_are_killed",
        other_architectures_are_killed,
    ),
    (
        "renamed_symlinks_of_lower_layers_keep_owners",
        renamed_symlinks_of_lower_layers_keep_owners,
    ),
    ("credentials_are_bounded", credentials_are_bounded),
    (
        "peers_are_who_they_believe_to_be",
        peers_are_who_they_believe_to_be,
    ),
    ("insecure_is_refused", insecure_is_refused),
    ("benchmark", benchmark),
];

fn encode(owner: Owner) -> Vec<u8> {
    format!("{}:{}", owner.0, owner.1).into_bytes()
}

fn decode(value: &[u8]) -> Option<Owner> {
    let (user, group) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

const ATTRIBUTE: &str = "user.test.owner";

fn emulated(mut fixture: Fixture) -> Fixture {
    fixture.spec.emulation = Some(Emulation {
        attribute: ATTRIBUTE,
        encode,
        decode,
        inodes: Arc::new(HashMap::new()),
    });
    fixture
}

pub fn sh(script: &str) -> Fixture {
    emulated(Fixture::sh(script))
}

/// A step that runs this program, which lies at /step.
pub fn this(what: &str) -> Fixture {
    let mut fixture = emulated(Fixture::new(&["/step", step::ARGUMENT, what]));
    add_program(&mut fixture, "step", 0o755);
    fixture
}

pub fn add_program(fixture: &mut Fixture, name: &str, mode: u32) {
    let layer = fixture.directory("program");
    let target = layer.join(name);
    std::fs::copy("/proc/self/exe", &target).unwrap();
    set_mode(&target, mode);
    fixture.add_lower(layer);
}

pub fn kept(path: &Path) -> Option<Owner> {
    let mut value = [0_u8; 32];
    let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value).ok()?;
    decode(&value[..length])
}

fn owners_are_kept_with_the_file() {
    let step = sh(
        "echo > /tmp/f && chown 33:44 /tmp/f && stat -c %u:%g /tmp/f && \
                   mkdir /tmp/d && chown -R 5 /tmp/d && ls -nd /tmp/d | tr -s ' ' | cut -d' ' -f3,4 && \
                   mv /tmp/f /tmp/d/g && stat -c %u:%g /tmp/d/g && chgrp 9 /tmp/d/g && \
                   chown 0:0 /tmp/d && stat -c %u:%g /tmp/d",
    );
    assert_eq!(step.output(), "33:44\n5 0\n33:44\n0:0\n");
    assert_eq!(kept(&step.upper().join("tmp/d/g")), Some((33, 9)));
    assert_eq!(kept(&step.upper().join("tmp/d")), None);
    assert_eq!(kept(&step.upper().join("tmp")), None);
}

fn owners_of_lower_layers_are_seen() {
    let mut step = sh("stat -c %u:%g /of/file /of && cp -p /of/file /tmp/copy && \
                       stat -c %u:%g /tmp/copy && echo more >> /of/file && stat -c %u:%g /of/file");
    let layer = step.directory("layer");
    std::fs::create_dir(layer.join("of")).unwrap();
    std::fs::write(layer.join("of/file"), "").unwrap();
    for name in ["of", "of/file"] {
        let path = layer.join(name);
        rustix::fs::setxattr(path, ATTRIBUTE, b"7:8", rustix::fs::XattrFlags::empty()).unwrap();
    }
    step.add_lower(layer);
    assert_eq!(step.output(), "7:8\n7:8\n7:8\n7:8\n");
    assert_eq!(kept(&step.upper().join("of/file")), Some((7, 8)));
    assert_eq!(kept(&step.upper().join("tmp/copy")), Some((7, 8)));
}

fn outcome(fixture: &Fixture) -> Outcome {
    let ran = fixture.run();
    assert_eq!(
        ran.outcome.status,
        Status::Exited(0),
        "{}{}",
        ran.out,
        ran.err
    );
    ran.outcome
}

fn symlinks_and_fifos_have_owners() {
    let step = sh(
        "ln -s x /tmp/l && chown -h 5:6 /tmp/l && [ $(stat -c %u:%g /tmp/l) = 5:6 ] && \
                   mkfifo /tmp/p && chown 7:8 /tmp/p && mv /tmp/p /tmp/q && \
                   [ $(stat -c %u:%g /tmp/q) = 7:8 ] && \
                   ln -s gone /tmp/g && chown -h 9 /tmp/g && rm /tmp/g && \
                   chown -h 4:4 /bin/ls && [ $(stat -c %u:%g /bin/ls) = 4:4 ]",
    );
    let owners = outcome(&step).owners;
    for (name, owner) in [("tmp/l", (5, 6)), ("tmp/q", (7, 8)), ("bin/ls", (4, 4))] {
        let meta = std::fs::symlink_metadata(step.upper().join(name)).unwrap();
        let found = owners.iter().find(|kept| kept.inode == meta.ino());
        assert_eq!(found.map(|kept| kept.owner), Some(owner), "{name}");
    }
    // The numbers of one step are what the next one is given.
    let mut next = sh("[ $(stat -c %u:%g /tmp/l) = 5:6 ] && [ $(stat -c %u:%g /tmp/q) = 7:8 ]");
    next.add_lower(step.upper());
    if let Some(emulation) = &mut next.spec.emulation {
        emulation.inodes = Arc::new(owners.iter().map(|o| (o.inode, *o)).collect());
    }
    outcome(&next);
}

fn user_of_the_step() {
    let step = sh("id -u; id -g; id -G; echo > /tmp/mine; stat -c %u:%g /tmp/mine").user(
        1000,
        100,
        &[100, 20],
    );
    assert_eq!(step.output(), "1000\n100\n100 20\n1000:100\n");
    assert_eq!(kept(&step.upper().join("tmp/mine")), Some((1000, 100)));
}

fn su_and_back() {
    let script = "echo 'bob:x:42:43::/tmp:/bin/sh' >> /etc/passwd && echo 'bob:x:43:' > /etc/group && \
                  su bob -c 'id -u; id -g; id -G; echo > /tmp/bobs' && id -u && \
                  stat -c %U:%G /tmp/bobs";
    assert_eq!(sh(script).output(), "42\n43\n43\n0\nbob:bob\n");
}

fn user_may_not_become_root() {
    let script = "echo > /tmp/f; chown 0 /tmp/f 2>&1; chroot / true 2>&1; id -u";
    let step = sh(script).user(1000, 1000, &[]);
    let out = step.output();
    assert!(
        out.contains("chown: /tmp/f: Operation not permitted"),
        "{out}"
    );
    assert!(
        out.contains("chroot: can't change root directory to '/': Operation not permitted"),
        "{out}"
    );
    assert!(out.ends_with("1000\n"), "{out}");
}

fn users_make_their_own_files() {
    let step = this("create");
    assert_eq!(step.output(), "ok\n");
    assert_eq!(kept(&step.upper().join("tmp/f")), Some((42, 50)));
    assert_eq!(kept(&step.upper().join("tmp/d")), Some((42, 50)));
}

fn setgid_directories_hand_their_group_down() {
    let script = "mkdir /tmp/s && chown 0:50 /tmp/s && chmod 2775 /tmp/s && echo > /tmp/s/f && \
                  mkdir /tmp/s/d && echo > /tmp/s/d/g && echo > /tmp/out && mv /tmp/out /tmp/s/ && \
                  ln -s x /tmp/s/l && cd /tmp/s && echo > rel && \
                  stat -c '%n %u:%g %a' f d d/g out l rel";
    let expected = "f 0:50 644\nd 0:50 2755\nd/g 0:50 644\nout 0:0 644\nl 0:50 777\nrel 0:50 644\n";
    assert_eq!(sh(script).output(), expected);
}

fn setuid_programs_work() {
    let mut step = sh("/euid --step euid; id -u").user(1000, 1000, &[]);
    add_program(&mut step, "euid", 0o4755);
    assert_eq!(step.output(), "0\n1000\n");
}

fn setuid_scripts_do_not() {
    let script = "printf '#!/bin/sh\\nid -u\\n' > /tmp/s && chmod 4755 /tmp/s && chown 5 /tmp/s && \
                  chmod 4755 /tmp/s && /tmp/s";
    assert_eq!(sh(script).output(), "0\n");
}

fn chown_by_descriptor_and_relative_name() {
    assert_eq!(this("descriptors").output(), "ok\n");
}

fn chown_clears_setuid() {
    let script = "echo > /tmp/f; chmod 6755 /tmp/f; chown 5 /tmp/f; stat -c %a /tmp/f; \
                  chmod 4755 /tmp/f; stat -c %a:%u /tmp/f";
    assert_eq!(sh(script).output(), "755\n4755:5\n");
}

fn archives_keep_owners() {
    let script = "mkdir -p /tmp/a/b && chown 3:4 /tmp/a/b && echo > /tmp/a/f && chown 5:6 /tmp/a/f && \
                  tar cf /tmp/t -C /tmp/a . && mkdir /tmp/x && tar xf /tmp/t -C /tmp/x && cd /tmp/x && \
                  stat -c '%n %u:%g' b f";
    assert_eq!(sh(script).output(), "b 3:4\nf 5:6\n");
}

fn errors_are_those_of_the_kernel() {
    let script = "chown 5 /tmp/none 2>&1; stat /tmp/none 2>&1; chown 5 /etc/passwd/x 2>&1; \
                  mkdir /none/x 2>&1; ln -s a /bin/ls 2>&1; true";
    let out = sh(script).output();
    let expected = "chown: /tmp/none: No such file or directory\n\
                    stat: can't stat '/tmp/none': No such file or directory\n\
                    chown: /etc/passwd/x: Not a directory\n\
                    mkdir: can't create directory '/none/x': No such file or directory\n\
                    ln: /bin/ls: File exists\n";
    assert_eq!(out, expected);
    let as_user = sh("mkdir /none/x 2>&1; echo > /none/x; true").user(5, 5, &[]);
    assert!(as_user.output().contains("No such file"));
}

fn threads_are_one_somebody() {
    assert_eq!(this("thread").output(), "42\n");
}

fn chroot_in_the_step() {
    let step = this("chroot");
    assert_eq!(step.output(), "ok\n");
    assert_eq!(kept(&step.upper().join("tmp/r/in")), Some((5, 5)));
}

fn devices_cannot_be_made() {
    let out = sh("mknod /tmp/null c 1 3 2>&1; ls /tmp").output();
    assert!(out.contains("Operation not permitted"), "{out}");
}

fn limit_cannot_be_changed() {
    let step = sh("ulimit -x 7; ulimit -x; id -u").user(1000, 1000, &[]);
    assert!(step.output().ends_with("1000\n"));
}

fn many_processes() {
    let script = "for i in $(seq 40); do (echo > /tmp/f$i; chown $i:$i /tmp/f$i; \
                  [ $(stat -c %u:%g /tmp/f$i) = $i:$i ] || echo bad $i) & done; wait";
    let step = sh(script);
    assert_eq!(step.output(), "");
    for n in 1..=40 {
        assert_eq!(kept(&step.upper().join(format!("tmp/f{n}"))), Some((n, n)));
    }
}

/// The supervisor sees more processes than the step does; no name of a file may lead there.
/// Names for the root of this process, which the supervisor is a thread of, as a step has them that
/// sees it.
fn links_to_this_process() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut names: Vec<String> = threads
        .map(|thread| format!("/proc/{}/root", thread.file_name().to_str().unwrap()))
        .collect();
    let own = std::process::id();
    names.push(format!("/proc/{own}/cwd/../../../../../.."));
    names.push(format!("/proc/{own}/task/{own}/root"));
    names.push(format!("/proc/self/../{own}/root"));
    names
}

fn host_files_are_out_of_reach() {
    let host = crate::fixture::temporary();
    let file = host.path().join("file");
    std::fs::write(&file, "").unwrap();
    let prefixes = [
        "/proc/self/../1/root",
        "/proc/thread-self/../1/root",
        "/proc/self/fd/../../1/root",
        "/proc/self/task/../../1/root",
        "/proc/1/root",
        "/dev/fd/../../1/root",
        "/proc/self/cwd/../../../../..",
        "/proc/self/root/../../../../..",
    ];
    let prefixes = prefixes.into_iter().map(str::to_owned);
    for prefix in prefixes.chain(links_to_this_process()) {
        let path = format!("{prefix}{}", host.path().display());
        let script = format!(
            "chown 5 {path}/file; stat -c %u {path}/file; echo > {path}/new; mkdir {path}/dir; \
             ln -s x {path}/link; mkfifo {path}/fifo; cd /proc/self && chown 5 ../1/root/{path}/file; \
             ln -s {path}/file /tmp/l; chown 5 /tmp/l; ln -s {path}/new /tmp/n; echo > /tmp/n; \
             ln -s {path} /tmp/d; mkdir /tmp/d/dir; echo > /tmp/d/new; chown 5 /tmp/d/file; \
             exec 3< /proc; cd /dev/fd/3 && chown 5 .{path}/file ./{path}/file; echo > ./{path}/new; \
             chown 5 /dev/fd/3{path}/file /dev/fd/3/../{path}/file; cd / && chown 5 ./{path}/file"
        );
        for user in [0, 1000] {
            let ran = sh(&script).user(user, user, &[]).run();
            assert_eq!(ran.out, "", "{prefix}");
        }
    }
    assert_eq!(kept(&file), None);
    let names: Vec<_> = std::fs::read_dir(host.path()).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// An i386 program (`exit(0)` through `int 0x80`) or one for 32-bit Arm, which the filter cannot
/// judge.
fn other_architectures_are_killed() {
    let (code, machine, flags): (&[u8], u16, u32) = if cfg!(target_arch = "x86_64") {
        (&[0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80], 3, 0)
    } else {
        (b"\x01\x70\xa0\xe3\0\0\xa0\xe3\0\0\0\xef", 40, 0x0500_0000)
    };
    let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2_u16, machine] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1_u32, 0x0804_8054, 52, 0, flags] {
        elf.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let size = 84 + code.len() as u32;
    for word in [1_u32, 0, 0x0804_8000, 0x0804_8000, size, size, 5, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    let mut step = sh("/other; echo $?");
    let layer = step.directory("layer");
    std::fs::write(layer.join("other"), elf).unwrap();
    set_mode(&layer.join("other"), 0o755);
    step.add_lower(layer);
    let out = step.output();
    // 159: killed by SIGSYS; 126: a kernel that does not run such programs at all.
    assert!(out.ends_with("159\n") || out.ends_with("126\n"), "{out}");
}

fn inode_owner(path: &Path, owner: Owner) -> InodeOwner {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    let mask = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, mask).unwrap();
    InodeOwner {
        inode: found.stx_ino,
        born: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        owner,
    }
}

/// A rename copies the symlink up, to a new inode.
fn renamed_symlinks_of_lower_layers_keep_owners() {
    let script = "mv /of/l /of/m && touch -h /of/t && ln /of/h /of/i && \
                  stat -c '%n %u:%g' /of/m /of/t /of/h /of/i";
    let mut step = sh(script);
    let layer = step.directory("layer");
    std::fs::create_dir(layer.join("of")).unwrap();
    let mut inodes = HashMap::new();
    for name in ["l", "t", "h"] {
        let path = layer.join("of").join(name);
        std::os::unix::fs::symlink("x", &path).unwrap();
        let kept = inode_owner(&path, (5, 6));
        inodes.insert(kept.inode, kept);
    }
    step.add_lower(layer);
    if let Some(emulation) = &mut step.spec.emulation {
        emulation.inodes = Arc::new(inodes);
    }
    let ran = step.run();
    assert_eq!(
        ran.out, "/of/m 5:6\n/of/t 5:6\n/of/h 5:6\n/of/i 5:6\n",
        "{}",
        ran.err
    );
    let owners = ran.outcome.owners;
    for name in ["of/m", "of/t", "of/h"] {
        let meta = std::fs::symlink_metadata(step.upper().join(name)).unwrap();
        let found = owners.iter().find(|kept| kept.inode == meta.ino());
        assert_eq!(found.map(|kept| kept.owner), Some((5, 6)), "{name}");
    }
}

fn credentials_are_bounded() {
    assert_eq!(this("groups").output(), "ok\n");
}

fn peers_are_who_they_believe_to_be() {
    assert_eq!(this("peer").output(), "ok\n");
}

fn insecure_is_refused() {
    let mut step = sh("true");
    step.spec.privileges = Privileges::Insecure;
    let Err(error) = step.try_run() else {
        panic!("it ran")
    };
    assert!(error.to_string().contains("more than one id"), "{error}");
}

/// No assertion about time: the figures are for whoever reads the output.
fn benchmark() {
    for line in this("benchmark").output().lines() {
        println!("  us per call: {line}");
    }
}
