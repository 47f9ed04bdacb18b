//! The archives of small layers, kept from when a step's layer is named until the image is written:
//! to read its files once more costs more than their bytes.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use store::Digest;
use store::digest::DigestMap;

/// Bytes of one archive.
const ONE_MAX: usize = 64 << 10;
/// Of all.
const ALL_MAX: usize = 16 << 20;

/// What is written to it, unless that is too much.
#[derive(Debug)]
pub(super) struct Kept(Option<Vec<u8>>);

impl Default for Kept {
    fn default() -> Self {
        Self(Some(Vec::new()))
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.take().filter(|k| k.len() + bytes.len() <= ONE_MAX);
        if let Some(kept) = &mut self.0 {
            kept.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// By diff id.
#[derive(Debug, Default)]
pub(super) struct SmallTars(Mutex<Tars>);

#[derive(Debug, Default)]
struct Tars {
    by_diff_id: DigestMap<Vec<u8>>,
    bytes: usize,
}

impl SmallTars {
    fn tars(&self) -> MutexGuard<'_, Tars> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, diff_id: Digest, kept: Kept) {
        let Some(tar) = kept.0 else { return };
        let mut tars = self.tars();
        if tars.bytes + tar.len() <= ALL_MAX {
            tars.bytes += tar.len();
            if let Some(same) = tars.by_diff_id.insert(diff_id, tar) {
                tars.bytes -= same.len();
            }
        }
    }

    /// Once.
    pub(super) fn take(&self, diff_id: &Digest) -> Option<Vec<u8>> {
        let mut tars = self.tars();
        let tar = tars.by_diff_id.remove(diff_id)?;
        tars.bytes -= tar.len();
        Some(tar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(size: usize) -> Kept {
        let mut kept = Kept::default();
        kept.write_all(&vec![1; size / 2]).unwrap();
        kept.write_all(&vec![2; size - size / 2]).unwrap();
        kept
    }

    #[test]
    fn memory_is_bounded() {
        let tars = SmallTars::default();
        tars.put(Digest::of(b"big"), kept(ONE_MAX + 1));
        assert_eq!(tars.take(&Digest::of(b"big")), None);
        let name = |i: usize| Digest::of(&i.to_le_bytes());
        let most = ALL_MAX / ONE_MAX;
        // Twice: the same layer counts once.
        for i in (0..=most).chain(0..=most) {
            tars.put(name(i), kept(ONE_MAX));
        }
        assert_eq!(tars.take(&name(most)), None);
        let there = (0..most).filter_map(|i| tars.take(&name(i)));
        assert_eq!(there.map(|tar| tar.len()).sum::<usize>(), ALL_MAX);
        assert_eq!(tars.take(&name(0)), None);
    }
}
