//! Process A: starts the process inside and helps it in.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::forward;
use super::wire::{self, Message};
use super::{ARGUMENT, AUTOMATIC, FDS_MAX, Isolation};
use crate::error::{EnterStep, Error};
use crate::idmap;
use crate::spec::Processes;

/// The program that is running, also if it was replaced or removed on disk meanwhile.
const SELF: &str = "/proc/self/exe";

/// Starts this program again, inside new namespaces; it must call [`super::enter`] first thing.
#[derive(Debug)]
pub struct Launcher {
    program: PathBuf,
    /// What the program is called in a list of processes.
    name: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    fds: Vec<OwnedFd>,
    isolation: Option<Isolation>,
    processes: Processes,
}

impl Launcher {
    /// With the arguments that [`super::Inside::args`] will have.
    pub fn new(args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: PathBuf::from(SELF),
            name: std::env::args_os()
                .next()
                .unwrap_or_else(|| OsString::from(SELF)),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            fds: Vec::new(),
            isolation: None,
            processes: Processes::Own,
        }
    }

    /// Enters in this way and no other. Without it: real root that may mount stays root, everybody
    /// else gets a user namespace.
    #[must_use]
    pub fn isolation(mut self, isolation: Option<Isolation>) -> Self {
        self.isolation = isolation;
        self
    }

    /// Makes no pid namespace with [`Processes::Host`].
    #[must_use]
    pub fn processes(mut self, processes: Processes) -> Self {
        self.processes = processes;
        self
    }

    /// Starts another program than the running one.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self.name = self.program.clone().into_os_string();
        self
    }

    /// Sets an environment variable inside, in addition to the inherited ones.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes a descriptor, at most [`FDS_MAX`]; it arrives as one of [`super::Inside::fds`].
    #[must_use]
    pub fn fd(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.fds.push(fd.into());
        self
    }

    /// Starts the process and returns when it is inside, with standard output and error inherited
    /// and an empty standard input. It dies with the calling thread, whatever ends that.
    ///
    /// # Errors
    /// What is missing for it, most with a [remedy](Error::remedy).
    pub fn spawn(self) -> Result<Running, Error> {
        if self.fds.len() > FDS_MAX {
            let reason = format!(
                "{} are to be passed, {FDS_MAX} are possible",
                self.fds.len()
            );
            return Err(Error::Invalid {
                field: "descriptors",
                reason,
            });
        }
        let program = self.program.display().to_string();
        let failed = |source: io::Error| Error::Spawn {
            program: program.clone(),
            source,
        };
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| failed(errno.into()))?;
        let mut command = Command::new(&self.program);
        command
            .arg0(&self.name)
            .arg(ARGUMENT)
            .arg(std::process::id().to_string())
            .arg(self.isolation.map_or(AUTOMATIC, Isolation::name))
            .arg(self.processes.name())
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(theirs);
        let child = command.spawn().map_err(failed)?;
        // The command keeps its copy of `theirs`; without it the end of C is the end of the socket.
        drop(command);
        // From here on the drop of `running` ends the child if anything fails.
        let running = Running {
            child,
            status: None,
        };
        let fds: Vec<_> = self.fds.iter().map(|fd| fd.as_fd()).collect();
        // A failure to send means that C is gone, which `guide` finds out.
        let _ = wire::send(ours.as_fd(), Message::Start, &fds);
        let is_single = self.isolation == Some(Isolation::SingleId);
        guide(&ours, running.child.id(), is_single)?;
        Ok(running)
    }

    /// [`Self::spawn`] and [`Running::wait`].
    ///
    /// # Errors
    /// As those.
    pub fn run(self) -> Result<i32, Error> {
        self.spawn()?.wait()
    }
}

