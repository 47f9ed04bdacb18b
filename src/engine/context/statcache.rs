//! Hashes of files that have not changed since they were hashed, as far as `stat` can tell.
//!
//! The file: the line [`HEADER`]; for each file six little-endian `u64` (device, inode, size,
//! mtime and ctime in nanoseconds, mode) and 32 bytes BLAKE3 of the content; at last BLAKE3 of all
//! that. A file that is not exactly so is taken for empty: nothing is lost but time.
//!
//! A file that is changed twice within one tick of the clock keeps its times. So hashes are
//! remembered only of files that were last changed well before the hashing began ("racy git"):
//! any later change then shows.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;
use store::tree::ContentHash;

use super::disk::Seen;
use super::listings::Child;

const HEADER: &[u8] = b"layercake stat cache 2\n";

/// Longer than the tick of any clock that gives files their times, and than what the clock of a
/// file server is usually ahead.
const SETTLED: Duration = Duration::from_secs(2);

/// With more files than these, those not asked for are forgotten.
const MAX_FILES: usize = 1_000_000;
/// A bigger file is not ours.
const MAX_BYTES: u64 = 1 << 30;

/// Everything that changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970, wrapped to 64 bits.
    mtime: u64,
    ctime: u64,
    mode: u64,
}

impl Identity {
    /// Bytes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn of(stat: &Stat) -> Self {
        let nanoseconds = |seconds: i64, fraction: u64| {
            seconds
                .cast_unsigned()
                .wrapping_mul(1_000_000_000)
                .wrapping_add(fraction)
        };
        #[allow(
            clippy::useless_conversion,
            reason = "the types differ between architectures"
        )]
        Self {
            device: stat.st_dev.into(),
            inode: stat.st_ino.into(),
            size: i64::from(stat.st_size).cast_unsigned(),
            mtime: nanoseconds(stat.st_mtime.into(), u64::from(stat.st_mtime_nsec)),
            ctime: nanoseconds(stat.st_ctime.into(), u64::from(stat.st_ctime_nsec)),
            mode: stat.st_mode.into(),
        }
    }
}

#[derive(Debug)]
pub(super) struct StatCache {
    /// `None`: nothing is remembered.
    file: Option<PathBuf>,
    /// Files changed later than this, in nanoseconds since 1970, are not remembered.
    settled: u64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    old: HashMap<Identity, ContentHash>,
    new: HashMap<Identity, ContentHash>,
    /// Whether `new` has something the file has not.
    changed: bool,
}

impl Known {
    fn get(&mut self, identity: &Identity) -> Option<ContentHash> {
        if let Some(hash) = self.old.remove(identity) {
            self.new.insert(*identity, hash);
        }
        self.new.get(identity).copied()
    }
}

impl StatCache {
    pub(super) fn none() -> Self {
        Self {
            file: None,
            settled: 0,
            known: Mutex::default(),
        }
    }

    /// What is remembered in `directory` of the context whose root has this device and inode.
    pub(super) fn load(directory: &Path, (device, inode): (u64, u64)) -> Self {
        let file = directory.join(format!("context-{device:x}-{inode:x}"));
        Self::load_at(file, SystemTime::now())
    }

    fn load_at(file: PathBuf, now: SystemTime) -> Self {
        let old = read(&file).unwrap_or_default();
        let since = now
            .checked_sub(SETTLED)
            .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let settled = since
            .and_then(|d| u64::try_from(d.as_nanos()).ok())
            .unwrap_or(0);
        let known = Mutex::new(Known {
            old,
            ..Known::default()
        });
        Self {
            file: Some(file),
            settled,
            known,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `files` the hashes that are remembered. Returns the regular files without.
    pub(super) fn missing<'c>(&self, files: impl Iterator<Item = &'c Child>) -> Vec<&'c Child> {
        let mut known = self.known();
        let is_missing = |child: &&Child| {
            let Some(Seen::File(identity)) = &child.seen else {
                return false;
            };
            if let Some(hash) = known.get(identity) {
                let _ = child.hash.set(hash);
            }
            child.hash.get().is_none()
        };
        files.filter(is_missing).collect()
    }

    /// Identities as they were before the files were read, and still were after.
    pub(super) fn put(&self, files: impl Iterator<Item = (Identity, ContentHash)>) {
        let mut known = self.known();
        for (identity, hash) in files {
            if identity.mtime < self.settled && identity.ctime < self.settled {
                known.new.insert(identity, hash);
                known.changed = true;
            }
        }
    }

