//! Policy: turns a [`Spec`] and the mounts prepared for it into a flat list of operations.
//!
//! Pure: no system calls, so the whole order of a step can be read and tested here. The list is
//! executed by the dumb loop in `child.rs`, in a process that may not allocate; everything that
//! allocates happens here.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::caps;
use crate::devices::DEVICES;
use crate::emulate;
use crate::error::{Error, Step};
use crate::seccomp;
use crate::spec::{Credentials, Network, Privileges, Processes, Resource, Root, Spec};
use crate::stage::MASKED_SYS;
use crate::sys::{BpfInstruction, CStringArray};
use crate::watch;

/// Used to look a command up when the environment has no `PATH` (what an image without one gets).
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Paths below /proc that answer empty, as containerd's default spec masks them.
pub(crate) const MASKED_FILES: [&str; 6] = [
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
];
pub(crate) const MASKED_DIRECTORIES: [&str; 3] = ["acpi", "asound", "scsi"];
/// Paths below /proc that are read-only, as containerd's default spec has them.
pub(crate) const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Where the stage (see `stage.rs`) keeps things.
pub(crate) mod stage_paths {
    use std::ffi::CStr;

    /// Mount point of the step's root.
    pub(crate) const ROOT: &CStr = c"/root";
    /// Mount point for mounts of which only a part is shown.
    pub(crate) const PARTS: &CStr = c"/parts";
    /// The host's /sys, read-only and masked.
    pub(crate) const SYS: &CStr = c"/sys";
    pub(crate) const CGROUP: &CStr = c"/sys/fs/cgroup";
    /// The host's /proc.
    pub(crate) const PROC: &CStr = c"/proc";
    /// An empty directory on a read-only mount.
    pub(crate) const EMPTY: &CStr = c"/empty";
}

/// A value for the child, in the order in which it is carried out.
#[derive(Debug)]
pub(crate) enum Op<'f> {
    /// Enter a copy of the stage's mount namespace.
    MountNamespace {
        stage: BorrowedFd<'f>,
    },
    /// Send the mount namespace to the caller.
    TellNamespace {
        channel: BorrowedFd<'f>,
    },
    /// Join the control group that this `cgroup.procs` belongs to.
    JoinCgroup {
        procs: BorrowedFd<'f>,
    },
    /// Own view of the cgroup tree; not every kernel has it, so failure is no error.
    CgroupNamespace,
    /// Attach a detached mount at an absolute path of the stage.
    AttachAtStage {
        mount: BorrowedFd<'f>,
        at: &'static CStr,
    },
    /// Make the attached root the working directory: later targets are relative to it.
    EnterRoot {
        root: BorrowedFd<'f>,
    },
    /// Attach a detached mount at a path below the root that has no symlinks.
    Attach {
        mount: BorrowedFd<'f>,
        target: CString,
    },
    /// Attach a copy of the part that `view` is open on, of a mount that is at the stage.
    AttachPart {
        view: BorrowedFd<'f>,
        target: CString,
        read_only: bool,
    },
    /// Move a mount of the stage below the root.
    MoveFromStage {
        from: CString,
        target: CString,
    },
    /// Mount the /sys of the step's own network namespace, with the stage's control groups in it;
    /// the stage's /sys where the kernel refuses.
    OwnSysfs {
        target: CString,
        cgroup: CString,
        masked: Vec<CString>,
    },
    /// Mount a file system that belongs to the new namespaces.
    NewMount {
        filesystem: &'static CStr,
        target: CString,
    },
    /// Cover a file with the step's /dev/null, if the file exists.
    MaskFile {
        null: CString,
        target: CString,
    },
    /// Cover a directory with an empty one, if it exists.
    MaskDirectory {
        target: CString,
    },
    /// Make a path read-only, if it exists.
    ReadOnly {
        target: CString,
    },
    /// Let go of the controlling terminal.
    NoTerminal {
        tty: CString,
    },
    /// Open the step's /dev/null as descriptor 0.
    StdinNull {
        null: CString,
    },
    PivotRoot,
    /// `chroot(2)` into a directory, where nothing can be mounted.
    ChangeRoot {
        root: BorrowedFd<'f>,
    },
    /// In a new mount namespace: make a directory of it the working directory.
    EnterDirectory {
        path: CString,
    },
    /// `chroot(2)` into the working directory.
    ChangeRootHere,
    Hostname {
        name: Vec<u8>,
        /// The filter of an outer container may not refuse it.
        is_required: bool,
    },
    LoopbackUp,
    /// Move into a network namespace.
    EnterNetwork {
        namespace: BorrowedFd<'f>,
    },
    /// Make a descriptor number 0.
    Stdin {
        fd: BorrowedFd<'f>,
    },
    /// Make the pipes descriptors 1 and 2, owned by the user of the step, who may then open
    /// /dev/stdout and /dev/stderr.
    Streams {
        stdout: BorrowedFd<'f>,
        stderr: BorrowedFd<'f>,
        uid: u32,
        gid: u32,
    },
    WorkingDirectory {
        path: CString,
    },
    ResourceLimit {
        resource: Resource,
        soft: u64,
        hard: u64,
    },
    /// Best effort: a kernel may have no keyrings.
    SessionKeyring,
    /// New process group, umask 022.
    ProcessGroup,
    /// Default action for every signal, none blocked.
    Signals,
    /// No signals to processes that the command did not start.
    SignalScope {
        ruleset: BorrowedFd<'f>,
    },
    Seccomp {
        filter: &'static [BpfInstruction],
    },
    /// Bring system calls to the supervisor, whose end of the channel gets the listener.
    Notify {
        filter: &'static [BpfInstruction],
        channel: BorrowedFd<'f>,
    },
    /// Drop every capability not in the set from the bounding set.
    BoundingSet {
        keep: u64,
    },
    Groups {
        groups: Vec<rustix::process::Gid>,
    },
    Gid {
        gid: u32,
    },
    Uid {
        uid: u32,
    },
    /// Effective and permitted become the set; inheritable and ambient empty.
    Capabilities {
        keep: u64,
    },
    ParentDeathSignal,
    /// Close everything but 0, 1, 2.
    CloseDescriptors,
}

