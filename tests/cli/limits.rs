//! `--step-timeout`, `--memory`, `--cpus`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Env, Said, can_run};

#[test]
fn a_step_that_takes_too_long_is_killed_with_all_it_started() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN echo quick\n\
         RUN trap '' TERM HUP INT; setsid sleep 700 & echo started; sleep 700\n",
    );
    let start = Instant::now();
    env.build(&["--step-timeout", "700ms"])
        .failure(1)
        .says("quick")
        .says("started")
        .says("it ran longer than --step-timeout 0.7s and was killed");
    assert!(start.elapsed() < Duration::from_secs(300));
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
    env.dockerfile("FROM busybox\nRUN while ! test -e /stop; do sleep 0.1; done\n");
    // A share that nothing else on the machine has.
    let mut command = env.command(&["-t", "x", "--cpus", "0.3791", "--step-timeout", "3s"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut build = command.spawn().unwrap();
    let mut seen = false;
    while !seen && build.try_wait().unwrap().is_none() {
        seen = groups_with_quota("37900") > 0;
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = env.said(build.wait_with_output().unwrap());
    if limited(&said, "--cpus") {
        said.failure(1).says("--step-timeout 3s");
        assert!(seen);
    }
    assert_eq!(groups_with_quota("37900"), 0);
}
