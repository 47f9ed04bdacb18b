//! A scratch directory with a store, a context and the program to test.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os("LAYERCAKE_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_layercake")),
        PathBuf::from,
    )
}

/// Variables that change what the program does, or git for it, and that a machine may have set.
const FOREIGN: [&str; 15] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSH_AUTH_SOCK",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
];

/// Without what the environment of this machine would change.
pub fn at_home(mut command: Command) -> Command {
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

/// The program under test, to be given arguments.
pub fn layercake() -> Command {
    at_home(Command::new(program()))
}

/// As long as anything that must happen may take on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether it holds, sooner or later.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A text that nothing else on the machine has, neither other tests nor other runs of this one.
pub fn unique() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    text.trim().to_owned()
}

/// A number of seconds, some years, that nothing else on the machine sleeps.
pub fn unique_seconds() -> String {
    let digits = u64::from_str_radix(&unique()[..8], 16).unwrap();
    (100_000_000 + digits % 800_000_000).to_string()
}

/// Command lines of processes. One that has ended has none, also where nobody waits for orphans.
pub fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect()
}

/// Copies the program under test without what debuggers read of it, which is most of it.
pub fn copy_program(to: &Path) {
    let mut strip = Command::new("strip");
    let stripped = strip.arg("-o").arg(to).arg(program()).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program(), to).unwrap();
    }
}

fn busybox() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&paths)
        .map(|p| p.join("busybox"))
        .find(|p| p.exists())?;
    is_static(&fs::read(&found).ok()?).then_some(found)
}

/// A program with an interpreter (`PT_INTERP`) would not run in an image that holds nothing else,
/// nor would a script.
fn is_static(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at.checked_add(size)?)?.iter().rev();
        Some(bytes.fold(0, |n, byte| n << 8 | usize::from(*byte)))
    };
    let has_none = || {
        // e_phoff, e_phentsize, e_phnum of a 64-bit little-endian file.
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut kinds = (0..count).map(|i| number(table + i * size, 4));
        Some(kinds.all(|kind| kind != Some(3)))
    };
    elf.starts_with(b"\x7fELF\x02\x01") && has_none().unwrap_or(false)
}

/// Whether steps can run here; says why not, once.
pub fn can_run() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| match why_not() {
        None => true,
        Some(reason) => {
            assert!(
                std::env::var("LAYERCAKE_REQUIRE").as_deref() != Ok("run"),
                "{reason}"
            );
            eprintln!("SKIPPED: {reason}");
            false
        }
    })
}

fn why_not() -> Option<String> {
    if busybox().is_none() {
        return Some("no static busybox (Debian: busybox-static)".into());
    }
    let env = Env::bare();
    env.write(
        "Dockerfile",
        "FROM scratch\nCOPY busybox /bin/sh\nRUN true\n",
    );
    fs::copy(busybox().unwrap(), env.context().join("busybox")).unwrap();
    let output = env.build(&[]);
    (!output.ok).then(|| format!("steps cannot run here: {}", output.stderr))
}

/// Among flags, but none of the program: it sees a /proc of which a part is covered, as in a
/// container. For root.
pub const MASKED: &str = "--masked-proc";

/// The program under test where parts of /proc are covered.
fn with_masked_proc() -> Command {
    let mut command = at_home(Command::new("unshare"));
    let script = "mount -t tmpfs none /proc/irq && exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(program());
    command
}

/// A fresh directory; removed by the program that made what is in it, then by us.
pub struct Env {
    root: tempfile::TempDir,
}

/// What the program said.
pub struct Said {
    pub ok: bool,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.ok, "status {:?}:\n{}", self.code, self.stderr);
        self
    }

    #[track_caller]
    pub fn failure(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "{text:?} is not in:\n{}",
            self.stderr
        );
        self
    }

    #[track_caller]
    pub fn does_not_say(self, text: &str) -> Self {
        assert!(
            !self.stderr.contains(text),
            "{text:?} is in:\n{}",
            self.stderr
        );
        self
    }

    /// Steps that were executed.
    pub fn executed(&self) -> usize {
        self.stderr.lines().filter(|l| l.contains(" DONE ")).count()
    }

    pub fn digest(&self) -> String {
        self.stdout.trim().to_owned()
    }
}

impl Env {
    /// With a base image of busybox under the name `busybox`.
    pub fn new() -> Self {
        let env = Self::bare();
        let base = base_layout();
        env.write_bytes("base-path", base.as_os_str().as_encoded_bytes());
        env
    }

    pub fn bare() -> Self {
        let mut place = std::env::temp_dir();
        // The name of a socket in it has at most 107 bytes.
        if place.as_os_str().len() > 60 {
            place = "/tmp".into();
        }
        let root = tempfile::Builder::new()
            .prefix("layercake-")
            .tempdir_in(place)
            .unwrap();
        fs::create_dir(root.path().join("context")).unwrap();
        Self { root }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// Writes a file of the context.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.context().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub fn dockerfile(&self, text: &str) -> &Self {
        self.write("Dockerfile", text);
        self
    }

