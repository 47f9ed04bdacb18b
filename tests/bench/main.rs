//! `cargo bench --bench build`: what a step, an unchanged build and a big copy cost, each beside a
//! baseline of the same run, and what steps and packages cost on each way to run them. Needs a
//! static busybox; for the baseline of steps bubblewrap, for packages mmdebstrap and a mirror of
//! Debian. Prints medians; nothing here can fail for being slow. A name (`-- packages`) runs only
//! that part.
//!
//! Every build goes to a fresh store: nothing is deleted between measurements, as that slows
//! some file systems down for a minute.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people to run"
)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod ways;

const ROUNDS: usize = 9;
const STEPS: usize = 20;
const FILES: usize = 20_000;

fn main() {
    // `cargo test --benches` passes other arguments and wants no measurement.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap().keep();
    let bench = Bench {
        base: base(&scratch),
        scratch,
    };
    let parts: [(&str, Part); 5] = [
        ("steps", Bench::steps),
        ("unchanged", Bench::unchanged),
        ("copy", Bench::copy),
        ("ways", ways::steps),
        ("packages", ways::packages),
    ];
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    for (name, part) in parts {
        if names.is_empty() || names.iter().any(|n| n == name) {
            part(&bench);
        }
    }
    println!("scratch files are in {}", bench.scratch.display());
}

/// What is measured together.
type Part = fn(&Bench);

struct Bench {
    scratch: PathBuf,
    base: PathBuf,
}

/// `LAYERCAKE_BIN`, else the program of this build.
fn program() -> PathBuf {
    let other = std::env::var_os("LAYERCAKE_BIN").map(PathBuf::from);
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_layercake").into())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let took = start.elapsed();
    assert!(status.success(), "{command:?}");
    took
}

fn busybox() -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .map(|p| p.join("busybox"))
        .find(|p| p.exists())
        .expect("a static busybox in PATH (Debian: busybox-static)")
}

/// A root file system of busybox, and a layout made of it.
fn base(scratch: &Path) -> PathBuf {
    let root = scratch.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(busybox(), root.join("bin/busybox")).unwrap();
    symlink("busybox", root.join("bin/sh")).unwrap();
    fs::write(root.join("Dockerfile"), "FROM scratch\nCOPY bin /bin\n").unwrap();
    let layout = scratch.join("base");
    let output = format!("type=oci,dest={},tar=false", layout.display());
    timed(
        Command::new(program())
            .env("LAYERCAKE_ROOT", scratch.join("base-store"))
            .args(["build", "--output", &output])
            .arg(&root),
    );
    layout
}

