//! Files with holes: GNU tar's own members (type `S`) and the three forms in PAX records (GNU tar
//! manual, "Sparse Formats"; the same are read by Go's archive/tar). What the archive stores is
//! turned back into the file, so nobody above has to know.

use super::header::BLOCK;
use super::pax;

/// Each costs 16 bytes of memory; Go's archive/tar has the same limit.
const SEGMENTS_MAX: usize = 1 << 20;

/// A piece of the file that the archive stores, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u64,
    len: u64,
}

/// Where a file's stored bytes belong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Map {
    segments: Vec<Segment>,
    /// Bytes of the file with its holes.
    pub size: u64,
}

/// Reads a [`Map`] from front to back.
#[derive(Debug)]
pub(super) struct Expansion {
    map: Map,
    segment: usize,
    at: u64,
}

/// What comes next of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Hole(u64),
    Data(u64),
}

impl Map {
    /// Numbers in pairs, offset and length. `stored`: bytes of content in the archive.
    fn new(numbers: &[u64], size: u64, stored: u64) -> Result<Self, &'static str> {
        let mut segments = Vec::with_capacity(numbers.len() / 2);
        let (mut end, mut data) = (0, 0_u64);
        for pair in numbers.chunks(2) {
            let &[offset, len] = pair else {
                return Err("sparse map with an odd number of numbers");
            };
            let next = offset.checked_add(len).filter(|next| *next <= size);
            let next = next.ok_or("sparse map that leads out of its file")?;
            if offset < end {
                return Err("sparse map out of order");
            }
            end = next;
            data += len;
            if len > 0 {
                segments.push(Segment { offset, len });
            }
        }
        if data != stored {
            return Err("sparse map that does not fit what is stored");
        }
        Ok(Self { segments, size })
    }

    pub(super) const fn expansion(self) -> Expansion {
        Expansion {
            map: self,
            segment: 0,
            at: 0,
        }
    }
}

impl Expansion {
    /// `None` at the end of the file.
    pub(super) fn piece(&self) -> Option<Piece> {
        match self.map.segments.get(self.segment) {
            Some(Segment { offset, .. }) if *offset > self.at => {
                Some(Piece::Hole(offset - self.at))
            }
            Some(Segment { offset, len }) => Some(Piece::Data(offset + len - self.at)),
            None if self.at < self.map.size => Some(Piece::Hole(self.map.size - self.at)),
            None => None,
        }
    }

    /// `n` bytes, no more than the piece has, have been taken of it.
    pub(super) fn advance(&mut self, n: u64) {
        self.at += n;
        let segment = self.map.segments.get(self.segment);
        if segment.is_some_and(|s| s.offset + s.len <= self.at) {
            self.segment += 1;
        }
    }
}

/// The map of an old GNU member: four pairs in its header, more in the blocks that follow.
#[derive(Debug, Default)]
pub(super) struct OldMap {
    numbers: Vec<u64>,
    /// Another block of the map follows.
    pub continues: bool,
    size: u64,
}

impl OldMap {
    /// `number` reads a numeric field of a header.
    pub(super) fn of_header(
        header: &[u8; BLOCK],
        number: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<Self, &'static str> {
        let mut map = Self {
            size: number(&header[483..495]).ok_or("invalid size of a sparse file")?,
            ..Self::default()
        };
        map.add(&header[386..483], number)?;
        Ok(map)
    }

    pub(super) fn add_block(
        &mut self,
        block: &[u8; BLOCK],
        number: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<(), &'static str> {
        self.add(&block[..505], number)
    }

    /// Pairs of 24 bytes and the flag that says whether there are more.
    fn add(
        &mut self,
        fields: &[u8],
        number: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<(), &'static str> {
        let (pairs, flag) = fields.split_at(fields.len() - 1);
        self.continues = flag != [0];
        for pair in pairs.chunks_exact(24) {
            // The list ends with a pair of zero bytes.
            if pair[0] == 0 {
                break;
            }
            for field in pair.chunks_exact(12) {
                self.numbers
                    .push(number(field).ok_or("invalid number in a sparse map")?);
            }
        }
        if self.numbers.len() > 2 * SEGMENTS_MAX {
            return Err("sparse map with too many entries");
        }
        Ok(())
    }

    pub(super) fn finish(self, stored: u64) -> Result<Map, &'static str> {
        Map::new(&self.numbers, self.size, stored)
    }
}

/// What the `GNU.sparse.*` records of a member say.
#[derive(Debug, Default)]
pub(super) struct Records {
    major: Option<Vec<u8>>,
    minor: Option<Vec<u8>>,
    /// The file's own name; the one of the member may be made up.
    pub name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Form 0.0 repeats records, form 0.1 has a list.
    numbers: Option<Vec<u64>>,
}

/// Where a member's map is.
#[derive(Debug)]
pub(super) enum Form {
    /// In its records.
    Known { numbers: Vec<u64>, size: u64 },
    /// Before its content (form 1.0).
    InContent { size: u64 },
}

impl Form {
    pub(super) fn finish(self, stored: u64) -> Result<Map, &'static str> {
        match self {
            Self::Known { numbers, size } => Map::new(&numbers, size, stored),
            Self::InContent { .. } => Err("sparse map not read"),
        }
    }
}

