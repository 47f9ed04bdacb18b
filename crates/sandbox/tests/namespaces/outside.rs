//! Outside: the process structure, and that nothing survives.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use layercake_sandbox::inside::{ARGUMENT, FDS_MAX, Inside, Isolation, Launcher};
use layercake_sandbox::probe::{self, probe};
use layercake_sandbox::{Cancel, Error, run};
use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::fixture::{Fixture, PATIENCE, unique};

pub const TESTS: &[Test] = &[
    (
        "works_when_sigchld_is_ignored",
        works_when_sigchld_is_ignored,
    ),
    ("exit_code_comes_through", exit_code_comes_through),
    (
        "arguments_environment_and_descriptors_arrive",
        arguments_environment_and_descriptors_arrive,
    ),
    ("too_many_descriptors", too_many_descriptors),
    ("inside_is_root_and_process_1", inside_is_root_and_process_1),
    ("started_by_hand", started_by_hand),
    (
        "kill_of_the_launcher_ends_everything",
        kill_of_the_launcher_ends_everything,
    ),
    (
        "kill_of_the_waiter_ends_everything",
        kill_of_the_waiter_ends_everything,
    ),
    (
        "kill_of_process_1_ends_everything",
        kill_of_process_1_ends_everything,
    ),
    (
        "drop_of_running_ends_everything",
        drop_of_running_ends_everything,
    ),
    (
        "end_of_the_launching_thread_ends_everything",
        end_of_the_launching_thread_ends_everything,
    ),
    ("kill_at_any_moment", kill_at_any_moment),
    ("signals_are_forwarded", signals_are_forwarded),
    (
        "probe_finds_what_the_tests_use",
        probe_finds_what_the_tests_use,
    ),
];

/// The first argument of an outer process that a test starts and kills.
pub const OUTER: &str = "--outer";

/// What this program does inside for a test outside.
pub fn role(inside: Inside) -> ExitCode {
    let text = |index: usize| {
        inside
            .args
            .get(index)
            .and_then(|arg| arg.to_str())
            .unwrap_or("")
    };
    match text(0) {
        "exit" => ExitCode::from(text(1).parse::<u8>().unwrap_or(99)),
        probe::ARGUMENT => ExitCode::from(probe::run_inside(&inside)),
        "arrive" => arrive(inside),
        "identity" => identity(&inside),
        "sleep" => sleep_in_a_step(text(1)),
        "signal" => wait_for_signal(),
        other => panic!("role {other:?}"),
    }
}

/// What this program does outside when a test starts it: launches a role and waits.
pub fn outer() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let code = Launcher::new(args).run().unwrap();
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn exit_code_comes_through() {
    for code in [0, 1, 42, 255] {
        let run = Launcher::new(["exit", &code.to_string()]).run();
        assert_eq!(run.unwrap(), code);
    }
}

fn arrive(inside: Inside) -> ExitCode {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    assert_eq!(text, "", "standard input is empty");
    let [reader, writer] = <[OwnedFd; 2]>::try_from(inside.fds).unwrap();
    File::from(reader).read_to_string(&mut text).unwrap();
    let variable = std::env::var("LAYERCAKE_TEST").unwrap();
    write!(
        File::from(writer),
        "{} {variable} {text}",
        inside.args[1].display()
    )
    .unwrap();
    ExitCode::SUCCESS
}

fn arguments_environment_and_descriptors_arrive() {
    let (to_inside, mut ours) = std::io::pipe().unwrap();
    let (mut theirs, from_inside) = std::io::pipe().unwrap();
    let (reader, writer) = (std::mem::replace(&mut theirs, to_inside), from_inside);
    // `theirs` now is what the process inside reads, `reader` what it writes to.
    let running = Launcher::new(["arrive", "argument"])
        .env("LAYERCAKE_TEST", "variable")
        .fd(theirs)
        .fd(writer)
        .spawn()
        .unwrap();
    ours.write_all(b"text").unwrap();
    drop(ours);
    let mut text = String::new();
    let mut reader = reader;
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "argument variable text");
    assert_eq!(running.wait().unwrap(), 0);
}

