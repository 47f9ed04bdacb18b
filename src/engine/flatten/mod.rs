//! Keeps overlay stacks short: the cost of a mount, and of every name that is looked up in vain,
//! grows with the number of layers, and the kernel takes at most 500.
//!
//! Above [`LOW_STACK`] layers, runs of [`SMALL_RUN`] neighbours that hold next to nothing are merged
//! into one directory, and runs of such runs again. Above [`STACK_MAX`] directories, runs of [`RUN`]
//! are merged whatever they hold. A thread does it, [`LEAD`] steps ahead. A merged directory holds
//! copies of little files, else hard links to the files of its layers, and, in overlay's form,
//! whatever the run hides of the layers below it.

mod merger;
mod run;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use store::Digest;
use store::tree::Index;

pub(super) use self::merger::Merger;
use self::run::Run;
use super::layers::Layers;
use crate::failure::Failure;

/// Stacks up to this height are mounted as they are.
const STACK_MAX: usize = 32;
/// Layers merged into one.
const RUN: usize = 16;
/// So many layers on top are not merged yet: what the steps after the next will need is made while
/// these run. Which directories a step is mounted from follows from its layers alone: it can see
/// where they end, in the number of links of a directory.
const LEAD: usize = 2;

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
/// How much a piece holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    entries: usize,
    bytes: u64,
}

impl Size {
    fn of(index: &Index) -> Self {
        Self {
            entries: index.entries().len(),
            bytes: index.content_size(),
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
    layers: Range<usize>,
    size: Size,
    /// What it is merged of, bottom first; empty for a single layer.
    parts: Vec<Self>,
}

impl Piece {
    /// How often it was merged.
    fn level(&self) -> usize {
        self.parts.first().map_or(0, |part| part.level() + 1)
    }

    fn merged(parts: Vec<Self>) -> Self {
        let start = parts.first().map_or(0, |piece| piece.layers.start);
        let end = parts.last().map_or(0, |piece| piece.layers.end);
        Self {
            layers: start..end,
            size: Size::of_all(&parts),
            parts,
        }
    }
}

/// Directories that together show what `layers` (bottom first, none empty) show; top first.
pub(super) fn directories(
    store: &Layers,
    layers: &[Digest],
    indexes: &[Arc<Index>],
) -> Result<Vec<PathBuf>, Failure> {
    let pieces = indexes.iter().enumerate().map(|(at, index)| Piece {
        layers: at..at + 1,
        size: Size::of(index),
        parts: Vec::new(),
    });
    let mut pieces: Vec<Piece> = pieces.collect();
    let stack = Stack {
        store,
        layers,
        indexes,
    };
    let upcoming = merge_runs(pieces.clone());
    let latest = pieces.split_off(pieces.len().saturating_sub(LEAD));
    let mut merged = merge_runs(pieces);
    merged.extend(latest);
    let found: Result<Vec<_>, _> = merged.iter().map(|piece| stack.directory(piece)).collect();
    for piece in upcoming.iter().filter(|piece| !piece.parts.is_empty()) {
        stack.ask(piece)?;
    }
    let mut found = found?;
    found.reverse();
    Ok(found)
}

/// Runs begin at fixed places from the bottom, so that a higher stack has the same ones.
fn merge_runs(mut pieces: Vec<Piece>) -> Vec<Piece> {
    for level in 0.. {
        let before = pieces.len();
        if before <= LOW_STACK {
            break;
        }
        // Of equals only: what has another neighbour in a higher stack would be made again for it.
        let are_equal = |run: &[Piece]| run.iter().all(|piece| piece.level() == level);
        let wanted = |run: &[Piece]| are_equal(run) && Size::of_all(run).is_small();
        pieces = merge_each(pieces, SMALL_RUN, wanted);
        if pieces.len() == before {
            break;
        }
    }
    while pieces.len() > STACK_MAX {
        pieces = merge_each(pieces, RUN, |_| true);
    }
    pieces
}

/// Merges each `length` neighbours that `wanted` accepts.
fn merge_each(pieces: Vec<Piece>, length: usize, wanted: impl Fn(&[Piece]) -> bool) -> Vec<Piece> {
    let mut merged = Vec::with_capacity(pieces.len());
    let mut left = pieces.into_iter();
    loop {
        let run: Vec<Piece> = left.by_ref().take(length).collect();
        match run.len() {
            0 => return merged,
            taken if taken == length && wanted(&run) => merged.push(Piece::merged(run)),
            _ => merged.extend(run),
        }
    }
}

/// Layers, with what is needed to make one of several.
struct Stack<'s> {
    store: &'s Layers,
    layers: &'s [Digest],
    indexes: &'s [Arc<Index>],
}

impl Stack<'_> {
    /// Made now if it is not there.
    fn directory(&self, piece: &Piece) -> Result<PathBuf, Failure> {
        if piece.parts.is_empty() {
            return self.store.directory(&self.layers[piece.layers.start]);
        }
        let name = self.name(piece);
        self.store.merger.wait(&name);
        self.store.merged_directory(&name, |store, owners| {
            Ok(self.run(name, piece)?.make(store, owners)?)
        })
    }

    /// Has it made while steps run.
    fn ask(&self, piece: &Piece) -> Result<(), Failure> {
        let name = self.name(piece);
        if self.store.known_directory(&name).is_some() {
            return Ok(());
        }
        let (store, owners) = (&self.store.store, self.store.owners()?);
        let merger = &self.store.merger;
        merger.ask(store, owners, &name, || self.run(name, piece))
    }

    fn name(&self, piece: &Piece) -> Digest {
        let layers = &self.layers[piece.layers.clone()];
        let bytes: Vec<u8> = layers.iter().flat_map(|l| *l.as_bytes()).collect();
        Digest::of(&bytes)
    }

    fn run(&self, name: Digest, piece: &Piece) -> Result<Run, Failure> {
        let layers = piece.layers.clone();
        let directories = self.layers[layers.clone()].iter();
        let directories = directories.map(|layer| self.store.directory(layer));
        Ok(Run {
            name,
            indexes: self.indexes[layers].to_vec(),
            directories: directories.collect::<Result<_, _>>()?,
            is_small: piece.size.is_small(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(count: usize, size: Size) -> Vec<Piece> {
        let piece = |at: usize| Piece {
            layers: at..at + 1,
            size,
            parts: Vec::new(),
        };
        (0..count).map(piece).collect()
    }

    fn layers(pieces: &[Piece]) -> Vec<usize> {
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
    fn runs_of_small_layers_are_the_same_in_all_stacks() {
        let small = Size {
            entries: 1,
            bytes: 10,
        };
        for count in 1..300 {
            for piece in merge_runs(stack(count, small)) {
                let length = piece.layers.len();
                assert!([1, 8, 64].contains(&length), "{count}: {piece:?}");
                assert_eq!(piece.layers.start % length, 0, "{count}: {piece:?}");
            }
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
