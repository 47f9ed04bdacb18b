//! Attempts to get out: of the context, of archives and layers, of steps. docs/security.md lists
//! them. Each must fail, in every way that steps can be run.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sha2::Digest;

use crate::rungs::{has_own_processes, is_chroot, ways};
use crate::support::{Env, can_run, command_lines, unique_seconds};

const SECRET: &str = "a file of the host";

/// A directory beside the context that nobody was given, with a file in it.
fn outside(env: &Env) -> PathBuf {
    let path = env.path("outside");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("secret"), SECRET).unwrap();
    path
}

#[track_caller]
fn assert_untouched(outside: &Path) {
    let names: Vec<_> = fs::read_dir(outside)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), SECRET);
}

#[track_caller]
fn assert_not_in_image(env: &Env) {
    for (path, file) in &env.image().files {
        assert_ne!(file.content, SECRET.as_bytes(), "{path}");
    }
}

/// `RUN` of a script in every way; it must succeed.
fn step_succeeds(script: &str, skip: impl Fn(&[&str]) -> bool) {
    if !can_run() {
        return;
    }
    for way in ways().into_iter().filter(|way| !skip(way)) {
        let env = Env::new();
        env.dockerfile(&format!("FROM busybox\nRUN {script}\n"));
        let said = env.build(way);
        assert!(said.ok, "{way:?}:\n{}", said.stderr);
    }
}

#[test]
fn a_context_cannot_be_left_by_dots() {
    let env = Env::bare();
    outside(&env);
    env.write("a/file", "");
    for source in [
        "../outside/secret",
        "a/../../outside/secret",
        "/../outside/secret",
    ] {
        env.dockerfile(&format!("FROM scratch\nCOPY {source} /\n"));
        assert!(!env.build(&[]).ok, "{source}");
    }
}

#[test]
fn symlinks_of_the_context_do_not_lead_out() {
    let env = Env::bare();
    let outside = outside(&env);
    symlink(&outside, env.context().join("absolute")).unwrap();
    symlink("../outside", env.context().join("relative")).unwrap();
    symlink(outside.join("secret"), env.context().join("file")).unwrap();
    for source in [
        "absolute/secret",
        "relative/secret",
        "file",
        "absolute",
        "*",
    ] {
        env.dockerfile(&format!("FROM scratch\nCOPY {source} /d/\n"));
        if env.build(&[]).ok {
            assert_not_in_image(&env);
        }
    }
}

#[test]
fn a_racing_symlink_of_the_context_does_not_lead_out() {
    let env = Env::bare();
    let outside = outside(&env);
    env.write("d/secret", "harmless");
    env.dockerfile("FROM scratch\nCOPY d /d/\n");
    let (real, link) = (env.path("real"), env.path("link"));
    symlink(&outside, &link).unwrap();
    let target = env.context().join("d");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(&target, &real).unwrap();
                fs::rename(&link, &target).unwrap();
                fs::rename(&target, &link).unwrap();
                fs::rename(&real, &target).unwrap();
            }
        });
        let attempts = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..12 {
                if env.build(&["--no-cache"]).ok {
                    assert_not_in_image(&env);
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        attempts.unwrap();
    });
}

