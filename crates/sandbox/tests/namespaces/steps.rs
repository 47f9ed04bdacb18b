//! Inside: the command, its process and its identity.

use std::time::{Duration, Instant};

use layercake_sandbox::Error;
use layercake_sandbox::spec::{Network, Privileges, Processes, Resource, Status};

use crate::Test;
use crate::fixture::{Fixture, PATIENCE, chain, ids, processes, set_mode};

pub const TESTS: &[Test] = &[
    ("exit_status", exit_status),
    ("signal", signal),
    ("output_of_both_streams", output_of_both_streams),
    ("r04_command_not_found", command_not_found),
    ("r04_command_not_executable", command_not_executable),
    ("exec_format", exec_format),
    ("interpreter_missing", interpreter_missing),
    ("r04_path_of_the_environment", path_of_the_environment),
    ("environment_is_exact", environment_is_exact),
    ("command_is_process_1", command_is_process_1),
    ("r06_daemon_is_killed", daemon_is_killed),
    ("r02_stdin_is_empty", stdin_is_empty),
    ("user_and_groups", user_and_groups),
    ("user_without_a_mapping", user_without_a_mapping),
    ("user_may_open_dev_stdout", user_may_open_dev_stdout),
    ("r32_capabilities", capabilities),
    ("r32_capabilities_of_a_user", capabilities_of_a_user),
    ("r32_setuid_programs_work", setuid_programs_work),
    ("r32_seccomp", seccomp),
    ("r33_insecure", insecure),
    ("signals_are_default", signals_are_default),
    ("umask_and_process_group", umask_and_process_group),
    ("no_descriptor_leaks", no_descriptor_leaks),
    ("hostname", hostname),
    ("r03_working_directory", working_directory),
    (
        "r03_missing_working_directory_is_made",
        missing_working_directory_is_made,
    ),
    ("r34_network_none", network_none),
    ("r36_rlimits", rlimits),
    ("cancel_kills", cancel_kills),
    ("timeout_kills", timeout_kills),
    ("usage_is_reported", usage_is_reported),
    ("many_at_a_time", many_at_a_time),
    ("large_output", large_output),
    ("invalid_specs", invalid_specs),
];

fn exit_status() {
    assert_eq!(Fixture::sh("exit 0").run().code(), 0);
    assert_eq!(Fixture::sh("exit 73").run().code(), 73);
}

fn signal() {
    // Process 1 of a namespace cannot kill itself with a signal it has no handler for, so the
    // kernel does it.
    let mut fixture = Fixture::sh("exec awk 'BEGIN { while (1) x++ }'");
    fixture.spec.rlimits = vec![(Resource::Cpu, 1, 1)];
    assert_eq!(fixture.run().outcome.status, Status::Signalled(9));
}

fn output_of_both_streams() {
    let ran = Fixture::sh("echo to out; echo to err >&2").run();
    assert_eq!(
        (ran.out.as_str(), ran.err.as_str()),
        ("to out\n", "to err\n")
    );
}

fn command_not_found() {
    for name in ["no-such-command", "/bin/no-such-command", "etc/passwd/x"] {
        match Fixture::new(&[name]).try_run() {
            Err(Error::CommandNotFound { name: reported }) => assert_eq!(reported, name),
            other => panic!("{name}: {:?}", other.map(|ran| ran.outcome)),
        }
    }
}

fn command_not_executable() {
    match Fixture::new(&["/etc/passwd"]).try_run() {
        Err(Error::CommandNotExecutable { path }) => assert_eq!(path.to_str(), Some("/etc/passwd")),
        other => panic!("{:?}", other.map(|ran| ran.outcome)),
    }
}

/// A fixture with an executable file /prog of this content.
fn with_program(content: &str, argv: &[&str]) -> Fixture {
    let mut fixture = Fixture::new(argv);
    let layer = fixture.directory("layer");
    std::fs::write(layer.join("prog"), content).unwrap();
    set_mode(&layer.join("prog"), 0o755);
    fixture.add_lower(layer);
    fixture
}

