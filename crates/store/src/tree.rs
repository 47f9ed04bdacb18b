//! What a layer contains, as data: a sorted list of entries that can be searched, merged with
//! other layers ([`crate::view`]) and compared without touching the files themselves.

use std::cmp::Ordering;

/// BLAKE3 of a regular file's bytes. Internal: it never appears in an image.
pub type ContentHash = [u8; 32];

/// One name in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root: no leading or trailing `/`, no `.` or `..`. Bytes, not UTF-8.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (07777); 0 for whiteouts.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Whole seconds since 1970 (rule L02).
    pub mtime: i64,
    /// Sorted by name; what is kept is decided where layers are made (rule L12).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `opaque`: nothing of the layers below shows through (only in layers others made, rule L08).
    Directory {
        opaque: bool,
    },
    File {
        size: u64,
        hash: ContentHash,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// A further name of the file at `target`, a path of the same layer that sorts before it
    /// or stands earlier in the archive (rule L11).
    HardLink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// The name of the layers below is gone (rule L07); `path` is without `.wh.`.
    Whiteout,
}

/// Order of entries: by component, so that a directory comes right before all that is in it.
#[must_use]
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    // Neighbours have long names in common, which are skipped by words.
    const WORD: usize = size_of::<u64>();
    let (words_a, words_b) = (a.as_chunks::<WORD>().0, b.as_chunks::<WORD>().0);
    let same = words_a.iter().zip(words_b).take_while(|(a, b)| a == b);
    let common = same.count() * WORD;
    let (a, b) = (&a[common..], &b[common..]);
    // `/` sorts before every other byte; NUL cannot occur in a path.
    let key = |c: &u8| if *c == b'/' { 0 } else { *c };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// All entries of one layer, sorted by [`compare_paths`], each path once. The root directory
/// itself has no entry (rule L16).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Entry>,
    content_size: u64,
}

impl Index {
    /// Sorts; of two entries with one path the later one stays, as when the archive is unpacked.
    #[must_use]
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| compare_paths(&a.path, &b.path));
        let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            match kept.last_mut() {
                Some(last) if last.path == entry.path => *last = entry,
                _ => kept.push(entry),
            }
        }
        let size = |entry: &Entry| match entry.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        };
        Self {
            content_size: kept.iter().map(size).fold(0, u64::saturating_add),
            entries: kept,
        }
    }

    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all its files.
    #[must_use]
    pub const fn content_size(&self) -> u64 {
        self.content_size
    }

    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|e| compare_paths(&e.path, path))
            .ok()?;
        self.entries.get(at)
    }

    /// `path` itself (when it has an entry) and everything below it; the whole index for `""`.
    #[must_use]
    pub fn subtree(&self, path: &[u8]) -> &[Entry] {
        if path.is_empty() {
            return &self.entries;
        }
        let start = self
            .entries
            .partition_point(|e| compare_paths(&e.path, path).is_lt());
        let rest = &self.entries[start..];
        let end = rest.partition_point(|e| {
            e.path.starts_with(path) && (e.path.len() == path.len() || e.path[path.len()] == b'/')
        });
        &rest[..end]
    }
}
