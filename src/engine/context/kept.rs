//! Contents of small files, kept from when they are hashed for the key of a `COPY` until they go
//! into its layer: opening a file again costs more than its bytes. And what goes into the layer is
//! then what was hashed, whatever happens to the file in between.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::content::Content;
use store::tree::ContentHash;

/// Bigger files are read again: for them opening does not count.
const FILE_MAX: usize = 64 << 10;
/// All together, in bytes.
const TOTAL_MAX: usize = 64 << 20;

/// One file.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: Vec<u8>,
    pub(super) bytes: Arc<[u8]>,
    pub(super) hash: ContentHash,
}

impl Kept {
    /// `None` if it is too big, or all together would be.
    pub(super) fn new(path: &[u8], bytes: &[u8], hash: ContentHash, room: &Room) -> Option<Self> {
        let fits = bytes.len() <= FILE_MAX && room.take(bytes.len());
        fits.then(|| Self {
            path: path.to_vec(),
            bytes: bytes.into(),
            hash,
        })
    }
}

/// What is left of the limit for all files.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Room {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(TOTAL_MAX))
    }

    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        let order = Ordering::Relaxed;
        self.0.fetch_update(order, order, less).is_ok()
    }
}

type Files = HashMap<Vec<u8>, (Arc<[u8]>, ContentHash)>;

#[derive(Debug, Default)]
pub(super) struct KeptFiles(Mutex<Files>);

impl KeptFiles {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Instead of the earlier ones: a step that was found in the cache did not ask for them.
    /// Nothing new replaces nothing.
    pub(super) fn replace(&self, kept: Vec<Kept>) {
        if kept.is_empty() {
            return;
        }
        let by_path = kept.into_iter().map(|k| (k.path, (k.bytes, k.hash)));
        *self.files() = by_path.collect();
    }

    /// Once: the memory then belongs to who asked.
    pub(super) fn take(&self, path: &[u8]) -> Option<Content> {
        let (bytes, hash) = self.files().remove(path)?;
        Some(Content::Hashed { bytes, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(path: &str, room: &Room) -> Vec<Kept> {
        Kept::new(path.as_bytes(), &[0; 10], [0; 32], room)
            .into_iter()
            .collect()
    }

    #[test]
    fn memory_is_bounded() {
        let room = Room::new();
        assert!(Kept::new(b"big", &vec![0; FILE_MAX + 1], [0; 32], &room).is_none());
        let all = vec![0; FILE_MAX];
        let files = (0..).map_while(|_| Kept::new(b"small", &all, [0; 32], &room));
        assert_eq!(files.count(), TOTAL_MAX / FILE_MAX);
        assert!(kept("one more", &room).is_empty());
    }

    #[test]
    fn a_file_belongs_to_who_takes_it() {
        let files = KeptFiles::default();
        files.replace(kept("a", &Room::new()));
        files.replace(Vec::new());
        assert!(files.take(b"a").is_some() && files.take(b"a").is_none());
    }

    #[test]
    fn what_nobody_took_goes_when_other_files_are_read() {
        let files = KeptFiles::default();
        files.replace(kept("a", &Room::new()));
        files.replace(kept("b", &Room::new()));
        assert!(files.take(b"a").is_none() && files.take(b"b").is_some());
    }
}
