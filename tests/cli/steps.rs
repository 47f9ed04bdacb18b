//! `RUN`, `COPY`, `WORKDIR` in real containers.

use crate::support::{Env, can_run};

#[test]
fn files_made_by_a_step_have_the_owners_it_gave_them() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN mkdir /d && echo x > /d/f && chown -R app:app /d && chmod 4750 /d/f\n\
         USER app\nRUN echo y > /d/g\n",
    );
    env.build(&[]).success();
    let image = env.image();
    for path in ["d", "d/f", "d/g"] {
        assert_eq!(image.file(path).owner, (1000, 1001), "{path}");
    }
    assert_eq!(image.file("d/f").mode, 0o4750);
}

#[test]
fn l07_what_a_step_removes_is_gone() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN mkdir /d && echo 1 > /d/a && echo 2 > /d/b\nRUN rm /d/a\n");
    env.build(&[]).success();
    let image = env.image();
    assert!(!image.has("d/a") && image.has("d/b"));
}

#[test]
fn r08_r13_what_a_step_is_given_is_not_in_its_layer() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN grep -q localhost /etc/hosts && test -e /etc/resolv.conf \
         && test -d /proc/self && test -c /dev/null && test -d /sys/kernel\n",
    );
    env.build(&[]).success();
    let image = env.image();
    for path in ["etc/hosts", "etc/resolv.conf", "proc", "dev", "sys"] {
        assert!(!image.has(path), "{path}");
    }
    let layers = image.manifest["layers"].as_array().unwrap().len();
    assert_eq!(
        image.config["rootfs"]["diff_ids"].as_array().unwrap().len(),
        layers
    );
}

#[test]
fn r06_nothing_a_step_leaves_running_survives_or_delays_it() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    // The daemon ignores signals and holds the output open.
    env.dockerfile(
        "FROM busybox\nRUN setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' &\n\
         RUN ! test -e /proc/2/cmdline || ! grep -q trap /proc/2/cmdline\n",
    );
    env.build(&[]).success();
}

#[test]
fn network_none_has_only_loopback() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN --network=none test \"$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ')\" = lo\n");
    env.build(&[]).success();
}

#[test]
fn a_secret_is_there_for_the_step_and_nowhere_else() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    std::fs::write(env.path("secret"), "s3cr3t-value").unwrap();
    env.dockerfile(
        "FROM busybox\nRUN --mount=type=secret,id=key test $(wc -c < /run/secrets/key) = 12\n",
    );
    let flag = format!("id=key,src={}", env.path("secret").display());
    env.build(&["--secret", &flag])
        .success()
        .does_not_say("s3cr3t-value");
    assert!(!env.image().has("run"));
}

#[test]
fn a_cache_mount_outlives_steps_and_builds_and_is_in_no_layer() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let step = "RUN --mount=type=cache,target=/c echo x >> /c/log && wc -l < /c/log > ";
    env.dockerfile(&format!("FROM busybox\n{step}/n1\n{step}/n2\n"));
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(
        (image.text("n1").trim(), image.text("n2").trim()),
        ("1", "2")
    );
    assert!(!image.has("c"));
    env.dockerfile(&format!("FROM busybox\n{step}/other\n"));
    env.build(&[]).success();
    assert_eq!(env.image().text("other").trim(), "3");
}

#[test]
fn i11_a_bind_mount_of_the_context_shows_what_is_not_ignored() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.write("yes", "1");
    env.write("no", "2");
    env.write(".dockerignore", "no\n");
    env.dockerfile(
        "FROM busybox\nRUN --mount=target=/m test -e /m/yes && ! test -e /m/no && ! touch /m/x\n\
         RUN --mount=target=/m,rw touch /m/x && test -e /m/x\n",
    );
    env.build(&[]).success();
    assert!(!env.context().join("x").exists());
}

#[test]
fn arguments_and_heredocs_reach_the_shell() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nARG WHO=nobody\nRUN <<EOF\necho \"hello $WHO\" > /greeting\nEOF\n\
         COPY <<EOF /copied\nto $WHO\nEOF\n",
    );
    env.build(&["--build-arg", "WHO=you"]).success();
    assert_eq!(env.image().text("greeting"), "hello you\n");
    assert_eq!(env.image().text("copied"), "to you\n");
}
