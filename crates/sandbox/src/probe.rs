//! What this machine allows, each with a remedy. Everything is tried, not guessed from versions
//! and settings: a security module may refuse what a setting allows.

use std::fs::{File, FileTimes, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use crate::child::{Failure, Program};
use crate::emulate::{self, Emulation, Emulator};
use crate::error::{Error, Step};
use crate::inside::{Inside, Isolation, Launcher};
use crate::plan::{Command, Op, stage_paths};
use crate::spec::{Credentials, Processes, Root};
use crate::stage::Stage;
use crate::sys::{self, CStringArray};
use crate::{idmap, network, overlay, seccomp, watch};

/// The first argument of the process that [`probe`] starts inside.
pub const ARGUMENT: &str = "__layercake-probe";

/// As many ids as images use: those of a 16-bit id space, less the overflow id.
const IDS_USUAL: u32 = 65_535;

/// One thing that steps need or could use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was tried, in words that a user knows.
    pub name: &'static str,
    pub ok: bool,
    /// Without it nothing runs; otherwise only something is lost.
    pub required: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it, if it is not `ok`.
    pub remedy: Option<String>,
}

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What a build needs to know to go on.
    Decision,
    All,
}

/// [`Extent::All`] as an argument.
const ALL: &str = "all";

/// What is tried inside: the name, whether it is required, how.
type Trial = (
    &'static str,
    bool,
    fn(&Inside, &Path) -> Result<String, Trouble>,
);

/// In the order in which a step needs it.
const IN_NAMESPACES: &[Trial] = &[
    ("id range", false, id_range),
    ("mounts", true, mounts),
    (FILES, true, file_system),
    ("owners", true, give_away),
    ("extended attributes", false, attributes),
    (OVERLAY, false, overlay_works),
    (PROC, true, proc),
    ("signals", false, signal_scope),
    ("host name", false, host_name),
    ("network namespace", false, network_namespace),
    ("seccomp", true, seccomp_filter),
    (SANDBOX_NETWORK, false, sandbox_network),
];

/// The same where there is only one id, with what the emulation of others needs.
const WITH_ONE_ID: &[Trial] = &[
    ("mounts", true, mounts),
    (FILES, true, file_system),
    (OVERLAY, false, overlay_works),
    (PROC, true, proc),
    ("signals", false, signal_scope),
    ("host name", false, host_name),
    ("network namespace", false, network_namespace),
    ("seccomp", true, seccomp_filter),
    ("extended attributes", true, attributes),
    ("supervisor", true, supervisor),
    (SANDBOX_NETWORK, false, sandbox_network),
];

/// What a step needs that has neither mounts nor namespaces.
const IN_CHROOT: &[Trial] = &[
    ("chroot", true, change_root),
    ("device nodes", true, device_nodes),
    (FILES, true, file_system),
    ("owners", true, give_away),
    ("extended attributes", false, attributes),
    ("host name", false, host_name),
];

/// The host name that steps of a Dockerfile have (rule R09).
const HOST_NAME: &str = "buildkitsandbox";

/// What decides whether a store can be in a directory at all.
const FILES: &str = "file system";

/// The probe that decides between [`Processes::Own`] and [`Processes::Host`].
pub const PROC: &str = "/proc";

/// The probe that takes as long as a build (50 ms) and decides nothing, so the last one.
const SANDBOX_NETWORK: &str = "sandbox network";

/// The probe that decides between overlays and plain directories.
pub const OVERLAY: &str = "overlay";

const fn trials(isolation: Isolation) -> &'static [Trial] {
    match isolation {
        Isolation::Chroot => IN_CHROOT,
        Isolation::SingleId => WITH_ONE_ID,
        _ => IN_NAMESPACES,
    }
}

/// Why something does not work, and what helps.
struct Trouble {
    detail: String,
    remedy: String,
}

impl Trouble {
    fn new(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            remedy: remedy.into(),
        }
    }

    fn of(error: &Error, remedy: &str) -> Self {
        Self::new(
            chain(error),
            error.remedy().unwrap_or_else(|| remedy.to_owned()),
        )
    }
}

/// The ways in that this process could take, the best first. Whether one works is for
/// [`try_inside`] to find out.
#[must_use]
pub fn candidates() -> Vec<Isolation> {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective.bits());
    let may_mount = effective.unwrap_or(0) & (1 << crate::caps::SYS_ADMIN) != 0;
    match (rustix::process::geteuid().is_root(), may_mount) {
        (true, true) => vec![Isolation::Root, Isolation::UserNamespace, Isolation::Chroot],
        (true, false) => vec![Isolation::UserNamespace, Isolation::Chroot],
        (false, _) => vec![Isolation::UserNamespace, Isolation::SingleId],
    }
}

