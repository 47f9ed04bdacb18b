//! Archives that `ADD` unpacks (rules D01-D11): recognised by their content, read once from front
//! to end, their files left where they are: in the archive itself or, when that is compressed, in
//! a temporary file with the plain archive.

mod detect;
mod unpack;

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use store::content::{Content, Reader};

pub(crate) use unpack::Unpacker;

/// Makes files that are gone when they are closed.
pub trait TempFiles {
    /// An empty file open for reading and writing.
    ///
    /// # Errors
    /// What the file system says.
    fn create(&self) -> io::Result<File>;
}

/// What an archive may hold; see [`oci::layer::Limits`].
pub type Limits = oci::layer::Limits;

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    #[error("read archive")]
    Open(#[source] io::Error),
    #[error("temporary file")]
    Temp(#[source] io::Error),
    #[error(transparent)]
    Format(#[from] oci::error::LayerError),
    /// A member would go through something that is no directory in the destination (rule D06).
    #[error("member {member} leads through /{through}, which is not a directory")]
    Parent { member: String, through: String },
    /// Neither in the archive before it nor in the destination.
    #[error("member {member} is a hard link to {target}, which is not there")]
    LinkTarget { member: String, target: String },
}

/// An archive at its beginning.
#[derive(Debug)]
pub(crate) struct Opened {
    reader: Recorder,
    bytes: Bytes,
}

/// Opens `content` if it is a tar archive, plain or compressed with gzip, bzip2, xz or zstd, going
/// by its first header as BuildKit does (rule D01). No more of it is read than that needs.
///
/// # Errors
/// [`ArchiveError::Open`], [`ArchiveError::Temp`]. Content that is not what it looks like is no
/// error but no archive.
pub(crate) fn open(
    content: &Content,
    temp: &dyn TempFiles,
) -> Result<Option<Opened>, ArchiveError> {
    let mut probe = detect::decompress(content.open().map_err(ArchiveError::Open)?)
        .map_err(ArchiveError::Open)?;
    let mut header = Vec::with_capacity(detect::BLOCK);
    let begins = probe
        .reader
        .by_ref()
        .take(detect::BLOCK as u64)
        .read_to_end(&mut header);
    match begins {
        Ok(_) if detect::is_tar_header(&header) => {}
        Ok(_) => return Ok(None),
        Err(_) if probe.compressed => return Ok(None),
        Err(error) => return Err(ArchiveError::Open(error)),
    }
    let again = content.open().map_err(ArchiveError::Open)?;
    if probe.compressed {
        let decoder = detect::decompress(again)
            .map_err(ArchiveError::Open)?
            .reader;
        let file = Arc::new(temp.create().map_err(ArchiveError::Temp)?);
        let bytes = Bytes::File {
            file: file.clone(),
            start: 0,
        };
        return Ok(Some(Opened {
            reader: Recorder::Copied { decoder, file },
            bytes,
        }));
    }
    in_place(again).map(Some).map_err(ArchiveError::Open)
}

fn in_place(reader: Reader) -> io::Result<Opened> {
    let (reader, bytes) = match reader {
        Reader::Bytes { ref bytes, .. } => {
            let bytes = Bytes::Memory(bytes.clone());
            (reader, bytes)
        }
        Reader::Range { ref file, at, .. } => {
            let bytes = Bytes::File {
                file: file.clone(),
                start: at,
            };
            (reader, bytes)
        }
        Reader::File(file) => {
            let (left, file) = (file.metadata()?.len(), Arc::new(file));
            let bytes = Bytes::File {
                file: file.clone(),
                start: 0,
            };
            (Reader::Range { file, at: 0, left }, bytes)
        }
    };
    Ok(Opened {
        reader: Recorder::Plain(reader),
        bytes,
    })
}

/// Reads an archive.
enum Recorder {
    Plain(Reader),
    /// What `decoder` gives is written to `file` on the way.
    Copied {
        decoder: Box<dyn Read>,
        file: Arc<File>,
    },
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Recorder::Plain",
            Self::Copied { .. } => "Recorder::Copied",
        })
    }
}

impl Read for Recorder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Copied { decoder, file } => {
                let n = decoder.read(buffer)?;
                let failed = |e: io::Error| io::Error::new(e.kind(), TempError(e));
                file.as_ref().write_all(&buffer[..n]).map_err(failed)?;
                Ok(n)
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("write temporary file")]
struct TempError(#[source] io::Error);

/// Where the bytes of an archive can be found once it has been read.
#[derive(Debug)]
enum Bytes {
    Memory(bytes::Bytes),
    File { file: Arc<File>, start: u64 },
}

impl Bytes {
    /// `len` bytes from `offset` on.
    fn content(&self, offset: u64, len: u64) -> Content {
        match self {
            Self::Memory(bytes) => {
                let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
                Content::Bytes(bytes.slice(index(offset)..index(offset.saturating_add(len))))
            }
            Self::File { file, start } => Content::Range {
                file: file.clone(),
                offset: start + offset,
                len,
            },
        }
    }
}
