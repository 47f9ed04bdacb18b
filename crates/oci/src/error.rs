//! What can go wrong with layers, images, layouts and registries.

use std::io;
use std::path::{Path, PathBuf};

use store::digest::Digest;

/// A layer cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    #[error("read layer")]
    Read(#[source] io::Error),
    #[error("write layer")]
    Write(#[source] io::Error),
    /// A file that goes into the layer.
    #[error("read {path:?}")]
    Content {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} changed while it was read: {expected} bytes before, {actual} now")]
    Changed {
        path: String,
        expected: u64,
        actual: u64,
    },
    #[error("{path:?} cannot be in an image layer: names that start with .wh. mark deletions")]
    ReservedName { path: String },
    #[error("layer entry {path:?} {reason}")]
    Path { path: String, reason: &'static str },
    #[error("{kind} members of tar archives are not supported ({path:?})")]
    Unsupported { path: String, kind: String },
    #[error("invalid tar archive at byte {offset}: {reason}")]
    Archive { offset: u64, reason: &'static str },
    #[error("tar archive ends at byte {offset}, in the middle of a member")]
    Truncated { offset: u64 },
    #[error("layer exceeds the limit of {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("layer entry {path:?} is below {parent:?}, which is not a directory")]
    Parent { path: String, parent: String },
    #[error("layer entry {path:?} is a hard link to {target:?}, which the layer does not contain")]
    LinkTarget { path: String, target: String },
    #[error("layer entry {path:?} leads through more than 40 symlinks")]
    SymlinkLoop { path: String },
    #[error("unpack layer")]
    Store(#[source] store::Error),
}

/// A manifest, index or config cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    #[error("invalid JSON document")]
    Json(#[source] serde_json::Error),
    #[error("invalid image config: {reason}")]
    Config { reason: &'static str },
    #[error("not an image: {media_type}")]
    Kind { media_type: String },
    #[error("layers of type {media_type} are not supported")]
    LayerType { media_type: String },
    #[error("digest {digest} is not supported, only sha256 is")]
    DigestAlgorithm { digest: String },
    #[error("no image for {wanted}; there are: {offered}")]
    NoPlatform { wanted: String, offered: String },
    #[error("indexes are nested more than {limit} deep")]
    Nesting { limit: usize },
    #[error("invalid descriptor")]
    Descriptor(#[from] oci_spec::OciSpecError),
}

/// An OCI image layout cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not an OCI image layout: {reason}", path.display())]
    NotALayout { path: PathBuf, reason: String },
    #[error("{} has no image {name:?}; there are: {known}", path.display())]
    NotFound {
        path: PathBuf,
        name: String,
        known: String,
    },
    #[error("{} has more than one image, name one of: {known}", path.display())]
    Ambiguous { path: PathBuf, known: String },
    #[error("blob {expected} of {} has other content: {actual}, {size} bytes", path.display())]
    Mismatch {
        path: PathBuf,
        expected: Digest,
        actual: Digest,
        size: u64,
    },
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error("image in {}", path.display())]
    Image {
        path: PathBuf,
        #[source]
        source: ImageError,
    },
}

impl LayoutError {
    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    pub(crate) fn image(path: &Path) -> impl Fn(ImageError) -> Self {
        |source| Self::Image {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// A registry does not give what is asked of it. URLs are left out of the messages: where
/// registries redirect to, they carry secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    #[error("set up the registry client")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("registry {host} does not have it: {message}")]
    NotFound { host: String, message: String },
    #[error("registry {host} denies access, or there is no such repository: {message}")]
    Denied { host: String, message: String },
    #[error("registry {host} asks for credentials ({scheme}), which are not implemented yet")]
    Credentials { host: String, scheme: String },
    #[error("registry {host} asks for authentication in a way that cannot be followed: {reason}")]
    Challenge { host: String, reason: &'static str },
    #[error("registry {host} limits the rate of requests: {message}")]
    TooManyRequests { host: String, message: String },
    #[error("registry {host} answers with status {status}: {message}")]
    Status {
        host: String,
        status: u16,
        message: String,
    },
    #[error("cannot talk to registry {host}")]
    Network {
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("registry {host} keeps ending the transfer too early")]
    Interrupted { host: String },
    #[error("registry {host} sent something else for {expected}: {actual}, {size} bytes")]
    Mismatch {
        host: String,
        expected: Digest,
        actual: Digest,
        size: u64,
    },
    #[error("registry {host} sent more than the {expected} bytes of {digest}")]
    Size {
        host: String,
        digest: Digest,
        expected: u64,
    },
    #[error("registry {host} sent a document longer than {limit} bytes")]
    TooLong { host: String, limit: u64 },
    #[error("write what a registry sent")]
    Write(#[source] io::Error),
    #[error("image {reference}")]
    Image {
        reference: String,
        #[source]
        source: ImageError,
    },
}

impl RegistryError {
    pub(crate) fn network(host: &str, error: reqwest::Error) -> Self {
        let source = Box::new(error.without_url());
        Self::Network {
            host: host.to_owned(),
            source,
        }
    }
}

/// A path for messages.
pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
