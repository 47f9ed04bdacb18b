//! The ways to run steps (docs/rootless.md): the same image from each, and what each refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::{
    Env, MASKED, at_home, can_run, command_lines, eventually, layercake, unique_seconds,
};

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    })
}

/// What `layercake doctor` finds.
pub fn doctor() -> &'static Value {
    static FOUND: OnceLock<Value> = OnceLock::new();
    FOUND.get_or_init(|| {
        let env = Env::bare();
        let mut doctor = layercake();
        doctor.args(["doctor", "--format", "json"]);
        doctor.env("LAYERCAKE_ROOT", env.path("store"));
        serde_json::from_slice(&doctor.output().unwrap().stdout).unwrap()
    })
}

/// The isolation of builds that ask for none.
pub fn isolation() -> &'static str {
    doctor()["chosen"]["isolation"].as_str().unwrap_or_default()
}

/// Whether steps of this way run in a chroot.
pub fn is_chroot(way: &[&str]) -> bool {
    let is_default = !way.contains(&"--isolation");
    way.contains(&"chroot") || is_default && isolation() == "chroot"
}

/// Whether steps of this way have process numbers of their own.
pub fn has_own_processes(way: &[&str]) -> bool {
    let is_masked = way.contains(&MASKED) || doctor()["chosen"]["processes"] == "host";
    !is_chroot(way) && !is_masked
}

/// Whether steps can run, and in containers of their own: in a chroot they run one by one, and
/// much is refused to them. Says so if not.
pub fn has_containers() -> bool {
    let has = can_run() && !is_chroot(&[]);
    if !has {
        eprintln!("SKIPPED: no containers for steps here");
    }
    has
}

/// Flags for every way that can be forced here, the default first.
pub fn ways() -> Vec<&'static [&'static str]> {
    static POSSIBLE: OnceLock<Vec<&'static [&'static str]>> = OnceLock::new();
    let find = || all_ways().into_iter().filter(|w| is_possible(w)).collect();
    POSSIBLE.get_or_init(find).clone()
}

/// What a container allows its root is told by a trial only. Outside of one nothing is let pass.
fn is_possible(way: &[&str]) -> bool {
    if way.is_empty() || !is_root() || isolation() == "root" {
        return true;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN true\n");
    let said = env.build(way);
    if !said.ok {
        eprintln!("SKIPPED: {way:?}: {}", said.stderr);
    }
    said.ok
}

fn all_ways() -> Vec<&'static [&'static str]> {
    let mut ways: Vec<&[&str]> = vec![&[], &["--snapshotter", "plain"]];
    if is_root() {
        ways.push(&["--isolation", "chroot"]);
        ways.push(&["--isolation", "userns"]);
        ways.push(&["--isolation", "userns", "--snapshotter", "plain"]);
        ways.push(&[MASKED, "--isolation", "userns"]);
        ways.push(&[MASKED, "--isolation", "single-id"]);
    } else {
        ways.push(&["--isolation", "single-id"]);
        ways.push(&["--isolation", "single-id", "--snapshotter", "plain"]);
    }
    ways
}

/// Everything that plain roots do by other means than overlays.
const EVERYTHING: &str = "FROM busybox AS one\n\
    RUN mkdir -p /d/a/b && for n in x y b/z; do echo $n > /d/a/$n; done && ln /d/a/x /d/a/linked\n\
    RUN rm -r /d/a && mkdir -p /d/a/b && echo new > /d/a/x\n\
    RUN echo 1 > /h1 && ln /h1 /h2 && chown 3:4 /h1 && cp /h1 /su && chmod 4755 /su\n\
    RUN echo 2 >> /h1\n\
    RUN chown -R app:app /d\n\
    RUN rm /h2 && mkdir /h2 && echo sub > /h2/file && touch -d @1000000000 /old\n\
    COPY file /d/copied\n\
    RUN mv /d /moved && rm /moved/copied && ln -s /moved /link && touch -c /etc/passwd\n\
    COPY file /d/copied\n\
    WORKDIR /made/by/workdir\n\
    RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t echo x > /c/f && cp /c/f /t/f\n\
    RUN --mount=type=cache,target=/c cat /c/f > from-cache\n\
    RUN --mount=type=bind,target=/ctx --mount=type=secret,id=s,target=/s \
        cat /ctx/file > /seen && wc /s > /counted\n\
    USER app\n\
    RUN id > /tmp/id && cat /etc/hosts > /tmp/hosts; echo out > /dev/stderr\n\
    FROM busybox\n\
    RUN --mount=from=one,source=/moved,target=/from,rw ls -R /from > /listing && touch /from/x\n\
    COPY --from=one /h1 /tmp/ /result/\n\
    RUN echo after > /result/after\n";

