use std::collections::BTreeSet;

use crate::text::quote;

/// A word that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {kind}", quote(.word))]
pub struct ExpandError {
    /// The word as written, cut when very long.
    pub word: String,
    pub kind: ExpandErrorKind,
    /// Names looked up and unset before the error.
    pub unset: BTreeSet<String>,
}

impl ExpandError {
    pub(crate) fn new(word: &str, kind: ExpandErrorKind, unset: BTreeSet<String>) -> Self {
        const SHOWN: usize = 1000;
        let word = match word.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{}…", &word[..at]),
            None => word.to_owned(),
        };
        Self { word, kind, unset }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandErrorKind {
    #[error("unexpected end of statement while looking for matching single-quote")]
    UnterminatedSingleQuote,
    #[error("unexpected end of statement while looking for matching double-quote")]
    UnterminatedDoubleQuote,
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${:x}`, `${{x}}` (rule X20).
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${v:=w}` and the like (rule X11).
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${name?message}`, `${name:?message}` (rule X09).
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}'")]
    InvalidPattern { pattern: String, escaped: String },
    #[error("substitutions are nested more than {} deep", super::MAX_NESTING)]
    TooDeep,
    #[error("the result is more than {limit} bytes longer than the text")]
    TooLong { limit: usize },
    #[error("the pattern is too expensive for a value of this length")]
    TooComplex,
}

impl ExpandErrorKind {
    /// Whether the error is a limit of this implementation, which no other error may hide.
    pub(super) fn is_limit(&self) -> bool {
        matches!(
            self,
            Self::TooDeep | Self::TooLong { .. } | Self::TooComplex
        )
    }

    /// The variable whose value is missing.
    pub fn required_name(&self) -> Option<&str> {
        match self {
            Self::Required { name, .. } => Some(name),
            _ => None,
        }
    }
}
