//! `ADD` of a git repository over ssh from a real OpenSSH server on loopback.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::Env;

const SSHD: &str = "/usr/sbin/sshd";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &str, args: &[&str], directory: &Path) {
    let mut command = Command::new(program);
    command.args(args).current_dir(directory);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn start(program: &str, args: &[&str]) -> Running {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let child = command.stdout(Stdio::null()).stderr(Stdio::null());
    Running(child.spawn().unwrap())
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    for _ in 0..100 {
        if ready() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what} did not come up");
}

/// A server for the user who runs the test, with its own keys.
fn serve(directory: &Path) -> (Running, u16) {
    for name in ["host", "user"] {
        run(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-f", name],
            directory,
        );
    }
    fs::copy(directory.join("user.pub"), directory.join("authorized")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = directory.join("config");
    let shown = directory.display();
    let text = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {shown}/host\nPidFile none\n\
         AuthorizedKeysFile {shown}/authorized\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin yes\n"
    );
    fs::write(&config, text).unwrap();
    let server = start(SSHD, &["-D", "-f", config.to_str().unwrap()]);
    wait_for("sshd", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    (server, port)
}

fn serve_keys(directory: &Path) -> (Running, PathBuf) {
    let socket = directory.join("agent");
    let agent = start("ssh-agent", &["-D", "-a", socket.to_str().unwrap()]);
    let mut add = Command::new("ssh-add");
    add.arg(directory.join("user"))
        .env("SSH_AUTH_SOCK", &socket);
    // Asked until it answers: the socket has its name before the agent listens on it.
    wait_for("ssh-agent", || add.output().unwrap().status.success());
    (agent, socket)
}

fn missing() -> Option<&'static str> {
    let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
    if !Path::new(SSHD).exists() || !has("ssh") || !has("ssh-agent") {
        return Some("no OpenSSH server and client (Debian: openssh-server)");
    }
    // The server wants this directory when it starts as root.
    if nix::unistd::geteuid().is_root() && fs::create_dir_all("/run/sshd").is_err() {
        return Some("/run/sshd cannot be made");
    }
    None
}

#[test]
fn d19_a_repository_behind_a_real_ssh_server() {
    if let Some(reason) = missing() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let env = Env::bare();
    let directory = env.path("ssh");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    let repository = env.path("work");
    fs::create_dir(&repository).unwrap();
    fs::write(repository.join("f"), "over ssh\n").unwrap();
    run("git", &["init", "-q", "-b", "main"], &repository);
    run("git", &["add", "f"], &repository);
    let author = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"];
    run(
        "git",
        &[&author[..], &["commit", "-q", "-m", "one"]].concat(),
        &repository,
    );
    run(
        "git",
        &["clone", "-q", "--bare", "work", "r.git"],
        &env.path(""),
    );
    let (_server, port) = serve(&directory);
    let (_agent, socket) = serve_keys(&directory);
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .unwrap();
    let url = format!(
        "ssh://{}@127.0.0.1:{port}{}",
        user.name,
        env.path("r.git").display()
    );
    env.dockerfile(&format!("FROM scratch\nADD {url} /r/\n"));
    let build = |flags: &[&str]| {
        let out = format!("type=oci,dest={},tar=false", env.path("out").display());
        let mut command = env.command(&[&["--output", out.as_str()], flags].concat());
        command
            .env("HOME", env.path("home"))
            .env_remove("SSH_AUTH_SOCK");
        env.said(command.stdin(Stdio::null()).output().unwrap())
    };
    let flag = format!("default={}", socket.display());
    build(&["--ssh", &flag]).success();
    assert_eq!(env.image().text("r/f"), "over ssh\n");
    assert_eq!(build(&["--ssh", &flag]).success().executed(), 0);
    // Without the agent's key the server lets nobody in.
    build(&[]).failure(1).says("ermission denied");
}
