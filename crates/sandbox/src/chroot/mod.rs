//! Steps without mounts and namespaces: in a plain root directory, with `chroot(2)`.
//!
//! For root in a container that may neither mount nor make namespaces (Docker's defaults). What
//! mounts would show is put into the root for the step, by renaming, and taken out again after it:
//!
//! | a step expects | it gets |
//! |---|---|
//! | /dev | a directory with its own device nodes; /dev/stdout and /dev/stderr are named pipes |
//! | /proc | a directory with copies of the container's files that do not concern a process |
//! | /sys | an empty directory |
//! | a bind mount | the directory itself, moved here and back |
//! | a small file | a copy, also of secrets: they are on the store's disk while the step runs |
//! | tmpfs | an empty directory |
//!
//! Where layercake has `CAP_SYS_ADMIN` and may mount, the step gets a real /proc that shows only its
//! own processes, terminals and a host name (`live`).
//!
//! What it cannot have is refused ([`Error::Unsupported`]): a network of its own, sizes of tmpfs
//! and /dev/shm, read-only directories that are kept, further privileges.
//!
//! # What keeps the step in
//!
//! The container around it. A step is root there without `CAP_SYS_CHROOT` and `CAP_MKNOD`, so it
//! cannot leave its root by either, but it can signal every process of the container that is
//! root's, layercake included. One step runs at a time: whatever process is left when it ends was
//! its own, and is killed.

mod covers;
mod live;
mod reap;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::caps;
use crate::cgroup;
use crate::child::Program;
use crate::error::{Error, Step};
use crate::filesystem;
use crate::plan::{self, Op};
use crate::run::{Started, Streams, collect, describe, pipe};
use crate::spec::{
    Mount, MountKind, Network, Outcome, Privileges, Root, Spec, Status, Stream, Usage,
};
use crate::sys;
use covers::Covers;
use live::Live;

pub(crate) use reap::kill_descendants;

/// How often a step that waits for another one looks whether it was cancelled.
const TURN: Duration = Duration::from_millis(10);

/// Like [`crate::run()`], for a spec with [`Root::Plain`] in a process that entered with
/// [`crate::inside::Isolation::Chroot`]. `scratch` is an empty directory of this step alone, on the
/// file system of the root.
///
/// One step runs at a time; others wait for their turn.
///
/// # Errors
/// As [`crate::run()`], and [`Error::Unsupported`].
pub fn run(
    spec: &Spec,
    scratch: &Path,
    sink: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<Outcome, Error> {
    plan::validate(spec)?;
    let root = supported(spec)?;
    filesystem::expect_programs(root)?;
    let Some(_turn) = turn(cancel) else {
        return Ok(cancelled());
    };
    let started = Instant::now();
    let mut covers = Covers::new(root, scratch)?;
    let live = Live::new();
    let result = cover_all(&mut covers, spec, live.is_some()).and_then(|pipes| {
        let place = Place { root, pipes, live };
        run_covered(spec, place, sink, cancel, started)
    });
    // Whatever happened, nothing of the step may go on while its root is put back in order.
    let killed = kill_descendants().map_err(|source| Error::Wait { source });
    let undone = covers.undo();
    let outcome = result?;
    killed?;
    undone?;
    Ok(outcome)
}

fn cancelled() -> Outcome {
    Outcome {
        status: Status::Cancelled,
        usage: Usage::default(),
        owners: Vec::new(),
    }
}

/// Waits until no other step runs; `None` when cancelled meanwhile.
fn turn(cancel: &Cancel) -> Option<MutexGuard<'static, ()>> {
    static TURNS: Mutex<()> = Mutex::new(());
    loop {
        if cancel.is_cancelled() {
            return None;
        }
        match TURNS.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(TURN),
        }
    }
}

/// The root, when nothing is asked for that needs a mount or a namespace.
fn supported(spec: &Spec) -> Result<&Path, Error> {
    let refuse = |what: &'static str| Err(Error::Unsupported { what });
    let Root::Plain(root) = &spec.root else {
        return refuse("an overlay as root");
    };
    match spec.network {
        Network::Host => {}
        Network::None => return refuse("RUN --network=none"),
        Network::Sandbox { .. } => return refuse("--network=sandbox"),
    }
    if spec.privileges == Privileges::Insecure {
        return refuse("RUN --security=insecure");
    }
    if spec.shm_size.is_some() {
        return refuse("a size of /dev/shm");
    }
    let mut sources = Vec::new();
    for Mount { kind, .. } in &spec.mounts {
        match kind {
            MountKind::Bind { source, .. } if sources.contains(&source) => {
                return refuse("one directory at two places");
            }
            MountKind::Bind { source, .. } => sources.push(source),
            MountKind::Tmpfs { size: Some(_), .. } => return refuse("a size of a tmpfs mount"),
            MountKind::Tmpfs {
                read_only: true, ..
            } => return refuse("a read-only tmpfs mount"),
            MountKind::Overlay { .. } | MountKind::Lowers { .. } => {
                return refuse("an overlay as mount");
            }
            MountKind::Tmpfs { .. } | MountKind::File { .. } => {}
        }
    }
    Ok(root)
}

