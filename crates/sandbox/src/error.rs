//! What can go wrong, with what the user can do about it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Why a command could not be run, or why this process could not enter its namespaces.
///
/// That the command itself failed is not an error: see [`crate::spec::Status`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The spec.
    #[error("invalid {field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("mount target {} is the root directory", target.display())]
    TargetIsRoot { target: PathBuf },
    #[error("cannot mount a {mounted} on {}, which is a {covered}", target.display())]
    MountType {
        target: PathBuf,
        mounted: &'static str,
        covered: &'static str,
    },

    #[error("{what} is not possible with chroot isolation")]
    Unsupported { what: &'static str },

    // Setting the container up.
    #[error("{step}")]
    Setup { step: Step, source: io::Error },

    // The network of its own.
    #[error("--network=sandbox needs the program pasta, which is not installed")]
    PastaMissing,
    #[error("--network=sandbox needs /dev/net/tun")]
    Tun { source: io::Error },
    #[error(
        "--network=sandbox: this version of pasta lets steps reach the loopback of the host, and \
         the packet filter against it cannot be had"
    )]
    Loopback { source: io::Error },
    #[error("create a network namespace")]
    NetworkNamespace { source: io::Error },
    #[error("start pasta for --network=sandbox")]
    PastaStart { source: io::Error },
    #[error("--network=sandbox: pasta ended: {message}")]
    Pasta { message: String },

    #[error("no program can run in {}: its file system is mounted noexec", path.display())]
    NoPrograms { path: PathBuf },

    // The command.
    #[error("{}: command not found", name.display())]
    CommandNotFound { name: OsString },
    #[error("{}: permission denied", path.display())]
    CommandNotExecutable { path: PathBuf },
    #[error("{}: exec format error (no program for this machine, and no #! line)", path.display())]
    ExecFormat { path: PathBuf },
    #[error("{}: its interpreter or dynamic loader does not exist", path.display())]
    InterpreterMissing { path: PathBuf },
    #[error("execute {}", path.display())]
    Execute { path: PathBuf, source: io::Error },
    #[error("wait for the command")]
    Wait { source: io::Error },

    // Entering the namespaces.
    #[error("start the process inside: {program}")]
    Spawn { program: String, source: io::Error },
    #[error("create a user namespace{}", join_hints(.hints))]
    UserNamespace {
        hints: Vec<&'static str>,
        /// A system call filter is on this process.
        is_filtered: bool,
        source: io::Error,
    },
    #[error("create mount and pid namespaces")]
    Namespaces { source: io::Error },
    #[error("read {}", path.display())]
    SubordinateFile { path: PathBuf, source: io::Error },
    #[error("user {user} has no subordinate ids in {}", path.display())]
    NoSubordinateIds { user: String, path: PathBuf },
    #[error("{program} is not installed")]
    HelperMissing { program: &'static str },
    #[error("{} is not setuid root and has no file capabilities", path.display())]
    HelperNotSetuid { path: PathBuf },
    #[error("{program} failed ({status}): {message}")]
    HelperFailed {
        program: &'static str,
        status: std::process::ExitStatus,
        message: String,
    },
    #[error("map user and group ids")]
    WriteMap { source: io::Error },
    #[error("{step} while entering the namespaces")]
    Enter { step: EnterStep, source: io::Error },
    #[error("the process inside ended before it was ready")]
    Handshake,
}

fn join_hints(hints: &[&str]) -> String {
    if hints.is_empty() {
        String::new()
    } else {
        format!(" ({})", hints.join("; "))
    }
}

