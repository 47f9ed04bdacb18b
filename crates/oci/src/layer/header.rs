//! One entry as tar bytes: the canonical form.
//!
//! The bytes are those Go's archive/tar writes for `Format: tar.FormatPAX`, which is what
//! containerd and BuildKit produce (rule L02; `testdata/tar/go.tar.gz`): a ustar header, preceded
//! by an extended header only when a value does not fit (a name longer than 100 bytes or not ASCII,
//! an id above 2097151, a size of 8 GiB or more, a time before 1970) or when there are extended
//! attributes.

use store::tree::{Entry, Kind};
use tar::{EntryType, Header};

use super::limits::Limits;
use super::pax;
use crate::error::{LayerError, lossy};

pub(crate) const BLOCK: usize = 512;
/// Two zero blocks end an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
pub(crate) const WHITEOUT: &[u8] = b".wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Zero bytes that fill the last block of a content of `size` bytes.
pub(crate) fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

/// Appends the headers of `entry`; its content (for a file of `size` bytes) and [`padding`] follow.
/// An opaque directory is followed by its marker, which has no content.
pub(crate) fn encode(entry: &Entry, size: u64, out: &mut Vec<u8>) -> Result<(), LayerError> {
    check(entry)?;
    let none: &[u8] = b"";
    let (kind, link, device) = match &entry.kind {
        Kind::Directory { .. } => (EntryType::Directory, none, (0, 0)),
        Kind::File { .. } => (EntryType::Regular, none, (0, 0)),
        Kind::Symlink { target } => (EntryType::Symlink, target.as_slice(), (0, 0)),
        Kind::HardLink { target } => (EntryType::Link, target.as_slice(), (0, 0)),
        Kind::CharDevice { major, minor } => (EntryType::Char, none, (*major, *minor)),
        Kind::BlockDevice { major, minor } => (EntryType::Block, none, (*major, *minor)),
        Kind::Fifo => (EntryType::Fifo, none, (0, 0)),
        Kind::Whiteout => {
            let at = entry
                .path
                .iter()
                .rposition(|b| *b == b'/')
                .map_or(0, |at| at + 1);
            let marker = [&entry.path[..at], WHITEOUT, &entry.path[at..]].concat();
            encode_marker(&marker, out);
            return Ok(());
        }
    };
    let mut name = entry.path.clone();
    if matches!(entry.kind, Kind::Directory { .. }) {
        name.push(b'/');
    }
    let fields = Fields {
        name: &name,
        link,
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size,
        mtime: entry.mtime,
        xattrs: &entry.xattrs,
        device,
    };
    fields.encode(out);
    if entry.kind == (Kind::Directory { opaque: true }) {
        encode_marker(&[&name, OPAQUE].concat(), out);
    }
    Ok(())
}

/// Refuses what no reader could read back as this entry (rule L10).
fn check(entry: &Entry) -> Result<(), LayerError> {
    let limits = Limits::default();
    let path = &entry.path;
    let refuse = |reason| {
        Err(LayerError::Path {
            path: lossy(path),
            reason,
        })
    };
    if path.is_empty()
        || path
            .split(|b| *b == b'/')
            .any(|c| matches!(c, b"" | b"." | b".."))
    {
        return refuse("not a clean relative path");
    }
    if path.contains(&0) {
        return refuse("contains a NUL byte");
    }
    if path.len() > limits.path_bytes {
        return refuse("longer than 4096 bytes");
    }
    if path.split(|b| *b == b'/').any(|c| c.starts_with(WHITEOUT)) {
        return Err(LayerError::ReservedName { path: lossy(path) });
    }
    if let Kind::Symlink { target } | Kind::HardLink { target } = &entry.kind
        && (target.is_empty() || target.contains(&0) || target.len() > limits.path_bytes)
    {
        return refuse("has a link target that is empty, longer than 4096 bytes or contains NUL");
    }
    if let Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } = &entry.kind
        && (*major > DEVICE_MAX || *minor > DEVICE_MAX)
    {
        return refuse("has a device number above 2097151");
    }
    if entry
        .xattrs
        .iter()
        .any(|(name, _)| name.is_empty() || name.iter().any(|b| b"=\0".contains(b)))
    {
        return refuse("has an extended attribute whose name is empty or contains `=`");
    }
    if entry
        .xattrs
        .iter()
        .map(|(n, v)| n.len() + v.len())
        .sum::<usize>()
        > limits.xattr_bytes
    {
        return refuse("has more than 256 KiB of extended attributes");
    }
    Ok(())
}

/// What seven octal digits hold.
const DEVICE_MAX: u32 = 0o7_777_777;

