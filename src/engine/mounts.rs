//! `RUN --mount`: from what the Dockerfile asked for to what the container gets.

use std::path::PathBuf;

use graph::NodeId;
use graph::op::{self, MountKind};
use sandbox::spec::{Mount, MountKind as Kind, Resource};

use super::caches::{self, CacheLeases};
use super::copying;
use super::executor::{Engine, Output, StepError, not_mountable};
use super::layers::Tree;
use super::limits::ulimit;
use super::rootfs;
use super::run::hosts;
use super::ssh::AgentSocket;
use crate::failure::{Failure, FailureKind};

/// Everything a step gets besides its root; leases and agents are kept until the step
/// is over.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) mounts: Vec<Mount>,
    pub(super) secret_env: Vec<(String, Vec<u8>)>,
    pub(super) rlimits: Vec<(Resource, u64, u64)>,
    pub(super) leases: CacheLeases,
    pub(super) agents: Vec<AgentSocket>,
}

pub(super) fn prepare(
    engine: &Engine,
    id: NodeId,
    op: &op::Run,
    inputs: &[Output],
) -> Result<Prepared, StepError> {
    let rlimits: Result<Vec<_>, _> = op.ulimits.iter().map(|text| ulimit(text)).collect();
    let mut prepared = Prepared {
        rlimits: rlimits?,
        leases: caches::lease(engine, id, op, inputs)?,
        ..Prepared::default()
    };
    let resolv_conf = engine.run.resolv_conf.of(op.network);
    prepared
        .mounts
        .push(file("/etc/resolv.conf", resolv_conf, 0o644, 0, 0));
    prepared
        .mounts
        .push(file("/etc/hosts", hosts(op), 0o644, 0, 0));
    if let Some((name, content)) = &op.script {
        let path = format!("/dev/pipes/{name}");
        prepared
            .mounts
            .push(file(&path, content.clone().into_bytes(), 0o755, 0, 0));
    }
    for (number, mount) in op.mounts.iter().enumerate() {
        if let Some(kind) = kind(engine, op, (number, mount), inputs, &mut prepared)? {
            prepared.mounts.push(Mount {
                target: PathBuf::from(&mount.target),
                kind,
            });
        }
    }
    Ok(prepared)
}

fn file(target: &str, content: Vec<u8>, mode: u32, uid: u32, gid: u32) -> Mount {
    Mount {
        target: PathBuf::from(target),
        kind: Kind::File {
            content,
            mode,
            uid,
            gid,
        },
    }
}

/// `None` for what is not mounted after all.
fn kind(
    engine: &Engine,
    op: &op::Run,
    (number, mount): (usize, &op::Mount),
    inputs: &[Output],
    prepared: &mut Prepared,
) -> Result<Option<Kind>, StepError> {
    match &mount.kind {
        MountKind::Bind {
            input,
            source,
            writable,
        } => {
            let input = &inputs[*input];
            bind(engine, op, (input, source), *writable).map(Some)
        }
        MountKind::Cache {
            read_only: true, ..
        } if engine.roots.is_chroot() => {
            let what = "a read-only cache mount";
            Err(Failure::from(&sandbox::Error::Unsupported { what }).into())
        }
        MountKind::Cache { read_only, .. } => Ok(Some(Kind::Bind {
            source: prepared.leases.path(number)?,
            read_only: *read_only,
        })),
        MountKind::Tmpfs { size, read_only } => Ok(Some(Kind::Tmpfs {
            size: *size,
            mode: mode_of_tmpfs(engine, &inputs[0], &mount.target)?,
            read_only: *read_only,
        })),
        MountKind::Secret { .. } => Ok(secret(engine, &mount.kind, prepared)?),
        MountKind::Ssh { .. } => Ok(ssh(engine, &mount.kind, prepared)?),
    }
}

