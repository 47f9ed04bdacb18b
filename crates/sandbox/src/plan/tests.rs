use std::os::fd::AsFd;
use std::path::PathBuf;

use super::*;
use crate::spec::{Mount, MountKind, Root};

fn spec() -> Spec {
    Spec {
        root: Root::Plain("/root".into()),
        argv: vec!["sh".into(), "-c".into(), "true".into()],
        env: vec![
            ("PATH".into(), "/bin:/usr/bin".into()),
            ("A".into(), "b=c".into()),
        ],
        cwd: "/work".into(),
        user: Credentials::default(),
        hostname: "step".to_owned(),
        network: Network::Host,
        processes: Processes::Own,
        mounts: Vec::new(),
        privileges: Privileges::Default,
        shm_size: None,
        rlimits: Vec::new(),
        timeout: None,
        emulation: None,
        cgroups: Vec::new(),
    }
}

/// The operations, each as the name of its variant with its target.
fn names(spec: &Spec) -> Vec<String> {
    let file = std::fs::File::open("/dev/null").unwrap();
    let fd = file.as_fd();
    let prepared = Prepared {
        stage: fd,
        root: fd,
        dev: fd,
        pts: fd,
        shm: fd,
        nodes: None,
        proc_target: c"proc".to_owned(),
        dev_target: c"dev".to_owned(),
        sys_target: c"sys".to_owned(),
        host_sys: (spec.privileges == Privileges::Insecure).then_some(fd),
        host_devices: Vec::new(),
        wholes: vec![fd],
        mounts: vec![
            PreparedMount {
                target: c"a".to_owned(),
                source: PreparedSource::Whole(fd),
            },
            PreparedMount {
                target: c"a/b".to_owned(),
                source: PreparedSource::Part(fd),
            },
        ],
        stdout: fd,
        stderr: fd,
        supervisor: None,
        watch: (spec.processes == Processes::Host).then(|| watch::ForChild {
            channel: fd,
            scope: watch::scope(),
        }),
        network: None,
    };
    operations(spec, prepared)
        .unwrap()
        .iter()
        .map(name)
        .collect()
}

fn name(op: &Op<'_>) -> String {
    let debug = format!("{op:?}");
    let variant = debug
        .split([' ', '{'])
        .next()
        .unwrap_or_default()
        .to_owned();
    match op {
        Op::Attach { target, .. }
        | Op::AttachPart { target, .. }
        | Op::MoveFromStage { target, .. }
        | Op::NewMount { target, .. }
        | Op::MaskFile { target, .. }
        | Op::MaskDirectory { target }
        | Op::ReadOnly { target } => format!("{variant} {}", target.to_str().unwrap()),
        Op::AttachAtStage { at, .. } => format!("{variant} {}", at.to_str().unwrap()),
        _ => variant,
    }
}

fn position(names: &[String], name: &str) -> usize {
    names
        .iter()
        .position(|n| n == name)
        .unwrap_or_else(|| panic!("no {name} in {names:?}"))
}

#[test]
fn a_step_in_order() {
    let expected = "MountNamespace, CgroupNamespace, AttachAtStage /root, EnterRoot, \
        Attach dev, MoveFromStage dev/null, MoveFromStage dev/zero, MoveFromStage dev/full, \
        MoveFromStage dev/random, MoveFromStage dev/urandom, MoveFromStage dev/tty, \
        Attach dev/pts, Attach dev/shm, NewMount dev/mqueue, NewMount proc, \
        MaskFile proc/kcore, MaskFile proc/keys, MaskFile proc/latency_stats, \
        MaskFile proc/timer_list, MaskFile proc/timer_stats, MaskFile proc/sched_debug, \
        MaskDirectory proc/acpi, MaskDirectory proc/asound, MaskDirectory proc/scsi, \
        ReadOnly proc/bus, ReadOnly proc/fs, ReadOnly proc/irq, ReadOnly proc/sys, \
        ReadOnly proc/sysrq-trigger, MoveFromStage sys, StdinNull, NoTerminal, AttachAtStage /parts, \
        Attach a, AttachPart a/b, PivotRoot, Hostname, Streams, WorkingDirectory, \
        SessionKeyring, ProcessGroup, Signals, Seccomp, BoundingSet, Groups, Gid, Uid, \
        Capabilities, ParentDeathSignal, CloseDescriptors";
    assert_eq!(names(&spec()).join(", "), expected);
}

/// What stands in for a pid namespace is in place before the command has a say.
#[test]
fn without_a_pid_namespace_the_step_is_found_and_fenced() {
    let mut spec = spec();
    spec.processes = Processes::Host;
    let names = names(&spec);
    assert!(!names.contains(&"NewMount proc".to_owned()));
    // While the host's /proc is in sight.
    let told = position(&names, "TellNamespace");
    assert!(position(&names, "MountNamespace") < told);
    assert!(told < position(&names, "PivotRoot"));
    let proc = position(&names, "MoveFromStage proc");
    assert!(proc < position(&names, "ReadOnly proc/sys"));
    assert_eq!(names.iter().filter(|name| *name == "Seccomp").count(), 2);
    if watch::scope().is_some() {
        // It needs CAP_SYS_ADMIN.
        assert!(position(&names, "SignalScope") < position(&names, "Capabilities"));
    }
}

