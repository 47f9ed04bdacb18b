//! The ignore file of a context.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use dockerfile::ignore::{IgnoreError, Patterns};

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
                returned: Mutex::default(),
            }),
            Err(source) => Err(PatternError { file: name, source }),
        }
    }

    /// Whether a rule for `path` or a directory above it has the last word and no `!` (rules
    /// I04, I05). The root is never ignored (rule I08).
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        !path.is_empty()
            && self
                .patterns
                .matches_alone(&String::from_utf8_lossy(path))
                .matched
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
        let found = self.patterns.matches_alone(&String::from_utf8_lossy(path));
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
