//! Tar archives made byte by byte, valid and otherwise.

use store::tree::{Entry, Kind};

/// An archive under construction.
#[derive(Default, Clone)]
pub(crate) struct Tarball(pub Vec<u8>);

pub(crate) const FILE: u8 = b'0';
pub(crate) const LINK: u8 = b'1';
pub(crate) const SYMLINK: u8 = b'2';
pub(crate) const CHAR: u8 = b'3';
pub(crate) const DIR: u8 = b'5';

impl Tarball {
    /// A ustar member; mode 0644 (directories 0755), owner 0:0, time 0.
    pub(crate) fn member(self, kind: u8, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        self.header(kind, name, link, content.len() as u64)
            .content(content)
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(FILE, name.as_bytes(), b"", content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.member(DIR, name.as_bytes(), b"", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.member(SYMLINK, name.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.member(LINK, name.as_bytes(), target.as_bytes(), b"")
    }

    /// An extended header with these records as they are.
    pub(crate) fn pax(self, records: &[u8]) -> Self {
        self.member(b'x', b"PaxHeaders.0/x", b"", records)
    }

    /// A header alone.
    pub(crate) fn header(mut self, kind: u8, name: &[u8], link: &[u8], size: u64) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_mode(if kind == DIR { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_entry_type(tar::EntryType::new(kind));
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    pub(crate) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// With the two blocks of zeros.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An entry as [`Tarball`]'s members are read.
pub(crate) fn entry(path: &str, kind: Kind) -> Entry {
    let mode = match kind {
        Kind::Whiteout => 0,
        Kind::Directory { .. } => 0o755,
        _ => 0o644,
    };
    Entry {
        path: path.into(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

pub(crate) fn dir(path: &str) -> Entry {
    entry(path, Kind::Directory { opaque: false })
}

pub(crate) fn file(path: &str, content: &[u8]) -> Entry {
    let hash = *blake3::hash(content).as_bytes();
    entry(
        path,
        Kind::File {
            size: content.len() as u64,
            hash,
        },
    )
}