/// Enters as a build with `isolation` and `processes` would and tries there, with real operations, what steps need.
/// `directory` is one of the store's, for what depends on the file system.
///
/// The calling program must call [`crate::inside::enter`] first in `main` and, when the first of
/// [`Inside::args`] is [`ARGUMENT`], exit with what [`run_inside`] returns.
///
/// # Errors
/// When it is not possible to enter.
pub fn try_inside(
    isolation: Isolation,
    processes: Processes,
    directory: &Path,
    extent: Extent,
) -> Result<Vec<Probe>, Error> {
    if isolation == Isolation::Chroot && !rustix::process::geteuid().is_root() {
        return Err(Error::Unsupported {
            what: "a build by another user than root",
        });
    }
    let (mut reader, writer) = std::io::pipe().map_err(|error| Step::Pipe.error(error))?;
    let extent = match extent {
        Extent::Decision => "",
        Extent::All => ALL,
    };
    let running = Launcher::new([ARGUMENT.as_ref(), directory.as_os_str(), extent.as_ref()])
        .isolation(Some(isolation))
        .processes(processes)
        .fd(writer)
        .spawn()?;
    let mut text = String::new();
    let read = reader.read_to_string(&mut text);
    running.wait_only()?;
    read.map_err(|error| Step::Pipe.error(error))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// What does not depend on the way in.
#[must_use]
pub fn surroundings() -> Vec<Probe> {
    let mut probes = Vec::new();
    if !rustix::process::geteuid().is_root() {
        probes.push(as_probe(SUBORDINATE_IDS, false, subordinate_ids()));
    }
    probes.push(as_probe("cgroup delegation", false, cgroup_delegation()));
    probes
}

const SUBORDINATE_IDS: &str = "subordinate ids";
const USER_NAMESPACES: &str = "user namespaces";
const ENTER: &str = "enter namespaces";

/// Every name that a [`Probe`] or [`topic`] can have, for documentation.
#[must_use]
pub fn topics() -> Vec<&'static str> {
    let trials = [IN_NAMESPACES, WITH_ONE_ID, IN_CHROOT]
        .into_iter()
        .flatten();
    let others = [SUBORDINATE_IDS, USER_NAMESPACES, ENTER, "cgroup delegation"];
    trials.map(|(name, ..)| *name).chain(others).collect()
}

/// What an error of [`try_inside`] is about.
#[must_use]
pub fn topic(error: &Error) -> &'static str {
    match error {
        Error::NoSubordinateIds { .. }
        | Error::SubordinateFile { .. }
        | Error::HelperMissing { .. }
        | Error::HelperNotSetuid { .. }
        | Error::HelperFailed { .. }
        | Error::WriteMap { .. } => SUBORDINATE_IDS,
        Error::UserNamespace { .. } => USER_NAMESPACES,
        _ => ENTER,
    }
}

/// Tries everything, with `directory` (of the store) for what depends on the file system. What a
/// failure makes impossible to try is left out.
///
/// The calling program must call [`crate::inside::enter`] first in `main` and, when the first of
/// [`Inside::args`] is [`ARGUMENT`], exit with what [`run_inside`] returns.
pub fn probe(directory: &Path) -> Vec<Probe> {
    let mut probes = Vec::new();
    if !rustix::process::geteuid().is_root() {
        probes.push(required(SUBORDINATE_IDS, subordinate_ids()));
    }
    let isolation = candidates()
        .first()
        .copied()
        .unwrap_or(Isolation::UserNamespace);
    match try_inside(isolation, Processes::Own, directory, Extent::All) {
        Ok(found) => {
            probes.push(required(ENTER, Ok("works".to_owned())));
            probes.extend(found);
        }
        Err(error) => {
            let trouble = Trouble::of(&error, "see the error");
            probes.push(required(ENTER, Err(trouble)));
        }
    }
    probes.push(as_probe("cgroup delegation", false, cgroup_delegation()));
    probes
}

fn required(name: &'static str, result: Result<String, Trouble>) -> Probe {
    as_probe(name, true, result)
}

