//! Which stages are built and what flows between them.

use crate::support::{Env, can_run};

#[test]
fn s06_a_stage_that_nobody_needs_is_not_built() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox AS a\nRUN echo a > /a\nFROM no.such.host.invalid/image AS broken\n\
         RUN false\nFROM busybox\nCOPY --from=a /a /a\n",
    );
    env.build(&[]).success();
    assert_eq!(env.image().text("a"), "a\n");
}

#[test]
fn the_target_ends_the_build_there() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox AS one\nRUN echo 1 > /f\nFROM one AS two\nRUN false\n");
    env.build(&["--target", "ONE"]).success();
    assert_eq!(env.image().text("f"), "1\n");
    env.build(&["--target", "too"])
        .failure(3)
        .says("too")
        .says("two");
}

#[test]
fn c09_files_copied_from_a_stage_keep_their_owner() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox AS a\nRUN mkdir /d && echo x > /d/f && chown 7:8 /d/f && ln /d/f /d/g\n\
         FROM scratch\nCOPY --from=a /d /d\n",
    );
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.file("d/f").owner, (7, 8));
    assert_eq!(image.file("d/g").link.as_deref(), Some("d/f"));
}

#[test]
fn s21_triggers_of_a_stage_run_in_the_stages_built_from_it() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox AS base\nONBUILD RUN echo triggered > /t\nFROM base\nRUN cat /t > /u\n",
    );
    env.build(&[]).success();
    assert_eq!(env.image().text("u"), "triggered\n");
}
