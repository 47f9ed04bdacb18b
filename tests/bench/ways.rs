//! The same builds on every way to run steps (docs/rootless.md), in turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Bench, ROUNDS, STEPS, median, milliseconds, program};

/// With what they depend on, 74 packages of Debian 12, 31 MB.
const PACKAGES: &str =
    "openssh-server sudo man-db cron dbus python3 git vim-tiny postgresql-common curl rsync";
const SUITE: &str = "bookworm";
const PACKAGES_ROUNDS: usize = 3;

struct Way {
    /// As the privilege ladder calls it.
    rung: &'static str,
    isolation: &'static str,
    times: Vec<Duration>,
}

/// The ways that can be forced here; the first is what others are compared with.
fn ways() -> Vec<Way> {
    let way = |rung, isolation| Way {
        rung,
        isolation,
        times: Vec::new(),
    };
    let mut ways = vec![way("a", "userns"), way("b", "single-id")];
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        ways.push(way("c", "chroot"));
    } else {
        println!("skipped: rung c, which is for root");
    }
    ways
}

fn report(what: &str, ways: Vec<Way>) {
    let mut first = None;
    for way in ways {
        let took = milliseconds(median(way.times));
        let ratio = took / *first.get_or_insert(took);
        println!(
            "{what}, rung {} ({}): {took:.2} ms, ratio {ratio:.2}",
            way.rung, way.isolation
        );
    }
}

/// The cost of one step: a build of many minus a build of one.
pub fn steps(bench: &Bench) {
    let (one, many) = bench.one_and_many();
    let base = format!("busybox=oci-layout://{}", bench.base.display());
    let mut ways = ways();
    for round in 0..ROUNDS {
        for way in &mut ways {
            let flags = ["--isolation", way.isolation, "--build-context", &base];
            let store = |count: &str| format!("{}-{count}-{round}", way.isolation);
            let short = bench.build_with(&one, &store("one"), &flags);
            let long = bench.build_with(&many, &store("many"), &flags);
            let step = long.saturating_sub(short) / u32::try_from(STEPS).unwrap();
            way.times.push(step);
        }
    }
    report("one trivial RUN step", ways);
}

/// Installs packages that were fetched before, without a network.
pub fn packages(bench: &Bench) {
    let Some(files) = fetch(&bench.scratch) else {
        return;
    };
    let base = bench.scratch.join("debian");
    let output = format!("type=oci,dest={},tar=false", base.display());
    let status = Command::new(program())
        .env("LAYERCAKE_ROOT", bench.scratch.join("debian-store"))
        .args(["build", "--quiet", "--output", &output])
        .arg(&files)
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let context = bench.context(
        "packages",
        "FROM base\nRUN --mount=type=bind,from=debs,target=/debs \
         DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends /debs/*.deb\n",
    );
    let base = format!("base=oci-layout://{}", base.display());
    let debs = format!("debs={}", files.join("debs").display());
    let mut ways = ways();
    for round in 0..PACKAGES_ROUNDS {
        for way in &mut ways {
            let contexts = ["--build-context", &base, "--build-context", &debs];
            let flags = [&["--isolation", way.isolation], &contexts[..]].concat();
            let store = format!("packages-{}-{round}", way.isolation);
            way.times.push(bench.build_with(&context, &store, &flags));
        }
    }
    let count = fs::read_dir(files.join("debs")).unwrap().count();
    report(&format!("apt-get install of {count} packages"), ways);
}

/// A directory with a root file system of Debian, a Dockerfile that makes an image of it, and the
/// package files in `debs`; kept for later runs. `None` where it cannot be had.
fn fetch(scratch: &Path) -> Option<PathBuf> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("packages-{SUITE}"));
    if kept.join("Dockerfile").exists() {
        return Some(kept);
    }
    let fresh = scratch.join("fetched");
    fs::create_dir_all(fresh.join("debs")).unwrap();
    let download = format!(
        "chroot \"$1\" apt-get clean && \
         chroot \"$1\" apt-get install -qy --download-only --no-install-recommends {PACKAGES} && \
         mkdir \"$1/debs\" && mv \"$1\"/var/cache/apt/archives/*.deb \"$1/debs\""
    );
    let sync_out = format!("sync-out /debs {}", fresh.join("debs").display());
    let fetched = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase"])
        .args([&download, &sync_out, "rm -r \"$1/debs\""].map(|h| format!("--customize-hook={h}")))
        .args([Path::new(SUITE), &fresh.join("root.tar")])
        .stdin(Stdio::null())
        .output();
    match fetched {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            println!("skipped: packages, mmdebstrap failed: {said}");
            return None;
        }
        Err(error) => {
            println!("skipped: packages, which need mmdebstrap: {error}");
            return None;
        }
    }
    fs::write(fresh.join(".dockerignore"), "debs\n").unwrap();
    fs::write(
        fresh.join("Dockerfile"),
        "FROM scratch\nADD root.tar /\n\
         ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    )
    .unwrap();
    // Fails between file systems and where it may not write: then the next run fetches again.
    let is_kept = fs::rename(&fresh, &kept).is_ok();
    Some(if is_kept { kept } else { fresh })
}