fn as_probe(name: &'static str, required: bool, result: Result<String, Trouble>) -> Probe {
    let ok = result.is_ok();
    let (detail, remedy) = match result {
        Ok(detail) => (detail, None),
        Err(Trouble { detail, remedy }) => (detail, Some(remedy)),
    };
    Probe {
        name,
        ok,
        required,
        detail,
        remedy,
    }
}

/// Separates the fields of a line; no detail or remedy has it.
const SEPARATOR: char = '\u{1f}';

/// In a line, of a trial that is required.
const REQUIRED: &str = "required";

fn parse(line: &str) -> Option<Probe> {
    let mut fields = line.splitn(4, SEPARATOR);
    let mut field = || fields.next();
    let (name, required, detail, remedy) = (field()?, field()?, field()?, field()?);
    let name = topics().into_iter().find(|topic| *topic == name)?;
    let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
    Some(Probe {
        name,
        ok: remedy.is_none(),
        required: required == REQUIRED,
        detail: detail.to_owned(),
        remedy,
    })
}

/// The inner half of [`probe`]; returns the exit code.
pub fn run_inside(inside: &Inside) -> u8 {
    let Some(writer) = inside.fds.first().and_then(|fd| fd.try_clone().ok()) else {
        return 1;
    };
    let directory = inside.args.get(1).map(PathBuf::from).unwrap_or_default();
    let mut writer = File::from(writer);
    let all = inside.args.get(2).is_some_and(|extent| extent == ALL);
    for (name, required, attempt) in trials(inside.isolation) {
        if *name == SANDBOX_NETWORK && !all {
            continue;
        }
        let (detail, remedy) = match attempt(inside, &directory) {
            Ok(detail) => (detail, String::new()),
            Err(Trouble { detail, remedy }) => (detail, remedy),
        };
        let one_line = |text: String| text.replace(['\n', SEPARATOR], " ");
        let (detail, remedy) = (one_line(detail), one_line(remedy));
        let line = [
            *name,
            if *required { REQUIRED } else { "" },
            &detail,
            &remedy,
        ];
        let line = line.join(&SEPARATOR.to_string()) + "\n";
        if writer.write_all(line.as_bytes()).is_err() {
            return 1;
        }
    }
    0
}

fn subordinate_ids() -> Result<String, Trouble> {
    let (uids, gids) = idmap::available().map_err(|error| Trouble::of(&error, ""))?;
    Ok(format!(
        "{uids} user ids and {gids} group ids with the own ones"
    ))
}

fn id_range(inside: &Inside, _: &Path) -> Result<String, Trouble> {
    let (uids, gids) = (inside.uids, inside.gids);
    let detail = format!("{uids} user ids and {gids} group ids can be used in images");
    let is_enough = matches!(inside.isolation, Isolation::Root | Isolation::SingleId);
    if is_enough || uids.min(gids) >= IDS_USUAL {
        Ok(detail)
    } else {
        let remedy = "give the user 65536 subordinate ids in /etc/subuid and /etc/subgid";
        Err(Trouble::new(detail, remedy))
    }
}

fn mounts(_: &Inside, _: &Path) -> Result<String, Trouble> {
    let remedy = "a container around this one, or a security module, refuses mounts";
    Stage::get().map_err(|error| Trouble::of(&error, remedy))?;
    Ok("device nodes, /sys and tmpfs can be mounted".to_owned())
}

/// Mounts an overlay in `directory` and checks that removals are recorded.
fn overlay_works(_: &Inside, directory: &Path) -> Result<String, Trouble> {
    let remedy = "keep the store on a local file system such as ext4, xfs or btrfs, \
                  with Linux 5.11 or later";
    let scratch = directory.join(scratch_name());
    let result = try_overlay(&scratch).map_err(|detail| Trouble::new(detail, remedy));
    // Nothing to be done if it cannot be removed; the name says what it is.
    let _ = std::fs::remove_dir_all(&scratch);
    result
}

fn unique() -> u128 {
    std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}

