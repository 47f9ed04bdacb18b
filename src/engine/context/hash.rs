//! Reads and hashes files.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use store::tree::ContentHash;

use super::disk::{self, Disk, Seen};
use super::kept::{Block, Room};
use super::listings::{Child, Spot};
use super::statcache::{Identity, StatCache};

/// Reading and hashing overlap; more threads only make disks seek.
pub(super) const THREADS: usize = 2;
const BUFFER: usize = 128 << 10;

/// What one thread reads with.
pub(super) struct Hasher<'r> {
    block: Block<'r>,
    buffer: Vec<u8>,
    /// To be remembered.
    unchanged: Vec<(Identity, ContentHash)>,
}

impl<'r> Hasher<'r> {
    pub(super) fn new(room: &'r Room) -> Self {
        Self {
            block: Block::new(room),
            buffer: Vec::new(),
            unchanged: Vec::new(),
        }
    }

    /// Hashes `child`, which `file` was opened as, and keeps its content if there is room.
    ///
    /// # Errors
    /// Those of reading; that it is not a regular file any more.
    pub(super) fn read(&mut self, child: &Child, mut file: File) -> io::Result<()> {
        let expected = match child.seen {
            Some(Seen::File(identity)) => Some(identity),
            _ => None,
        };
        let size = expected.map_or(0, |identity| identity.size());
        let content = self.block.read(&mut file, size)?;
        let hash = match &content {
            Some(content) => *blake3::hash(content).as_bytes(),
            None => self.read_through(&mut file)?,
        };
        let after = disk::regular(&file)?;
        if expected == Some(after) {
            self.unchanged.push((after, hash));
        }
        // Another thread may have been there first; then it stays with what that one saw.
        if child.hash.set(hash).is_ok()
            && let Some(content) = content
        {
            child.kept.put(content);
        }
        Ok(())
    }

    fn read_through(&mut self, file: &mut File) -> io::Result<ContentHash> {
        // Some devices never end.
        disk::regular(file)?;
        file.rewind()?;
        self.buffer.resize(BUFFER, 0);
        let mut hasher = blake3::Hasher::new();
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => return Ok(*hasher.finalize().as_bytes()),
                Ok(n) => {
                    hasher.update(&self.buffer[..n]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Remembers what was read.
    pub(super) fn finish(self, cache: &StatCache) {
        cache.put(self.unchanged.into_iter());
    }
}

/// Hashes `files`, several at a time, but for those that are known.
///
/// # Errors
/// The first file, in order, that cannot be read.
pub(super) fn read_files(
    disk: &Disk,
    cache: &StatCache,
    files: &[(&[u8], &Spot)],
) -> Result<(), (Vec<u8>, io::Error)> {
    let next = AtomicUsize::new(0);
    let room = Room::new();
    let work = || {
        let mut hasher = Hasher::new(&room);
        let mut failed = None;
        let taken = || {
            let at = next.fetch_add(1, Ordering::Relaxed);
            Some((at, files.get(at)?))
        };
        while let Some((at, (path, spot))) = taken() {
            let opened = disk.open_file(path);
            if let Err(error) = opened.and_then(|file| hasher.read(spot, file)) {
                // Nobody needs the rest; what is before it is still finished by the others.
                next.store(files.len(), Ordering::Relaxed);
                failed = Some((at, error));
                break;
            }
        }
        hasher.finish(cache);
        failed
    };
    let failed: Vec<Option<(usize, io::Error)>> = if files.len() < 2 {
        vec![work()]
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            let join = |thread: ScopedJoinHandle<'_, _>| {
                let panicked = |panic| std::panic::resume_unwind(panic);
                thread.join().unwrap_or_else(panicked)
            };
            threads.into_iter().map(join).collect()
        })
    };
    match failed.into_iter().flatten().min_by_key(|(at, _)| *at) {
        Some((at, error)) => Err((files[at].0.to_vec(), error)),
        None => Ok(()),
    }
}
