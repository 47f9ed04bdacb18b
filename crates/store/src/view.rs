//! Layers seen as one tree, without mounting or copying anything: look-ups, listings and symlink
//! resolution over a stack of [`Index`]es.
//!
//! A directory of the merged tree is the list of the parts that layers contribute to it; going one
//! component down narrows each part by binary search, so a single look-up costs about
//! `depth × contributing layers × log(entries)` and never merges more than it needs.

mod resolve;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use resolve::{Resolved, Step, TooManyLinks, resolve_with};

use crate::tree::{Entry, Index, Kind};

/// Stands for the root and for directories that no layer describes but that paths go through:
/// 0755, owner 0:0, 1970 (rule L16; what unpacking makes of them). Its `path` is empty.
static IMPLIED: Entry = Entry {
    path: Vec::new(),
    kind: Kind::Directory { opaque: false },
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: 0,
    xattrs: Vec::new(),
};

/// A hard link names another entry of its layer; more hops than this mean a damaged index.
const MAX_HARD_LINK_HOPS: usize = 64;

/// The merged tree of some layers.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Bottom first.
    layers: Vec<Arc<Index>>,
}

/// What a path of the merged tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// For directories that have no entry of their own (the root among them) its `path` is empty.
    pub entry: &'a Entry,
    /// The layer it is from, counted from the bottom; for directories without an entry the topmost
    /// layer with something below them.
    pub layer: usize,
}

impl Found<'_> {
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.entry.kind, Kind::Directory { .. })
    }
}

/// One path of a listing or walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visited<'a> {
    /// Relative to the root of the view.
    pub path: &'a [u8],
    pub found: Found<'a>,
}

impl<'a> Visited<'a> {
    /// The last component.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        let at = self
            .path
            .iter()
            .rposition(|c| *c == b'/')
            .map_or(0, |i| i + 1);
        &self.path[at..]
    }
}

impl View {
    /// `layers`: bottom first.
    #[must_use]
    pub fn new(layers: Vec<Arc<Index>>) -> Self {
        Self { layers }
    }

    #[must_use]
    pub fn layers(&self) -> &[Arc<Index>] {
        &self.layers
    }

    /// What is at `path`; symlinks are not followed. Whiteouts, opaque directories and
    /// non-directories hide what is below them in lower layers (rules L07, L08, L14).
    #[must_use]
    pub fn lookup(&self, path: &[u8]) -> Option<Found<'_>> {
        self.node(path).map(|node| node.found)
    }

    /// The merged directory at `path`, sorted by name; empty for everything but directories.
    #[must_use]
    pub fn children(&self, path: &[u8]) -> Vec<Visited<'_>> {
        let Some(node) = self.node(path) else {
            return Vec::new();
        };
        node.children()
            .into_iter()
            .map(|(path, child)| Visited {
                path,
                found: child.found,
            })
            .collect()
    }

    /// `path` itself (unless it is the root) and all that is below it, directories before what is
    /// in them, siblings by name: the order of [`crate::tree::compare_paths`].
    #[must_use]
    pub fn walk<'a>(&'a self, path: &'a [u8]) -> Walk<'a> {
        let Some(node) = self.node(path) else {
            return Walk {
                pending: Vec::new(),
            };
        };
        if path.is_empty() {
            return Walk {
                pending: vec![node.children().into_iter()],
            };
        }
        Walk {
            pending: vec![vec![(path, node)].into_iter()],
        }
    }

    /// Resolves symlinks below the root: absolute and `..` links stay inside (rules C20-C22).
    ///
    /// # Errors
    /// [`TooManyLinks`] after 255 of them.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Resolved, TooManyLinks> {
        resolve_with(path, follow_last, |path| {
            Ok(match self.lookup(path).map(|found| &found.entry.kind) {
                None => Step::Missing,
                Some(Kind::Symlink { target }) => Step::Symlink(target.clone()),
                Some(_) => Step::Other,
            })
        })
    }

    /// The entry that has the bytes: `found` itself, or for a hard link the file it names, which
    /// is in the same layer (rule L11). A layer above may have replaced or removed that other
    /// name; that changes nothing here. `None` when the link leads nowhere.
    #[must_use]
    pub fn file_of<'a>(&'a self, found: Found<'a>) -> Option<Found<'a>> {
        let mut entry = found.entry;
        for _ in 0..MAX_HARD_LINK_HOPS {
            match &entry.kind {
                Kind::HardLink { target } => entry = self.layers.get(found.layer)?.get(target)?,
                _ => {
                    return Some(Found {
                        entry,
                        layer: found.layer,
                    });
                }
            }
        }
        None
    }

    fn node(&self, path: &[u8]) -> Option<Node<'_>> {
        let parts = self.layers.iter().enumerate().rev();
        let parts = parts.map(|(layer, index)| Part {
            layer,
            below: index.entries(),
        });
        let parts: Vec<_> = parts.filter(|part| !part.below.is_empty()).collect();
        let layer = parts.first().map_or(0, |part| part.layer);
        let mut node = Node {
            found: Found {
                entry: &IMPLIED,
                layer,
            },
            parts,
            at: 0,
        };
        for name in path.split(|c| *c == b'/').filter(|name| !name.is_empty()) {
            node = node.child(name)?;
        }
        Some(node)
    }
}