fn try_overlay(scratch: &Path) -> Result<String, String> {
    let io = |error: std::io::Error| format!("{}: {error}", scratch.display());
    let kernel = |errno: rustix::io::Errno| format!("change the overlay: {errno}");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.join(name));
    std::fs::create_dir_all(lower.join("directory")).map_err(io)?;
    std::fs::write(lower.join("file"), "").map_err(io)?;
    for path in [&upper, &work] {
        std::fs::create_dir(path).map_err(io)?;
    }
    let layers = Some((upper.as_path(), work.as_path()));
    let merged = overlay::overlay(&[&lower], layers, MountAttrFlags::empty())
        .map_err(|error| chain(&error))?;
    rustix::fs::unlinkat(&merged, "file", AtFlags::empty()).map_err(kernel)?;
    rustix::fs::unlinkat(&merged, "directory", AtFlags::REMOVEDIR).map_err(kernel)?;
    rustix::fs::mkdirat(&merged, "directory", Mode::from_raw_mode(0o755)).map_err(kernel)?;
    drop(merged);
    let stat =
        rustix::fs::statat(CWD, upper.join("file"), AtFlags::SYMLINK_NOFOLLOW).map_err(kernel)?;
    let is_whiteout =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0;
    let mut value = [0_u8; 8];
    let opaque = rustix::fs::lgetxattr(upper.join("directory"), "user.overlay.opaque", &mut value);
    if !is_whiteout || opaque != Ok(1) {
        return Err("removals are not recorded as whiteouts".to_owned());
    }
    Ok(format!(
        "works in {}",
        scratch.parent().unwrap_or(scratch).display()
    ))
}

/// Tries it in a child, as a step does.
fn change_root(_: &Inside, directory: &Path) -> Result<String, Trouble> {
    use std::os::fd::AsFd;
    let remedy = "give the container the capability SYS_CHROOT (docker run --cap-add SYS_CHROOT)";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, directory, flags, Mode::empty())
        .map_err(|errno| Trouble::new(errno.to_string(), "set LAYERCAKE_ROOT"))?;
    let operation = Op::ChangeRoot { root: root.as_fd() };
    carry_out(vec![operation], 0, remedy)?;
    Ok("works".to_owned())
}

/// Makes /dev/null once more and opens it.
fn device_nodes(_: &Inside, directory: &Path) -> Result<String, Trouble> {
    let remedy = "give the container the capability MKNOD (docker run --cap-add MKNOD), and keep \
                  the store on a file system that is not mounted nodev";
    let path = directory.join(scratch_name());
    let attempt = || {
        std::fs::create_dir(&path)?;
        let open = rustix::fs::openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        crate::devices::make_node(&open, "null", 1, 3)?;
        std::fs::write(path.join("null"), "x")
    };
    let result = attempt();
    // Nothing to be done if it cannot be removed; the name says what it is.
    let _ = std::fs::remove_dir_all(&path);
    match result {
        Ok(()) => Ok("can be made and opened".to_owned()),
        Err(error) => Err(Trouble::new(error.to_string(), remedy)),
    }
}

/// Gives a file to another user, and looks whether it is there: some file systems say yes to
/// everything.
fn give_away(inside: &Inside, directory: &Path) -> Result<String, Trouble> {
    if inside.uids.min(inside.gids) < 2 {
        return Ok("there is one id only".to_owned());
    }
    let remedy = "give the container the capability CHOWN, and keep the store on a file system \
                  that keeps owners";
    let path = directory.join(scratch_name());
    let attempt = || {
        std::fs::write(&path, "")?;
        std::os::unix::fs::chown(&path, Some(1), Some(1))?;
        std::fs::metadata(&path)
    };
    let result = attempt();
    let _ = std::fs::remove_file(&path);
    match result {
        Ok(found) if (found.uid(), found.gid()) == (1, 1) => {
            Ok("files can be given to other users".to_owned())
        }
        Ok(_) => Err(Trouble::new("files keep their owner", remedy)),
        Err(error) => Err(Trouble::new(error.to_string(), remedy)),
    }
}

/// What of a file must be there when it is read again, or images would lose it.
fn file_system(_: &Inside, directory: &Path) -> Result<String, Trouble> {
    let remedy = "keep the store on a local file system such as ext4, xfs, btrfs or tmpfs";
    let scratch = directory.join(scratch_name());
    let result = std::fs::create_dir(&scratch).and_then(|()| lost(&scratch));
    // As for the overlay.
    let _ = std::fs::remove_dir_all(&scratch);
    match result {
        Ok(None) => Ok(format!("{} keeps all of a file", directory.display())),
        Ok(Some(what)) => Err(Trouble::new(format!("it has no {what}"), remedy)),
        Err(error) => Err(Trouble::new(error.to_string(), remedy)),
    }
}

