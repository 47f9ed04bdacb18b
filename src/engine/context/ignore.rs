//! The ignore file of a context.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dockerfile::ignore::{IgnoreError, Match, ParentMatches, Patterns};

use crate::engine::copy::{IgnoreRule, TreeError};

/// An ignore file and the name people know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreFile {
    pub name: String,
    pub text: String,
}

/// Rule I03.
#[derive(Debug, thiserror::Error)]
#[error("{file}")]
pub struct PatternError {
    pub file: String,
    #[source]
    pub source: IgnoreError,
}

#[derive(Debug)]
pub(super) struct Ignore {
    file: String,
    patterns: Patterns,
    /// Directories: what their entries need to know of them.
    parents: Mutex<HashMap<String, Arc<ParentMatches>>>,
    /// Ignored directories: whether something in them is not.
    returned: Mutex<HashMap<Vec<u8>, bool>>,
}

impl Ignore {
    pub(super) fn new(file: IgnoreFile) -> Result<Self, PatternError> {
        let IgnoreFile { name, text } = file;
        match Patterns::parse(&text) {
            Ok(patterns) => Ok(Self {
                file: name,
                patterns,
                parents: Mutex::default(),
                returned: Mutex::default(),
            }),
            Err(source) => Err(PatternError { file: name, source }),
        }
    }

    /// Whether a rule for `path` or a directory above it has the last word and no `!` (rules
    /// I04, I05). The root is never ignored (rule I08).
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        !path.is_empty() && self.result(&String::from_utf8_lossy(path)).matched
    }

    /// As in a walk from the root, which BuildKit does: a `!` rule that found nothing to take back
    /// at a directory does not count for the directory's entries.
    fn result(&self, path: &str) -> Match {
        let known = || self.parents.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parent = Arc::new(self.patterns.root());
        for (end, _) in path.match_indices('/') {
            let directory = &path[..end];
            let found = known().get(directory).cloned();
            parent = found.unwrap_or_else(|| {
                let made = Arc::new(self.patterns.matches(directory, &parent).for_entries);
                known().insert(directory.to_owned(), Arc::clone(&made));
                made
            });
        }
        self.patterns.matches(path, &parent)
    }

    /// Whether a `!` rule may bring back something below an ignored directory.
    pub(super) fn may_return_below(&self, path: &[u8]) -> bool {
        self.patterns.has_exceptions()
            && self
                .patterns
                .may_contain_reincluded(&String::from_utf8_lossy(path))
    }

    /// `find`, asked once for each path.
    pub(super) fn remember(
        &self,
        path: &[u8],
        find: impl FnOnce() -> Result<bool, TreeError>,
    ) -> Result<bool, TreeError> {
        let known = || self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(path) {
            return Ok(*found);
        }
        let found = find()?;
        known().insert(path.to_vec(), found);
        Ok(found)
    }

    /// The rule that hides `path`.
    pub(super) fn rule(&self, path: &[u8]) -> Option<IgnoreRule> {
        let found = self.result(&String::from_utf8_lossy(path));
        let rule = self
            .patterns
            .rules()
            .get(found.rule.filter(|_| found.matched)?)?;
        let (file, pattern) = (self.file.clone(), rule.text.clone());
        Some(IgnoreRule {
            file,
            line: rule.line,
            pattern,
        })
    }
}
