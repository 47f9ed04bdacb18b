//! What is done again and what is not.

use std::process::Stdio;

use crate::support::{Env, can_run, command_lines, eventually, unique};

#[test]
fn an_unchanged_build_executes_nothing() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.write("f", "1");
    env.dockerfile(
        "FROM busybox AS a\nRUN echo 1 > /a\nFROM busybox\nWORKDIR /w\nCOPY f .\nRUN cat f\n\
         COPY --from=a /a .\n",
    );
    let first = env.build(&[]).success();
    assert_eq!(first.executed(), 5, "{}", first.stderr);
    let second = env.build(&[]).success();
    assert_eq!(second.executed(), 0, "{}", second.stderr);
    assert_eq!(second.digest(), first.digest());
}

#[test]
fn a_changed_file_repeats_only_what_depends_on_it() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.write("f", "1");
    env.write("g", "1");
    let text = "FROM busybox AS a\nCOPY f /f\nRUN cat /f\nFROM busybox AS b\nCOPY g /g\nRUN cat /g\n\
                FROM scratch\nCOPY --from=a /f /\nCOPY --from=b /g /\n";
    env.dockerfile(text);
    env.build(&[]).success();
    env.write("f", "2");
    let said = env.build(&[]).success();
    // COPY f, RUN cat /f, and both copies of the last stage: the second stands on the first.
    assert_eq!(said.executed(), 4, "{}", said.stderr);
    assert_eq!(env.image().text("f"), "2");
}

#[test]
fn k02_a_touched_file_is_no_change() {
    let env = Env::bare();
    env.write("f", "1");
    env.dockerfile("FROM scratch\nCOPY f /f\n");
    env.build(&[]).success();
    std::fs::remove_file(env.context().join("f")).unwrap();
    env.write("f", "1");
    assert_eq!(env.build(&[]).success().executed(), 0);
}

#[test]
fn what_changes_between_its_key_and_its_layer_is_not_taken_for_what_it_was() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    // Little files are kept from the one to the other.
    let content = |letter: &str| letter.repeat(200_000);
    env.write("f", &content("a"));
    let marker = unique();
    // The key of `COPY f` is made while `RUN` has its turn.
    env.dockerfile(&format!(
        "FROM busybox AS slow\nRUN : {marker}; sleep 1; touch /slow\n\
         FROM scratch\nCOPY f /f\nCOPY --from=slow /slow /\n"
    ));
    let flags = ["--jobs", "1"];
    let mut command = env.command(&flags);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut build = command.spawn().unwrap();
    let runs = eventually(|| command_lines().iter().any(|line| line.contains(&marker)));
    env.write("f", &content("b"));
    assert!(build.wait().unwrap().success());
    assert!(runs, "the step does not run");
    env.write("f", &content("a"));
    env.build(&flags).success();
    assert!(env.image().text("f") == content("a"));
}

#[test]
fn k18_only_the_copied_files_of_another_stage_matter() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.write("f", "1");
    env.dockerfile(
        "FROM busybox AS a\nCOPY f /unused\nRUN echo same > /used\n\
         FROM busybox\nCOPY --from=a /used /used\nRUN cat /used\n",
    );
    env.build(&[]).success();
    env.write("f", "2");
    let said = env.build(&[]).success();
    assert_eq!(said.executed(), 2, "{}", said.stderr);
}

#[test]
fn c37_k03_a_source_may_move_to_another_directory_but_not_change_its_name() {
    let env = Env::bare();
    env.write("a/f", "1");
    env.write("b/f", "1");
    env.write("b/g", "1");
    for (source, executed) in [("a/f", 1), ("b/f", 0), ("b/g", 1), ("a", 1), ("a/.", 0)] {
        env.dockerfile(&format!("FROM scratch\nCOPY {source} /x/\n"));
        let said = env.build(&[]).success();
        assert_eq!(said.executed(), executed, "{source}: {}", said.stderr);
    }
}

#[test]
fn k09_only_what_is_mounted_of_another_stage_matters() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.write("f", "1");
    env.dockerfile(
        "FROM busybox AS a\nCOPY f /unused\nRUN mkdir /d && echo same > /d/used\n\
         FROM busybox\nRUN --mount=from=a,source=/d,target=/d cat /d/used > /used\n",
    );
    env.build(&[]).success();
    env.write("f", "2");
    let said = env.build(&[]).success();
    assert_eq!(said.executed(), 2, "{}", said.stderr);
    env.dockerfile(
        "FROM busybox AS a\nCOPY f /unused\nRUN mkdir /d && echo other > /d/used\n\
         FROM busybox\nRUN --mount=from=a,source=/d,target=/d cat /d/used > /used\n",
    );
    env.build(&[]).success();
    assert_eq!(env.image().text("used"), "other\n");
}

#[test]
fn no_cache_does_everything_again() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN echo 1 > /a\nRUN echo 2 > /b\n");
    env.build(&[]).success();
    assert_eq!(env.build(&["--no-cache"]).success().executed(), 2);
}

#[test]
fn k13_the_content_of_a_secret_is_in_no_key() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN --mount=type=secret,id=k cat /run/secrets/k > /dev/null\n");
    let secret = env.path("k");
    let flag = format!("id=k,src={}", secret.display());
    std::fs::write(&secret, "one").unwrap();
    env.build(&["--secret", &flag]).success();
    std::fs::write(&secret, "two").unwrap();
    assert_eq!(env.build(&["--secret", &flag]).success().executed(), 0);
}

#[test]
fn two_builds_may_share_a_store_at_the_same_time() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let steps: String = (0..8).map(|i| format!("RUN echo {i} > /f{i}\n")).collect();
    env.dockerfile(&format!("FROM busybox\n{steps}"));
    let builds: Vec<_> = (0..4)
        .map(|i| {
            let out = format!(
                "type=oci,dest={},tar=false",
                env.path(&format!("o{i}")).display()
            );
            let mut command = env.command(&["--output", &out]);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let said: Vec<_> = builds
        .into_iter()
        .map(|b| env.said(b.wait_with_output().unwrap()).success())
        .collect();
    assert!(said.iter().all(|s| s.digest() == said[0].digest()));
}