impl Error {
    /// One sentence or command that makes it work, when there is one.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NoSubordinateIds { user, path } => format!(
                "as root: echo '{user}:100000:65536' >> {} (a range no other user has), \
                 or usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
                path.display()
            ),
            Self::HelperMissing { program } => format!(
                "install {program}: package uidmap on Debian and Ubuntu, shadow-utils on Fedora, \
                 shadow-uidmap on Alpine"
            ),
            // As root without CAP_SYS_ADMIN it has no rights over the user's namespace; as that user
            // with CAP_SETUID it has.
            Self::HelperFailed { message, .. } if message.contains("not permitted") => {
                "where root has no CAP_SYS_ADMIN, as in most containers, they must have file \
                 capabilities in place of setuid: chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap; \
                 setcap cap_setuid+ep /usr/bin/newuidmap; setcap cap_setgid+ep /usr/bin/newgidmap"
                    .to_owned()
            }
            Self::HelperNotSetuid { path } => {
                format!("as root: chmod u+s {}", path.display())
            }
            Self::UserNamespace {
                is_filtered: true,
                hints,
                ..
            } if hints.is_empty() => "the system call filter of the container around this process \
                 refuses it: docker run --security-opt seccomp=unconfined, or in Kubernetes \
                 securityContext.seccompProfile.type: Unconfined"
                .to_owned(),
            Self::WriteMap { source } if is_refused(source) => {
                "root of this container lacks capabilities (SETUID, SETGID, SETFCAP): give it \
                 those, or run it as an ordinary user, who needs none (docker run --user 1000)"
                    .to_owned()
            }
            Self::UserNamespace { .. } => {
                "allow user namespaces: sysctl user.max_user_namespaces=15000; on Debian also \
                 kernel.unprivileged_userns_clone=1, on Ubuntu \
                 kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile with userns"
                    .to_owned()
            }
            Self::Setup {
                step: Step::ResourceLimit { .. },
                source,
            } if is_refused(source) => {
                "only real root can give a step more than its own hard limit: raise that first \
                 (ulimit -H), or ask for less"
                    .to_owned()
            }
            Self::Setup {
                step: Step::Proc,
                source,
            } if is_refused(source) => {
                "an outer container masks parts of /proc: run it with unmasked paths \
                 (--security-opt systempaths=unconfined)"
                    .to_owned()
            }
            Self::Setup {
                step:
                    Step::Uid { .. }
                    | Step::Gid { .. }
                    | Step::Groups
                    | Step::Streams
                    | Step::WriteFile { .. },
                source,
            } if source.raw_os_error() == Some(libc::EINVAL) => {
                "the id does not exist in the user namespace: give the user more subordinate ids \
                 in /etc/subuid and /etc/subgid"
                    .to_owned()
            }
            Self::Enter {
                step: EnterStep::Credentials,
                source,
            } if is_refused(source) => {
                "the user namespace around this process has only one id, or forbids setgroups: \
                 start it outside of it"
                    .to_owned()
            }
            Self::NoPrograms { .. } => {
                "keep the store elsewhere (LAYERCAKE_ROOT), or mount it without noexec".to_owned()
            }
            Self::PastaMissing => "install it: package passt on Debian, Ubuntu, Fedora, Arch and \
                                   Alpine; or build with --network=host or none"
                .to_owned(),
            Self::Tun { source } if is_refused(source) => {
                "as root: chmod 0666 /dev/net/tun (as udev does; it gives nobody more than their \
                 own network namespaces)"
                    .to_owned()
            }
            Self::Tun { .. } => {
                "as root: modprobe tun; in a container: docker run --device /dev/net/tun".to_owned()
            }
            Self::Loopback { .. } => {
                "install passt 2024_02_20 or later, or as root: modprobe nf_tables".to_owned()
            }
            Self::Pasta { .. } => {
                "it needs a network interface with a default route; --network=host and none do not"
                    .to_owned()
            }
            Self::Unsupported { .. } => {
                "run layercake where it may mount: see layercake doctor".to_owned()
            }
            Self::ExecFormat { .. } => {
                "a program for another architecture needs binfmt_misc handlers on the host"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// A step of the process that enters the namespaces, sent to its parent as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnterStep {
    #[error("tie the process to its parent")]
    ParentDeathSignal,
    #[error("become root of the user namespace")]
    Credentials,
    #[error("make mounts private")]
    PrivateMounts,
    #[error("start process 1 of the pid namespace")]
    Fork,
    #[error("receive descriptors")]
    Descriptors,
    #[error("read the id maps")]
    IdMaps,
}