#[test]
fn r33_insecure_covers_and_drops_nothing() {
    let mut spec = spec();
    spec.privileges = Privileges::Insecure;
    let names = names(&spec);
    for absent in [
        "Seccomp",
        "BoundingSet",
        "Capabilities",
        "MaskFile",
        "ReadOnly",
    ] {
        assert!(
            !names.iter().any(|name| name.starts_with(absent)),
            "{absent} in {names:?}"
        );
    }
    assert!(names.contains(&"Attach sys".to_owned()));
}

#[test]
fn credentials_change_while_they_may() {
    let mut spec = spec();
    spec.user = Credentials {
        uid: 1000,
        gid: 1000,
        groups: vec![1, 2],
    };
    let names = names(&spec);
    let order = [
        "Streams",
        "WorkingDirectory",
        "Seccomp",
        "BoundingSet",
        "Groups",
        "Gid",
        "Uid",
    ];
    assert!(
        order
            .windows(2)
            .all(|w| position(&names, w[0]) < position(&names, w[1]))
    );
    assert!(position(&names, "Uid") < position(&names, "ParentDeathSignal"));
}

#[test]
fn r32_a_user_has_no_effective_capabilities() {
    let mut spec = spec();
    spec.user.uid = 1000;
    let mut ops = Vec::new();
    process(&mut ops, &spec);
    let kept: Vec<u64> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Capabilities { keep } | Op::BoundingSet { keep } => Some(*keep),
            _ => None,
        })
        .collect();
    assert_eq!(kept, [crate::caps::DOCKER_DEFAULT, 0]);
}

#[test]
fn r34_loopback_only_in_a_network_of_its_own() {
    let mut spec = spec();
    assert!(!names(&spec).contains(&"LoopbackUp".to_owned()));
    spec.network = Network::None;
    assert!(names(&spec).contains(&"LoopbackUp".to_owned()));
}

#[test]
fn r04_command_is_looked_up_in_the_path_of_the_environment() {
    let candidates = |argv0: &str, path: Option<&str>| {
        let mut spec = spec();
        spec.argv = vec![argv0.into()];
        spec.env = path
            .map(|path| ("PATH".into(), path.into()))
            .into_iter()
            .collect();
        let strings = command(&spec).unwrap().candidates;
        strings
            .iter()
            .map(|s| s.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        candidates("sh", Some("/bin:/usr/bin")),
        ["/bin/sh", "/usr/bin/sh"]
    );
    assert_eq!(candidates("/bin/sh", Some("/usr/bin")), ["/bin/sh"]);
    assert_eq!(candidates("./sh", Some("/usr/bin")), ["./sh"]);
    assert_eq!(
        candidates("sh", Some(":/bin:")),
        ["./sh", "/bin/sh", "./sh"]
    );
    assert_eq!(candidates("sh", None).len(), 6);
}

#[test]
fn arguments_and_environment_are_passed_as_they_are() {
    let command = command(&spec()).unwrap();
    assert_eq!(
        command.argv.strings(),
        [c"sh".to_owned(), c"-c".to_owned(), c"true".to_owned()]
    );
    let env = [c"PATH=/bin:/usr/bin".to_owned(), c"A=b=c".to_owned()];
    assert_eq!(command.envp.strings(), env);
}

#[test]
fn what_the_kernel_cannot_take_is_refused() {
    let change = |change: &dyn Fn(&mut Spec)| {
        let mut spec = spec();
        change(&mut spec);
        validate(&spec).and_then(|()| command(&spec).map(drop))
    };
    type Change<'a> = &'a dyn Fn(&mut Spec);
    let cases: [(&str, Change<'_>); 8] = [
        ("no command", &|spec| spec.argv.clear()),
        ("empty command", &|spec| spec.argv = vec!["".into()]),
        ("null byte", &|spec| spec.argv.push("a\0b".into())),
        ("variable without name", &|spec| {
            spec.env.push(("".into(), "x".into()));
        }),
        ("relative directory", &|spec| spec.cwd = "x".into()),
        ("long hostname", &|spec| spec.hostname = "x".repeat(65)),
        ("limits", &|spec| {
            spec.rlimits = vec![(Resource::Nofile, 2, 1)];
        }),
        ("relative target", &|spec| {
            let kind = MountKind::Tmpfs {
                size: None,
                mode: 0,
                read_only: false,
            };
            spec.mounts = vec![Mount {
                target: "x".into(),
                kind,
            }];
        }),
    ];
    for (name, case) in cases {
        assert!(matches!(change(case), Err(Error::Invalid { .. })), "{name}");
    }
    assert!(change(&|_| {}).is_ok());
}

#[test]
fn failed_operations_name_their_path() {
    let op = Op::MaskDirectory {
        target: c"proc/acpi".to_owned(),
    };
    assert_eq!(
        op.step(),
        Step::Mask {
            path: PathBuf::from("/proc/acpi")
        }
    );
}
