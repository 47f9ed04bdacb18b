//! `RUN`: a command in a container on top of its base, its changes made into a layer.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use graph::op;
use graph::{Cancel, Event, NodeId};
use rustix::fs::{CWD, Mode, Timespec, Timestamps};
use sandbox::spec as container;
use serde::{Deserialize, Serialize};
use store::diff::{Below, changes};
use store::layer::LayerDraft;
use store::scan::{StepClock, scan};
use store::tree::Entry;
use store::view::View;

use super::copy::{Identity, ImageUsers};
use super::copying::TreeFiles;
use super::executor::{Engine, Made, Output, StepError};
use super::layers::Tree;
use super::mounts;
use crate::failure::{Failure, FailureKind};

/// What all `RUN`s of a build have in common.
#[derive(Debug, Default)]
pub(crate) struct RunSettings {
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
    /// What `--network` of the build says.
    pub(crate) resolv_conf: Vec<u8>,
}

/// What a step used; see [`container::Usage`] for the meaning and units.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UsageRecord {
    user_ms: u64,
    system_ms: u64,
    peak_rss: u64,
    read_bytes: u64,
    written_bytes: u64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&container::Usage> for UsageRecord {
    fn from(usage: &container::Usage) -> Self {
        Self {
            user_ms: millis(usage.user_cpu),
            system_ms: millis(usage.system_cpu),
            peak_rss: usage.peak_rss,
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
        }
    }
}

pub(super) fn run(
    engine: &Engine,
    id: NodeId,
    op: &op::Run,
    inputs: &[Output],
    base: &Tree,
    cancel: &Cancel,
) -> Result<Made, StepError> {
    refuse_unimplemented(op)?;
    let owners = engine.layers.owners()?;
    let view = engine.layers.view(base)?;
    let files = TreeFiles {
        layers: &engine.layers,
        tree: base,
    };
    let identity = ImageUsers::new(&view, &files)
        .identity(&op.user)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let lowers = engine.layers.lowers(base)?;
    let draft = engine.layers.store.layer_draft()?;
    let start = prepare_root(&draft, op.epoch)?;
    let mounts = mounts::prepare(engine, op, inputs)?;
    let spec = spec(op, &draft, lowers, &identity, mounts);
    let outcome = execute(engine, id, &spec, cancel)?;
    drop(spec);
    check_status(op, &outcome.status)?;
    let clock = StepClock {
        start,
        end: now(),
        epoch: op.epoch,
    };
    let items = scan(&draft.files(), owners, Some(&clock))
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let items = super::settle::settle(items, &draft.files(), &clock)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let items = changes(items, &ViewBelow(&view))?;
    let layer = engine.layers.add_as_directory(items, &draft)?;
    Ok(Made {
        layer,
        usage: Some((&outcome.usage).into()),
    })
}

fn refuse_unimplemented(op: &op::Run) -> Result<(), Failure> {
    let what = if op.insecure {
        "RUN --security=insecure"
    } else if !op.devices.is_empty() {
        "RUN --device"
    } else {
        return Ok(());
    };
    Err(Failure::new(
        FailureKind::Usage,
        format!("{what} is not implemented yet"),
    ))
}

/// Gives the fresh upper directory the metadata that the step sees for `/`, and tells the time on
/// the file system's own clock.
fn prepare_root(draft: &LayerDraft, epoch: i64) -> Result<(i64, i64), Failure> {
    let path = draft.files();
    let io = |e: rustix::io::Errno| Failure::from(store::Error::io("prepare", &path)(e));
    let stat = rustix::fs::stat(&path).map_err(io)?;
    rustix::fs::chmod(&path, Mode::from_raw_mode(0o755)).map_err(io)?;
    let time = Timespec {
        tv_sec: epoch,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).map_err(io)?;
    #[allow(clippy::cast_possible_wrap, reason = "nanoseconds are below 2^30")]
    Ok((stat.st_mtime, stat.st_mtime_nsec as i64))
}

fn now() -> (i64, i64) {
    // File times come from a clock of tick resolution, never ahead of this one.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        i64::from(since.subsec_nanos()),
    )
}

