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
        .says("Dockerfile:2-3")
        .says(">>> RUN echo before");
}

#[test]
fn several_syntax_errors_come_in_one_go() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nRUNN x\nCOPY --form=a b c\n");
    env.build(&[])
        .failure(3)
        .says("RUNN")
        .says("RUN")
        .says("form")
        .says("Dockerfile:2");
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
fn what_is_not_implemented_is_refused_by_name() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nADD https://example.invalid/f /f\n");
    env.build(&[])
        .failure(2)
        .says("ADD https://example.invalid/f")
        .says("not implemented");
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
