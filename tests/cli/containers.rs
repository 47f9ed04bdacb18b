//! In real containers of Docker and Podman, as CI jobs have them: the same image as outside.
//!
//! Needs the programs, and root for Docker: a daemon of the test's own is started, with everything
//! that it writes in a temporary directory. Podman also runs as an ordinary user.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rungs::{everything, is_root};
use crate::support::{Env, Image, can_run, command_lines, copy_program, eventually};

/// As long as it may take to start a daemon.
const PATIENCE: Duration = Duration::from_secs(30);

/// Name of the image that holds this program.
const IMAGE: &str = "localhost/layercake-test";

/// Where a store in a volume is mounted.
const VOLUME: &str = "/volume";

/// One way to be in a container, and what is expected of it.
struct Case<'a> {
    flags: &'a [&'a str],
    /// The store is in the container's own root, or in a volume.
    store: &'a str,
    rung: &'a str,
    snapshotter: &'a str,
}

const USER: &str = "--user=1000:1001";
const UNCONFINED: &str = "--security-opt=seccomp=unconfined";

const IN_DOCKER: &[Case<'_>] = &[
    Case {
        flags: &[],
        store: "/tmp/store",
        rung: "isolation chroot (",
        snapshotter: "plain",
    },
    Case {
        flags: &[UNCONFINED],
        store: "/tmp/store",
        rung: "isolation userns (in a user namespace, without a process namespace",
        snapshotter: "plain",
    },
    Case {
        flags: &[UNCONFINED, USER],
        store: "/tmp/store",
        rung: "isolation single-id (",
        snapshotter: "plain",
    },
    Case {
        flags: &[UNCONFINED, USER],
        store: VOLUME,
        rung: "emulated, without a process namespace",
        snapshotter: "overlay",
    },
    Case {
        flags: &[UNCONFINED, "--security-opt=systempaths=unconfined", USER],
        store: VOLUME,
        rung: "owners and users are emulated)",
        snapshotter: "overlay",
    },
];

/// A container of which nothing but the volume can be written to, without shared memory, whose
/// programs gain nothing by setuid.
const RESTRICTED: [&str; 3] = [
    "--read-only",
    "--ipc=none",
    "--security-opt=no-new-privileges",
];

const RESTRICTED_IN_DOCKER: &[Case<'_>] = &[
    Case {
        flags: &RESTRICTED,
        store: VOLUME,
        rung: "isolation chroot (",
        snapshotter: "plain",
    },
    Case {
        flags: &[
            RESTRICTED[0],
            RESTRICTED[1],
            RESTRICTED[2],
            UNCONFINED,
            USER,
        ],
        store: VOLUME,
        rung: "emulated, without a process namespace",
        snapshotter: "overlay",
    },
];

const IN_PODMAN: &[Case<'_>] = &[
    Case {
        flags: &[],
        store: "/tmp/store",
        rung: "isolation userns (in a user namespace, without a process namespace",
        snapshotter: "plain",
    },
    Case {
        flags: &[],
        store: VOLUME,
        rung: "isolation userns (in a user namespace, without a process namespace",
        snapshotter: "overlay",
    },
    Case {
        flags: &[UNCONFINED, USER],
        store: "/tmp/store",
        rung: "emulated, without a process namespace",
        snapshotter: "plain",
    },
    Case {
        flags: &RESTRICTED,
        store: VOLUME,
        rung: "isolation userns (in a user namespace, without a process namespace",
        snapshotter: "overlay",
    },
    Case {
        flags: &["--security-opt=unmask=ALL"],
        store: VOLUME,
        rung: "isolation userns (in a user namespace)",
        snapshotter: "overlay",
    },
    Case {
        flags: &["--privileged"],
        store: VOLUME,
        rung: "isolation root (",
        snapshotter: "overlay",
    },
];

/// A program that runs containers.
trait Runner {
    /// Its command line up to the subcommand.
    fn command(&self) -> Command;

    /// What `run` needs on any machine.
    fn run_flags(&self) -> &'static [&'static str];

    /// Where it keeps what it writes.
    fn directory(&self) -> &Path;
}

struct Docker {
    daemon: Child,
    directory: tempfile::TempDir,
}