fn spec(
    op: &op::Run,
    draft: &LayerDraft,
    lowers: Vec<PathBuf>,
    identity: &Identity,
    prepared: mounts::Prepared,
) -> container::Spec {
    container::Spec {
        root: container::Root::Overlay {
            lowers,
            upper: draft.files(),
            work: draft.work(),
        },
        argv: op.args.iter().map(OsString::from).collect(),
        env: environment(op, identity, prepared.secret_env),
        cwd: PathBuf::from(&op.cwd),
        user: container::Credentials {
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups.clone(),
        },
        hostname: op.hostname.clone(),
        network: match op.network {
            op::Network::None => container::Network::None,
            op::Network::Default | op::Network::Host => container::Network::Host,
        },
        mounts: prepared.mounts,
        privileges: container::Privileges::Default,
        shm_size: op.shm_size,
        rlimits: prepared.rlimits,
        timeout: None,
    }
}

/// Rules R01, W13: the step's own, proxies, secrets (which win), and a HOME.
fn environment(
    op: &op::Run,
    identity: &Identity,
    secrets: Vec<(String, Vec<u8>)>,
) -> Vec<(OsString, OsString)> {
    use std::os::unix::ffi::OsStringExt;
    let plain = |(name, value): &(String, String)| (name.clone(), value.clone().into_bytes());
    let mut env: Vec<(String, Vec<u8>)> = op.env.iter().map(plain).collect();
    for (name, value) in op.proxy_env.iter().map(plain).chain(secrets) {
        match env.iter_mut().find(|(n, _)| *n == name) {
            Some(old) => old.1 = value,
            None => env.push((name, value)),
        }
    }
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), identity.home.clone().into_bytes()));
    }
    env.into_iter()
        .map(|(n, v)| (n.into(), OsString::from_vec(v)))
        .collect()
}

fn execute(
    engine: &Engine,
    id: NodeId,
    spec: &container::Spec,
    cancel: &Cancel,
) -> Result<container::Outcome, StepError> {
    let stop = Arc::new(sandbox::Cancel::new().map_err(|e| Failure::from(&e))?);
    let hook = stop.clone();
    cancel.on_cancel(move || hook.cancel());
    let mut sink = |stream: container::Stream, bytes: &[u8]| {
        let stream = match stream {
            container::Stream::Stdout => graph::event::Stream::Stdout,
            container::Stream::Stderr => graph::event::Stream::Stderr,
        };
        (engine.events)(Event::Output {
            node: id,
            stream,
            bytes: bytes.to_vec(),
        });
    };
    sandbox::run(spec, &mut sink, &stop).map_err(|e| Failure::from(&e).into())
}

fn check_status(op: &op::Run, status: &container::Status) -> Result<(), StepError> {
    let what = match status {
        container::Status::Exited(0) => return Ok(()),
        container::Status::Exited(code) => format!("exit code: {code}"),
        // As a shell would say it.
        container::Status::Signalled(signal) => {
            format!("exit code: {} (killed by signal {signal})", 128 + signal)
        }
        container::Status::TimedOut => "timed out".to_owned(),
        container::Status::Cancelled => return Err(StepError::Cancelled),
    };
    let command = op.args.join(" ");
    let message = format!("process \"{command}\" did not complete successfully: {what}");
    Err(Failure::new(FailureKind::Build, message).into())
}

/// What lies below the step's own changes.
struct ViewBelow<'a>(&'a View);

impl Below for ViewBelow<'_> {
    fn entry(&self, path: &[u8]) -> Option<Entry> {
        let found = self.0.lookup(path)?;
        let file = self.0.file_of(found).unwrap_or(found);
        Some(file.entry.clone())
    }

    fn names(&self, path: &[u8]) -> Vec<Vec<u8>> {
        self.0
            .children(path)
            .iter()
            .map(|child| child.name().to_vec())
            .collect()
    }
}

/// The host's DNS settings for `/etc/resolv.conf` of steps (rule R10). Steps share the host's
/// network, so they are taken as they are.
pub(crate) fn host_resolv_conf() -> Vec<u8> {
    std::fs::read("/etc/resolv.conf").unwrap_or_default()
}

/// Rule R09.
pub(super) fn hosts(op: &op::Run) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {}\n", op.hostname);
    text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in op.extra_hosts.iter().zip(&op.extra_host_addresses) {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text.into_bytes()
}
