//! The program git, with nothing of this machine's or user's configuration: what it does depends
//! on its arguments alone, and it runs no programs that a repository names.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use graph::Cancel;

use crate::engine::leash;

/// Bytes of git's answers: enough for the refs of a repository with a million of them.
const OUTPUT_MAX: u64 = 256 << 20;
const MESSAGES_MAX: u64 = 1 << 20;
/// A repository that takes longer is fetched by no one.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// Protocols of repositories and their submodules.
pub(super) const REMOTE: &str = "http:https:git:ssh";
/// Of what git does between directories of the store.
pub(super) const LOCAL: &str = "file";

#[derive(Debug, thiserror::Error)]
pub(super) enum GitError {
    #[error("the program git is not in PATH")]
    Missing,
    #[error("start git")]
    Start(#[source] io::Error),
    /// `message`: the end of what git wrote on standard error.
    #[error("git {command}: {message}")]
    Failed { command: String, message: String },
    #[error("git {command} took more than {} seconds", TIME_MAX.as_secs())]
    TimedOut { command: String },
    #[error("git {command} wrote more than {OUTPUT_MAX} bytes")]
    TooMuch { command: String },
    #[error("canceled")]
    Cancelled,
}

/// Settings for all commands, as `-c` would make them.
const CONFIG: [(&str, &str); 15] = [
    // No programs: hooks, monitors, filters, askers for passwords.
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("credential.helper", ""),
    // Nothing in the background.
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    // Nothing that depends on the time or the machine.
    ("core.logAllRefUpdates", "false"),
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("pack.threads", "1"),
    ("init.defaultBranch", "main"),
    // The store belongs to whoever builds, whatever his number is in here.
    ("safe.directory", "*"),
    // Bytes per second, seconds.
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("fetch.recurseSubmodules", "false"),
];

/// How git is to be called.
#[derive(Debug, Clone)]
pub(super) struct Git {
    /// Further settings; they are not on the command line, where other users would see them.
    pub(super) config: Vec<(String, String)>,
    pub(super) agent: Option<PathBuf>,
    /// Keys of ssh hosts seen for the first time are remembered here.
    pub(super) known_hosts: PathBuf,
    pub(super) cancel: Cancel,
}

/// One call.
#[derive(Debug, Clone, Default)]
pub(super) struct Call<'a> {
    pub(super) git_dir: Option<&'a Path>,
    pub(super) work_tree: Option<&'a Path>,
    pub(super) index: Option<&'a Path>,
    /// [`REMOTE`] or [`LOCAL`]; none: the call transfers nothing.
    pub(super) protocols: &'a str,
}

impl Git {
    /// Runs `git <args>` and returns what it wrote on standard output.
    ///
    /// # Errors
    /// [`GitError`].
    pub(super) fn run<S: AsRef<OsStr>>(
        &self,
        call: &Call<'_>,
        args: &[S],
    ) -> Result<Vec<u8>, GitError> {
        let program = leash::find("git").ok_or(GitError::Missing)?;
        let mut command = leash::command(&program);
        command.args(args).env_clear().envs(self.environment(call));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(directory) = call.work_tree {
            command.current_dir(directory);
        }
        let child = command.spawn().map_err(GitError::Start)?;
        let name = args
            .first()
            .map(|a| a.as_ref().to_string_lossy().into_owned());
        self.wait(child, &name.unwrap_or_default())
    }

