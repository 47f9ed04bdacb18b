//! Entries in, canonical tar bytes out, one at a time.

use std::io::{self, Read, Write};

use store::content::{Content, Reader};
use store::tree::{Entry, Kind};

use super::header::{END, encode, padding};
use crate::error::{LayerError, lossy};

/// Bytes moved at once; from here on a system call costs less than hashing.
const BUFFER: usize = 256 << 10;

/// Writes a layer as a tar archive; see [`super::pack`] for many entries at once.
///
/// The order is the caller's: sorted ([`store::tree::compare_paths`]) and with parents before
/// children, as [`store::tree::Index`] has it (rules L03, L09).
#[derive(Debug)]
pub struct LayerWriter<W> {
    out: W,
    header: Vec<u8>,
    buffer: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    pub const fn new(out: W) -> Self {
        Self {
            out,
            header: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Writes `entry`, and for a regular file its bytes, whose size and hash are filled in.
    ///
    /// # Errors
    /// [`LayerError::ReservedName`] and [`LayerError::Path`] for what a layer cannot say,
    /// [`LayerError::Content`] when the file cannot be read, [`LayerError::Changed`] when it is
    /// longer or shorter than when it was opened. The archive is then unusable.
    pub fn append(&mut self, entry: &mut Entry, content: &Content) -> Result<(), LayerError> {
        let Kind::File { .. } = entry.kind else {
            return self.write_header(entry, 0);
        };
        let (size, mut reader) = open(entry, content)?;
        self.write_header(entry, size)?;
        self.buffer.resize(BUFFER, 0);
        let mut hasher = blake3::Hasher::new();
        let mut copied = 0;
        loop {
            let n = read(&mut reader, &mut self.buffer).map_err(content_error(entry))?;
            copied += n as u64;
            if copied > size {
                return Err(changed(entry, size, copied));
            }
            if n == 0 {
                break;
            }
            hasher.update(&self.buffer[..n]);
            self.out
                .write_all(&self.buffer[..n])
                .map_err(LayerError::Write)?;
        }
        if copied < size {
            return Err(changed(entry, size, copied));
        }
        entry.kind = Kind::File {
            size,
            hash: *hasher.finalize().as_bytes(),
        };
        self.write_raw(&END[..padding(size)])
    }

    fn write_header(&mut self, entry: &Entry, size: u64) -> Result<(), LayerError> {
        self.header.clear();
        encode(entry, size, &mut self.header)?;
        self.out.write_all(&self.header).map_err(LayerError::Write)
    }

    /// Bytes that are tar already.
    pub(super) fn write_raw(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.out.write_all(bytes).map_err(LayerError::Write)
    }

    /// Ends the archive. Nothing is flushed.
    ///
    /// # Errors
    /// [`LayerError::Write`].
    pub fn finish(mut self) -> Result<W, LayerError> {
        self.write_raw(&END)?;
        Ok(self.out)
    }
}

/// The content and how long it is now.
pub(super) fn open(entry: &Entry, content: &Content) -> Result<(u64, Reader), LayerError> {
    let reader = content.open().map_err(content_error(entry))?;
    let size = match &reader {
        Reader::Bytes { bytes, at } => (bytes.len() - at) as u64,
        Reader::Range { left, .. } => *left,
        Reader::File(file) => {
            let stat = rustix::fs::fstat(file).map_err(|e| content_error(entry)(e.into()))?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode)
                != rustix::fs::FileType::RegularFile
            {
                let source = io::Error::other("no longer a regular file");
                return Err(content_error(entry)(source));
            }
            u64::try_from(stat.st_size).unwrap_or(0)
        }
    };
    Ok((size, reader))
}

/// Fills `buffer` as far as the reader goes.
fn read(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

pub(super) fn content_error(entry: &Entry) -> impl Fn(io::Error) -> LayerError {
    |source| LayerError::Content {
        path: lossy(&entry.path),
        source,
    }
}

pub(super) fn changed(entry: &Entry, expected: u64, actual: u64) -> LayerError {
    LayerError::Changed {
        path: lossy(&entry.path),
        expected,
        actual,
    }
}
