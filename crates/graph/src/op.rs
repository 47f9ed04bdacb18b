//! The operations of a plan. An [`Op`] is a self-contained value: with the trees of its inputs it
//! determines its result, so it can be hashed, sent elsewhere and run without the Dockerfile.
//!
//! Fields marked `#[serde(skip)]` cannot change the result and are therefore in no key (rule K08).

use serde::{Deserialize, Serialize};

/// [`Op::Context`] of the main build context; no named context may have this name.
pub const MAIN_CONTEXT: &str = "context";

/// Index into [`crate::plan::Plan::nodes`]; inputs always have smaller numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub usize);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
#[expect(
    clippy::large_enum_variant,
    reason = "most steps of a plan are the large variant, RUN"
)]
pub enum Op {
    /// The empty tree.
    Scratch,
    /// The layers of an image; `name` is its key in [`crate::facts::Facts::images`].
    Image {
        name: String,
    },
    /// A local directory: the main context or a named one; never a layer, only a source.
    Context {
        name: String,
    },
    /// A file fetched by `ADD <url>`: a tree holding that one file.
    Http(Http),
    /// A tree checked out by `ADD <git url>`.
    Git(Git),
    Run(Run),
    Copy(Copy),
    Workdir(Workdir),
}

/// `ADD https://…` (rules D12-D17).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Http {
    pub url: String,
    /// `sha256:<hex>` the body must have.
    pub checksum: Option<String>,
}

/// `ADD <git url>` (rules D18-D20, G01-G04), as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Git {
    pub url: String,
    pub keep_git_dir: bool,
    pub checksum: Option<String>,
}

/// `COPY` and `ADD`. `inputs[0]` is the tree it changes; `sources` name further inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    pub sources: Vec<CopySource>,
    /// Absolute and clean, but for a trailing `/` that says "directory" (rules C02, C04).
    pub destination: String,
    /// Expanded `--chown` text; names are looked up in the destination (rules O01-O04).
    pub chown: Option<String>,
    /// Expanded `--chmod` text (rules O06-O08).
    pub chmod: Option<String>,
    /// The layer does not depend on `inputs[0]` (rules C34, C35).
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
    /// Unpack archives among the sources: `ADD` of local files, or `--unpack` (rules D01, D10, D11).
    pub unpack: bool,
    /// `--from=<stage|image>`: owners of the source are kept (rule C09).
    pub keep_owner: bool,
    /// Seconds; the time new and context files get (rule E10 and docs/design/0003).
    pub epoch: i64,
}

impl Copy {
    /// A `COPY` without flags; what it copies belongs to root.
    pub fn plain(sources: Vec<CopySource>, destination: String, epoch: i64) -> Self {
        Self {
            sources,
            destination,
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: false,
            keep_owner: false,
            epoch,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum CopySource {
    /// `path` is expanded, clean, relative to the root of input number `input`, `""` being that
    /// root (rule C01); with `--parents` the first `/./` in it is kept.
    Path { input: usize, path: String },
    /// As `Path`, but without wildcards: what a mount shows.
    Literal { input: usize, path: String },
    /// A file with this content, mode 0644, owner 0:0 (rule H11).
    Inline { name: String, content: String },
    /// The single file of an [`Op::Http`] input; unpacked only with `--unpack=true` (rule D10).
    Download {
        input: usize,
        name: String,
        #[serde(default)]
        unpack: bool,
    },
}

/// `WORKDIR`: makes the directory and its parents (rules W02-W04).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workdir {
    /// Absolute and clean.
    pub path: String,
    /// The `USER` in force, as written; `""` is root.
    pub user: String,
    pub epoch: i64,
}

/// `RUN`. `inputs[0]` is the root; mounts name further inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The final argument vector, `SHELL` applied.
    pub args: Vec<String>,
    /// `ENV` and `ARG` in force, in order, `SOURCE_DATE_EPOCH` included.
    pub env: Vec<(String, String)>,
    pub cwd: String,
    /// `USER` as written; resolved in the root (rules W10-W12).
    pub user: String,
    pub hostname: String,
    pub network: Network,
    pub insecure: bool,
    /// Script file of a `#!` heredoc: `(path below /dev/pipes, content)` (rule H08).
    pub script: Option<(String, String)>,
    pub mounts: Vec<Mount>,
    pub shm_size: Option<u64>,
    /// `name=soft:hard` as given.
    pub ulimits: Vec<String>,
    /// `host` names of `--add-host`; the addresses are in no key (rule K08).
    pub extra_hosts: Vec<String>,
    #[serde(skip)]
    pub extra_host_addresses: Vec<String>,
    /// Proxy variables, both spellings (rule A11).
    #[serde(skip)]
    pub proxy_env: Vec<(String, String)>,
    pub devices: Vec<String>,
    pub epoch: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Whatever the build's `--network` says; the host's unless told.
    Default,
    None,
    Host,
    /// A network of its own with access to the outside; for the whole build only, as in BuildKit,
    /// whose Dockerfile has no word for it.
    Sandbox,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute and clean.
    pub target: String,
    #[serde(flatten)]
    pub kind: MountKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    Bind {
        input: usize,
        /// Clean, relative to the input's root.
        source: String,
        writable: bool,
    },
    Cache {
        id: String,
        input: Option<usize>,
        source: String,
        sharing: Sharing,
        mode: u32,
        uid: u32,
        gid: u32,
        /// Mode or owner were asked for, which makes it another cache (rule R20).
        #[serde(default, skip_serializing_if = "is_false")]
        owned: bool,
        read_only: bool,
        /// Starts anew in this build (rule K12).
        #[serde(skip)]
        fresh: bool,
    },
    Tmpfs {
        size: Option<u64>,
        #[serde(default, skip_serializing_if = "is_false")]
        read_only: bool,
    },
    /// `file`: mounted at the target; `env`: put into this variable (rules R27, R28).
    Secret {
        id: String,
        required: bool,
        file: bool,
        env: Option<String>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Ssh {
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
const fn is_false(value: &bool) -> bool {
    !*value
}
