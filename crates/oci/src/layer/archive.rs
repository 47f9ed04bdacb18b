//! Members of a tar archive: blocks, checksums, extended headers.
//!
//! `tar::Archive` would do the first two, but it reads extended headers of any length into memory,
//! cuts PAX records at newlines (which a binary `security.capability` may contain) and goes on
//! when a PAX size is malformed. So `tar::Header` gives the fields and this file the rest, where
//! it matters agreeing with Go's archive/tar, which reads the same layers everywhere else.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::header::{BLOCK, padding};
use super::limits::Limits;
use super::pax;
use super::sparse::{self, ContentMap, Expansion, Form, OldMap, Piece};
use crate::error::LayerError;

/// A header with everything extended headers say about it; names are as they stand.
#[derive(Debug)]
pub(super) struct RawMember {
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: EntryType,
    /// Type 0 with a name that ends in `/`: how tars before POSIX write directories.
    pub old_directory: bool,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub device: (u32, u32),
    /// Sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// It has holes, so its bytes are not in the archive one after another.
    pub is_sparse: bool,
}

#[derive(Debug)]
pub(super) struct Archive<R> {
    reader: R,
    limits: Limits,
    /// Bytes read so far.
    offset: u64,
    /// Content bytes of the current member not read yet.
    left: u64,
    /// Bytes between that content and the next header.
    padding: usize,
    /// Of a file with holes.
    expansion: Option<Expansion>,
    /// Bytes of all files with holes so far.
    expanded: u64,
    ended: bool,
}

/// Extended headers gathered for the next member.
#[derive(Default)]
struct Extensions {
    pax: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    pub(super) const fn new(reader: R, limits: Limits) -> Self {
        Self {
            reader,
            limits,
            offset: 0,
            left: 0,
            padding: 0,
            expansion: None,
            expanded: 0,
            ended: false,
        }
    }

    /// Where the content of the member last returned begins, before any of it is read.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Skips what is left of the current member and reads the next one's headers.
    pub(super) fn next(&mut self) -> Result<Option<RawMember>, LayerError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let start = self.offset;
            let Some(header) = self.header()? else {
                if extensions.is_empty() {
                    return Ok(None);
                }
                return Err(archive(start, "extended header without a member"));
            };
            let kind = header.entry_type();
            if !is_extension(kind) {
                let (mut member, form) = extensions.member(&header, start, &self.limits)?;
                self.begin(if has_content(kind) { member.size } else { 0 });
                self.expand(&mut member, &header, form)
                    .map_err(|error| match error {
                        SparseError::Invalid(reason) => archive(start, reason),
                        SparseError::Read(error) => error,
                    })?;
                return Ok(Some(member));
            }
            let size = unsigned(&header.as_old().size)
                .filter(|size| *size <= Limits::EXTENDED_HEADER_BYTES)
                .ok_or(LayerError::Limit {
                    what: "bytes in an extended header",
                    limit: Limits::EXTENDED_HEADER_BYTES,
                })?;
            self.begin(size);
            let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
            self.read_exact(&mut data)?;
            extensions.add(kind, data);
        }
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = padding(size);
        self.expansion = None;
    }

    /// Reads where the stored bytes of a file with holes belong; its size is then that of the
    /// whole file.
    fn expand(
        &mut self,
        member: &mut RawMember,
        header: &Header,
        form: Option<Form>,
    ) -> Result<(), SparseError> {
        let map = if member.kind == EntryType::GNUSparse {
            let mut map = OldMap::of_header(header.as_bytes(), unsigned)?;
            let mut block = [0; BLOCK];
            while map.continues {
                // These blocks are no part of the content.
                if self.fill(&mut block)? != BLOCK {
                    let offset = self.offset;
                    return Err(LayerError::Truncated { offset }.into());
                }
                map.add_block(&block, unsigned)?;
            }
            member.kind = EntryType::Regular;
            map.finish(self.left)?
        } else {
            match form.filter(|_| member.kind == EntryType::Regular) {
                None => return Ok(()),
                Some(Form::InContent { size }) => {
                    let mut map = ContentMap::default();
                    let mut block = [0; BLOCK];
                    loop {
                        self.read_exact(&mut block)?;
                        if map.add_block(&block)? {
                            break map.finish(size, self.left)?;
                        }
                    }
                }
                Some(known) => known.finish(self.left)?,
            }
        };
        // Holes cost nothing to write.
        self.expanded = self.expanded.saturating_add(map.size);
        if self.expanded > self.limits.archive_bytes {
            return Err(LayerError::Limit {
                what: "bytes in sparse files",
                limit: self.limits.archive_bytes,
            }
            .into());
        }
        member.size = map.size;
        member.is_sparse = true;
        self.expansion = Some(map.expansion());
        Ok(())
    }

    /// Reads content of the current member, holes as zeros; 0 at its end.
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let Some(expansion) = &mut self.expansion else {
            return self.read_stored(buffer);
        };
        let most = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(buffer.len());
        let n = match expansion.piece() {
            None => return Ok(0),
            Some(Piece::Hole(n)) => {
                let n = most(n);
                buffer[..n].fill(0);
                n
            }
            Some(Piece::Data(n)) => {
                let n = most(n);
                self.read_stored(&mut buffer[..n])?
            }
        };
        if let Some(expansion) = &mut self.expansion {
            expansion.advance(n as u64);
        }
        Ok(n)
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let want = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.read_some(&mut buffer[..want])?;
        if n == 0 {
            return Err(LayerError::Truncated {
                offset: self.offset,
            });
        }
        self.left -= n as u64;
        Ok(n)
    }

    fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), LayerError> {
        while !buffer.is_empty() {
            let n = self.read_content(buffer)?;
            if n == 0 {
                return Err(LayerError::Truncated {
                    offset: self.offset,
                });
            }
            buffer = &mut buffer[n..];
        }
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), LayerError> {
        let mut buffer = [0; 32 << 10];
        while self.read_stored(&mut buffer)? > 0 {}
        // Some writers leave out the padding of the very last member; Go's reader allows it.
        let padding = std::mem::take(&mut self.padding);
        self.fill(&mut buffer[..padding]).map(drop)
    }

    /// Reads to the end of the stream: what follows the archive belongs to its digest.
    pub(super) fn finish(mut self) -> Result<R, LayerError> {
        let mut buffer = [0; 32 << 10];
        while self.read_some(&mut buffer)? > 0 {}
        Ok(self.reader)
    }

    /// The next header block with a good checksum; none at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let start = self.offset;
        let mut header = Header::new_old();
        match self.fill(header.as_mut_bytes())? {
            0 => {
                self.ended = true;
                return Ok(None);
            }
            BLOCK => {}
            _ => {
                return Err(LayerError::Truncated {
                    offset: self.offset,
                });
            }
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            self.ended = true;
            let mut second = [0; BLOCK];
            self.fill(&mut second)?;
            if second.iter().any(|b| *b != 0) {
                return Err(archive(start, "a block of zeros in the middle"));
            }
            return Ok(None);
        }
        if !checksum_is_good(&header) {
            return Err(archive(start, "wrong header checksum"));
        }
        Ok(Some(header))
    }

    /// Fills the buffer as far as the stream goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(filled)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let n = loop {
            match self.reader.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(LayerError::Read)?,
            }
        };
        self.offset += n as u64;
        if self.offset > self.limits.archive_bytes {
            return Err(LayerError::Limit {
                what: "bytes",
                limit: self.limits.archive_bytes,
            });
        }
        Ok(n)
    }
}

