//! `COPY`, `ADD` and `WORKDIR` on data: from trees of files and the layers below to the items of a
//! new layer, without mounting, writing or running anything. Read [`select`] and [`plan_copy`]
//! first.

mod apply;
mod archive;
mod dest;
mod error;
mod key;
mod mode;
mod select;
mod similar;
mod stage;
mod tempfiles;
#[cfg(test)]
mod tests;
mod tree;
pub mod users;
mod workdir;

use graph::op;
use store::content::{Content, Item};
use store::tree::ContentHash;
use store::view::View;

use self::dest::Destination;

pub use archive::{ArchiveError, Limits, TempFiles};
pub use error::{CopyError, NotFound};
pub use key::ContentKey;
pub use mode::{Chmod, ChmodError};
pub use select::{Selection, select};
pub use stage::StageTree;
pub use tempfiles::AnonymousFiles;
pub use tree::{
    FileFacts, IgnoreRule, LayerFiles, LinkId, Node, NodeKind, Tree, TreeError, Xattrs,
};
pub use users::{Identity, ImageUsers, Owner, Ownership, Unknown, UserError, UserLookup};
pub use workdir::plan_workdir;

/// What one of the sources of an operation is taken from.
#[derive(Clone)]
pub enum Source<'a> {
    /// A context, a stage, an image, a checked out repository.
    Tree(&'a dyn Tree),
    /// A single file: a download.
    File(GivenFile),
    /// For [`op::CopySource::Inline`], which brings its content.
    Inline,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tree(tree) => f.debug_tuple("Tree").field(&tree.name()).finish(),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Inline => f.write_str("Inline"),
        }
    }
}

/// A file that is in no tree; its owner is 0:0.
#[derive(Debug, Clone)]
pub struct GivenFile {
    pub content: Content,
    /// Bytes.
    pub size: u64,
    pub hash: ContentHash,
    /// 0600 for downloads (rule D12).
    pub mode: u32,
    /// Seconds since 1970: `Last-Modified` (rule D13); `None` for the operation's epoch.
    pub mtime: Option<i64>,
}

/// What unpacking archives needs.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    pub temp: &'a dyn TempFiles,
    /// Files of the destination, which archives may have further names for.
    pub below: &'a dyn LayerFiles,
    pub limits: Limits,
}

impl std::fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What is enough for anything but an attack: 100 GiB of plain archive (rule D22), otherwise the
/// limits of layers.
#[must_use]
pub fn archive_limits() -> Limits {
    Limits {
        archive_bytes: 100 << 30,
        ..Limits::default()
    }
}

/// A layer to be made.
#[derive(Debug, Default)]
pub struct Planned {
    /// Sorted by path, each after its parent directories; may be empty.
    pub items: Vec<Item>,
    /// Whole sentences, for people.
    pub warnings: Vec<String>,
}

/// Whether the result is independent of the tree below, so that `dest` and `users` are not looked
/// at (rule C34): `--link`, unless `--chmod` takes it back (rule C35).
#[must_use]
pub fn is_linked(op: &op::Copy) -> bool {
    op.link && op.chmod.is_none()
}

/// The layer that an operation makes of the selected sources on top of `dest`.
///
/// It holds what differs from `dest` (rules L03-L05), so it may be empty. Times: files from
/// contexts, heredocs and all directories made on the way get the epoch of the operation, others
/// keep theirs, and a directory that exists takes that of the source directory (rule C07).
///
/// # Errors
/// [`CopyError`]; nothing has been changed then.
pub fn plan_copy(
    op: &op::Copy,
    selection: &Selection<'_>,
    dest: &View,
    users: &dyn UserLookup,
    means: Means<'_>,
) -> Result<Planned, CopyError> {
    let nothing = View::default();
    let (dest, users) = if is_linked(op) {
        (&nothing, &users::NumbersOnly as &dyn UserLookup)
    } else {
        (dest, users)
    };
    let chown = |spec| users.owner(spec, Unknown::Refused);
    let owner = op.chown.as_deref().map(chown).transpose()?;
    let owner = owner.map(|made| made.owner);
    let chmod = op.chmod.as_deref().map(Chmod::parse).transpose()?;
    let mut destination = Destination::new(dest);
    let mut copier = apply::Copier {
        op,
        destination: &mut destination,
        owner,
        chmod,
        means,
        warnings: Vec::new(),
        renamed: None,
    };
    for found in &selection.matches {
        copier.place(found)?;
    }
    let warnings = copier.warnings;
    Ok(Planned {
        items: destination.into_items(),
        warnings,
    })
}
