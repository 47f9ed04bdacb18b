//! A local directory as a source of `COPY`: read only where something is selected, filtered by its
//! ignore file, never left through a symlink.
//!
//! Owners become 0:0 and times the operation's epoch; modes stay as they are on disk, set-id bits
//! included (rules C09, C11, C12). Sockets are empty files (rule C13).

mod ahead;
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
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use rustix::io::Errno;
use store::content::Content;

use self::disk::{Disk, Seen};
use self::ignore::Ignore;
use self::kept::Holders;
use self::listings::{Child, Children, Listings, Spot, split};
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
    listings: Listings,
    holders: Holders,
    /// Directories of which all is read, by who comes first; the others wait.
    read_below: Mutex<HashMap<Vec<u8>, Arc<OnceLock<()>>>>,
    changed: AtomicBool,
}

/// A directory, opened, with names in it that may be visible.
struct Unlisted {
    opened: OwnedFd,
    names: Vec<Name>,
}

struct Name {
    name: Vec<u8>,
    ignored: bool,
}

impl Unlisted {
    /// What has those names now.
    fn look(&self, names: &[Name]) -> io::Result<Vec<Child>> {
        let mut children = Vec::with_capacity(names.len());
        for Name { name, ignored } in names {
            match disk::describe(&self.opened, name) {
                Ok(found) => children.push(Child::new(name.clone(), found, *ignored)),
                // Gone meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(children)
    }
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
            listings: Listings::default(),
            holders: Holders::default(),
            read_below: Mutex::default(),
            changed: AtomicBool::new(false),
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

    /// A file did not have the content any more that it was hashed with.
    pub fn note_change(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Whether somebody noted a change.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    fn failed(&self, action: &'static str, path: &[u8], source: io::Error) -> TreeError {
        TreeError::Io {
            tree: self.name.clone(),
            action,
            path: path.to_vec(),
            source,
        }
    }

    fn is_ignored(&self, path: &[u8]) -> bool {
        let ignore = self.ignore.as_ref();
        ignore.is_some_and(|ignore| ignore.matches(path))
    }

    /// Whether the ignore file lets `path` be seen: a directory it names is there nevertheless if
    /// a `!` rule brings back something in it (rules I04, I05).
    fn is_visible(&self, path: &[u8], node: &Node, ignored: bool) -> Result<bool, TreeError> {
        let Some(ignore) = self.ignore.as_ref().filter(|_| ignored) else {
            return Ok(true);
        };
        if !node.is_directory() || !ignore.may_return_below(path) {
            return Ok(false);
        }
        ignore.remember(path, || self.has_visible_child(path))
    }

    fn has_visible_child(&self, path: &[u8]) -> Result<bool, TreeError> {
        for child in self.list(path)?.iter() {
            if self.is_visible(&join(path, &child.name), &child.node, child.ignored)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The names in a directory without what is ignored for certain, which is not even looked at.
    fn names(&self, path: &[u8]) -> io::Result<Unlisted> {
        let opened = self.disk.open_directory(path)?;
        let mut names = Vec::new();
        for name in disk::names(&opened)? {
            let mut ignored = false;
            if let Some(ignore) = &self.ignore {
                let child = join(path, &name);
                ignored = ignore.matches(&child);
                if ignored && !ignore.may_return_below(&child) {
                    continue;
                }
            }
            names.push(Name { name, ignored });
        }
        Ok(Unlisted { opened, names })
    }

    fn list(&self, path: &[u8]) -> Result<Children, TreeError> {
        if let Some(children) = self.listings.get(path) {
            return Ok(children);
        }
        let unlisted = self.names(path);
        let children = unlisted.and_then(|unlisted| unlisted.look(&unlisted.names));
        let children = children.map_err(|e| self.failed("list", path, e))?;
        Ok(self.listings.put(path.to_vec(), children.into()))
    }

    /// What is known of `files`, found out where nothing is.
    fn spots(&self, files: &[&[u8]]) -> Result<Vec<Spot>, TreeError> {
        let known = self.listings.find(files).into_iter().zip(files);
        let spots = known.map(|(spot, path)| match spot {
            Some(spot) => Ok(spot),
            None => self.single(path).map_err(|e| self.failed("read", path, e)),
        });
        spots.collect()
    }

    fn single(&self, path: &[u8]) -> io::Result<Spot> {
        let found = self.disk.node(path)?.ok_or(io::ErrorKind::NotFound)?;
        let child = Child::new(split(path).1.to_vec(), found, self.is_ignored(path));
        Ok(self.listings.put_single(path, child))
    }
}

impl Tree for ContextTree {
    fn name(&self) -> &str {
        &self.name
    }

    fn node(&self, path: &[u8]) -> Result<Option<Node>, TreeError> {
        let ignored = self.is_ignored(path);
        if let Some(ignore) = &self.ignore
            && ignored
            && !ignore.may_return_below(path)
        {
            return Ok(None);
        }
        let found = self.disk.node(path);
        let Some(found) = found.map_err(|e| self.failed("stat", path, e))? else {
            return Ok(None);
        };
        Ok(self
            .is_visible(path, &found.node, ignored)?
            .then_some(found.node))
    }

    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Node)>, TreeError> {
        let children = self.list(path)?;
        let mut visible = Vec::with_capacity(children.len());
        for Child {
            name,
            node,
            ignored,
            ..
        } in children.iter()
        {
            if !ignored || self.is_visible(&join(path, name), node, true)? {
                visible.push((name.clone(), node.clone()));
            }
        }
        Ok(visible)
    }

    fn will_read_below(&self, path: &[u8]) {
        let once = {
            let known = self.read_below.lock();
            let mut known = known.unwrap_or_else(PoisonError::into_inner);
            known.entry(path.to_vec()).or_default().clone()
        };
        once.get_or_init(|| {
            // Who read a directory above has kept what is in it.
            if self.listings.get(path).is_none() {
                self.holders.release();
            }
            ahead::read_below(self, path);
        });
    }

    fn read(&self, files: &[&[u8]]) -> Result<Vec<FileFacts>, TreeError> {
        let spots = self.spots(files)?;
        let unknown = spots.iter().map(|spot| &**spot);
        let missing = self
            .hashes
            .missing(unknown.filter(|c| c.hash.get().is_none()));
        if !missing.is_empty() {
            self.holders.release();
            let wanted = files.iter().copied().zip(&spots);
            let wanted: Vec<_> = wanted.filter(|(_, s)| s.hash.get().is_none()).collect();
            for (_, spot) in &wanted {
                self.holders.add(spot.among());
            }
            hash::read_files(&self.disk, &self.hashes, &wanted)
                .map_err(|(path, source)| self.failed("read", &path, source))?;
        }
        let facts = spots
            .iter()
            .zip(files)
            .map(|(spot, path)| match spot.hash.get() {
                Some(hash) => Ok(FileFacts {
                    hash: *hash,
                    xattrs: Vec::new(),
                }),
                None => Err(self.failed("read", path, io::ErrorKind::InvalidInput.into())),
            });
        facts.collect()
    }

    fn content(&self, path: &[u8]) -> Result<Content, TreeError> {
        let spot = self.listings.find(&[path]).pop().flatten();
        if let Some(spot) = spot {
            if let Some(Seen::Socket) = spot.seen {
                return Ok(Content::Bytes(Bytes::new()));
            }
            if let (Some(bytes), Some(hash)) = (spot.kept.take(), spot.hash.get()) {
                return Ok(Content::Hashed { bytes, hash: *hash });
            }
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
