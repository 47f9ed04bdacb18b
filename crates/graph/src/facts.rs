//! What lowering must know of the world, asked for first ([`crate::lower::needs`]) and then
//! handed in: lowering itself touches nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ImageConfig;

/// What the command line asked for.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// `--target`; the last stage when `None` (rules S08, S09).
    pub target: Option<String>,
    /// All stages count as needed, beside the target: what `--check` without a target looks at.
    pub all_stages: bool,
    /// `--build-arg`, later ones win; proxies included.
    pub build_args: BTreeMap<String, String>,
    /// `--label`, for the final image only (rules W17, M18).
    pub labels: BTreeMap<String, String>,
    /// `linux/amd64[/variant]` to build for, and the machine's own.
    pub target_platform: Platform,
    pub build_platform: Platform,
    /// True when `--platform` was given.
    pub platform_explicit: bool,
    /// Names given with `--build-context`; `true` for those that are local directories, `false`
    /// for images. Keys as written; looked up as rules G06 and S02 say.
    pub contexts: BTreeMap<String, bool>,
    /// `--no-cache`, or the stages of `--no-cache-filter`.
    pub no_cache: bool,
    pub no_cache_filter: BTreeSet<String>,
    /// `--network` of the build: what `RUN --network=default` means.
    pub network: Option<crate::op::Network>,
    /// `--add-host name:ip`, `--shm-size` bytes, `--ulimit`, `--hostname`.
    pub add_hosts: Vec<(String, String)>,
    pub shm_size: Option<u64>,
    pub ulimits: Vec<String>,
    pub hostname: Option<String>,
    /// `--allow security.insecure`, `network.host`.
    pub allow: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

/// Answers for one set of [`Needs`].
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Key: see [`ImageNeed::key`].
    pub images: BTreeMap<String, ImageFact>,
}

#[derive(Debug, Clone)]
pub struct ImageFact {
    pub config: ImageConfig,
    /// An image without layers counts as scratch with a config (rule S15).
    pub layers: usize,
}

/// What must be known before lowering can go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    pub images: BTreeMap<String, ImageNeed>,
}

/// One image that the target needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageNeed {
    /// Expanded text of `FROM` or `--from`, or the name of the `--build-context` that replaces it.
    pub reference: String,
    /// True: `reference` is a key of [`Selection::contexts`].
    pub named_context: bool,
    pub platform: Platform,
    /// The first lines that ask for it.
    pub lines: (u32, u32),
    /// What to say should there be no such image: a stage or well-known image of nearly this name,
    /// a stage of this name further down.
    pub advice: Option<String>,
}

impl ImageNeed {
    /// The name of the answer in [`Facts::images`] and of the [`crate::Op::Image`]: equal for
    /// references that mean the same image (`busybox`, `docker.io/library/busybox:latest`).
    #[must_use]
    pub fn key(&self) -> String {
        let name = crate::lower::reference::normalise(&self.reference)
            .unwrap_or_else(|_| self.reference.clone());
        let kind = if self.named_context { "context:" } else { "" };
        format!("{kind}{name} {}", self.platform)
    }
}

impl std::fmt::Display for Platform {
    /// `os/architecture[/variant]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}
