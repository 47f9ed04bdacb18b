//! A layer archive as entries, in the order in which they have to be written.

use std::collections::VecDeque;
use std::io::{self, Read};

use store::tree::{Entry, Index, Kind};
use tar::EntryType;

use super::archive::{Archive, RawMember};
use super::header::{OPAQUE, WHITEOUT};
use super::limits::Limits;
use super::place::{Placement, clean, split};
use crate::error::{LayerError, lossy};

/// What names that start with `.wh.` mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Markers {
    /// Whiteouts: the archive is an image layer.
    #[default]
    Whiteouts,
    /// Themselves: the archive is somebody's files. Entries are then returned as the archive has
    /// them, for a reader who knows where they go: none is added, none put elsewhere.
    Literal,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    pub markers: Markers,
    pub limits: Limits,
}

/// Reads an uncompressed tar archive as it is streamed.
///
/// Names are made relative and confined to the root: `..` stops there, and where an earlier member
/// is a symlink, later ones below it land where it leads to, inside the archive's own tree.
/// Members that mean the root itself are dropped (rule L16), as are those of aufs (`.wh..wh.*`)
/// and the attributes overlayfs keeps for itself. A character device 0:0 is what overlayfs takes
/// for a whiteout, so it is one.
#[derive(Debug)]
pub struct LayerReader<R> {
    archive: Archive<R>,
    placement: Placement,
    options: ReadOptions,
    /// Entries to return before the next member is read.
    queue: VecDeque<Entry>,
    current: Option<Current>,
    /// Of literal archives, members so far.
    count: usize,
    /// The current member is a file with holes.
    is_sparse: bool,
}

/// The file whose bytes are being read.
#[derive(Debug)]
struct Current {
    /// None in a literal archive.
    inode: Option<usize>,
    hasher: blake3::Hasher,
}

/// One entry; for a regular file, `Read` gives its bytes. What is not read is skipped.
#[derive(Debug)]
pub struct Member<'a, R> {
    /// The hash of a file's bytes is zero here; [`LayerReader::finish`] knows it.
    pub entry: Entry,
    /// Where the bytes begin in the uncompressed archive; meaningful for regular files.
    pub offset: u64,
    /// It has holes, so the archive does not have its bytes one after another.
    pub is_sparse: bool,
    reader: &'a mut LayerReader<R>,
}

impl<R: Read> LayerReader<R> {
    pub const fn new(reader: R, options: ReadOptions) -> Self {
        Self {
            archive: Archive::new(reader, options.limits),
            placement: Placement::new(options.limits),
            options,
            queue: VecDeque::new(),
            current: None,
            count: 0,
            is_sparse: false,
        }
    }

    /// The next entry. Directories that no member describes come before what is in them
    /// (mode 0755, root's, of 1970), so every entry's parent has been returned before.
    ///
    /// # Errors
    /// Any [`LayerError`] about reading; the reader is then of no further use.
    #[expect(
        clippy::should_implement_trait,
        reason = "a member borrows from the reader"
    )]
    pub fn next(&mut self) -> Result<Option<Member<'_, R>>, LayerError> {
        self.end_current()?;
        while self.queue.is_empty() {
            let Some(raw) = self.archive.next()? else {
                return Ok(None);
            };
            self.place(raw)?;
        }
        let Some(entry) = self.queue.pop_front() else {
            return Ok(None);
        };
        Ok(Some(Member {
            entry,
            offset: self.archive.offset(),
            is_sparse: self.is_sparse,
            reader: self,
        }))
    }

    /// Reads the rest of the stream and returns all entries: sorted, hashed, each path once. The
    /// names of one file are a file and its hard links, whatever their order was.
    ///
    /// # Errors
    /// As [`LayerReader::next`].
    pub fn finish(mut self) -> Result<(Index, R), LayerError> {
        while self.next()?.is_some() {}
        Ok((self.placement.into_index(), self.archive.finish()?))
    }

    /// The rest of the current file is read as its hash is wanted, and the hash noted.
    fn end_current(&mut self) -> Result<(), LayerError> {
        if !self.queue.is_empty() || self.current.is_none() {
            return Ok(());
        }
        let mut buffer = [0; 32 << 10];
        while self.read_content(&mut buffer)? > 0 {}
        if let Some(Current {
            inode: Some(inode),
            hasher,
        }) = self.current.take()
        {
            self.placement
                .set_hash(inode, *hasher.finalize().as_bytes());
        }
        Ok(())
    }

    fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let Some(current) = &mut self.current else {
            return Ok(0);
        };
        let n = self.archive.read_content(buffer)?;
        current.hasher.update(&buffer[..n]);
        Ok(n)
    }

    fn place(&mut self, raw: RawMember) -> Result<(), LayerError> {
        let path = clean(&raw.name);
        if path.is_empty() {
            return Ok(());
        }
        check_name(&raw, &path, &self.options.limits)?;
        self.is_sparse = raw.is_sparse;
        let entry = match self.marker(&path)? {
            Marker::None => entry(raw, path)?,
            Marker::Ignored => return Ok(()),
            Marker::Opaque => {
                let directory = split(&path).0;
                // An opaque root hides everything below; no entry can say so.
                if directory.is_empty() {
                    return Err(LayerError::Path {
                        path: lossy(&path),
                        reason: "makes the root opaque, which is not supported",
                    });
                }
                self.queue
                    .extend(self.placement.mark_opaque(directory.to_vec())?);
                return Ok(());
            }
            Marker::Whiteout(path) => whiteout(path),
        };
        let is_file = matches!(entry.kind, Kind::File { .. });
        let inode = if self.options.markers == Markers::Literal {
            self.count += 1;
            if self.count > self.options.limits.entries {
                return Err(LayerError::Limit {
                    what: "entries",
                    limit: self.options.limits.entries as u64,
                });
            }
            self.queue.push_back(entry);
            None
        } else {
            let placed = self.placement.place(entry)?;
            self.queue.extend(placed.entries);
            Some(placed.inode)
        };
        if is_file {
            self.current = Some(Current {
                inode,
                hasher: blake3::Hasher::new(),
            });
        }
        Ok(())
    }

    fn marker(&self, path: &[u8]) -> Result<Marker, LayerError> {
        if self.options.markers == Markers::Literal {
            return Ok(Marker::None);
        }
        let (parent, name) = split(path);
        if parent
            .split(|b| *b == b'/')
            .any(|c| c.starts_with(WHITEOUT))
        {
            // Below aufs' own directories; anything else has no meaning.
            return match path.starts_with(b".wh..wh.") {
                true => Ok(Marker::Ignored),
                false => Err(LayerError::ReservedName { path: lossy(path) }),
            };
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(Marker::None);
        };
        if name == OPAQUE {
            return Ok(Marker::Opaque);
        }
        if hidden.starts_with(WHITEOUT) {
            return Ok(Marker::Ignored);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            let path = lossy(path);
            return Err(LayerError::Path {
                path,
                reason: "is a whiteout of no name",
            });
        }
        let mut path = path[..path.len() - name.len()].to_vec();
        path.extend_from_slice(hidden);
        Ok(Marker::Whiteout(path))
    }
}

