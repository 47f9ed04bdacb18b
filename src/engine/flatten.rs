//! Keeps overlay stacks short: the cost of a mount, and of every name that is looked up in vain,
//! grows with the number of layers, and the kernel takes at most 500.
//!
//! Above [`STACK_MAX`] layers, runs of [`RUN`] neighbouring layers are merged into one directory,
//! and runs of such runs again. A merged directory holds hard links to the files of its layers
//! and, in overlay's form, whatever the run hides of the layers below it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use store::Digest;
use store::content::Content;
use store::dirwriter::{DirWriter, open_directory};
use store::tree::{Entry, Index, Kind, compare_paths};

use super::layers::Layers;
use crate::failure::Failure;

/// Stacks up to this height are mounted as they are.
const STACK_MAX: usize = 32;
/// Layers merged into one.
const RUN: usize = 16;

/// A directory of a stack: one layer, or several merged.
#[derive(Debug, Clone)]
struct Piece {
    /// Bottom first.
    layers: Vec<Digest>,
}

/// Directories that together show what `layers` (bottom first, none empty) show; top first.
pub(super) fn directories(store: &Layers, layers: &[Digest]) -> Result<Vec<PathBuf>, Failure> {
    pieces(layers)
        .iter()
        .rev()
        .map(|piece| directory(store, piece))
        .collect()
}

/// Runs begin at fixed places from the bottom, so that a higher stack has the same ones.
fn pieces(layers: &[Digest]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = layers
        .iter()
        .map(|layer| Piece {
            layers: vec![*layer],
        })
        .collect();
    while pieces.len() > STACK_MAX {
        let whole = pieces.len() / RUN * RUN;
        let rest = pieces.split_off(whole);
        let merge = |run: &[Piece]| Piece {
            layers: run.iter().flat_map(|p| p.layers.iter().copied()).collect(),
        };
        pieces = pieces.chunks(RUN).map(merge).chain(rest).collect();
    }
    pieces
}

fn directory(store: &Layers, piece: &Piece) -> Result<PathBuf, Failure> {
    if let [layer] = piece.layers.as_slice() {
        return store.directory(layer);
    }
    let mut names = Vec::new();
    for layer in &piece.layers {
        names.extend_from_slice(layer.as_bytes());
    }
    // A digest like that of a layer, but of a run: no layer has it.
    let name = Digest::of(&names);
    store.merged_directory(&name, |root| write(store, piece, root))
}

fn write(store: &Layers, piece: &Piece, root: OwnedFd) -> Result<(), Failure> {
    let mut indexes = Vec::with_capacity(piece.layers.len());
    let mut roots = Vec::with_capacity(piece.layers.len());
    for layer in &piece.layers {
        indexes.push(store.index(layer)?);
        roots.push(Arc::new(open_directory(&store.directory(layer)?)?));
    }
    let mut writer = DirWriter::new(root, store.owners()?);
    for (path, (entry, layer)) in merge(&indexes) {
        let from = &roots[layer];
        match &entry.kind {
            Kind::File { .. } | Kind::HardLink { .. } => {
                writer
                    .link_from(&entry, from, &path.0)
                    .or_else(|_| copy(&mut writer, &entry, from))?;
            }
            _ => writer.write(&entry, &mut io::empty())?,
        }
    }
    Ok(writer.finish()?)
}

/// Where a file has as many names as the file system allows.
fn copy(writer: &mut DirWriter, entry: &Entry, from: &Arc<OwnedFd>) -> store::Result<()> {
    let content = Content::Beneath {
        root: from.clone(),
        path: entry.path.clone(),
    };
    let path = String::from_utf8_lossy(&entry.path).into_owned();
    let mut reader = content.open().map_err(store::Error::io("read", path))?;
    let kind = Kind::File {
        size: 0,
        hash: [0; 32],
    };
    writer.write(
        &Entry {
            kind,
            ..entry.clone()
        },
        &mut reader,
    )
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PathKey(Vec<u8>);

impl Ord for PathKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        compare_paths(&self.0, &other.0)
    }
}

impl PartialOrd for PathKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

type Merged = BTreeMap<PathKey, (Entry, usize)>;

