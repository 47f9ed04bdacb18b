//! `ADD` of files over HTTP.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::server::{Answer, Request, Server};
use crate::support::{Env, can_run, command_lines, eventually};

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const SECONDS: u64 = 784_111_777;

fn sha256(bytes: &[u8]) -> String {
    store::Digest::of(bytes).to_string()
}

/// Serves one text with an ETag made of it; the test may change the text.
fn changing(text: &str) -> (Server, Arc<Mutex<String>>) {
    let text = Arc::new(Mutex::new(text.to_owned()));
    let served = text.clone();
    let server = Server::start(move |request| {
        let text = served.lock().unwrap().clone();
        let tag = format!("\"{}\"", text.len());
        if request.header("if-none-match") == Some(&tag) {
            return Answer::new(304, "").header("ETag", &tag);
        }
        Answer::new(200, text).header("ETag", &tag)
    });
    (server, text)
}

#[test]
fn d12_d13_mode_owner_name_and_time() {
    let server = Server::start(|request| {
        let answer = Answer::new(200, request.path.clone());
        match request.path.as_str() {
            "/dated" => answer.header("Last-Modified", DATE),
            _ => answer,
        }
    });
    let env = Env::bare();
    let (dated, plain) = (server.url("/dated?token=x"), server.url("/a/plain%20name"));
    env.dockerfile(&format!(
        "FROM scratch\nADD {dated} {plain} /d/\nADD {} /n/\nADD {dated} /renamed\n\
         ADD --chmod=755 --chown=1:2 {dated} /changed\n",
        server.url("")
    ));
    env.build(&[]).success();
    let image = env.image();
    let file = image.file("d/dated");
    assert_eq!(
        (file.mode, file.owner, file.mtime),
        (0o600, (0, 0), SECONDS)
    );
    assert_eq!(file.content, b"/dated");
    let file = image.file("d/plain name");
    assert_eq!((file.mode, file.mtime), (0o600, 0));
    assert!(image.has("n/__unnamed__"));
    assert_eq!(image.file("renamed").mtime, SECONDS);
    let file = image.file("changed");
    assert_eq!((file.mode, file.owner), (0o755, (1, 2)));
}

#[test]
fn d14_the_server_is_asked_and_only_a_change_is_transferred() {
    let (server, text) = changing("one");
    let env = Env::bare();
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    let first = env.build(&[]).success();
    let first = first.says(&format!("{}, 3 bytes", sha256(b"one")));
    assert_eq!(server.requests().len(), 1);
    let second = env.build(&[]).success();
    assert_eq!((second.executed(), second.digest()), (0, first.digest()));
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("if-none-match"), Some("\"3\""));
    *text.lock().unwrap() = "other".to_owned();
    assert_eq!(env.build(&[]).success().executed(), 2);
    assert_eq!(env.image().text("f"), "other");
}

#[test]
fn d14_the_content_is_the_key() {
    let server = Server::start(|_| Answer::new(200, "same"));
    let env = Env::bare();
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    let first = env.build(&[]).success();
    // Transferred again, as the server cannot tell, and then not copied again.
    let second = env.build(&[]).success();
    assert_eq!((second.executed(), second.digest()), (1, first.digest()));
    assert_eq!(server.requests().len(), 2);
    // Not even from elsewhere.
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/dir/f")));
    assert_eq!(env.build(&[]).success().executed(), 1);
}

#[test]
fn d14_steps_on_top_of_an_unchanged_download_do_not_run() {
    if !can_run() {
        return;
    }
    let (server, text) = changing("one");
    let env = Env::new();
    env.dockerfile(&format!(
        "FROM busybox\nADD {} /f\nRUN cat /f > /g\n",
        server.url("/f")
    ));
    env.build(&[]).success();
    server.requests();
    assert_eq!(env.build(&[]).success().executed(), 0);
    assert_eq!(server.requests().len(), 1);
    *text.lock().unwrap() = "another".to_owned();
    assert_eq!(env.build(&[]).success().executed(), 3);
    assert_eq!(env.image().text("g"), "another");
}

#[test]
fn no_cache_transfers_again() {
    let (server, _) = changing("one");
    let env = Env::bare();
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    env.build(&[]).success();
    server.requests();
    assert_eq!(env.build(&["--no-cache"]).success().executed(), 2);
    assert_eq!(server.requests()[0].header("if-none-match"), None);
}

