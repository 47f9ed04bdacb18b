//! Runs one step: prepares it, starts the child, follows its output, waits, cleans up.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};

use crate::cancel::Cancel;
use crate::cgroup;
use crate::child::{Failure, Program};
use crate::emulate::Emulator;
use crate::error::{Error, Step};
use crate::network;
use crate::plan::{self, Prepared};
use crate::prepare::Assembly;
use crate::spec::{Network, Outcome, Processes, Spec, Status, Stream, Usage};
use crate::sys::{self, Child};
use crate::teardown;
use crate::watch::Watch;

/// Bytes read from a pipe at once: its default capacity.
const CHUNK: usize = 64 * 1024;

/// How much output may still be read after the command ended: what its pipe can hold, unless a
/// process outside (reached over a socket that was mounted) keeps writing.
const DRAIN_MAX: usize = 2 * 1024 * 1024;

/// Runs the command of `spec` in a container and waits for its end. Output goes to `sink` as it
/// comes, in the calling thread; a slow sink slows the command down.
///
/// To be called where [`crate::inside::enter`] returned, from any number of threads; the thread
/// must live until the call returns, because its end would kill the step.
///
/// When it returns, no process of the step exists, its mounts are gone or on their way (see
/// [`wait_for_teardown`](crate::wait_for_teardown)) and mount points made for it are removed. `work`
/// of an overlay keeps the kernel's `work` directory in it.
///
/// # Errors
/// When the command could not be started; then it had no effect on the root, except that
/// directories of the working directory may have been made. A command that ran and failed is
/// an [`Outcome`].
pub fn run(
    spec: &Spec,
    sink: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<Outcome, Error> {
    plan::validate(spec)?;
    if let Network::Sandbox { forward_dns } = spec.network {
        return network::connected(forward_dns, cancel, |namespace| {
            run_in(spec, Some(namespace), sink, cancel)
        });
    }
    run_in(spec, None, sink, cancel)
}

/// Likewise, in a network namespace that exists already.
fn run_in(
    spec: &Spec,
    network: Option<BorrowedFd<'_>>,
    sink: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<Outcome, Error> {
    let started = Instant::now();
    if cancel.is_cancelled() {
        return Ok(Outcome {
            status: Status::Cancelled,
            usage: Usage::default(),
            owners: Vec::new(),
        });
    }
    let command = plan::command(spec)?;
    let assembly = Assembly::new(spec)?;
    let (out, stdout) = pipe()?;
    let (err, stderr) = pipe()?;
    let emulation = spec.emulation.as_ref();
    let mut emulator = emulation
        .map(|emulation| Emulator::start(emulation, &spec.user, &spec.root, spec.processes))
        .transpose()?;
    let supervisor = emulator.as_ref().and_then(Emulator::for_child);
    let mut watch = Watch::new(spec.processes)?;
    let watched = watch.as_ref().and_then(Watch::for_child);
    let groups = cgroup::open(&spec.cgroups)?;
    let prepared = Prepared {
        network,
        ..assembly.prepared(&stdout, &stderr, supervisor, watched)
    };
    let mut operations = plan::operations(spec, prepared)?;
    cgroup::join(&mut operations, &groups);
    let program = Program::new(operations, command);
    let own_peak_rss = sys::own_peak_rss();
    let spawned = sys::spawn(&program, namespaces(spec));
    let failure = program.failure().map(|failure| describe(spec, failure));
    drop(program);
    drop((stdout, stderr));
    if let Some(emulator) = &mut emulator {
        emulator.close_channel();
    }
    if let Some(watch) = &mut watch {
        watch.started();
    }
    let held = match &spawned {
        Ok(child) if assembly.may_outlive_step() => teardown::hold(child),
        _ => None,
    };
    let stubs = assembly.into_stubs();

    let result = match (spawned, failure) {
        (Err(error), _) => Err(Step::Clone.error(error)),
        (Ok(child), Some(error)) => {
            drop(Started(Some(child)));
            Err(error)
        }
        (Ok(child), None) => {
            let child = Started(Some(child));
            let deadline = spec
                .timeout
                .and_then(|timeout| started.checked_add(timeout));
            let streams = Streams {
                out: Some(out),
                err: Some(err),
            };
            child
                .supervise(streams, sink, cancel, deadline)
                .and_then(|stopped| collect(child, stopped, started, own_peak_rss))
        }
    };
    // The child is dead, whatever the result.
    let killed = watch.map_or(Ok(()), |watch| watch.kill());
    if let Some(held) = held {
        held.release();
    }
    let owners = emulator.map(Emulator::finish).unwrap_or_default();
    let removed = stubs.remove();
    let outcome = result.map(|outcome| Outcome { owners, ..outcome })?;
    killed.map_err(|source| Error::Wait { source })?;
    removed.map_err(|(path, errno)| Step::RemoveMountPoint { path }.error(errno))?;
    Ok(outcome)
}

fn namespaces(spec: &Spec) -> libc::c_int {
    let mut flags = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if spec.processes == Processes::Own {
        flags |= libc::CLONE_NEWPID;
    }
    if spec.network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    flags
}

/// Reader, which does not wait, and writer.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let failed = |errno: Errno| Step::Pipe.error(errno);
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    // The reader only: O_NONBLOCK belongs to one end, and the command expects a blocking one.
    rustix::io::ioctl_fionbio(&reader, true).map_err(failed)?;
    Ok((reader, writer))
}

/// Turns what the child recorded into an error.
pub(crate) fn describe(spec: &Spec, failure: Failure<'_, '_>) -> Error {
    let path_of = |path: &std::ffi::CStr| PathBuf::from(OsStr::from_bytes(path.to_bytes()));
    match failure {
        Failure::Operation(operation, errno) => operation.step().error(errno),
        Failure::Interpreter(path) => Error::InterpreterMissing {
            path: path_of(path),
        },
        Failure::Exec(_, Errno::NOENT | Errno::NOTDIR) => Error::CommandNotFound {
            name: spec.argv.first().cloned().unwrap_or_default(),
        },
        Failure::Exec(path, Errno::ACCESS) => Error::CommandNotExecutable {
            path: path_of(path),
        },
        Failure::Exec(path, Errno::NOEXEC) => Error::ExecFormat {
            path: path_of(path),
        },
        Failure::Exec(path, errno) => Error::Execute {
            path: path_of(path),
            source: errno.into(),
        },
    }
}

/// A child that is killed and waited for when this is dropped, so that neither an error nor a
/// panic of the sink leaves a step running.
pub(crate) struct Started(pub(crate) Option<Child>);

impl Started {
    /// Whether it has ended already; it is left to be waited for.
    pub(crate) fn has_ended(&self) -> bool {
        let Some(child) = &self.0 else { return true };
        let mut fds = [PollFd::new(&child.pidfd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(1))
    }

    fn wait(mut self) -> Result<sys::Waited, Error> {
        let child = self.0.take().ok_or_else(|| Error::Wait {
            source: Errno::CHILD.into(),
        })?;
        sys::wait4(child.pid).map_err(|source| Error::Wait { source })
    }

    pub(crate) fn supervise(
        &self,
        streams: Streams,
        sink: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
        deadline: Option<Instant>,
    ) -> Result<Option<Stopped>, Error> {
        match &self.0 {
            Some(child) => supervise(child, streams, sink, cancel, deadline),
            None => Ok(None),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &self.0 {
            // Refused only when it is dead already.
            let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
            let _ = sys::wait4(child.pid);
        }
    }
}

/// Why the supervisor killed the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    ByTimeout,
    ByCancel,
}

/// The reading ends of the pipes for the output of a command.
pub(crate) struct Streams {
    pub(crate) out: Option<OwnedFd>,
    pub(crate) err: Option<OwnedFd>,
}

/// Forwards output until the command has ended. The kernel reports the end of process 1 only
/// when every other process of its pid namespace is dead, so nothing is left to write then. Without
/// such a namespace the others are killed after it (see [`Watch`]).
fn supervise(
    child: &Child,
    mut streams: Streams,
    sink: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
    deadline: Option<Instant>,
) -> Result<Option<Stopped>, Error> {
    let mut buffer = vec![0; CHUNK];
    let mut stopped = None;
    loop {
        let ready = wait_for_event(child, &streams, cancel, deadline, stopped.is_some())?;
        if ready.ended {
            drain(&mut streams, &mut buffer, sink);
            return Ok(stopped);
        }
        if ready.out {
            forward(&mut streams.out, Stream::Stdout, &mut buffer, sink);
        }
        if ready.err {
            forward(&mut streams.err, Stream::Stderr, &mut buffer, sink);
        }
        let overdue = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if stopped.is_none() && (ready.cancelled || overdue) {
            stopped = Some(if ready.cancelled {
                Stopped::ByCancel
            } else {
                Stopped::ByTimeout
            });
            match pidfd_send_signal(&child.pidfd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    return Err(Error::Wait {
                        source: errno.into(),
                    });
                }
            }
        }
    }
}

struct Ready {
    ended: bool,
    cancelled: bool,
    out: bool,
    err: bool,
}

fn wait_for_event(
    child: &Child,
    streams: &Streams,
    cancel: &Cancel,
    deadline: Option<Instant>,
    is_stopping: bool,
) -> Result<Ready, Error> {
    let mut fds = vec![PollFd::new(&child.pidfd, PollFlags::IN)];
    for fd in [&streams.out, &streams.err].into_iter().flatten() {
        fds.push(PollFd::new(fd, PollFlags::IN));
    }
    if !is_stopping {
        fds.push(PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN));
    }
    let timeout = deadline.filter(|_| !is_stopping).map(|deadline| {
        // Rounded up, so that the wait does not end just before the deadline and spin.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos().into(),
        }
    });
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => {
            return Err(Error::Wait {
                source: errno.into(),
            });
        }
    }
    let mut events = fds.iter().map(|fd| !fd.revents().is_empty());
    let mut next = |is_polled: bool| is_polled && events.next().unwrap_or(false);
    Ok(Ready {
        ended: next(true),
        out: next(streams.out.is_some()),
        err: next(streams.err.is_some()),
        cancelled: next(!is_stopping),
    })
}