/// The first thing that a directory does not keep.
fn lost(scratch: &Path) -> std::io::Result<Option<&'static str>> {
    let [file, link, name, other] = ["file", "link", "name", "NAME"].map(|n| scratch.join(n));
    std::fs::write(&file, "x")?;
    std::fs::set_permissions(&file, Permissions::from_mode(0o4751))?;
    if std::fs::metadata(&file)?.mode() & 0o7777 != 0o4751 {
        return Ok(Some("modes"));
    }
    let time = UNIX_EPOCH + Duration::from_secs(315_619_201);
    let times = FileTimes::new().set_accessed(time).set_modified(time);
    File::open(&file)?.set_times(times)?;
    if std::fs::metadata(&file)?.modified()? != time {
        return Ok(Some("times to the second"));
    }
    if std::fs::hard_link(&file, &link).is_err() {
        return Ok(Some("hard links"));
    }
    let linked = std::fs::metadata(&link)?;
    if (linked.nlink(), linked.ino()) != (2, std::fs::metadata(&file)?.ino()) {
        return Ok(Some("hard links that can be told from copies"));
    }
    std::fs::write(&name, "")?;
    if other.exists() {
        return Ok(Some("names that differ in case only"));
    }
    if std::os::unix::fs::symlink("target", &other).is_err() {
        return Ok(Some("symbolic links"));
    }
    // The capability to bind low ports: VFS_CAP_REVISION_2 and bit 10 of the permitted ones.
    let capability = [0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::setxattr(&file, "security.capability", &capability, flags);
    // Who lacks the right to set one does not lose any: steps lack it as well.
    if set == Err(rustix::io::Errno::OPNOTSUPP) {
        return Ok(Some("file capabilities (security.* attributes)"));
    }
    Ok(None)
}

fn scratch_name() -> String {
    format!(".layercake-probe-{}-{}", std::process::id(), unique())
}

fn proc(inside: &Inside, _: &Path) -> Result<String, Trouble> {
    let target = stage_paths::ROOT.to_owned();
    if inside.processes == Processes::Host {
        let from = stage_paths::PROC.to_owned();
        attempt(vec![Op::MoveFromStage { from, target }], 0)?;
        let detail = "steps see the one of the container and its processes";
        return Ok(detail.to_owned());
    }
    attempt(
        vec![Op::NewMount {
            filesystem: c"proc",
            target,
        }],
        libc::CLONE_NEWPID,
    )?;
    Ok("a new one can be mounted".to_owned())
}

/// What keeps steps without a pid namespace from signalling others.
fn signal_scope(inside: &Inside, _: &Path) -> Result<String, Trouble> {
    if inside.processes == Processes::Own {
        return Ok("steps reach their own processes only".to_owned());
    }
    let remedy = "Linux 6.12 with Landlock, or a container whose /proc is not masked (see /proc)";
    let Some(ruleset) = watch::scope() else {
        let detail = "no Landlock: steps can signal processes of the same user";
        return Err(Trouble::new(detail, remedy));
    };
    attempt(vec![Op::SignalScope { ruleset }], 0)?;
    Ok("Landlock keeps steps from signalling other processes".to_owned())
}

/// Tries to give a step its name; without that it must be the one of the container already.
fn host_name(_: &Inside, _: &Path) -> Result<String, Trouble> {
    let name = Op::Hostname {
        name: HOST_NAME.into(),
        is_required: true,
    };
    if carry_out(vec![name], libc::CLONE_NEWUTS, "").is_ok() {
        return Ok("steps have their own".to_owned());
    }
    let system = rustix::system::uname();
    let found = system.nodename().to_string_lossy();
    if found == HOST_NAME {
        return Ok(format!(
            "that of the container is {HOST_NAME}, as elsewhere"
        ));
    }
    Err(Trouble::new(
        format!("steps see that of the container, {found}, and not {HOST_NAME}"),
        format!("start the container with --hostname {HOST_NAME}"),
    ))
}

fn network_namespace(_: &Inside, _: &Path) -> Result<String, Trouble> {
    attempt(vec![Op::LoopbackUp], libc::CLONE_NEWNET)?;
    Ok("RUN --network=none works".to_owned())
}

/// A connection as a step gets it.
fn sandbox_network(_: &Inside, _: &Path) -> Result<String, Trouble> {
    network::probe().map_err(|error| Trouble::of(&error, "see the error"))?;
    Ok("builds with --network=sandbox work".to_owned())
}

fn seccomp_filter(_: &Inside, _: &Path) -> Result<String, Trouble> {
    attempt(
        vec![Op::Seccomp {
            filter: seccomp::filter(seccomp::Syncs::Made),
        }],
        0,
    )?;
    Ok("filters can be installed".to_owned())
}

