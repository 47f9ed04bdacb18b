//! Inside: what a step sees, and what it leaves.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use layercake_sandbox::Error;
use layercake_sandbox::spec::{MountKind, Root};

use crate::Test;
use crate::fixture::{Fixture, base, chain, set_mode};

pub const TESTS: &[Test] = &[
    ("root_is_an_overlay", root_is_an_overlay),
    ("plain_root_changes_in_place", plain_root_changes_in_place),
    (
        "nothing_changes_without_a_change",
        nothing_changes_without_a_change,
    ),
    (
        "r13_scratch_root_keeps_no_mount_points",
        scratch_root_keeps_no_mount_points,
    ),
    ("r12_devices", devices),
    (
        "host_devices_are_out_of_reach",
        host_devices_are_out_of_reach,
    ),
    ("dev_is_fresh_each_time", dev_is_fresh_each_time),
    ("proc_and_sys_are_read_only", proc_and_sys_are_read_only),
    ("masked_files_are_empty", masked_files_are_empty),
    ("shm_size", shm_size),
    (
        "r18_bind_read_only_and_writable",
        bind_read_only_and_writable,
    ),
    ("bind_of_a_file", bind_of_a_file),
    ("r13_stubs_leave_nothing", stubs_leave_nothing),
    ("r13_stub_that_was_used_stays", stub_that_was_used_stays),
    ("r13_times_of_parents", times_of_parents),
    (
        "r13_parent_changed_by_the_command_stays",
        parent_changed_by_the_command_stays,
    ),
    (
        "r23_stubs_in_a_writable_bind_stay",
        stubs_in_a_writable_bind_stay,
    ),
    (
        "r13_stubs_go_when_the_command_fails_to_start",
        stubs_go_when_the_command_fails_to_start,
    ),
    ("r31_mounts_are_sorted", mounts_are_sorted),
    (
        "target_through_symlinks_stays_inside",
        target_through_symlinks_stays_inside,
    ),
    ("target_that_is_the_root", target_that_is_the_root),
    (
        "nested_target_in_a_read_only_mount",
        nested_target_in_a_read_only_mount,
    ),
    ("r26_tmpfs", tmpfs),
    ("r19_writable_view_vanishes", writable_view_vanishes),
    ("r19_subpath_stays_inside", subpath_stays_inside),
    ("lowers_are_read_only", lowers_are_read_only),
    ("r27_files", files),
    (
        "h08_files_run_when_their_mode_says_so",
        files_run_when_their_mode_says_so,
    ),
    ("many_lowers", many_lowers),
    ("long_paths", long_paths),
];

fn paths<const N: usize>(expected: [&str; N]) -> BTreeSet<String> {
    expected.map(str::to_owned).into()
}

fn bind(source: impl Into<PathBuf>, read_only: bool) -> MountKind {
    MountKind::Bind {
        source: source.into(),
        read_only,
    }
}

fn root_is_an_overlay() {
    let fixture =
        Fixture::sh("echo x > /new; rm -r /opt/full; mkdir /opt/full; mv /home/user /home/b");
    fixture.output();
    let expected = ["home", "home/b", "home/user", "new", "opt", "opt/full"];
    assert_eq!(fixture.changes(), paths(expected));
    assert!(base().join("opt/full/file").exists());
}

fn plain_root_changes_in_place() {
    let mut fixture = Fixture::sh("echo x > /new; ls /dev/null /proc/self/exe");
    let root = fixture.directory("root");
    std::fs::create_dir(root.join("bin")).unwrap();
    for name in ["busybox", "sh", "ls"] {
        std::fs::copy(base().join("bin/busybox"), root.join("bin").join(name)).unwrap();
        set_mode(&root.join("bin").join(name), 0o755);
    }
    fixture.spec.root = Root::Plain(root.clone());
    fixture.output();
    assert_eq!(std::fs::read_to_string(root.join("new")).unwrap(), "x\n");
    let mut names: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["bin", "new"]);
}

fn nothing_changes_without_a_change() {
    let fixture = Fixture::sh("true");
    fixture.output();
    assert_eq!(fixture.changes(), paths([]));
}

fn scratch_root_keeps_no_mount_points() {
    let mut fixture = Fixture::new(&["/sh", "-c", "echo x > /x"]);
    let layer = fixture.directory("layer");
    std::fs::copy(base().join("bin/busybox"), layer.join("sh")).unwrap();
    set_mode(&layer.join("sh"), 0o755);
    if let Root::Overlay { lowers, .. } = &mut fixture.spec.root {
        *lowers = vec![layer];
    }
    fixture.output();
    assert_eq!(fixture.changes(), paths(["x"]));
}