impl Op<'_> {
    /// What this operation is called when it failed.
    pub(crate) fn step(&self) -> Step {
        let path = |c: &CStr| PathBuf::from("/").join(OsStr::from_bytes(c.to_bytes()));
        match self {
            Self::MountNamespace { .. } => Step::MountNamespace,
            Self::TellNamespace { .. } => Step::TellNamespace,
            Self::JoinCgroup { .. } => Step::JoinCgroup,
            Self::CgroupNamespace => Step::CgroupNamespace,
            Self::AttachAtStage { .. } | Self::EnterRoot { .. } => Step::AttachRoot,
            Self::Attach { target, .. } | Self::AttachPart { target, .. } => Step::Attach {
                target: path(target),
            },
            Self::OwnSysfs { .. } => Step::Sysfs,
            Self::MoveFromStage { from, .. } if from.as_c_str() == stage_paths::SYS => Step::Sysfs,
            Self::MoveFromStage { from, .. } if from.as_c_str() == stage_paths::PROC => Step::Proc,
            Self::MoveFromStage { target, .. } => Step::Attach {
                target: path(target),
            },
            Self::NewMount { filesystem, .. } if *filesystem == c"proc" => Step::Proc,
            Self::NewMount { .. } => Step::Mqueue,
            Self::MaskFile { target, .. } | Self::MaskDirectory { target } => {
                Step::Mask { path: path(target) }
            }
            Self::ReadOnly { target } => Step::ReadOnly { path: path(target) },
            Self::StdinNull { .. } => Step::OpenNull,
            Self::NoTerminal { .. } => Step::Terminal,
            Self::PivotRoot => Step::PivotRoot,
            Self::ChangeRoot { .. } | Self::EnterDirectory { .. } | Self::ChangeRootHere => {
                Step::ChangeRoot
            }
            Self::Hostname { .. } => Step::Hostname,
            Self::LoopbackUp => Step::Loopback,
            Self::EnterNetwork { .. } => Step::EnterNetwork,
            Self::Stdin { .. } | Self::Streams { .. } => Step::Streams,
            Self::WorkingDirectory { path: directory } => Step::WorkingDirectory {
                path: path(directory),
            },
            Self::ResourceLimit { resource, .. } => Step::ResourceLimit {
                name: resource.name(),
            },
            Self::SessionKeyring | Self::ProcessGroup | Self::Signals => Step::ProcessGroup,
            Self::SignalScope { .. } => Step::SignalScope,
            Self::Seccomp { .. } => Step::Seccomp,
            Self::Notify { .. } => Step::Notify,
            Self::BoundingSet { .. } | Self::Capabilities { .. } => Step::Capabilities,
            Self::Groups { .. } => Step::Groups,
            Self::Gid { gid } => Step::Gid { gid: *gid },
            Self::Uid { uid } => Step::Uid { uid: *uid },
            Self::ParentDeathSignal => Step::ParentDeathSignal,
            Self::CloseDescriptors => Step::CloseDescriptors,
        }
    }
}

