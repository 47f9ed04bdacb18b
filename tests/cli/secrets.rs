//! `--secret` and `RUN --mount=type=secret`: there for the step and nowhere else.

use std::path::Path;

use crate::support::{Env, can_run};

const SECRET: &str = "hunter2-and-a-half";

/// Files below `directory` that hold `bytes`.
fn holders(directory: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(directory).into_iter().flatten() {
        // Files of mapped users may be closed to us; those are of the base image.
        let Ok(content) = std::fs::read(entry.path()) else {
            continue;
        };
        if content.windows(bytes.len()).any(|w| w == bytes) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

fn with_secret(env: &Env) -> String {
    std::fs::write(env.path("secret"), format!("{SECRET}\n")).unwrap();
    format!("id=key,src={}", env.path("secret").display())
}

#[test]
fn secrets_are_masked_on_screen_and_in_logs() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let flag = with_secret(&env);
    env.dockerfile(
        "FROM busybox\n\
         RUN --mount=type=secret,id=key --mount=type=secret,id=key,env=KEY \
         cd /run/secrets; echo whole: $(cat key); \
         printf 'cut: %s' \"$(head -c 7 key)\"; sleep 0.3; printf '%s.\\n' \"${KEY:7}\"; \
         echo base64: $(busybox base64 key); \
         echo inner: $(printf 'user:%s' \"$KEY\" | busybox base64); \
         echo url: %2F$KEY; echo after >&2; exit 1\n",
    );
    let said = env.build(&["--secret", &flag]).failure(1);
    let hint = said
        .stderr
        .lines()
        .find(|l| l.contains("all of its output"))
        .unwrap();
    let log = std::fs::read_to_string(hint.split(" is in ").nth(1).unwrap()).unwrap();
    for text in [&said.stderr, &log] {
        for line in [
            "whole: ****",
            "cut: ****.",
            "base64: ****",
            "url: %2F****",
            "after",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        // "user:" is 5 bytes: its last two and the secret share a character.
        for part in [SECRET, "aHVudGVyMi", "h1bnRlcjItYW5", "odW50ZXIyLWF"] {
            assert!(!text.contains(part), "{part:?} is in:\n{text}");
        }
    }
    assert_eq!(holders(&env.path("store"), SECRET.as_bytes()), [""; 0]);
}

#[test]
fn messages_of_failures_do_not_tell_secrets() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let flag = with_secret(&env);
    env.dockerfile(&format!("FROM busybox\nRUN false {SECRET}\n"));
    let said = env
        .build(&["--secret", &flag])
        .failure(1)
        .says("false ****");
    let error = said
        .stderr
        .lines()
        .find(|l| l.starts_with("ERROR"))
        .unwrap();
    assert!(!error.contains(SECRET), "{error}");
}

#[test]
fn a_secret_in_a_new_layer_fails_the_build_unless_allowed() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let flag = with_secret(&env);
    env.dockerfile(
        "FROM busybox\n\
         RUN --mount=type=secret,id=key mkdir /app && echo \"token=$(cat /run/secrets/key)\" > \
         /app/config\n",
    );
    let allow = ["--secret", &flag, "--allow-secret-in-layer", "key"];
    for _ in 0..2 {
        env.build(&["--secret", &flag])
            .failure(1)
            .says("the secret key would be in the image")
            .says("/app/config")
            .says("--allow-secret-in-layer key")
            .does_not_say(SECRET);
        // What one build allows is nothing that another one takes from the cache.
        env.build(&allow).success();
    }
    assert_eq!(env.build(&allow).success().executed(), 0);
    env.build(&["--secret", &flag, "--allow-secret-in-layer", "other"])
        .failure(2)
        .says("no --secret id=other");
    // In base64 inside something else, in a link, in a name.
    for command in [
        "printf \"u:$(cat /run/secrets/key)\" | busybox base64 > /f",
        "ln -s \"$(cat /run/secrets/key)\" /link",
        "touch \"/$(cat /run/secrets/key)\"",
    ] {
        env.dockerfile(&format!(
            "FROM busybox\nRUN --mount=type=secret,id=key {command}\n"
        ));
        env.build(&["--secret", &flag])
            .failure(1)
            .says("the secret key");
    }
    // Removed in the same step; and in a file that is only read.
    env.dockerfile(
        "FROM busybox\nRUN --mount=type=secret,id=key cp /run/secrets/key /f && rm /f\n",
    );
    env.build(&["--secret", &flag]).success();
}

#[test]
fn a_copied_secret_fails_the_build_too() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let flag = with_secret(&env);
    env.write("app/.npmrc", &format!("//registry/:_authToken={SECRET}\n"));
    env.dockerfile("FROM busybox\nCOPY . /src\n");
    env.build(&["--secret", &flag])
        .failure(1)
        .says("the secret key")
        .says("/src/app/.npmrc");
    env.build(&["--secret", &flag, "--allow-secret-in-layer", "key"])
        .success();
    env.build(&["--secret", &flag]).failure(1);
    env.write(".dockerignore", "**/.npmrc\n");
    env.build(&["--secret", &flag]).success();
}

#[test]
fn secrets_that_cannot_be_had_are_usage_errors() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    std::fs::write(env.path("large"), vec![b'x'; (500 << 10) + 1]).unwrap();
    let large = format!("id=a,src={}", env.path("large").display());
    for (flag, says) in [
        ("id=a,src=/no/such/file", "/no/such/file"),
        (
            "id=a,env=LAYERCAKE_NO_SUCH_VARIABLE",
            "LAYERCAKE_NO_SUCH_VARIABLE",
        ),
        ("id=a,src=/", "directory"),
        (&large, "500 KiB"),
        ("src=x", "no id=NAME"),
    ] {
        env.build(&["--secret", flag]).failure(2).says(says);
    }
}

#[test]
fn r27_a_required_secret_that_is_not_given_is_named() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN --mount=type=secret,id=key,required true\n");
    env.build(&[])
        .failure(1)
        .says("secret key")
        .says("--secret id=key");
    env.dockerfile("FROM busybox\nRUN --mount=type=secret,id=key ! test -e /run/secrets/key\n");
    env.build(&[]).success();
}

#[test]
fn a_secret_from_a_pipe_is_read_once() {
    use std::io::Write;
    use std::process::Stdio;
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN --mount=type=secret,id=key test \"$(cat /run/secrets/key)\" = piped\n",
    );
    let mut command = env.command(&["-t", "x", "--secret", "id=key,src=/dev/stdin"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut build = command.stderr(Stdio::piped()).spawn().unwrap();
    build.stdin.take().unwrap().write_all(b"piped").unwrap();
    env.said(build.wait_with_output().unwrap()).success();
}
