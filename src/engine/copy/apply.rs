//! Puts the selected files into the destination, one source after another, as each may change what
//! the next one finds.

use std::collections::HashMap;

use graph::op;
use store::tree::{ContentHash, Kind};

use super::Means;
use super::archive;
use super::dest::{Destination, Existing, LinkGroup, Meta, NewGroup, Thing, join};
use super::error::{CopyError, text};
use super::mode::Chmod;
use super::select::{Match, Pick};
use super::tree::{LinkId, NodeKind};
use super::users::Owner;

/// What applies to all files of one instruction.
pub(super) struct Copier<'a, 'd> {
    pub op: &'a op::Copy,
    pub destination: &'a mut Destination<'d>,
    pub owner: Option<Owner>,
    pub chmod: Option<Chmod>,
    pub means: Means<'a>,
    pub warnings: Vec<String>,
    /// Where a file was put under the name the destination has, not into a directory.
    pub renamed: Option<Vec<u8>>,
}

impl Copier<'_, '_> {
    /// # Errors
    /// [`CopyError`].
    pub(super) fn place(&mut self, found: &Match<'_>) -> Result<(), CopyError> {
        if found.unpack && self.unpack(found)? {
            return Ok(());
        }
        let written = self.op.destination.as_bytes();
        if written.ends_with(b"/") {
            let directory = self.destination.resolve(written)?;
            self.make(&directory.path)?;
        }
        let at = self.destination.resolve(written)?.path;
        let existing = self.destination.existing(&at);
        let is_directory = matches!(existing, Existing::Directory(_));
        if found.directory {
            if !is_directory && existing != Existing::Nothing {
                return Err(CopyError::DirectoryOverFile { path: text(&at) });
            }
            self.make(&at)?;
            return self.copy(found, &at);
        }
        if is_directory {
            return self.copy(found, &join(&at, &found.base_name));
        }
        if self.renamed.as_ref() == Some(&at) {
            self.tell_of_overwriting(&at);
        }
        self.make(parent_of(&at))?;
        self.renamed = Some(at.clone());
        self.copy(found, &at)
    }