enum Marker {
    None,
    Ignored,
    Opaque,
    Whiteout(Vec<u8>),
}

fn check_name(raw: &RawMember, path: &[u8], limits: &Limits) -> Result<(), LayerError> {
    if raw.name.contains(&0) || raw.link.contains(&0) {
        return Err(LayerError::Path {
            path: lossy(path),
            reason: "has a NUL byte in its name",
        });
    }
    if raw.name.len().max(raw.link.len()) > limits.path_bytes {
        let limit = limits.path_bytes as u64;
        return Err(LayerError::Limit {
            what: "bytes in a path",
            limit,
        });
    }
    if path
        .split(|b| *b == b'/')
        .any(|c| c.len() > Limits::NAME_BYTES)
    {
        let limit = Limits::NAME_BYTES as u64;
        return Err(LayerError::Limit {
            what: "bytes in a file name",
            limit,
        });
    }
    Ok(())
}

fn whiteout(path: Vec<u8>) -> Entry {
    Entry {
        path,
        kind: Kind::Whiteout,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

fn entry(raw: RawMember, path: Vec<u8>) -> Result<Entry, LayerError> {
    let (major, minor) = raw.device;
    let kind = match raw.kind {
        EntryType::Regular if raw.old_directory => Kind::Directory { opaque: false },
        EntryType::Regular | EntryType::Continuous => Kind::File {
            size: raw.size,
            hash: [0; 32],
        },
        EntryType::Directory => Kind::Directory { opaque: false },
        EntryType::Symlink if raw.link.is_empty() => {
            return Err(LayerError::Path {
                path: lossy(&path),
                reason: "is a symlink to nothing",
            });
        }
        EntryType::Symlink => Kind::Symlink { target: raw.link },
        EntryType::Link => Kind::HardLink {
            target: clean(&raw.link),
        },
        EntryType::Char if raw.device == (0, 0) => return Ok(whiteout(path)),
        EntryType::Char => Kind::CharDevice { major, minor },
        EntryType::Block => Kind::BlockDevice { major, minor },
        EntryType::Fifo => Kind::Fifo,
        other => {
            let kind = format!("type {:?}", char::from(other.as_byte()));
            return Err(LayerError::Unsupported {
                path: lossy(&path),
                kind,
            });
        }
    };
    let mut xattrs = raw.xattrs;
    xattrs.retain(|(name, _)| {
        !name.starts_with(b"user.overlay.") && !name.starts_with(b"trusted.overlay.")
    });
    let (mode, uid, gid, mtime) = (raw.mode, raw.uid, raw.gid, raw.mtime);
    Ok(Entry {
        path,
        kind,
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

impl<R: Read> Read for Member<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Entries that come before the file itself have no bytes.
        if !self.reader.queue.is_empty() {
            return Ok(0);
        }
        self.reader
            .read_content(buffer)
            .map_err(|error| match error {
                LayerError::Read(error) => error,
                other => io::Error::new(io::ErrorKind::InvalidData, other),
            })
    }
}