    /// # Errors
    /// What the file system says; the old file is then still there.
    pub(super) fn save(&self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut known = self.known();
        if !known.changed {
            return Ok(());
        }
        if known.new.len() + known.old.len() > MAX_FILES {
            known.old.clear();
        }
        let bytes = encode(known.new.iter().chain(&known.old));
        let temporary = file.with_extension(format!("{}.tmp", std::process::id()));
        let write = || {
            let mut out = fs::File::create(&temporary)?;
            out.write_all(&bytes)?;
            fs::rename(&temporary, file)
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })?;
        known.changed = false;
        Ok(())
    }
}

impl Drop for StatCache {
    fn drop(&mut self) {
        // A cache that cannot be written is only slow.
        let _ = self.save();
    }
}

fn encode<'a>(files: impl Iterator<Item = (&'a Identity, &'a ContentHash)>) -> Vec<u8> {
    let mut bytes = HEADER.to_vec();
    for (identity, hash) in files {
        let Identity {
            device,
            inode,
            size,
            mtime,
            ctime,
            mode,
        } = identity;
        for number in [device, inode, size, mtime, ctime, mode] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(hash);
    }
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    bytes
}

fn read(file: &Path) -> Option<HashMap<Identity, ContentHash>> {
    if fs::metadata(file).ok()?.len() > MAX_BYTES {
        return None;
    }
    decode(&fs::read(file).ok()?)
}

fn decode(bytes: &[u8]) -> Option<HashMap<Identity, ContentHash>> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(blake3::OUT_LEN)?)?;
    if blake3::hash(body).as_bytes() != sum {
        return None;
    }
    let mut rest = body.strip_prefix(HEADER)?;
    let mut files = HashMap::new();
    while !rest.is_empty() {
        let mut number = || Some(u64::from_le_bytes(*take(&mut rest)?));
        let identity = Identity {
            device: number()?,
            inode: number()?,
            size: number()?,
            mtime: number()?,
            ctime: number()?,
            mode: number()?,
        };
        files.insert(identity, *take(&mut rest)?);
    }
    Some(files)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64, time: u64) -> Identity {
        Identity {
            device: 1,
            inode,
            size: 3,
            mtime: time,
            ctime: time,
            mode: 0o100_644,
        }
    }

    fn hash(n: u8) -> ContentHash {
        [n; 32]
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const SECOND: u64 = 1_000_000_000;

    fn put(cache: &StatCache, identity: Identity, hash: ContentHash) {
        cache.put(std::iter::once((identity, hash)));
    }

    fn get(cache: &StatCache, identity: &Identity) -> Option<ContentHash> {
        cache.known().get(identity)
    }

    #[test]
    fn files_are_remembered_until_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("index");
        let cache = StatCache::load_at(file.clone(), at(100));
        put(&cache, identity(1, 50 * SECOND), hash(1));
        put(&cache, identity(2, 50 * SECOND), hash(2));
        cache.save().unwrap();
        let cache = StatCache::load_at(file.clone(), at(200));
        assert_eq!(get(&cache, &identity(1, 50 * SECOND)), Some(hash(1)));
        assert_eq!(get(&cache, &identity(1, 51 * SECOND)), None);
        put(&cache, identity(3, 50 * SECOND), hash(3));
        drop(cache);
        // What nobody asked for is still known.
        let cache = StatCache::load_at(file, at(300));
        for n in 1..=3 {
            assert_eq!(
                get(&cache, &identity(u64::from(n), 50 * SECOND)),
                Some(hash(n))
            );
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn fresh_files_are_not_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let cache = StatCache::load_at(directory.path().join("index"), at(100));
        put(&cache, identity(1, 98 * SECOND - 1), hash(1));
        put(&cache, identity(2, 98 * SECOND), hash(2));
        let changed_lately = Identity {
            ctime: 99 * SECOND,
            ..identity(3, 5 * SECOND)
        };
        put(&cache, changed_lately, hash(3));
        assert_eq!(get(&cache, &identity(1, 98 * SECOND - 1)), Some(hash(1)));
        assert_eq!(get(&cache, &identity(2, 98 * SECOND)), None);
        assert_eq!(
            get(
                &cache,
                &Identity {
                    ctime: 99 * SECOND,
                    ..identity(3, 5 * SECOND)
                }
            ),
            None
        );
    }

    #[test]
    fn damaged_and_foreign_files_are_empty() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("index");
        let cache = StatCache::load_at(file.clone(), at(100));
        put(&cache, identity(1, SECOND), hash(1));
        drop(cache);
        let good = fs::read(&file).unwrap();
        let known = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let cache = StatCache::load_at(file.clone(), at(100));
            get(&cache, &identity(1, SECOND)).is_some()
        };
        assert!(known(&good));
        assert!(!known(b""));
        assert!(!known(
            b"something else entirely, longer than a hash, for sure"
        ));
        assert!(!known(&good[..good.len() - 1]));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(!known(&bad), "byte {at}");
        }
    }
}