#[test]
fn d15_what_a_checksum_names_is_fetched_once() {
    let (server, _) = changing("one");
    let env = Env::bare();
    let add = |sum: &str| {
        format!(
            "FROM scratch\nADD --checksum={sum} {} /f\n",
            server.url("/f")
        )
    };
    env.dockerfile(&add(&sha256(b"one")));
    env.build(&[]).success();
    assert_eq!(server.requests().len(), 1);
    assert_eq!(env.build(&[]).success().executed(), 0);
    assert_eq!(server.requests().len(), 0);
    env.dockerfile(&add(&sha256(b"two")));
    let said = env.build(&[]).failure(1);
    said.says("digest mismatch for http://")
        .says(&sha256(b"two"));
}

#[test]
fn d16_a_refusal_fails_the_build() {
    let server = Server::start(|_| Answer::new(404, "no such thing"));
    let env = Env::bare();
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    let said = env.build(&[]).failure(1);
    said.says("invalid response status 404").says("/f");
    assert_eq!(server.requests().len(), 1, "it is not asked again");
    assert!(!env.path("out").exists());
}

#[test]
fn d16_a_file_that_is_gone_fails_a_build_that_had_it() {
    let gone = Arc::new(AtomicUsize::new(200));
    let status = gone.clone();
    let server = Server::start(move |_| {
        let status = u16::try_from(status.load(Ordering::SeqCst)).unwrap();
        Answer::new(status, "x").header("ETag", "\"x\"")
    });
    let env = Env::bare();
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    env.build(&[]).success();
    gone.store(410, Ordering::SeqCst);
    env.build(&[])
        .failure(1)
        .says("invalid response status 410");
}

/// Wants a credential, but only at its first address; elsewhere it tells what it got.
fn guarded() -> Server {
    Server::start(|request: &Request| {
        let given = request
            .header("authorization")
            .unwrap_or("nothing")
            .to_owned();
        match request.path.as_str() {
            "/moved" if given == "nothing" => Answer::new(401, ""),
            "/moved" => {
                let port = request.header("host").unwrap().rsplit(':').next().unwrap();
                let to = format!("http://localhost:{port}/elsewhere");
                Answer::new(302, "").header("Location", &to)
            }
            _ => Answer::new(200, given),
        }
    })
}

#[test]
fn d17_secrets_authenticate() {
    let server = guarded();
    let env = Env::bare();
    std::fs::write(env.path("token"), "t0k3n-of-the-test\n").unwrap();
    let secret = |name: &str| format!("id={name},src={}", env.path("token").display());
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    let token = secret("HTTP_AUTH_TOKEN_127.0.0.1");
    let allow = ["--secret", &token];
    let said = env.build(&allow);
    // What the server echoes is the secret itself, which may be refused for that.
    if said.ok {
        assert_eq!(env.image().text("f"), "Bearer t0k3n-of-the-test");
    }
    let requests = server.requests();
    assert_eq!(
        requests[0].header("authorization"),
        Some("Bearer t0k3n-of-the-test")
    );
    let header = secret("HTTP_AUTH_HEADER_127.0.0.1");
    env.build(&["--secret", &header]);
    let requests = server.requests();
    assert_eq!(
        requests[0].header("authorization"),
        Some("t0k3n-of-the-test")
    );
    env.build(&["--secret", &secret("HTTP_AUTH_TOKEN_localhost")])
        .success();
    assert_eq!(server.requests()[0].header("authorization"), None);
}

#[test]
fn d17_credentials_do_not_follow_a_redirect_to_another_host() {
    let server = guarded();
    let env = Env::bare();
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/moved")));
    let said = env.build(&[]).failure(1);
    said.says("invalid response status 401")
        .says("HTTP_AUTH_TOKEN_127.0.0.1");
    std::fs::write(env.path("token"), "t0k3n-of-the-test").unwrap();
    let token = format!(
        "id=HTTP_AUTH_TOKEN_127.0.0.1,src={}",
        env.path("token").display()
    );
    env.build(&["--secret", &token]).success();
    assert_eq!(env.image().text("f"), "nothing");
}

#[test]
fn d17_user_and_password_of_a_url_are_used_and_not_said() {
    let server = Server::start(|request| match request.header("authorization") {
        Some("Basic bWU6czNjcjN0") => Answer::new(200, "in"),
        _ => Answer::new(403, "out"),
    });
    let env = Env::bare();
    let url = |user: &str| format!("http://{user}@127.0.0.1:{}/f", server.port());
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", url("me:s3cr3t")));
    let said = env.build(&[]).success();
    assert_eq!(env.image().text("f"), "in");
    said.does_not_say("s3cr3t");
    let history = env.image().config["history"].to_string();
    assert!(!history.contains("s3cr3t"), "{history}");
}

