//! What a `build` command line means: nothing left undecided, nothing of how it was typed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use graph::facts::Platform;
use sandbox::inside::Isolation;
use serde::{Deserialize, Serialize};

/// One build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The main context; `None` when the build needs none (`-` with a Dockerfile on stdin).
    pub context: Option<PathBuf>,
    /// The main context is elsewhere.
    pub remote_context: Option<RemoteContext>,
    pub dockerfile: DockerfileSource,
    pub target: Option<String>,
    pub build_args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: oci::image::Annotations,
    pub contexts: BTreeMap<String, NamedContext>,
    pub tags: Vec<String>,
    pub outputs: Vec<Output>,
    pub platform: Option<Platform>,
    pub no_cache: bool,
    pub no_cache_filter: BTreeSet<String>,
    pub network: Option<graph::op::Network>,
    pub add_hosts: Vec<(String, String)>,
    pub shm_size: Option<u64>,
    pub ulimits: Vec<String>,
    pub dns: Dns,
    pub limits: StepLimits,
    pub allow: BTreeSet<String>,
    pub secrets: BTreeMap<String, SecretSource>,
    /// By id: `--ssh`.
    pub agents: BTreeMap<String, SshSource>,
    /// Ids of secrets that new layers may hold.
    pub secrets_in_layers: BTreeSet<String>,
    /// How steps are kept apart from the host; found out when `None`.
    pub isolation: Option<Isolation>,
    /// What root file systems of steps are made of; found out when `None`.
    pub snapshotter: Option<Snapshotter>,
    /// Say how steps are run.
    pub verbose: bool,
    /// Steps executing at once.
    pub jobs: usize,
    pub store_root: PathBuf,
    pub progress: Progress,
    pub iid_file: Option<PathBuf>,
    pub metadata_file: Option<PathBuf>,
}

/// Where the keys of `--ssh` are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SshSource {
    /// The socket of an agent.
    Agent(PathBuf),
    /// Files without passphrases.
    Keys(Vec<PathBuf>),
}

/// `--snapshotter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Snapshotter {
    /// Overlay file systems.
    Overlay,
    /// Directories that hold all files of a root.
    Plain,
}

impl Snapshotter {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Plain => "plain",
        }
    }
}

/// A main context that has to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteContext {
    /// The URL of a git repository.
    Git(String),
    /// The URL of an archive, or of a Dockerfile that needs no context.
    Http(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `-f PATH`, relative to the working directory as buildx takes it.
    Path(PathBuf),
    /// `Dockerfile`, else `dockerfile`, in the context (rule P31).
    Default,
    /// `-f -`.
    Stdin,
    /// `-f https://…`.
    Url(String),
}

/// `--build-context NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    Directory(PathBuf),
    /// `oci-layout://DIR[:TAG|@DIGEST]`.
    OciLayout {
        directory: PathBuf,
        reference: Option<String>,
    },
    /// `docker-image://REF`.
    Image(String),
    /// The URL of a git repository.
    Git(String),
    /// The URL of a file, which is the context's only one, called `context`.
    Http(String),
}

/// `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `type=oci,dest=PATH[,tar=true|false]`.
    Oci { destination: PathBuf, tar: bool },
}

/// `--secret id=NAME,src=PATH|env=NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    File(PathBuf),
    Environment(String),
}

/// Limits of every `RUN` of a build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepLimits {
    /// `--step-timeout`.
    pub timeout: Option<Duration>,
    /// `--memory`, in bytes.
    pub memory: Option<u64>,
    /// `--cpus`, in thousandths of a processor.
    pub cpu_millis: Option<u32>,
}

/// `--dns`, `--dns-search`, `--dns-option`: name resolution of `RUN`s, in place of the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Dns {
    /// Whether everything is as the host has it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Plain,
    Quiet,
}

/// The platform of this machine, by its names in images.
#[must_use]
pub fn native_platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "arm" => ("arm", Some("v7".to_owned())),
        "powerpc64" => ("ppc64le", None),
        other => (other, None),
    };
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant,
    }
}
