//! What to run, as a plain value: no Dockerfile, no image, no policy.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::emulate::{Emulation, InodeOwner};

/// One command in one container.
#[derive(Debug, Clone)]
pub struct Spec {
    pub root: Root,
    /// Program and arguments; looked up in the `PATH` of `env` inside the root when it has no `/`.
    pub argv: Vec<OsString>,
    /// The whole environment, in order; nothing is added or inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Absolute, inside the root; created (0755, root) when missing (rule R03). Entered before
    /// the credentials are dropped, so that an unreadable one still works.
    pub cwd: PathBuf,
    pub user: Credentials,
    pub hostname: String,
    pub network: Network,
    /// As the process that runs the step was entered: see [`crate::inside::Inside::processes`].
    pub processes: Processes,
    /// In addition to /proc, /dev, /sys; any order: mounted by target, parents first (rule R31).
    pub mounts: Vec<Mount>,
    pub privileges: Privileges,
    /// Size of /dev/shm in bytes; 64 MiB when `None`.
    pub shm_size: Option<u64>,
    /// Soft and hard limit per resource; others are inherited (rule R36).
    pub rlimits: Vec<(Resource, u64, u64)>,
    /// The step is killed when it runs longer.
    pub timeout: Option<Duration>,
    /// How owners and identities other than root are shown to the step where there is only one id;
    /// `None` where the kernel knows all of them.
    pub emulation: Option<Emulation>,
    /// Directories of control groups that the step runs in: one of version 2, or one for each
    /// controller of version 1. The caller makes them, sets their limits, and removes them.
    pub cgroups: Vec<PathBuf>,
}

/// The file system the command sees as `/`.
#[derive(Debug, Clone)]
pub enum Root {
    /// Overlay of read-only directories (top first, none empty, none twice) and a fresh upper.
    /// `upper` and `work` exist, are empty, and lie on one file system.
    Overlay {
        lowers: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
    },
    /// A directory that the command changes in place (where overlay is refused).
    Plain(PathBuf),
}

/// Numbers as seen inside the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The network of whoever runs layercake.
    Host,
    /// A new network namespace with only `lo`, up.
    None,
    /// A new network namespace that reaches the outside through the program pasta, but neither
    /// the loopback of the host nor, by raw sockets, anything: without `CAP_NET_RAW`.
    Sandbox {
        /// The first IPv4 name server in /etc/resolv.conf of the host answers at
        /// [`DNS_FORWARD`](crate::DNS_FORWARD), and nowhere else.
        forward_dns: bool,
    },
}

/// Which processes a step sees in /proc.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Processes {
    /// Its own, in a pid namespace.
    #[default]
    Own,
    /// Those of whoever runs layercake: where a container around masks parts of /proc, a user
    /// namespace can show the /proc that there is, but mount no new one, as a new pid namespace
    /// would need it. What is done instead is told in `crate::watch`.
    Host,
}

impl Processes {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Host => "host",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Own, Self::Host]
            .into_iter()
            .find(|each| each.name() == name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    /// Docker's default capabilities and a seccomp deny list; setuid programs work.
    Default,
    /// `RUN --security=insecure` (rule R33): all capabilities of the caller, no seccomp filter,
    /// nothing masked, /sys as the host has it, and every device node directly in the host's /dev.
    Insecure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Resource {
    /// The name without the prefix `RLIMIT_`, lower case, as `--ulimit` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::As => "as",
            Self::Core => "core",
            Self::Cpu => "cpu",
            Self::Data => "data",
            Self::Fsize => "fsize",
            Self::Locks => "locks",
            Self::Memlock => "memlock",
            Self::Msgqueue => "msgqueue",
            Self::Nice => "nice",
            Self::Nofile => "nofile",
            Self::Nproc => "nproc",
            Self::Rss => "rss",
            Self::Rtprio => "rtprio",
            Self::Rttime => "rttime",
            Self::Sigpending => "sigpending",
            Self::Stack => "stack",
        }
    }

    /// The kernel's number (`RLIMIT_*` of include/uapi/asm-generic/resource.h).
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Cpu => 0,
            Self::Fsize => 1,
            Self::Data => 2,
            Self::Stack => 3,
            Self::Core => 4,
            Self::Rss => 5,
            Self::Nproc => 6,
            Self::Nofile => 7,
            Self::Memlock => 8,
            Self::As => 9,
            Self::Locks => 10,
            Self::Sigpending => 11,
            Self::Msgqueue => 12,
            Self::Nice => 13,
            Self::Rtprio => 14,
            Self::Rttime => 15,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Mount {
    /// Absolute, inside the root. Symlinks are resolved inside the root. A missing target is
    /// made for the step (file or directory as the source is) and removed again, with its made
    /// parents, if still empty afterwards; parents' times are restored (rules R13, R14).
    pub target: PathBuf,
    pub kind: MountKind,
}

#[derive(Debug, Clone)]
pub enum MountKind {
    /// A host file or directory (already resolved, no symlink is followed in its last component).
    Bind { source: PathBuf, read_only: bool },
    /// A writable view of directories whose changes vanish with the step (rule R19);
    /// `subpath` of the merged tree is what appears at the target. Symlinks in it stay inside.
    Overlay {
        lowers: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
        subpath: PathBuf,
    },
    /// Read-only view of the same kind, without an upper.
    Lowers {
        lowers: Vec<PathBuf>,
        subpath: PathBuf,
    },
    Tmpfs {
        size: Option<u64>,
        mode: u32,
        read_only: bool,
    },
    /// A small read-only file with these bytes, never on disk (memfd or tmpfs).
    File {
        content: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// How the command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Exited(i32),
    Signalled(i32),
    TimedOut,
    Cancelled,
}

/// What the step used, as the kernel accounts it (`wait4` rusage of the whole process tree that
/// was waited for).
#[derive(Debug, Clone, Default)]
pub struct Usage {
    pub wall: Duration,
    pub user_cpu: Duration,
    pub system_cpu: Duration,
    /// Bytes; the largest single process. 0 when that was not more than the caller's own, from
    /// which the kernel cannot tell it apart: the command starts in the caller's address space.
    pub peak_rss: u64,
    /// 512-byte blocks turned into bytes.
    pub read_bytes: u64,
    pub written_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Outcome {
    pub status: Status,
    pub usage: Usage,
    /// With an emulation: owners of changed files that take no attribute.
    pub owners: Vec<InodeOwner>,
}

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}