#[test]
fn a_transfer_that_breaks_off_is_continued() {
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = sha256(&body);
    let server = Server::start(move |request| {
        let whole = Answer::new(200, body.clone()).header("ETag", "\"v1\"");
        let range = request
            .header("range")
            .and_then(|r| r.strip_prefix("bytes="));
        let Some(from) = range.map(|r| r.trim_end_matches('-').parse::<usize>().unwrap()) else {
            return Answer {
                cut: Some(5_000_000),
                ..whole
            };
        };
        if request.header("if-range") != Some("\"v1\"") {
            return whole;
        }
        let end = body.len() - 1;
        Answer::new(206, &body[from..]).header(
            "Content-Range",
            &format!("bytes {from}-{end}/{}", body.len()),
        )
    });
    let env = Env::bare();
    let url = server.url("/f");
    env.dockerfile(&format!("FROM scratch\nADD --checksum={digest} {url} /f\n"));
    env.build(&[]).success();
    assert_eq!(server.requests().len(), 2);
    assert_eq!(env.image().file("f").content.len(), 12_000_000);
}

#[test]
fn a_transfer_that_always_breaks_off_fails() {
    let server = Server::start(|_| Answer {
        cut: Some(3),
        ..Answer::new(200, "a whole sentence")
    });
    let env = Env::bare();
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    env.build(&[]).failure(1).says("cannot be downloaded");
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn a_slow_or_briefly_busy_server_is_waited_for() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new(503, ""),
        1 => Answer::new(429, "").header("Retry-After", "1"),
        _ => Answer {
            drip: Some(2),
            ..Answer::new(200, "a whole sentence")
        },
    });
    let env = Env::bare();
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    env.build(&[]).success();
    assert_eq!(env.image().text("f"), "a whole sentence");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nADD http://127.0.0.1:1/f /f\n");
    env.build(&[])
        .failure(1)
        .says("http://127.0.0.1:1/f: cannot be downloaded");
}

#[test]
fn d10_archives_are_unpacked_when_told() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "in/f", &b"hi"[..])
        .unwrap();
    let archive = archive.into_inner().unwrap();
    let server = Server::start(move |_| Answer::new(200, archive.clone()));
    let env = Env::bare();
    let url = server.url("/a.tar");
    env.dockerfile(&format!(
        "FROM scratch\nADD {url} /as-is/\nADD --unpack=true {url} /unpacked/\n"
    ));
    env.build(&[]).success();
    let image = env.image();
    assert!(image.has("as-is/a.tar"));
    assert_eq!(image.text("unpacked/in/f"), "hi");
}

/// A server that takes connections and says nothing; the receiver gets a message for each.
fn silent() -> (u16, std::sync::mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            open.push(stream);
            sender.send(()).ok();
        }
    });
    (port, receiver)
}

#[test]
fn an_interrupt_ends_what_a_silent_server_holds_up() {
    for file in ["f", "r.git"] {
        let (port, connected) = silent();
        let env = Env::bare();
        env.dockerfile(&format!(
            "FROM scratch\nADD http://127.0.0.1:{port}/{file} /f\n"
        ));
        let mut command = env.command(&[]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let build = command.spawn().unwrap();
        connected.recv().unwrap();
        let pid = rustix::process::Pid::from_child(&build);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        env.said(build.wait_with_output().unwrap()).failure(130);
        assert!(nobody_asks(port), "{file}");
    }
}

#[test]
fn kill_9_leaves_no_git() {
    let (port, connected) = silent();
    let env = Env::bare();
    env.dockerfile(&format!(
        "FROM scratch\nADD http://127.0.0.1:{port}/r.git /f\n"
    ));
    let mut command = env.command(&[]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut build = command.spawn().unwrap();
    connected.recv().unwrap();
    build.kill().unwrap();
    build.wait().unwrap();
    assert!(nobody_asks(port));
}

/// Whether soon there is no process with that address of this machine on its command line.
fn nobody_asks(port: u16) -> bool {
    let marker = format!("127.0.0.1:{port}");
    let asks = |line: &String| line.contains(&marker);
    eventually(|| !command_lines().iter().any(asks))
}