fn exec_format() {
    let fixture = with_program("echo no shebang\n", &["/prog"]);
    match fixture.try_run() {
        Err(Error::ExecFormat { path }) => assert_eq!(path.to_str(), Some("/prog")),
        other => panic!("{:?}", other.map(|ran| ran.outcome)),
    }
}

fn interpreter_missing() {
    let fixture = with_program("#!/no/such/interpreter\n", &["/prog"]);
    match fixture.try_run() {
        Err(Error::InterpreterMissing { path }) => assert_eq!(path.to_str(), Some("/prog")),
        other => panic!("{:?}", other.map(|ran| ran.outcome)),
    }
}

fn path_of_the_environment() {
    let mut fixture = with_program("#!/bin/sh\necho found $0\n", &["prog"]);
    fixture.spec.env = vec![("PATH".into(), "/nowhere:/etc/passwd:/".into())];
    assert_eq!(fixture.output(), "found /prog\n");
    fixture.spec.env = vec![("PATH".into(), "/bin".into())];
    assert!(matches!(
        fixture.try_run(),
        Err(Error::CommandNotFound { .. })
    ));
    let mut fixture = Fixture::new(&["echo", "default path"]);
    fixture.spec.env.clear();
    assert_eq!(fixture.output(), "default path\n");
}

fn environment_is_exact() {
    let mut fixture = Fixture::new(&["/bin/env"]);
    fixture.spec.env = vec![("B".into(), "2".into()), ("A".into(), "".into())];
    assert_eq!(fixture.output(), "B=2\nA=\n");
}

fn command_is_process_1() {
    let script = "echo $$; tr '\\0' ' ' < /proc/1/cmdline; ls -d /proc/[0-9]* | wc -l";
    let output = Fixture::sh(script).output();
    let lines: Vec<&str> = output.lines().collect();
    if processes() == Processes::Host {
        assert_ne!(lines[0], "1");
        return;
    }
    assert_eq!(lines[0], "1");
    assert!(lines[1].starts_with("sh -c "), "{output}");
}

fn daemon_is_killed() {
    let started = Instant::now();
    let script = "setsid sleep 3600 & setsid sh -c 'trap \"\" HUP TERM; sleep 3600' & echo started";
    assert_eq!(Fixture::sh(script).output(), "started\n");
    assert!(started.elapsed() < PATIENCE);
}

fn stdin_is_empty() {
    assert_eq!(
        Fixture::sh("cat | wc -c; readlink /proc/self/fd/0").output(),
        "0\n/dev/null\n"
    );
}

fn user_and_groups() {
    assert_eq!(Fixture::sh("id -u; id -g; id -G").output(), "0\n0\n0\n");
    let fixture = Fixture::sh("id -u; id -g; id -G; echo x > /home/x 2>/dev/null || echo refused");
    let output = fixture.user(1000, 1001, &[7, 8]).output();
    assert_eq!(output, "1000\n1001\n1001 7 8\nrefused\n");
    assert!(ids() > 65_534, "{} ids", ids());
}

fn user_without_a_mapping() {
    if ids() == u32::MAX {
        // Root: every id exists.
        return;
    }
    let error = Fixture::sh("true")
        .user(ids(), 0, &[])
        .try_run()
        .err()
        .unwrap();
    assert!(
        error.remedy().unwrap().contains("/etc/subuid"),
        "{}",
        chain(&error)
    );
}

fn user_may_open_dev_stdout() {
    let fixture = Fixture::sh("echo a > /dev/stdout; echo b > /dev/stderr");
    let ran = fixture.user(1000, 1000, &[]).run();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("a\n", "b\n"));
}

/// Docker's default set, as /proc/self/status of a container there shows it.
const DOCKER: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

/// Inheritable, permitted, effective, bounding, ambient.
fn shown_capabilities(fixture: &Fixture) -> Vec<String> {
    let output = fixture.output();
    output
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(str::to_owned)
        .collect()
}