    /// `layercake build` of the context into the layout `out`.
    pub fn build(&self, flags: &[&str]) -> Said {
        let out = format!("type=oci,dest={},tar=false", self.path("out").display());
        self.build_to(&[&["--output", &out], flags].concat())
    }

    /// `layercake build` without an `--output` of its own.
    pub fn build_to(&self, flags: &[&str]) -> Said {
        self.said(self.command(flags).stdin(Stdio::null()).output().unwrap())
    }

    pub fn command(&self, flags: &[&str]) -> Command {
        let mut command = match flags.contains(&MASKED) {
            true => with_masked_proc(),
            false => layercake(),
        };
        let flags: Vec<&str> = flags.iter().copied().filter(|f| *f != MASKED).collect();
        command
            .arg("build")
            .env("LAYERCAKE_ROOT", self.path("store"));
        if let Ok(base) = fs::read_to_string(self.path("base-path")) {
            command
                .arg("--build-context")
                .arg(format!("busybox=oci-layout://{base}"));
        }
        command
            .args(flags)
            .arg(self.context())
            .current_dir(self.root.path());
        command
    }

    pub fn said(&self, output: Output) -> Said {
        Said {
            ok: output.status.success(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn image(&self) -> Image {
        Image::read(&self.path("out"))
    }

    /// Mounts seen by this process that have to do with this directory. Others come and go.
    pub fn mounts(&self) -> Vec<String> {
        let name = self.root.path().file_name().unwrap().to_str().unwrap();
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = all.lines().filter(|line| line.contains(name));
        ours.map(str::to_owned).collect()
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // Layers hold files of mapped ids.
        let mut prune = layercake();
        prune
            .args(["prune", "--all"])
            .env("LAYERCAKE_ROOT", self.path("store"));
        let _ = prune.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Made once per test process, in a directory that stays until the machine clears its temporary
/// files: tests end in any order.
fn base_layout() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let env = Env::bare();
        let commands = "sh cat ls mkdir rm mv cp ln chmod chown touch stat id env sleep echo test \
                        true false head tail grep sed awk find date kill ps setsid wc sort yes dd cut tr";
        let text = format!(
            "FROM scratch\nCOPY busybox /bin/busybox\n\
             RUN [\"/bin/busybox\", \"sh\", \"-c\", \"cd /bin; for c in {commands}; do \
             /bin/busybox ln -s busybox /bin/$c; done; /bin/busybox mkdir -m 1777 /tmp; \
             /bin/busybox mkdir /etc /root; echo root:x:0:0:root:/root:/bin/sh > /etc/passwd; \
             echo app:x:1000:1001:app:/home/app:/bin/sh >> /etc/passwd; \
             echo root:x:0: > /etc/group; echo app:x:1001: >> /etc/group; \
             echo extra:x:2000:app >> /etc/group\"]\nENV PATH=/bin\n"
        );
        env.dockerfile(&text);
        fs::copy(
            busybox().expect("can_run() was asked"),
            env.context().join("busybox"),
        )
        .unwrap();
        let directory = tempfile::Builder::new()
            .prefix("layercake-base-")
            .tempdir()
            .unwrap()
            .keep();
        let out = format!(
            "type=oci,dest={},tar=false",
            directory.join("layout").display()
        );
        env.build_to(&["--output", &out]).success();
        directory.join("layout")
    })
}

/// An image read back from a layout.
pub struct Image {
    pub manifest: Value,
    pub config: Value,
    pub files: BTreeMap<String, File>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub kind: tar::EntryType,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub content: Vec<u8>,
    pub link: Option<String>,
}

impl Image {
    pub fn read(layout: &Path) -> Self {
        let blob = |digest: &Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
        };
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let index = json(&fs::read(layout.join("index.json")).unwrap());
        let manifest = json(&blob(&index["manifests"][0]["digest"]));
        let config = json(&blob(&manifest["config"]["digest"]));
        let mut files = BTreeMap::new();
        for layer in manifest["layers"].as_array().unwrap() {
            apply(&blob(&layer["digest"]), &mut files);
        }
        Self {
            manifest,
            config,
            files,
        }
    }

    #[track_caller]
    pub fn file(&self, path: &str) -> &File {
        self.files.get(path).unwrap_or_else(|| {
            panic!(
                "{path} is not among {:?}",
                self.files.keys().collect::<Vec<_>>()
            )
        })
    }

    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        String::from_utf8(self.file(path).content.clone()).unwrap()
    }

    pub fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }
}

fn apply(layer: &[u8], files: &mut BTreeMap<String, File>) {
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(layer));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry
            .path()
            .unwrap()
            .to_string_lossy()
            .trim_end_matches('/')
            .to_owned();
        let name = path.rsplit('/').next().unwrap();
        if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = format!("{}{gone}", &path[..path.len() - name.len()]);
            let below = format!("{gone}/");
            files.retain(|p, _| *p != gone && !p.starts_with(&below));
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let file = File {
            kind: header.entry_type(),
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            mtime: header.mtime().unwrap(),
            link: entry
                .link_name()
                .unwrap()
                .map(|l| l.to_string_lossy().into_owned()),
            content,
        };
        files.insert(path, file);
    }
}
