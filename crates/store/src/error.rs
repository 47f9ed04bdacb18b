//! What can go wrong in the store, each with the path it happened to.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} has store format {found}, this program reads {expected}; use another LAYERCAKE_ROOT or remove it",
        path.display()
    )]
    Format {
        path: PathBuf,
        found: String,
        expected: &'static str,
    },
    #[error("blob {expected} has other content: {actual}, {size} bytes")]
    Mismatch {
        expected: Digest,
        actual: Digest,
        size: u64,
    },
    #[error("{} is used by another layercake", path.display())]
    Busy { path: PathBuf },
    #[error("layer entry {path:?}: {reason}")]
    Entry { path: String, reason: &'static str },
}

impl Error {
    /// For `map_err`: names what was done and to what.
    pub fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            action,
            path: path.as_ref().to_path_buf(),
            source: source.into(),
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
