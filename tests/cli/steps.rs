//! `RUN`, `COPY`, `WORKDIR` in real containers.

use crate::rungs::{has_containers, isolation};
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
    if !has_containers() {
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
    if !has_containers() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN --network=none \
         test \"$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ')\" = lo\n",
    );
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
    if !has_containers() {
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

#[test]
fn r23_steps_share_a_cache_in_which_another_is_mounted() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let stages: String = (0..8)
        .map(|i| {
            format!(
                "FROM busybox AS s{i}\nRUN --mount=type=cache,target=/a/b \
                 --mount=type=cache,target=/a/b/c/d echo {i} > /f{i}\n"
            )
        })
        .collect();
    let copies: String = (0..8)
        .map(|i| format!("COPY --from=s{i} /f{i} /\n"))
        .collect();
    env.dockerfile(&format!("{stages}FROM scratch\n{copies}"));
    env.build(&[]).success();
}

#[test]
fn r25_a_link_in_a_cache_does_not_lead_out_of_it() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let fill = "RUN --mount=type=cache,id=c,target=/c mkdir -p /c/d && echo in > /c/d/f && \
                ln -sfn d /c/good && ln -sfn /etc /c/bad\n";
    let use_of = |source| {
        format!(
            "FROM busybox\n{fill}RUN --mount=type=cache,id=c,source={source},target=/x cp /x/f /f\n"
        )
    };
    env.dockerfile(&use_of("good"));
    env.build(&[]).success();
    assert_eq!(env.image().text("f"), "in\n");
    env.dockerfile(&use_of("bad"));
    let said = env.build(&[]).failure(1);
    assert!(
        said.stderr.contains("leads out of the cache"),
        "{}",
        said.stderr
    );
}

#[test]
fn r24_a_locked_cache_has_one_user_at_a_time() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    // Stages that do not need each other run at once, and so do two builds.
    let step = "RUN --mount=type=cache,id=one,target=/c,sharing=locked \
                --mount=type=cache,id=two,target=/d,sharing=locked \
                mkdir /c/busy /d/busy && sleep 0.2 && rm -r /c/busy /d/busy && echo x >> /c/log";
    // The other order, and one cache twice in one step.
    let other = step
        .replace("id=one,target=/c", "id=two,target=/x")
        .replace("id=two,target=/d", "id=one,target=/c")
        .replace("/d/busy", "/x/busy")
        .replace(
            "RUN",
            "RUN --mount=type=cache,id=one,target=/again,sharing=locked",
        );
    env.dockerfile(&format!(
        "FROM busybox AS a\n{step} # a\nFROM busybox AS b\n{step} # b\n\
         FROM busybox AS c\n{other} # c\n\
         FROM busybox\nCOPY --from=a /bin/sh /s1\nCOPY --from=b /bin/sh /s2\n\
         COPY --from=c /bin/sh /s3\n\
         RUN --mount=type=cache,id=one,target=/c,sharing=locked wc -l < /c/log > /n\n"
    ));
    let mut second = env.command(&["-t", "second"]);
    let second = second
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    env.build(&[]).success();
    env.said(second.wait_with_output().unwrap()).success();
    let count: u32 = env.image().text("n").trim().parse().unwrap();
    assert!((3..=6).contains(&count), "{count}");
}

#[test]
fn r23_a_private_cache_is_not_shared_with_a_step_that_runs_meanwhile() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    let step = "RUN --mount=type=cache,id=p,target=/c,sharing=private mkdir /c/busy && sleep 0.3";
    env.dockerfile(&format!(
        "FROM busybox AS a\n{step} # a\nFROM busybox AS b\n{step} # b\n\
         FROM busybox\nCOPY --from=a /bin/sh /a\nCOPY --from=b /bin/sh /b\n"
    ));
    env.build(&[]).success();
}

#[test]
fn all_that_a_step_prints_is_in_its_log() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN echo first\n\
         RUN echo a line; echo an error >&2; printf 'no end'; head -c 20000 /dev/zero; exit 3\n",
    );
    let said = env
        .build(&[])
        .failure(1)
        .says("exit code: 3")
        .says("more bytes are in the log")
        .says("hint: all of its output is in ");
    let hint = said
        .stderr
        .lines()
        .find(|l| l.contains("all of its output"))
        .unwrap();
    let log = std::path::Path::new(hint.split(" is in ").nth(1).unwrap());
    assert!(
        log.starts_with(env.path("store")) && log.ends_with("2.log"),
        "{log:?}"
    );
    let text = std::fs::read(log).unwrap();
    for part in ["a line\n", "an error\n", "no end"] {
        let found = text.windows(part.len()).any(|w| w == part.as_bytes());
        assert!(found, "{part:?}");
    }
    assert_eq!(text.iter().filter(|b| **b == 0).count(), 20_000);
    let first = std::fs::read_to_string(log.with_file_name("1.log")).unwrap();
    assert_eq!(first, "first\n");
}

/// The largest peak of resident memory, in kB, of a process and those below it.
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let own = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
    let children = format!("/proc/{process}/task/{process}/children");
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let below = children
        .split_whitespace()
        .map(|c| peak_memory(c.parse().unwrap()));
    below.chain(own).max().unwrap_or(0)
}

