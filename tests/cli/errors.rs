//! What people are told when something is wrong.

use crate::support::{Env, can_run};

#[test]
fn a_failing_step_shows_its_output_its_lines_and_its_status() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN echo before && \\\n  sh -c 'echo why >&2; exit 7'\nRUN true\n",
    );
    env.build(&[])
        .failure(1)
        .says("why")
        .says("exit code: 7")
        .says("--> Dockerfile:2:1")
        .says("2 | / RUN echo before && \\")
        .says("3 | |   sh -c 'echo why >&2; exit 7'");
}

#[test]
fn several_syntax_errors_come_in_one_go() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nRUNN x\nCOPY --form=a b c\n");
    env.build(&[])
        .failure(3)
        .says("error: unknown instruction: RUNN\n --> Dockerfile:2:1\n")
        .says("2 | RUNN x\n  | ^^^^\n")
        .says("= help: did you mean RUN?")
        .says("error: unknown flag: --form\n --> Dockerfile:3:6\n")
        .says("= help: did you mean --from?")
        .says("ERROR: 2 errors in Dockerfile");
}

#[test]
fn text_after_a_continuation_is_the_reason_told() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nRUN install \\\n    one \\  # tools\n    two three\n");
    env.build(&[])
        .failure(3)
        .says("dockerfile parse error on line 4: unknown instruction: two")
        .says("line 3 does not continue here: its \\ is followed by `# tools`")
        .says("move the comment to its own line");
}

#[test]
fn what_lowering_finds_is_shown_in_its_place_with_advice() {
    let env = Env::bare();
    for (text, place, message, advice) in [
        (
            "ARG VERSION=1\nFROM scratch$VERISON\nFROM a:$VERISON\n",
            "Dockerfile:3:6",
            "failed to parse stage name",
            "did you mean VERSION?",
        ),
        (
            "FROM scratch AS builder\nFROM scratch\nEXPOSE 80 70000\n",
            "Dockerfile:3:11",
            "invalid containerPort: 70000",
            "from 0 to 65535",
        ),
        (
            "FROM scratch\nCOPY --from=7 a /\n",
            "Dockerfile:2:13",
            "invalid stage index 7",
            "stages count from 0",
        ),
        (
            "FROM scratch\nSTOPSIGNAL SIGTREM\n",
            "Dockerfile:2:12",
            "invalid signal: SIGTREM",
            "did you mean SIGTERM?",
        ),
        (
            "ARG BASE_IMAGE=scratch\nFROM ${BASE_IMGE}\n",
            "Dockerfile:2:6",
            "should not be blank",
            "did you mean BASE_IMAGE?",
        ),
        (
            "FROM scratch\nENV A=\"${B:?set B}\"\n",
            "Dockerfile:2:7",
            "B: set B",
            "--build-arg B=",
        ),
    ] {
        env.dockerfile(text);
        env.build(&[])
            .failure(3)
            .says(place)
            .says(message)
            .says(advice);
    }
    env.dockerfile("FROM scratch AS builder\nFROM scratch AS final\n");
    env.dockerfile("FROM scratch AS builder\nFROM scratch AS final\n");
    env.dockerfile("FROM scratch AS builder\nFROM scratch\nCOPY --from=docz a /\n");
    let docs = format!("docs=oci-layout://{}", env.path("none").display());
    env.build(&["--build-context", &docs])
        .failure(5)
        .says("did you mean docs?");
    env.dockerfile("FROM scratch AS builder\nFROM scratch AS final\n");
    env.build(&["--target", "bulider"])
        .failure(3)
        .says("did you mean builder?");
}

#[test]
fn values_that_double_with_every_line_end_with_a_clear_error() {
    let env = Env::bare();
    let doubled = "ENV a=$a$a\n".repeat(40);
    env.dockerfile(&format!("FROM scratch\nENV a=0123456789\n{doubled}"));
    env.build(&[]).failure(3).says("bytes").says("Dockerfile:1");
    let doubled = "ARG a=$a$a\n".repeat(40);
    env.dockerfile(&format!("ARG a=0123456789\n{doubled}FROM scratch\n"));
    env.build(&[]).failure(3).says("bytes");
}

#[test]
fn c19_a_missing_source_is_named_with_the_rule_that_hides_it() {
    let env = Env::bare();
    env.write("secret.txt", "x");
    env.write(".dockerignore", "# private\nsecret.*\n");
    env.dockerfile("FROM scratch\nCOPY secret.txt /\n");
    env.build(&[])
        .failure(1)
        .says("secret.txt")
        .says("line 2 of .dockerignore")
        .says("Dockerfile:2");
}

#[test]
fn c19_a_missing_source_of_a_mount_is_named() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox AS a\nFROM busybox\nRUN --mount=from=a,source=/ect,target=/x true\n",
    );
    env.build(&[])
        .failure(1)
        .says("\"/ect\" not found in the stage or image")
        .says("--> Dockerfile:3:1");
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\n");
    env.build_to(&["--output", "type=docker,dest=x"])
        .failure(2)
        .says("type=docker");
    env.build(&["--platform", "linux/s390x,linux/amd64"])
        .failure(2)
        .says("several platforms");
    env.build(&["--platform", "plan9/amd64"])
        .failure(3)
        .says("plan9");
    env.build(&["--push"]).failure(2).says("--push");
}

#[test]
fn no_dockerfile_is_said_so() {
    let env = Env::bare();
    env.build(&[]).failure(2).says("Dockerfile");
}

#[test]
fn a_command_that_is_not_there_is_named() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN [\"/no/such/program\", \"x\"]\n");
    env.build(&[])
        .failure(1)
        .says("/no/such/program")
        .says("not found");
    env.dockerfile("FROM busybox\nUSER nosuchuser\nRUN true\n");
    env.build(&[]).failure(1).says("nosuchuser");
}

#[test]
fn certificates_that_are_not_there_are_named() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nADD https://127.0.0.1:1/f /f\n");
    let mut build = env.command(&[]);
    build
        .env("SSL_CERT_FILE", "/no/such/file")
        .env_remove("SSL_CERT_DIR");
    env.said(build.output().unwrap())
        .failure(4)
        .says("SSL_CERT_FILE")
        .says("/no/such/file");
}
