//! Compressed layers, configs and manifests, named by the SHA-256 of their bytes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::Store;
use crate::atomic::rename_into_place;
use crate::digest::{Digest, HashWriter};
use crate::error::{Error, Result};

/// A blob being written; it is one only after a `commit`. Dropped before, its file stays in the
/// process's temporary directory and goes with it.
#[derive(Debug)]
pub struct BlobWriter {
    path: PathBuf,
    writer: HashWriter<File>,
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Store {
    /// Where a blob of this digest is or would be.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    /// The size of a blob that is there.
    #[must_use]
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.blob_path(digest))
            .ok()
            .map(|m| m.len())
    }

    /// # Errors
    /// [`Error::Io`], also when there is no such blob.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(Error::io("open", path))
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        let path = self.names.fresh();
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        Ok(BlobWriter {
            path,
            writer: HashWriter::new(file),
        })
    }

    /// Takes a finished blob in. Idempotent: one that is there already stays.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when `expected` is another digest; [`Error::Io`].
    pub fn commit_blob(
        &self,
        writer: BlobWriter,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64)> {
        let (digest, size, file) = writer.writer.finish();
        drop(file);
        if let Some(expected) = expected.filter(|e| **e != digest) {
            return Err(Error::Mismatch {
                expected: *expected,
                actual: digest,
                size,
            });
        }
        rename_into_place(&writer.path, &self.blob_path(&digest))?;
        Ok((digest, size))
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) != Some(bytes.len() as u64) {
            self.names.write(&self.blob_path(&digest), bytes)?;
        }
        Ok(digest)
    }

    /// Puts a blob's file at `destination` (which must not exist) as cheaply as the file systems
    /// allow: hard link, reflink, copy.
    ///
    /// # Errors
    /// The last way's error.
    pub fn link_blob(&self, digest: &Digest, destination: &Path) -> io::Result<()> {
        link_or_copy(&self.blob_path(digest), destination)
    }
}

/// Hard link, else reflink (`FICLONE`), else copy.
///
/// # Errors
/// Those of the copy.
pub fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let mut source = File::open(from)?;
    let mut target = File::create_new(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    io::copy(&mut source, &mut target)?;
    Ok(())
}