    /// Rule C25: the last of several files stays, which nobody wants.
    fn tell_of_overwriting(&mut self, at: &[u8]) {
        let warning = format!(
            "several files are copied to /{}, of which the last one stays: a destination for \
             more than one must end with /",
            text(at)
        );
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Rule C08.
    fn meta_of_made_directories(&self) -> Meta {
        let owner = self.owner.unwrap_or_default();
        let mode = self
            .chmod
            .as_ref()
            .map_or(0o755, Chmod::of_made_directories);
        let Owner { uid, gid } = owner;
        Meta {
            mode,
            uid,
            gid,
            mtime: self.op.epoch,
            xattrs: Vec::new(),
        }
    }

    /// The directory at `path` and its missing parents.
    fn make(&mut self, path: &[u8]) -> Result<(), CopyError> {
        let meta = self.meta_of_made_directories();
        let group = self.group_of_made_directories();
        self.destination.make_directories(path, &meta, group)?;
        Ok(())
    }

    fn group_of_made_directories(&self) -> NewGroup {
        match self.owner {
            Some(_) => NewGroup::Given,
            None => NewGroup::OfParent,
        }
    }

    fn copy(&mut self, found: &Match<'_>, at: &[u8]) -> Result<(), CopyError> {
        // Per source: files linked across two sources are copied twice (rules C15, C38).
        let mut links: HashMap<&LinkId, LinkGroup> = HashMap::new();
        for pick in &found.picks {
            let target = join(at, &pick.rel);
            if pick.node.is_directory() {
                self.copy_directory(pick, &target)?;
                continue;
            }
            if matches!(self.destination.existing(&target), Existing::Directory(_)) {
                return Err(CopyError::FileOverDirectory {
                    path: text(&target),
                });
            }
            let group = pick.node.link.as_ref().map(|link| {
                *links
                    .entry(link)
                    .or_insert_with(|| self.destination.new_group())
            });
            let thing = Thing {
                kind: kind(pick),
                meta: self.meta(pick),
                content: pick.content()?,
                group,
            };
            self.destination.put(&target, thing)?;
        }
        Ok(())
    }

    /// Rules C06, C07, C33: the source directory itself gives its destination only its time, those
    /// below give all they have.
    fn copy_directory(&mut self, pick: &Pick<'_>, target: &[u8]) -> Result<(), CopyError> {
        let meta = self.meta(pick);
        if pick.rel.is_empty() {
            return self.destination.set_directory_time(target, meta.mtime);
        }
        match self.destination.existing(target) {
            // BuildKit takes its mode before `--chmod`, and nothing else.
            Existing::Directory(_) if pick.on_the_way => {
                self.destination.set_directory_mode(target, pick.node.mode)
            }
            Existing::Nothing | Existing::Directory(_) => {
                self.destination.put_directory(target, meta)
            }
            Existing::Symlink(_) | Existing::Other => {
                Err(CopyError::DirectoryOverFile { path: text(target) })
            }
        }
    }

    /// Rules C09, C11, O05, O07-O09; of extended attributes only capabilities would stay in a layer
    /// (rule L12).
    fn meta(&self, pick: &Pick<'_>) -> Meta {
        let node = &pick.node;
        let kept = Owner {
            uid: node.uid,
            gid: node.gid,
        };
        let default = if self.op.keep_owner {
            kept
        } else {
            Owner::default()
        };
        let Owner { uid, gid } = self.owner.unwrap_or(default);
        let mode = match (&self.chmod, &node.kind) {
            (None, _) | (_, NodeKind::Symlink { .. }) => node.mode,
            (Some(chmod), _) => chmod.apply(node.mode, node.is_directory()),
        };
        let xattrs = pick
            .facts
            .as_ref()
            .map_or(&node.xattrs, |facts| &facts.xattrs);
        // BuildKit loses those of contexts on the way to its daemon.
        let xattrs = if self.op.keep_owner {
            xattrs.clone()
        } else {
            Vec::new()
        };
        Meta {
            mode,
            uid,
            gid,
            mtime: node.mtime.unwrap_or(self.op.epoch),
            xattrs,
        }
    }

    /// Unpacks the source if it is an archive, whatever its name says (rules D01, D02, D10).
    fn unpack(&mut self, found: &Match<'_>) -> Result<bool, CopyError> {
        let [pick] = found.picks.as_slice() else {
            return Ok(false);
        };
        if !pick.node.is_file() {
            return Ok(false);
        }
        let failed = |source| CopyError::Archive {
            name: found.shown.clone(),
            source,
        };
        let content = pick.content()?;
        let opened = archive::open(&content, self.means.temp).map_err(failed)?;
        let Some(opened) = opened else {
            return Ok(false);
        };
        let written = self.op.destination.as_bytes();
        let at = self.destination.resolve(written)?.path;
        let made = Meta {
            mode: 0o755,
            ..self.meta_of_made_directories()
        };
        let group = self.group_of_made_directories();
        self.destination.make_directories(&at, &made, group)?;
        let mut unpacker = archive::Unpacker {
            destination: self.destination,
            at: &at,
            owner: self.owner,
            epoch: self.op.epoch,
            means: self.means,
            warnings: &mut self.warnings,
        };
        unpacker.unpack(&found.shown, opened)?;
        Ok(true)
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    let at = path.iter().rposition(|c| *c == b'/').unwrap_or(0);
    &path[..at]
}

fn kind(pick: &Pick<'_>) -> Kind {
    match &pick.node.kind {
        NodeKind::Directory => Kind::Directory { opaque: false },
        NodeKind::File { size } => {
            let hash: ContentHash = pick.facts.as_ref().map(|f| f.hash).unwrap_or_default();
            Kind::File { size: *size, hash }
        }
        NodeKind::Symlink { target } => Kind::Symlink {
            target: target.clone(),
        },
        &NodeKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
        &NodeKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
        NodeKind::Fifo => Kind::Fifo,
    }
}