/// A context that needs all of it, with a secret beside it.
pub fn everything() -> Env {
    let env = Env::new();
    env.write("file", "file of the context");
    std::fs::write(env.path("secret"), "not to be found").unwrap();
    env.dockerfile(EVERYTHING);
    env
}

fn secret_flag(env: &Env) -> String {
    format!("id=s,src={}", env.path("secret").display())
}

#[test]
fn every_way_gives_the_same_image() {
    if !can_run() {
        return;
    }
    let mut digests = Vec::new();
    for way in ways() {
        for target in ["one", ""] {
            let env = everything();
            let secret = secret_flag(&env);
            let mut flags = vec!["--quiet", "--secret", &secret, "--target", target];
            if target.is_empty() {
                flags.truncate(3);
            }
            flags.extend_from_slice(way);
            let said = env.build(&flags).success();
            digests.push((target, said.digest(), way));
        }
    }
    for (target, digest, way) in &digests {
        let first = digests.iter().find(|(t, ..)| t == target).unwrap();
        assert_eq!(
            digest, &first.1,
            "{way:?} and {:?}, target {target:?}",
            first.2
        );
    }
}

#[test]
fn l08_a_directory_made_again_hides_all_that_was_below() {
    if !can_run() {
        return;
    }
    for way in ways() {
        let env = Env::new();
        env.dockerfile(
            "FROM busybox\nRUN mkdir -p /d/a && echo 1 > /d/a/gone\n\
             RUN rm -r /d && mkdir -p /d/a && echo 2 > /d/a/new\n",
        );
        env.build(way).success();
        let image = env.image();
        assert!(image.has("d/a/new") && !image.has("d/a/gone"), "{way:?}");
    }
}

#[test]
fn chroot_refuses_by_name_what_it_cannot_have() {
    if !can_run() || !is_root() {
        eprintln!("SKIPPED: only root can build in a chroot");
        return;
    }
    let cases: [(&str, &[&str], &str); 4] = [
        (
            "RUN --network=none true",
            &[],
            "RUN --network=none is not possible",
        ),
        (
            "RUN --mount=type=tmpfs,target=/t,size=1m true",
            &[],
            "a size of a tmpfs mount is not possible",
        ),
        (
            "RUN --mount=type=cache,target=/c,ro true",
            &[],
            "a read-only cache mount is not possible",
        ),
        (
            "RUN true",
            &["--shm-size", "1m"],
            "a size of /dev/shm is not possible",
        ),
    ];
    for (line, flags, message) in cases {
        let env = Env::new();
        env.dockerfile(&format!("FROM busybox\n{line}\n"));
        let flags = [&["--isolation", "chroot"], flags].concat();
        env.build(&flags).failure(4).says(message);
    }
}

#[test]
fn a_chroot_leaves_nothing_of_what_it_gave_the_step() {
    if !can_run() || !is_root() {
        eprintln!("SKIPPED: only root can build in a chroot");
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN mkdir /dev/own && echo mine > /dev/own/file && rmdir /sys || true\n\
         RUN test -c /dev/null && grep -q Mem /proc/meminfo && echo x > /dev/shm/x && \
         { echo y > /proc/y || test -e /proc/self; } && test ! -e /dev/own\n",
    );
    env.build(&["--isolation", "chroot"]).success();
    let image = env.image();
    for path in [
        "dev",
        "dev/own",
        "proc",
        "proc/y",
        "sys",
        "etc/hosts",
        "etc/resolv.conf",
    ] {
        assert!(!image.has(path), "{path}");
    }
}

#[test]
fn a_program_in_a_chroot_reads_its_own_input_or_fails() {
    if !can_run() || !is_root() {
        eprintln!("SKIPPED: only root can build in a chroot");
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN for f in /proc/kcore /proc/keys; do [ ! -s $f ] || exit 1; done; \
         echo in | cat /dev/stdin > /got || rm /got\n",
    );
    env.build(&["--isolation", "chroot"]).success();
    let image = env.image();
    assert!(!image.has("got") || image.text("got") == "in\n");
}