/// Whiteouts and opaque markers: empty regular files, mode 0, root's, of 1970 (rules L07, E09).
fn encode_marker(name: &[u8], out: &mut Vec<u8>) {
    let fields = Fields {
        name,
        link: b"",
        kind: EntryType::Regular,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: 0,
        xattrs: &[],
        device: (0, 0),
    };
    fields.encode(out);
}

struct Fields<'a> {
    name: &'a [u8],
    link: &'a [u8],
    kind: EntryType,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
    device: (u32, u32),
}

impl Fields<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            encode_extended(self.name, &records, out);
        }
        let mut header = Header::new_ustar();
        if let Some(ustar) = header.as_ustar_mut() {
            text(&mut ustar.name, self.name);
            octal(&mut ustar.mode, u64::from(self.mode & 0o7777));
            octal(&mut ustar.uid, u64::from(self.uid));
            octal(&mut ustar.gid, u64::from(self.gid));
            octal(&mut ustar.size, self.size);
            octal(&mut ustar.mtime, u64::try_from(self.mtime).unwrap_or(0));
            ustar.typeflag = [self.kind.as_byte()];
            text(&mut ustar.linkname, self.link);
            octal(&mut ustar.dev_major, u64::from(self.device.0));
            octal(&mut ustar.dev_minor, u64::from(self.device.1));
        }
        push_header(header, out);
    }

    /// Extended header records, sorted by key.
    fn records(&self) -> Vec<u8> {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut add = |key: &[u8], value: &[u8]| records.push((key.to_vec(), value.to_vec()));
        for (key, id) in [(pax::GID, self.gid), (pax::UID, self.uid)] {
            if !fits_octal(u64::from(id), 8) {
                add(key, id.to_string().as_bytes());
            }
        }
        for (key, value) in [(pax::LINKPATH, self.link), (pax::PATH, self.name)] {
            if value.len() > 100 || !value.is_ascii() {
                add(key, value);
            }
        }
        if !u64::try_from(self.mtime).is_ok_and(|t| fits_octal(t, 12)) {
            add(pax::MTIME, self.mtime.to_string().as_bytes());
        }
        if !fits_octal(self.size, 12) {
            add(pax::SIZE, self.size.to_string().as_bytes());
        }
        for (name, value) in self.xattrs {
            add(&[pax::XATTR, name].concat(), value);
        }
        records.sort();
        let mut out = Vec::new();
        for (key, value) in &records {
            pax::push_record(&mut out, key, value);
        }
        out
    }
}

/// The `x` member before the entry, named as Go names it.
fn encode_extended(name: &[u8], records: &[u8], out: &mut Vec<u8>) {
    let at = name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let mut extended_name = [&name[..at], b"PaxHeaders.0/", &name[at..]].concat();
    extended_name.retain(u8::is_ascii);
    extended_name.truncate(100);
    while extended_name.last() == Some(&b'/') {
        extended_name.pop();
    }
    let mut header = Header::new_ustar();
    if let Some(ustar) = header.as_ustar_mut() {
        text(&mut ustar.name, &extended_name);
        for field in [&mut ustar.mode, &mut ustar.uid, &mut ustar.gid] {
            octal(field, 0);
        }
        octal(&mut ustar.size, records.len() as u64);
        octal(&mut ustar.mtime, 0);
        ustar.typeflag = [EntryType::XHeader.as_byte()];
    }
    push_header(header, out);
    out.extend_from_slice(records);
    out.resize(out.len() + padding(records.len() as u64), 0);
}

fn push_header(mut header: Header, out: &mut Vec<u8>) {
    header.as_old_mut().cksum = *b"        ";
    let sum: u32 = header.as_bytes().iter().map(|b| u32::from(*b)).sum();
    // Six digits, NUL, space, unlike the other numbers: what every tar since V7 writes.
    octal(&mut header.as_old_mut().cksum[..7], u64::from(sum));
    out.extend_from_slice(header.as_bytes());
}

/// The ASCII part of `value`, cut to the field; readers that know PAX take the whole from there.
fn text(field: &mut [u8], value: &[u8]) {
    let mut ascii = value.iter().copied().filter(u8::is_ascii);
    // The field first: `zip` asks it before it takes a byte of the text.
    field
        .iter_mut()
        .zip(ascii.by_ref())
        .for_each(|(to, from)| *to = from);
    // Some readers take a cut name that ends in `/` for a directory.
    if ascii.next().is_some() {
        for byte in field.iter_mut().rev().take_while(|b| **b == b'/') {
            *byte = 0;
        }
    }
}

fn fits_octal(value: u64, field: u32) -> bool {
    value >> (3 * (field - 1)) == 0
}

/// Zero-padded octal digits and NUL; 0 when it does not fit, as then PAX has the value.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let mut value = if value >> (3 * digits) == 0 { value } else { 0 };
    field[digits] = 0;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}
