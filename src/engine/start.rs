//! Starting a build outside and, when that is not enough, once more inside.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use graph::Cancel;
use rustix::fs::{MemfdFlags, Mode, memfd_create};
use sandbox::inside::{Inside, Isolation, Launcher};
use store::Store;
use store::owner::Owners;
use tokio::runtime::{Builder, Runtime};

use super::build::{Attempt, Build, Handoff};
use super::fetch::context;
use super::host::{self, Rung, Wanted};
use super::signals::{self, Stopped};
use super::{cgroup, export, room};
use crate::failure::{Failure, FailureKind};
use crate::report;
use crate::request::{BuildRequest, Snapshotter};

/// Builds; returns the exit code.
pub(crate) fn start(request: &BuildRequest, inside: Option<Inside>) -> Result<u8, Failure> {
    // Modes of files that are made must not depend on who builds.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let mut handoff = match &inside {
        Some(inside) => receive(inside)?,
        None => Handoff::default(),
    };
    let runtime = runtime()?;
    let cancel = Cancel::default();
    let stopped = signals::listen(&runtime, &cancel)?;
    let canceled = |failure| match stopped.kind() {
        Some(kind) => Failure::new(kind, "the build was canceled"),
        None => failure,
    };
    let local = context::bring(request, &mut handoff, runtime.handle(), &cancel);
    let local = local.map_err(|error| canceled(error.into()))?;
    let request = local.as_ref().map_or(request, |local| &local.request);
    let build = Build {
        request,
        runtime: runtime.handle().clone(),
        cancel,
        owners: inside.as_ref().map(owners),
        rung: inside.as_ref().map(|inside| Rung {
            isolation: inside.isolation,
            processes: inside.processes,
            snapshotter: handoff.snapshotter.unwrap_or(Snapshotter::Overlay),
        }),
        handoff,
    };
    let result = build.run();
    let result = result.map_err(|failure| room::explain(canceled(failure), request));
    let result = result.and_then(|attempt| match attempt {
        Attempt::Done(exported) => export::announce(request, &exported).map(|()| 0),
        Attempt::NeedsInside(_) if inside.is_some() => Err(Failure::new(
            FailureKind::Internal,
            "inside, and still asking to be inside",
        )),
        Attempt::NeedsInside(mut handoff) => {
            handoff.context = local.as_ref().and_then(|local| local.directory.clone());
            enter(request, handoff, &runtime, &stopped).map_err(canceled)
        }
    });
    // Threads that still wait for something must not hold the end up.
    runtime.shutdown_background();
    result
}

pub(super) fn runtime() -> Result<Runtime, Failure> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.map_err(|e| Failure::new(FailureKind::Environment, format!("start threads: {e}")))
}

fn owners(inside: &Inside) -> Owners {
    match inside.isolation {
        Isolation::SingleId => Owners::Recorded,
        _ => Owners::Inode,
    }
}

/// Runs the same command line again, inside.
fn enter(
    request: &BuildRequest,
    mut handoff: Handoff,
    runtime: &Runtime,
    stopped: &Stopped,
) -> Result<u8, Failure> {
    let rung = host::choose(Wanted::of(request), &request.store_root)?;
    if request.verbose {
        report::line(&rung.to_string());
    }
    handoff.snapshotter = Some(rung.snapshotter);
    let _room = cgroup::make_room(&request.limits)?;
    let launcher = Launcher::new(std::env::args_os().skip(1))
        .isolation(Some(rung.isolation))
        .processes(rung.processes)
        .fd(send(&handoff)?);
    if stopped.kind().is_some() {
        return Err(Failure::new(FailureKind::Interrupted, "not started"));
    }
    let running = launcher.spawn().map_err(|e| Failure::from(&e))?;
    let process = running.pidfd().map_err(|e| Failure::from(&e))?;
    stopped.pass_on(runtime, process);
    let code = running.wait_only().map_err(|e| Failure::from(&e))?;
    Ok(u8::try_from(code).unwrap_or(FailureKind::Internal.exit_code()))
}

fn handoff_failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(
        FailureKind::Internal,
        format!("hand the build over: {error}"),
    )
}

fn send(handoff: &Handoff) -> Result<OwnedFd, Failure> {
    let fd = memfd_create("layercake-handoff", MemfdFlags::CLOEXEC).map_err(handoff_failure)?;
    let mut file = File::from(fd);
    let json = serde_json::to_vec(handoff).map_err(handoff_failure)?;
    file.write_all(&json).map_err(handoff_failure)?;
    file.rewind().map_err(handoff_failure)?;
    Ok(file.into())
}

fn receive(inside: &Inside) -> Result<Handoff, Failure> {
    let fd = inside
        .fds
        .first()
        .ok_or_else(|| handoff_failure("nothing arrived"))?;
    let mut file = File::from(fd.try_clone().map_err(handoff_failure)?);
    let mut json = Vec::new();
    file.read_to_end(&mut json).map_err(handoff_failure)?;
    serde_json::from_slice(&json).map_err(handoff_failure)
}

/// Removes the store at `root`, whoever owns the files in it.
pub(crate) fn prune_all(root: &Path, inside: Option<&Inside>) -> Result<u8, Failure> {
    if inside.is_none() && root.exists() {
        // A user who cannot have a namespace has no files of other owners either.
        for isolation in [None, Some(Isolation::SingleId)] {
            let launcher = Launcher::new(std::env::args_os().skip(1)).isolation(isolation);
            let Ok(code) = launcher.run() else { continue };
            return Ok(u8::try_from(code).unwrap_or(FailureKind::Internal.exit_code()));
        }
    }
    Store::remove(root)?;
    Ok(0)
}
