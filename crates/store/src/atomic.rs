//! Files that are there whole or not at all: written under a temporary name, then renamed.
//!
//! Nothing is fsynced: a store is a cache. After a power cut a file may be empty or garbled;
//! every reader checks a sum (records, indexes), a digest (blobs) or the boot id (layers).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Makes the parent directory if need be.
pub(crate) fn rename_into_place(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            }
            std::fs::rename(from, to).map_err(Error::io("rename into place", to))
        }
        other => other.map_err(Error::io("rename into place", to)),
    }
}

/// A name nobody else uses in this process's own temporary directory.
#[derive(Debug)]
pub(crate) struct Names {
    directory: PathBuf,
    next: AtomicU64,
}

impl Names {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            next: AtomicU64::new(0),
        }
    }

    pub(crate) fn fresh(&self) -> PathBuf {
        self.directory
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    pub(crate) fn write(&self, to: &Path, bytes: &[u8]) -> Result<()> {
        let path = self.fresh();
        let write = |path: &Path| File::create_new(path)?.write_all(bytes);
        write(&path).map_err(Error::io("write", &path))?;
        rename_into_place(&path, to)
    }
}
