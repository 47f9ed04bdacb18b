//! The tree that is copied to: the layers below with the changes of one instruction on top, and
//! the layer that these changes are.

mod links;
mod paths;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use store::content::{Content, Item};
use store::scan::CAPABILITY;
use store::tree::{Entry, Kind};
use store::view::{Resolved, Step, TooManyLinks, View, resolve_with};

use self::paths::{PathMap, Place};
use super::error::{CopyError, text};

/// The set-group-id bit of a mode.
const SET_GID: u32 = 0o2000;

#[derive(Debug)]
struct Change {
    item: Item,
    base: BaseBelow,
    /// Changes with one number are names of one file. Each has all of it, so that any of them can
    /// be overwritten; who is the hard link is settled in the end.
    group: Option<LinkGroup>,
}

/// What shows of the layers below in the directory at a path. Of all that the changes above a path
/// say, the later variant counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum BaseBelow {
    /// All that nothing else is put over: it is a directory that was there and stays.
    Shows,
    /// Nothing, whatever there was.
    Hidden,
    /// Nothing, as there was no directory; a file of the layers below may have had its name.
    Nothing,
}

/// Names of one file (rule C15); see [`Destination::new_group`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkGroup(usize);

/// A file, link or device to put somewhere.
#[derive(Debug, Clone)]
pub(crate) struct Thing {
    pub kind: Kind,
    pub meta: Meta,
    pub content: Content,
    pub group: Option<LinkGroup>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    base: &'a View,
    changes: PathMap<Change>,
    groups: usize,
    /// Of files whose metadata a further name changed: that of all names.
    shared: BTreeMap<LinkGroup, Meta>,
}

/// The group of directories that are made on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewGroup {
    /// As in the metadata.
    Given,
    /// That of the directory they are made in, if that has the set-group-id bit: what mkdir(2)
    /// does, and nobody changes it afterwards.
    OfParent,
}