/// The last operation: which files to try, in order, with which arguments.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: CStringArray,
    pub(crate) envp: CStringArray,
}

/// What the caller's thread made ready for one step. Targets are relative to the root and free of
/// symlinks.
#[derive(Debug)]
pub(crate) struct Prepared<'f> {
    pub(crate) stage: BorrowedFd<'f>,
    pub(crate) root: BorrowedFd<'f>,
    /// Fresh file systems for /dev, /dev/pts and /dev/shm.
    pub(crate) dev: BorrowedFd<'f>,
    pub(crate) pts: BorrowedFd<'f>,
    pub(crate) shm: BorrowedFd<'f>,
    /// The step's own device nodes: their mount, and one view per node in the order of
    /// [`DEVICES`]. Otherwise the stage has the host's.
    pub(crate) nodes: Option<(BorrowedFd<'f>, Vec<BorrowedFd<'f>>)>,
    pub(crate) proc_target: CString,
    pub(crate) dev_target: CString,
    pub(crate) sys_target: CString,
    /// The host's whole /sys, for a step with [`Privileges::Insecure`].
    pub(crate) host_sys: Option<BorrowedFd<'f>>,
    /// Further device nodes, for a step with [`Privileges::Insecure`]: name below /dev.
    pub(crate) host_devices: Vec<(BorrowedFd<'f>, CString)>,
    /// Mounts to attach at the stage because parts of them are shown.
    pub(crate) wholes: Vec<BorrowedFd<'f>>,
    pub(crate) mounts: Vec<PreparedMount<'f>>,
    pub(crate) stdout: BorrowedFd<'f>,
    pub(crate) stderr: BorrowedFd<'f>,
    pub(crate) supervisor: Option<Supervisor<'f>>,
    /// The namespace of a step in a [`Network::Sandbox`].
    pub(crate) network: Option<BorrowedFd<'f>>,
    /// For a step without a pid namespace.
    pub(crate) watch: Option<watch::ForChild<'f>>,
}

/// For a step with an emulation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Supervisor<'f> {
    /// Where the listener goes.
    pub(crate) channel: BorrowedFd<'f>,
    /// The number of the credentials to start with.
    pub(crate) number: u64,
    /// Lower layers have files whose owners are known by inode.
    pub(crate) copy_up: bool,
}

#[derive(Debug)]
pub(crate) struct PreparedMount<'f> {
    pub(crate) target: CString,
    pub(crate) source: PreparedSource<'f>,
}

