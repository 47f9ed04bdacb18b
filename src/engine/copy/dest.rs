//! The tree that is copied to: the layers below with the changes of one instruction on top, and
//! the layer that these changes are.

mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use store::content::{Content, Item};
use store::scan::CAPABILITY;
use store::tree::{Entry, Kind, compare_paths};
use store::view::{Resolved, Step, TooManyLinks, View, resolve_with};

use super::error::{CopyError, text};

/// The set-group-id bit of a mode.
const SET_GID: u32 = 0o2000;

/// A path, ordered so that a directory comes right before what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path(Vec<u8>);

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        compare_paths(&self.0, &other.0)
    }
}

#[derive(Debug)]
struct Change {
    item: Item,
    /// What the layers below have at or below this path is gone: all but directories that were
    /// there and stay.
    hides_base: bool,
    /// Changes with one number are names of one file. Each has all of it, so that any of them can
    /// be overwritten; who is the hard link is settled in the end.
    group: Option<LinkGroup>,
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
    changes: BTreeMap<Path, Change>,
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
            changes: BTreeMap::new(),
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
        let entry = match self.changes.get(&Path(path.to_vec())) {
            Some(change) => Some(&change.item.entry),
            None if self.is_hidden(path) => None,
            None => self.base.lookup(path).map(|found| found.entry),
        };
        match entry.map(|entry| (entry, &entry.kind)) {
            None | Some((_, Kind::Whiteout)) => Existing::Nothing,
            Some((entry, Kind::Directory { .. })) => Existing::Directory(entry),
            Some((_, Kind::Symlink { target })) => Existing::Symlink(target),
            Some(_) => Existing::Other,
        }
    }

    /// Whether a change above `path` took away what the layers below have there.
    fn is_hidden(&self, path: &[u8]) -> bool {
        ancestors(path).any(|a| {
            self.changes
                .get(&Path(a.to_vec()))
                .is_some_and(|c| c.hides_base)
        })
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
        let kind = Kind::Directory { opaque: false };
        if let Some(change) = self.changes.get_mut(&Path(path.to_vec()))
            && change.item.entry.kind == kind
        {
            change.item.entry = entry(path, kind, meta);
            return Ok(());
        }
        let merges = matches!(self.existing(path), Existing::Directory(_));
        let item = Item {
            entry: entry(path, kind, meta),
            content: Content::None,
        };
        self.insert(Change {
            item,
            hides_base: !merges,
            group: None,
        })
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
        let key = Path(path.to_vec());
        let later = (Bound::Excluded(&key), Bound::Unbounded);
        let below: Vec<Path> = self
            .changes
            .range::<Path, _>(later)
            .take_while(|(p, _)| is_below(&p.0, path))
            .map(|(p, _)| p.clone())
            .collect();
        for path in below {
            self.changes.remove(&path);
        }
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
        self.insert(Change {
            item,
            hides_base: true,
            group,
        })
    }

    fn insert(&mut self, change: Change) -> Result<(), CopyError> {
        let path = &change.item.entry.path;
        if path.split(|c| *c == b'/').any(is_reserved) {
            return Err(CopyError::ReservedName { path: text(path) });
        }
        self.changes.insert(Path(path.clone()), change);
        Ok(())
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
        let linked = self.settle_links();
        let base = self.base;
        let whiteouts = self.whiteouts().into_iter();
        let mut layer: BTreeMap<Path, Item> = whiteouts
            .map(|item| (Path(item.entry.path.clone()), item))
            .collect();
        let mut parents: BTreeMap<Path, Item> = BTreeMap::new();
        for (path, change) in self.changes {
            if linked.contains(&path) || !is_unchanged(base, &change.item) {
                layer.insert(path, change.item);
            } else if matches!(change.item.entry.kind, Kind::Directory { .. }) {
                parents.insert(path, change.item);
            }
        }
        let wanted: BTreeSet<Vec<u8>> = layer
            .keys()
            .flat_map(|p| ancestors(&p.0).map(<[u8]>::to_vec))
            .collect();
        for path in wanted.into_iter().map(Path) {
            if layer.contains_key(&path) {
                continue;
            }
            let item = parents
                .remove(&path)
                .unwrap_or_else(|| base_directory(base, &path.0));
            layer.insert(path, item);
        }
        let mut items: Vec<Item> = layer.into_values().collect();
        for item in &mut items {
            let xattrs = &mut item.entry.xattrs;
            xattrs.retain(|(name, _)| name == CAPABILITY.as_bytes());
        }
        items
    }

    /// For each new directory where the layers below have one too: their names in it that are not
    /// names of the new one.
    fn whiteouts(&self) -> Vec<Item> {
        let mut items = Vec::new();
        for (path, change) in &self.changes {
            if !change.hides_base || !matches!(change.item.entry.kind, Kind::Directory { .. }) {
                continue;
            }
            for child in self.base.children(&path.0) {
                if !self.changes.contains_key(&Path(child.path.to_vec())) {
                    let entry = entry(child.path, Kind::Whiteout, Meta::default());
                    items.push(Item {
                        entry,
                        content: Content::None,
                    });
                }
            }
        }
        items
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
fn is_unchanged(base: &View, item: &Item) -> bool {
    let Some(found) = base.lookup(&item.entry.path) else {
        return false;
    };
    let Some(found) = base.file_of(found) else {
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