#[test]
fn a_build_says_how_it_runs_steps_when_asked() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN true\n");
    let plain = ["--snapshotter", "plain"];
    env.build(&plain).success().does_not_say("snapshotter");
    let again = [&plain[..], &["--no-cache", "-v"]].concat();
    env.build(&again).success().says("snapshotter plain (");
}

#[test]
fn doctor_tells_what_builds_will_use() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let doctor = |format: &str| {
        let mut command = layercake();
        let command = command.args(["doctor", "--format", format]);
        env.said(
            command
                .env("LAYERCAKE_ROOT", env.path("store"))
                .output()
                .unwrap(),
        )
    };
    let said = doctor("json").success();
    let mode = std::fs::metadata(env.path("store"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0);
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    let isolation = json["chosen"]["isolation"].as_str().unwrap();
    let text = doctor("text").success().stdout;
    assert!(
        text.contains(&format!("builds use isolation {isolation} (")),
        "{text}"
    );
    env.dockerfile("FROM busybox\nRUN true\n");
    env.build(&["-v"])
        .success()
        .says(&format!("isolation {isolation} ("));
}

/// A helper of the sandbox crate that cargo builds with the tests of the workspace.
fn docker_like() -> Option<PathBuf> {
    let directory = std::env::current_exe().ok()?;
    let directory = directory.parent()?.parent()?;
    Some(directory.join("examples/docker_like")).filter(|path| path.exists())
}

#[test]
fn with_the_limits_of_docker_the_image_is_the_same() {
    let Some(helper) = docker_like().filter(|_| can_run() && isolation() == "root") else {
        eprintln!("SKIPPED: needs root and the example docker_like of the sandbox crate");
        return;
    };
    let free = everything();
    let secret = secret_flag(&free);
    let expected = free.build(&["--quiet", "--secret", &secret]).success();
    let limited = everything();
    let secret = secret_flag(&limited);
    let mut flags = vec!["--quiet", "--verbose", "--secret", &secret];
    let out = format!("type=oci,dest={},tar=false", limited.path("out").display());
    flags.extend(["--output", &out]);
    let inner = limited.command(&flags);
    let mut command = at_home(Command::new(helper));
    command.arg(inner.get_program()).args(inner.get_args());
    command.env("LAYERCAKE_ROOT", limited.path("store"));
    command.current_dir(limited.path("")).stdin(Stdio::null());
    let said = limited.said(command.output().unwrap()).success();
    let said = said.says("isolation chroot (");
    assert_eq!(said.digest(), expected.digest());
}

#[test]
fn a_killed_build_leaves_nothing_running() {
    if !can_run() {
        return;
    }
    ways().into_iter().for_each(kill_a_build);
}

fn kill_a_build(way: &[&str]) {
    let env = Env::new();
    let length = unique_seconds();
    let line = format!("(setsid sleep {length} &); sleep {length}");
    env.dockerfile(&format!("FROM busybox\nRUN {line}\n"));
    let running = || {
        let sleeping = format!("sleep\0{length}\0");
        let lines = command_lines();
        lines.iter().filter(|line| **line == sleeping).count()
    };
    let wait_until = |count: usize| {
        let found = eventually(|| running() == count);
        assert!(found, "{way:?}: {} processes instead of {count}", running());
    };
    let mut command = env.command(way);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut build = command.spawn().unwrap();
    wait_until(2);
    build.kill().unwrap();
    build.wait().unwrap();
    wait_until(0);
}

/// Outside, the user may not read it; inside, as the root of the steps, who owns it, he may. A
/// build that runs steps gets inside sooner or later, so it must not matter when.
#[test]
fn what_the_root_of_the_steps_may_read_can_be_copied() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.write("closed", "content\n");
    let closed = env.context().join("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let steps = [
        "FROM busybox\nCOPY closed /\nRUN true\n",
        "FROM busybox AS runs\nRUN echo 1 > /ran\n\
         FROM scratch\nCOPY closed /\nCOPY --from=runs /ran /\n",
    ];
    for dockerfile in steps {
        env.dockerfile(dockerfile).build(&[]).success();
        assert_eq!(env.image().text("closed"), "content\n");
    }
}
