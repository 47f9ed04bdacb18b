//! One pattern of moby's patternmatcher.
//!
//! The reference translates a pattern to a regular expression, character by character, and uses
//! it only when the pattern is not plainly a name, a prefix or a suffix. Both are kept, with their
//! corners: `**foo` is the suffix `foo`, `foo/**` does not match `foo`, `\d` is a digit.

use crate::automaton::{Automaton, Class, Token};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Matcher {
    Exact(String),
    /// `foo/**`
    Prefix(String),
    /// `**/foo`, `**foo`, `**`
    Suffix(String),
    Regex(Automaton),
}

/// The pattern is malformed, or uses an escape that has no meaning here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl Matcher {
    /// `pattern` is a cleaned path without `!`.
    pub(super) fn new(pattern: &str) -> Result<Self, Malformed> {
        let (kind, regex) = translate(pattern);
        Ok(match kind {
            Kind::Exact => Self::Exact(pattern.to_owned()),
            Kind::Prefix => Self::Prefix(pattern[..pattern.len() - 2].to_owned()),
            Kind::Suffix => Self::Suffix(pattern[2..].to_owned()),
            Kind::Regex => Self::Regex(Automaton::new(parse_regex(&regex)?)),
        })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Self::Regex(automaton) => automaton.matches(path),
        }
    }

    /// Whether something below `directory` may match.
    pub(super) fn may_match_below(&self, directory: &str) -> bool {
        match self {
            Self::Exact(text) => text
                .strip_prefix(directory)
                .is_some_and(|rest| rest.starts_with('/')),
            Self::Prefix(prefix) => {
                directory.starts_with(prefix)
                    || prefix
                        .strip_prefix(directory)
                        .is_some_and(|rest| rest.starts_with('/'))
            }
            Self::Suffix(_) => true,
            Self::Regex(automaton) => automaton.may_match_beyond(&format!("{directory}/")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Prefix,
    Suffix,
    Regex,
}

/// The kind of a pattern, and its regular expression without the anchors.
fn translate(pattern: &str) -> (Kind, String) {
    let mut regex = String::with_capacity(pattern.len() * 2);
    let mut kind = Kind::Exact;
    let mut chars = pattern.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    regex.push_str("(.*/)?");
                    kind = Kind::Regex;
                } else if kind == Kind::Exact {
                    kind = Kind::Prefix;
                } else {
                    regex.push_str(".*");
                    kind = Kind::Regex;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                regex.push_str("[^/]*");
                kind = Kind::Regex;
            }
            '?' => {
                regex.push_str("[^/]");
                kind = Kind::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => regex.extend(['\\', c]),
            '\\' => {
                regex.push('\\');
                if let Some(escaped) = chars.next() {
                    regex.push(escaped);
                    kind = Kind::Regex;
                }
            }
            '[' | ']' => {
                regex.push(c);
                kind = Kind::Regex;
            }
            c => regex.push(c),
        }
        first = false;
    }
    (kind, regex)
}

/// Reads the few constructs [`translate`] can produce.
fn parse_regex(regex: &str) -> Result<Vec<Token>, Malformed> {
    let mut tokens = Vec::new();
    let mut rest = regex;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("(.*/)?") {
            tokens.extend([Token::Directories, Token::InDirectories]);
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix(".*") {
            tokens.push(Token::Many(Class::not('\n')));
            rest = after;
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '^' => tokens.push(Token::Start),
            '[' => {
                let (class, after) = parse_class(rest)?;
                match after.strip_prefix('*') {
                    Some(after) => {
                        tokens.push(Token::Many(class));
                        rest = after;
                    }
                    None => {
                        tokens.push(Token::One(class));
                        rest = after;
                    }
                }
            }
            '\\' => {
                let escaped = rest.chars().next().ok_or(Malformed)?;
                rest = &rest[escaped.len_utf8()..];
                let mut class = Class::default();
                match escape(escaped, &mut class)? {
                    Some(c) => tokens.push(Token::Char(c)),
                    None => tokens.push(Token::One(class)),
                }
            }
            c => tokens.push(Token::Char(c)),
        }
    }
    Ok(tokens)
}

/// A class after its `[`, as Go's regular expressions have it.
fn parse_class(text: &str) -> Result<(Class, &str), Malformed> {
    let mut class = Class::default();
    let mut rest = text;
    if let Some(after) = rest.strip_prefix('^') {
        class.negated = true;
        rest = after;
    }
    let mut first = true;
    loop {
        if !first && let Some(after) = rest.strip_prefix(']') {
            return Ok((class, after));
        }
        first = false;
        if let Some((name, after)) = rest
            .strip_prefix("[:")
            .and_then(|after| after.split_once(":]"))
        {
            class.ranges.extend(named_class(name)?);
            rest = after;
            continue;
        }
        let Some(low) = class_char(&mut rest, &mut class)? else {
            continue;
        };
        let mut high = low;
        if let Some(after) = rest.strip_prefix('-')
            && !after.starts_with(']')
        {
            rest = after;
            high = class_char(&mut rest, &mut class)?.ok_or(Malformed)?;
        }
        if high < low {
            return Err(Malformed);
        }
        class.ranges.push((low, high));
    }
}

/// One character of a class; `None` when it was a whole class such as `\d`.
fn class_char(rest: &mut &str, class: &mut Class) -> Result<Option<char>, Malformed> {
    let c = rest.chars().next().ok_or(Malformed)?;
    *rest = &rest[c.len_utf8()..];
    if c != '\\' {
        return Ok(Some(c));
    }
    let escaped = rest.chars().next().ok_or(Malformed)?;
    *rest = &rest[escaped.len_utf8()..];
    escape(escaped, class)
}

/// What `\` and this character mean: a character, or ranges added to `class`.
fn escape(c: char, class: &mut Class) -> Result<Option<char>, Malformed> {
    let ranges: &[(char, char)] = match c {
        'a' => return Ok(Some('\u{7}')),
        'f' => return Ok(Some('\u{c}')),
        'n' => return Ok(Some('\n')),
        'r' => return Ok(Some('\r')),
        't' => return Ok(Some('\t')),
        'v' => return Ok(Some('\u{b}')),
        'd' => &[('0', '9')],
        's' => &[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')],
        'w' => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        'D' => &[('\0', '/'), (':', char::MAX)],
        'S' => &[
            ('\0', '\u{8}'),
            ('\u{b}', '\u{b}'),
            ('\u{e}', '\u{1f}'),
            ('!', char::MAX),
        ],
        'W' => &[
            ('\0', '/'),
            (':', '@'),
            ('[', '^'),
            ('`', '`'),
            ('{', char::MAX),
        ],
        // Anchors, character codes and Unicode properties of regular expressions mean nothing in
        // a path, and other letters and digits are errors in the reference too.
        c if c.is_ascii_alphanumeric() => return Err(Malformed),
        c => return Ok(Some(c)),
    };
    class.ranges.extend(ranges);
    Ok(None)
}

fn named_class(name: &str) -> Result<&'static [(char, char)], Malformed> {
    Ok(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\u{7f}')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return Err(Malformed),
    })
}
