//! A root directory with busybox, and specs for it.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use layercake_sandbox::spec::{
    Credentials, Mount, MountKind, Network, Outcome, Privileges, Processes, Root, Spec, Status,
    Stream,
};
use layercake_sandbox::{Cancel, Error, run};

/// As long as anything that must happen may take on a machine with other things to do.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A text that nothing else on the machine has, neither other tests nor other runs of this one.
pub fn unique() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    text.trim().to_owned()
}

/// Whether a machine that cannot run steps is a failure. Root of a container without the capability
/// to mount is let go: the container keeps it from that, not a mistake.
pub fn is_required() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    let may_mount =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let is_confined = rustix::process::geteuid().is_root() && !may_mount;
    std::env::var_os("LAYERCAKE_REQUIRE").is_some() && !is_confined
}

static IDS: AtomicU32 = AtomicU32::new(0);

/// How many ids exist inside.
pub fn set_ids(count: u32) {
    IDS.store(count, Ordering::Relaxed);
}

pub fn ids() -> u32 {
    IDS.load(Ordering::Relaxed)
}

static SHARES_PROCESSES: AtomicBool = AtomicBool::new(false);

/// How this process was entered, and so how steps are to be run.
pub fn set_processes(processes: Processes) {
    SHARES_PROCESSES.store(processes == Processes::Host, Ordering::Relaxed);
}

pub fn processes() -> Processes {
    match SHARES_PROCESSES.load(Ordering::Relaxed) {
        true => Processes::Host,
        false => Processes::Own,
    }
}

/// Where a statically linked busybox is.
fn busybox() -> PathBuf {
    let found = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists());
    found.expect("the tests need a statically linked busybox (package busybox-static)")
}

/// A read-only root that all tests share, made once.
pub fn base() -> &'static Path {
    static BASE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = BASE.get_or_init(|| {
        let directory = temporary();
        let root = directory.path();
        for name in [
            "bin",
            "etc",
            "proc",
            "dev",
            "sys",
            "tmp",
            "root",
            "home/user",
            "opt/full",
        ] {
            std::fs::create_dir_all(root.join(name)).unwrap();
            // Whatever the umask is.
            for path in Path::new(name).ancestors() {
                set_mode(&root.join(path), 0o755);
            }
        }
        set_mode(&root.join("tmp"), 0o1777);
        std::fs::copy(busybox(), root.join("bin/busybox")).unwrap();
        set_mode(&root.join("bin/busybox"), 0o755);
        let list = Command::new(busybox())
            .arg("--list")
            .output()
            .unwrap()
            .stdout;
        for applet in String::from_utf8(list)
            .unwrap()
            .lines()
            .filter(|name| *name != "busybox")
        {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        for (name, text) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("opt/full/file", "from the base\n"),
        ] {
            std::fs::write(root.join(name), text).unwrap();
            set_mode(&root.join(name), 0o644);
        }
        symlink("/opt", root.join("link")).unwrap();
        set_mode(root, 0o755);
        directory
    });
    directory.path()
}

/// A new directory that users of the step may pass through.
pub fn temporary() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    directory
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// One step on a fresh upper.
pub struct Fixture {
    directory: tempfile::TempDir,
    pub spec: Spec,
    pub cancel: Cancel,
}

/// What a step did.
pub struct Ran {
    pub outcome: Outcome,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn code(&self) -> i32 {
        match self.outcome.status {
            Status::Exited(code) => code,
            ref other => panic!("{other:?}; stderr: {}", self.err),
        }
    }
}

impl Fixture {
    pub fn new(argv: &[&str]) -> Self {
        Self::on(vec![base().to_owned()], argv)
    }

    pub fn on(lowers: Vec<PathBuf>, argv: &[&str]) -> Self {
        let directory = temporary();
        let (upper, work) = (
            directory.path().join("upper"),
            directory.path().join("work"),
        );
        for path in [&upper, &work] {
            std::fs::create_dir(path).unwrap();
            set_mode(path, 0o755);
        }
        let spec = Spec {
            root: Root::Overlay {
                lowers,
                upper,
                work,
            },
            argv: argv.iter().map(Into::into).collect(),
            env: vec![("PATH".into(), "/bin".into())],
            cwd: "/".into(),
            user: Credentials::default(),
            hostname: "step".to_owned(),
            network: Network::Host,
            processes: processes(),
            mounts: Vec::new(),
            privileges: Privileges::Default,
            shm_size: None,
            rlimits: Vec::new(),
            timeout: Some(PATIENCE),
            emulation: None,
            cgroups: Vec::new(),
        };
        Self {
            directory,
            spec,
            cancel: Cancel::new().unwrap(),
        }
    }

    pub fn sh(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub fn upper(&self) -> PathBuf {
        self.directory.path().join("upper")
    }

    /// A directory beside the upper.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        set_mode(&path, 0o755);
        path
    }

    /// Puts a layer on top of the others.
    pub fn add_lower(&mut self, layer: PathBuf) {
        if let Root::Overlay { lowers, .. } = &mut self.spec.root {
            lowers.insert(0, layer);
        }
    }

    pub fn mount(mut self, target: &str, kind: MountKind) -> Self {
        self.spec.mounts.push(Mount {
            target: target.into(),
            kind,
        });
        self
    }

    pub fn user(mut self, uid: u32, gid: u32, groups: &[u32]) -> Self {
        self.spec.user = Credentials {
            uid,
            gid,
            groups: groups.to_vec(),
        };
        self
    }

    pub fn try_run(&self) -> Result<Ran, Error> {
        // What the kernel left of an earlier run; it refuses to mount a volatile overlay twice.
        let kernel_work = self.directory.path().join("work/work");
        if kernel_work.exists() {
            std::fs::remove_dir_all(kernel_work).unwrap();
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut sink = |stream, bytes: &[u8]| match stream {
            Stream::Stdout => out.extend_from_slice(bytes),
            Stream::Stderr => err.extend_from_slice(bytes),
        };
        let outcome = run(&self.spec, &mut sink, &self.cancel)?;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ok(Ran {
            outcome,
            out: text(out),
            err: text(err),
        })
    }

    pub fn run(&self) -> Ran {
        self.try_run()
            .unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Runs it, expects success, returns standard output.
    pub fn output(&self) -> String {
        let ran = self.run();
        assert_eq!(ran.code(), 0, "stdout: {}\nstderr: {}", ran.out, ran.err);
        ran.out
    }

    /// Every path in the upper.
    pub fn changes(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        walk(&self.upper(), Path::new(""), &mut paths);
        paths
    }
}

fn walk(root: &Path, below: &Path, paths: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, paths);
        }
        paths.insert(path.to_str().unwrap().to_owned());
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
