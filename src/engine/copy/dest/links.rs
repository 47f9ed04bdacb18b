//! Names of one file (rules C15, D04, L11).

use std::collections::{BTreeMap, BTreeSet};

use store::content::Content;
use store::tree::Kind;

use super::{Destination, Existing, LinkGroup, Meta, Path, Thing, is_below};
use crate::engine::copy::error::{CopyError, text};
use crate::engine::copy::tree::LayerFiles;

impl Destination<'_> {
    /// Makes `name` a further name of what `file` names, be it from this instruction or from the
    /// layers below, and gives it `meta`, as unpacking a hard link does (rule D04). Tells whether
    /// there is such a file; nothing is changed if not.
    ///
    /// # Errors
    /// When the file is in a layer below that cannot be read; [`CopyError::ReservedName`].
    pub(crate) fn link(
        &mut self,
        file: &[u8],
        name: &[u8],
        meta: Meta,
        below: &dyn LayerFiles,
    ) -> Result<bool, CopyError> {
        // What a name replaces is gone before it is made.
        if file == name || is_below(file, name) {
            return Ok(false);
        }
        let Some((thing, group)) = self.file_to_link(file, below)? else {
            return Ok(false);
        };
        let meta = match thing.kind {
            // A symlink only has an owner.
            Kind::Symlink { .. } => Meta {
                mode: thing.meta.mode,
                mtime: thing.meta.mtime,
                ..meta
            },
            _ => meta,
        };
        if meta != thing.meta {
            self.shared.insert(group, meta);
        }
        self.put(name, thing)?;
        Ok(true)
    }

    /// What is at `path` as a change, with the group of its names; one that had none gets one.
    fn file_to_link(
        &mut self,
        path: &[u8],
        below: &dyn LayerFiles,
    ) -> Result<Option<(Thing, LinkGroup)>, CopyError> {
        if !matches!(self.existing(path), Existing::Symlink(_) | Existing::Other) {
            return Ok(None);
        }
        if !self.changes.contains_key(&Path(path.to_vec())) {
            let found = self.base.lookup(path);
            let Some(found) = found.and_then(|found| self.base.file_of(found)) else {
                return Ok(None);
            };
            let content = match found.entry.kind {
                Kind::File { .. } => {
                    below
                        .content(found.layer, &found.entry.path)
                        .map_err(|source| CopyError::Below {
                            path: text(path),
                            source,
                        })?
                }
                _ => Content::None,
            };
            let thing = Thing {
                kind: found.entry.kind.clone(),
                meta: Meta::of(found.entry),
                content,
                group: None,
            };
            self.put(path, thing)?;
        }
        let new = self.new_group();
        let Some(change) = self.changes.get_mut(&Path(path.to_vec())) else {
            return Ok(None);
        };
        let group = *change.group.get_or_insert(new);
        let thing = Thing {
            kind: change.item.entry.kind.clone(),
            meta: Meta::of(&change.item.entry),
            content: change.item.content.clone(),
            group: Some(group),
        };
        Ok(Some((thing, group)))
    }

    /// Of the names of one file the first stays the file and the others become hard links to it
    /// (rule L11). Returns all names of files that have several.
    pub(super) fn settle_links(&mut self) -> BTreeSet<Path> {
        for change in self.changes.values_mut() {
            if let Some(meta) = change.group.and_then(|group| self.shared.get(&group)) {
                meta.clone().give_to(&mut change.item.entry);
            }
        }
        let mut names: BTreeMap<LinkGroup, Vec<Path>> = BTreeMap::new();
        for (path, change) in &self.changes {
            if let Some(group) = change.group {
                names.entry(group).or_default().push(path.clone());
            }
        }
        names.retain(|_, names| names.len() > 1);
        for names in names.values() {
            for name in &names[1..] {
                if let Some(change) = self.changes.get_mut(name) {
                    change.item.entry.kind = Kind::HardLink {
                        target: names[0].0.clone(),
                    };
                    change.item.content = Content::None;
                }
            }
        }
        names.into_values().flatten().collect()
    }
}