/// Answers C until W is ready.
fn guide(socket: &OwnedFd, pid: u32, is_single: bool) -> Result<(), Error> {
    loop {
        let received = wire::receive(socket).map_err(|source| Error::Enter {
            step: EnterStep::Descriptors,
            source,
        })?;
        match received.map(|(message, _)| message) {
            Some(Message::Unshared { needs_map }) => {
                if needs_map && is_single {
                    idmap::map_single(pid).map_err(|source| Error::WriteMap { source })?;
                } else if needs_map {
                    idmap::map(pid)?;
                }
                // As above.
                let _ = wire::send(socket.as_fd(), Message::Mapped, &[]);
            }
            Some(Message::UnshareFailed {
                user_namespace,
                errno,
            }) => {
                let source = io::Error::from_raw_os_error(errno);
                return Err(if user_namespace {
                    Error::UserNamespace {
                        hints: hints(),
                        is_filtered: is_filtered(),
                        source,
                    }
                } else {
                    Error::Namespaces { source }
                });
            }
            Some(Message::Failed { step, errno }) => {
                let source = io::Error::from_raw_os_error(errno);
                let is_refused = source.kind() == io::ErrorKind::PermissionDenied;
                let hints = hints();
                // AppArmor lets the namespace be made and refuses everything in it.
                return Err(if is_refused && !hints.is_empty() {
                    Error::UserNamespace {
                        hints,
                        is_filtered: is_filtered(),
                        source,
                    }
                } else {
                    Error::Enter { step, source }
                });
            }
            Some(Message::Ready) => return Ok(()),
            Some(Message::Start | Message::Mapped) | None => return Err(Error::Handshake),
        }
    }
}

/// Whether a seccomp filter is on this process.
fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line == "Seccomp:\t2")
}

/// Settings of this machine that forbid user namespaces to ordinary users.
pub(crate) fn hints() -> Vec<&'static str> {
    let settings = [
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone is 0",
        ),
        (
            "user/max_user_namespaces",
            "0",
            "user.max_user_namespaces is 0",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns is 1",
        ),
    ];
    let is_set = |(file, value, _): &(&str, &str, &str)| {
        std::fs::read_to_string(format!("/proc/sys/{file}")).is_ok_and(|v| v.trim() == *value)
    };
    settings
        .into_iter()
        .filter(is_set)
        .map(|(_, _, hint)| hint)
        .collect()
}

/// The process inside, from outside. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    status: Option<ExitStatus>,
}

impl Running {
    /// The process to signal or to look at; it forwards SIGTERM, SIGINT, SIGHUP and SIGQUIT to
    /// the process inside, which as process 1 of its namespace gets only those it handles.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the process inside. Returns its exit code, or 128 plus the signal
    /// that ended it.
    ///
    /// Meanwhile SIGTERM, SIGINT, SIGHUP and SIGQUIT to this process are passed on, unless they
    /// come from the terminal, which sends them to the process inside as well. That works when no
    /// other thread of this process takes them.
    ///
    /// # Errors
    /// Only when the kernel refuses to wait.
    pub fn wait(mut self) -> Result<i32, Error> {
        let failed = |source: io::Error| Error::Wait { source };
        let signals = forward::signals();
        let before = signals
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let result = self.wait_with_signals(&signals);
        before
            .thread_set_mask()
            .map_err(|errno| failed(errno.into()))?;
        let status = result.map_err(failed)?;
        Ok(exit_code(status))
    }

    /// As [`Running::wait`], but signals are left to threads of the caller that listen to them:
    /// one that is blocked here could else be taken from those and passed on to a process inside
    /// that does not listen yet.
    ///
    /// # Errors
    /// Only when the kernel refuses to wait.
    pub fn wait_only(mut self) -> Result<i32, Error> {
        let status = self.child.wait().map_err(|source| Error::Wait { source })?;
        self.status = Some(status);
        Ok(exit_code(status))
    }

    /// A descriptor of the process of [`Running::id`], which stays that process's.
    ///
    /// # Errors
    /// [`Error::Wait`] when the kernel gives none.
    pub fn pidfd(&self) -> Result<OwnedFd, Error> {
        self.open_pidfd().map_err(|source| Error::Wait { source })
    }

    fn open_pidfd(&self) -> io::Result<OwnedFd> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    fn wait_with_signals(&mut self, signals: &SigSet) -> io::Result<ExitStatus> {
        let pidfd = self.open_pidfd()?;
        forward::until_end(pidfd.as_fd(), signals, || {})?;
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Either fails only if it is gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    }
}
