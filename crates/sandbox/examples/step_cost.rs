//! What a step costs: runs a trivial static program many times with `run` and with bubblewrap in
//! the same namespaces and mounts, alternating, and prints medians in microseconds.
//!
//! ```text
//! cargo run --release -p layercake-sandbox --example step_cost [STEPS-PER-ROUND]
//! ```
//!
//! `run` mounts an overlay on a fresh upper, masks /proc and installs a seccomp filter;
//! bubblewrap binds the root read-write, starts as a program, and makes a user namespace.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use layercake_sandbox::spec::{Credentials, Network, Privileges, Processes, Root, Spec, Status};
use layercake_sandbox::{Cancel, inside, run};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROUNDS: usize = 5;
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

fn main() -> ExitCode {
    let result = inside::enter(std::env::args_os())
        .map_err(Box::from)
        .and_then(|inside| match inside {
            Some(inside) => measure_inside(&inside.args),
            None => measure(),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let steps: usize = std::env::args()
        .nth(1)
        .map_or(Ok(200), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let root = make_root(directory.path())?;
    let mut launches = Vec::new();
    let mut bubblewrap = Vec::new();
    let mut host = Vec::new();
    for round in 0..ROUNDS {
        for _ in 0..steps / 4 {
            host.push(timed(|| succeed(Command::new(root.join("bin/true"))))?);
            bubblewrap.push(timed(|| succeed(bwrap(&root)))?);
        }
        let work = directory.path().join(format!("round{round}"));
        std::fs::create_dir(&work)?;
        let started = Instant::now();
        let running = inside::Launcher::new([root.as_os_str(), work.as_os_str()])
            .env("STEPS", steps.to_string())
            .spawn()?;
        launches.push(started.elapsed());
        if running.wait()? != 0 {
            return Err("the process inside failed".into());
        }
    }
    println!("program on the host        {:>7}", median(&mut host));
    println!("bwrap                      {:>7}", median(&mut bubblewrap));
    println!("entering, once per program {:>7}", median(&mut launches));
    Ok(())
}

fn measure_inside(args: &[std::ffi::OsString]) -> Result<()> {
    let [root, work] = args else {
        return Err("two arguments are needed".into());
    };
    let steps: usize = std::env::var("STEPS")?.parse()?;
    let work = Path::new(work);
    for (name, network) in [("host", Network::Host), ("none", Network::None)] {
        let mut first = None;
        let mut times = Vec::with_capacity(steps);
        for number in 0..steps {
            let spec = spec(
                Path::new(root),
                &work.join(format!("{name}{number}")),
                network,
            );
            let time = timed(|| one_step(&spec))?;
            first.get_or_insert(time);
            times.push(time);
        }
        let least = times.iter().min().copied().unwrap_or_default().as_micros();
        let first = first.unwrap_or_default().as_micros();
        let median = median(&mut times);
        println!("run, network {name}         {median:>7}  (least {least}, first {first})");
    }
    Ok(())
}

/// With the directories that the engine makes for each step.
fn one_step(spec: &Spec) -> Result<()> {
    if let Root::Overlay { upper, work, .. } = &spec.root {
        std::fs::create_dir_all(upper)?;
        std::fs::create_dir(work)?;
    }
    match run(spec, &mut |_, _| {}, &Cancel::new()?)?.status {
        Status::Exited(0) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn spec(root: &Path, directory: &Path, network: Network) -> Spec {
    Spec {
        root: Root::Overlay {
            lowers: vec![root.to_owned()],
            upper: directory.join("upper"),
            work: directory.join("work"),
        },
        argv: vec!["/bin/true".into()],
        env: Vec::new(),
        cwd: "/".into(),
        user: Credentials::default(),
        hostname: "step".to_owned(),
        network,
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

fn bwrap(root: &Path) -> Command {
    let mut command = Command::new("bwrap");
    command.args([
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
    ]);
    command
        .args(["--hostname", "step", "--bind"])
        .arg(root)
        .arg("/");
    command.args([
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--ro-bind",
        "/sys",
        "/sys",
    ]);
    command.args(["--chdir", "/", "--die-with-parent", "/bin/true"]);
    command
}

fn make_root(directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    for name in ["bin", "proc", "dev", "sys"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    let busybox = BUSYBOX.iter().find(|path| Path::new(path).exists());
    std::fs::copy(
        busybox.ok_or("busybox-static is needed")?,
        root.join("bin/true"),
    )?;
    Ok(root)
}

fn succeed(mut command: Command) -> Result<()> {
    if command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?
        .success()
    {
        Ok(())
    } else {
        Err(format!("{} failed", command.get_program().display()).into())
    }
}

fn timed(action: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    action()?;
    Ok(started.elapsed())
}

fn median(times: &mut [Duration]) -> u128 {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .copied()
        .unwrap_or_default()
        .as_micros()
}