/// Owners are kept in them.
fn attributes(_: &Inside, directory: &Path) -> Result<String, Trouble> {
    let remedy = "keep the store on a file system with user.* attributes, such as ext4, xfs, btrfs, \
                  or tmpfs from Linux 6.6 on";
    let name = format!(".layercake-probe-{}-{}", std::process::id(), unique());
    let path = directory.join(name);
    let trouble = |error: std::io::Error| Trouble::new(error.to_string(), remedy);
    std::fs::write(&path, "").map_err(trouble)?;
    let flags = rustix::fs::XattrFlags::empty();
    let result = rustix::fs::setxattr(&path, "user.layercake.probe", b"1", flags);
    // As for the overlay.
    let _ = std::fs::remove_file(&path);
    result.map_err(|errno| trouble(errno.into()))?;
    Ok(format!("work in {}", directory.display()))
}

/// The supervisor of [`crate::emulate`] gets to see system calls.
fn supervisor(inside: &Inside, _: &Path) -> Result<String, Trouble> {
    let remedy = "it needs Linux 5.9 and an unmasked /proc; a container around this one may refuse \
                  seccomp listeners";
    let emulation = Emulation {
        attribute: "user.layercake.probe",
        encode: |_| Vec::new(),
        decode: |_| None,
        inodes: Arc::default(),
    };
    let user = Credentials::default();
    let root = Root::Plain("/".into());
    let mut emulator = Emulator::start(&emulation, &user, &root, inside.processes)
        .map_err(|error| Trouble::of(&error, remedy))?;
    let result = match emulator.for_child() {
        Some(supervisor) => attempt(
            vec![Op::Notify {
                filter: emulate::filter(false),
                channel: supervisor.channel,
            }],
            0,
        ),
        None => Ok(()),
    };
    emulator.close_channel();
    emulator.finish();
    result?;
    Ok("system calls can be answered".to_owned())
}

/// Carries operations out in a child as those of a step.
fn attempt(operations: Vec<Op<'_>>, namespaces: libc::c_int) -> Result<(), Trouble> {
    let remedy = "a container around this one, or a security module, refuses it";
    let stage = Stage::get().map_err(|error| Trouble::of(&error, remedy))?;
    let mut all = vec![Op::MountNamespace {
        stage: stage.namespace(),
    }];
    all.extend(operations);
    carry_out(all, namespaces, remedy)
}

fn carry_out(
    operations: Vec<Op<'_>>,
    namespaces: libc::c_int,
    remedy: &str,
) -> Result<(), Trouble> {
    // Without a file to execute the child ends after the last operation.
    let none = || CStringArray::new(Vec::new());
    let command = Command {
        candidates: Vec::new(),
        argv: none(),
        envp: none(),
    };
    let program = Program::new(operations, command);
    let child = sys::spawn(&program, namespaces)
        .map_err(|error| Trouble::of(&Step::Clone.error(error), remedy))?;
    let waited = sys::wait4(child.pid);
    match program.failure() {
        Some(Failure::Operation(operation, errno)) => {
            Err(Trouble::of(&operation.step().error(errno), remedy))
        }
        _ => waited
            .map(drop)
            .map_err(|error| Trouble::new(error.to_string(), remedy)),
    }
}

/// Whether this process may make cgroups below its own in the version 2 tree.
fn cgroup_delegation() -> Result<String, Trouble> {
    let remedy = "start it with systemd-run --user --scope -p Delegate=yes; \
                  without it only time and file size limits apply";
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Err(Trouble::new("no cgroup version 2", remedy));
    };
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let root = roots
        .into_iter()
        .find(|root| Path::new(root).join("cgroup.controllers").exists());
    let Some(directory) = root.map(|root| Path::new(root).join(path)) else {
        return Err(Trouble::new("cgroup version 2 is not mounted", remedy));
    };
    let controllers = std::fs::read_to_string(directory.join("cgroup.controllers"));
    let controllers = controllers.unwrap_or_default();
    let is_writable = rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK).is_ok();
    let has_memory = controllers.split_whitespace().any(|name| name == "memory");
    let detail = format!(
        "{}: controllers {}",
        directory.display(),
        controllers.trim()
    );
    if is_writable && has_memory {
        Ok(detail)
    } else {
        Err(Trouble::new(detail, remedy))
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