    fn environment(&self, call: &Call<'_>) -> Vec<(OsString, OsString)> {
        const INHERITED: [&str; 14] = [
            "PATH",
            "TMPDIR",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "GIT_SSL_CAINFO",
            "CURL_CA_BUNDLE",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "all_proxy",
        ];
        let mut env: Vec<(OsString, OsString)> = INHERITED
            .iter()
            .filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)))
            .collect();
        let mut set = |name: &str, value: &OsStr| env.push((name.into(), value.to_owned()));
        for (name, value) in [
            ("LC_ALL", "C"),
            ("HOME", "/nonexistent"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TEMPLATE_DIR", ""),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ADVICE", "0"),
            ("GIT_SSH_VARIANT", "ssh"),
            ("GIT_ALLOW_PROTOCOL", call.protocols),
        ] {
            set(name, OsStr::new(value));
        }
        set("GIT_SSH_COMMAND", &self.ssh_command());
        let paths = [
            ("SSH_AUTH_SOCK", self.agent.as_deref()),
            ("GIT_DIR", call.git_dir),
            ("GIT_WORK_TREE", call.work_tree),
            ("GIT_INDEX_FILE", call.index),
        ];
        for (name, path) in paths {
            if let Some(path) = path {
                set(name, path.as_os_str());
            }
        }
        let own = self
            .config
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let config: Vec<(&str, &str)> = CONFIG.into_iter().chain(own).collect();
        set("GIT_CONFIG_COUNT", OsStr::new(&config.len().to_string()));
        for (number, (key, value)) in config.into_iter().enumerate() {
            set(&format!("GIT_CONFIG_KEY_{number}"), OsStr::new(key));
            set(&format!("GIT_CONFIG_VALUE_{number}"), OsStr::new(value));
        }
        env
    }

    /// No configuration and no keys but those of the agent. A host's key must be one that the user
    /// knows, or is remembered the first time.
    fn ssh_command(&self) -> OsString {
        let mut files = quoted_option(&self.known_hosts);
        if let Some(home) = std::env::var_os("HOME") {
            // ssh would look in the home of root, who the user is in here.
            files.push(" ");
            files.push(quoted_option(&Path::new(&home).join(".ssh/known_hosts")));
        }
        let mut command = OsString::from(
            "ssh -F none -o BatchMode=yes -o IdentityFile=none -o ConnectTimeout=30 \
             -o ServerAliveInterval=15 -o StrictHostKeyChecking=accept-new \
             -o UpdateHostKeys=no -o ",
        );
        let mut option = OsString::from("UserKnownHostsFile=");
        option.push(files);
        command.push(shell_quoted(&option));
        command
    }

    fn wait(&self, mut child: Child, command: &str) -> Result<Vec<u8>, GitError> {
        let leash = child.id();
        let stdout = read_in_background(child.stdout.take(), OUTPUT_MAX);
        let stderr = read_in_background(child.stderr.take(), MESSAGES_MAX);
        let (sender, receiver) = channel();
        let cancelled: Sender<Option<io::Result<ExitStatus>>> = sender.clone();
        // Nobody may be waiting any more.
        self.cancel.on_cancel(move || drop(cancelled.send(None)));
        thread::spawn(move || drop(sender.send(Some(child.wait()))));
        let (command, ended) = (command.to_owned(), receiver.recv_timeout(TIME_MAX));
        let status = match ended {
            Ok(Some(status)) => status.map_err(GitError::Start)?,
            Ok(None) | Err(_) => {
                leash::stop(leash);
                let is_late = matches!(ended, Err(RecvTimeoutError::Timeout));
                return Err(if is_late {
                    GitError::TimedOut { command }
                } else {
                    GitError::Cancelled
                });
            }
        };
        let output = stdout.join().unwrap_or_default();
        let messages = stderr.join().unwrap_or_default();
        if output.len() as u64 > OUTPUT_MAX {
            return Err(GitError::TooMuch { command });
        }
        if status.success() {
            return Ok(output);
        }
        let message = last_words(&messages);
        Err(GitError::Failed { command, message })
    }
}

/// The first git in `PATH`.
/// At most `limit` bytes and one; the rest is read and forgotten, so that the writer goes on.
fn read_in_background(
    stream: Option<impl Read + Send + 'static>,
    limit: u64,
) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What cannot be read is missing, which is found out by whoever needs it.
            let _ = stream.by_ref().take(limit + 1).read_to_end(&mut bytes);
            let _ = io::copy(&mut stream, &mut io::sink());
        }
        bytes
    })
}

/// The lines that matter of what git says, without colours and progress.
fn last_words(messages: &[u8]) -> String {
    const LINES: usize = 8;
    let text = String::from_utf8_lossy(messages);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.rsplit('\r').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty() && !line.starts_with("hint:"))
        .collect();
    let kept = lines[lines.len().saturating_sub(LINES)..].join("; ");
    kept.chars().filter(|c| !c.is_control()).collect()
}

/// For a list of file names in an option of ssh.
fn quoted_option(path: &Path) -> OsString {
    let mut quoted = OsString::from("\"");
    quoted.push(path);
    quoted.push("\"");
    quoted
}

fn shell_quoted(text: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut quoted = vec![b'\''];
    for byte in text.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}
