//! Stores in odd places: small, noexec, on file systems that lose parts of files.

use std::process::{Command, Stdio};

use crate::rungs::is_root;
use crate::support::{Env, Said, can_run};

/// Runs `script` in a mount namespace of its own, with `$STORE`; `"$@"` builds the context with `flags`. `None` where `mount` of the script is refused.
fn with_mounts(env: &Env, mount: &str, script: &str, flags: &[&str]) -> Option<Said> {
    let out = format!("type=oci,dest={},tar=false", env.path("out").display());
    let flags = [&["--output", &out], flags].concat();
    let build = env.command(&flags);
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let script = format!("mkdir -p $STORE && {mount} || exit 99\n{script}");
    let output = unshare
        .args(["sh", "-c", &script, "sh"])
        .arg(build.get_program())
        .args(build.get_args())
        .env("STORE", env.path("store"))
        .env("LAYERCAKE_ROOT", env.path("store/here"))
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99) || why.starts_with("unshare:") {
        eprintln!("SKIPPED: {mount}: {why}");
        return None;
    }
    Some(env.said(output))
}

#[test]
fn a_full_store_is_named_and_the_next_build_works() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN yes | head -c 6000000 > /one\nRUN yes no | head -c 6000000 > /two\n\
         COPY file /\n",
    );
    env.write("file", &"content\n".repeat(200_000));
    let expected = env.build(&[]).success().digest();
    // From one in which not even the base has room to one in which only the last has none.
    for size in [1, 3, 8, 12] {
        let fill = format!("head -c $(((60 - {size}) << 20)) /dev/zero > $STORE/filler");
        let mount = format!("mount -t tmpfs -o size=60m tmpfs $STORE && {fill}");
        let script = "\"$@\" >&2 && exit 7\nrm $STORE/filler && \"$@\"";
        let Some(said) = with_mounts(&env, &mount, script, &[]) else {
            return;
        };
        let said = said.success().says("the store ").says("room");
        assert_eq!(said.digest(), expected, "with {size} MB at first");
    }
}

#[test]
fn plain_roots_on_a_noexec_file_system_run_programs() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN true\n");
    let script = "\"$@\"";
    let mount = "mount -t tmpfs -o noexec,nosuid,nodev tmpfs $STORE";
    let flags = ["--snapshotter", "plain"];
    let Some(said) = with_mounts(&env, mount, script, &flags) else {
        return;
    };
    said.success();
}

#[test]
fn a_store_that_would_lose_file_capabilities_is_refused() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN true\n");
    let script = "\"$@\"";
    // It has no extended attributes of any kind.
    let mount = "mount -t ramfs ramfs $STORE && chmod 700 $STORE";
    let Some(said) = with_mounts(&env, mount, script, &[]) else {
        return;
    };
    said.failure(4)
        .says("file capabilities")
        .says("keep the store on a local file system");
}
