//! Why a file cannot be lowered.

use dockerfile::LineRange;
use dockerfile::suggest::nearest;
use thiserror::Error;

/// One reason, told as BuildKit tells it, with the place and, where there is any, advice.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct LowerError {
    pub kind: ErrorKind,
    pub message: String,
    /// What to do about it; shown on its own line.
    pub help: Option<String>,
    /// `None` when no line is to blame (`--target`, `--build-arg`).
    pub lines: Option<LineRange>,
    /// The piece of those lines that is to blame, as written.
    pub subject: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A word cannot be expanded (rules X09, X11, X20).
    Expansion,
    /// A value is not what its place asks for.
    Value,
    /// An image reference or platform that does not parse.
    Reference,
    /// `--target` or `--from` names no stage (rules S02, S09).
    UnknownStage,
    /// Rule S05.
    CircularDependency,
    /// Rule S04.
    OutOfOrder,
    /// Needs an `--allow` (rules R33, R34).
    Entitlement,
    /// Legal, but not implemented; refused by name.
    Unsupported,
    /// An ONBUILD trigger that does not parse.
    Trigger,
    /// [`crate::lower::lower`] was called before the facts were complete.
    Unresolved,
}

impl LowerError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            help: None,
            lines: None,
            subject: None,
        }
    }

    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Value, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Names the words to blame unless ones nearer to the cause are known already.
    #[must_use]
    pub(crate) fn about(mut self, subject: &str) -> Self {
        if !subject.is_empty() {
            self.subject.get_or_insert_with(|| subject.to_owned());
        }
        self
    }

    /// Sets the place unless one nearer to the cause is known already.
    #[must_use]
    pub(crate) fn at(mut self, lines: LineRange) -> Self {
        self.lines.get_or_insert(lines);
        self
    }

    /// Appends `(did you mean x?)` when one of `candidates` is close to `word` (rule P29).
    #[must_use]
    pub(crate) fn suggest<'a>(
        mut self,
        word: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        if let Some(near) = nearest(word, candidates) {
            self.message.push_str(&format!(" (did you mean {near}?)"));
        }
        self
    }
}