#[derive(Debug)]
pub(crate) enum PreparedSource<'f> {
    /// A detached mount, shown whole.
    Whole(BorrowedFd<'f>),
    /// Open on a part of one of [`Prepared::wholes`].
    Part(BorrowedFd<'f>),
    /// The same, to be made read-only.
    File(BorrowedFd<'f>),
}

/// The operations of a step, in order.
///
/// # Errors
/// [`Error::Invalid`] when a value of the spec cannot be handed to the kernel.
pub(crate) fn operations<'f>(spec: &Spec, prepared: Prepared<'f>) -> Result<Vec<Op<'f>>, Error> {
    let mut ops = Vec::with_capacity(64);
    ops.push(Op::MountNamespace {
        stage: prepared.stage,
    });
    if let Some(watch) = prepared.watch {
        ops.push(Op::TellNamespace {
            channel: watch.channel,
        });
    }
    ops.push(Op::CgroupNamespace);
    ops.push(Op::AttachAtStage {
        mount: prepared.root,
        at: stage_paths::ROOT,
    });
    ops.push(Op::EnterRoot {
        root: prepared.root,
    });
    devices(&mut ops, &prepared)?;
    proc(&mut ops, &prepared, spec)?;
    match prepared.host_sys {
        Some(mount) => ops.push(Op::Attach {
            mount,
            target: prepared.sys_target.clone(),
        }),
        None if spec.network == Network::None => {
            let sysfs = &prepared.sys_target;
            let masked = MASKED_SYS.iter().map(|name| below(sysfs, name));
            ops.push(Op::OwnSysfs {
                target: sysfs.clone(),
                cgroup: below(sysfs, "fs/cgroup")?,
                masked: masked.collect::<Result<_, _>>()?,
            });
        }
        None => ops.push(Op::MoveFromStage {
            from: stage_paths::SYS.to_owned(),
            target: prepared.sys_target.clone(),
        }),
    }
    // Before the mounts of the spec, one of which may cover /dev.
    ops.push(Op::StdinNull {
        null: below(&prepared.dev_target, "null")?,
    });
    ops.push(Op::NoTerminal {
        tty: below(&prepared.dev_target, "tty")?,
    });
    for mount in prepared.wholes {
        ops.push(Op::AttachAtStage {
            mount,
            at: stage_paths::PARTS,
        });
    }
    for mount in prepared.mounts {
        let target = mount.target;
        ops.push(match mount.source {
            PreparedSource::Whole(mount) => Op::Attach { mount, target },
            PreparedSource::Part(view) => Op::AttachPart {
                view,
                target,
                read_only: false,
            },
            PreparedSource::File(view) => Op::AttachPart {
                view,
                target,
                read_only: true,
            },
        });
    }
    ops.push(Op::PivotRoot);
    ops.push(Op::Hostname {
        name: spec.hostname.as_bytes().to_vec(),
        is_required: false,
    });
    if spec.network == Network::None {
        ops.push(Op::LoopbackUp);
    }
    if let Some(namespace) = prepared.network {
        ops.push(Op::EnterNetwork { namespace });
    }
    // There is nobody else to give the pipes to, and no need: in truth the step is root.
    let root = Credentials::default();
    let owner = match prepared.supervisor {
        None => &spec.user,
        Some(_) => &root,
    };
    ops.push(Op::Streams {
        stdout: prepared.stdout,
        stderr: prepared.stderr,
        uid: owner.uid,
        gid: owner.gid,
    });
    ops.push(Op::WorkingDirectory {
        path: c_string("working directory", spec.cwd.as_os_str())?,
    });
    if let Some(watch) = prepared.watch {
        let scope = watch.scope.map(|ruleset| Op::SignalScope { ruleset });
        ops.extend(scope);
        let filter = seccomp::others::filter();
        ops.push(Op::Seccomp { filter });
    }
    match prepared.supervisor {
        None => process(&mut ops, spec),
        Some(supervisor) => emulated_process(&mut ops, spec, supervisor),
    }
    Ok(ops)
}

/// /dev with its nodes and the file systems below it.
fn devices<'f>(ops: &mut Vec<Op<'f>>, prepared: &Prepared<'f>) -> Result<(), Error> {
    let dev = &prepared.dev_target;
    ops.push(Op::Attach {
        mount: prepared.dev,
        target: dev.clone(),
    });
    let targets = DEVICES
        .iter()
        .map(|(name, ..)| Ok((name, below(dev, name)?)));
    let targets = targets.collect::<Result<Vec<_>, Error>>()?;
    match &prepared.nodes {
        Some((mount, views)) => {
            ops.push(Op::AttachAtStage {
                mount: *mount,
                at: stage_paths::PARTS,
            });
            let nodes = views.iter().zip(targets);
            ops.extend(nodes.map(|(view, (_, target))| Op::AttachPart {
                view: *view,
                target,
                read_only: false,
            }));
        }
        None => {
            for (name, target) in targets {
                ops.push(Op::MoveFromStage {
                    from: below(c"/dev", name)?,
                    target,
                });
            }
        }
    }
    for (mount, name) in &prepared.host_devices {
        let target = below(dev, &name.to_string_lossy())?;
        ops.push(Op::Attach {
            mount: *mount,
            target,
        });
    }
    ops.push(Op::Attach {
        mount: prepared.pts,
        target: below(dev, "pts")?,
    });
    ops.push(Op::Attach {
        mount: prepared.shm,
        target: below(dev, "shm")?,
    });
    ops.push(Op::NewMount {
        filesystem: c"mqueue",
        target: below(dev, "mqueue")?,
    });
    Ok(())
}

