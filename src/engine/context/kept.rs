//! Contents of small files, kept from when they are hashed for the key of a `COPY` until they go
//! into its layer: opening a file again costs more than its bytes. And what goes into the layer is
//! then what was hashed, whatever happens to the file in between.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::listings::Children;

/// Bigger files are read again: for them opening does not count.
const FILE_MAX: usize = 64 << 10;
/// All together, in bytes.
const TOTAL_MAX: usize = 64 << 20;
/// Contents share memory: asking for it costs as much as reading a small file.
const BLOCK: usize = 1 << 20;

/// The content of one file, until somebody takes it.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Option<Bytes>>);

impl Kept {
    fn slot(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, content: Bytes) {
        *self.slot() = Some(content);
    }

    /// Once: the memory then belongs to who asked.
    pub(super) fn take(&self) -> Option<Bytes> {
        self.slot().take()
    }
}

/// Where contents are kept.
#[derive(Debug, Default)]
pub(super) struct Holders(Mutex<Vec<Children>>);

impl Holders {
    fn list(&self) -> MutexGuard<'_, Vec<Children>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, children: &Children) {
        let mut list = self.list();
        if !list.last().is_some_and(|last| Arc::ptr_eq(last, children)) {
            list.push(children.clone());
        }
    }

    /// Forgets what nobody took: a step that was found in the cache did not ask for it.
    pub(super) fn release(&self) {
        for children in std::mem::take(&mut *self.list()) {
            for child in children.iter() {
                child.kept.take();
            }
        }
    }
}

/// What is left of the limit for all files that are read together.
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

/// Memory for contents, used by one thread.
#[derive(Debug)]
pub(super) struct Block<'r> {
    room: &'r Room,
    free: BytesMut,
}

impl<'r> Block<'r> {
    pub(super) fn new(room: &'r Room) -> Self {
        Self {
            room,
            free: BytesMut::new(),
        }
    }

    /// All of `file`, at its start and said to have `size` bytes. `None` if that is too much, or
    /// if there is more; then it is no longer at its start.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) fn read(&mut self, file: &mut File, size: u64) -> io::Result<Option<Bytes>> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > FILE_MAX || !self.room.take(size) {
            return Ok(None);
        }
        // One byte more, to see the end.
        let asked = size + 1;
        if self.free.capacity() < asked {
            self.free = BytesMut::with_capacity(BLOCK);
        }
        self.free.resize(asked, 0);
        let mut total = 0;
        while total < asked {
            match file.read(&mut self.free[total..]) {
                Ok(n) => {
                    total += n;
                    // A regular file gives less than was asked for only at its end.
                    if n == 0 || total == size {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.free.clear();
                    return Err(error);
                }
            }
        }
        if total == asked {
            self.free.clear();
            return Ok(None);
        }
        self.free.truncate(total);
        Ok(Some(self.free.split().freeze()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    fn read(block: &mut Block<'_>, content: &[u8], size: usize) -> Option<Bytes> {
        block.read(&mut file(content), size as u64).unwrap()
    }

    #[test]
    fn files_of_every_size() {
        let room = Room::new();
        let mut block = Block::new(&room);
        let all: Vec<u8> = (0..=250).cycle().take(FILE_MAX).collect();
        let sizes = [0, 1, 2047, 2048, FILE_MAX - 1, FILE_MAX];
        let sizes = sizes.iter().cycle().take(200);
        let kept = sizes.map(|size| (*size, read(&mut block, &all[..*size], *size)));
        for (size, kept) in kept.collect::<Vec<_>>() {
            assert_eq!(kept.unwrap(), all[..size], "{size}");
        }
    }

    #[test]
    fn files_that_change_meanwhile() {
        let room = Room::new();
        let mut block = Block::new(&room);
        assert_eq!(read(&mut block, b"longer", 3), None);
        assert_eq!(read(&mut block, b"one", 4096).unwrap(), &b"one"[..]);
        assert_eq!(read(&mut block, b"two", 3).unwrap(), &b"two"[..]);
    }

    #[test]
    fn memory_is_bounded() {
        let room = Room::new();
        let mut block = Block::new(&room);
        let all = vec![0; FILE_MAX + 1];
        assert_eq!(read(&mut block, &all, FILE_MAX + 1), None);
        for _ in 0..TOTAL_MAX / FILE_MAX {
            assert!(room.take(FILE_MAX));
        }
        assert_eq!(read(&mut block, b"x", 1), None);
        assert!(read(&mut block, b"", 0).is_some());
    }
}
