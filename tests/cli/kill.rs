//! Killed at any moment, the next build is good and nothing is left.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{Env, can_run};

/// Processes whose command line holds `marker`, this one and its tools apart.
fn processes_with(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(marker) {
            found.push(line);
        }
    }
    found
}

fn gone(marker: &str) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        processes_with(marker).is_empty()
    })
}

#[test]
fn kill_9_at_any_moment_leaves_no_process_and_a_usable_store() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let marker = format!("marker-{}", std::process::id());
    let steps: String = (0..6)
        .map(|i| format!("RUN : {marker}; echo {i} > /f{i}; sleep 0.0{i}\n"))
        .collect();
    env.write("file", "content");
    env.dockerfile(&format!("FROM busybox\nCOPY file /\n{steps}"));
    let mounts = || {
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count()
    };
    let before = mounts();
    // Moments spread over the whole build.
    for step in 0..20_u64 {
        let mut command = env.command(&["--no-cache", "-t", "killed"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut build = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step * 17));
        build.kill().unwrap();
        build.wait().unwrap();
        assert!(gone(&marker), "{:?}", processes_with(&marker));
    }
    assert_eq!(mounts(), before);
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
        let mut command = env.command(&[]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut build = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step * 20));
        let pid = i32::try_from(build.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGINT).unwrap();
        let ended = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            build.try_wait().unwrap().is_some()
        });
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
    env.dockerfile("FROM busybox\nRUN sleep 600\n");
    let mut command = env.command(&[]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let build = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let pid = i32::try_from(build.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGINT).unwrap();
    let said = env.said(build.wait_with_output().unwrap());
    said.failure(130).says("canceled");
}