const fn is_extension(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::XHeader
            | EntryType::XGlobalHeader
            | EntryType::GNULongName
            | EntryType::GNULongLink
    )
}

/// Go's `isHeaderOnlyType`: the size field of the others says nothing.
const fn has_content(kind: EntryType) -> bool {
    !matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
    )
}

impl Extensions {
    const fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }

    /// Global headers are ignored, as Go and containerd do.
    fn add(&mut self, kind: EntryType, data: Vec<u8>) {
        match kind {
            EntryType::XHeader => self.pax = Some(data),
            EntryType::GNULongName => self.name = Some(until_nul(&data).to_vec()),
            EntryType::GNULongLink => self.link = Some(until_nul(&data).to_vec()),
            _ => {}
        }
    }

    fn member(
        self,
        header: &Header,
        start: u64,
        limits: &Limits,
    ) -> Result<(RawMember, Option<Form>), LayerError> {
        let old = header.as_old();
        let invalid = |reason| archive(start, reason);
        let number = |field: &[u8], reason| unsigned(field).ok_or_else(|| invalid(reason));
        let device = |field: Option<&[u8; 8]>| match field {
            Some(field) => id(number(field, "invalid device number")?)
                .ok_or_else(|| invalid("invalid device number")),
            None => Ok(0),
        };
        let kind = header.entry_type();
        let is_device = matches!(kind, EntryType::Char | EntryType::Block);
        let ustar = header.as_ustar().filter(|_| is_device);
        let gnu = header.as_gnu().filter(|_| is_device);
        let mut member = RawMember {
            name: header.path_bytes().into_owned(),
            link: header.link_name_bytes().unwrap_or_default().into_owned(),
            kind,
            old_directory: false,
            size: number(&old.size, "invalid size")?,
            mode: (number(&old.mode, "invalid mode")? & 0o7777) as u32,
            uid: 0,
            gid: 0,
            mtime: signed(&old.mtime).ok_or_else(|| invalid("invalid time"))?,
            device: (
                device(ustar.map(|h| &h.dev_major).or(gnu.map(|h| &h.dev_major)))?,
                device(ustar.map(|h| &h.dev_minor).or(gnu.map(|h| &h.dev_minor)))?,
            ),
            xattrs: Vec::new(),
            is_sparse: false,
        };
        let mut owner = (unsigned(&old.uid), unsigned(&old.gid));
        let mut holes = sparse::Records::default();
        if let Some(pax) = &self.pax {
            apply_pax(pax, &mut member, &mut owner, &mut holes, limits).map_err(
                |error| match error {
                    PaxError::Invalid(reason) => invalid(reason),
                    PaxError::Refused(error) => error,
                },
            )?;
        }
        member.uid = owner
            .0
            .and_then(id)
            .ok_or_else(|| invalid("invalid user id"))?;
        member.gid = owner
            .1
            .and_then(id)
            .ok_or_else(|| invalid("invalid group id"))?;
        // Go lets these win over PAX.
        member.name = self.name.unwrap_or(member.name);
        member.link = self.link.unwrap_or(member.link);
        member.name = holes.name.take().unwrap_or(member.name);
        member.old_directory = old.linkflag == [0] && member.name.ends_with(b"/");
        let form = holes.form().map_err(invalid)?;
        Ok((member, form))
    }
}

