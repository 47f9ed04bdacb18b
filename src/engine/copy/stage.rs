//! The layers of a stage or image as a source.

use store::content::Content;
use store::tree::Kind;
use store::view::{Found, View};

use super::tree::{FileFacts, LayerFiles, LinkId, Node, NodeKind, Tree, TreeError};

/// Layers to copy from.
pub struct StageTree<'a> {
    name: String,
    view: &'a View,
    files: &'a dyn LayerFiles,
}

impl std::fmt::Debug for StageTree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StageTree")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> StageTree<'a> {
    /// `name`: what people know it as, for messages.
    pub fn new(name: impl Into<String>, view: &'a View, files: &'a dyn LayerFiles) -> Self {
        Self {
            name: name.into(),
            view,
            files,
        }
    }

    fn file(&self, path: &[u8]) -> Result<Found<'_>, TreeError> {
        let file = self
            .view
            .lookup(path)
            .and_then(|found| self.view.file_of(found));
        file.ok_or_else(|| self.failed(path, std::io::ErrorKind::NotFound.into()))
    }

    fn failed(&self, path: &[u8], source: std::io::Error) -> TreeError {
        TreeError::Io {
            tree: self.name.clone(),
            action: "read",
            path: path.to_vec(),
            source,
        }
    }

    fn describe(&self, path: &[u8], found: Found<'_>) -> Result<Node, TreeError> {
        let damaged = || self.failed(path, std::io::Error::other("hard link to nothing"));
        let Found { entry, layer } = self.view.file_of(found).ok_or_else(damaged)?;
        let kind = match &entry.kind {
            Kind::Directory { .. } => NodeKind::Directory,
            Kind::File { size, .. } => NodeKind::File { size: *size },
            Kind::Symlink { target } => NodeKind::Symlink {
                target: target.clone(),
            },
            &Kind::CharDevice { major, minor } => NodeKind::CharDevice { major, minor },
            &Kind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
            Kind::Fifo => NodeKind::Fifo,
            Kind::HardLink { .. } | Kind::Whiteout => return Err(damaged()),
        };
        let is_file = matches!(kind, NodeKind::File { .. });
        Ok(Node {
            mode: if matches!(kind, NodeKind::Symlink { .. }) {
                0o777
            } else {
                entry.mode
            },
            uid: entry.uid,
            gid: entry.gid,
            mtime: Some(entry.mtime),
            xattrs: if is_file {
                Vec::new()
            } else {
                entry.xattrs.clone()
            },
            link: is_file.then(|| LinkId::Layered {
                layer,
                path: entry.path.clone(),
            }),
            kind,
        })
    }
}

impl Tree for StageTree<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn node(&self, path: &[u8]) -> Result<Option<Node>, TreeError> {
        self.view
            .lookup(path)
            .map(|found| self.describe(path, found))
            .transpose()
    }

    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Node)>, TreeError> {
        let children = self.view.children(path).into_iter();
        children
            .map(|v| Ok((v.name().to_vec(), self.describe(v.path, v.found)?)))
            .collect()
    }

    fn read(&self, files: &[&[u8]]) -> Result<Vec<FileFacts>, TreeError> {
        let facts = |path: &&[u8]| {
            let entry = &self.file(path)?.entry;
            let Kind::File { hash, .. } = entry.kind else {
                return Err(self.failed(path, std::io::ErrorKind::InvalidInput.into()));
            };
            Ok(FileFacts {
                hash,
                xattrs: entry.xattrs.clone(),
            })
        };
        files.iter().map(facts).collect()
    }

    fn content(&self, path: &[u8]) -> Result<Content, TreeError> {
        let file = self.file(path)?;
        let content = self.files.content(file.layer, &file.entry.path);
        content.map_err(|source| self.failed(path, source))
    }
}