/// /proc of the new pid namespace or, without one, the host's; with what containers may not see or
/// change covered.
fn proc<'f>(ops: &mut Vec<Op<'f>>, prepared: &Prepared<'f>, spec: &Spec) -> Result<(), Error> {
    let proc = &prepared.proc_target;
    let target = proc.clone();
    ops.push(match spec.processes {
        Processes::Own => Op::NewMount {
            filesystem: c"proc",
            target,
        },
        Processes::Host => Op::MoveFromStage {
            from: stage_paths::PROC.to_owned(),
            target,
        },
    });
    if spec.privileges == Privileges::Insecure {
        return Ok(());
    }
    for name in MASKED_FILES {
        let null = below(&prepared.dev_target, "null")?;
        ops.push(Op::MaskFile {
            null,
            target: below(proc, name)?,
        });
    }
    for name in MASKED_DIRECTORIES {
        ops.push(Op::MaskDirectory {
            target: below(proc, name)?,
        });
    }
    for name in READ_ONLY {
        ops.push(Op::ReadOnly {
            target: below(proc, name)?,
        });
    }
    Ok(())
}

/// The state of the process itself. The order matters:
/// * limits and the seccomp filter while there still are capabilities to set them with;
/// * the bounding set while there is `CAP_SETPCAP`, groups before the user who may set them;
/// * the death signal after the credentials, whose change clears it.
pub(crate) fn process(ops: &mut Vec<Op<'_>>, spec: &Spec) {
    limits_and_filter(ops, spec);
    let restricted = spec.privileges == Privileges::Default;
    let Credentials { uid, gid, groups } = &spec.user;
    let groups = groups
        .iter()
        .map(|&gid| rustix::process::Gid::from_raw(gid))
        .collect();
    ops.push(Op::Groups { groups });
    ops.push(Op::Gid { gid: *gid });
    ops.push(Op::Uid { uid: *uid });
    if *uid != 0 {
        // Already so by the change of user; stated for a process with odd securebits.
        ops.push(Op::Capabilities { keep: 0 });
    } else if restricted {
        ops.push(Op::Capabilities { keep: kept(spec) });
    }
    ops.push(Op::ParentDeathSignal);
    ops.push(Op::CloseDescriptors);
}

fn limits_and_filter(ops: &mut Vec<Op<'_>>, spec: &Spec) {
    for &(resource, soft, hard) in &spec.rlimits {
        ops.push(Op::ResourceLimit {
            resource,
            soft,
            hard,
        });
    }
    ops.push(Op::SessionKeyring);
    ops.push(Op::ProcessGroup);
    ops.push(Op::Signals);
    if spec.privileges == Privileges::Default {
        ops.push(Op::Seccomp {
            filter: seccomp::filter(syncs(&spec.root)),
        });
        ops.push(Op::BoundingSet { keep: kept(spec) });
    }
}

/// The capabilities that root has in a restricted step.
fn kept(spec: &Spec) -> u64 {
    match spec.network {
        Network::Sandbox { .. } => caps::WITHOUT_RAW_SOCKETS,
        Network::Host | Network::None => caps::DOCKER_DEFAULT,
    }
}

fn syncs(root: &Root) -> seccomp::Syncs {
    match root {
        Root::Overlay { .. } => seccomp::Syncs::Made,
        Root::Plain(_) => seccomp::Syncs::Ignored,
    }
}

/// As [`process`], for a step that only believes to be its user. The exec gives root the
/// capabilities of the bounding set, so nothing is left to do for them; and setting them here
/// would be a call that the supervisor answers.
fn emulated_process<'f>(ops: &mut Vec<Op<'f>>, spec: &Spec, supervisor: Supervisor<'f>) {
    limits_and_filter(ops, spec);
    ops.push(Op::ResourceLimit {
        resource: Resource::Locks,
        soft: supervisor.number,
        hard: u64::MAX,
    });
    ops.push(Op::Notify {
        filter: emulate::filter(supervisor.copy_up),
        channel: supervisor.channel,
    });
    ops.push(Op::ParentDeathSignal);
    ops.push(Op::CloseDescriptors);
}

