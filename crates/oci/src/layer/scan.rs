//! A layer archive as an index, and as a directory.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use store::digest::Digest;
use store::dirwriter::DirWriter;
use store::tree::Index;

use super::read::{LayerReader, ReadOptions};
use crate::error::LayerError;

/// What a layer contains, and the digest of the bytes that said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    pub index: Index,
    /// SHA-256 of the whole uncompressed stream, to be compared with the image config's.
    pub diff_id: Digest,
    /// Device nodes left out of the directory because this process may not make them (rule L17);
    /// the index has them.
    pub skipped: Vec<Vec<u8>>,
}

/// Reads an uncompressed layer to its end.
///
/// # Errors
/// Any [`LayerError`] about reading.
pub fn scan<R: Read>(reader: R, options: ReadOptions) -> Result<Scanned, LayerError> {
    finish(
        LayerReader::new(HashReader::new(reader), options),
        Vec::new(),
    )
}

/// Reads an uncompressed layer to its end and writes it into a directory.
///
/// Nothing is checked against an expected diff id: the caller compares and throws the directory
/// away when it differs.
///
/// # Errors
/// Any [`LayerError`] about reading, [`LayerError::Store`] when the directory cannot be written.
pub fn unpack<R: Read>(
    reader: R,
    options: ReadOptions,
    mut directory: DirWriter,
) -> Result<Scanned, LayerError> {
    let mut reader = LayerReader::new(HashReader::new(reader), options);
    while let Some(mut member) = reader.next()? {
        let entry = member.entry.clone();
        directory
            .write(&entry, &mut member)
            .map_err(LayerError::Store)?;
    }
    let skipped = directory.skipped().to_vec();
    directory.finish().map_err(LayerError::Store)?;
    finish(reader, skipped)
}

fn finish<R: Read>(
    reader: LayerReader<HashReader<R>>,
    skipped: Vec<Vec<u8>>,
) -> Result<Scanned, LayerError> {
    let (index, hash) = reader.finish()?;
    Ok(Scanned {
        index,
        diff_id: hash.digest(),
        skipped,
    })
}

/// Passes bytes on, hashing them.
#[derive(Debug)]
struct HashReader<R> {
    inner: R,
    hash: Sha256,
}

impl<R> HashReader<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    fn digest(self) -> Digest {
        Digest::from_bytes(self.hash.finalize().into())
    }
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}
