//! Contexts and Dockerfiles on HTTP servers.

use std::process::Stdio;

use crate::server::{Answer, Server};
use crate::support::{Env, Said, can_run, layercake};

/// A member: name, mode, content; names that end in `/` are directories, `->` makes a symlink.
fn archive(members: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(7);
        header.set_gid(8);
        if let Some((name, target)) = name.split_once("->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, target).unwrap();
            continue;
        }
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Serves files by path with an ETag; whoever has one is told so.
fn serve(files: Vec<(&'static str, Vec<u8>)>) -> Server {
    Server::start(move |request| {
        let found = files.iter().find(|(path, _)| *path == request.path);
        match (found, request.header("if-none-match")) {
            (None, _) => Answer::new(404, "nothing here"),
            (Some(_), Some("\"one\"")) => Answer::new(304, "").header("ETag", "\"one\""),
            (Some((_, body)), _) => Answer::new(200, body.clone()).header("ETag", "\"one\""),
        }
    })
}

fn build_at(env: &Env, context: &str, flags: &[&str]) -> Said {
    let mut command = layercake();
    let out = format!("type=oci,dest={},tar=false", env.path("out").display());
    command.args(["build", "--output", &out]);
    command.args(flags).arg(context);
    command
        .env("LAYERCAKE_ROOT", env.path("store"))
        .current_dir(env.path(""));
    env.said(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn g10_an_archive_as_context() {
    let tar = archive(&[
        ("Dockerfile", 0o644, "FROM scratch\nCOPY . /all/\n"),
        ("other/file", 0o600, "FROM scratch\nCOPY closed/f /f\n"),
        (".dockerignore", 0o644, "closed\n"),
        ("closed/", 0o500, ""),
        ("closed/f", 0o200, "x"),
        ("link->closed/f", 0o777, ""),
    ]);
    let server = serve(vec![("/c.tar.gz", gzip(&tar)), ("/plain", tar)]);
    for path in ["/c.tar.gz", "/plain"] {
        let env = Env::bare();
        let url = server.url(path);
        let first = build_at(&env, &url, &[]).success();
        let image = env.image();
        // Rule I10: the ignore file of such a context is a file like any other.
        assert_eq!(image.text("all/closed/f"), "x");
        assert_eq!(image.file("all/closed/f").owner, (0, 0));
        assert_eq!(image.file("all/link").link.as_deref(), Some("closed/f"));
        server.requests();
        let again = build_at(&env, &url, &[]).success();
        assert_eq!((again.executed(), again.digest()), (0, first.digest()));
        let asked = server.requests();
        assert!(asked.iter().all(|r| r.header("if-none-match").is_some()));
        build_at(&env, &url, &["-f", "other/file"]).success();
        assert_eq!(env.image().text("f"), "x");
        build_at(&env, &url, &["-f", "../file"])
            .failure(2)
            .says("leads out of the context");
        build_at(&env, &url, &["--check"])
            .failure(2)
            .says("not implemented");
    }
}

#[test]
fn g10_what_is_no_archive_is_a_dockerfile() {
    let text = "FROM scratch\nCOPY <<EOF /f\nhello\nEOF\n";
    let server = serve(vec![("/Dockerfile", text.into())]);
    let env = Env::bare();
    build_at(&env, &server.url("/Dockerfile"), &[]).success();
    assert_eq!(env.image().text("f"), "hello\n");
    build_at(&env, &server.url("/gone"), &[])
        .failure(1)
        .says("invalid response status 404");
}

#[test]
fn a_context_may_be_used_by_steps_that_run() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let base = std::fs::read_to_string(env.path("base-path")).unwrap();
    let text = "FROM busybox\nRUN --mount=target=/m cat /m/f > /copy\n";
    let tar = archive(&[("Dockerfile", 0o644, text), ("f", 0o644, "x")]);
    let server = serve(vec![("/c.tar", tar), ("/d", text.into())]);
    let flag = format!("busybox=oci-layout://{base}");
    build_at(&env, &server.url("/c.tar"), &["--build-context", &flag]).success();
    assert_eq!(env.image().text("copy"), "x");
    env.write("f", "local");
    env.build(&["-f", &server.url("/d")]).success();
    assert_eq!(env.image().text("copy"), "local");
}

#[test]
fn a_dockerfile_at_a_url() {
    let server = serve(vec![("/d", b"FROM scratch\nCOPY f /f\n".to_vec())]);
    let env = Env::bare();
    env.write("f", "local");
    env.write(".dockerignore", "g\n");
    env.build(&["-f", &server.url("/d")]).success();
    assert_eq!(env.image().text("f"), "local");
    env.build(&["-f", &server.url("/gone")])
        .failure(1)
        .says("invalid response status 404");
    env.build(&["--check", "-f", &server.url("/d")])
        .failure(2)
        .says("only read by a build");
}

#[test]
fn g05_a_named_context_is_the_file() {
    let tar = archive(&[("f", 0o644, "x")]);
    let server = serve(vec![("/x.tar", tar.clone())]);
    let env = Env::bare();
    env.dockerfile("FROM scratch\nCOPY --from=code . /c/\nADD a /a\n");
    env.write("a", "a");
    let flag = format!("code={}", server.url("/x.tar"));
    env.build(&["--build-context", &flag]).success();
    let image = env.image();
    assert_eq!(image.file("c/context").content, tar);
    assert_eq!(image.file("c/context").mode, 0o600);
    server.requests();
    env.dockerfile("FROM scratch\nADD a /b\n");
    env.build(&["--build-context", &flag]).success();
    assert!(server.requests().is_empty());
}

#[test]
fn a_dockerfile_that_leads_out_of_an_archive_is_refused() {
    let server = serve(vec![(
        "/c.tar",
        archive(&[("Dockerfile->/etc/passwd", 0o777, "")]),
    )]);
    let env = Env::bare();
    build_at(&env, &server.url("/c.tar"), &[])
        .failure(2)
        .says("symlink out of the context");
}