/// One member; its name and link target are taken as they are.
fn member(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    let content: &[u8] = if kind.is_file() { b"planted" } else { b"" };
    header.set_size(content.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

/// Every way out of a directory that an archive could try.
fn hostile_tars(outside: &Path) -> Vec<Vec<u8>> {
    use tar::EntryType as T;
    let out = outside.to_str().unwrap();
    let planted = format!("{out}/planted");
    let secret = format!("{out}/secret");
    let members: [&[(&str, T, &str)]; 6] = [
        &[("../../../../../../../../outside/planted", T::Regular, "")],
        &[(&planted, T::Regular, "")],
        &[("out", T::Symlink, out), ("out/planted", T::Regular, "")],
        &[
            ("out", T::Symlink, out),
            ("out/", T::Directory, ""),
            ("out/planted", T::Regular, ""),
        ],
        &[("link", T::Link, &secret)],
        &[("out", T::Symlink, out), ("link", T::Link, "out/secret")],
    ];
    members
        .iter()
        .map(|members| {
            let mut tar = tar::Builder::new(Vec::new());
            for (name, kind, link) in *members {
                member(&mut tar, name, *kind, link);
            }
            tar.into_inner().unwrap()
        })
        .collect()
}

#[test]
fn archives_stay_in_their_target() {
    let env = Env::bare();
    let outside = outside(&env);
    for tar in hostile_tars(&outside) {
        fs::write(env.context().join("evil.tar"), tar).unwrap();
        env.dockerfile("FROM scratch\nADD evil.tar /a/b/\n");
        if env.build(&["--no-cache"]).ok {
            assert_not_in_image(&env);
        }
        assert_untouched(&outside);
    }
}

/// Puts `tar` as a further layer on the base image; returns the new layout.
fn layout_with_layer(env: &Env, name: &str, tar: &[u8]) -> PathBuf {
    let base = PathBuf::from(fs::read_to_string(env.path("base-path")).unwrap());
    let layout = env.path(name);
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    for entry in fs::read_dir(base.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(
            &path,
            layout.join("blobs/sha256").join(path.file_name().unwrap()),
        )
        .unwrap();
    }
    fs::copy(base.join("oci-layout"), layout.join("oci-layout")).unwrap();
    let hex = |bytes: &[u8]| -> String {
        let digest = sha2::Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let put = |bytes: &[u8]| -> BTreeMap<&str, Value> {
        fs::write(layout.join("blobs/sha256").join(hex(bytes)), bytes).unwrap();
        let digest = format!("sha256:{}", hex(bytes));
        [("digest", json!(digest)), ("size", json!(bytes.len()))].into()
    };
    let read = |descriptor: &Value| -> Value {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = layout.join("blobs/sha256").join(&digest["sha256:".len()..]);
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let mut index: Value =
        serde_json::from_slice(&fs::read(base.join("index.json")).unwrap()).unwrap();
    let mut manifest = read(&index["manifests"][0]);
    let mut config = read(&manifest["config"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(tar).unwrap();
    let mut layer = json!(put(&gzip.finish().unwrap()));
    layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip");
    manifest["layers"].as_array_mut().unwrap().push(layer);
    let diff_id = json!(format!("sha256:{}", hex(tar)));
    config["rootfs"]["diff_ids"]
        .as_array_mut()
        .unwrap()
        .push(diff_id);
    for (field, value) in put(config.to_string().as_bytes()) {
        manifest["config"][field] = value;
    }
    for (field, value) in put(manifest.to_string().as_bytes()) {
        index["manifests"][0][field] = value;
    }
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    layout
}

#[test]
fn layers_of_a_base_stay_in_their_directory() {
    if !can_run() {
        return;
    }
    for way in ways() {
        let env = Env::new();
        let outside = outside(&env);
        for (number, tar) in hostile_tars(&outside).iter().enumerate() {
            let layout = layout_with_layer(&env, &format!("evil-{number}"), tar);
            env.dockerfile("FROM evil\nRUN ls -R / > /list; cat /link /a/link > /seen; true\n");
            let context = format!("evil=oci-layout://{}", layout.display());
            let flags = [way, &["--build-context", &context]].concat();
            if env.build(&flags).ok {
                assert_not_in_image(&env);
            }
            assert_untouched(&outside);
        }
    }
}

#[test]
fn symlinks_of_the_root_do_not_lead_copy_out() {
    if !can_run() {
        return;
    }
    for way in ways() {
        let env = Env::new();
        let outside = outside(&env);
        env.write("planted", "x");
        let out = outside.display();
        env.dockerfile(&format!(
            "FROM busybox\nRUN ln -s {out} /out && ln -s {out}/new /new && ln -s {out} /m\n\
             COPY planted /out/\nWORKDIR /new\nRUN touch here /out/by-step; true\n\
             RUN --mount=type=tmpfs,target=/m/mounted --mount=type=cache,target=/out/cache true\n"
        ));
        let said = env.build(way);
        assert!(said.ok, "{way:?}:\n{}", said.stderr);
        assert_untouched(&outside);
    }
}

#[test]
fn steps_find_nothing_of_the_host() {
    if !can_run() {
        return;
    }
    for way in ways() {
        let env = Env::new();
        let secret = outside(&env).join("secret").display().to_string();
        env.dockerfile(&format!(
            "FROM busybox\nRUN test ! -e {secret} && test ! -e /../../..{secret} && cd /.. && \
             cd ../.. && test ! -e .{secret} && ls -R / > /tmp/list; ! grep -rq '{SECRET}' /tmp\n"
        ));
        let said = env.build(way);
        assert!(said.ok, "{way:?}:\n{}", said.stderr);
    }
}

#[test]
fn proc_and_sys_cannot_be_written() {
    // The value written is the one that is there, the request the one for help.
    step_succeeds(
        "cat /proc/sys/kernel/core_pattern > /tmp/v && ! cat /tmp/v > /proc/sys/kernel/core_pattern \
         && ! echo h > /proc/sysrq-trigger && ! mkdir /sys/fs/cgroup/escape && \
         ! touch /sys/kernel/mm/x && test ! -s /proc/kcore",
        is_chroot,
    );
    // A chroot has none of these at all, or a real /proc where it may mount one.
    step_succeeds(
        "test ! -e /sys/fs && if test -e /proc/self; then \
         cat /proc/sys/kernel/core_pattern > /tmp/v && ! cat /tmp/v > /proc/sys/kernel/core_pattern \
         && ! echo h > /proc/sysrq-trigger && test ! -s /proc/kcore && test ! -e /proc/1; else \
         test ! -e /proc/sys/kernel/core_pattern && test ! -e /proc/sysrq-trigger; fi",
        |way| !is_chroot(way),
    );
}

#[test]
fn mounts_and_namespaces_are_refused() {
    step_succeeds(
        "! busybox mount -t tmpfs x /tmp && ! busybox mount -o bind / /tmp && \
         ! busybox unshare -m true && ! busybox unshare -U true && ! busybox umount /dev && \
         ! busybox pivot_root / /tmp",
        |_| false,
    );
    step_succeeds("! busybox chroot / /bin/true", |way| !is_chroot(way));
}

#[test]
fn the_disk_cannot_be_read() {
    let device = fs::metadata("/").unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    step_succeeds(
        &format!(
            "! {{ busybox mknod /disk b {major} {minor} && dd if=/disk of=/dev/null count=1; }}; \
             rm -f /disk"
        ),
        |_| false,
    );
}

#[test]
fn no_descriptor_is_left_open() {
    // Without /proc, which not every way has: a redirection from a closed one fails.
    step_succeeds(
        "n=3; while test $n -lt 40; do if (true <&$n) 2> /dev/null; then echo $n is open; exit 1; \
         fi; n=$((n + 1)); done",
        |_| false,
    );
    step_succeeds("test $(ls /proc/self/fd | wc -l) = 4", is_chroot);
}

#[test]
fn the_parent_cannot_be_signalled_or_traced() {
    // Never where these are processes of the machine, as in a chroot: the kill would be the end of
    // all of them. So it asks first whether it is process 1. What keeps them safe where a step sees
    // them is tried in crates/sandbox/tests/namespaces/processes.rs.
    step_succeeds(
        "test $$ = 1 && test $(ls /proc | grep -c '^[0-9]') -lt 6 && \
         test ! -e /proc/1/root/proc/2/root/nothing && { kill -9 -1; true; }",
        |way| !has_own_processes(way),
    );
}

#[test]
fn nothing_survives_a_step() {
    if !can_run() {
        return;
    }
    for way in ways() {
        let env = Env::new();
        let length = unique_seconds();
        env.dockerfile(&format!(
            "FROM busybox\nRUN (setsid sleep {length} &) ; setsid sh -c 'sleep {length} & wait' & \
             sleep 0.1\n"
        ));
        env.build(way).success();
        let lines = command_lines().into_iter();
        let survivors = lines.filter(|line| line.split('\0').any(|word| word == length));
        assert_eq!(survivors.collect::<Vec<_>>(), [""; 0], "{way:?}");
    }
}

#[test]
fn the_store_is_closed_to_others() {
    if !can_run() {
        return;
    }
    for way in ways() {
        let env = Env::new();
        env.dockerfile("FROM busybox\nRUN cp /bin/busybox /su && chmod 4755 /su\n");
        env.build(way).success();
        let mode = fs::metadata(env.path("store"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{way:?}: {mode:o}");
    }
}

#[test]
fn setuid_files_of_a_context_belong_to_the_root_of_the_image() {
    let env = Env::bare();
    env.write("su", "#!/bin/sh\n");
    let mode = fs::Permissions::from_mode(0o4755);
    fs::set_permissions(env.context().join("su"), mode).unwrap();
    env.dockerfile("FROM scratch\nCOPY su /su\n");
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.file("su").owner, (0, 0));
}