impl Docker {
    /// `None` says why.
    fn start() -> Option<Self> {
        let directory = scratch();
        let path = |name: &str| directory.path().join(name);
        let log = std::fs::File::create(path("log")).unwrap();
        // Its mounts go with its namespace, whatever becomes of it.
        let mut command = Command::new("unshare");
        command.args(["--mount", "dockerd", "--bridge=none", "--iptables=false"]);
        command
            .args(["--ip6tables=false", "--data-root"])
            .arg(path("data"));
        command.arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid"));
        command.arg(format!("--host=unix://{}", path("socket").display()));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let Ok(daemon) = command.spawn() else {
            eprintln!("SKIPPED: no dockerd");
            return None;
        };
        let mut docker = Self { daemon, directory };
        let started = Instant::now();
        while started.elapsed() < PATIENCE && docker.daemon.try_wait().unwrap().is_none() {
            let info = docker.command().arg("info").output();
            if info.is_ok_and(|output| output.status.success()) {
                return Some(docker);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = std::fs::read_to_string(docker.directory.path().join("log"));
        let log = log.unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        eprintln!("SKIPPED: dockerd does not run here: {last:?}");
        None
    }
}

impl Runner for Docker {
    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        let socket = self.directory.path().join("socket");
        command
            .arg("--host")
            .arg(format!("unix://{}", socket.display()));
        command
    }

    fn run_flags(&self) -> &'static [&'static str] {
        &[]
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.daemon.wait();
    }
}

/// One way to start Podman. Runtimes want control groups that not every machine has.
struct Start {
    /// Before its name.
    prefix: &'static [&'static str],
    /// After it.
    options: &'static [&'static str],
    /// After `run`, with limits that it may set on any machine.
    run_flags: &'static [&'static str],
}

const WITHOUT_CGROUPS: [&str; 3] = [
    "--cgroups=disabled",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=4096:4096",
];

const STARTS: [Start; 3] = [
    Start {
        prefix: &[],
        options: &[],
        run_flags: &WITHOUT_CGROUPS,
    },
    // crun where there are two hierarchies: only root may mount.
    Start {
        prefix: &[
            "sh",
            "-c",
            "mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" \"$@\"",
        ],
        options: &[],
        run_flags: &WITHOUT_CGROUPS,
    },
    // runc, which always wants them.
    Start {
        prefix: &[],
        options: &["--runtime=runc"],
        run_flags: &[
            "--pids-limit=0",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=4096:4096",
        ],
    },
];

struct Podman {
    start: Start,
    directory: tempfile::TempDir,
}

