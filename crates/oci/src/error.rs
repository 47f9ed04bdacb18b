//! What can go wrong with layers, images, layouts and registries.

use std::io;

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

/// A path for messages.
pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