impl Records {
    /// `key` without `GNU.sparse.`.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || pax::decimal(value).ok_or("invalid number in a sparse map");
        match key {
            b"major" => self.major = Some(value.to_vec()),
            b"minor" => self.minor = Some(value.to_vec()),
            b"name" => self.name = Some(value.to_vec()).filter(|name| !name.is_empty()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"offset" | b"numbytes" => self.numbers.get_or_insert_default().push(number()?),
            b"map" => {
                let parts = value.split(|b| *b == b',').filter(|part| !part.is_empty());
                let numbers: Option<Vec<u64>> = parts.map(pax::decimal).collect();
                self.numbers = Some(numbers.ok_or("invalid number in a sparse map")?);
            }
            // The number of entries; the list itself says it.
            _ => {}
        }
        Ok(())
    }

    /// `None` for a file without holes.
    pub(super) fn form(&mut self) -> Result<Option<Form>, &'static str> {
        let version = (self.major.as_deref(), self.minor.as_deref());
        let size = self.size.ok_or("sparse file without a size");
        match version {
            (Some(b"1"), Some(b"0")) => Ok(Some(Form::InContent { size: size? })),
            (None, None) | (Some(b"0"), Some(b"0" | b"1")) => match self.numbers.take() {
                Some(numbers) => Ok(Some(Form::Known {
                    numbers,
                    size: size?,
                })),
                None => Ok(None),
            },
            _ => Err("sparse file of an unknown form"),
        }
    }
}

/// Takes the map of form 1.0 from the blocks before a file's content: decimal numbers, each on a
/// line, how many pairs there are and then the pairs, filled up to a whole block.
#[derive(Debug, Default)]
pub(super) struct ContentMap {
    numbers: Vec<u64>,
    /// Of a line whose end is in the next block.
    digits: Vec<u8>,
}

impl ContentMap {
    /// Tells whether the map is complete.
    pub(super) fn add_block(&mut self, block: &[u8; BLOCK]) -> Result<bool, &'static str> {
        for byte in block {
            if self.is_complete()? {
                return Ok(true);
            }
            if *byte != b'\n' {
                self.digits.push(*byte);
                if self.digits.len() > 20 {
                    return Err("invalid number in a sparse map");
                }
                continue;
            }
            let number = pax::decimal(&self.digits).ok_or("invalid number in a sparse map")?;
            self.digits.clear();
            self.numbers.push(number);
        }
        self.is_complete()
    }

    fn is_complete(&self) -> Result<bool, &'static str> {
        let Some((count, numbers)) = self.numbers.split_first() else {
            return Ok(false);
        };
        match usize::try_from(*count) {
            Ok(count) if count <= SEGMENTS_MAX => Ok(numbers.len() == 2 * count),
            _ => Err("sparse map with too many entries"),
        }
    }

    pub(super) fn finish(self, size: u64, stored: u64) -> Result<Map, &'static str> {
        Map::new(self.numbers.get(1..).unwrap_or_default(), size, stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(map: Map) -> Vec<Piece> {
        let mut expansion = map.expansion();
        let mut pieces = Vec::new();
        while let Some(piece) = expansion.piece() {
            let (Piece::Hole(n) | Piece::Data(n)) = piece;
            expansion.advance(n);
            pieces.push(piece);
        }
        pieces
    }

    #[test]
    fn holes_are_before_between_and_after() {
        let map = Map::new(&[10, 5, 15, 1, 20, 2, 30, 0], 30, 8).unwrap();
        let (hole, data) = (Piece::Hole, Piece::Data);
        assert_eq!(
            pieces(map),
            [hole(10), data(5), data(1), hole(4), data(2), hole(8)]
        );
        assert_eq!(pieces(Map::new(&[], 7, 0).unwrap()), [Piece::Hole(7)]);
        assert_eq!(pieces(Map::new(&[], 0, 0).unwrap()), []);
    }

    #[test]
    fn maps_that_cannot_be() {
        for (numbers, size, stored) in [
            (&[0, 5][..], 4, 5),
            (&[0, 5], 5, 4),
            (&[0, 5, 4, 1], 9, 6),
            (&[5, 1, 0, 1], 9, 2),
            (&[0, 5, 9], 20, 5),
            (&[u64::MAX, 2], u64::MAX, 2),
            (&[], 5, 5),
        ] {
            assert!(Map::new(numbers, size, stored).is_err(), "{numbers:?}");
        }
    }

    #[test]
    fn a_map_before_the_content_may_take_several_blocks() {
        let mut text = String::from("60\n");
        for n in 0..60 {
            text.push_str(&format!("{}\n1\n", n * 1_000_000));
        }
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        assert_eq!(bytes.len(), 2 * BLOCK);
        let mut map = ContentMap::default();
        let blocks: Vec<&[u8; BLOCK]> =
            bytes.chunks(BLOCK).map(|b| b.try_into().unwrap()).collect();
        assert_eq!(map.add_block(blocks[0]), Ok(false));
        assert_eq!(map.add_block(blocks[1]), Ok(true));
        assert_eq!(map.finish(60_000_000, 60).unwrap().segments.len(), 60);
        for bad in [
            &b"x\n"[..],
            b"99999999\n",
            b"1\n-1\n",
            b"123456789012345678901",
        ] {
            let mut block = [0; BLOCK];
            block[..bad.len()].copy_from_slice(bad);
            let mut map = ContentMap::default();
            assert!(map.add_block(&block).is_err(), "{bad:?}");
        }
    }
}
