//! Rules of BuildKit's whose inputs are rare, checked on the whole program. What each expects is
//! what BuildKit does with the same Dockerfile.

use crate::rungs::has_containers;
use crate::support::{Env, can_run};

#[test]
fn r22_a_cache_with_a_seed_is_one_whatever_part_of_it_is_mounted() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let mount =
        |source: &str| format!("RUN --mount=type=cache,id=c,target=/c,from=s,source={source}");
    let (seed, sub, all) = (mount("/seed"), mount("seed/sub"), mount("/"));
    env.dockerfile(&format!(
        "FROM busybox AS s\n\
         RUN mkdir -p /seed/sub && echo f > /seed/sub/f && chown -R 5:6 /seed && chmod 711 /seed && \
         ln -s seed /l\n\
         FROM busybox\n\
         {sub} echo new > /c/new; cat /c/f > /sub\n\
         {seed} stat -c '%a %u %g' /c > /seed; echo more > /c/more; ls /c/sub >> /seed\n\
         {seed} ls /c > /again\n\
         {all} ls /c/seed /c/bin/sh > /all\n\
         {} ls /c > /link\n",
        mount("/l")
    ));
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.text("sub"), "f\n");
    assert_eq!(image.text("seed"), "711 5 6\nf\nnew\n");
    assert_eq!(image.text("again"), "more\nsub\n");
    assert_eq!(image.text("all"), "/c/bin/sh\n\n/c/seed:\nmore\nsub\n");
    assert_eq!(image.text("link"), "more\nsub\n");
}

#[test]
fn r20_a_cache_with_an_owner_is_another_one() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\n\
         RUN --mount=type=cache,target=/c touch /c/x\n\
         RUN --mount=type=cache,target=/c,mode=0755 ls /c | wc -l > /n\n",
    );
    env.build(&[]).success();
    assert_eq!(env.image().text("n"), "0\n");
}

#[test]
fn k12_no_cache_starts_caches_with_a_mode_anew() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let count = |word: &str, flags: &[&str]| {
        env.dockerfile(&format!(
            "FROM busybox\n\
             RUN --mount=type=cache,target=/m,mode=0773 touch /m/{word} && ls /m | wc -l > /m-count\n\
             RUN --mount=type=cache,target=/m,mode=0773 touch /m/2{word} && ls /m | wc -l > /m-next\n\
             RUN --mount=type=cache,target=/p touch /p/{word} && ls /p | wc -l > /p-count\n"
        ));
        env.build(flags).success();
        let image = env.image();
        ["m-count", "m-next", "p-count"].map(|name| image.text(name).trim().to_owned())
    };
    assert_eq!(count("a", &[]), ["1", "2", "1"]);
    assert_eq!(count("b", &["--no-cache"]), ["1", "2", "2"]);
    assert_eq!(count("c", &[]), ["3", "4", "3"]);
}

#[test]
fn r26_a_tmpfs_has_the_mode_of_what_it_covers() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN mkdir -m 2750 /t && chown app:app /t && ln -s t /l\n\
         RUN --mount=type=tmpfs,target=/l --mount=type=tmpfs,target=/new \
         stat -c '%a %u %g' /t /new > /modes\n\
         RUN --mount=type=tmpfs,target=/t,ro touch /t/f 2>/dev/null || echo read-only > /ro\n",
    );
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.text("modes"), "2750 0 0\n1777 0 0\n");
    assert_eq!(image.text("ro"), "read-only\n");
}

#[test]
fn r19_a_bind_mount_s_source_has_no_wildcards() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.write("f[1]", "one");
    env.write("f1", "other");
    env.dockerfile("FROM busybox\nRUN --mount=source=f[1],target=/m cat /m > /f\n");
    env.build(&[]).success();
    assert_eq!(env.image().text("f"), "one");
    env.dockerfile("FROM busybox\nRUN --mount=source=f*,target=/m cat /m > /f\n");
    env.build(&[]).failure(1).says("\"/f*\" not found");
}

