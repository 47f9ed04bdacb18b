//! From what lies in an overlay upper to what belongs into the layer: files that were only
//! touched on the way and are as before are left out (rules L04, L05, L07-L09, L11).

use std::collections::{HashMap, HashSet};
use std::io;

use crate::content::{Content, Item};
use crate::error::{Error, Result};
use crate::scan::whiteout;
use crate::tree::{Entry, Kind, compare_paths};

/// What the layers below hold, as far as a diff wants to know.
pub trait Below {
    /// The merged entry at a path, hard links replaced by the file they stand for.
    fn entry(&self, path: &[u8]) -> Option<Entry>;
    /// Names in the merged directory at a path, sorted.
    fn names(&self, path: &[u8]) -> Vec<Vec<u8>>;
}

/// `items` as [`crate::scan::scan`] gives them.
///
/// # Errors
/// [`Error::Io`] when a file that may be unchanged cannot be read to compare it.
pub fn changes(items: Vec<Item>, below: &dyn Below) -> Result<Vec<Item>> {
    let items = expand_opaque(items, below);
    let first_names = link_targets(&items);
    let mut kept: Vec<Option<Item>> = Vec::with_capacity(items.len());
    let mut wanted: HashSet<Vec<u8>> = HashSet::new();
    for item in items {
        let keep = match item.entry.kind {
            Kind::Whiteout => below.entry(&item.entry.path).is_some(),
            _ => !is_unchanged(&item, &first_names, below)?,
        };
        if keep {
            want_parents(&item.entry.path, &mut wanted);
        }
        let is_directory = matches!(item.entry.kind, Kind::Directory { .. });
        // An unchanged directory may still turn out to be the parent of something.
        kept.push((keep || is_directory).then(|| {
            if keep {
                wanted.insert(item.entry.path.clone());
            }
            item
        }));
    }
    let kept = kept
        .into_iter()
        .flatten()
        .filter(|i| wanted.contains(&i.entry.path))
        .collect();
    Ok(promote_links(
        with_parents(kept, wanted, below),
        &first_names,
    ))
}

/// An overlay upper holds the parents of all that changed; a list of changes may not (rule L03).
fn with_parents(
    mut items: Vec<Item>,
    mut wanted: HashSet<Vec<u8>>,
    below: &dyn Below,
) -> Vec<Item> {
    for item in &items {
        wanted.remove(&item.entry.path);
    }
    let complete = wanted.is_empty();
    for path in wanted {
        if let Some(entry) = below.entry(&path) {
            // A layer that is no longer on top may have called it opaque.
            let kind = Kind::Directory { opaque: false };
            let entry = Entry {
                path,
                kind,
                ..entry
            };
            items.push(Item {
                entry,
                content: Content::None,
            });
        }
    }
    if !complete {
        items.sort_by(|a, b| compare_paths(&a.entry.path, &b.entry.path));
    }
    items
}

fn want_parents(path: &[u8], wanted: &mut HashSet<Vec<u8>>) {
    for (at, byte) in path.iter().enumerate().rev() {
        if *byte == b'/' && !wanted.insert(path[..at].to_vec()) {
            return;
        }
    }
}

/// An opaque directory says "nothing from below": written as one whiteout per hidden name, which
/// every reader of layers understands (rule L08).
fn expand_opaque(items: Vec<Item>, below: &dyn Below) -> Vec<Item> {
    if !items
        .iter()
        .any(|i| matches!(i.entry.kind, Kind::Directory { opaque: true }))
    {
        return items;
    }
    let present: HashSet<Vec<u8>> = items.iter().map(|i| i.entry.path.clone()).collect();
    let mut out = Vec::with_capacity(items.len());
    // Overlayfs marks only the topmost of the directories that hide what is below.
    let mut hidden: Option<Vec<u8>> = None;
    for mut item in items {
        if let Kind::Directory { opaque } = &mut item.entry.kind {
            let path = &item.entry.path;
            let is_hidden = hidden.as_ref().is_some_and(|top| is_below(path, top));
            if !is_hidden && !*opaque {
                out.push(item);
                continue;
            }
            if !is_hidden {
                hidden = Some(path.clone());
            }
            *opaque = false;
            for name in below.names(&item.entry.path) {
                let path = [item.entry.path.as_slice(), b"/", &name].concat();
                if !present.contains(&path) {
                    out.push(Item {
                        entry: whiteout(&path),
                        content: Content::None,
                    });
                }
            }
        }
        out.push(item);
    }
    out.sort_by(|a, b| compare_paths(&a.entry.path, &b.entry.path));
    out
}

