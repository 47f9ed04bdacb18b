//! `RUN`: a command in a container on top of its base, its changes made into a layer.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use graph::op;
use graph::{Cancel, Event, NodeId};
use sandbox::emulate::InodeOwner;
use sandbox::spec as container;
use serde::{Deserialize, Serialize};
use store::content::Item;
use store::diff::{Below, changes};
use store::scan::StepClock;
use store::tree::{Entry, Kind};
use store::view::View;

use super::cgroup::{self, Cgroups, StepGroup};
use super::copy::users::NumbersOnly;
use super::copy::{Identity, ImageUsers, plan_workdir};
use super::copying::{self, TreeFiles};
use super::dns::ResolvConf;
use super::emulation;
use super::executor::{Engine, Made, Output, StepError};
use super::layers::Tree;
use super::limits;
use super::logs::Logs;
use super::mounts;
use super::output::StepOutput;
use super::rootfs::StepRoot;
use super::secrets::{Leaks, MOUNTED_MIN, Secrets};
use super::settle;
use crate::failure::{Failure, FailureKind};
use crate::request::StepLimits;

/// What all `RUN`s of a build have in common.
pub(crate) struct RunSettings {
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) resolv_conf: ResolvConf,
    pub(crate) limits: StepLimits,
    /// When the limits need them.
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) logs: Arc<Logs>,
    /// The number of a step in the report.
    pub(crate) number: Box<dyn Fn(NodeId) -> usize + Send + Sync>,
}

