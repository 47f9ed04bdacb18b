//! Several layers made into one directory.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use store::content::Content;
use store::dirwriter::{DirWriter, open_directory};
use store::owner::Owners;
use store::tree::{Entry, Index, Kind, compare_paths};
use store::{Digest, Store};

/// Files up to this size are copied: a command then sees one name for each, as without merging.
const COPIED_MAX: u64 = 64 << 10;

/// A directory to be made.
pub(super) struct Run {
    /// Like the digest of a layer, but of several: no layer has it.
    pub(super) name: Digest,
    /// Bottom first.
    pub(super) indexes: Vec<Arc<Index>>,
    pub(super) directories: Vec<PathBuf>,
    /// Whether they hold so little that files may be copied.
    pub(super) is_small: bool,
}

impl Run {
    /// # Errors
    /// Those of reading the layers and of writing.
    pub(super) fn make(&self, store: &Store, owners: Owners) -> store::Result<PathBuf> {
        let draft = store.layer_draft()?;
        let open = |path: &PathBuf| Ok(Arc::new(open_directory(path)?));
        let roots: store::Result<Vec<_>> = self.directories.iter().map(open).collect();
        let root = open_directory(&draft.files())?;
        self.write(&roots?, DirWriter::new(root, owners))?;
        store.commit_layer(&draft, &self.name)
    }

    fn write(&self, roots: &[Arc<OwnedFd>], mut writer: DirWriter) -> store::Result<()> {
        let merged = merge(&self.indexes);
        // A copy would be another file than those linked to it.
        let has_links = |(entry, _): &(Entry, usize)| matches!(entry.kind, Kind::HardLink { .. });
        let may_copy = self.is_small && !merged.values().any(has_links);
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
        writer.finish()
    }
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
}
