//! The members of an archive, put into a directory of the destination.

use std::io::{self, Read};

use oci::layer::{LayerReader, Markers, ReadOptions};
use store::content::Content;
use store::tree::{Entry, Kind};
use store::view::{Step, resolve_with};

use super::{ArchiveError, Bytes, Limits, Opened};
use crate::engine::copy::dest::{Destination, Existing, Meta, Thing, is_reserved, join};
use crate::engine::copy::error::{CopyError, text};
use crate::engine::copy::users::Owner;

/// Unpacks archives into one directory.
#[derive(Debug)]
pub(crate) struct Unpacker<'a, 'd> {
    pub destination: &'a mut Destination<'d>,
    /// An existing directory; no member gets out of it (rule D06).
    pub at: &'a [u8],
    /// Instead of the owners in the archive (rule D03).
    pub owner: Option<Owner>,
    /// Seconds since 1970, for directories the archive does not describe.
    pub epoch: i64,
    pub limits: Limits,
    pub warnings: &'a mut Vec<String>,
}

/// Where the last member's parent directory was found.
struct LastParent {
    parent: Vec<u8>,
    resolved: Vec<u8>,
}

impl Unpacker<'_, '_> {
    /// `name`: of the archive, for messages.
    ///
    /// # Errors
    /// [`CopyError`], mostly [`CopyError::Archive`].
    pub(crate) fn unpack(&mut self, name: &str, archive: Opened) -> Result<(), CopyError> {
        let options = ReadOptions {
            markers: Markers::Literal,
            limits: self.limits,
        };
        let mut reader = LayerReader::new(archive.reader, options);
        let failed = |source| CopyError::Archive {
            name: name.to_owned(),
            source,
        };
        let mut last: Option<LastParent> = None;
        while let Some(member) = reader.next().map_err(|e| failed(e.into()))? {
            let (entry, offset, implied) = (member.entry.clone(), member.offset, member.implied);
            if self.is_unrepresentable(&entry, name) {
                continue;
            }
            let hash = match entry.kind {
                Kind::File { .. } => hash(member).map_err(|e| failed(ArchiveError::Open(e)))?,
                _ => [0; 32],
            };
            let entry = Entry {
                kind: with_hash(entry.kind, hash),
                ..entry
            };
            let content = content(&entry, offset, &archive.bytes);
            self.place(entry, content, implied, &mut last)
                .map_err(|error| match error {
                    Misplaced::Archive(source) => failed(source),
                    Misplaced::Copy(error) => error,
                })?;
        }
        Ok(())
    }

    /// Names that a layer would take for removals are left out (rules D08, L10); BuildKit writes
    /// them to the layer, where they do remove.
    fn is_unrepresentable(&mut self, entry: &Entry, archive: &str) -> bool {
        let reserved = entry.path.split(|c| *c == b'/').any(is_reserved);
        let reason = match entry.kind {
            _ if reserved => "its name means removal in image layers",
            Kind::Whiteout => "a character device 0:0 means removal in image layers",
            _ => return false,
        };
        self.warnings.push(format!(
            "{archive}: {} left out: {reason}",
            text(&entry.path)
        ));
        true
    }

    fn place(
        &mut self,
        entry: Entry,
        content: Content,
        implied: bool,
        last: &mut Option<LastParent>,
    ) -> Result<(), Misplaced> {
        let target = self.target(&entry.path, last)?;
        let replaced = self.destination.existing(&target);
        let is_directory = matches!(replaced, Existing::Directory(_));
        let kind_changes = replaced != Existing::Nothing
            && is_directory != matches!(entry.kind, Kind::Directory { .. });
        if implied && replaced != Existing::Nothing {
            // A symlink to a directory will do; whether it is one shows with the next member.
            return Ok(());
        }
        if kind_changes {
            *last = None;
        }
        let meta = self.meta(&entry, implied);
        match entry.kind {
            Kind::Directory { .. } => self.destination.put_directory(&target, meta)?,
            Kind::HardLink { target: file } => {
                let file = self.target(&file, &mut None)?;
                let through = || ArchiveError::Parent {
                    member: text(&entry.path),
                    through: text(&file),
                };
                let thing = self.destination.file_to_link(&file).ok_or_else(through)?;
                self.destination.put(&target, thing)?;
            }
            kind => {
                let thing = Thing {
                    kind,
                    meta,
                    content,
                    group: None,
                };
                self.destination.put(&target, thing)?;
            }
        }
        Ok(())
    }

    /// Rules D03-D05.
    fn meta(&self, entry: &Entry, implied: bool) -> Meta {
        if implied {
            return Meta {
                mode: 0o755,
                mtime: self.epoch,
                ..Meta::default()
            };
        }
        let mut meta = Meta::of(entry);
        if let Some(Owner { uid, gid }) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if matches!(entry.kind, Kind::Symlink { .. }) {
            meta.mode = 0o777;
        }
        meta
    }

    /// Where a member belongs: symlinks that are in the destination are followed as if the
    /// directory unpacked to were the root of everything (rule D06).
    fn target(&self, path: &[u8], last: &mut Option<LastParent>) -> Result<Vec<u8>, Misplaced> {
        let (parent, name) = match path.iter().rposition(|c| *c == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => return Ok(join(self.at, path)),
        };
        if let Some(last) = last
            && last.parent == parent
        {
            return Ok(join(&last.resolved, name));
        }
        let found = resolve_with::<CopyError>(parent, true, |inner| {
            Ok(match self.destination.existing(&join(self.at, inner)) {
                Existing::Nothing => Step::Missing,
                Existing::Symlink(target) => Step::Symlink(target.to_vec()),
                Existing::Directory(_) | Existing::Other => Step::Other,
            })
        })?;
        let resolved = join(self.at, &found.path);
        if !matches!(self.destination.existing(&resolved), Existing::Directory(_)) {
            let through = text(&resolved);
            return Err(ArchiveError::Parent {
                member: text(path),
                through,
            }
            .into());
        }
        *last = Some(LastParent {
            parent: parent.to_vec(),
            resolved: resolved.clone(),
        });
        Ok(join(&resolved, name))
    }
}

enum Misplaced {
    Archive(ArchiveError),
    Copy(CopyError),
}

impl From<ArchiveError> for Misplaced {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl From<CopyError> for Misplaced {
    fn from(error: CopyError) -> Self {
        Self::Copy(error)
    }
}

fn hash(mut member: impl Read) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut member, &mut hasher)?;
    Ok(*hasher.finalize().as_bytes())
}

fn with_hash(kind: Kind, hash: [u8; 32]) -> Kind {
    match kind {
        Kind::File { size, .. } => Kind::File { size, hash },
        other => other,
    }
}

fn content(entry: &Entry, offset: u64, archive: &Bytes) -> Content {
    match entry.kind {
        Kind::File { size, .. } => archive.content(offset, size),
        _ => Content::None,
    }
}
