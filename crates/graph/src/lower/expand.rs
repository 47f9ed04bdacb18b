//! Expansion of words with the variables of their place.

use std::cell::Cell;

use dockerfile::LineRange;
use dockerfile::word::{self, Environment, ExpandError, ExpandErrorKind};

use super::error::{ErrorKind, LowerError};
use super::variables::Variables;

impl Environment for Variables {
    fn get(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }

    fn names(&self) -> Vec<String> {
        Self::names(self).map(str::to_owned).collect()
    }
}

impl From<ExpandError> for LowerError {
    fn from(error: ExpandError) -> Self {
        let lowered = Self::new(ErrorKind::Expansion, error.to_string());
        if let Some(name) = error.kind.required_name() {
            return lowered.help(format!(
                "`{name}` has no value here; declare it with ARG and pass --build-arg {name}=…"
            ));
        }
        match advice(&error.kind) {
            Some(advice) => lowered.help(advice),
            None => lowered,
        }
    }
}

fn advice(kind: &ExpandErrorKind) -> Option<&'static str> {
    use ExpandErrorKind as Kind;
    match kind {
        Kind::UnterminatedSingleQuote | Kind::UnterminatedDoubleQuote => {
            Some("close the quote, or put the escape character before it if it is meant as it is")
        }
        Kind::MissingBrace | Kind::BadSubstitution => Some(
            "write ${name} or ${name:-default}; a $ that is meant as it is has the escape \
             character before it",
        ),
        Kind::MissingSlash => Some("write ${name/pattern/replacement}"),
        Kind::UnsupportedModifier(_) => Some(
            "there are :- - :+ + :? ? for unset variables, # ## % %% to cut off, / // to replace",
        ),
        Kind::TooLong { .. } => {
            Some("values that contain values grow fast: ENV a=$a$a doubles with every line")
        }
        Kind::Required { .. } | Kind::InvalidPattern { .. } | Kind::TooDeep | Kind::TooComplex => {
            None
        }
    }
}

/// Most bytes that all words of a build expand to, copies of variables for steps and stages
/// included: values that contain values grow fast (`ENV a=$a$a` doubles with every line).
const MOST_EXPANDED: usize = 256 << 20;

/// What of [`MOST_EXPANDED`] is used up.
#[derive(Debug, Default)]
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    /// # Errors
    /// When `bytes` more are too many.
    pub(crate) fn spend(&self, bytes: usize) -> Result<(), LowerError> {
        let spent = self.0.get().saturating_add(bytes);
        self.0.set(spent);
        if spent <= MOST_EXPANDED {
            return Ok(());
        }
        let message =
            format!("the variables of this build expand to more than {MOST_EXPANDED} bytes");
        Err(LowerError::new(ErrorKind::Expansion, message)
            .help("values that contain values grow fast: ENV a=$a$a doubles with every line"))
    }
}

/// The words of one instruction: the file's escape character and the variables in force before
/// the instruction began (rule X04).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(crate) escape: char,
    pub(crate) budget: &'a Budget,
    pub(crate) variables: &'a Variables,
}

impl Words<'_> {
    pub(crate) fn word(&self, text: &str) -> Result<String, LowerError> {
        let value = word::expand(text, self.escape, self.variables)
            .map_err(|error| LowerError::from(error).about(text))?;
        self.budget.spend(value.len())?;
        Ok(value)
    }

    pub(crate) fn optional(&self, text: Option<&str>) -> Result<Option<String>, LowerError> {
        text.map(|text| self.word(text)).transpose()
    }

    /// Splits after expanding (rule X14).
    pub(crate) fn split(&self, text: &str) -> Result<Vec<String>, LowerError> {
        let words = word::expand_words(text, self.escape, self.variables)
            .map_err(|error| LowerError::from(error).about(text))?;
        self.budget.spend(words.iter().map(String::len).sum())?;
        Ok(words)
    }

    /// Rule H12.
    pub(crate) fn heredoc(&self, body: &str) -> Result<String, LowerError> {
        let text = word::expand_heredoc(body, self.variables)?.value;
        self.budget.spend(text.len())?;
        Ok(text)
    }

    /// As [`Self::word`]; what cannot be expanded is shown as written.
    pub(crate) fn for_name(&self, text: &str) -> String {
        self.word(text).unwrap_or_else(|_| text.to_owned())
    }

    /// For the name of a `RUN`: quotes and unset variables stay (rule X07).
    pub(crate) fn for_run_name(&self, text: &str) -> String {
        word::expand_for_display(text, self.escape, self.variables)
            .unwrap_or_else(|_| text.to_owned())
    }
}

/// A word before any stage, with the names it used and missed.
pub(crate) fn global_word(
    text: &str,
    escape: char,
    globals: &Variables,
    lines: LineRange,
    budget: &Budget,
) -> Result<word::Expansion, LowerError> {
    let expansion = word::expand_tracked(text, escape, globals)
        .map_err(|error| LowerError::from(error).about(text).at(lines))?;
    budget
        .spend(expansion.value.len())
        .map_err(|error| error.at(lines))?;
    Ok(expansion)
}