impl Bench {
    fn context(&self, name: &str, dockerfile: &str) -> PathBuf {
        let path = self.scratch.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("Dockerfile"), dockerfile).unwrap();
        path
    }

    fn build(&self, context: &Path, store: &str) -> Duration {
        let busybox = format!("busybox=oci-layout://{}", self.base.display());
        self.build_with(context, store, &["--build-context", &busybox])
    }

    fn build_with(&self, context: &Path, store: &str, flags: &[&str]) -> Duration {
        let output = format!("type=oci,dest={store}-out,tar=false");
        timed(
            Command::new(program())
                .env("LAYERCAKE_ROOT", self.scratch.join(store))
                .current_dir(&self.scratch)
                .args(["build", "--output", &output])
                .args(flags)
                .arg(context),
        )
    }

    /// The cost of one step: a build of many minus a build of one, layers and records included.
    fn steps(&self) {
        let (one, many) = self.one_and_many();
        let has_bwrap = Command::new("bwrap").arg("--version").output().is_ok();
        let (mut steps, mut baseline) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let short = self.build(&one, &format!("one-{round}"));
            let long = self.build(&many, &format!("many-{round}"));
            steps.push(long.saturating_sub(short) / u32::try_from(STEPS).unwrap());
            if has_bwrap {
                baseline.push(self.bwrap());
            }
        }
        let step = milliseconds(median(steps));
        println!("one trivial RUN step, layer and record included: {step:.2} ms");
        if has_bwrap {
            let bwrap = milliseconds(median(baseline));
            println!("  bwrap with the same namespaces and mounts:     {bwrap:.2} ms");
            println!("  ratio: {:.2}", step / bwrap);
        }
    }

    /// Contexts for a build of one trivial step, and of [`STEPS`] more.
    fn one_and_many(&self) -> (PathBuf, PathBuf) {
        let dockerfile = |count: usize| {
            (0..count).fold("FROM busybox\n".to_owned(), |mut text, i| {
                writeln!(text, "RUN echo {i} > /f{i}").unwrap();
                text
            })
        };
        (
            self.context("one", &dockerfile(1)),
            self.context("many", &dockerfile(STEPS + 1)),
        )
    }

    /// Mean of as many runs as a build has steps, each with the namespaces and mounts of a step:
    /// what bubblewrap does not cover of /proc by itself is covered here, where the host has it.
    fn bwrap(&self) -> Duration {
        let root = self.scratch.join("root");
        let empty = self.scratch.join("empty");
        fs::create_dir_all(&empty).unwrap();
        let empty = empty.to_str().unwrap();
        let mut covers: Vec<&str> = Vec::new();
        for (source, target) in [
            ("/dev/null", "/proc/kcore"),
            ("/dev/null", "/proc/keys"),
            ("/dev/null", "/proc/timer_list"),
            (empty, "/proc/acpi"),
            (empty, "/proc/scsi"),
            ("/proc/fs", "/proc/fs"),
        ] {
            if Path::new(target).exists() {
                covers.extend(["--ro-bind", source, target]);
            }
        }
        let total: Duration = (0..STEPS)
            .map(|i| {
                timed(
                    Command::new("bwrap")
                        .args(["--unshare-user", "--unshare-pid", "--unshare-ipc"])
                        .args(["--unshare-uts", "--unshare-cgroup-try"])
                        .args(["--hostname", "step", "--die-with-parent", "--bind"])
                        .arg(&root)
                        .args(["/", "--proc", "/proc"])
                        .args(&covers)
                        .args(["--dev", "/dev", "--tmpfs", "/dev/shm"])
                        .args(["--mqueue", "/dev/mqueue", "--ro-bind", "/sys", "/sys"])
                        .args(["--ro-bind", "/etc/resolv.conf", "/etc/resolv.conf"])
                        .args(["--ro-bind", "/etc/hosts", "/etc/hosts", "--chdir", "/"])
                        .args(["/bin/sh", "-c", &format!("echo {i} > /f{i}")]),
                )
            })
            .sum();
        total / u32::try_from(STEPS).unwrap()
    }

    fn unchanged(&self) {
        let (_, context) = self.one_and_many();
        self.build(&context, "unchanged");
        let times = (0..ROUNDS)
            .map(|_| self.build(&context, "unchanged"))
            .collect();
        println!(
            "{STEPS} steps, nothing changed: {:.1} ms",
            milliseconds(median(times))
        );
    }

    /// A context of many small files against `tar | sha256sum` and then `pigz` on two threads, where
    /// that is installed, and against both at once: a step does all of that.
    fn copy(&self) {
        let context = self.context("files", "FROM scratch\nCOPY data /data\n");
        let mut noise = Noise(7);
        for directory in 0..FILES / 100 {
            let path = context.join("data").join(format!("d{directory}"));
            fs::create_dir_all(&path).unwrap();
            for file in 0..100 {
                // Half of it can be compressed.
                let mut content = vec![b'x'; 2048];
                content[..1024].fill_with(|| noise.next());
                fs::write(path.join(format!("f{file}")), content).unwrap();
            }
        }
        let shell = |text: &str| {
            let mut command = Command::new("sh");
            timed(command.args(["-c", text]).current_dir(&context))
        };
        let has_pigz = Command::new("pigz").arg("--version").output().is_ok();
        let (mut cold, mut warm, mut hash, mut compress, mut both) =
            (vec![], vec![], vec![], vec![], vec![]);
        for round in 0..ROUNDS {
            hash.push(shell("tar -c data | sha256sum"));
            if has_pigz {
                shell("tar -c data > ../data.tar");
                compress.push(shell("pigz -p 2 < ../data.tar > ../data.tar.gz"));
                both.push(shell(
                    "mkfifo ../p$$; sha256sum < ../p$$ & tar -c data | tee ../p$$ | pigz -p 2 > ../data.tar.gz; wait",
                ));
            }
            let store = format!("files-{round}");
            cold.push(self.build(&context, &store));
            warm.push(self.build(&context, &store));
        }
        let [cold, warm, hash] = [cold, warm, hash].map(|times| milliseconds(median(times)));
        println!("COPY of {FILES} files: {cold:.0} ms");
        println!("  tar -c | sha256sum: {hash:.0} ms");
        if has_pigz {
            let [compress, both] = [compress, both].map(|times| milliseconds(median(times)));
            println!("  and then pigz -p 2: {compress:.0} ms");
            println!("  ratio to their sum: {:.2}", cold / (hash + compress));
            println!("  both at once:       {both:.0} ms");
        }
        println!("  again, nothing changed: {warm:.0} ms");
    }
}

/// Bytes that no program can compress: a linear congruential generator (Knuth's MMIX).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }
}