/// What one layer has below a directory.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    layer: usize,
    below: &'a [Entry],
}

/// A path of the merged tree with what is needed to go on below it.
#[derive(Debug)]
struct Node<'a> {
    found: Found<'a>,
    /// Top first; only layers that show through.
    parts: Vec<Part<'a>>,
    /// Where the names of children start in the paths of `parts`.
    at: usize,
}

/// What one layer says about one name.
#[derive(Clone, Copy)]
struct Claim<'a> {
    layer: usize,
    own: Option<&'a Entry>,
    below: &'a [Entry],
}

impl<'a> Node<'a> {
    fn child(&self, name: &[u8]) -> Option<Self> {
        let claims = self.parts.iter().filter_map(|part| {
            let from = part
                .below
                .partition_point(|e| component(&e.path, self.at) < name);
            let run = &part.below[from..];
            let run = &run[..run_length(run, self.at, name)];
            Claim::of(part.layer, run, self.at + name.len())
        });
        merge(claims, self.at + name.len() + 1)
    }

    /// Sorted by name, with their paths.
    fn children(&self) -> Vec<(&'a [u8], Self)> {
        let mut claims: Vec<(&'a [u8], Claim<'a>)> = Vec::new();
        for part in &self.parts {
            let mut rest = part.below;
            while let Some(first) = rest.first() {
                let name = component(&first.path, self.at);
                let (run, tail) = rest.split_at(run_length(rest, self.at, name));
                rest = tail;
                let end = self.at + name.len();
                if let Some(claim) = Claim::of(part.layer, run, end) {
                    claims.push((&first.path[..end], claim));
                }
            }
        }
        if self.parts.len() > 1 {
            // Stable: of one name the upper layers stay first.
            claims.sort_by_key(|(path, _)| *path);
        }
        claims
            .chunk_by(|a, b| a.0 == b.0)
            .filter_map(|group| {
                let path = group[0].0;
                let node = merge(group.iter().map(|(_, claim)| *claim), path.len() + 1)?;
                Some((path, node))
            })
            .collect()
    }
}

impl<'a> Claim<'a> {
    /// `run`: all entries of a layer at or below a path of `end` bytes.
    fn of(layer: usize, run: &'a [Entry], end: usize) -> Option<Self> {
        let first = run.first()?;
        Some(if first.path.len() == end {
            Self {
                layer,
                own: Some(first),
                below: &run[1..],
            }
        } else {
            Self {
                layer,
                own: None,
                below: run,
            }
        })
    }
}

/// Layers top first: what they make of one name together.
fn merge<'a>(claims: impl Iterator<Item = Claim<'a>>, at: usize) -> Option<Node<'a>> {
    let mut found: Option<Found<'a>> = None;
    let mut parts = Vec::new();
    for Claim { layer, own, below } in claims {
        let implied = Found {
            entry: &IMPLIED,
            layer,
        };
        let hides_lower = match own.map(|entry| (entry, &entry.kind)) {
            None => {
                if makes_something(below) {
                    found.get_or_insert(implied);
                }
                false
            }
            Some((_, Kind::Whiteout)) => {
                // Removed and made again in one layer, without an entry for the new directory.
                if makes_something(below) {
                    found.get_or_insert(implied);
                }
                true
            }
            Some((entry, Kind::Directory { opaque })) => {
                if found.is_none_or(|f| std::ptr::eq(f.entry, &raw const IMPLIED)) {
                    found = Some(Found { entry, layer });
                }
                *opaque
            }
            Some((entry, _)) => {
                if found.is_none() {
                    return Some(Node {
                        found: Found { entry, layer },
                        parts: Vec::new(),
                        at,
                    });
                }
                break;
            }
        };
        if !below.is_empty() {
            parts.push(Part { layer, below });
        }
        if hides_lower {
            break;
        }
    }
    Some(Node {
        found: found?,
        parts,
        at,
    })
}

/// Whiteouts alone make no directory.
fn makes_something(below: &[Entry]) -> bool {
    below.iter().any(|entry| entry.kind != Kind::Whiteout)
}

/// The component of `path` that starts at `at`.
fn component(path: &[u8], at: usize) -> &[u8] {
    let rest = &path[at..];
    &rest[..rest.iter().position(|c| *c == b'/').unwrap_or(rest.len())]
}

/// How many entries at the head of `entries` have `name` as their component at `at`; found by
/// doubling steps, as most names are files and stand alone.
fn run_length(entries: &[Entry], at: usize, name: &[u8]) -> usize {
    let belongs = |entry: &Entry| component(&entry.path, at) == name;
    let mut reach = 1;
    while entries.get(reach - 1).is_some_and(belongs) {
        reach *= 2;
    }
    let known = reach / 2;
    let window = &entries[known..entries.len().min(reach)];
    known + window.partition_point(belongs)
}

/// See [`View::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    pending: Vec<std::vec::IntoIter<(&'a [u8], Node<'a>)>>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Visited<'a>;

    fn next(&mut self) -> Option<Visited<'a>> {
        loop {
            let Some((path, node)) = self.pending.last_mut()?.next() else {
                self.pending.pop();
                continue;
            };
            if !node.parts.is_empty() {
                self.pending.push(node.children().into_iter());
            }
            return Some(Visited {
                path,
                found: node.found,
            });
        }
    }
}
