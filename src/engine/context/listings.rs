//! What is in the directories of a context, as it was when they were first looked at: a `COPY` asks
//! twice, for its key and for its layer, and all of a build should see the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::copy::Node;

/// Of more files than these, directories are read again: 100 bytes for each.
const FILES_MAX: usize = 500_000;

/// Names, sorted, and what they are.
pub(super) type Children = Arc<[(Vec<u8>, Node)]>;

#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_path: HashMap<Vec<u8>, Children>,
    files: usize,
}

impl Listings {
    pub(super) fn get(&self, path: &[u8]) -> Option<Children> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_path.get(path).cloned()
    }

    pub(super) fn put(&self, path: &[u8], children: Children) -> Children {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.files + children.len() <= FILES_MAX {
            known.files += children.len();
            known.by_path.insert(path.to_vec(), children.clone());
        }
        children
    }
}