/// Puts everything in place; returns the pipes that /dev/stdout and /dev/stderr are.
fn cover_all(covers: &mut Covers<'_>, spec: &Spec, is_live: bool) -> Result<Pipes, Error> {
    let dev = covers.new_device_directory(is_live)?;
    let pipes = if is_live {
        Pipes::anonymous()?
    } else {
        Pipes::open(&dev)?
    };
    covers.cover(Path::new("/dev"), &dev, false)?;
    let proc = if is_live {
        covers.new_directory(0o555)?
    } else {
        covers.new_proc_directory()?
    };
    covers.cover(Path::new("/proc"), &proc, false)?;
    let sys = covers.new_directory(0o555)?;
    covers.cover(Path::new("/sys"), &sys, false)?;
    for mount in crate::prepare::in_order(&spec.mounts) {
        let (thing, is_kept) = match &mount.kind {
            MountKind::Bind { source, .. } => (source.clone(), true),
            MountKind::Tmpfs { mode, .. } => (covers.new_directory(*mode)?, false),
            MountKind::File {
                content,
                mode,
                uid,
                gid,
            } => (covers.new_file(content, (*mode, *uid, *gid))?, false),
            // Refused before.
            MountKind::Overlay { .. } | MountKind::Lowers { .. } => continue,
        };
        covers.cover(&mount.target, &thing, is_kept)?;
    }
    covers.make_working_directory(&spec.cwd)?;
    covers.seal()?;
    Ok(pipes)
}

/// Both ends of the pipes for the output of a step.
struct Pipes {
    out: OwnedFd,
    err: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pipes {
    fn anonymous() -> Result<Self, Error> {
        let (out, stdout) = pipe()?;
        let (err, stderr) = pipe()?;
        Ok(Self {
            out,
            err,
            stdout,
            stderr,
        })
    }

    fn open(dev: &Path) -> Result<Self, Error> {
        let both = |name: &str| {
            let path = dev.join(name);
            let open =
                |flags| rustix::fs::openat(CWD, &path, flags | OFlags::CLOEXEC, Mode::empty());
            // The reader first: a writer alone would wait for it.
            let reader = open(OFlags::RDONLY | OFlags::NONBLOCK)?;
            Ok((reader, open(OFlags::WRONLY)?))
        };
        let failed = |errno: Errno| Step::Pipe.error(errno);
        let (out, stdout) = both("stdout").map_err(failed)?;
        let (err, stderr) = both("stderr").map_err(failed)?;
        Ok(Self {
            out,
            err,
            stdout,
            stderr,
        })
    }
}

/// Where a step runs.
struct Place<'a> {
    root: &'a Path,
    pipes: Pipes,
    live: Option<Live>,
}

fn run_covered(
    spec: &Spec,
    Place { root, pipes, live }: Place<'_>,
    sink: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
    started: Instant,
) -> Result<Outcome, Error> {
    let command = plan::command(spec)?;
    let directory = open_root(root)?;
    let groups = cgroup::open(&spec.cgroups)?;
    let (enter, namespaces) = match &live {
        Some(live) => (live.operations(root, &spec.hostname)?, live::NAMESPACES),
        None => {
            let root = directory.as_fd();
            (vec![Op::ChangeRoot { root }], 0)
        }
    };
    let mut operations = operations(enter, spec, &pipes)?;
    cgroup::join(&mut operations, &groups);
    let program = Program::new(operations, command);
    let own_peak_rss = sys::own_peak_rss();
    let spawned = sys::spawn(&program, namespaces);
    let failure = program.failure().map(|failure| describe(spec, failure));
    drop(program);
    let child = Started(Some(spawned.map_err(|error| Step::Clone.error(error))?));
    if let Some(error) = failure {
        return Err(error);
    }
    drop((pipes.stdout, pipes.stderr));
    let streams = Streams {
        out: Some(pipes.out),
        err: Some(pipes.err),
    };
    let deadline = spec
        .timeout
        .and_then(|timeout| started.checked_add(timeout));
    let stopped = child.supervise(streams, sink, cancel, deadline)?;
    collect(child, stopped, started, own_peak_rss)
}

fn open_root(root: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|errno| {
        let path = PathBuf::from(root);
        Step::OpenRoot { path }.error(errno)
    })
}

/// What the child does after `enter`: that of a container without what needs mounts and
/// namespaces.
fn operations<'f>(enter: Vec<Op<'f>>, spec: &Spec, pipes: &'f Pipes) -> Result<Vec<Op<'f>>, Error> {
    let mut ops = enter;
    ops.extend([
        Op::StdinNull {
            null: c"dev/null".to_owned(),
        },
        Op::Streams {
            stdout: pipes.stdout.as_fd(),
            stderr: pipes.stderr.as_fd(),
            uid: spec.user.uid,
            gid: spec.user.gid,
        },
        Op::WorkingDirectory {
            path: plan::c_string("working directory", spec.cwd.as_os_str())?,
        },
    ]);
    plan::process(&mut ops, spec);
    // Without CAP_SYS_ADMIN a filter would need no_new_privs, which makes setuid programs useless;
    // the container around has its own filter.
    let may_filter = has_admin();
    ops.retain(|op| may_filter || !matches!(op, Op::Seccomp { .. }));
    for op in &mut ops {
        if let Op::BoundingSet { keep } | Op::Capabilities { keep } = op {
            *keep &= !caps::LEAVE_CHROOT;
        }
    }
    Ok(ops)
}

fn has_admin() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.bits() & (1 << caps::SYS_ADMIN) != 0)
}