fn devices() {
    let script = "for f in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$f; done; \
        for f in fd stdin stdout stderr ptmx; do echo $f $(readlink /dev/$f); done; \
        head -c 2 /dev/zero | od -An -tx1; head -c 4 /dev/urandom | wc -c; echo x > /dev/null; \
        echo x 2>/dev/null > /dev/full || echo full; stat -c %a /dev/shm; echo s > /dev/shm/f; \
        cat /dev/shm/f; [ -d /dev/mqueue ] && echo mqueue; [ -c /dev/ptmx ] && echo ptmx";
    let output = Fixture::sh(script).run().out;
    for line in [
        "/dev/null character special file 1:3 666",
        "/dev/urandom character special file 1:9 666",
        "/dev/tty character special file 5:0 666",
        "fd /proc/self/fd",
        "stdin /proc/self/fd/0",
        "ptmx pts/ptmx",
        " 00 00",
        "4",
        "full",
        "1777",
        "s",
        "mqueue",
        "ptmx",
    ] {
        assert!(
            output.lines().any(|l| l == line),
            "{line} is missing in:\n{output}"
        );
    }
}

fn host_devices_are_out_of_reach() {
    let mode = || std::fs::metadata("/dev/null").unwrap().mode();
    let before = mode();
    let script = "chmod 600 /dev/null 2>/dev/null; rm -f /dev/zero 2>/dev/null; \
        for d in /tmp /dev /dev/shm; do mknod $d/disk b 1 0 2>/dev/null && cat $d/disk; \
        mknod $d/kmsg c 1 11 2>/dev/null && cat $d/kmsg; done 2>&1 | grep -v 'Permission denied'";
    assert_eq!(Fixture::sh(script).run().out, "");
    assert_eq!(mode(), before);
    assert_eq!(
        Fixture::new(&["stat", "-c", "%a", "/dev/null"]).output(),
        "666\n"
    );
}

fn dev_is_fresh_each_time() {
    let script = "ls /dev | grep -c new; ls /dev/shm | wc -l; mkdir /dev/new; echo x > /dev/shm/x";
    for _ in 0..3 {
        assert_eq!(Fixture::sh(script).output(), "0\n0\n");
    }
}

fn proc_and_sys_are_read_only() {
    let script = "for f in /proc/sys/kernel/domainname /proc/sysrq-trigger /proc/irq/x /sys/x; do \
        { echo x > $f; } 2>/dev/null && echo $f; done; mkdir /sys/fs/cgroup/x 2>/dev/null && echo cgroup; \
        ls -d /sys/kernel /sys/fs/cgroup";
    assert_eq!(
        Fixture::sh(script).output(),
        "/sys/fs/cgroup\n/sys/kernel\n"
    );
}

fn masked_files_are_empty() {
    let script = "for f in kcore keys timer_list latency_stats sched_debug; do \
        [ -e /proc/$f ] && head -c 10 /proc/$f | wc -c; done | sort -u; \
        ls /sys/firmware /proc/scsi /proc/acpi 2>/dev/null | grep -v : | grep -c .; true";
    assert_eq!(Fixture::sh(script).output(), "0\n0\n");
}

fn shm_size() {
    let script =
        "dd if=/dev/zero of=/dev/shm/f bs=64k count=100 2>/dev/null; stat -c %s /dev/shm/f";
    let mut fixture = Fixture::sh(script);
    fixture.spec.shm_size = Some(1 << 20);
    assert_eq!(fixture.output(), "1048576\n");
    fixture.spec.shm_size = None;
    assert_eq!(fixture.output(), "6553600\n");
}

fn bind_read_only_and_writable() {
    let fixture = Fixture::sh(
        "cat /ro/file; { echo x > /ro/new; } 2>/dev/null || echo refused; echo w > /rw/new; \
         echo x > /opt/full/seen 2>/dev/null || echo refused",
    );
    let source = fixture.directory("source");
    std::fs::write(source.join("file"), "content\n").unwrap();
    let fixture = fixture
        .mount("/ro", bind(&source, true))
        .mount("/rw", bind(&source, false))
        .mount("/opt/full", bind(&source, true));
    assert_eq!(fixture.output(), "content\nrefused\nrefused\n");
    assert_eq!(std::fs::read_to_string(source.join("new")).unwrap(), "w\n");
    assert_eq!(fixture.changes(), paths([]));
}