/// What is at a path now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing<'a> {
    Nothing,
    Directory(&'a Entry),
    Symlink(&'a [u8]),
    Other,
}

/// Metadata of something new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Destination<'a> {
    #[must_use]
    pub(crate) fn new(base: &'a View) -> Self {
        Self {
            base,
            changes: PathMap::new(),
            groups: 0,
            shared: BTreeMap::new(),
        }
    }

    /// For the names of one more file.
    pub(crate) fn new_group(&mut self) -> LinkGroup {
        self.groups += 1;
        LinkGroup(self.groups)
    }

    /// What is at `path`; symlinks not followed.
    #[must_use]
    pub(crate) fn existing(&self, path: &[u8]) -> Existing<'_> {
        let mut base = BaseBelow::Shows;
        let change = self
            .changes
            .get_below(path, |above| base = base.max(above.base));
        let entry = match change {
            Some(change) => Some(&change.item.entry),
            None if base == BaseBelow::Shows => self.base.lookup(path).map(|found| found.entry),
            None => None,
        };
        match entry.map(|entry| (entry, &entry.kind)) {
            None | Some((_, Kind::Whiteout)) => Existing::Nothing,
            Some((entry, Kind::Directory { .. })) => Existing::Directory(entry),
            Some((_, Kind::Symlink { target })) => Existing::Symlink(target),
            Some(_) => Existing::Other,
        }
    }

    /// Follows symlinks, those of this instruction included (rule C22).
    ///
    /// # Errors
    /// [`TooManyLinks`].
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<Resolved, TooManyLinks> {
        resolve_with(path, true, |path| {
            Ok(match self.existing(path) {
                Existing::Nothing => Step::Missing,
                Existing::Symlink(target) => Step::Symlink(target.to_vec()),
                Existing::Directory(_) | Existing::Other => Step::Other,
            })
        })
    }

    /// Makes `path` and its missing parents, all with `meta`; nothing when it exists. `path` is
    /// resolved. The set-group-id bit of a directory goes on to those made in it (inode(7)).
    /// Tells whether anything was made.
    ///
    /// # Errors
    /// [`CopyError::NotADirectory`], [`CopyError::ReservedName`].
    pub(crate) fn make_directories(
        &mut self,
        path: &[u8],
        meta: &Meta,
        group: NewGroup,
    ) -> Result<bool, CopyError> {
        let mut made = false;
        // What those directories get that are made in the one that was looked at last.
        let mut inherited = meta.clone();
        for level in ancestors(path).chain((!path.is_empty()).then_some(path)) {
            match self.existing(level) {
                Existing::Directory(parent) => {
                    inherited = meta.clone();
                    if parent.mode & SET_GID != 0 {
                        inherited.mode |= SET_GID;
                        if group == NewGroup::OfParent {
                            inherited.gid = parent.gid;
                        }
                    }
                }
                Existing::Nothing => {
                    self.put_directory(level, inherited.clone())?;
                    made = true;
                }
                Existing::Symlink(_) | Existing::Other => {
                    return Err(CopyError::NotADirectory {
                        path: text(path),
                        existing: text(level),
                    });
                }
            }
        }
        Ok(made)
    }

    /// A directory at `path`, whose parent exists. One that is there keeps what is in it and takes
    /// the new metadata; anything else is replaced.
    ///
    /// # Errors
    /// [`CopyError::ReservedName`].
    pub(crate) fn put_directory(&mut self, path: &[u8], meta: Meta) -> Result<(), CopyError> {
        if path.is_empty() {
            // The root's own metadata is in no layer (rule L16).
            return Ok(());
        }
        let (place, base) = self.place(path)?;
        let change = self.changes.at(place);
        let base = match change {
            Some(change) => change.base,
            None if base == BaseBelow::Shows => {
                let found = self.base.lookup(path);
                if found.is_some_and(|found| found.is_directory()) {
                    base
                } else {
                    BaseBelow::Nothing
                }
            }
            None => base,
        };
        *change = Some(Change {
            item: directory(path, meta),
            base,
            group: None,
        });
        Ok(())
    }

    /// Gives a directory that exists another mode (rule C33).
    ///
    /// # Errors
    /// [`CopyError::ReservedName`].
    pub(crate) fn set_directory_mode(&mut self, path: &[u8], mode: u32) -> Result<(), CopyError> {
        let Existing::Directory(entry) = self.existing(path) else {
            return Ok(());
        };
        let meta = Meta {
            mode,
            ..Meta::of(entry)
        };
        self.put_directory(path, meta)
    }

    /// Anything but a directory at `path`, whose parent exists; replaces what is there, be it a
    /// directory with all its content.
    ///
    /// # Errors
    /// [`CopyError::ReservedName`].
    pub(crate) fn put(&mut self, path: &[u8], thing: Thing) -> Result<(), CopyError> {
        let (place, base) = self.place(path)?;
        self.changes.remove_below(place);
        let Thing {
            kind,
            meta,
            content,
            group,
        } = thing;
        let item = Item {
            entry: entry(path, kind, meta),
            content,
        };
        *self.changes.at(place) = Some(Change {
            item,
            base: base.max(BaseBelow::Hidden),
            group,
        });
        Ok(())
    }

    /// Where a change of `path` belongs, and what the directories above say of the layers below.
    fn place(&mut self, path: &[u8]) -> Result<(Place, BaseBelow), CopyError> {
        if path.split(|c| *c == b'/').any(is_reserved) {
            return Err(CopyError::ReservedName { path: text(path) });
        }
        let mut base = BaseBelow::Shows;
        let place = self
            .changes
            .place(path, |above| base = base.max(above.base));
        Ok((place, base))
    }

    /// Sets the time of a directory that exists (rule C07).
    ///
    /// # Errors
    /// [`CopyError::ReservedName`].
    pub(crate) fn set_directory_time(&mut self, path: &[u8], mtime: i64) -> Result<(), CopyError> {
        let Existing::Directory(entry) = self.existing(path) else {
            return Ok(());
        };
        let meta = Meta {
            mtime,
            ..Meta::of(entry)
        };
        self.put_directory(path, meta)
    }

    /// The layer: what differs from the layers below, each path after its parent directories
    /// (rules L03-L05), removals only where a directory takes the place of one that had other
    /// content (rules L07-L09). Of extended attributes only capabilities stay (rule L12). Sorted.
    #[must_use]
    pub(crate) fn into_items(mut self) -> Vec<Item> {
        self.settle_links();
        self.add_whiteouts();
        let mut items: Vec<Item> = Vec::new();
        for change in self.changes.into_values() {
            if is_unchanged(self.base, &change) {
                continue;
            }
            // What is above the item before has been added, or is that item.
            let before = items.last().map_or(&[][..], |item| &item.entry.path);
            let missing = ancestors_apart(&change.item.entry.path, before);
            items.extend(missing.map(|path| base_directory(self.base, path)));
            items.push(change.item);
        }
        for item in &mut items {
            let xattrs = &mut item.entry.xattrs;
            xattrs.retain(|(name, _)| name == CAPABILITY.as_bytes());
        }
        items
    }

    /// For each new directory where the layers below have one too: their names in it that are not
    /// names of the new one.
    fn add_whiteouts(&mut self) {
        let mut gone = Vec::new();
        for change in self.changes.values() {
            let entry = &change.item.entry;
            let is_directory = matches!(entry.kind, Kind::Directory { .. });
            if change.base != BaseBelow::Hidden || !is_directory {
                continue;
            }
            let children = self.base.children(&entry.path).into_iter();
            let paths = children.map(|child| child.path);
            gone.extend(paths.filter(|path| self.changes.get(path).is_none()));
        }
        for path in gone {
            let item = Item {
                entry: entry(path, Kind::Whiteout, Meta::default()),
                content: Content::None,
            };
            let place = self.changes.place(path, |_| {});
            *self.changes.at(place) = Some(Change {
                item,
                base: BaseBelow::Hidden,
                group: None,
            });
        }
    }
}