impl Podman {
    fn new(start: Start) -> Self {
        let directory = scratch();
        let runtime = directory.path().join("runtime");
        std::fs::create_dir(&runtime).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(runtime, mode).unwrap();
        Self { start, directory }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What cleans up after a container does so when `podman run` is gone, and would make the
        // directory again.
        let own = self.directory.path();
        let name = own.to_string_lossy().into_owned();
        let ended = eventually(|| command_lines().iter().all(|line| !line.contains(&name)));
        assert!(ended || std::thread::panicking(), "processes of Podman");
        if is_root() {
            return;
        }
        // Files of other ids, and the process that keeps the namespace where they can be removed.
        let pid = std::fs::read_to_string(own.join("runtime/libpod/tmp/pause.pid"));
        let mut remove = self.command();
        remove.args(["unshare", "find"]).arg(own);
        let _ = remove.args(["-mindepth", "2", "-delete"]).output();
        let pid = pid.ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

impl Runner for Podman {
    fn command(&self) -> Command {
        // It mounts its layers on themselves and leaves that behind; with a namespace of root's
        // it goes. Those of users are in a namespace anyway.
        let namespace: &[&str] = if is_root() {
            &["unshare", "--mount"]
        } else {
            &[]
        };
        let mut words = namespace.iter().chain(self.start.prefix).chain(&["podman"]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        let path = |name: &str| self.directory.path().join(name);
        command.arg("--root").arg(path("data"));
        command.arg("--runroot").arg(path("run"));
        command.env("XDG_RUNTIME_DIR", path("runtime"));
        command.args(self.start.options);
        command
    }

    fn run_flags(&self) -> &'static [&'static str] {
        self.start.run_flags
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// Daemons name sockets below it, whose names are short.
fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("lc-").tempdir().unwrap()
}

/// Whether the program exists.
fn is_installed(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// The image that holds this program, made by itself, as an archive of its files.
fn image(env: &Env) -> Vec<u8> {
    env.write(
        "Dockerfile.image",
        "FROM busybox\nCOPY layercake /\nRUN mkdir -m 755 /home\n",
    );
    copy_program(&env.context().join("layercake"));
    let dockerfile = env.context().join("Dockerfile.image");
    env.build(&["--file", dockerfile.to_str().unwrap()])
        .success();
    std::fs::remove_file(env.context().join("layercake")).unwrap();
    std::fs::remove_file(dockerfile).unwrap();
    archive(&env.image())
}

fn archive(image: &Image) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, file) in &image.files {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(file.kind);
        header.set_mode(file.mode);
        header.set_uid(file.owner.0);
        header.set_gid(file.owner.1);
        header.set_size(file.content.len() as u64);
        match &file.link {
            Some(target) => archive.append_link(&mut header, path, target).unwrap(),
            None => {
                let content = file.content.as_slice();
                archive.append_data(&mut header, path, content).unwrap();
            }
        }
    }
    archive.into_inner().unwrap()
}

/// Takes the image; says why that, or a container of it, does not work.
fn is_usable(runner: &dyn Runner, image: &[u8]) -> Result<(), String> {
    let archive = scratch();
    let path = archive.path().join("image.tar");
    std::fs::write(&path, image).unwrap();
    told(
        runner
            .command()
            .arg("import")
            .arg(&path)
            .arg(IMAGE)
            .output(),
    )?;
    starts(runner, &[])
}

/// Whether the machine allows such a container; says why not.
fn starts(runner: &dyn Runner, flags: &[&str]) -> Result<(), String> {
    let mut command = runner.command();
    command
        .args(["run", "--rm", "--network=host"])
        .args(runner.run_flags())
        .args(flags);
    told(command.args([IMAGE, "/bin/true"]).output())
}

fn told(output: std::io::Result<Output>) -> Result<(), String> {
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Goes with the runner at the latest: users cannot remove what others in their container made.
fn volume(runner: &dyn Runner) -> tempfile::TempDir {
    let volume = tempfile::tempdir_in(runner.directory()).unwrap();
    // The user of the container may be another, with a number that is not known here.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(volume.path(), mode).unwrap();
    volume
}

/// Builds the context in a container; returns what was said.
fn build(runner: &dyn Runner, env: &Env, case: &Case<'_>, volume: &Path) -> Output {
    let base = std::fs::read_to_string(env.path("base-path")).unwrap();
    let mut command = runner.command();
    command
        .args(["run", "--rm", "--network=host"])
        .args(runner.run_flags());
    command.arg(format!("--env=LAYERCAKE_ROOT={}", case.store));
    command.arg(format!("--volume={}:{VOLUME}", volume.display()));
    for (from, to) in [
        (env.context(), "/context"),
        (env.path("secret"), "/secret"),
        (PathBuf::from(base), "/base"),
    ] {
        command.arg(format!("--volume={}:{to}:ro", from.display()));
    }
    command
        .args(case.flags)
        .args([IMAGE, "/layercake", "build", "--quiet", "--verbose"]);
    command.args([
        "--build-context=busybox=oci-layout:///base",
        "--secret=id=s,src=/secret",
    ]);
    let dest = match case.store {
        VOLUME => "/volume/out",
        _ => "/tmp/out",
    };
    command.arg(format!("--output=type=oci,dest={dest},tar=false"));
    command.arg("/context");
    command.stdin(Stdio::null()).output().unwrap()
}

/// Builds where that is not possible; the flags of the container, and what must be said.
type Refusal = (&'static [&'static str], &'static [&'static str]);

const REFUSED_IN_DOCKER: &[Refusal] = &[
    (
        &["--cap-drop=MKNOD"],
        &[
            "seccomp=unconfined",
            "or for isolation chroot: give the container the capability MKNOD",
        ],
    ),
    (&[USER], &["seccomp=unconfined", "in Kubernetes"]),
];

const REFUSED_IN_PODMAN: &[Refusal] = &[(
    &["--cap-drop=all"],
    &[
        "lacks capabilities (SETUID, SETGID, SETFCAP)",
        "--user 1000",
    ],
)];

fn check_refusals(runner: &dyn Runner, env: &Env, refusals: &[Refusal]) {
    for (flags, expected) in refusals {
        if let Err(reason) = starts(runner, flags) {
            eprintln!("SKIPPED: {flags:?}: {reason}");
            continue;
        }
        let case = Case {
            flags,
            store: "/tmp/store",
            rung: "",
            snapshotter: "",
        };
        let volume = volume(runner);
        let said = env.said(build(runner, env, &case, volume.path()));
        let mut said = said.failure(4);
        for text in *expected {
            said = said.says(text);
        }
    }
}

fn check(runner: &dyn Runner, env: &Env, expected: &str, cases: &[Case<'_>]) {
    for case in cases {
        if let Err(reason) = starts(runner, case.flags) {
            eprintln!("SKIPPED: {:?}: {reason}", case.flags);
            continue;
        }
        let volume = volume(runner);
        let what = format!("{:?}, store in {}", case.flags, case.store);
        let said = env.said(build(runner, env, case, volume.path()));
        assert!(said.ok, "{what}: {}", said.stderr);
        let said = said.says(case.rung);
        // Podman has no overlays for some users.
        let said = match case.store == VOLUME || is_root() {
            true => said.says(&format!("snapshotter {} (", case.snapshotter)),
            false => said,
        };
        assert_eq!(said.digest(), expected, "{what}");
    }
}

/// The context, the image with this program, and the digest that is expected.
fn prepared() -> Option<(Env, Vec<u8>, String)> {
    if !can_run() {
        return None;
    }
    let env = everything();
    let image = image(&env);
    // The container's user reads it, too.
    let secret = env.path("secret");
    let flag = format!("id=s,src={}", secret.display());
    let expected = env.build(&["--quiet", "--secret", &flag]).success();
    Some((env, image, expected.digest()))
}

#[test]
fn in_docker_the_image_is_the_same() {
    if !is_root() || !is_installed("dockerd") || !is_installed("docker") {
        eprintln!("SKIPPED: needs root and Docker");
        return;
    }
    let Some((env, image, expected)) = prepared() else {
        return;
    };
    let Some(docker) = Docker::start() else {
        return;
    };
    if let Err(reason) = is_usable(&docker, &image) {
        eprintln!("SKIPPED: Docker runs no containers here: {reason}");
        return;
    }
    check(&docker, &env, &expected, IN_DOCKER);
    check(&docker, &env, &expected, RESTRICTED_IN_DOCKER);
    check_refusals(&docker, &env, REFUSED_IN_DOCKER);
}

#[test]
fn in_podman_the_image_is_the_same() {
    if !is_installed("podman") {
        eprintln!("SKIPPED: no Podman");
        return;
    }
    let Some((env, image, expected)) = prepared() else {
        return;
    };
    let mut reasons = Vec::new();
    let podman = STARTS.into_iter().find_map(|start| {
        let podman = Podman::new(start);
        match is_usable(&podman, &image) {
            Ok(()) => Some(podman),
            Err(reason) => {
                reasons.push(reason);
                None
            }
        }
    });
    let Some(podman) = podman else {
        eprintln!("SKIPPED: Podman runs no containers here: {reasons:?}");
        return;
    };
    check(&podman, &env, &expected, IN_PODMAN);
    check_refusals(&podman, &env, REFUSED_IN_PODMAN);
    check_with_filters(&podman, &env, &expected);
}

/// With other filters than the default one.
fn check_with_filters(podman: &Podman, env: &Env, expected: &str) {
    let Some(profile) = default_filter() else {
        eprintln!("SKIPPED: no default filter of Podman to change");
        return;
    };
    let filter = |name: &str, profile: Value| {
        let path = env.path(name);
        std::fs::write(&path, profile.to_string()).unwrap();
        format!("--security-opt=seccomp={}", path.display())
    };
    let old = filter("old.json", without(profile.clone(), &LANDLOCK));
    let before_landlock = Case {
        flags: &[&old],
        store: VOLUME,
        rung: "isolation userns (in a user namespace, without a process namespace",
        snapshotter: "overlay",
    };
    check(podman, env, expected, &[before_landlock]);
    if !is_root() {
        // Whose containers can make no device nodes, whatever their capabilities.
        return;
    }
    let like_docker = filter("docker.json", like_docker(profile));
    let like_docker = Case {
        flags: &[&like_docker, "--cap-add=MKNOD,NET_RAW,AUDIT_WRITE"],
        store: VOLUME,
        rung: "isolation chroot (",
        snapshotter: "plain",
    };
    check(podman, env, expected, &[like_docker]);
}

const LANDLOCK: [&str; 3] = [
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
];

/// Podman's own.
fn default_filter() -> Option<Value> {
    let text = std::fs::read("/usr/share/containers/seccomp.json").ok()?;
    serde_json::from_slice(&text).ok()
}

/// The filter with further calls refused.
fn without(mut profile: Value, refused: &[&str]) -> Value {
    let rules = profile["syscalls"].as_array_mut().unwrap();
    for rule in rules.iter_mut() {
        let names = rule["names"].as_array_mut().unwrap();
        names.retain(|name| !refused.iter().any(|refused| name == refused));
    }
    rules.retain(|rule| {
        rule["names"]
            .as_array()
            .is_some_and(|names| !names.is_empty())
    });
    profile
}

/// Without what Docker's refuses as well: namespaces and mounts.
fn like_docker(profile: Value) -> Value {
    const REFUSED: [&str; 15] = [
        "unshare",
        "setns",
        "mount",
        "umount",
        "umount2",
        "pivot_root",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "mount_setattr",
        "clone",
        "clone3",
    ];
    let mut profile = without(profile, &REFUSED);
    let rules = profile["syscalls"].as_array_mut().unwrap();
    // The flags of new namespaces, as in Docker's profile.
    rules.push(serde_json::json!({
        "names": ["clone"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
    }));
    rules.push(serde_json::json!({
        "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
    }));
    profile
}