fn capabilities() {
    let fixture = Fixture::new(&["grep", "^Cap", "/proc/self/status"]);
    assert_eq!(
        shown_capabilities(&fixture),
        [NONE, DOCKER, DOCKER, DOCKER, NONE]
    );
}

fn capabilities_of_a_user() {
    let fixture = Fixture::new(&["grep", "^Cap", "/proc/self/status"]).user(1000, 1000, &[]);
    assert_eq!(
        shown_capabilities(&fixture),
        [NONE, NONE, NONE, DOCKER, NONE]
    );
}

fn setuid_programs_work() {
    let mut fixture = Fixture::new(&["/program", "--euid"]).user(1000, 1000, &[]);
    let layer = fixture.directory("layer");
    std::fs::copy("/proc/self/exe", layer.join("program")).unwrap();
    fixture.add_lower(layer.clone());
    set_mode(&layer.join("program"), 0o755);
    assert_eq!(fixture.output(), "1000\n");
    set_mode(&layer.join("program"), 0o4755);
    assert_eq!(fixture.output(), "0\n");
}

fn seccomp() {
    let script = "unshare -U true 2>&1; unshare -m true 2>&1; mount -t tmpfs none /tmp 2>&1; \
                  chroot / true && echo chroot; grep '^Seccomp:' /proc/self/status";
    let output = Fixture::sh(script).output();
    assert_eq!(
        output.matches("Operation not permitted").count(),
        2,
        "{output}"
    );
    assert!(
        output.contains("chroot\n") && output.contains("Seccomp:\t2"),
        "{output}"
    );
}

fn insecure() {
    if processes() == Processes::Host {
        return insecure_without_a_pid_namespace();
    }
    let script = "mount -t tmpfs none /tmp && echo mounted; grep '^Seccomp:' /proc/self/status; \
                  grep CapEff /proc/self/status";
    let mut fixture = Fixture::sh(script);
    fixture.spec.privileges = Privileges::Insecure;
    let output = fixture.output();
    assert!(
        output.contains("mounted\n") && output.contains("Seccomp:\t0"),
        "{output}"
    );
    assert!(!output.contains(DOCKER), "{output}");
}

/// Its processes could get away.
fn insecure_without_a_pid_namespace() {
    let mut fixture = Fixture::sh("true");
    fixture.spec.privileges = Privileges::Insecure;
    let error = fixture.try_run().err().unwrap();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

fn signals_are_default() {
    let output = Fixture::new(&["grep", "^Sig[BI]", "/proc/self/status"]).output();
    assert_eq!(output, format!("SigBlk:\t{NONE}\nSigIgn:\t{NONE}\n"));
}

fn umask_and_process_group() {
    // The fields of /proc/PID/stat: process group, and the number of the terminal.
    let script = "umask; test $(cut -d' ' -f5 /proc/self/stat) = $$ && echo own; \
                  cut -d' ' -f7 /proc/self/stat; cat /dev/tty";
    let output = Fixture::sh(script).run();
    assert_eq!(output.out, "0022\nown\n0\n");
    assert!(output.err.contains("No such device"), "{}", output.err);
}

fn no_descriptor_leaks() {
    let output = Fixture::new(&["ls", "/proc/self/fd"]).output();
    // 3 is the directory that ls reads.
    assert_eq!(output, "0\n1\n2\n3\n");
}

fn hostname() {
    let mut fixture = Fixture::new(&["hostname"]);
    fixture.spec.hostname = "buildkitsandbox".to_owned();
    assert_eq!(fixture.output(), "buildkitsandbox\n");
}

fn working_directory() {
    let mut fixture = Fixture::new(&["pwd"]);
    fixture.spec.cwd = "/link/full".into();
    assert_eq!(fixture.output(), "/opt/full\n");
    assert!(fixture.changes().is_empty());
}

fn missing_working_directory_is_made() {
    let mut fixture = Fixture::sh("pwd; stat -c '%a %u:%g' . ..");
    fixture.spec.cwd = "/link/new/dir".into();
    assert_eq!(fixture.output(), "/opt/new/dir\n755 0:0\n755 0:0\n");
    assert_eq!(
        Vec::from_iter(fixture.changes()),
        ["opt", "opt/new", "opt/new/dir"]
    );
}

fn network_none() {
    let mut fixture =
        Fixture::sh("ls /proc/sys/net/ipv4/conf; ip addr show lo; ip route | grep -c .");
    fixture.spec.network = Network::None;
    let output = fixture.run().out;
    assert!(
        output.contains("127.0.0.1/8") && output.contains("LOOPBACK,UP"),
        "{output}"
    );
    assert!(output.ends_with("\n0\n"), "{output}");
    assert!(output.starts_with("all\ndefault\nlo\n"), "{output}");
}

fn rlimits() {
    let mut fixture = Fixture::sh("ulimit -n; ulimit -Hn; ulimit -c");
    fixture.spec.rlimits = vec![(Resource::Nofile, 100, 200), (Resource::Core, 0, 0)];
    assert_eq!(fixture.output(), "100\n200\n0\n");
}

fn cancel_kills() {
    let fixture = Fixture::sh("trap '' TERM INT; echo started; sleep 600 & wait");
    let cancel = fixture.cancel.clone();
    let started = Instant::now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        cancel.cancel();
    });
    assert_eq!(fixture.run().outcome.status, Status::Cancelled);
    thread.join().unwrap();
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(fixture.run().outcome.status, Status::Cancelled);
}