impl Meta {
    fn give_to(self, entry: &mut Entry) {
        let Self {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        } = self;
        (entry.mode, entry.uid, entry.gid) = (mode, uid, gid);
        (entry.mtime, entry.xattrs) = (mtime, xattrs);
    }

    #[must_use]
    pub(crate) fn of(entry: &Entry) -> Self {
        Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
        }
    }
}

/// Rule L05.
fn is_unchanged(base: &View, change: &Change) -> bool {
    let item = &change.item;
    // Where there was no directory this one is new, and so is what is in it.
    if change.base == BaseBelow::Nothing || change.group.is_some() {
        return false;
    }
    let found = base.lookup(&item.entry.path);
    let Some(found) = found.and_then(|found| base.file_of(found)) else {
        return false;
    };
    let same_kind = match (&found.entry.kind, &item.entry.kind) {
        (Kind::Directory { .. }, Kind::Directory { .. }) => true,
        (Kind::HardLink { .. } | Kind::Whiteout, _) => false,
        (old, new) => old == new,
    };
    same_kind && Meta::of(found.entry) == Meta::of(&item.entry)
}

/// The directory as it is, to stand before something in it.
fn base_directory(base: &View, path: &[u8]) -> Item {
    let meta = base.lookup(path).map_or_else(
        || Meta {
            mode: 0o755,
            ..Meta::default()
        },
        |found| Meta::of(found.entry),
    );
    directory(path, meta)
}

fn directory(path: &[u8], meta: Meta) -> Item {
    Item {
        entry: entry(path, Kind::Directory { opaque: false }, meta),
        content: Content::None,
    }
}

fn entry(path: &[u8], kind: Kind, meta: Meta) -> Entry {
    let Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    } = meta;
    Entry {
        path: path.to_vec(),
        kind,
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    }
}

/// The directories `path` goes through, outermost first; neither the root nor `path` itself.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .filter(|(_, c)| **c == b'/')
        .map(|(i, _)| &path[..i])
}

/// Those of [`ancestors`] that neither lead to `other` nor are it.
fn ancestors_apart<'p>(path: &'p [u8], other: &[u8]) -> impl Iterator<Item = &'p [u8]> + use<'p> {
    let other = other.iter().chain(b"/");
    let shared = other.zip(path).take_while(|(a, b)| a == b).count();
    ancestors(path).skip_while(move |ancestor| ancestor.len() < shared)
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Whether a layer would take the name for a removal (rule L10).
#[must_use]
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b".wh.")
}

/// `directory/name`.
#[must_use]
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