/// The entries of one layer that is as good as all of `indexes`, each with the number of the one
/// it comes from.
fn merge(indexes: &[Arc<Index>]) -> Merged {
    let mut merged = Merged::new();
    for (layer, index) in indexes.iter().enumerate() {
        for entry in index.entries() {
            put(&mut merged, entry, layer);
        }
    }
    merged
}

fn put(merged: &mut Merged, entry: &Entry, layer: usize) {
    let key = PathKey(entry.path.clone());
    let below = merged.get(&key).map(|(entry, _)| entry.kind.clone());
    let Kind::Directory { opaque } = entry.kind else {
        remove_below(merged, &key);
        merged.insert(key, (entry.clone(), layer));
        return;
    };
    if opaque {
        remove_below(merged, &key);
    }
    // On something else of this run, a directory must go on hiding what that hid.
    let hides = match below {
        Some(Kind::Directory { opaque: before }) => before || opaque,
        Some(_) => true,
        None => opaque,
    };
    let kind = Kind::Directory { opaque: hides };
    merged.insert(
        key,
        (
            Entry {
                kind,
                ..entry.clone()
            },
            layer,
        ),
    );
}

fn remove_below(merged: &mut Merged, key: &PathKey) {
    let prefix = [key.0.as_slice(), b"/"].concat();
    let range = (
        std::ops::Bound::Excluded(key.clone()),
        std::ops::Bound::Unbounded,
    );
    let below: Vec<PathKey> = merged
        .range(range)
        .map(|(path, _)| path.clone())
        .take_while(|path| path.0.starts_with(&prefix))
        .collect();
    for path in below {
        merged.remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        let path = path.as_bytes().to_vec();
        Entry {
            path,
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Vec::new(),
        }
    }

    const DIR: Kind = Kind::Directory { opaque: false };
    const OPAQUE: Kind = Kind::Directory { opaque: true };

    fn file() -> Kind {
        Kind::File {
            size: 1,
            hash: [0; 32],
        }
    }

    fn merged(layers: &[&[(&str, Kind)]]) -> Vec<(String, Kind, usize)> {
        let index = |layer: &&[(&str, Kind)]| {
            let entries = layer.iter().map(|(path, kind)| entry(path, kind.clone()));
            Arc::new(Index::new(entries.collect()))
        };
        let indexes: Vec<Arc<Index>> = layers.iter().map(index).collect();
        let text = |path: PathKey| String::from_utf8_lossy(&path.0).into_owned();
        merge(&indexes)
            .into_iter()
            .map(|(p, (e, layer))| (text(p), e.kind, layer))
            .collect()
    }

    #[test]
    fn a_whiteout_removes_what_the_run_has_and_stays_for_what_lies_below_it() {
        let layers: [&[(&str, Kind)]; 2] = [
            &[("d", DIR), ("d/f", file()), ("d-x", file())],
            &[("d", Kind::Whiteout)],
        ];
        let want = [("d".into(), Kind::Whiteout, 1), ("d-x".into(), file(), 0)];
        assert_eq!(merged(&layers), want);
    }

    #[test]
    fn a_directory_made_again_hides_the_old_one() {
        let layers: [&[(&str, Kind)]; 3] = [
            &[("d", DIR), ("d/old", file())],
            &[("d", Kind::Whiteout)],
            &[("d", DIR), ("d/new", file())],
        ];
        assert_eq!(
            merged(&layers),
            [("d".into(), OPAQUE, 2), ("d/new".into(), file(), 2)]
        );
    }

    #[test]
    fn stacks_stay_short_and_grow_at_the_top() {
        let layers: Vec<Digest> = (0..2000_u32)
            .map(|i| Digest::of(&i.to_le_bytes()))
            .collect();
        for count in [1, 32, 33, 120, 300, 513, 2000] {
            let pieces = pieces(&layers[..count]);
            assert!(pieces.len() <= STACK_MAX, "{count}: {}", pieces.len());
            let all: Vec<Digest> = pieces.iter().flat_map(|p| p.layers.clone()).collect();
            assert_eq!(all, layers[..count]);
        }
    }
}