#[test]
fn a_large_output_fills_no_memory_and_loses_no_line() {
    const BYTES: u64 = 150_000_000;
    const PEAK_KB: u64 = 64 << 10;
    if !can_run() {
        return;
    }
    let env = Env::new();
    let line = "0123456789".repeat(20);
    env.dockerfile(&format!(
        "FROM busybox\nRUN yes {line} | head -c {BYTES}; sleep 1\n"
    ));
    let mut build = env
        .command(&["-t", "large"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = || {
        let builds = std::fs::read_dir(env.path("store/logs")).ok()?;
        let path = builds.flatten().next()?.path().join("1.log");
        std::fs::metadata(path).ok().map(|m| m.len())
    };
    // Asked all the time: who looks only at the end may come too late.
    let mut peak = 0;
    while log() != Some(BYTES) && build.try_wait().unwrap().is_none() {
        peak = peak.max(peak_memory(build.id()));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // The step is in its last second.
    peak = peak.max(peak_memory(build.id()));
    assert!(build.wait().unwrap().success());
    assert_eq!(log(), Some(BYTES));
    assert!(peak > 0 && peak < PEAK_KB, "{peak} kB");
}

#[test]
fn what_a_step_used_is_shown_and_kept() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done\n");
    let said = env.build(&[]).success().says("#1 DONE ");
    let done = said
        .stderr
        .lines()
        .find(|l| l.starts_with("#1 DONE"))
        .unwrap();
    assert!(done.contains("s (cpu ") && done.ends_with(')'), "{done}");
    let mut records = Vec::new();
    for entry in walkdir::WalkDir::new(env.path("store/records/steps")) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            records
                .push(String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned());
        }
    }
    let with_usage = |r: &String| r.contains("\"user_ms\":") && r.contains("\"written_bytes\":");
    assert!(records.iter().any(with_usage), "{records:?}");
}

#[test]
fn r09_r10_r35_r36_settings_of_the_command_line_reach_the_step() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\n\
         RUN grep -q '^10.1.2.3[[:space:]]*box.example$' /etc/hosts\n\
         RUN grep -q '^fd00::1[[:space:]]*six.example$' /etc/hosts\n\
         RUN test \"$(ulimit -n)\" = 77 && test \"$(ulimit -Hn)\" = 99\n\
         RUN grep /dev/shm /proc/mounts | grep -q size=2048k\n\
         RUN test \"$(grep -c nameserver /etc/resolv.conf)\" = 1 \
             && grep -qx 'nameserver 192.0.2.1' /etc/resolv.conf \
             && grep -qx 'search a.example b.example' /etc/resolv.conf \
             && grep -qx 'options ndots:3' /etc/resolv.conf\n",
    );
    let flags = "--add-host box.example:10.1.2.3 --add-host six.example=[fd00::1] \
                 --ulimit nofile=77:99 --shm-size 2m --dns 192.0.2.1 --dns-search a.example \
                 --dns-search b.example --dns-option ndots:3";
    env.build(&flags.split_whitespace().collect::<Vec<_>>())
        .success();
    // Without them the first step fails: it was not looked up in the cache.
    env.build(&[]).failure(1).says("#1 ERROR");
    for (flag, says) in [
        ("--ulimit=files=1", "no such limit"),
        ("--ulimit=nofile=2:1", "soft limit"),
        ("--add-host=box", "NAME:IP"),
        ("--dns=nowhere", "nowhere"),
        ("--shm-size=big", "not a size"),
    ] {
        env.build(&[flag]).failure(2).says(says);
    }
}

#[test]
fn r33_an_insecure_step_needs_permission_and_the_real_root() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN --security=insecure mkdir /m && mount -t tmpfs none /m && touch /m/f\n\
         RUN grep CapEff /proc/self/status | grep -q 00000000a80425fb\n",
    );
    env.build(&[]).failure(3).says("--allow security.insecure");
    let said = env.build(&["--allow", "security.insecure"]);
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if isolation() == "root" && map.contains("4294967295") {
        said.success();
        assert!(env.image().has("m") && !env.image().has("m/f"));
    } else {
        said.failure(4).says("needs the real root");
    }
    env.dockerfile("FROM busybox\nRUN --device=vendor.com/gpu=all true\n");
    env.build(&[])
        .failure(3)
        .says("--device=vendor.com/gpu=all is not supported");
}

#[test]
fn a_build_of_many_steps_needs_few_descriptors() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let steps: String = (0..150).map(|n| format!("RUN : {n}\n")).collect();
    env.dockerfile(&format!("FROM busybox\n{steps}"));
    let build = env.command(&["-t", "many"]);
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", "ulimit -n 100; exec \"$0\" \"$@\""])
        .arg(build.get_program())
        .args(build.get_args())
        .envs(
            build
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(build.get_current_dir().unwrap());
    env.said(limited.output().unwrap()).success();
}

#[test]
fn w13_an_empty_home_is_none() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN echo 'app:x:5:6::/home/app:' >> /etc/passwd\n\
         ENV HOME=\nUSER app\nRUN test \"$HOME\" = /home/app\n\
         ENV HOME=/own\nRUN test \"$HOME\" = /own\n",
    );
    env.build(&[]).success();
}

#[test]
fn s12_steps_run_on_scratch_with_what_is_mounted() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM scratch\nRUN --mount=from=busybox,source=/bin,target=/bin echo made > /x\n",
    );
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.text("x"), "made\n");
    assert!(!image.has("bin"));
    env.dockerfile("FROM scratch\nRUN true\n");
    let said = env.build(&[]).failure(1);
    assert!(said.stderr.contains("/bin/sh"), "{}", said.stderr);
}