/// What to exec: `argv[0]` as it is when it has a slash, else in every directory of `PATH`
/// (rule R04), with an empty one meaning the working directory (execvp(3)).
///
/// # Errors
/// [`Error::Invalid`] when there is no program, or a string has a null byte.
pub(crate) fn command(spec: &Spec) -> Result<Command, Error> {
    let Some(name) = spec.argv.first().filter(|name| !name.is_empty()) else {
        return Err(invalid("argv", "it has no program"));
    };
    let candidates = if name.as_bytes().contains(&b'/') {
        vec![c_string("argv", name)?]
    } else {
        search_path(spec)
            .split(|&byte| byte == b':')
            .map(|directory| {
                let directory = if directory.is_empty() {
                    b"."
                } else {
                    directory
                };
                c_string(
                    "PATH",
                    Path::new(OsStr::from_bytes(directory))
                        .join(name)
                        .as_os_str(),
                )
            })
            .collect::<Result<_, _>>()?
    };
    let argv = spec
        .argv
        .iter()
        .map(|a| c_string("argv", a))
        .collect::<Result<_, _>>()?;
    let envp = spec.env.iter().map(variable).collect::<Result<_, _>>()?;
    Ok(Command {
        candidates,
        argv: CStringArray::new(argv),
        envp: CStringArray::new(envp),
    })
}

fn search_path(spec: &Spec) -> &[u8] {
    let path = spec.env.iter().find(|(name, _)| name == "PATH");
    path.map_or(DEFAULT_PATH, |(_, value)| value.as_bytes())
}

fn variable((name, value): &(std::ffi::OsString, std::ffi::OsString)) -> Result<CString, Error> {
    let name = name.as_bytes();
    if name.is_empty() || name.contains(&b'=') {
        return Err(invalid(
            "environment",
            "a name is empty or has an equals sign",
        ));
    }
    let joined = [name, b"=", value.as_bytes()].concat();
    CString::new(joined).map_err(|_| null_byte("environment"))
}

pub(crate) fn c_string(field: &'static str, text: &OsStr) -> Result<CString, Error> {
    CString::new(text.as_bytes()).map_err(|_| null_byte(field))
}

fn below(directory: &CStr, name: &str) -> Result<CString, Error> {
    let joined = [directory.to_bytes(), b"/", name.as_bytes()].concat();
    CString::new(joined).map_err(|_| null_byte("path"))
}

fn null_byte(field: &'static str) -> Error {
    invalid(field, "it has a null byte")
}

pub(crate) fn invalid(field: &'static str, reason: &str) -> Error {
    Error::Invalid {
        field,
        reason: reason.to_owned(),
    }
}

/// Checks what can be checked without the kernel.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::TargetIsRoot`].
pub(crate) fn validate(spec: &Spec) -> Result<(), Error> {
    if !spec.cwd.is_absolute() {
        return Err(invalid("working directory", "it is not absolute"));
    }
    // The limit of the kernel (__NEW_UTS_LEN).
    if spec.hostname.len() > 64 || spec.hostname.is_empty() {
        return Err(invalid("hostname", "it is empty or longer than 64 bytes"));
    }
    for mount in &spec.mounts {
        if !mount.target.is_absolute() {
            return Err(invalid("mount target", "it is not absolute"));
        }
    }
    if spec.emulation.is_some() {
        // No filter keeps an insecure step from a mount namespace that the supervisor is not in.
        if spec.privileges == Privileges::Insecure {
            return Err(invalid(
                "privileges",
                "an insecure step needs more than one id",
            ));
        }
        if spec.rlimits.iter().any(|limit| limit.0 == Resource::Locks) {
            return Err(invalid(
                "resource limit",
                "locks is in use where there is only one id (the kernel ignores it)",
            ));
        }
    }
    if (spec.processes, spec.privileges) == (Processes::Host, Privileges::Insecure) {
        // No filter keeps it in its mount namespace, by which its processes are found.
        return Err(invalid(
            "privileges",
            "an insecure step needs a pid namespace",
        ));
    }
    for &(resource, soft, hard) in &spec.rlimits {
        if soft > hard {
            let reason = format!(
                "the soft limit of {} is above the hard one",
                resource.name()
            );
            return Err(Error::Invalid {
                field: "resource limit",
                reason,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
