//! Steps that are killed, interrupted and timed out at random moments leave nothing behind.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Env, can_run, command_lines, eventually, unique};

/// More rounds are asked for with this variable.
const ROUNDS: &str = "LAYERCAKE_KILL_ROUNDS";

fn processes_with(marker: &str) -> usize {
    let lines = command_lines();
    lines.iter().filter(|line| line.contains(marker)).count()
}

/// Lock files of cache mounts that somebody holds.
fn locked_caches(store: &Path) -> usize {
    let files = walkdir::WalkDir::new(store.join("caches"))
        .max_depth(3)
        .into_iter()
        .flatten();
    files
        .filter(|f| f.file_name() == "lock")
        .filter(|f| std::fs::File::open(f.path()).unwrap().try_lock().is_err())
        .count()
}

fn start(env: &Env, flags: &[&str]) -> Child {
    let mut command = env.command(flags);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn nothing_is_left_of_steps_that_end_at_random_moments() {
    if !can_run() {
        return;
    }
    let rounds = std::env::var(ROUNDS)
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(60_u64);
    let env = Env::new();
    let marker = unique();
    // Each leaves a daemon that ignores signals and holds its output, in a cache others want.
    let step = |n: u32| {
        format!(
            "RUN --mount=type=cache,target=/c,sharing=locked --mount=type=tmpfs,target=/t \
             : {marker}; (trap '' TERM INT HUP; setsid sleep 900 & sleep 900) & \
             touch /t/x /c/{n}; sleep 0.0{n}\n"
        )
    };
    env.dockerfile(&format!("FROM busybox\n{}{}{}", step(1), step(3), step(5)));
    // Moments that differ with each round and are the same in each run of the test.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = Duration::from_millis(random % 400);
        let timeout = format!("{}ms", 1 + random / 400 % 80);
        let flags = ["--no-cache", "-t", "x", "--step-timeout", &timeout];
        match round % 3 {
            0 => {
                let mut build = start(&env, &flags[..3]);
                std::thread::sleep(moment);
                build.kill().unwrap();
                build.wait().unwrap();
            }
            1 => {
                let mut build = start(&env, &flags[..3]);
                std::thread::sleep(moment);
                // It may have ended already.
                kill(Pid::from_raw(build.id() as i32), Signal::SIGINT).ok();
                build.wait().unwrap();
            }
            _ => {
                start(&env, &flags).wait().unwrap();
            }
        }
        assert!(eventually(|| processes_with(&marker) == 0), "round {round}");
        assert!(
            eventually(|| locked_caches(&env.path("store")) == 0),
            "round {round}"
        );
    }
    assert_eq!(env.mounts(), [""; 0]);
    let begin = Instant::now();
    env.build(&["--no-cache"]).success();
    // The daemons sleep for 15 minutes.
    assert!(begin.elapsed() < Duration::from_secs(300));
    assert_eq!(processes_with(&marker), 0);
}
