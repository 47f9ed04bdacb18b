//! What a thread of its own makes in the store while steps run: cache entries behind them, in
//! order, and a draft ahead of the next one. To make a file takes as long as a tenth of a small
//! step, on a busy disk many times that.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use store::layer::LayerDraft;
use store::record::{RecordKey, RecordKind};
use store::tree::Index;
use store::{Digest, Store};

/// Something to write. A record names an index that was put before it, so their order matters
/// should the process die.
enum Entry {
    Index(Digest, Arc<Index>),
    Record(RecordKind, RecordKey, Arc<[u8]>),
    Draft,
}

/// What has been given to be written and is not yet.
#[derive(Default)]
struct Waiting {
    count: usize,
    /// Seen by whoever asks in the meantime.
    records: HashMap<(&'static str, RecordKey), Arc<[u8]>>,
    /// The first one.
    error: Option<store::Error>,
    /// For the next who needs one.
    draft: Option<LayerDraft>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    written: Condvar,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, store: &Store, entry: &Entry) {
        let result = match entry {
            Entry::Index(diff_id, index) => store.put_index(diff_id, index),
            Entry::Record(kind, key, bytes) => store.put_record(*kind, key, bytes),
            Entry::Draft => {
                // The next who needs one meets the error, if it lasts.
                let draft = store.layer_draft().ok();
                self.waiting().draft = draft;
                Ok(())
            }
        };
        let mut waiting = self.waiting();
        if let Err(error) = result {
            waiting.error.get_or_insert(error);
        }
        if let Entry::Record(kind, key, bytes) = entry {
            let place = (kind.0, *key);
            // Another may have been put under the key since.
            if waiting
                .records
                .get(&place)
                .is_some_and(|b| Arc::ptr_eq(b, bytes))
            {
                waiting.records.remove(&place);
            }
        }
        waiting.count -= 1;
        self.written.notify_all();
    }
}

/// See the module text.
pub(super) struct WriteBehind {
    store: Arc<Store>,
    shared: Arc<Shared>,
    /// Made when first needed; `None` inside if there can be no thread.
    queue: Mutex<Option<Sender<Entry>>>,
}

impl WriteBehind {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            shared: Arc::default(),
            queue: Mutex::default(),
        }
    }

    pub(super) fn put_index(&self, diff_id: Digest, index: Arc<Index>) {
        self.put(Entry::Index(diff_id, index));
    }

    pub(super) fn put_record(&self, kind: RecordKind, key: &RecordKey, bytes: Vec<u8>) {
        let bytes: Arc<[u8]> = bytes.into();
        let place = (kind.0, *key);
        self.shared.waiting().records.insert(place, bytes.clone());
        self.put(Entry::Record(kind, *key, bytes));
    }

    /// As [`Store::record`], with those that are not written yet.
    ///
    /// # Errors
    /// Those of [`Store::record`].
    pub(super) fn record(
        &self,
        kind: RecordKind,
        key: &RecordKey,
    ) -> store::Result<Option<Vec<u8>>> {
        if let Some(bytes) = self.shared.waiting().records.get(&(kind.0, *key)) {
            return Ok(Some(bytes.to_vec()));
        }
        self.store.record(kind, key)
    }

    /// As [`Store::layer_draft`], for a step.
    ///
    /// # Errors
    /// Those of [`Store::layer_draft`].
    pub(super) fn layer_draft(&self) -> store::Result<LayerDraft> {
        let ready = self.shared.waiting().draft.take();
        self.put(Entry::Draft);
        ready.map_or_else(|| self.store.layer_draft(), Ok)
    }

    fn put(&self, entry: Entry) {
        self.shared.waiting().count += 1;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queue.get_or_insert_with(|| {
            let (queue, entries) = channel();
            let (store, shared) = (self.store.clone(), self.shared.clone());
            let thread = std::thread::Builder::new().name("write-behind".to_owned());
            // Without a thread the channel is closed, and everything written by who puts it.
            let _: std::io::Result<_> = thread.spawn(move || {
                for entry in entries {
                    shared.write(&store, &entry);
                }
            });
            queue
        });
        if let Err(unsent) = queue.send(entry) {
            self.shared.write(&self.store, &unsent.0);
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// The first that there was since the last call.
    pub(super) fn flush(&self) -> store::Result<()> {
        let mut waiting = self.shared.waiting();
        while waiting.count > 0 {
            let woken = self.shared.written.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        waiting.error.take().map_or(Ok(()), Err)
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        // Who wants to know of errors has asked.
        let _: store::Result<()> = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: RecordKind = RecordKind("things");

    #[test]
    fn what_was_put_is_there_at_once_and_after_a_flush_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let behind = WriteBehind::new(store.clone());
        let index = Arc::new(Index::new(Vec::new()));
        for number in 0..100_u8 {
            behind.put_index(Digest::of(&[number]), index.clone());
            behind.put_record(KIND, &[number; 32], vec![0]);
            behind.put_record(KIND, &[number; 32], vec![number]);
            let found = behind.record(KIND, &[number; 32]).unwrap();
            assert_eq!(found, Some(vec![number]));
        }
        behind.flush().unwrap();
        for number in 0..100_u8 {
            let found = store.record(KIND, &[number; 32]).unwrap();
            assert_eq!(found, Some(vec![number]));
            assert!(store.has_index(&Digest::of(&[number])));
        }
        assert_eq!(behind.record(KIND, &[200; 32]).unwrap(), None);
    }

    #[test]
    fn drafts_are_different_and_empty() {
        let directory = tempfile::tempdir().unwrap();
        let behind = WriteBehind::new(Arc::new(Store::open(directory.path()).unwrap()));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..20 {
            let files = behind.layer_draft().unwrap().files();
            assert_eq!(std::fs::read_dir(&files).unwrap().count(), 0);
            assert!(seen.insert(files));
            behind.flush().unwrap();
        }
    }

    #[test]
    fn an_error_is_told_once_by_a_flush() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path()).unwrap());
        let behind = WriteBehind::new(store.clone());
        // A file where the folder of the kind would be.
        std::fs::write(directory.path().join("records/things"), "").unwrap();
        behind.put_record(KIND, &[1; 32], vec![1]);
        assert!(behind.flush().is_err());
        assert!(behind.flush().is_ok());
    }
}
