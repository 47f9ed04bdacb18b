//! `--step-timeout`, `--memory`, `--cpus`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Env, Said, can_run, eventually};

#[test]
fn a_step_that_takes_too_long_is_killed_with_all_it_started() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN echo quick\n\
         RUN trap '' TERM HUP INT; setsid sleep 3600 & echo started; sleep 3600\n",
    );
    let start = Instant::now();
    // Too short on some machines even for what is quick.
    let said = ["0.7s", "5s", "50s"].iter().find_map(|limit| {
        let said = env.build(&["--step-timeout", limit]).failure(1);
        let limit = format!("it ran longer than --step-timeout {limit} and was killed");
        let said = said.says(&limit);
        said.stderr.contains("started").then_some(said)
    });
    said.unwrap().says("quick");
    assert!(start.elapsed() < Duration::from_secs(3000));
    for text in ["soon", "0", "5d"] {
        env.build(&["--step-timeout", text])
            .failure(2)
            .says("not a duration");
    }
}

#[test]
fn a_kill_that_nobody_asked_for_has_a_hint() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n");
    env.build(&[])
        .failure(1)
        .says("exit code: 137")
        .says("out of memory (see dmesg)");
    env.dockerfile("FROM busybox\nRUN exit 136\n");
    env.build(&[]).failure(1).does_not_say("out of memory");
}

/// Whether the machine gives the user control groups; else the error must say why not.
fn limited(said: &Said, flag: &str) -> bool {
    if said.code != Some(4) {
        return true;
    }
    assert!(
        said.stderr.contains(flag) && said.stderr.contains("Delegate=yes"),
        "{}",
        said.stderr
    );
    eprintln!("SKIPPED: no control groups: {}", said.stderr);
    false
}

#[test]
fn a_step_out_of_memory_is_said_to_be_so() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=100M count=1\n");
    let said = env.build(&["--memory", "32m"]);
    if limited(&said, "--memory") {
        said.failure(1)
            .says("out of memory: it needed more than --memory 32 MiB");
        let said = env.build(&["--memory", "1g"]).success();
        // The group counted what all processes of the step used.
        let done = said
            .stderr
            .lines()
            .find(|l| l.starts_with("#1 DONE"))
            .unwrap();
        let used = done.split(", ").nth(1).unwrap();
        let used = used.split(' ').next().unwrap();
        assert!(used.parse::<u32>().unwrap() >= 100, "{done}");
    }
    env.build(&["--memory", "1m"]).failure(2).says("minimum");
    env.build(&["--cpus", "none"])
        .failure(2)
        .says("not a number of processors");
}

/// Directories of control groups with this quota of 100 ms.
fn groups_with_quota(quota: &str) -> usize {
    let files = walkdir::WalkDir::new("/sys/fs/cgroup")
        .into_iter()
        .flatten();
    let has_quota = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next() == Some(quota)
    };
    files
        .filter(|f| f.file_name() == "cpu.cfs_quota_us" || f.file_name() == "cpu.max")
        .filter(|f| has_quota(f.path()))
        .count()
}

#[test]
fn processors_are_shared_out_and_nothing_is_left() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN sleep 3600\n");
    // A share that hardly anything else on the machine has.
    let thousandths = 100 + std::process::id() % 800;
    let quota = format!("{thousandths}00");
    let cpus = format!("0.{thousandths}");
    let mut command = env.command(&["-t", "x", "--cpus", &cpus]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut build = command.spawn().unwrap();
    let mut ended = false;
    let seen = eventually(|| {
        ended = build.try_wait().unwrap().is_some();
        ended || groups_with_quota(&quota) > 0
    });
    if !ended {
        kill(Pid::from_raw(build.id() as i32), Signal::SIGTERM).unwrap();
    }
    let said = env.said(build.wait_with_output().unwrap());
    if limited(&said, "--cpus") {
        assert!(seen && !ended, "{}", said.stderr);
    }
    assert!(eventually(|| groups_with_quota(&quota) == 0));
}
