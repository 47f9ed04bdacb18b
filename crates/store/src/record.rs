//! Small facts under a key: what a step made, which blob holds a layer, what a tag means.
//!
//! A record is one file, `records/<kind>/<key>`, its bytes preceded by their BLAKE3 sum.
//! Any number of processes may read and write; the last writer of a key wins.

use std::io;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::{Store, digest};

/// Names a group of records; the folder they lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordKind(pub &'static str);

/// 32 bytes that name a record within its kind.
pub type RecordKey = [u8; 32];

impl Store {
    fn record_path(&self, kind: RecordKind, key: &RecordKey) -> PathBuf {
        self.path("records").join(kind.0).join(digest::hex(key))
    }

    /// The bytes put last; `None` when there are none or they are damaged.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but a missing file.
    pub fn record(&self, kind: RecordKind, key: &RecordKey) -> Result<Option<Vec<u8>>> {
        let path = self.record_path(kind, key);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(bytes.split_at_checked(32).and_then(|(sum, body)| {
                (blake3::hash(body).as_bytes() == sum).then(|| body.to_vec())
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn put_record(&self, kind: RecordKind, key: &RecordKey, bytes: &[u8]) -> Result<()> {
        let body = [blake3::hash(bytes).as_bytes().as_slice(), bytes].concat();
        self.names.write(&self.record_path(kind, key), &body)
    }
}