fn bind_of_a_file() {
    let fixture = Fixture::sh("cat /etc/passwd /new/file");
    let source = fixture.directory("source").join("file");
    std::fs::write(&source, "shadowed\n").unwrap();
    let fixture = fixture
        .mount("/etc/passwd", bind(&source, true))
        .mount("/new/file", bind(&source, true));
    assert_eq!(fixture.output(), "shadowed\nshadowed\n");
    assert_eq!(fixture.changes(), paths([]));
    let link = fixture.directory("source").join("link");
    symlink("/etc", &link).unwrap();
    let fixture = Fixture::sh("true").mount("/x", bind(&link, true));
    assert!(matches!(fixture.try_run(), Err(Error::Setup { .. })));
}

fn stubs_leave_nothing() {
    let fixture = Fixture::sh("ls -d /new/mount/point /newtmp /opt/full/deep/er /etc/newfile");
    let source = fixture.directory("source");
    let file = source.join("file");
    std::fs::write(&file, "x").unwrap();
    let tmpfs = || MountKind::Tmpfs {
        size: None,
        mode: 0o1777,
        read_only: false,
    };
    let fixture = fixture
        .mount("/new/mount/point", bind(&source, true))
        .mount("/newtmp", tmpfs())
        .mount("/opt/full/deep/er", tmpfs())
        .mount("/etc/newfile", bind(&file, true));
    fixture.output();
    assert_eq!(fixture.changes(), paths([]));
}

fn stub_that_was_used_stays() {
    let tmpfs = MountKind::Tmpfs {
        size: None,
        mode: 0o755,
        read_only: false,
    };
    let fixture = Fixture::sh("echo x > /made/other; echo y > /made/for/mount/vanishes");
    let fixture = fixture.mount("/made/for/mount", tmpfs);
    fixture.output();
    assert_eq!(fixture.changes(), paths(["made", "made/other"]));
}