fn too_many_descriptors() {
    let mut launcher = Launcher::new(["exit", "0"]);
    for _ in 0..=FDS_MAX {
        launcher = launcher.fd(File::open("/dev/null").unwrap());
    }
    assert!(matches!(launcher.spawn(), Err(Error::Invalid { .. })));
    let mut launcher = Launcher::new(["exit", "5"]);
    for _ in 0..FDS_MAX {
        launcher = launcher.fd(File::open("/dev/null").unwrap());
    }
    assert_eq!(launcher.run().unwrap(), 5);
}

fn identity(inside: &Inside) -> ExitCode {
    assert_eq!(std::process::id(), 1);
    assert!(rustix::process::getuid().is_root() && rustix::process::getgid().is_root());
    assert!(inside.uids > 1 && inside.gids > 1, "{inside:?}");
    let expected = if inside.args[1] == "true" {
        Isolation::Root
    } else {
        Isolation::UserNamespace
    };
    assert_eq!(inside.isolation, expected);
    ExitCode::SUCCESS
}

fn inside_is_root_and_process_1() {
    use rustix::thread::{CapabilitySet, capabilities};
    let may_mount = capabilities(None)
        .unwrap()
        .effective
        .contains(CapabilitySet::SYS_ADMIN);
    let may_mount = may_mount && rustix::process::geteuid().is_root();
    assert_eq!(
        Launcher::new(["identity", &may_mount.to_string()])
            .run()
            .unwrap(),
        0
    );
}

fn started_by_hand() {
    for args in [
        vec![ARGUMENT],
        vec![ARGUMENT, "1"],
        vec![ARGUMENT, "x", "y"],
    ] {
        let mut command = Command::new("/proc/self/exe");
        let status = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(!status.unwrap().success());
    }
}

/// A program may be started with SIGCHLD ignored, and then could not wait for its children.
fn works_when_sigchld_is_ignored() {
    let program = std::fs::read_link("/proc/self/exe").unwrap();
    let mut command = Command::new("env");
    command
        .arg("--ignore-signal=CHLD")
        .arg(program)
        .args([OUTER, "exit", "3"]);
    match command.status().unwrap().code() {
        Some(125) => println!("  skipped: env has no --ignore-signal (coreutils 8.31)"),
        code => assert_eq!(code, Some(3)),
    }
}

/// Inside: runs a step that has the marker in its arguments and sleeps.
fn sleep_in_a_step(marker: &str) -> ExitCode {
    let mut fixture = Fixture::new(&[
        "sh",
        "-c",
        "echo started; setsid sleep 600 & sleep 600; true",
        marker,
    ]);
    fixture.spec.timeout = None;
    let mut sink = |_, bytes: &[u8]| {
        std::io::stdout().write_all(bytes).unwrap();
        std::io::stdout().flush().unwrap();
    };
    run(&fixture.spec, &mut sink, &Cancel::new().unwrap()).unwrap();
    ExitCode::SUCCESS
}

/// A text that only the processes of one test have in their arguments.
fn marker(name: &str) -> String {
    format!("marker-{name}-{}", unique())
}

/// A process that is killed when its test fails.
struct Outer(Child);

impl Drop for Outer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_outer(args: &[&str]) -> Outer {
    let mut command = Command::new("/proc/self/exe");
    let child = command
        .arg(OUTER)
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Outer(child)
}

fn wait_for_line(child: &mut Child, expected: &str) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line.trim_end(), expected);
}

/// The processes with the marker in their arguments.
fn marked(marker: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(arguments) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if String::from_utf8_lossy(&arguments).contains(marker) {
            found.push(pid);
        }
    }
    found
}

/// The one marked process that `parent` started.
fn child_of(parent: Pid, processes: &[Pid]) -> Pid {
    let parent = format!("PPid:\t{}", parent.as_raw_pid());
    let is_child = |pid: &&Pid| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid()));
        // One that was just forked may be gone again.
        status.is_ok_and(|status| status.lines().any(|line| line == parent))
    };
    *processes.iter().find(is_child).unwrap()
}