/// Reads once; closes the stream at its end. Returns the number of bytes.
fn forward(
    fd: &mut Option<OwnedFd>,
    stream: Stream,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(Stream, &[u8]),
) -> usize {
    let Some(pipe) = fd else { return 0 };
    match rustix::io::read(&*pipe, &mut *buffer) {
        Ok(0) => *fd = None,
        Ok(length) => {
            sink(stream, buffer.get(..length).unwrap_or_default());
            return length;
        }
        Err(Errno::AGAIN | Errno::INTR) => {}
        // A pipe has no other errors; were there one, it would be for ever.
        Err(_) => *fd = None,
    }
    0
}

fn drain(streams: &mut Streams, buffer: &mut [u8], sink: &mut dyn FnMut(Stream, &[u8])) {
    for (fd, stream) in [
        (&mut streams.out, Stream::Stdout),
        (&mut streams.err, Stream::Stderr),
    ] {
        let mut total = 0;
        while total < DRAIN_MAX {
            match forward(fd, stream, buffer, sink) {
                0 => break,
                length => total += length,
            }
        }
    }
}

pub(crate) fn collect(
    child: Started,
    stopped: Option<Stopped>,
    started: Instant,
    own_peak_rss: u64,
) -> Result<Outcome, Error> {
    let waited = child.wait()?;
    let status = match (stopped, waited.code) {
        (Some(Stopped::ByTimeout), _) => Status::TimedOut,
        (Some(Stopped::ByCancel), _) => Status::Cancelled,
        (None, Some(code)) => Status::Exited(code),
        (None, None) => Status::Signalled(waited.signal.unwrap_or(0)),
    };
    // The child started in the caller's address space, whose peak the kernel counts as its own.
    let peak_rss = if waited.peak_rss > own_peak_rss {
        waited.peak_rss * 1024
    } else {
        0
    };
    let usage = Usage {
        wall: started.elapsed(),
        user_cpu: waited.user_cpu,
        system_cpu: waited.system_cpu,
        peak_rss,
        read_bytes: waited.blocks_in * 512,
        written_bytes: waited.blocks_out * 512,
    };
    Ok(Outcome {
        status,
        usage,
        owners: Vec::new(),
    })
}
