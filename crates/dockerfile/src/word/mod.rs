//! Expansion of variables and quotes in words (rules X01-X20).
//!
//! This is the lexer the reference applies to instruction words, not a shell: no command
//! substitution, no arithmetic, no file names. Work and result are bounded, see [`MAX_EXPANDED`].

mod error;
mod lexer;
mod pattern;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use error::{ExpandError, ExpandErrorKind};
use lexer::{Lexer, Mode};

/// How much longer than the word its expansion may be, in bytes. `ENV a=$a$a` doubles with every
/// line; the kernel takes no variable over 128 KiB (`MAX_ARG_STRLEN`), a label may hold a little
/// more.
pub const MAX_EXPANDED: usize = 1 << 20;

/// The same for the body of a heredoc.
pub const MAX_EXPANDED_BODY: usize = 64 << 20;

/// Deepest nesting of `${a:-${b:-...}}`.
pub const MAX_NESTING: usize = 100;

/// Variables by name.
pub trait Environment {
    /// The value, `None` when unset.
    fn get(&self, name: &str) -> Option<String>;

    /// All names, for suggestions; may be empty.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// No variable is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Empty;

impl Environment for Empty {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

impl<S: std::hash::BuildHasher> Environment for HashMap<String, String, S> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// Pairs in the order of definition; the last of equal names counts.
impl Environment for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<String> {
        self.iter()
            .rev()
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1.clone())
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|pair| pair.0.clone()).collect()
    }
}

/// A result and the names it was looked up under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    pub value: String,
    /// Names looked up and set.
    pub used: BTreeSet<String>,
    /// Names looked up and unset, those with a default (`${x:-y}`) included.
    pub unset: BTreeSet<String>,
}

/// One word of an instruction: quotes removed, variables replaced, escapes resolved.
///
/// `escape` is the file's escape character (rule X15). Unset variables are empty (rule X07).
pub fn expand(word: &str, escape: char, env: &dyn Environment) -> Result<String, ExpandError> {
    Ok(expand_tracked(word, escape, env)?.value)
}

/// As [`expand`], telling which variables were looked up.
pub fn expand_tracked(
    word: &str,
    escape: char,
    env: &dyn Environment,
) -> Result<Expansion, ExpandError> {
    run(
        word,
        Mode {
            escape,
            ..Mode::default()
        },
        env,
    )
}

/// As [`expand`], unset variables left as written (rule X07): for the names of steps.
pub fn expand_keeping_unset(
    word: &str,
    escape: char,
    env: &dyn Environment,
) -> Result<String, ExpandError> {
    Ok(run(
        word,
        Mode {
            escape,
            keep_unset: true,
            ..Mode::default()
        },
        env,
    )?
    .value)
}

/// As [`expand_keeping_unset`] with the quotes kept as well: the text of a step's name as the
/// reference prints it.
pub fn expand_for_display(
    word: &str,
    escape: char,
    env: &dyn Environment,
) -> Result<String, ExpandError> {
    Ok(run(
        word,
        Mode {
            escape,
            keep_unset: true,
            raw_quotes: true,
            ..Mode::default()
        },
        env,
    )?
    .value)
}

/// The body of a `COPY`/`ADD` heredoc: the escape character is always `\`, quotes are ordinary
/// text (rule H12).
pub fn expand_heredoc(body: &str, env: &dyn Environment) -> Result<Expansion, ExpandError> {
    run(
        body,
        Mode {
            plain_quotes: true,
            ..Mode::default()
        },
        env,
    )
}

/// Expands, then splits at blanks that are neither quoted nor escaped (rule X14, `EXPOSE`).
pub fn expand_words(
    text: &str,
    escape: char,
    env: &dyn Environment,
) -> Result<Vec<String>, ExpandError> {
    let mut lexer = Lexer::new(
        text,
        Mode {
            escape,
            ..Mode::default()
        },
        env,
    );
    lexer
        .words()
        .map_err(|kind| ExpandError::new(text, kind, lexer.unset))
}

/// Words of a line with quotes and escapes kept and no variable set: how heredocs are found.
pub(crate) fn split_keeping_syntax(line: &str) -> Result<Vec<String>, ExpandErrorKind> {
    let mode = Mode {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Mode::default()
    };
    Lexer::new(line, mode, &Empty).words()
}

/// Words of a heredoc delimiter, with or without its quotes.
pub(crate) fn split_delimiter(
    text: &str,
    raw_quotes: bool,
) -> Result<Vec<String>, ExpandErrorKind> {
    let mode = Mode {
        raw_quotes,
        keep_unset: true,
        ..Mode::default()
    };
    Lexer::new(text, mode, &Empty).words()
}

fn run(word: &str, mode: Mode, env: &dyn Environment) -> Result<Expansion, ExpandError> {
    let mut lexer = Lexer::new(word, mode, env);
    match lexer.word() {
        Ok(value) => Ok(Expansion {
            value,
            used: lexer.used,
            unset: lexer.unset,
        }),
        Err(kind) => Err(ExpandError::new(word, kind, lexer.unset)),
    }
}