#[test]
fn c25_the_last_of_several_files_stays() {
    let env = Env::bare();
    env.write("a", "first");
    env.write("b", "second");
    env.dockerfile("FROM scratch\nCOPY a b /x\n");
    env.build(&[])
        .success()
        .says("several files are copied to /x, of which the last one stays");
    assert_eq!(env.image().text("x"), "second");
}

/// Unlike BuildKit, which takes root: its manual says that the build fails.
#[test]
fn o02_unknown_owners_are_refused() {
    // Who is known is read inside.
    if !can_run() {
        return;
    }
    let env = Env::bare();
    env.write("a", "x");
    env.write("passwd", "app:x:1000:1001::/:/bin/sh\n");
    for (owner, name) in [("nosuch", "user nosuch"), ("app:nosuch", "group nosuch")] {
        env.dockerfile(&format!(
            "FROM scratch\nCOPY passwd /etc/\nCOPY --chown={owner} a /x\n"
        ));
        env.build(&[])
            .failure(1)
            .says(&format!("unable to find {name}"));
    }
}

#[test]
fn o03_names_on_an_empty_image_are_refused() {
    let env = Env::bare();
    env.write("a", "x");
    for step in ["COPY --chown=app a /x", "USER app\nWORKDIR /w"] {
        env.dockerfile(&format!("FROM scratch\n{step}\n"));
        env.build(&[])
            .failure(1)
            .says("\"app\" cannot be looked up in an empty image");
    }
    env.dockerfile("FROM scratch\nCOPY --chown=5:6 a /x\nCOPY --chown=7: a /y\n");
    env.build(&[]).success();
    assert_eq!(env.image().file("x").owner, (5, 6));
    assert_eq!(env.image().file("y").owner, (7, 0));
}

#[test]
fn l10_a_name_that_means_removal_is_told_as_the_step_knows_it() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN mkdir /d && touch /d/.wh.x\n");
    env.build(&[])
        .failure(1)
        .says("\"/d/.wh.x\": a name starting with .wh. cannot be stored");
}

#[test]
fn r03_a_working_directory_that_is_gone_belongs_to_the_user() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN mkdir /s && chown 0:50 /s && chmod 2777 /s\nUSER app\nWORKDIR /s/a/b\n\
         RUN rm -rf /s/a\nRUN stat -c '%a %u %g' /s/a . > /tmp/before && touch f\n",
    );
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.text("tmp/before"), "2755 1000 1001\n2755 1000 1001\n");
    for path in ["s/a", "s/a/b"] {
        let file = image.file(path);
        assert_eq!((file.mode, file.owner), (0o2755, (1000, 1001)), "{path}");
    }
    assert!(image.has("s/a/b/f"));
}

#[test]
fn r15_a_file_is_not_mounted_on_a_directory_nor_the_other_way_round() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    env.write("d/f", "x");
    for (mount, text) in [
        (
            "source=d/f,target=/etc",
            "a file on /etc, which is a directory",
        ),
        (
            "source=d,target=/etc/passwd",
            "a directory on /etc/passwd, which is a file",
        ),
        (
            "type=tmpfs,target=/etc/passwd",
            "a directory on /etc/passwd, which is a file",
        ),
        (
            "type=cache,target=/etc/passwd",
            "a directory on /etc/passwd, which is a file",
        ),
    ] {
        env.dockerfile(&format!("FROM busybox\nRUN --mount={mount} true\n"));
        env.build(&[])
            .failure(1)
            .says(&format!("cannot mount {text}"));
    }
}

#[test]
fn r34_sys_of_a_step_without_network_has_only_loopback() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN --network=none ls /sys/class/net > /net; ls -d /sys/fs/cgroup; \
         ls /sys/firmware | wc -l > /firmware; touch /sys/x 2> /dev/null || echo read-only > /ro\n",
    );
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.text("net"), "lo\n");
    assert_eq!(image.text("firmware"), "0\n");
    assert_eq!(image.text("ro"), "read-only\n");
}
