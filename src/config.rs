//! What the environment decides, read here and nowhere else (docs/reference/environment.md).

use std::path::{Path, PathBuf};

use store::Store;

use crate::failure::{Failure, FailureKind};

/// `$LAYERCAKE_ROOT`, else `$XDG_DATA_HOME/layercake`, else `~/.local/share/layercake`.
///
/// # Errors
/// When none of the three variables is set.
pub fn store_root() -> Result<PathBuf, Failure> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let root = variable("LAYERCAKE_ROOT")
        .or_else(|| variable("XDG_DATA_HOME").map(|p| p.join("layercake")))
        .or_else(|| variable("HOME").map(|p| p.join(".local/share/layercake")));
    let Some(root) = root else {
        let message = "no place for the store: HOME, XDG_DATA_HOME and LAYERCAKE_ROOT are unset";
        return Err(Failure::new(FailureKind::Environment, message).hint("set LAYERCAKE_ROOT"));
    };
    // The store is opened again by another process with another working directory.
    std::path::absolute(&root)
        .map_err(|e| Failure::new(FailureKind::Environment, format!("{}: {e}", root.display())))
}

/// Opens the store at `root`, which is made when it is missing.
///
/// # Errors
/// When nothing can be made there, with what to set.
pub(crate) fn open_store(root: &Path) -> Result<Store, Failure> {
    Store::open(root).map_err(|error| {
        let cannot_write = match &error {
            store::Error::Io { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::PermissionDenied
                    | std::io::ErrorKind::ReadOnlyFilesystem
                    | std::io::ErrorKind::NotFound
            ),
            _ => false,
        };
        let failure = Failure::from(error);
        if !cannot_write {
            return failure;
        }
        Failure {
            kind: FailureKind::Environment,
            ..failure
        }
        .hint("set LAYERCAKE_ROOT to a directory that can be written to; the store is made there")
    })
}
