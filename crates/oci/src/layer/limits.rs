//! What a layer may hold. A layer that exceeds a limit is refused, by the reader and the writer
//! alike, so that none is made that cannot be read back.

/// Bounds for reading an archive, whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of entries; every one costs memory.
    pub entries: usize,
    /// Bytes of the uncompressed archive.
    pub archive_bytes: u64,
    /// Bytes of a path or link target; 4096 is Linux's `PATH_MAX`.
    pub path_bytes: usize,
    /// Bytes of all extended attributes of one entry, names included.
    pub xattr_bytes: usize,
}

impl Limits {
    /// Bytes of one component of a path (Linux's `NAME_MAX`).
    pub const NAME_BYTES: usize = 255;
    /// Bytes of one extended header; Go's archive/tar has the same limit.
    pub const EXTENDED_HEADER_BYTES: u64 = 1 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            archive_bytes: 1 << 40,
            path_bytes: 4096,
            xattr_bytes: 256 << 10,
        }
    }
}
