//! `RUN --mount`: from what the Dockerfile asked for to what the container gets.

use std::path::PathBuf;

use graph::op::{self, MountKind};
use sandbox::spec::{Mount, MountKind as Kind, Resource};

use super::caches::{self, CacheLease};
use super::copying;
use super::executor::{Engine, Output, StepError};
use super::layers::Tree;
use super::run::hosts;
use crate::failure::{Failure, FailureKind};

/// Everything a step gets besides its root; leases are held until the step is over.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) mounts: Vec<Mount>,
    pub(super) secret_env: Vec<(String, Vec<u8>)>,
    pub(super) rlimits: Vec<(Resource, u64, u64)>,
    pub(super) leases: Vec<CacheLease>,
}

pub(super) fn prepare(
    engine: &Engine,
    op: &op::Run,
    inputs: &[Output],
) -> Result<Prepared, StepError> {
    let mut prepared = Prepared {
        rlimits: rlimits(&op.ulimits)?,
        ..Prepared::default()
    };
    let resolv_conf = engine.run.resolv_conf.clone();
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
    for mount in &op.mounts {
        if let Some(kind) = kind(engine, op, mount, inputs, &mut prepared)? {
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

fn kind(
    engine: &Engine,
    op: &op::Run,
    mount: &op::Mount,
    inputs: &[Output],
    prepared: &mut Prepared,
) -> Result<Option<Kind>, StepError> {
    Ok(Some(match &mount.kind {
        MountKind::Bind {
            input,
            source,
            writable,
        } => {
            let tree = input_tree(engine, op, &inputs[*input], source)?;
            let subpath = match &inputs[*input] {
                Output::Tree(_) => PathBuf::from(source),
                // The selected files are the tree.
                Output::Context(_) => PathBuf::from(copying::MOUNTED),
            };
            let mut lowers = engine.layers.lowers(&tree)?;
            if lowers.is_empty() {
                lowers.push(engine.layers.store.layer_draft()?.files());
            }
            if *writable {
                let draft = engine.layers.store.layer_draft()?;
                Kind::Overlay {
                    lowers,
                    upper: draft.files(),
                    work: draft.work(),
                    subpath,
                }
            } else {
                Kind::Lowers { lowers, subpath }
            }
        }
        MountKind::Cache { .. } => {
            let (lease, read_only) = caches::lease(engine, op, mount, inputs)?;
            let source = lease.path();
            prepared.leases.push(lease);
            Kind::Bind { source, read_only }
        }
        MountKind::Tmpfs { size } => Kind::Tmpfs {
            size: *size,
            mode: 0o1777,
        },
        MountKind::Secret {
            id,
            required,
            file,
            env,
            mode,
            uid,
            gid,
        } => {
            let Some(content) = engine.run.secrets.get(id) else {
                if *required {
                    let failure = Failure::new(
                        FailureKind::Build,
                        format!("secret {id}: not found, and the step requires it"),
                    );
                    return Err(failure
                        .hint(format!("give --secret id={id},src=PATH"))
                        .into());
                }
                return Ok(None);
            };
            if let Some(name) = env {
                prepared.secret_env.push((name.clone(), content.clone()));
            }
            if !file {
                return Ok(None);
            }
            Kind::File {
                content: content.clone(),
                mode: *mode,
                uid: *uid,
                gid: *gid,
            }
        }
        MountKind::Ssh {
            required: false, ..
        } => return Ok(None),
        MountKind::Ssh { .. } => {
            let message = "RUN --mount=type=ssh is not implemented yet";
            return Err(Failure::new(FailureKind::Usage, message).into());
        }
    }))
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
    }
}

/// `name=soft[:hard]`, `-1` for no limit.
fn rlimits(given: &[String]) -> Result<Vec<(Resource, u64, u64)>, Failure> {
    given.iter().map(|text| rlimit(text)).collect()
}

fn rlimit(text: &str) -> Result<(Resource, u64, u64), Failure> {
    let invalid = || {
        let message = format!("--ulimit {text}: not of the form NAME=SOFT[:HARD]");
        Failure::new(FailureKind::Usage, message)
    };
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        digits => digits.parse().map_err(|_| invalid()),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let resource = match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return Err(invalid().hint("names are those of ulimit, such as nofile and nproc")),
    };
    Ok((resource, number(soft)?, number(hard)?))
}