fn is_below(path: &[u8], top: &[u8]) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// A further name of a file counts for itself: what one gets by linking to a file of a lower layer
/// does not bring that file into the layer, whichever of the names sorts first.
fn is_unchanged(
    item: &Item,
    first_names: &HashMap<Vec<u8>, Kind>,
    below: &dyn Below,
) -> Result<bool> {
    let entry = &item.entry;
    let Some(old) = below.entry(&entry.path) else {
        return Ok(false);
    };
    let same_metadata = (entry.mode, entry.uid, entry.gid, entry.mtime, &entry.xattrs)
        == (old.mode, old.uid, old.gid, old.mtime, &old.xattrs);
    if !same_metadata {
        return Ok(false);
    }
    let kind = match &entry.kind {
        Kind::HardLink { target } => first_names.get(target).unwrap_or(&entry.kind),
        kind => kind,
    };
    match (kind, &old.kind) {
        (
            Kind::File { size, .. },
            Kind::File {
                size: old_size,
                hash,
            },
        ) => Ok(size == old_size && content_hash(item)? == *hash),
        (Kind::Directory { .. }, Kind::Directory { .. }) => Ok(true),
        (new, old) => Ok(new == old),
    }
}

fn content_hash(item: &Item) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let path = String::from_utf8_lossy(&item.entry.path).into_owned();
    item.content
        .open()
        .and_then(|mut reader| io::copy(&mut reader, &mut hasher))
        .map_err(Error::io("read", path))?;
    Ok(*hasher.finalize().as_bytes())
}

/// What stands at the first name of every file with several.
fn link_targets(items: &[Item]) -> HashMap<Vec<u8>, Kind> {
    let target = |item: &Item| match &item.entry.kind {
        Kind::HardLink { target } => Some(target.clone()),
        _ => None,
    };
    let targets: HashSet<Vec<u8>> = items.iter().filter_map(target).collect();
    let kinds = items.iter().filter(|i| targets.contains(&i.entry.path));
    kinds
        .map(|i| (i.entry.path.clone(), i.entry.kind.clone()))
        .collect()
}