impl EnterStep {
    pub(crate) const ALL: [Self; 6] = [
        Self::ParentDeathSignal,
        Self::Credentials,
        Self::PrivateMounts,
        Self::Fork,
        Self::Descriptors,
        Self::IdMaps,
    ];
}

/// A step of setting a container up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Step {
    // Done by the caller's thread before the container exists.
    #[error("prepare the stage ({action})")]
    Stage { action: &'static str },
    #[error("create a pipe")]
    Pipe,
    #[error("overlay {option}")]
    Overlay { option: String },
    #[error("open the root directory {}", path.display())]
    OpenRoot { path: PathBuf },
    #[error("open the mount source {}", path.display())]
    OpenSource { path: PathBuf },
    #[error("open {} in the source of the mount", subpath.display())]
    OpenSubpath { subpath: PathBuf },
    #[error("create a tmpfs for {}", target.display())]
    Tmpfs { target: PathBuf },
    #[error("write the file for {}", target.display())]
    WriteFile { target: PathBuf },
    #[error("create the device directory ({action})")]
    Devices { action: &'static str },
    #[error("create the mount point {}", target.display())]
    MountPoint { target: PathBuf },
    #[error("create the working directory {}", path.display())]
    MakeWorkingDirectory { path: PathBuf },
    #[error("open the control group {}", path.display())]
    OpenCgroup { path: PathBuf },
    #[error("start the supervisor of owners and identities ({action})")]
    Emulation { action: &'static str },
    #[error("clone a process into new namespaces")]
    Clone,
    #[error("remove the mount point {}", path.display())]
    RemoveMountPoint { path: PathBuf },

    // Done in the container.
    #[error("copy the stage's mount namespace")]
    MountNamespace,
    #[error("tell the mount namespace of the step")]
    TellNamespace,
    #[error("join the control group")]
    JoinCgroup,
    #[error("create a cgroup namespace")]
    CgroupNamespace,
    #[error("attach the root file system")]
    AttachRoot,
    #[error("change the root directory")]
    ChangeRoot,
    #[error("attach the mount at {}", target.display())]
    Attach { target: PathBuf },
    #[error("mount /proc")]
    Proc,
    #[error("mount /dev/mqueue")]
    Mqueue,
    #[error("mount /sys")]
    Sysfs,
    #[error("mask {}", path.display())]
    Mask { path: PathBuf },
    #[error("make {} read-only", path.display())]
    ReadOnly { path: PathBuf },
    #[error("open /dev/null")]
    OpenNull,
    #[error("pivot into the root file system")]
    PivotRoot,
    #[error("set the host name")]
    Hostname,
    #[error("bring the loopback interface up")]
    Loopback,
    #[error("enter the network namespace")]
    EnterNetwork,
    #[error("set up standard streams")]
    Streams,
    #[error("enter the working directory {}", path.display())]
    WorkingDirectory { path: PathBuf },
    #[error("set the resource limit {name}")]
    ResourceLimit { name: &'static str },
    #[error("give the terminal up")]
    Terminal,
    #[error("start a process group")]
    ProcessGroup,
    #[error("forbid signals to other processes")]
    SignalScope,
    #[error("install the seccomp filter")]
    Seccomp,
    #[error("hand system calls to the supervisor")]
    Notify,
    #[error("drop capabilities")]
    Capabilities,
    #[error("set supplementary groups")]
    Groups,
    #[error("become group {gid}")]
    Gid { gid: u32 },
    #[error("become user {uid}")]
    Uid { uid: u32 },
    #[error("close descriptors")]
    CloseDescriptors,
    #[error("set the parent death signal")]
    ParentDeathSignal,
}

impl Step {
    /// The error of this step with the kernel's reason.
    pub(crate) fn error(self, source: impl Into<io::Error>) -> Error {
        Error::Setup {
            step: self,
            source: source.into(),
        }
    }
}
