//! Names of one file (rules C15, D04, L11).

use std::collections::BTreeMap;

use store::content::Content;
use store::tree::Kind;

use super::{Destination, Existing, LinkGroup, Meta, Thing, is_below};
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
        if self.changes.get(path).is_none() {
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
        let place = self.changes.place(path, |_| {});
        let Some(change) = self.changes.at(place) else {
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
    /// (rule L11). Files with one name are in no group afterwards.
    pub(super) fn settle_links(&mut self) {
        let mut names = vec![0_usize; self.groups + 1];
        for group in self.changes.values().filter_map(|change| change.group) {
            names[group.0] += 1;
        }
        let mut files: BTreeMap<LinkGroup, Vec<u8>> = BTreeMap::new();
        self.changes.for_each_mut(|change| {
            let Some(group) = change.group else { return };
            let entry = &mut change.item.entry;
            if let Some(meta) = self.shared.get(&group) {
                meta.clone().give_to(entry);
            }
            if names[group.0] == 1 {
                change.group = None;
            } else if let Some(file) = files.get(&group) {
                let target = file.clone();
                entry.kind = Kind::HardLink { target };
                change.item.content = Content::None;
            } else {
                files.insert(group, entry.path.clone());
            }
        });
    }
}
