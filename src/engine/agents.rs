//! `--ssh`: agents of this machine, and our own for keys in files, which OpenSSH's `ssh-agent`
//! holds for as long as the build takes. No key is read here.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::leash;
use crate::failure::{Failure, FailureKind};
use crate::request::SshSource;

/// What `ssh-agent` needs to listen, and `ssh-add` for one key, at most.
const TIME_MAX: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
/// An address of a socket has at most 107 bytes.
const ADDRESS_MAX: usize = 107;

/// The agents given on the command line, by id.
#[derive(Debug)]
pub(super) struct Agents {
    given: BTreeMap<String, SshSource>,
    own: Mutex<BTreeMap<String, KeyAgent>>,
}

impl Agents {
    pub(super) fn new(given: BTreeMap<String, SshSource>) -> Self {
        Self {
            given,
            own: Mutex::default(),
        }
    }

    /// The socket of the agent with this id; one for keys is started when it is first needed.
    ///
    /// # Errors
    /// When it does not start, or does not take a key.
    pub(super) fn socket(&self, id: &str) -> Result<Option<PathBuf>, Failure> {
        let keys = match self.given.get(id) {
            None => return Ok(None),
            Some(SshSource::Agent(socket)) => return Ok(Some(socket.clone())),
            Some(SshSource::Keys(keys)) => keys,
        };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = own.get(id) {
            return Ok(Some(agent.socket()));
        }
        let agent = KeyAgent::start(id, keys)?;
        let socket = agent.socket();
        own.insert(id.to_owned(), agent);
        Ok(Some(socket))
    }
}

/// An `ssh-agent` that ends when this is dropped, or this process does.
#[derive(Debug)]
struct KeyAgent {
    directory: PathBuf,
    /// Its process, and the thread that waits for that.
    process: Option<(u32, JoinHandle<()>)>,
}

impl KeyAgent {
    fn start(id: &str, keys: &[PathBuf]) -> Result<Self, Failure> {
        let mut agent = Self {
            directory: directory().map_err(|e| failed(id, &e))?,
            process: None,
        };
        let program = find(id, "ssh-agent")?;
        let mut command = leash::command(&program);
        command.arg("-D").arg("-a").arg(agent.socket());
        agent.process = Some(spawn(command).map_err(|e| failed(id, &e))?);
        agent.wait_until_it_listens(id)?;
        let program = find(id, "ssh-add")?;
        for key in keys {
            agent.add(id, &program, key)?;
        }
        Ok(agent)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("agent")
    }

    fn wait_until_it_listens(&self, id: &str) -> Result<(), Failure> {
        let begin = Instant::now();
        loop {
            let Err(error) = UnixStream::connect(self.socket()) else {
                return Ok(());
            };
            let ended = self.process.as_ref().is_none_or(|(_, t)| t.is_finished());
            if ended || begin.elapsed() > TIME_MAX {
                let message = format!("ssh-agent does not start: {error}");
                return Err(failed(id, &io::Error::other(message)));
            }
            thread::sleep(PAUSE);
        }
    }

    fn add(&self, id: &str, program: &Path, key: &Path) -> Result<(), Failure> {
        let mut command = leash::command(program);
        command.arg("-q").arg(key).env_clear();
        command.env("SSH_AUTH_SOCK", self.socket());
        // Asks this program for a passphrase, and not the terminal (OpenSSH 8.4).
        command.env("SSH_ASKPASS", "/bin/false");
        command.env("SSH_ASKPASS_REQUIRE", "force");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::piped()).spawn();
        let (is_added, said) = child.and_then(finish).map_err(|e| failed(id, &e))?;
        if is_added {
            return Ok(());
        }
        let said = said.trim();
        let said = if said.is_empty() {
            "it has a passphrase, or is no key"
        } else {
            said
        };
        let message = format!("--ssh {id}: key {}: {said}", key.display());
        let hint = "a key with a passphrase must be in an agent: give its socket";
        Err(Failure::new(FailureKind::Build, message).hint(hint))
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        if let Some((process, thread)) = self.process.take() {
            leash::stop(process);
            // A panic in it has been reported.
            let _ = thread.join();
        }
        // It is empty but for the socket, and nobody's but ours.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn failed(id: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Environment, format!("--ssh {id}: {error}"))
}

/// A fresh directory that is ours alone, with a path short enough for a socket.
fn directory() -> io::Result<PathBuf> {
    let name = |number: u32| format!("layercake-agent-{}-{number}", std::process::id());
    let mut parent = std::env::temp_dir();
    if parent.join(name(u32::MAX)).as_os_str().len() + "/agent".len() > ADDRESS_MAX {
        parent = "/tmp".into();
    }
    for number in 0.. {
        let path = parent.join(name(number));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| path),
        }
    }
    unreachable!("the loop ends only by returning")
}

fn find(id: &str, program: &str) -> Result<PathBuf, Failure> {
    leash::find(program).ok_or_else(|| {
        let message = format!("--ssh {id}: keys in files need {program}, which is not in PATH");
        let hint = "install OpenSSH's client (Debian: openssh-client), or give the socket of an \
                    agent";
        Failure::new(FailureKind::Environment, message).hint(hint)
    })
}

/// Starts `command` from a thread that stays until it has ended, as [`leash`] wants it.
fn spawn(mut command: Command) -> io::Result<(u32, JoinHandle<()>)> {
    let (sender, receiver) = channel();
    command.env_clear().stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let thread = thread::spawn(move || {
        let started = command.spawn();
        let told = started.as_ref().map(Child::id);
        // Who asked waits for it.
        let _ = sender.send(told.map_err(|e| io::Error::from(e.kind())));
        if let Ok(mut child) = started {
            let _ = child.wait();
        }
    });
    let process = receiver.recv().map_err(io::Error::other)??;
    Ok((process, thread))
}

/// Waits for a short program: whether it succeeded, and what it said.
fn finish(mut child: Child) -> io::Result<(bool, String)> {
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > TIME_MAX {
            leash::stop(child.id());
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(PAUSE);
    };
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(4096).read_to_end(&mut said)?;
    }
    Ok((
        status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}
