//! Where the bytes of a regular file are, so that a layer can be described before it is read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::tree::{ContentHash, Entry};

/// An entry and its bytes.
#[derive(Debug, Clone)]
pub struct Item {
    pub entry: Entry,
    /// [`Content::None`] for everything but regular files.
    pub content: Content,
}

impl Item {
    /// Only regular files have bytes in a layer.
    pub(crate) fn drop_content_unless_file(&mut self) {
        if !matches!(self.entry.kind, crate::tree::Kind::File { .. }) {
            self.content = Content::None;
        }
    }

    /// For further names of a file, of which only the first has bytes and attributes in a layer.
    pub(crate) fn become_link(&mut self) {
        self.content = Content::None;
        self.entry.xattrs.clear();
    }
}

#[derive(Debug, Clone)]
pub enum Content {
    None,
    Bytes(Bytes),
    /// Bytes whose BLAKE3 is known.
    Hashed {
        bytes: Bytes,
        hash: ContentHash,
    },
    /// A path below a directory; opened without following any symlink (`openat2`, kernel 5.6), so
    /// that a link put there meanwhile leads nowhere.
    Beneath {
        root: Arc<OwnedFd>,
        path: Vec<u8>,
    },
    /// A part of an open file, for members of an archive.
    Range {
        file: Arc<File>,
        offset: u64,
        len: u64,
    },
}

impl Content {
    /// # Errors
    /// What `openat2` says; `ELOOP` when a component is a symlink.
    pub fn open(&self) -> io::Result<Reader> {
        Ok(match self {
            Self::None => Reader::Bytes {
                bytes: Bytes::new(),
                at: 0,
            },
            Self::Bytes(bytes) | Self::Hashed { bytes, .. } => Reader::Bytes {
                bytes: bytes.clone(),
                at: 0,
            },
            Self::Beneath { root, path } => Reader::File(File::from(rustix::fs::openat2(
                root.as_ref(),
                path.as_slice(),
                OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            )?)),
            Self::Range { file, offset, len } => Reader::Range {
                file: file.clone(),
                at: *offset,
                left: *len,
            },
        })
    }
}

/// An open [`Content`].
#[derive(Debug)]
pub enum Reader {
    Bytes { bytes: Bytes, at: usize },
    File(File),
    Range { file: Arc<File>, at: u64, left: u64 },
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bytes { bytes, at } => {
                let n = buffer.len().min(bytes.len() - *at);
                buffer[..n].copy_from_slice(&bytes[*at..*at + n]);
                *at += n;
                Ok(n)
            }
            Self::File(file) => file.read(buffer),
            Self::Range { file, at, left } => {
                let want = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let n = file.read_at(&mut buffer[..want], *at)?;
                *at += n as u64;
                *left -= n as u64;
                Ok(n)
            }
        }
    }
}
