//! The members of an archive, put into a directory of the destination.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use oci::layer::{LayerReader, Markers, ReadOptions};
use store::content::Content;
use store::tree::{Entry, Kind};
use store::view::{Step, resolve_with};

use super::{ArchiveError, Bytes, Opened};
use crate::engine::copy::Means;
use crate::engine::copy::dest::{Destination, Existing, Meta, NewGroup, Thing, is_reserved, join};
use crate::engine::copy::error::{CopyError, text};
use crate::engine::copy::users::Owner;

/// Unpacks archives into one directory.
pub(crate) struct Unpacker<'a, 'd> {
    pub destination: &'a mut Destination<'d>,
    /// An existing directory; no member gets out of it (rule D06).
    pub at: &'a [u8],
    /// Instead of the owners in the archive (rule D03).
    pub owner: Option<Owner>,
    /// Seconds since 1970, for directories the archive does not describe.
    pub epoch: i64,
    pub means: Means<'a>,
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
            limits: self.means.limits,
        };
        let mut reader = LayerReader::new(archive.reader, options);
        let failed = |source| CopyError::Archive {
            name: name.to_owned(),
            source,
        };
        let mut last: Option<LastParent> = None;
        while let Some(member) = reader.next().map_err(|e| failed(e.into()))? {
            let (entry, offset, is_sparse) =
                (member.entry.clone(), member.offset, member.is_sparse);
            if self.is_unrepresentable(&entry, name) {
                continue;
            }
            let is_file = matches!(entry.kind, Kind::File { .. });
            let taken = match (is_file, is_sparse) {
                (false, _) => Ok((Content::None, [0; 32])),
                (true, true) => spread(member, self.means.temp),
                (true, false) => hash(member)
                    .map(|hash| (in_archive(&entry, offset, &archive.bytes), hash))
                    .map_err(ArchiveError::Open),
            };
            let (content, hash) = taken.map_err(failed)?;
            let entry = Entry {
                kind: with_hash(entry.kind, hash),
                ..entry
            };
            self.place(entry, content, &mut last)
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
        last: &mut Option<LastParent>,
    ) -> Result<(), Misplaced> {
        let target = self.target(&entry.path, last)?;
        let replaced = self.destination.existing(&target);
        let was_directory = matches!(replaced, Existing::Directory(_));
        if replaced != Existing::Nothing
            && was_directory != matches!(entry.kind, Kind::Directory { .. })
        {
            *last = None;
        }
        let meta = self.meta(&entry);
        match entry.kind {
            Kind::Directory { .. } => self.destination.put_directory(&target, meta)?,
            Kind::HardLink { target: file } => {
                let at = join(self.at, &self.resolve(&file, false)?);
                let below = self.means.below;
                if file.is_empty() || !self.destination.link(&at, &target, meta, below)? {
                    let (member, target) = (text(&entry.path), text(&file));
                    return Err(ArchiveError::LinkTarget { member, target }.into());
                }
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

    /// Rules D03, D04.
    fn meta(&self, entry: &Entry) -> Meta {
        let mut meta = Meta::of(entry);
        if let Some(Owner { uid, gid }) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if matches!(entry.kind, Kind::Symlink { .. }) {
            meta.mode = 0o777;
        }
        meta
    }

    /// Where a member belongs; directories that nothing describes are made for it (rule D05).
    fn target(&mut self, path: &[u8], last: &mut Option<LastParent>) -> Result<Vec<u8>, Misplaced> {
        let Some(at) = path.iter().rposition(|c| *c == b'/') else {
            return Ok(join(self.at, path));
        };
        let (parent, name) = (&path[..at], &path[at + 1..]);
        if let Some(last) = last
            && last.parent == parent
        {
            return Ok(join(&last.resolved, name));
        }
        let resolved = self.parent(path, parent)?;
        let target = join(&resolved, name);
        let parent = parent.to_vec();
        *last = Some(LastParent { parent, resolved });
        Ok(target)
    }

    /// The directory that `parent` of `member` leads to. Symlinks to directories will do, one to
    /// nothing is not gone through.
    fn parent(&mut self, member: &[u8], parent: &[u8]) -> Result<Vec<u8>, Misplaced> {
        let place = join(self.at, &self.resolve(parent, true)?);
        if self.is_directory(&place) {
            return Ok(place);
        }
        let implied = Meta {
            mode: 0o755,
            mtime: self.epoch,
            ..Meta::default()
        };
        let ends = (0..=parent.len()).filter(|at| matches!(parent.get(*at), None | Some(b'/')));
        for level in ends.map(|end| &parent[..end]) {
            let place = join(self.at, &self.resolve(level, false)?);
            match self.destination.existing(&place) {
                Existing::Nothing => {
                    let group = NewGroup::Given;
                    self.destination.make_directories(&place, &implied, group)?;
                }
                _ if self.is_directory(&join(self.at, &self.resolve(level, true)?)) => {}
                _ => {
                    let (member, through) = (text(member), text(&place));
                    return Err(ArchiveError::Parent { member, through }.into());
                }
            }
        }
        Ok(join(self.at, &self.resolve(parent, true)?))
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        matches!(self.destination.existing(path), Existing::Directory(_))
    }

    /// Follows symlinks that are in the destination, as if the directory unpacked to were the root
    /// of everything (rule D06); so the path returned begins there.
    fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>, CopyError> {
        let found = resolve_with::<CopyError>(path, follow_last, |inner| {
            Ok(match self.destination.existing(&join(self.at, inner)) {
                Existing::Nothing => Step::Missing,
                Existing::Symlink(target) => Step::Symlink(target.to_vec()),
                Existing::Directory(_) | Existing::Other => Step::Other,
            })
        })?;
        Ok(found.path)
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

fn in_archive(entry: &Entry, offset: u64, archive: &Bytes) -> Content {
    match entry.kind {
        Kind::File { size, .. } => archive.content(offset, size),
        _ => Content::None,
    }
}

/// A file with holes, which the archive does not hold in one piece, as it is.
fn spread(
    mut member: impl Read,
    temp: &dyn super::TempFiles,
) -> Result<(Content, [u8; 32]), ArchiveError> {
    let file = temp.create().map_err(ArchiveError::Temp)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut len = 0;
    loop {
        let n = member.read(&mut buffer).map_err(ArchiveError::Open)?;
        if n == 0 {
            break;
        }
        let bytes = &buffer[..n];
        hasher.update(bytes);
        if bytes.iter().any(|byte| *byte != 0) {
            file.write_all_at(bytes, len).map_err(ArchiveError::Temp)?;
        }
        len += n as u64;
    }
    // What was not written is a hole here too.
    file.set_len(len).map_err(ArchiveError::Temp)?;
    let content = Content::Range {
        file: Arc::new(file),
        offset: 0,
        len,
    };
    Ok((content, *hasher.finalize().as_bytes()))
}
