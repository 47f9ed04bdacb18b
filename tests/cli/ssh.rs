//! `RUN --mount=type=ssh`.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::support::{Env, can_run, command_lines, eventually, unique_seconds};

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
        .says("--ssh ID=SOCKET|KEY");
}

#[test]
fn agents_on_the_command_line() {
    let env = Env::bare();
    env.write("f", "");
    env.dockerfile("FROM scratch\nCOPY f /f\n");
    agent(&env.path("agent"));
    let both = format!("id={0},{0}", env.path("agent").display());
    env.build(&["--ssh", &both])
        .failure(2)
        .says("an agent can only be given alone");
    env.build(&["--ssh", "id=/"])
        .failure(2)
        .says("neither the socket of an agent nor a file with a key");
    env.build(&["--ssh", "id=raw=/x"])
        .failure(2)
        .says("raw sockets are not implemented");
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

/// A key, if OpenSSH is here.
fn key(env: &Env, name: &str, passphrase: &str) -> Option<String> {
    let path = env.path(name);
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-C", name, "-N", passphrase, "-f"]);
    match keygen.arg(&path).status() {
        Ok(status) if status.success() => Some(path.display().to_string()),
        _ => {
            eprintln!("SKIPPED: no ssh-keygen");
            None
        }
    }
}

/// Processes and directories of agents for keys, of all builds of `env`.
fn key_agents(env: &Env) -> (usize, usize) {
    let marker = env.path("tmp").display().to_string();
    let lines = command_lines().into_iter();
    let agents = lines.filter(|line| line.contains("ssh-agent") && line.contains(&marker));
    let directories = fs::read_dir(env.path("tmp")).unwrap();
    (agents.count(), directories.count())
}

#[test]
fn r29_keys_in_files() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let (true, Some(one), Some(two)) = (
        copy_ssh_add(&env),
        key(&env, "key-one", ""),
        key(&env, "key-two", ""),
    ) else {
        return;
    };
    fs::create_dir(env.path("tmp")).unwrap();
    env.dockerfile(
        "FROM busybox\nCOPY root /\n\
         RUN --mount=type=ssh,required=true /usr/bin/ssh-add -l > /keys\n\
         RUN --mount=type=ssh,id=other /usr/bin/ssh-add -l > /others\n",
    );
    let (first, other) = (format!("default={one}"), format!("other={two},{one}"));
    let out = format!("type=oci,dest={},tar=false", env.path("out").display());
    let flags = ["--output", &out, "--ssh", &first, "--ssh", &other];
    let mut command = env.command(&flags);
    command.env("TMPDIR", env.path("tmp"));
    env.said(command.output().unwrap()).success();
    let (keys, others) = (env.image().text("keys"), env.image().text("others"));
    assert!(keys.contains("key-one") && !keys.contains("key-two"));
    assert!(others.contains("key-one") && others.contains("key-two"));
    assert!(eventually(|| key_agents(&env) == (0, 0)));

    // A killed build leaves no agent behind.
    let seconds = unique_seconds();
    env.dockerfile(&format!(
        "FROM busybox\nRUN --mount=type=ssh exec sleep {seconds}\n"
    ));
    let mut command = env.command(&flags);
    command.env("TMPDIR", env.path("tmp"));
    let mut build = command.spawn().unwrap();
    let line = format!("sleep\0{seconds}\0");
    let runs = eventually(|| command_lines().contains(&line));
    let agents = key_agents(&env).0;
    build.kill().unwrap();
    build.wait().unwrap();
    assert!(runs && agents > 0, "no agent for the step");
    assert!(eventually(|| key_agents(&env).0 == 0));
}

#[test]
fn r29_files_that_are_no_keys_or_have_passphrases() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let Some(locked) = key(&env, "key-locked", "a passphrase") else {
        return;
    };
    fs::write(env.path("text"), "a text\n").unwrap();
    fs::set_permissions(env.path("text"), fs::Permissions::from_mode(0o600)).unwrap();
    env.dockerfile("FROM busybox\nRUN --mount=type=ssh true\n");
    for path in [locked, env.path("text").display().to_string()] {
        env.build(&["--no-cache", "--ssh", &format!("default={path}")])
            .failure(1)
            .says(&format!("--ssh default: key {path}: "))
            .says("a key with a passphrase must be in an agent");
    }
}