impl fmt::Debug for RunSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSettings")
            .field("secrets", &self.secrets)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What a step used; see [`container::Usage`] for the meaning and units.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UsageRecord {
    user_ms: u64,
    system_ms: u64,
    /// Bytes: of all processes together when they had a control group, else of the largest one.
    peak_rss: u64,
    read_bytes: u64,
    written_bytes: u64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl UsageRecord {
    fn new(usage: &container::Usage, group: Option<&StepGroup>) -> Self {
        Self {
            user_ms: millis(usage.user_cpu),
            system_ms: millis(usage.system_cpu),
            peak_rss: group
                .and_then(StepGroup::peak_memory)
                .unwrap_or(usage.peak_rss),
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
        }
    }

    fn event(&self, node: NodeId) -> Event {
        Event::Usage {
            node,
            cpu: Duration::from_millis(self.user_ms.saturating_add(self.system_ms)),
            peak_memory: Some(self.peak_rss).filter(|bytes| *bytes > 0),
            read: self.read_bytes,
            written: self.written_bytes,
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
    let privileges = privileges(op)?;
    engine.layers.unpack_unknown(base);
    let view = engine.layers.view(base)?;
    let files = TreeFiles {
        layers: &engine.layers,
        tree: base,
    };
    let identity = ImageUsers::new(&view, &files)
        .identity(&op.user)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let root = engine.roots.prepare(engine, base, op.epoch)?;
    make_working_directory(engine, op, &view, &identity, &root)?;
    let mut prepared = mounts::prepare(engine, id, op, inputs)?;
    // Until the command has ended.
    let leases = std::mem::take(&mut prepared.leases);
    let agents = std::mem::take(&mut prepared.agents);
    let cgroups = engine.run.cgroups.as_ref();
    let group = cgroups.map(Cgroups::step).transpose()?;
    let mut spec = container::Spec {
        network: network(engine, op),
        privileges,
        processes: engine.roots.processes,
        timeout: engine.run.limits.timeout,
        cgroups: group.iter().flat_map(StepGroup::directories).collect(),
        emulation: emulation::prepare(engine, base, &root.spec(), &agents)?,
        ..spec(op, &root, &identity, prepared)
    };
    let (usage, owners) = execute(engine, id, op, (&spec, &root), group.as_ref(), cancel)?;
    let told = spec.emulation.take().map(|emulation| emulation.inodes);
    let told = told.unwrap_or_default();
    drop((spec, leases, agents, group));
    let (mut items, clock) = root.changes(engine, op.epoch)?;
    emulation::apply(&told, &owners, &mut items, &root.files());
    let items = settled(engine, (op, base, &view), &root, items, clock)?;
    let items = changes(items, &ViewBelow(&view))?;
    let leaks = Leaks::find(&engine.run.secrets, secret_ids(op), MOUNTED_MIN, &items)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    leaks.check(&engine.run.secrets)?;
    let layer = root.into_layer(engine, base, items)?;
    Ok(Made {
        layer,
        usage: Some(usage),
        secrets: leaks.ids().map(str::to_owned).collect(),
    })
}

/// A working directory that is not there (an earlier step removed it) is made again, with its
/// parents, and belongs to the user of the step (rule R03). One in a mount is left to the mount.
fn make_working_directory(
    engine: &Engine,
    op: &op::Run,
    view: &View,
    identity: &Identity,
    root: &StepRoot,
) -> Result<(), Failure> {
    let cwd = Path::new(&op.cwd);
    let is_mounted = |mount: &op::Mount| !mount.target.is_empty() && cwd.starts_with(&mount.target);
    if op.mounts.iter().any(is_mounted) {
        return Ok(());
    }
    let workdir = op::Workdir {
        path: op.cwd.clone(),
        user: format!("{}:{}", identity.uid, identity.gid),
        epoch: op.epoch,
    };
    // What is in the way is told when the step is there.
    match plan_workdir(&workdir, view, &NumbersOnly) {
        Ok(planned) if !planned.items.is_empty() => root.add_directories(engine, &planned.items),
        _ => Ok(()),
    }
}

/// `items` without what only the time and the place of the step made.
fn settled(
    engine: &Engine,
    (op, base, view): (&op::Run, &Tree, &View),
    root: &StepRoot,
    items: Vec<Item>,
    clock: StepClock,
) -> Result<Vec<Item>, Failure> {
    let read = |path: &[u8]| {
        let mut bytes = Vec::new();
        if let Some(found) = view.lookup(path)
            && let Some(file) = view.file_of(found)
            && matches!(file.entry.kind, Kind::File { .. })
        {
            let reader = copying::open(&engine.layers, base, &file)?;
            reader.take(settle::SIZE_MAX).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let step = settle::Step {
        clock,
        view,
        read: &read,
        args: &op.args,
        base: base.digest(),
    };
    let place = settle::Place {
        directory: &root.files(),
        is_plain: root.is_plain(),
        owners: engine.layers.owners()?,
    };
    settle::settle(items, &place, &step).map_err(|e| Failure::of(FailureKind::Build, &e))
}

/// The secrets that a step has.
fn secret_ids(op: &op::Run) -> impl Iterator<Item = &str> {
    op.mounts.iter().filter_map(|mount| match &mount.kind {
        op::MountKind::Secret { id, .. } => Some(id.as_str()),
        _ => None,
    })
}

/// Rule R33: whether the build allows it was asked when the plan was made.
fn privileges(op: &op::Run) -> Result<container::Privileges, Failure> {
    if !op.devices.is_empty() {
        let message = "RUN --device is not supported";
        return Err(Failure::new(FailureKind::Usage, message));
    }
    if !op.insecure {
        return Ok(container::Privileges::Default);
    }
    if cgroup::is_real_root() {
        return Ok(container::Privileges::Insecure);
    }
    let message = "RUN --security=insecure needs the real root: in the user namespace of an \
                   ordinary user there are no further privileges to give";
    Err(Failure::new(FailureKind::Environment, message).hint("run layercake as root"))
}

fn network(engine: &Engine, op: &op::Run) -> container::Network {
    match op.network {
        op::Network::None => container::Network::None,
        op::Network::Sandbox => container::Network::Sandbox {
            forward_dns: engine.run.resolv_conf.needs_forwarding(),
        },
        op::Network::Default | op::Network::Host => container::Network::Host,
    }
}

fn spec(
    op: &op::Run,
    root: &StepRoot,
    identity: &Identity,
    prepared: mounts::Prepared,
) -> container::Spec {
    container::Spec {
        root: root.spec(),
        argv: op.args.iter().map(OsString::from).collect(),
        env: environment(op, identity, prepared.secret_env),
        cwd: PathBuf::from(&op.cwd),
        user: container::Credentials {
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups.clone(),
        },
        hostname: op.hostname.clone(),
        network: container::Network::Host,
        processes: container::Processes::Own,
        mounts: prepared.mounts,
        privileges: container::Privileges::Default,
        shm_size: op.shm_size,
        rlimits: prepared.rlimits,
        timeout: None,
        cgroups: Vec::new(),
        emulation: None,
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
    let home = identity.home.clone().into_bytes();
    match env.iter_mut().find(|(name, _)| name == "HOME") {
        // As in runc, which sets it when it is empty as well.
        Some((_, value)) if value.is_empty() => *value = home,
        Some(_) => {}
        None => env.push(("HOME".to_owned(), home)),
    }
    env.into_iter()
        .map(|(n, v)| (n.into(), OsString::from_vec(v)))
        .collect()
}

/// Runs the command; an error unless it succeeded. Returns what it used, and owners of files that
/// cannot carry them.
fn execute(
    engine: &Engine,
    id: NodeId,
    op: &op::Run,
    (spec, root): (&container::Spec, &StepRoot),
    group: Option<&StepGroup>,
    cancel: &Cancel,
) -> Result<(UsageRecord, Vec<InodeOwner>), StepError> {
    let stop = Arc::new(sandbox::Cancel::new().map_err(|e| Failure::from(&e))?);
    // Hooks stay until the build ends; a descriptor for each step that ever ran may not.
    let hook = Arc::downgrade(&stop);
    cancel.on_cancel(move || {
        if let Some(stop) = hook.upgrade() {
            stop.cancel();
        }
    });
    let mut output = StepOutput::new(engine, id);
    let mut sink = |stream: container::Stream, bytes: &[u8]| {
        let stream = match stream {
            container::Stream::Stdout => graph::event::Stream::Stdout,
            container::Stream::Stderr => graph::event::Stream::Stderr,
        };
        if !output.take(stream, bytes) {
            stop.cancel();
        }
    };
    let outcome = if engine.roots.is_chroot() {
        root.with_scratch(|scratch| sandbox::chroot::run(spec, scratch, &mut sink, &stop))?
    } else {
        sandbox::run(spec, &mut sink, &stop)
    };
    let outcome = outcome.map_err(|e| Failure::from(&e))?;
    output.finish()?;
    let usage = UsageRecord::new(&outcome.usage, group);
    (engine.events)(usage.event(id));
    if outcome.status == container::Status::Cancelled {
        return Err(StepError::Cancelled);
    }
    let oom_kills = group.map_or(0, StepGroup::oom_kills);
    let Some(why) = engine.run.limits.explain(&outcome.status, oom_kills) else {
        return Ok((usage, outcome.owners));
    };
    let command = op.args.join(" ");
    let message = format!("process {command:?} did not complete successfully: {why}");
    let mut failure = Failure::new(FailureKind::Build, message);
    if oom_kills == 0 && limits::is_mysterious_kill(&outcome.status) {
        failure = failure.hint(
            "layercake did not kill it: unless it did so itself, the machine was out of memory \
             (see dmesg)",
        );
    }
    if let Some(path) = output.path() {
        failure = failure.hint(format!("all of its output is in {}", path.display()));
    }
    Err(failure.into())
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

/// Rule R09.
pub(super) fn hosts(op: &op::Run) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {}\n", op.hostname);
    text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in op.extra_hosts.iter().zip(&op.extra_host_addresses) {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text.into_bytes()
}
