//! The bytes of an [`Index`] file: written once, read whole, checked by a BLAKE3 sum at the end.
//!
//! Little-endian. `magic`, entry count (u32), entries, sum of all before it (32 bytes).
//! An entry: path (u32 length, bytes), mode, uid, gid (u32), mtime (i64), xattr count (u16) with
//! name and value (u32 length, bytes) each, a kind byte, and what the kind needs.

use crate::tree::{ContentHash, Entry, Index, Kind};

/// The version is in the magic: another one is not read but made anew.
const MAGIC: &[u8] = b"layercake index 1\n";

const DIRECTORY: u8 = b'd';
const OPAQUE: u8 = b'o';
const FILE: u8 = b'f';
const SYMLINK: u8 = b'l';
const HARD_LINK: u8 = b'h';
const CHAR: u8 = b'c';
const BLOCK: u8 = b'b';
const FIFO: u8 = b'p';
const WHITEOUT: u8 = b'w';

#[must_use]
pub(crate) fn encode(index: &Index) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + index.entries().len() * 96 + 36);
    out.extend_from_slice(MAGIC);
    put_u32(&mut out, index.entries().len());
    for entry in index.entries() {
        put_entry(&mut out, entry);
    }
    let sum = *blake3::hash(&out).as_bytes();
    out.extend_from_slice(&sum);
    out
}

/// `None` for anything that [`encode`] did not write whole.
#[must_use]
pub(crate) fn decode(bytes: &[u8]) -> Option<Index> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    if blake3::hash(body).as_bytes() != sum {
        return None;
    }
    let mut input = Input(body.strip_prefix(MAGIC)?);
    let count = input.u32()? as usize;
    let mut entries = Vec::with_capacity(count.min(body.len()));
    for _ in 0..count {
        entries.push(input.entry()?);
    }
    input.0.is_empty().then(|| Index::new(entries))
}

fn put_u32(out: &mut Vec<u8>, value: usize) {
    // Paths, values and counts are bounded far below 4 GiB where entries are made.
    out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_bytes(out, &entry.path);
    for number in [entry.mode, entry.uid, entry.gid] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&entry.mtime.to_le_bytes());
    put_u32(out, entry.xattrs.len());
    for (name, value) in &entry.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
    match &entry.kind {
        Kind::Directory { opaque: false } => out.push(DIRECTORY),
        Kind::Directory { opaque: true } => out.push(OPAQUE),
        Kind::File { size, hash } => {
            out.push(FILE);
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(hash);
        }
        Kind::Symlink { target } => {
            out.push(SYMLINK);
            put_bytes(out, target);
        }
        Kind::HardLink { target } => {
            out.push(HARD_LINK);
            put_bytes(out, target);
        }
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            out.push(if matches!(entry.kind, Kind::CharDevice { .. }) {
                CHAR
            } else {
                BLOCK
            });
            out.extend_from_slice(&major.to_le_bytes());
            out.extend_from_slice(&minor.to_le_bytes());
        }
        Kind::Fifo => out.push(FIFO),
        Kind::Whiteout => out.push(WHITEOUT),
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let n = self.u32()? as usize;
        self.take(n).map(<[u8]>::to_vec)
    }

    fn entry(&mut self) -> Option<Entry> {
        let path = self.bytes()?;
        let (mode, uid, gid) = (self.u32()?, self.u32()?, self.u32()?);
        let mtime = i64::from_le_bytes(self.array()?);
        let mut xattrs = Vec::new();
        for _ in 0..self.u32()? {
            xattrs.push((self.bytes()?, self.bytes()?));
        }
        let kind = match self.array::<1>()?[0] {
            DIRECTORY => Kind::Directory { opaque: false },
            OPAQUE => Kind::Directory { opaque: true },
            FILE => Kind::File {
                size: u64::from_le_bytes(self.array()?),
                hash: self.array::<{ size_of::<ContentHash>() }>()?,
            },
            SYMLINK => Kind::Symlink {
                target: self.bytes()?,
            },
            HARD_LINK => Kind::HardLink {
                target: self.bytes()?,
            },
            CHAR => Kind::CharDevice {
                major: self.u32()?,
                minor: self.u32()?,
            },
            BLOCK => Kind::BlockDevice {
                major: self.u32()?,
                minor: self.u32()?,
            },
            FIFO => Kind::Fifo,
            WHITEOUT => Kind::Whiteout,
            _ => return None,
        };
        Some(Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Index {
        let entry = |path: &str, kind| Entry {
            path: path.into(),
            kind,
            mode: 0o4755,
            uid: 1000,
            gid: 70000,
            mtime: -5,
            xattrs: vec![(b"security.capability".to_vec(), vec![0, 255])],
        };
        Index::new(vec![
            entry("a", Kind::Directory { opaque: false }),
            entry(
                "a/b",
                Kind::File {
                    size: 1 << 40,
                    hash: [7; 32],
                },
            ),
            entry(
                "a/c",
                Kind::HardLink {
                    target: b"a/b".to_vec(),
                },
            ),
            entry("d", Kind::Directory { opaque: true }),
            entry(
                "e",
                Kind::Symlink {
                    target: b"../\xff".to_vec(),
                },
            ),
            entry("f", Kind::CharDevice { major: 1, minor: 3 }),
            entry("g", Kind::BlockDevice { major: 8, minor: 0 }),
            entry("h", Kind::Fifo),
            entry("i", Kind::Whiteout),
        ])
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(decode(&encode(&sample())), Some(sample()));
        assert_eq!(decode(&encode(&Index::default())), Some(Index::default()));
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_the_damage_is() {
        let good = encode(&sample());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None, "byte {at}");
            assert_eq!(decode(&good[..at]), None, "cut at {at}");
        }
    }
}