/// A tmpfs has the mode of the directory it covers, as runc makes it.
fn mode_of_tmpfs(engine: &Engine, base: &Output, target: &str) -> Result<u32, StepError> {
    const OPEN: u32 = 0o1777;
    let view = engine.layers.view(base.tree()?)?;
    let place = view
        .resolve(target.trim_matches('/').as_bytes(), true)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let covered = view.lookup(&place.path).filter(|f| f.is_directory());
    Ok(covered.map_or(OPEN, |found| found.entry.mode))
}

fn bind(
    engine: &Engine,
    op: &op::Run,
    (input, source): (&Output, &str),
    writable: bool,
) -> Result<Kind, StepError> {
    let tree = input_tree(engine, op, input, source)?;
    let subpath = match input {
        Output::Tree(_) => PathBuf::from(source),
        // The selected files are the tree.
        Output::Context(_) => PathBuf::from(copying::MOUNTED),
        Output::Download(_) | Output::Checkout(_) => return Err(not_mountable()),
    };
    if engine.roots.is_plain() {
        let source = rootfs::copy_of(engine, &tree, &subpath)?;
        let read_only = !writable;
        return Ok(Kind::Bind { source, read_only });
    }
    let lowers = engine.layers.lowers(&tree)?;
    if !writable {
        return Ok(Kind::Lowers { lowers, subpath });
    }
    let draft = engine.layers.store.layer_draft()?;
    Ok(Kind::Overlay {
        lowers,
        upper: draft.files(),
        work: draft.work(),
        subpath,
    })
}

/// Rules R26-R28.
fn secret(
    engine: &Engine,
    kind: &MountKind,
    prepared: &mut Prepared,
) -> Result<Option<Kind>, Failure> {
    let MountKind::Secret {
        id,
        required,
        file,
        env,
        mode,
        uid,
        gid,
    } = kind
    else {
        return Ok(None);
    };
    let Some(content) = engine.run.secrets.get(id) else {
        if *required {
            let message = format!("secret {id}: not found, and the step requires it");
            let failure = Failure::new(FailureKind::Build, message);
            return Err(failure.hint(format!("give --secret id={id},src=PATH")));
        }
        return Ok(None);
    };
    if let Some(name) = env {
        prepared.secret_env.push((name.clone(), content.clone()));
    }
    Ok(file.then(|| Kind::File {
        content: content.clone(),
        mode: *mode,
        uid: *uid,
        gid: *gid,
    }))
}

/// Rules R29, R30.
fn ssh(
    engine: &Engine,
    kind: &MountKind,
    prepared: &mut Prepared,
) -> Result<Option<Kind>, Failure> {
    let MountKind::Ssh {
        id,
        required,
        mode,
        uid,
        gid,
    } = kind
    else {
        return Ok(None);
    };
    let Some(agent) = engine.fetching.agent(id)? else {
        if *required {
            return Err(no_agent(id));
        }
        return Ok(None);
    };
    let socket = AgentSocket::start(&engine.layers.store, &agent, *mode, (*uid, *gid))?;
    let source = socket.path().to_owned();
    prepared.agents.push(socket);
    Ok(Some(Kind::Bind {
        source,
        read_only: true,
    }))
}

fn no_agent(id: &str) -> Failure {
    let message = format!("ssh agent {id}: not given, and the step requires it");
    let flag = if id == "default" {
        "--ssh default"
    } else {
        "--ssh ID=SOCKET|KEY"
    };
    Failure::new(FailureKind::Build, message).hint(format!("give {flag}"))
}

/// The tree behind a mount; of a local context only the mounted files, made into a layer, so that
/// steps see the ignore rules, owners and times that `COPY` would give.
pub(super) fn input_tree(
    engine: &Engine,
    op: &op::Run,
    input: &Output,
    source: &str,
) -> Result<Tree, StepError> {
    match input {
        Output::Tree(tree) => Ok(tree.clone()),
        Output::Context(name) => copying::context_tree(engine, name, source, op.epoch),
        Output::Download(_) | Output::Checkout(_) => Err(not_mountable()),
    }
}
