//! Odd places: no home, a store that cannot be made, a build in a step of a build.

use std::process::Stdio;

use crate::rungs::{has_containers, isolation};
use crate::support::{Env, can_run, copy_program};

const SMALL: &str = "FROM busybox\nRUN echo x > /x && chown app:app /x\nCOPY Dockerfile /\n";

#[test]
fn a_store_that_cannot_be_made_says_what_to_set() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let file = env.path("file");
    std::fs::write(&file, "").unwrap();
    let places = [
        ("/proc/none/store", "set LAYERCAKE_ROOT to a directory"),
        (file.to_str().unwrap(), "file"),
    ];
    for (place, expected) in places {
        let out = format!("type=oci,dest={},tar=false", env.path("out").display());
        let mut command = env.command(&["--output", &out]);
        let output = command.env("LAYERCAKE_ROOT", place).output().unwrap();
        let said = env.said(output).says(expected);
        assert!(!said.ok);
    }
}

#[test]
fn without_a_home_the_store_must_be_named() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let mut command = env.command(&[]);
    for name in ["LAYERCAKE_ROOT", "XDG_DATA_HOME", "HOME"] {
        command.env_remove(name);
    }
    let said = env.said(command.output().unwrap()).failure(4);
    said.says("no place for the store")
        .says("set LAYERCAKE_ROOT");
}

#[test]
fn neither_home_nor_a_temporary_directory_is_needed() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(SMALL);
    let out = format!("type=oci,dest={},tar=false", env.path("out").display());
    let mut command = env.command(&["--output", &out]);
    command
        .env("HOME", "/nonexistent")
        .env("TMPDIR", "/nonexistent");
    env.said(command.stdin(Stdio::null()).output().unwrap())
        .success();
}

/// A context whose step builds another context with this program.
fn nested(env: &Env, run: &str) {
    let base = std::fs::read_to_string(env.path("base-path")).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", &base])
        .arg(env.context().join("base"))
        .status();
    assert!(copied.unwrap().success());
    copy_program(&env.context().join("layercake"));
    env.write("inner/Dockerfile", SMALL);
    env.dockerfile(&format!(
        "FROM busybox\n{run} --mount=type=bind,target=/n LAYERCAKE_ROOT=/tmp/store \
         /n/layercake build -q --build-context busybox=oci-layout:///n/base \
         --output type=oci,dest=/tmp/out,tar=false /n/inner\n"
    ));
}

#[test]
fn a_build_in_a_step_says_what_it_lacks() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    nested(&env, "RUN");
    let said = env.build(&[]);
    assert!(!said.ok);
    said.says("create a user namespace")
        .says("the system call filter of the container around this process");
}

#[test]
fn a_build_in_an_insecure_step_gives_the_same_image() {
    if !can_run() || isolation() != "root" {
        eprintln!("SKIPPED: only root has further privileges to give");
        return;
    }
    let env = Env::new();
    nested(&env, "RUN --security=insecure");
    let inner = Env::new();
    inner.dockerfile(SMALL);
    let expected = inner.build(&["--quiet"]).success().digest();
    let said = env.build(&["--allow", "security.insecure"]).success();
    said.says(&expected);
}
