//! The character loop: quotes, escapes, `$name` and `${name...}`.

use std::collections::BTreeSet;

use super::error::ExpandErrorKind as Kind;
use super::pattern::Pattern;
use super::{Environment, MAX_EXPANDED, MAX_NESTING};

/// What is kept and what is resolved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode {
    pub(super) escape: char,
    /// Quotes stay in the result.
    pub(super) raw_quotes: bool,
    /// Escape characters stay in the result.
    pub(super) raw_escapes: bool,
    /// Quotes are ordinary characters.
    pub(super) plain_quotes: bool,
    /// Unset variables stay as written.
    pub(super) keep_unset: bool,
    /// How much longer than the text the result may be, in bytes.
    pub(super) limit: usize,
}

impl Default for Mode {
    fn default() -> Self {
        Self {
            escape: '\\',
            raw_quotes: false,
            raw_escapes: false,
            plain_quotes: false,
            keep_unset: false,
            limit: MAX_EXPANDED,
        }
    }
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    position: usize,
    mode: Mode,
    env: &'a dyn Environment,
    depth: usize,
    split: Splitter,
    pub(super) used: BTreeSet<String>,
    pub(super) unset: BTreeSet<String>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, mode: Mode, env: &'a dyn Environment) -> Self {
        Self {
            text,
            position: 0,
            mode,
            env,
            depth: 0,
            split: Splitter::default(),
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
        }
    }

    /// The whole text as one word.
    pub(super) fn word(&mut self) -> Result<String, Kind> {
        self.until(None, self.mode.raw_escapes)
    }

    /// The text split at blanks.
    pub(super) fn words(&mut self) -> Result<Vec<String>, Kind> {
        self.split.wanted = true;
        self.until(None, self.mode.raw_escapes)?;
        self.split.flush();
        Ok(std::mem::take(&mut self.split.words))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn at_end(&self) -> bool {
        self.position == self.text.len()
    }

    /// Reads up to `stop` (consumed) or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<String, Kind> {
        let outer = std::mem::replace(&mut self.mode.raw_escapes, raw_escapes);
        let result = self.until_stop(stop);
        self.mode.raw_escapes = outer;
        result
    }

    fn until_stop(&mut self, stop: Option<char>) -> Result<String, Kind> {
        let mut result = String::new();
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.next();
                return Ok(result);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.split.push_text(&value);
                    self.push(&mut result, &value)?;
                }
                '<' => {
                    let text = self.angle();
                    self.split.push_raw(&text);
                    result.push_str(&text);
                }
                '\'' | '"' if !self.mode.plain_quotes => {
                    let text = if c == '"' {
                        self.double_quoted()?
                    } else {
                        self.single_quoted()?
                    };
                    self.split.push_raw(&text);
                    self.push(&mut result, &text)?;
                }
                _ => self.plain(&mut result),
            }
        }
        if stop.is_some() {
            Err(Kind::MissingBrace)
        } else {
            Ok(result)
        }
    }

    /// One ordinary or escaped character; an escape character at the very end vanishes.
    fn plain(&mut self, result: &mut String) {
        let Some(c) = self.next() else { return };
        if c != self.mode.escape {
            self.split.push(c);
            result.push(c);
            return;
        }
        if self.mode.raw_escapes {
            self.split.push_raw_char(c);
            result.push(c);
        }
        if let Some(escaped) = self.next() {
            self.split.push_raw_char(escaped);
            result.push(escaped);
        }
    }

    /// `<`, or `<<` with the blanks after it: they are part of one word, `<< EOF` is a heredoc.
    fn angle(&mut self) -> String {
        self.next();
        let mut text = "<".to_owned();
        if self.peek() == Some('<') {
            self.next();
            text.push('<');
            while let Some(c @ (' ' | '\t' | '\r')) = self.peek() {
                self.next();
                text.push(c);
            }
        }
        text
    }

    fn single_quoted(&mut self) -> Result<String, Kind> {
        self.next();
        let rest = &self.text[self.position..];
        let Some(length) = rest.find('\'') else {
            self.position = self.text.len();
            return Err(Kind::UnterminatedSingleQuote);
        };
        self.position += length + 1;
        let inside = &rest[..length];
        Ok(if self.mode.raw_quotes {
            format!("'{inside}'")
        } else {
            inside.to_owned()
        })
    }

    fn double_quoted(&mut self) -> Result<String, Kind> {
        let mut result = String::new();
        self.quote_mark(&mut result);
        loop {
            match self.peek() {
                None => return Err(Kind::UnterminatedDoubleQuote),
                Some('"') => {
                    self.quote_mark(&mut result);
                    return Ok(result);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.push(&mut result, &value)?;
                }
                Some(c) => {
                    self.next();
                    if c == self.mode.escape {
                        self.escaped_in_quotes(&mut result);
                    } else {
                        result.push(c);
                    }
                }
            }
        }
    }

    fn quote_mark(&mut self, result: &mut String) {
        self.next();
        if self.mode.raw_quotes {
            result.push('"');
        }
    }

    /// After an escape character inside double quotes: only `"`, `$` and itself can be escaped
    /// (rule X05).
    fn escaped_in_quotes(&mut self, result: &mut String) {
        let escape = self.mode.escape;
        if self.mode.raw_escapes {
            result.push(escape);
        }
        match self.peek() {
            None => {}
            Some(c) if c == '"' || c == '$' || c == escape => {
                self.next();
                result.push(c);
            }
            Some(_) => result.push(escape),
        }
    }

    fn dollar(&mut self) -> Result<String, Kind> {
        self.next();
        if self.peek() == Some('{') {
            self.next();
            return self.nested(Self::braced);
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        match self.lookup(name) {
            Some(value) => Ok(value),
            None if self.mode.keep_unset => Ok(format!("${name}")),
            None => Ok(String::new()),
        }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Kind>) -> Result<T, Kind> {
        if self.depth == MAX_NESTING {
            return Err(Kind::TooDeep);
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// What follows `${`.
    fn braced(&mut self) -> Result<String, Kind> {
        match self.peek() {
            None => return Err(Kind::MissingBrace),
            Some('{' | '}' | ':') => return Err(Kind::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            None => Err(Kind::MissingBrace),
            Some('}') => Ok(match self.lookup(name) {
                Some(value) => value,
                None if self.mode.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => match self.next() {
                None => Err(Kind::MissingBrace),
                Some(c @ ('#' | '%')) => Err(Kind::UnsupportedModifier(format!(":{c}"))),
                Some(c) => self.modified(name, c, true),
            },
            Some(c @ ('+' | '-' | '?' | '#' | '%')) => self.modified(name, c, false),
            Some('/') => self.replaced(name),
            Some(c) => Err(Kind::UnsupportedModifier(c.to_string())),
        }
    }

    /// `${name<modifier>word}`; `empty_is_unset` when a colon stood before (rule X08).
    fn modified(
        &mut self,
        name: &str,
        modifier: char,
        empty_is_unset: bool,
    ) -> Result<String, Kind> {
        let trims = matches!(modifier, '#' | '%');
        // The word is expanded even when its value is not needed (rule X19).
        let word = self.part('}', trims, Kind::MissingBrace)?;
        let value = self.lookup(name);
        let colon = if empty_is_unset { ":" } else { "" };
        if self.mode.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let present = value
            .as_ref()
            .is_some_and(|value| !(empty_is_unset && value.is_empty()));
        match modifier {
            '-' => Ok(if present {
                value.unwrap_or_default()
            } else {
                word
            }),
            '+' => Ok(if present { word } else { String::new() }),
            '?' if present => Ok(value.unwrap_or_default()),
            '?' => {
                let problem = if value.is_none() {
                    "is not allowed to be unset"
                } else {
                    "is not allowed to be empty"
                };
                let message = if word.is_empty() {
                    problem.to_owned()
                } else {
                    word
                };
                Err(Kind::Required {
                    name: name.to_owned(),
                    message,
                })
            }
            '#' | '%' => {
                let (pattern, greedy) = word
                    .strip_prefix(modifier)
                    .map_or((word.as_str(), false), |rest| (rest, true));
                let pattern = Pattern::parse(pattern)?;
                let value = value.unwrap_or_default();
                if modifier == '#' {
                    pattern.trim_start(&value, greedy)
                } else {
                    pattern.trim_end(&value, greedy)
                }
            }
            _ => Err(Kind::UnsupportedModifier(format!("{colon}{modifier}"))),
        }
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}` (rules X10, X18).
    fn replaced(&mut self, name: &str) -> Result<String, Kind> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.part('/', true, Kind::MissingSlash)?;
        let replacement = self.part('}', true, Kind::MissingBrace)?;
        let value = self.lookup(name);
        if self.mode.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        let pattern = Pattern::parse(&pattern)?;
        if all {
            pattern.replace_all(&value, &replacement)
        } else {
            pattern.replace_first(&value, &replacement)
        }
    }

    /// A part of `${...}` up to `stop`; any error at the end of the text means `stop` is missing.
    fn part(&mut self, stop: char, raw_escapes: bool, missing: Kind) -> Result<String, Kind> {
        self.split.buffer.clear();
        let wanted = std::mem::take(&mut self.split.wanted);
        let result = self.until(Some(stop), raw_escapes);
        self.split.wanted = wanted;
        result.map_err(|kind| {
            if self.at_end() && !kind.is_limit() {
                missing
            } else {
                kind
            }
        })
    }

    /// A name: letters, digits and `_`; or one special parameter; or a run of digits (rule X13).
    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.position..];
        let length = match rest.chars().next() {
            Some(c) if c.is_numeric() => run_length(rest, char::is_numeric),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => run_length(rest, |c| c.is_alphanumeric() || c == '_'),
        };
        self.position += length;
        &rest[..length]
    }

    fn push(&self, result: &mut String, text: &str) -> Result<(), Kind> {
        let limit = self.mode.limit;
        // The text itself may be long; only what expansion adds is limited.
        if result.len().saturating_add(text.len()) > limit.saturating_add(self.text.len()) {
            return Err(Kind::TooLong { limit });
        }
        result.push_str(text);
        Ok(())
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name);
        let names = if value.is_some() {
            &mut self.used
        } else {
            &mut self.unset
        };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }
}

fn run_length(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

/// Collects words beside the result. The reference keeps one buffer for all nesting levels, so
/// that a `${x:-y}` drops what its word had before it; which lines hold heredocs depends on it.
#[derive(Debug, Default)]
struct Splitter {
    wanted: bool,
    buffer: String,
    words: Vec<String>,
}

impl Splitter {
    fn push(&mut self, c: char) {
        if !self.wanted {
        } else if c.is_whitespace() {
            self.flush();
        } else {
            self.buffer.push(c);
        }
    }

    fn push_text(&mut self, text: &str) {
        if self.wanted {
            text.chars().for_each(|c| self.push(c));
        }
    }

    fn push_raw_char(&mut self, c: char) {
        if self.wanted {
            self.buffer.push(c);
        }
    }

    fn push_raw(&mut self, text: &str) {
        if self.wanted {
            self.buffer.push_str(text);
        }
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.words.push(std::mem::take(&mut self.buffer));
        }
    }
}
