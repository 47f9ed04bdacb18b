//! Where `COPY` takes files from, whatever that is: a local directory or the merged layers of a
//! stage.

use store::content::Content;
use store::tree::ContentHash;
use store::view::{Resolved, Step, TooManyLinks, resolve_with};

/// A tree of files that can be read piece by piece; nothing is looked at that nobody asks for.
///
/// Paths are relative to the root, clean, `""` for the root itself, and never pass through a
/// symlink: callers resolve first ([`resolve`]).
pub trait Tree {
    /// What people know it as: `build context`, `stage builder`.
    fn name(&self) -> &str;

    /// What is at `path`, symlinks not followed; `None` when there is nothing or it is hidden.
    ///
    /// # Errors
    /// [`TreeError::Io`] when the file system refuses.
    fn node(&self, path: &[u8]) -> Result<Option<Node>, TreeError>;

    /// Names and nodes in a directory, sorted by name.
    ///
    /// # Errors
    /// [`TreeError::Io`] when the file system refuses.
    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Node)>, TreeError>;

    /// Tells that all that is visible below the directory `path` will be asked for, and its files
    /// read: it may be made ready together. What goes wrong will be told when it is asked for.
    fn will_read_below(&self, _path: &[u8]) {}

    /// Hash and extended attributes of regular files, in the order of `files`.
    ///
    /// # Errors
    /// [`TreeError::Io`] when one of them cannot be read.
    fn read(&self, files: &[&[u8]]) -> Result<Vec<FileFacts>, TreeError>;

    /// Where the bytes of the regular file at `path` are.
    ///
    /// # Errors
    /// [`TreeError::Io`] when they are nowhere.
    fn content(&self, path: &[u8]) -> Result<Content, TreeError>;

    /// The ignore rule that hides `path`, if one does.
    fn hidden_by(&self, _path: &[u8]) -> Option<IgnoreRule> {
        None
    }
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: NodeKind,
    /// 07777 bits; 0777 for symlinks.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970; `None`: of no interest, the operation's epoch is taken.
    pub mtime: Option<i64>,
    /// Of everything but regular files, for which [`Tree::read`] tells.
    pub xattrs: Xattrs,
    /// The same for all names of one file; only for files that may have several.
    pub link: Option<LinkId>,
}

/// Name and value, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    Directory,
    File { size: u64 },
    Symlink { target: Vec<u8> },
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

impl Node {
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind == NodeKind::Directory
    }

    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.kind, NodeKind::File { .. })
    }
}

/// Which file it is (rule C15).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LinkId {
    Inode { device: u64, inode: u64 },
    Layered { layer: usize, path: Vec<u8> },
}

/// What reading a regular file told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    pub hash: ContentHash,
    pub xattrs: Xattrs,
}

/// A line of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreRule {
    /// Name of the file, as people know it.
    pub file: String,
    /// 1-based.
    pub line: u32,
    pub pattern: String,
}

/// Opens files of layers.
pub trait LayerFiles: Send + Sync {
    /// The bytes of the regular file (not a hard link) at `path` of layer number `layer` of the
    /// view that the path was found in.
    ///
    /// # Errors
    /// When the layer or the file is not there.
    fn content(&self, layer: usize, path: &[u8]) -> std::io::Result<Content>;
}

/// # Errors
/// [`TreeError`] when the file system refuses or links run in circles.
pub(super) fn resolve(
    tree: &dyn Tree,
    path: &[u8],
    follow_last: bool,
) -> Result<Resolved, TreeError> {
    resolve_with(path, follow_last, |path| {
        Ok(match tree.node(path)?.map(|node| node.kind) {
            None => Step::Missing,
            Some(NodeKind::Symlink { target }) => Step::Symlink(target),
            Some(_) => Step::Other,
        })
    })
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    #[error("{tree}: {action} /{}", String::from_utf8_lossy(.path))]
    Io {
        tree: String,
        action: &'static str,
        path: Vec<u8>,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Links(#[from] TooManyLinks),
}