/// When the first name of a hard-linked file was left out, the next one carries its content:
/// links do not reach into other layers (rule L11).
fn promote_links(mut items: Vec<Item>, first_names: &HashMap<Vec<u8>, Kind>) -> Vec<Item> {
    let present: HashSet<Vec<u8>> = items.iter().map(|i| i.entry.path.clone()).collect();
    let mut new_first: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for item in &mut items {
        let Kind::HardLink { target } = &item.entry.kind else {
            item.drop_content_unless_file();
            continue;
        };
        if present.contains(target) {
            item.become_link();
        } else if let Some(first) = new_first.get(target) {
            item.entry.kind = Kind::HardLink {
                target: first.clone(),
            };
            item.become_link();
        } else if let Some(kind) = first_names.get(target) {
            new_first.insert(target.clone(), item.entry.path.clone());
            item.entry.kind = kind.clone();
            item.drop_content_unless_file();
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Layers below as one flat map.
    #[derive(Default)]
    struct Flat(BTreeMap<Vec<u8>, Entry>);

    impl Below for Flat {
        fn entry(&self, path: &[u8]) -> Option<Entry> {
            self.0.get(path).cloned()
        }
        fn names(&self, path: &[u8]) -> Vec<Vec<u8>> {
            let prefix = [path, b"/"].concat();
            let below = self
                .0
                .keys()
                .filter_map(|p| p.strip_prefix(prefix.as_slice()));
            below
                .filter(|n| !n.contains(&b'/'))
                .map(<[u8]>::to_vec)
                .collect()
        }
    }

    fn item(path: &str, kind: Kind, mtime: i64) -> Item {
        let content = match &kind {
            Kind::File { .. } | Kind::HardLink { .. } => Content::Bytes(b"data"[..].into()),
            _ => Content::None,
        };
        let path = path.as_bytes().to_vec();
        let entry = Entry {
            path,
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: Vec::new(),
        };
        Item { entry, content }
    }

    const DIR: Kind = Kind::Directory { opaque: false };
    const OPAQUE: Kind = Kind::Directory { opaque: true };

    fn file() -> Kind {
        Kind::File {
            size: 4,
            hash: [0; 32],
        }
    }

    fn stored() -> Kind {
        Kind::File {
            size: 4,
            hash: *blake3::hash(b"data").as_bytes(),
        }
    }

    fn below(entries: &[(&str, Kind, i64)]) -> Flat {
        let entry = |(path, kind, mtime): &(&str, Kind, i64)| {
            (
                path.as_bytes().to_vec(),
                item(path, kind.clone(), *mtime).entry,
            )
        };
        Flat(entries.iter().map(entry).collect())
    }

    fn result(items: Vec<Item>, below: &Flat) -> Vec<(String, Kind)> {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let items = changes(items, below).expect("content is in memory");
        items
            .into_iter()
            .map(|i| (text(&i.entry.path), i.entry.kind))
            .collect()
    }

    #[test]
    fn l04_a_directory_that_is_as_before_comes_only_with_a_changed_child() {
        let lower = below(&[("a", DIR, 1), ("a/f", stored(), 1), ("b", DIR, 1)]);
        let touched = vec![item("a", DIR, 1), item("a/f", file(), 1), item("b", DIR, 1)];
        assert_eq!(result(touched, &lower), []);
        let changed = vec![item("a", DIR, 1), item("a/f", file(), 2), item("b", DIR, 1)];
        assert_eq!(
            result(changed, &lower),
            [("a".into(), DIR), ("a/f".into(), file())]
        );
    }

    #[test]
    fn l03_parents_that_are_not_among_the_changes_are_added() {
        let lower = below(&[("a", DIR, 1), ("a/b", DIR, 1)]);
        let changed = vec![item("a/b/f", file(), 2)];
        assert_eq!(
            result(changed, &lower),
            [
                ("a".into(), DIR),
                ("a/b".into(), DIR),
                ("a/b/f".into(), file())
            ]
        );
    }

    #[test]
    fn l05_equal_metadata_with_other_content_is_a_change() {
        let other = Kind::File {
            size: 4,
            hash: [9; 32],
        };
        let lower = below(&[("f", other, 1)]);
        assert_eq!(
            result(vec![item("f", file(), 1)], &lower),
            [("f".into(), file())]
        );
    }

    #[test]
    fn l07_a_whiteout_of_nothing_is_dropped() {
        let lower = below(&[("a", DIR, 1), ("a/f", stored(), 1)]);
        let items = vec![
            item("a", DIR, 1),
            item("a/f", Kind::Whiteout, 0),
            item("a/g", Kind::Whiteout, 0),
        ];
        assert_eq!(
            result(items, &lower),
            [("a".into(), DIR), ("a/f".into(), Kind::Whiteout)]
        );
    }

    #[test]
    fn l08_an_opaque_directory_becomes_a_whiteout_per_hidden_name() {
        let lower = below(&[("a", DIR, 1), ("a/f", stored(), 1), ("a/g", stored(), 1)]);
        let items = vec![item("a", OPAQUE, 2), item("a/g", file(), 2)];
        assert_eq!(
            result(items, &lower),
            [
                ("a".into(), DIR),
                ("a/f".into(), Kind::Whiteout),
                ("a/g".into(), file())
            ]
        );
    }

    #[test]
    fn l08_what_an_opaque_directory_hides_stays_hidden_further_down() {
        let lower = below(&[
            ("a", DIR, 1),
            ("a/b", DIR, 1),
            ("a/b/f", stored(), 1),
            ("a/b/g", stored(), 1),
            ("ab", DIR, 1),
            ("ab/f", stored(), 1),
        ]);
        let items = vec![
            item("a", OPAQUE, 2),
            item("a/b", DIR, 2),
            item("a/b/g", file(), 2),
            item("ab", DIR, 2),
        ];
        assert_eq!(
            result(items, &lower),
            [
                ("a".into(), DIR),
                ("a/b".into(), DIR),
                ("a/b/f".into(), Kind::Whiteout),
                ("a/b/g".into(), file()),
                ("ab".into(), DIR),
            ]
        );
    }

    #[test]
    fn l11_l12_a_link_to_an_unchanged_file_carries_its_capability() {
        let with_capability = |mut item: Item| {
            let capability = crate::scan::CAPABILITY.as_bytes().to_vec();
            item.entry.xattrs = vec![(capability, vec![1])];
            item
        };
        let mut lower = below(&[("a", stored(), 1)]);
        let old = with_capability(item("a", stored(), 1)).entry;
        lower.0.insert(b"a".to_vec(), old);
        let link = Kind::HardLink {
            target: b"a".to_vec(),
        };
        let items = [
            item("a", file(), 1),
            item("b", link.clone(), 1),
            item("c", link, 1),
        ];
        let items = items.map(with_capability).to_vec();
        let got = changes(items, &lower).expect("content is in memory");
        let facts: Vec<_> = got
            .iter()
            .map(|i| (i.entry.path.as_slice(), i.entry.xattrs.len()))
            .collect();
        assert_eq!(facts, [(&b"b"[..], 1), (&b"c"[..], 0)]);
    }

    #[test]
    fn l11_a_new_name_that_sorts_first_does_not_bring_the_old_one_along() {
        let lower = below(&[("b", stored(), 1)]);
        let link = || Kind::HardLink {
            target: b"a".to_vec(),
        };
        let items = vec![item("a", file(), 1), item("b", link(), 1)];
        assert_eq!(result(items, &lower), [("a".into(), file())]);
        let written = vec![item("a", file(), 2), item("b", link(), 2)];
        let both = [("a".into(), file()), ("b".into(), link())];
        assert_eq!(result(written, &lower), both);
    }

    #[test]
    fn l11_a_link_to_an_unchanged_file_carries_its_content() {
        let lower = below(&[("a", stored(), 1)]);
        let link = || Kind::HardLink {
            target: b"a".to_vec(),
        };
        let items = vec![
            item("a", file(), 1),
            item("b", link(), 1),
            item("c", link(), 1),
        ];
        assert_eq!(
            result(items, &lower),
            [
                ("b".into(), file()),
                (
                    "c".into(),
                    Kind::HardLink {
                        target: b"b".to_vec()
                    }
                )
            ]
        );
    }
}
