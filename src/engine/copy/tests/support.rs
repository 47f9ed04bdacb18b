//! Layers and contexts in memory and in temporary directories.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use store::content::{Content, Item};
use store::tree::{Index, Kind};
use store::view::View;

use crate::engine::copy::{LayerFiles, TempFiles};

/// A stack of layers with the bytes of their files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stack {
    pub(crate) view: View,
    contents: HashMap<(usize, Vec<u8>), Content>,
}

impl Stack {
    /// As an engine would: items become an index and files somewhere.
    pub(crate) fn push(&mut self, items: Vec<Item>) {
        let layer = self.view.layers().len();
        for item in &items {
            assert!(
                item.entry
                    .path
                    .split(|c| *c == b'/')
                    .all(|name| !name.is_empty()),
                "{:?}",
                item.entry.path
            );
            if let Kind::File { size, hash } = item.entry.kind {
                let bytes = bytes(&item.content);
                assert_eq!(bytes.len() as u64, size, "{:?}", item.entry);
                assert_eq!(*blake3::hash(&bytes).as_bytes(), hash, "{:?}", item.entry);
            }
            self.contents
                .insert((layer, item.entry.path.clone()), item.content.clone());
        }
        let entries: Vec<_> = items.iter().map(|item| item.entry.clone()).collect();
        let index = Index::new(entries.clone());
        // Sorted, each path once, after its parent.
        assert_eq!(index.entries(), entries.as_slice());
        for entry in &entries {
            if let Some(at) = entry.path.iter().rposition(|c| *c == b'/') {
                let parent = index.get(&entry.path[..at]).map(|e| &e.kind);
                assert!(
                    matches!(parent, Some(Kind::Directory { opaque: false })),
                    "{entry:?}"
                );
            }
            if let Kind::HardLink { target } = &entry.kind {
                let file = index.get(target).expect("the file of a hard link");
                assert!(matches!(file.kind, Kind::File { .. }), "{entry:?}");
                assert!(
                    store::tree::compare_paths(target, &entry.path).is_lt(),
                    "{entry:?}"
                );
            }
        }
        let mut layers = self.view.layers().to_vec();
        layers.push(Arc::new(index));
        self.view = View::new(layers);
    }

    pub(crate) fn content(&self, path: &[u8]) -> Vec<u8> {
        let found = self.view.lookup(path).expect("file");
        let file = self.view.file_of(found).expect("file");
        bytes(&self.contents[&(file.layer, file.entry.path.clone())])
    }
}

impl LayerFiles for Stack {
    fn content(&self, layer: usize, path: &[u8]) -> io::Result<Content> {
        let content = self.contents.get(&(layer, path.to_vec()));
        content
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

pub(crate) fn bytes(content: &Content) -> Vec<u8> {
    let mut bytes = Vec::new();
    content.open().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Temporary files of the system.
#[derive(Debug)]
pub(crate) struct Temp;

impl TempFiles for Temp {
    fn create(&self) -> io::Result<std::fs::File> {
        tempfile::tempfile()
    }
}