fn timeout_kills() {
    // The shortest may be too short for a busy machine to get to the command.
    let said = [200, 2000, 20_000, 60_000]
        .map(Duration::from_millis)
        .into_iter()
        .find_map(|timeout| {
            let mut fixture = Fixture::sh("echo before; sleep 3600");
            fixture.spec.timeout = Some(timeout);
            let ran = fixture.run();
            assert_eq!(ran.outcome.status, Status::TimedOut);
            (!ran.out.is_empty()).then_some(ran.out)
        });
    assert_eq!(said.as_deref(), Some("before\n"));
}

fn usage_is_reported() {
    let script = "dd if=/dev/zero of=/dev/null bs=1M count=2000 2>/dev/null";
    let usage = Fixture::sh(script).run().outcome.usage;
    assert!(usage.wall > Duration::ZERO);
    assert!(usage.user_cpu + usage.system_cpu > Duration::ZERO);
    assert!(usage.wall < PATIENCE);
}

fn many_at_a_time() {
    let threads: Vec<_> = (0..8)
        .map(|number| {
            std::thread::spawn(move || {
                for round in 0..20 {
                    let script = format!("echo {number} {round} > /tmp/x; cat /tmp/x");
                    assert_eq!(Fixture::sh(&script).output(), format!("{number} {round}\n"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn large_output() {
    let ran = Fixture::sh("yes 0123456789 | head -c 3000000; head -c 100000 /dev/zero >&2").run();
    assert_eq!((ran.out.len(), ran.err.len()), (3_000_000, 100_000));
}

fn invalid_specs() {
    let mut relative = Fixture::sh("true");
    relative.spec.cwd = "x".into();
    let mut null = Fixture::new(&["echo", "a\0b"]);
    null.spec.env.clear();
    let mut name = Fixture::sh("true");
    name.spec.env = vec![("A=B".into(), "".into())];
    let mut limits = Fixture::sh("true");
    limits.spec.rlimits = vec![(Resource::Nofile, 2, 1)];
    for fixture in [
        relative,
        null,
        name,
        limits,
        Fixture::new(&[]),
        Fixture::new(&[""]),
    ] {
        match fixture.try_run() {
            Err(Error::Invalid { .. }) => {}
            Err(error) => panic!("{}", chain(&error)),
            Ok(ran) => panic!("{:?}", ran.outcome),
        }
    }
}
