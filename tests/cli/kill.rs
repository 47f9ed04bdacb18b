//! Killed at any moment, the next build is good and nothing is left.

use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Env, can_run, command_lines, eventually, unique, unique_seconds};

/// Processes whose command line holds `marker`.
fn processes_with(marker: &str) -> Vec<String> {
    let lines = command_lines().into_iter();
    lines.filter(|line| line.contains(marker)).collect()
}

/// A build whose output nobody reads.
fn start(env: &Env, flags: &[&str]) -> Child {
    let mut command = env.command(flags);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    quiet.stderr(Stdio::null()).spawn().unwrap()
}

fn send(build: &Child, signal: Signal) {
    let pid = i32::try_from(build.id()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn kill_9_at_any_moment_leaves_no_process_and_a_usable_store() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let marker = unique();
    let steps: String = (0..6)
        .map(|i| format!("RUN : {marker}; echo {i} > /f{i}; sleep 0.0{i}\n"))
        .collect();
    env.write("file", "content");
    env.dockerfile(&format!("FROM busybox\nCOPY file /\n{steps}"));
    // Moments spread over the whole build.
    for step in 0..20_u64 {
        let mut build = start(&env, &["--no-cache", "-t", "killed"]);
        std::thread::sleep(Duration::from_millis(step * 17));
        build.kill().unwrap();
        build.wait().unwrap();
        let gone = eventually(|| processes_with(&marker).is_empty());
        assert!(gone, "{:?}", processes_with(&marker));
    }
    assert_eq!(env.mounts(), [""; 0]);
    let first = env.build(&[]).success().digest();
    assert_eq!(env.build(&["--no-cache"]).success().digest(), first);
    assert_eq!(env.image().text("f5"), "5\n");
}

/// Also while the machine is probed, and before the process inside listens. SIGTERM, because
/// shells start what they put into the background with SIGINT ignored.
#[test]
fn a_signal_at_any_moment_ends_the_build() {
    if !can_run() {
        return;
    }
    for step in 1..16_u64 {
        let env = Env::new();
        env.dockerfile("FROM busybox\nRUN sleep 600\n");
        let mut build = start(&env, &[]);
        std::thread::sleep(Duration::from_millis(step * 20));
        send(&build, Signal::SIGTERM);
        let ended = eventually(|| build.try_wait().unwrap().is_some());
        if !ended {
            build.kill().unwrap();
        }
        assert!(ended, "stopped after {} ms, it went on", step * 20);
    }
}

#[test]
fn an_interrupt_ends_the_build_at_once_and_says_so() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let seconds = unique_seconds();
    env.dockerfile(&format!("FROM busybox\nRUN exec sleep {seconds}\n"));
    let mut command = env.command(&[]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let build = command.spawn().unwrap();
    let line = format!("sleep\0{seconds}\0");
    let runs = eventually(|| command_lines().contains(&line));
    send(&build, Signal::SIGINT);
    assert!(runs, "the step does not run");
    let said = env.said(build.wait_with_output().unwrap());
    said.failure(130).says("canceled");
}

#[test]
fn what_a_killed_build_leaves_in_the_store_is_removed_by_later_ones() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let seconds = unique_seconds();
    env.dockerfile(&format!(
        "FROM busybox\nRUN echo {seconds} > /left; exec sleep {seconds}\n"
    ));
    let mut build = start(&env, &[]);
    let line = format!("sleep\0{seconds}\0");
    let runs = eventually(|| command_lines().contains(&line));
    build.kill().unwrap();
    build.wait().unwrap();
    assert!(runs, "the step does not run");
    // In a directory of its own for each process, with drafts that have numbers for names.
    let drafts = || {
        let processes = std::fs::read_dir(env.path("store/tmp")).unwrap();
        let drafts = processes.flatten().flat_map(|process| {
            let drafts = std::fs::read_dir(process.path()).into_iter().flatten();
            drafts.flatten().map(|draft| draft.path().join("left"))
        });
        drafts.filter(|left| left.exists()).count()
    };
    assert_eq!(drafts(), 1);
    // A build does not wait for it.
    env.dockerfile("FROM busybox\nRUN true\n");
    let gone = eventually(|| {
        env.build(&["--no-cache"]).success();
        drafts() == 0
    });
    assert!(gone);
}
