//! A local directory as a source of `COPY`: read only where something is selected, filtered by its
//! ignore file, never left through a symlink.
//!
//! Owners become 0:0 and times the operation's epoch; modes stay as they are on disk, set-id bits
//! included (rules C09, C11, C12). Sockets are empty files (rule C13).

mod contexts;
mod disk;
mod hash;
mod ignore;
mod kept;
mod listings;
mod statcache;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::content::Content;

use self::disk::{Disk, Seen};
use self::ignore::Ignore;
use self::kept::KeptFiles;
use self::listings::{Children, Listings};
use self::statcache::StatCache;
use crate::engine::copy::{FileFacts, IgnoreRule, Node, Tree, TreeError};

pub use self::contexts::{Contexts, UnknownContext};
pub use self::ignore::{IgnoreFile, PatternError};

/// Which directory, and what of it.
#[derive(Debug, Clone)]
pub struct ContextOptions {
    /// What people know it as, for messages: `build context`.
    pub name: String,
    pub directory: PathBuf,
    /// The ignore file in force (rules I01, I10).
    pub ignore: Option<IgnoreFile>,
    /// Where hashes of files are remembered from one build to the next; must exist. `None`: they
    /// are not.
    pub cache: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    #[error("open {name} {directory:?}")]
    Open {
        name: String,
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Rule I03.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// See the module.
#[derive(Debug)]
pub struct ContextTree {
    name: String,
    disk: Disk,
    ignore: Option<Ignore>,
    hashes: StatCache,
    kept: KeptFiles,
    listings: Listings,
    /// Files found so far.
    seen: Mutex<HashMap<Vec<u8>, Seen>>,
}

impl ContextTree {
    /// # Errors
    /// [`ContextError`], when the directory cannot be opened or the ignore file is malformed.
    pub fn open(options: ContextOptions) -> Result<Self, ContextError> {
        let ContextOptions {
            name,
            directory,
            ignore,
            cache,
        } = options;
        let ignore = ignore.map(Ignore::new).transpose()?;
        let disk = Disk::open(&directory);
        let disk = disk.map_err(|source| ContextError::Open {
            name: name.clone(),
            directory,
            source,
        })?;
        let hashes = match cache {
            Some(cache) => StatCache::load(&cache, disk.identity()),
            None => StatCache::none(),
        };
        Ok(Self {
            name,
            disk,
            ignore,
            hashes,
            kept: KeptFiles::default(),
            listings: Listings::default(),
            seen: Mutex::default(),
        })
    }

    /// Writes the remembered hashes, if there are new ones. Also done, errors ignored, when the
    /// tree is dropped.
    ///
    /// # Errors
    /// What writing fails with; the build can go on without.
    pub fn save(&self) -> io::Result<()> {
        self.hashes.save()
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str, path: &[u8], source: io::Error) -> TreeError {
        TreeError::Io {
            tree: self.name.clone(),
            action,
            path: path.to_vec(),
            source,
        }
    }

    /// Whether the ignore file lets `path` be seen: a directory it names is there nevertheless if
    /// a `!` rule brings back something in it (rules I04, I05).
    fn is_visible(&self, path: &[u8], node: &Node) -> Result<bool, TreeError> {
        let Some(ignore) = &self.ignore else {
            return Ok(true);
        };
        if path.is_empty() || !ignore.matches(path) {
            return Ok(true);
        }
        if !node.is_directory() || !ignore.may_return_below(path) {
            return Ok(false);
        }
        ignore.remember(path, || self.has_visible_child(path))
    }

    fn has_visible_child(&self, path: &[u8]) -> Result<bool, TreeError> {
        for (name, node) in self.list(path)?.iter() {
            if self.is_visible(&join(path, name), node)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The directory without what is ignored for certain, which is not even looked at.
    fn list(&self, path: &[u8]) -> Result<Children, TreeError> {
        if let Some(children) = self.listings.get(path) {
            return Ok(children);
        }
        let wanted = |name: &[u8]| {
            let Some(ignore) = &self.ignore else {
                return true;
            };
            let child = join(path, name);
            !ignore.matches(&child) || ignore.may_return_below(&child)
        };
        let found = self
            .disk
            .list(path, wanted)
            .map_err(|e| self.failed("list", path, e))?;
        let mut seen = self.seen();
        let mut children = Vec::with_capacity(found.len());
        for disk::Child {
            name,
            node,
            seen: what,
        } in found
        {
            if let Some(what) = what {
                seen.insert(join(path, &name), what);
            }
            children.push((name, node));
        }
        drop(seen);
        Ok(self.listings.put(path, children.into()))
    }
}

impl Tree for ContextTree {
    fn name(&self) -> &str {
        &self.name
    }

    fn node(&self, path: &[u8]) -> Result<Option<Node>, TreeError> {
        if let Some(ignore) = &self.ignore
            && ignore.matches(path)
            && !ignore.may_return_below(path)
        {
            return Ok(None);
        }
        let found = self
            .disk
            .node(path)
            .map_err(|e| self.failed("stat", path, e))?;
        let Some(disk::Found { node, seen }) = found else {
            return Ok(None);
        };
        if !self.is_visible(path, &node)? {
            return Ok(None);
        }
        if let Some(seen) = seen {
            self.seen().insert(path.to_vec(), seen);
        }
        Ok(Some(node))
    }

    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Node)>, TreeError> {
        let mut visible = Vec::new();
        for (name, node) in self.list(path)?.iter() {
            if self.is_visible(&join(path, name), node)? {
                visible.push((name.clone(), node.clone()));
            }
        }
        Ok(visible)
    }

    fn read(&self, files: &[&[u8]]) -> Result<Vec<FileFacts>, TreeError> {
        hash::read_files(&self.disk, &self.hashes, &self.kept, &self.seen(), files)
            .map_err(|(path, source)| self.failed("read", &path, source))
    }

    fn content(&self, path: &[u8]) -> Result<Content, TreeError> {
        if let Some(Seen::Socket) = self.seen().get(path) {
            return Ok(Content::Bytes(Arc::from(&[][..])));
        }
        if let Some(content) = self.kept.take(path) {
            return Ok(content);
        }
        Ok(Content::Beneath {
            root: self.disk.root(),
            path: path.to_vec(),
        })
    }

    fn hidden_by(&self, path: &[u8]) -> Option<IgnoreRule> {
        let rule = self.ignore.as_ref()?.rule(path)?;
        // Only what is really there is hidden.
        self.disk.node(path).ok().flatten().map(|_| rule)
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/", name].concat()
    }
}
