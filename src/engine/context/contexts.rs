//! All local directories of one build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{ContextError, ContextOptions, ContextTree, IgnoreFile};

/// The main context and the named ones that are local directories.
#[derive(Debug)]
pub struct Contexts {
    cache: PathBuf,
    trees: BTreeMap<String, ContextTree>,
}

/// An operation names a context that nobody gave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no build context named {name:?} was given")]
pub struct UnknownContext {
    pub name: String,
}

impl Contexts {
    /// `cache`: see [`ContextOptions::cache`].
    #[must_use]
    pub fn new(cache: PathBuf) -> Self {
        Self {
            cache,
            trees: BTreeMap::new(),
        }
    }

    /// # Errors
    /// [`ContextError`].
    pub fn add(
        &mut self,
        name: &str,
        directory: &Path,
        ignore: Option<IgnoreFile>,
    ) -> Result<(), ContextError> {
        let shown = match name {
            graph::op::MAIN_CONTEXT => "the build context".to_owned(),
            _ => format!("the build context {name:?}"),
        };
        let tree = ContextTree::open(ContextOptions {
            name: shown,
            directory: directory.to_owned(),
            ignore,
            cache: Some(self.cache.clone()),
        })?;
        self.trees.insert(name.to_owned(), tree);
        Ok(())
    }

    /// # Errors
    /// [`UnknownContext`].
    pub fn tree(&self, name: &str) -> Result<&ContextTree, UnknownContext> {
        self.trees.get(name).ok_or_else(|| UnknownContext {
            name: name.to_owned(),
        })
    }
}
