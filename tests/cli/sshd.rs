//! `ADD` of a git repository over ssh from a real OpenSSH server on loopback.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::User;

use crate::support::{Env, at_home, eventually};

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
    let mut command = at_home(Command::new(program));
    command.args(args).current_dir(directory);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn start(program: &str, args: &[&str]) -> Running {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let child = command.stdout(Stdio::null()).stderr(Stdio::null());
    Running(child.spawn().unwrap())
}

/// A server for the user who runs the test, with its own keys; returns its port. It lives as long
/// as the test process, which listens itself: a port that is given to sshd must be free, and may be
/// somebody else's by the time that sshd wants it.
fn serve(directory: &Path) -> u16 {
    for name in ["host", "user"] {
        run(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-f", name],
            directory,
        );
    }
    fs::copy(directory.join("user.pub"), directory.join("authorized")).unwrap();
    let config = directory.join("config");
    let shown = directory.display();
    let text = format!(
        "HostKey {shown}/host\nPidFile none\nAuthorizedKeysFile {shown}/authorized\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin yes\n"
    );
    fs::write(&config, text).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut server = serve_one(&config, stream);
            std::thread::spawn(move || server.wait());
        }
    });
    port
}

/// A server for one connection.
fn serve_one(config: &Path, stream: TcpStream) -> Child {
    let input = OwnedFd::from(stream.try_clone().unwrap());
    let mut command = Command::new(SSHD);
    command.arg("-i").arg("-f").arg(config);
    command.stdin(input).stdout(OwnedFd::from(stream));
    command.stderr(Stdio::null()).spawn().unwrap()
}

fn serve_keys(directory: &Path) -> (Running, PathBuf) {
    let socket = directory.join("agent");
    let agent = start("ssh-agent", &["-D", "-a", socket.to_str().unwrap()]);
    let mut add = Command::new("ssh-add");
    add.arg(directory.join("user"))
        .env("SSH_AUTH_SOCK", &socket);
    // Asked until it answers: the socket has its name before the agent listens on it.
    let answers = eventually(|| add.output().unwrap().status.success());
    assert!(answers, "ssh-agent did not come up");
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
    let Some(user) = user() else {
        return Some("this user has no name");
    };
    if !user.shell.to_string_lossy().ends_with("sh") {
        return Some("this user may not log in");
    }
    // Only root can read it, and only the server of root does.
    let locked = format!("{}:!", user.name);
    let shadow = fs::read_to_string("/etc/shadow").unwrap_or_default();
    if shadow.lines().any(|line| line.starts_with(&locked)) {
        return Some("the password of this user is locked");
    }
    None
}

fn user() -> Option<User> {
    User::from_uid(nix::unistd::geteuid()).ok().flatten()
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
    let port = serve(&directory);
    let (_agent, socket) = serve_keys(&directory);
    let user = user().unwrap();
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
    // The same with the key itself.
    let flag = format!("default={}", directory.join("user").display());
    build(&["--no-cache", "--ssh", &flag]).success();
    // Without the key the server lets nobody in.
    build(&[]).failure(1).says("ermission denied");
}