fn times_of_parents() {
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let mut fixture = Fixture::sh("echo x > /dir/sub/by-command; cat /dir/stub/file");
    let layer = fixture.directory("layer");
    std::fs::create_dir_all(layer.join("dir/sub")).unwrap();
    std::fs::File::open(layer.join("dir"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    let upper = fixture.upper();
    std::fs::File::open(&upper)
        .unwrap()
        .set_modified(old)
        .unwrap();
    fixture.add_lower(layer);
    let source = fixture.directory("source");
    std::fs::write(source.join("file"), "x").unwrap();
    let fixture = fixture
        .mount("/dir/stub", bind(&source, true))
        .mount("/top", bind(&source, true));
    fixture.output();
    assert_eq!(
        fixture.changes(),
        paths(["dir", "dir/sub", "dir/sub/by-command"])
    );
    assert_eq!(std::fs::metadata(&upper).unwrap().mtime(), 1_000_000_000);
    // Only /dir/sub was changed by the command.
    assert_eq!(
        std::fs::metadata(upper.join("dir")).unwrap().mtime(),
        1_000_000_000
    );
    assert!(std::fs::metadata(upper.join("dir/sub")).unwrap().mtime() > 1_000_000_000);
}

fn parent_changed_by_the_command_stays() {
    let tmpfs = || MountKind::Tmpfs {
        size: None,
        mode: 0o755,
        read_only: false,
    };
    let fixture = Fixture::sh("chmod 700 /opt; touch -d @77 /home").mount("/opt/a/b", tmpfs());
    let fixture = fixture.mount("/home/x", tmpfs());
    fixture.output();
    assert_eq!(fixture.changes(), paths(["home", "opt"]));
    let upper = fixture.upper();
    assert_eq!(
        std::fs::metadata(upper.join("opt")).unwrap().mode() & 0o777,
        0o700
    );
    assert_eq!(std::fs::metadata(upper.join("home")).unwrap().mtime(), 77);
}

/// Others may have the same directory mounted, and be about to use them.
fn stubs_in_a_writable_bind_stay() {
    let tmpfs = || MountKind::Tmpfs {
        size: None,
        mode: 0o755,
        read_only: false,
    };
    let fixture = Fixture::sh("echo x > /cache/kept; echo x > /cache/a/b/vanishes");
    let source = fixture.directory("source");
    let fixture = fixture
        .mount("/cache/a/b", tmpfs())
        .mount("/cache", bind(&source, false));
    fixture.output();
    assert_eq!(std::fs::read_dir(&source).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(source.join("a/b")).unwrap().count(), 0);
    assert_eq!(fixture.changes(), paths([]));
}

fn stubs_go_when_the_command_fails_to_start() {
    let tmpfs = || MountKind::Tmpfs {
        size: None,
        mode: 0o755,
        read_only: false,
    };
    let fixture = Fixture::new(&["no-such-command"]).mount("/opt/new", tmpfs());
    assert!(matches!(
        fixture.try_run(),
        Err(Error::CommandNotFound { .. })
    ));
    assert_eq!(fixture.changes(), paths([]));
    let fixture = Fixture::sh("true")
        .mount("/a/b", tmpfs())
        .mount("/b", bind("/no/such", true));
    assert!(matches!(fixture.try_run(), Err(Error::Setup { .. })));
    assert_eq!(fixture.changes(), paths([]));
}

fn mounts_are_sorted() {
    let fixture = Fixture::sh("cat /m/file /m/sub/file");
    let (outer, inner) = (fixture.directory("outer"), fixture.directory("inner"));
    std::fs::write(outer.join("file"), "outer\n").unwrap();
    std::fs::write(inner.join("file"), "inner\n").unwrap();
    std::fs::create_dir(outer.join("sub")).unwrap();
    let fixture = fixture
        .mount("/m/sub", bind(&inner, true))
        .mount("/m", bind("/no/such/replaced", true))
        .mount("/m/", bind(&outer, true));
    assert_eq!(fixture.output(), "outer\ninner\n");
}

fn target_through_symlinks_stays_inside() {
    let mut fixture =
        Fixture::sh("cat /opt/new/file /etc/escape/file; readlink /up; readlink /abs");
    let layer = fixture.directory("layer");
    symlink("../../../../opt", layer.join("up")).unwrap();
    symlink("/etc", layer.join("abs")).unwrap();
    fixture.add_lower(layer);
    let source = fixture.directory("source");
    std::fs::write(source.join("file"), "x\n").unwrap();
    let fixture = fixture
        .mount("/up/new", bind(&source, true))
        .mount("/abs/../../abs/escape", bind(&source, true));
    assert_eq!(fixture.output(), "x\nx\n../../../../opt\n/etc\n");
    assert!(!std::path::Path::new("/etc/escape").exists());
    assert_eq!(fixture.changes(), paths([]));
}

fn target_that_is_the_root() {
    let tmpfs = MountKind::Tmpfs {
        size: None,
        mode: 0o755,
        read_only: false,
    };
    let fixture = Fixture::sh("true").mount("/link/..", tmpfs);
    assert!(matches!(fixture.try_run(), Err(Error::TargetIsRoot { .. })));
}

fn nested_target_in_a_read_only_mount() {
    let fixture = Fixture::sh("ls /src");
    let source = fixture.directory("source");
    let tmpfs = MountKind::Tmpfs {
        size: None,
        mode: 0o755,
        read_only: false,
    };
    let fixture = fixture
        .mount("/src", bind(&source, true))
        .mount("/src/target", tmpfs);
    match fixture.try_run() {
        Err(error @ Error::Setup { .. }) => {
            let text = chain(&error);
            assert!(
                text.contains("/src/target") && text.contains("Read-only"),
                "{text}"
            );
        }
        other => panic!("{:?}", other.map(|ran| ran.outcome)),
    }
}

fn tmpfs() {
    let script = "ls /opt/full | wc -l; stat -c %a /opt/full; \
        dd if=/dev/zero of=/opt/full/f bs=64k count=100 2>/dev/null; stat -c %s /opt/full/f";
    let kind = MountKind::Tmpfs {
        size: Some(1 << 20),
        mode: 0o1777,
        read_only: false,
    };
    let fixture = Fixture::sh(script).mount("/opt/full", kind);
    assert_eq!(fixture.output(), "0\n1777\n1048576\n");
    assert_eq!(fixture.changes(), paths([]));
}

fn writable_view_vanishes() {
    let fixture = Fixture::sh("cat /src/file; echo changed > /src/file; cat /src/file; ls /part");
    let lower = fixture.directory("lower");
    std::fs::create_dir(lower.join("sub")).unwrap();
    std::fs::write(lower.join("file"), "lower\n").unwrap();
    std::fs::write(lower.join("sub/inner"), "").unwrap();
    let view = |name: &str, subpath: &str| MountKind::Overlay {
        lowers: vec![lower.clone()],
        upper: fixture.directory(&format!("{name}-upper")),
        work: fixture.directory(&format!("{name}-work")),
        subpath: subpath.into(),
    };
    let (all, part) = (view("all", ""), view("part", "/sub"));
    let fixture = fixture.mount("/src", all).mount("/part", part);
    assert_eq!(fixture.output(), "lower\nchanged\ninner\n");
    assert_eq!(
        std::fs::read_to_string(lower.join("file")).unwrap(),
        "lower\n"
    );
    assert_eq!(fixture.changes(), paths([]));
}

fn subpath_stays_inside() {
    let fixture = Fixture::sh("cat /x");
    let lower = fixture.directory("lower");
    symlink("/../../etc/passwd", lower.join("link")).unwrap();
    std::fs::create_dir(lower.join("etc")).unwrap();
    std::fs::write(lower.join("etc/passwd"), "of the lower\n").unwrap();
    let view = |subpath: &str| MountKind::Lowers {
        lowers: vec![lower.clone()],
        subpath: subpath.into(),
    };
    let (link, missing) = (view("link"), view("no/such"));
    assert_eq!(fixture.mount("/x", link).output(), "of the lower\n");
    let fixture = Fixture::sh("true").mount("/x", missing);
    assert!(matches!(fixture.try_run(), Err(Error::Setup { .. })));
}

fn lowers_are_read_only() {
    let fixture = Fixture::sh("cat /l/a /l/b; echo x 2>/dev/null > /l/new || echo refused");
    let (top, bottom) = (fixture.directory("top"), fixture.directory("bottom"));
    std::fs::write(top.join("a"), "top\n").unwrap();
    std::fs::write(bottom.join("a"), "hidden\n").unwrap();
    std::fs::write(bottom.join("b"), "bottom\n").unwrap();
    let kind = MountKind::Lowers {
        lowers: vec![top, bottom],
        subpath: "".into(),
    };
    assert_eq!(fixture.mount("/l", kind).output(), "top\nbottom\nrefused\n");
}

fn files() {
    let script = "stat -c '%a %u:%g %s' /run/secrets/token; cat /run/secrets/token; \
        cat /etc/hosts; { echo x > /etc/hosts; } 2>/dev/null || echo refused";
    let file = |content: &str, mode, uid| MountKind::File {
        content: content.into(),
        mode,
        uid,
        gid: uid,
    };
    let fixture = Fixture::sh(script)
        .mount("/run/secrets/token", file("secret\n", 0o400, 1000))
        .mount("/etc/hosts", file("127.0.0.1 localhost\n", 0o644, 0));
    assert_eq!(
        fixture.output(),
        "400 1000:1000 7\nsecret\n127.0.0.1 localhost\nrefused\n"
    );
    assert_eq!(fixture.changes(), paths([]));
}

fn files_run_when_their_mode_says_so() {
    let script = |mode| MountKind::File {
        content: b"#!/bin/sh\necho ran\n".into(),
        mode,
        uid: 0,
        gid: 0,
    };
    let fixture = Fixture::sh("/dev/pipes/EOF; /opt/data 2>/dev/null || echo refused")
        .mount("/dev/pipes/EOF", script(0o755))
        .mount("/opt/data", script(0o644));
    assert_eq!(fixture.output(), "ran\nrefused\n");
    assert_eq!(fixture.changes(), paths([]));
}

fn many_lowers() {
    let mut fixture = Fixture::sh("ls / | grep -c ^layer");
    let mut layers = Vec::new();
    for number in 0..120 {
        let layer = fixture.directory(&format!("l{number}"));
        std::fs::write(layer.join(format!("layer{number}")), "").unwrap();
        layers.push(layer);
    }
    if let Root::Overlay { lowers, .. } = &mut fixture.spec.root {
        layers.append(lowers);
        *lowers = layers;
    }
    assert_eq!(fixture.output(), "120\n");
}

fn long_paths() {
    let fixture = Fixture::sh("cat /layer");
    let long = fixture.directory(&"x".repeat(200)).join("y".repeat(200));
    std::fs::create_dir(&long).unwrap();
    for name in ["upper", "work", "lower"] {
        std::fs::create_dir(long.join(name)).unwrap();
    }
    std::fs::write(long.join("lower/layer"), "long\n").unwrap();
    let mut fixture = fixture;
    fixture.spec.root = Root::Overlay {
        lowers: vec![long.join("lower"), base().to_owned()],
        upper: long.join("upper"),
        work: long.join("work"),
    };
    assert_eq!(fixture.output(), "long\n");
}
