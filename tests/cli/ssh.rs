//! `RUN --mount=type=ssh`.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::support::{Env, can_run};

/// An agent with one key, whose comment is `key-of-the-test`.
fn agent(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Who goes away is none of the agent's business.
            thread::spawn(move || drop(answer(stream.unwrap())));
        }
    });
}

/// The agent protocol (draft-ietf-sshm-ssh-agent): a length, a type, a body.
fn answer(mut stream: UnixStream) -> io::Result<()> {
    fn string(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length, bytes].concat()
    }
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request)?;
        let reply = match request[0] {
            // Request identities: a list of one.
            11 => {
                let key = [string(b"ssh-ed25519"), string(&[7; 32])].concat();
                [
                    vec![12, 0, 0, 0, 1],
                    string(&key),
                    string(b"key-of-the-test"),
                ]
                .concat()
            }
            _ => vec![5],
        };
        stream.write_all(&string(&reply))?;
    }
}

/// Puts `ssh-add` and its libraries into the context; `false` if there is none.
fn copy_ssh_add(env: &Env) -> bool {
    let path = Path::new("/usr/bin/ssh-add");
    if !path.exists() {
        eprintln!("SKIPPED: no ssh-add");
        return false;
    }
    let listed = Command::new("ldd").arg(path).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/usr/bin/ssh-add"]) {
        let target = env.context().join("root").join(&file[1..]);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, &target).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Whatever the umask is, other users of the step pass.
    let mut chmod = Command::new("chmod");
    chmod.args(["-R", "a+rX"]).arg(env.context().join("root"));
    assert!(chmod.status().unwrap().success());
    true
}

#[test]
fn r29_the_agent_answers_in_the_step() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    if !copy_ssh_add(&env) {
        return;
    }
    agent(&env.path("agent"));
    env.dockerfile(
        "FROM busybox\nCOPY root /\n\
         RUN --mount=type=ssh,required=true /usr/bin/ssh-add -l > /keys; echo $SSH_AUTH_SOCK > /where\n\
         USER 1000:1001\n\
         RUN --mount=type=ssh,target=/tmp/a,uid=1000,gid=1001,mode=0640 \
         /usr/bin/ssh-add -l > /tmp/keys; stat -c '%F %a %u %g' /tmp/a >> /tmp/keys\n\
         RUN ! test -e /run/buildkit && ! test -e /tmp/a && test -z \"$SSH_AUTH_SOCK\"\n",
    );
    let flag = format!("default={}", env.path("agent").display());
    let said = env.build(&["--ssh", &flag]).success();
    let image = env.image();
    assert!(
        image.text("keys").contains("key-of-the-test"),
        "{}",
        said.stderr
    );
    assert_eq!(image.text("where"), "/run/buildkit/ssh_agent.0\n");
    let second = image.text("tmp/keys");
    assert!(second.contains("key-of-the-test"), "{second}");
    assert!(second.ends_with("socket 640 1000 1001\n"), "{second}");
    // The agent is in no key.
    assert_eq!(env.build(&[]).success().executed(), 0);
}

#[test]
fn r29_required_agents_must_be_given() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN --mount=type=ssh test ! -e /run/buildkit/ssh_agent.0\n");
    env.build(&[]).success();
    env.dockerfile("FROM busybox\nRUN --mount=type=ssh,id=other,required=true true\n");
    agent(&env.path("agent"));
    let flag = format!("default={}", env.path("agent").display());
    env.build(&["--ssh", &flag])
        .failure(1)
        .says("ssh agent other: not given")
        .says("--ssh ID=SOCKET");
}

#[test]
fn agents_on_the_command_line() {
    let env = Env::bare();
    env.write("f", "");
    env.dockerfile("FROM scratch\nCOPY f /f\n");
    fs::write(env.path("key"), "a key").unwrap();
    let key = format!("id={}", env.path("key").display());
    env.build(&["--ssh", &key])
        .failure(2)
        .says("keys in files are not implemented")
        .says("start ssh-agent");
    env.build(&["--ssh", "id=/no/where"])
        .failure(2)
        .says("/no/where");
    env.build(&["--ssh", "=x"])
        .failure(2)
        .says("not of the form");
    let mut command = env.command(&["--ssh", "default"]);
    command.env_remove("SSH_AUTH_SOCK");
    env.said(command.output().unwrap())
        .failure(2)
        .says("SSH_AUTH_SOCK is not set");
}
