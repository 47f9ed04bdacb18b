//! The program pasta: where it is, how it is called, when it is ready, when it is gone.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::DNS_FORWARD;
use crate::cancel::{Cancel, retry};
use crate::child::{Failure, Program};
use crate::error::Error;
use crate::idmap::find_program;
use crate::plan::{Command, Op, c_string};
use crate::run::Started;
use crate::sys::{self, CStringArray};

const PROGRAM: &str = "pasta";
const TUN: &str = "/dev/net/tun";
/// It takes 10 to 80 ms; on a host without routes it gives up at once.
const START_MAX: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
/// As much of what it says as is shown, in bytes.
const SAYS_MAX: u64 = 2048;

/// The name of the device in the step, the same on every host.
const DEVICE: &str = "eth0";

/// From this version on (a date, as all versions) pasta itself drops what is meant for loopback.
/// Ubuntu 24.04 has it; versions between this and Debian 12's (20230309) were not tried.
const DROPS_LOOPBACK: &str = "20240220";

/// Finds the program, and checks what it cannot work without.
pub(super) fn find() -> Result<PathBuf, Error> {
    let program = find_program(PROGRAM).ok_or(Error::PastaMissing)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, TUN, flags, Mode::empty()).map_err(|errno| Error::Tun {
        source: errno.into(),
    })?;
    Ok(program)
}

/// Without a filter, for the reason `source`: whether this version needs none.
pub(super) fn refuses_loopback(program: &Path, source: io::Error) -> Result<(), Error> {
    let output = std::process::Command::new(program)
        .arg("--version")
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match text.ok().as_deref().and_then(version) {
        Some(version) if version.as_str() >= DROPS_LOOPBACK => Ok(()),
        _ => Err(Error::Loopback { source }),
    }
}

/// The date in `pasta 2024_02_20.1e6f92b`, `0.0~git20240220.1e6f92b-1` or `0^20240220.g1e6f92b`.
fn version(text: &str) -> Option<String> {
    let text = text.lines().next()?.replace('_', "");
    let mut runs = text.split(|c: char| !c.is_ascii_digit());
    let date = runs.find(|digits| digits.len() == 8 && digits.starts_with("20"));
    date.map(str::to_owned)
}

/// The running program; it is killed when this is dropped.
pub(super) struct Pasta {
    process: Started,
    /// Where it writes its number when all is set up.
    ready: File,
    says: File,
}

impl Pasta {
    /// Starts the program for a network namespace. The calling thread must live as long as it
    /// does.
    pub(super) fn start(
        path: &Path,
        namespace: BorrowedFd<'_>,
        forward_dns: bool,
    ) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::PastaStart { source };
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()));
        let (ready, stdout) = pipe()?;
        let (says, stderr) = pipe()?;
        // Nobody reads it while the step runs: what is too much gets lost, but nothing waits.
        rustix::io::ioctl_fionbio(&stderr, true).map_err(|errno| failed(errno.into()))?;
        let operations = vec![
            Op::Stdin { fd: namespace },
            Op::Streams {
                stdout: stdout.as_fd(),
                stderr: stderr.as_fd(),
                uid: 0,
                gid: 0,
            },
            Op::WorkingDirectory {
                path: c"/".to_owned(),
            },
            Op::ProcessGroup,
            Op::Signals,
            Op::ParentDeathSignal,
            Op::CloseDescriptors,
        ];
        let program = Program::new(operations, command(path, forward_dns)?);
        let child = sys::spawn(&program, 0).map_err(failed)?;
        let process = Started(Some(child));
        match program.failure() {
            None => Ok(Self {
                process,
                ready: ready.into(),
                says: says.into(),
            }),
            Some(Failure::Operation(operation, errno)) => Err(operation.step().error(errno)),
            Some(Failure::Exec(_, errno)) => Err(failed(errno.into())),
            Some(Failure::Interpreter(_)) => Err(failed(Errno::NOENT.into())),
        }
    }

    /// Waits until it has set the device up, or `cancel` is thrown.
    pub(super) fn wait(&mut self, cancel: &Cancel) -> Result<(), Error> {
        let failed = |source: io::Error| Error::PastaStart { source };
        let mut fds = [
            PollFd::new(&self.ready, PollFlags::IN),
            PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN),
        ];
        retry(|| poll(&mut fds, Some(&START_MAX))).map_err(failed)?;
        let [is_ready, is_cancelled] = fds.map(|fd| !fd.revents().is_empty());
        if is_cancelled {
            return Ok(());
        }
        if !is_ready {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        // A line with its number, or the end.
        match self.ready.read(&mut [0; 16]) {
            Ok(0) | Err(_) => Err(self.error()),
            Ok(_) => Ok(()),
        }
    }

    /// Why it ended, if it did.
    pub(super) fn broken(&mut self) -> Option<Error> {
        self.process.has_ended().then(|| self.error())
    }

    /// Ends it and tells what it said.
    fn error(&mut self) -> Error {
        // Then nobody has the other end of the pipe, and reading does not wait.
        self.process = Started(None);
        let mut said = Vec::new();
        let _ = self.says.by_ref().take(SAYS_MAX).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        Error::Pasta {
            message: lines.collect::<Vec<_>>().join("; "),
        }
    }
}

fn command(path: &Path, forward_dns: bool) -> Result<Command, Error> {
    let path = c_string("PATH", path.as_os_str())?;
    let words = arguments(forward_dns)
        .into_iter()
        .map(|word| c_string("argv", word.as_ref()));
    let argv = std::iter::once(Ok(path.clone())).chain(words);
    Ok(Command {
        candidates: vec![path],
        argv: CStringArray::new(argv.collect::<Result<_, _>>()?),
        envp: CStringArray::new(Vec::new()),
    })
}

/// The same for all versions from 2022 on. Of its descriptors newer ones close all but the first
/// three, so the namespace is standard input and the "pid file" standard output.
fn arguments(forward_dns: bool) -> Vec<String> {
    let words = [
        "--foreground",
        "--quiet",
        "--config-net",
        "--no-map-gw",
        // No port of the step on the host, none of the host in the step.
        "--tcp-ports",
        "none",
        "--udp-ports",
        "none",
        "--tcp-ns",
        "none",
        "--udp-ns",
        "none",
        "--ns-ifname",
        DEVICE,
        // It is in no user namespace but that of the build, where root is whom it would leave.
        "--runas",
        "0:0",
        "--netns-only",
        "--no-netns-quit",
        "--netns",
        "/proc/self/fd/0",
        "--pid",
        "/proc/self/fd/1",
    ];
    let mut arguments: Vec<String> = words.map(str::to_owned).to_vec();
    if forward_dns {
        arguments.extend(["--dns-forward".to_owned(), DNS_FORWARD.to_string()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_packagers_are_dates() {
        for (text, date) in [
            ("pasta 2024_02_20.1e6f92b\nCopyright Red Hat\n", "20240220"),
            ("pasta 0.0~git20250503.587980c-2\n", "20250503"),
            ("pasta 0^20240220.g1e6f92b-1.fc40.x86_64\n", "20240220"),
        ] {
            assert_eq!(version(text).as_deref(), Some(date), "{text}");
        }
        // As Debian 12 says.
        assert_eq!(version("pasta unknown version\nCopyright 20240220\n"), None);
        assert_eq!(version(""), None);
    }
}
