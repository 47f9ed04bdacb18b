//! Where the entries of an archive end up, as data: what containerd does while it unpacks, done on
//! names alone, so that an index and an unpacked directory cannot disagree and no name leads out
//! of the root (rules L14 to L16).
//!
//! Invariant: nothing lies below a name that is not a directory.

use std::collections::{BTreeMap, HashMap, VecDeque};

use store::tree::{ContentHash, Entry, Index, Kind};

use super::limits::Limits;
use crate::error::{LayerError, lossy};

/// As many symlinks as Linux follows in one path (path_resolution(7)).
const SYMLINKS_MAX: usize = 40;

#[derive(Debug)]
pub(super) struct Placement {
    limits: Limits,
    /// By path with `/` replaced by NUL, which makes the order of bytes that of
    /// [`store::tree::compare_paths`]; the value is an index into `inodes`.
    names: BTreeMap<Vec<u8>, usize>,
    /// What names refer to; hard links share one. Replaced ones stay behind.
    inodes: Vec<Entry>,
}

/// A member's own name and what its bytes are kept under.
pub(super) struct Placed {
    /// Directories that no member described and that must be made before (rule D05), and last the
    /// member itself under its final path.
    pub entries: Vec<Entry>,
    pub inode: usize,
}

impl Placement {
    pub(super) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            names: BTreeMap::new(),
            inodes: Vec::new(),
        }
    }

    /// Puts `entry` (its path clean but with symlinks in it) where it belongs.
    pub(super) fn place(&mut self, mut entry: Entry) -> Result<Placed, LayerError> {
        let mut entries = Vec::new();
        self.resolve(&mut entry.path, &mut entries)?;
        let key = key(&entry.path);
        let old = self.names.get(&key).map(|at| &self.inodes[*at].kind);
        let was_directory = matches!(old, Some(Kind::Directory { .. }));
        if let Kind::Directory { opaque } = &mut entry.kind {
            // A directory that replaces a deleted one starts empty.
            *opaque |= matches!(old, Some(Kind::Directory { opaque: true } | Kind::Whiteout));
        }
        let inode = if let Kind::HardLink { target } = &mut entry.kind {
            let at = self.link_target(&entry.path, target)?;
            entry.kind = Kind::HardLink {
                target: std::mem::take(target),
            };
            at
        } else {
            self.add(entry.clone())?
        };
        if was_directory && !matches!(entry.kind, Kind::Directory { .. }) {
            self.remove_below(&key);
        }
        self.names.insert(key, inode);
        entries.push(entry);
        Ok(Placed { entries, inode })
    }

    /// Makes the directory at `path` opaque; its other metadata stays as it is.
    pub(super) fn mark_opaque(&mut self, path: Vec<u8>) -> Result<Vec<Entry>, LayerError> {
        let mut entry = implied(path, true);
        let mut entries = Vec::new();
        self.resolve(&mut entry.path, &mut entries)?;
        if let Some(known) = self.get(&entry.path)
            && matches!(known.kind, Kind::Directory { .. })
        {
            let path = entry.path;
            entry = Entry {
                path,
                kind: Kind::Directory { opaque: true },
                ..known.clone()
            };
        }
        let mut placed = self.place(entry)?;
        entries.append(&mut placed.entries);
        Ok(entries)
    }

    /// Fills in what was found when the content of a file was read.
    pub(super) fn set_hash(&mut self, inode: usize, new: ContentHash) {
        if let Some(Entry {
            kind: Kind::File { hash, .. },
            ..
        }) = self.inodes.get_mut(inode)
        {
            *hash = new;
        }
    }

    /// Of several names of one file the first in order is the file, the others are its links.
    pub(super) fn into_index(self) -> Index {
        let mut first: HashMap<usize, Vec<u8>> = HashMap::new();
        let entries = self.names.into_iter().map(|(key, inode)| {
            let path = path(key);
            let known = &self.inodes[inode];
            let kind = match first.get(&inode) {
                Some(target) => Kind::HardLink {
                    target: target.clone(),
                },
                None => {
                    first.insert(inode, path.clone());
                    known.kind.clone()
                }
            };
            Entry {
                path,
                kind,
                ..known.clone()
            }
        });
        Index::new(entries.collect())
    }

    fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.names
            .get(&key(path))
            .and_then(|at| self.inodes.get(*at))
    }

    fn add(&mut self, entry: Entry) -> Result<usize, LayerError> {
        if self.inodes.len() >= self.limits.entries {
            let limit = self.limits.entries as u64;
            return Err(LayerError::Limit {
                what: "entries",
                limit,
            });
        }
        self.inodes.push(entry);
        Ok(self.inodes.len() - 1)
    }

    fn remove_below(&mut self, key: &[u8]) {
        let from = [key, b"\0"].concat();
        let to = [key, b"\x01"].concat();
        let below: Vec<_> = self
            .names
            .range(from..to)
            .map(|(name, _)| name.clone())
            .collect();
        for name in below {
            self.names.remove(&name);
        }
    }

    /// The inode `target` (made canonical) names.
    fn link_target(&self, path: &[u8], target: &mut Vec<u8>) -> Result<usize, LayerError> {
        let missing = |target: &[u8]| LayerError::LinkTarget {
            path: lossy(path),
            target: lossy(target),
        };
        let (parent, name) = split(target);
        let resolved = join(&self.follow(parent)?, name);
        match self.names.get(&key(&resolved)) {
            Some(at)
                if resolved != path
                    && !matches!(
                        self.inodes[*at].kind,
                        Kind::Directory { .. } | Kind::Whiteout
                    ) =>
            {
                *target = resolved;
                Ok(*at)
            }
            _ => Err(missing(target)),
        }
    }

    /// Follows symlinks in the parent of `path`, as writing through them would, and adds the
    /// directories on the way that are not there.
    fn resolve(&mut self, path: &mut Vec<u8>, made: &mut Vec<Entry>) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        if parent.is_empty() {
            return Ok(());
        }
        // By the invariant a known directory is reached without any symlink.
        if self
            .get(parent)
            .is_some_and(|e| matches!(e.kind, Kind::Directory { .. }))
        {
            return Ok(());
        }
        let parent = self.follow(parent)?;
        let resolved = join(&parent, name);
        if resolved.len() > self.limits.path_bytes {
            let limit = self.limits.path_bytes as u64;
            return Err(LayerError::Limit {
                what: "bytes in a path",
                limit,
            });
        }
        let ends = parent
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at);
        for end in ends.chain([parent.len()]).filter(|end| *end > 0) {
            let opaque = match self.get(&parent[..end]).map(|e| &e.kind) {
                None => false,
                Some(Kind::Whiteout) => true,
                Some(_) => continue,
            };
            let entry = implied(parent[..end].to_vec(), opaque);
            let inode = self.add(entry.clone())?;
            self.names.insert(key(&entry.path), inode);
            made.push(entry);
        }
        *path = resolved;
        Ok(())
    }

    /// The directory `path` leads to; `..` and absolute targets stay within the root.
    fn follow(&self, path: &[u8]) -> Result<Vec<u8>, LayerError> {
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        let mut ahead: VecDeque<Vec<u8>> = components(path).collect();
        while let Some(component) = ahead.pop_front() {
            if component == b".." {
                at.truncate(at.iter().rposition(|b| *b == b'/').unwrap_or(0));
                continue;
            }
            let next = join(&at, &component);
            match self.get(&next).map(|e| &e.kind) {
                None | Some(Kind::Directory { .. } | Kind::Whiteout) => at = next,
                Some(Kind::Symlink { target }) => {
                    links += 1;
                    if links > SYMLINKS_MAX {
                        return Err(LayerError::SymlinkLoop { path: lossy(path) });
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    components(target).rev().for_each(|c| ahead.push_front(c));
                }
                Some(_) => {
                    return Err(LayerError::Parent {
                        path: lossy(path),
                        parent: lossy(&next),
                    });
                }
            }
        }
        Ok(at)
    }
}

fn implied(path: Vec<u8>, opaque: bool) -> Entry {
    Entry {
        path,
        kind: Kind::Directory { opaque },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|c| !matches!(*c, b"" | b"."))
        .map(<[u8]>::to_vec)
}

/// A relative path without `.`, `..` and double slashes. `..` stops at the root, as in
/// containerd's `fs.RootPath`. Empty for the root itself.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    kept.join(&b'/')
}

pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

fn key(path: &[u8]) -> Vec<u8> {
    path.iter()
        .map(|b| if *b == b'/' { 0 } else { *b })
        .collect()
}

fn path(mut key: Vec<u8>) -> Vec<u8> {
    key.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b'/');
    key
}
