//! What is in the directories of a context, as it was when they were first looked at: a `COPY` asks
//! twice, for its key and for its layer, and all of a build should see the same.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use store::tree::ContentHash;

use super::disk::{Found, Seen};
use super::kept::Kept;
use crate::engine::copy::Node;

/// One name in a directory, and what is known of it: 250 bytes.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) name: Vec<u8>,
    pub(super) node: Node,
    pub(super) seen: Option<Seen>,
    /// Whether the ignore file's last word on it is no.
    pub(super) ignored: bool,
    /// Of the content, once it has been read.
    pub(super) hash: OnceLock<ContentHash>,
    pub(super) kept: Kept,
}

impl Child {
    pub(super) fn new(name: Vec<u8>, found: Found, ignored: bool) -> Self {
        let Found { node, seen } = found;
        let hash = match seen {
            Some(Seen::Socket) => OnceLock::from(*blake3::hash(b"").as_bytes()),
            _ => OnceLock::new(),
        };
        Self {
            name,
            node,
            seen,
            ignored,
            hash,
            kept: Kept::default(),
        }
    }
}

/// A directory, sorted by name.
pub(super) type Children = Arc<[Child]>;

/// One of [`Children`].
#[derive(Debug, Clone)]
pub(super) struct Spot {
    among: Children,
    at: usize,
}

impl Spot {
    pub(super) fn among(&self) -> &Children {
        &self.among
    }
}

impl Deref for Spot {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.among[self.at]
    }
}

#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_path: HashMap<Vec<u8>, Children>,
    /// Files that were asked for by name, in directories that were not.
    single: HashMap<Vec<u8>, Spot>,
}

impl Listings {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<Children> {
        self.known().by_path.get(path).cloned()
    }

    /// The first one stays, and is what everybody gets.
    pub(super) fn put(&self, path: Vec<u8>, children: Children) -> Children {
        self.known().by_path.entry(path).or_insert(children).clone()
    }

    /// For a path whose directory is not listed; the first one stays.
    pub(super) fn put_single(&self, path: &[u8], child: Child) -> Spot {
        let spot = Spot {
            among: Arc::from([child]),
            at: 0,
        };
        let mut known = self.known();
        known.single.entry(path.to_vec()).or_insert(spot).clone()
    }

    /// What is known of each of `paths`. Quick for neighbours.
    pub(super) fn find(&self, paths: &[&[u8]]) -> Vec<Option<Spot>> {
        let known = self.known();
        let mut last: Option<(&[u8], &Children, usize)> = None;
        let find = |path| {
            // Who asked before saw this one.
            if let Some(spot) = known.single.get(path) {
                return Some(spot.clone());
            }
            let (parent, name) = split(path);
            let (among, next) = match last {
                Some((directory, among, at)) if directory == parent => (among, at + 1),
                _ => (known.by_path.get(parent)?, 0),
            };
            let is_next = among.get(next).is_some_and(|child| child.name == name);
            let at = if is_next {
                next
            } else {
                let by_name = |child: &Child| child.name.as_slice().cmp(name);
                among.binary_search_by(by_name).ok()?
            };
            last = Some((parent, among, at));
            let among = among.clone();
            Some(Spot { among, at })
        };
        paths.iter().copied().map(find).collect()
    }
}

/// A path's directory and its name there.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|c| *c == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
