//! Why a `COPY`, `ADD` or `WORKDIR` cannot be done.

use dockerfile::glob::BadPattern;
use dockerfile::ignore::IgnoreError;

use super::archive::ArchiveError;
use super::mode::ChmodError;
use super::tree::{IgnoreRule, TreeError};
use super::users::UserError;

/// A source that is not there (rules C19, I12).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} not found in {root}")]
pub struct NotFound {
    /// As written, with a leading `/`.
    pub path: String,
    /// What was searched.
    pub root: String,
    /// It is there, but an ignore file says it is not.
    pub hidden_by: Option<IgnoreRule>,
    /// Names in the same directory that differ little, the best first.
    pub similar: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    #[error(transparent)]
    NotFound(Box<NotFound>),
    #[error("source {pattern:?}")]
    Pattern {
        pattern: String,
        #[source]
        source: BadPattern,
    },
    #[error("source {pattern:?} of --parents")]
    Include {
        pattern: String,
        #[source]
        source: IgnoreError,
    },
    /// Rule C32.
    #[error(
        "--parents {written:?} selects nothing: there is no path below the directory to keep; \
         leave --parents out to copy all that is in it"
    )]
    ParentsOfNothing { written: String },
    #[error("--exclude")]
    Exclude {
        #[source]
        source: IgnoreError,
    },
    /// Rule C24.
    #[error("cannot replace directory /{path} with a file")]
    FileOverDirectory { path: String },
    /// Rule C24.
    #[error("cannot copy a directory to /{path}, which is not a directory")]
    DirectoryOverFile { path: String },
    /// Also of `WORKDIR`.
    #[error("mkdir /{path}: /{existing} is not a directory")]
    NotADirectory { path: String, existing: String },
    /// Rule L10.
    #[error(
        "/{path}: names that start with .wh. mean removal in image layers and cannot be stored"
    )]
    ReservedName { path: String },
    #[error("read /{path} of the image")]
    Below {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{sources} sources given for {planned} of the instruction")]
    SourceCount { sources: usize, planned: usize },
    #[error(transparent)]
    Chmod(#[from] ChmodError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("unpack {name}")]
    Archive {
        name: String,
        #[source]
        source: ArchiveError,
    },
    #[error("destination")]
    Links(#[from] store::view::TooManyLinks),
}

impl CopyError {
    /// Whether it comes from a file that may not be read.
    pub(in crate::engine) fn is_refused(&self) -> bool {
        let mut cause: Option<&dyn std::error::Error> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                return error.kind() == std::io::ErrorKind::PermissionDenied;
            }
            cause = error.source();
        }
        false
    }

    /// Advice, each a sentence of its own.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        let Self::NotFound(missing) = self else {
            return Vec::new();
        };
        let NotFound {
            hidden_by, similar, ..
        } = missing.as_ref();
        let mut hints = Vec::new();
        if let Some(IgnoreRule {
            file,
            line,
            pattern,
        }) = hidden_by
        {
            hints.push(format!("line {line} of {file}, {pattern:?}, hides it"));
        }
        match similar.as_slice() {
            [] => {}
            [one] => hints.push(format!("there is {one:?}")),
            many => hints.push(format!("there are {}", many.join(", "))),
        }
        hints
    }
}

/// For messages.
pub(super) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