/// What is wrong with a file with holes.
enum SparseError {
    Invalid(&'static str),
    Read(LayerError),
}

impl From<&'static str> for SparseError {
    fn from(reason: &'static str) -> Self {
        Self::Invalid(reason)
    }
}

impl From<LayerError> for SparseError {
    fn from(error: LayerError) -> Self {
        Self::Read(error)
    }
}

enum PaxError {
    Invalid(&'static str),
    Refused(LayerError),
}

fn apply_pax(
    records: &[u8],
    member: &mut RawMember,
    owner: &mut (Option<u64>, Option<u64>),
    holes: &mut sparse::Records,
    limits: &Limits,
) -> Result<(), PaxError> {
    let invalid = PaxError::Invalid;
    for record in pax::records(records) {
        let (key, value) = record.map_err(invalid)?;
        if let Some(name) = key.strip_prefix(pax::XATTR) {
            member.xattrs.retain(|(known, _)| known != name);
            member.xattrs.push((name.to_vec(), value.to_vec()));
            continue;
        }
        if let Some(key) = key.strip_prefix(pax::GNU_SPARSE) {
            holes.add(key, value).map_err(invalid)?;
            continue;
        }
        // An empty value keeps what the header says.
        match key {
            _ if value.is_empty() => {}
            pax::PATH => member.name = value.to_vec(),
            pax::LINKPATH => member.link = value.to_vec(),
            pax::SIZE => member.size = pax::decimal(value).ok_or(invalid("invalid PAX size"))?,
            pax::UID => owner.0 = pax::decimal(value),
            pax::GID => owner.1 = pax::decimal(value),
            pax::MTIME => member.mtime = pax::seconds(value).ok_or(invalid("invalid PAX mtime"))?,
            _ => {}
        }
    }
    member.xattrs.sort();
    if member
        .xattrs
        .iter()
        .map(|(n, v)| n.len() + v.len())
        .sum::<usize>()
        > limits.xattr_bytes
    {
        let limit = limits.xattr_bytes as u64;
        return Err(PaxError::Refused(LayerError::Limit {
            what: "bytes of extended attributes of one entry",
            limit,
        }));
    }
    Ok(())
}

/// A user, group or device number; the highest means «no id» to Linux.
fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}

const fn archive(offset: u64, reason: &'static str) -> LayerError {
    LayerError::Archive { offset, reason }
}

/// Sum of the header's bytes with the checksum field as spaces; as signed bytes in some old tars.
fn checksum_is_good(header: &Header) -> bool {
    let Some(expected) = signed(&header.as_old().cksum) else {
        return false;
    };
    let bytes = header.as_bytes();
    let rest = || bytes[..148].iter().chain(&bytes[156..]);
    let unsigned_sum: i64 = 8 * 32 + rest().map(|b| i64::from(*b)).sum::<i64>();
    let signed_sum: i64 = 8 * 32 + rest().map(|b| i64::from(b.cast_signed())).sum::<i64>();
    expected == unsigned_sum || expected == signed_sum
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|b| *b == 0).next().unwrap_or(text)
}

fn unsigned(field: &[u8]) -> Option<u64> {
    signed(field).and_then(|n| u64::try_from(n).ok())
}

/// Octal digits between spaces and NULs, nothing for 0; or, when the first bit is set, a two's
/// complement binary number (GNU).
fn signed(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative { first } else { first & 0x7f };
        let number = field[1..]
            .iter()
            .fold(i128::from(start.cast_signed()), |n, b| {
                // Saturates: no field is long enough to lose its sign before it fails to fit below.
                n.saturating_mul(256).saturating_add(i128::from(*b))
            });
        return i64::try_from(number).ok();
    }
    let text = field.trim_with(|b| matches!(b, b' ' | 0));
    let text = std::str::from_utf8(until_nul(text)).ok()?;
    if text.is_empty() {
        return Some(0);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    i64::from_str_radix(text, 8).ok()
}

trait Trim {
    fn trim_with(&self, drop: impl Fn(u8) -> bool) -> &[u8];
}

impl Trim for [u8] {
    fn trim_with(&self, drop: impl Fn(u8) -> bool) -> &[u8] {
        let start = self.iter().position(|b| !drop(*b)).unwrap_or(self.len());
        let end = self
            .iter()
            .rposition(|b| !drop(*b))
            .map_or(start, |at| at + 1);
        &self[start..end]
    }
}