fn assert_none_left(marker: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !marked(marker).is_empty() {
        assert!(Instant::now() < deadline, "{:?} still run", marked(marker));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes of one outer process that runs a step.
struct Sleeper {
    outer: Outer,
    marker: String,
    waiter: Pid,
    process_1: Pid,
}

fn start_sleeper(name: &str) -> Sleeper {
    let marker = marker(name);
    let mut outer = start_outer(&["sleep", &marker]);
    wait_for_line(&mut outer.0, "started");
    let processes = marked(&marker);
    // Those of the fields and the step's own.
    assert!(processes.len() >= 4, "{processes:?}");
    let pid = Pid::from_raw(outer.0.id().cast_signed()).unwrap();
    let waiter = child_of(pid, &processes);
    let process_1 = child_of(waiter, &processes);
    Sleeper {
        outer,
        marker,
        waiter,
        process_1,
    }
}

fn kill_of_the_launcher_ends_everything() {
    let mut sleeper = start_sleeper("launcher");
    sleeper.outer.0.kill().unwrap();
    sleeper.outer.0.wait().unwrap();
    assert_none_left(&sleeper.marker);
}

fn kill_of_the_waiter_ends_everything() {
    let mut sleeper = start_sleeper("waiter");
    kill_process(sleeper.waiter, Signal::KILL).unwrap();
    assert_eq!(sleeper.outer.0.wait().unwrap().code(), Some(128 + 9));
    assert_none_left(&sleeper.marker);
}

fn kill_of_process_1_ends_everything() {
    let mut sleeper = start_sleeper("process-1");
    kill_process(sleeper.process_1, Signal::KILL).unwrap();
    assert_eq!(sleeper.outer.0.wait().unwrap().code(), Some(128 + 9));
    assert_none_left(&sleeper.marker);
}

fn drop_of_running_ends_everything() {
    let marker = marker("drop");
    let running = Launcher::new(["signal", &marker]).spawn().unwrap();
    assert!(!marked(&marker).is_empty());
    drop(running);
    assert_none_left(&marker);
}

fn end_of_the_launching_thread_ends_everything() {
    let marker = marker("thread");
    let running = std::thread::scope(|scope| {
        let launch = || Launcher::new(["signal", &marker]).spawn().unwrap();
        scope.spawn(launch).join().unwrap()
    });
    assert_none_left(&marker);
    assert_eq!(running.wait().unwrap(), 128 + 9);
}

/// Kills the outer process after growing delays, so that it hits every step on the way in.
fn kill_at_any_moment() {
    for delay in (0..60).map(|step| Duration::from_micros(step * 150)) {
        let marker = marker("moment");
        let mut outer = start_outer(&["sleep", &marker]);
        std::thread::sleep(delay);
        outer.0.kill().unwrap();
        outer.0.wait().unwrap();
        assert_none_left(&marker);
    }
}

/// Inside: says that it is ready and exits with 40 plus the number of the signal it gets.
fn wait_for_signal() -> ExitCode {
    use nix::sys::signal::{SigSet, Signal};
    let signals: SigSet = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ]
    .into_iter()
    .collect();
    signals.thread_block().unwrap();
    std::io::stdout().write_all(b"ready\n").unwrap();
    let signal = signals.wait().unwrap();
    ExitCode::from(40 + signal as u8)
}

fn signals_are_forwarded() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut outer = start_outer(&["signal"]);
        wait_for_line(&mut outer.0, "ready");
        let pid = Pid::from_raw(outer.0.id().cast_signed()).unwrap();
        // Until it waits, the outer process takes signals as any other.
        let blocked = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", outer.0.id())).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("SigBlk:\t"))
                .unwrap();
            u64::from_str_radix(line, 16).unwrap() != 0
        };
        while !blocked() {
            std::thread::yield_now();
        }
        kill_process(pid, signal).unwrap();
        assert_eq!(outer.0.wait().unwrap().code(), Some(40 + signal.as_raw()));
    }
}

fn probe_finds_what_the_tests_use() {
    let directory = crate::fixture::temporary();
    let probes = probe(directory.path());
    for probe in &probes {
        println!("  {probe:?}");
        assert!(probe.ok || !probe.required, "{probe:?}");
        assert_eq!(probe.ok, probe.remedy.is_none(), "{probe:?}");
    }
    for name in [
        "enter namespaces",
        "overlay",
        "/proc",
        "network namespace",
        "seccomp",
    ] {
        assert!(
            probes.iter().any(|probe| probe.name == name && probe.ok),
            "{name}"
        );
    }
}
