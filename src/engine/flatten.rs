//! Keeps overlay stacks short: the cost of a mount, and of every name that is looked up in vain,
//! grows with the number of layers, and the kernel takes at most 500.
//!
//! Above [`LOW_STACK`] layers, runs of [`SMALL_RUN`] neighbours that hold next to nothing are merged
//! into one directory, and runs of such runs again. Above [`STACK_MAX`] directories, runs of [`RUN`]
//! are merged whatever they hold. A merged directory holds copies of little files, else hard links to
//! the files of its layers, and, in overlay's form, whatever the run hides of the layers below it.

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

/// Stacks up to this height are not worth the work.
const LOW_STACK: usize = 16;
/// Small layers merged into one.
const SMALL_RUN: usize = 8;
/// What a run of small layers has at most: merging it takes no longer than the mounts and
/// look-ups that it saves the next steps.
const SMALL: Size = Size {
    entries: 256,
    bytes: 256 << 10,
};
/// Files up to this size are copied: a command then sees one name for each, as without merging.
const COPIED_MAX: u64 = 64 << 10;

/// How much a piece holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    entries: usize,
    bytes: u64,
}

impl Size {
    fn of(index: &Index) -> Self {
        let bytes = index.entries().iter().map(|entry| match entry.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        });
        Self {
            entries: index.entries().len(),
            bytes: bytes.sum(),
        }
    }

    fn of_all(pieces: &[Piece]) -> Self {
        Self {
            entries: pieces.iter().map(|piece| piece.size.entries).sum(),
            bytes: pieces.iter().map(|piece| piece.size.bytes).sum(),
        }
    }

    fn is_small(self) -> bool {
        self.entries <= SMALL.entries && self.bytes <= SMALL.bytes
    }
}

/// A directory of a stack: one layer, or several merged.
#[derive(Debug, Clone)]
struct Piece {
    /// Bottom first.
    layers: Vec<Digest>,
    size: Size,
}

impl Piece {
    fn merged(run: &[Self]) -> Self {
        Self {
            layers: run.iter().flat_map(|p| p.layers.iter().copied()).collect(),
            size: Size::of_all(run),
        }
    }
}

/// Directories that together show what `layers` (bottom first, none empty) show; top first.
pub(super) fn directories(store: &Layers, layers: &[Digest]) -> Result<Vec<PathBuf>, Failure> {
    let mut pieces = Vec::with_capacity(layers.len());
    for layer in layers {
        pieces.push(Piece {
            layers: vec![*layer],
            size: Size::of(&*store.index(layer)?),
        });
    }
    merge_runs(pieces)
        .iter()
        .rev()
        .map(|piece| directory(store, piece))
        .collect()
}

/// Runs begin at fixed places from the bottom, so that a higher stack has the same ones.
fn merge_runs(mut pieces: Vec<Piece>) -> Vec<Piece> {
    while pieces.len() > LOW_STACK {
        let before = pieces.len();
        let merge = |run: &[Piece]| match run.len() {
            SMALL_RUN if Size::of_all(run).is_small() => vec![Piece::merged(run)],
            _ => run.to_vec(),
        };
        pieces = pieces.chunks(SMALL_RUN).flat_map(merge).collect();
        if pieces.len() == before {
            break;
        }
    }
    while pieces.len() > STACK_MAX {
        let whole = pieces.len() / RUN * RUN;
        let rest = pieces.split_off(whole);
        pieces = pieces.chunks(RUN).map(Piece::merged).chain(rest).collect();
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
    let merged = merge(&indexes);
    // A copy would be another file than those linked to it.
    let has_links = |(entry, _): &(Entry, usize)| matches!(entry.kind, Kind::HardLink { .. });
    let may_copy = piece.size.is_small() && !merged.values().any(has_links);
    for (path, (entry, layer)) in merged {
        let from = &roots[layer];
        match &entry.kind {
            Kind::File { size, .. } if may_copy && *size <= COPIED_MAX => {
                copy(&mut writer, &entry, from)?;
            }
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

    fn stack(count: u32, size: Size) -> Vec<Piece> {
        let piece = |i: u32| Piece {
            layers: vec![Digest::of(&i.to_le_bytes())],
            size,
        };
        (0..count).map(piece).collect()
    }

    fn layers(pieces: &[Piece]) -> Vec<Digest> {
        pieces.iter().flat_map(|p| p.layers.clone()).collect()
    }

    #[test]
    fn stacks_stay_short_and_grow_at_the_top() {
        let big = Size {
            entries: 10_000,
            bytes: 1 << 30,
        };
        for count in [1, 32, 33, 120, 300, 513, 2000] {
            let before = stack(count, big);
            let after = merge_runs(before.clone());
            assert!(after.len() <= STACK_MAX, "{count}: {}", after.len());
            assert_eq!(layers(&after), layers(&before));
        }
        let merged = merge_runs(stack(32, big));
        assert_eq!(
            merged.len(),
            32,
            "big layers are left alone while they can be"
        );
    }

    #[test]
    fn runs_of_small_layers_are_one_directory() {
        let small = Size {
            entries: 1,
            bytes: 10,
        };
        for (count, expected) in [(16, 16), (17, 3), (63, 14), (64, 8), (120, 15), (136, 3)] {
            let before = stack(count, small);
            let after = merge_runs(before.clone());
            assert_eq!(after.len(), expected, "{count}");
            assert_eq!(layers(&after), layers(&before));
        }
    }

    #[test]
    fn runs_of_small_layers_end_where_they_hold_much() {
        let half = Size {
            entries: SMALL.entries / 2 / SMALL_RUN,
            bytes: 0,
        };
        // Two runs are as much as may be merged, so 256 layers are 32 runs and no less.
        assert_eq!(merge_runs(stack(256, half)).len(), 32);
    }
}
