//! Wildcards of `COPY` and `ADD` sources: Go's `path.Match` (rule C16).
//!
//! `*` and `?` do not cross `/`, `[a-z]` and `[^a]` are classes, `\` makes the next character
//! literal, `**` means no more than `*`. The `**` of `COPY --parents` (rule C32) and `--exclude`
//! (rule C30) is that of [`crate::ignore::Patterns`].

use crate::automaton::{Automaton, Class, Token};

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    automaton: Automaton,
    has_wildcard: bool,
}

/// A class that does not end or a `\` at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

impl Glob {
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut rest = pattern.chars();
        while let Some(c) = rest.next() {
            let token = match c {
                '*' => Token::Many(Class::not('/')),
                '?' => Token::One(Class::not('/')),
                '[' => Token::One(class(&mut rest)?),
                '\\' => Token::Char(rest.next().ok_or(BadPattern)?),
                c => Token::Char(c),
            };
            // A run of stars is one star.
            if !(matches!(token, Token::Many(_)) && tokens.last() == Some(&token)) {
                tokens.push(token);
            }
        }
        Ok(Self {
            automaton: Automaton::new(tokens),
            has_wildcard: has_wildcard(pattern),
        })
    }

    /// Whether the whole of `path` matches.
    pub fn matches(&self, path: &str) -> bool {
        self.automaton.matches(path)
    }

    /// Whether something below `directory` may match, so that it must be walked.
    pub fn may_match_below(&self, directory: &str) -> bool {
        self.automaton.may_match_beyond(&format!("{directory}/"))
    }

    pub fn has_wildcard(&self) -> bool {
        self.has_wildcard
    }
}

/// Whether `text` holds `*`, `?` or `[` that no `\` makes literal: only then is a source matched
/// as a pattern. A source without them keeps its backslashes.
pub fn has_wildcard(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// The rest of a class after its `[`.
fn class(rest: &mut std::str::Chars<'_>) -> Result<Class, BadPattern> {
    let mut class = Class::default();
    if rest.as_str().starts_with('^') {
        rest.next();
        class.negated = true;
    }
    loop {
        if rest.as_str().starts_with(']') && !class.ranges.is_empty() {
            rest.next();
            return Ok(class);
        }
        let low = class_char(rest)?;
        let high = if rest.as_str().starts_with('-') {
            rest.next();
            class_char(rest)?
        } else {
            low
        };
        class.ranges.push((low, high));
    }
}

fn class_char(rest: &mut std::str::Chars<'_>) -> Result<char, BadPattern> {
    let c = match rest.next() {
        None | Some('-' | ']') => return Err(BadPattern),
        Some('\\') => rest.next().ok_or(BadPattern)?,
        Some(c) => c,
    };
    // The class must go on or end after it.
    if rest.as_str().is_empty() {
        Err(BadPattern)
    } else {
        Ok(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c16_path_match() {
        let cases = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "a/b", false),
            ("*c", "abc", true),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("**", "a/b", false),
            ("a/**/b", "a/x/b", true),
            ("a/**/b", "a/b", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("a?b", "a/b", false),
            ("arr[[]0].txt", "arr[0].txt", true),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "z", false),
            ("[-x]", "", false),
            ("*x", "xxx", true),
            ("", "", true),
        ];
        for (pattern, path, want) in cases {
            let Ok(glob) = Glob::new(pattern) else {
                assert_eq!(pattern, "[-x]");
                continue;
            };
            assert_eq!(glob.matches(path), want, "{pattern} {path}");
        }
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "a[",
        ] {
            assert_eq!(Glob::new(bad), Err(BadPattern), "{bad}");
        }
    }

    #[test]
    fn c17_directories_worth_walking() {
        let glob = Glob::new("src/*/x.c").expect("good");
        assert!(glob.may_match_below("src") && glob.may_match_below("src/a"));
        assert!(!glob.may_match_below("doc") && !glob.may_match_below("src/a/x.c"));
    }

    #[test]
    fn wildcards_are_told_from_literals() {
        for (text, want) in [
            ("a*", true),
            ("a\\*", false),
            ("a\\\\*", true),
            ("[", true),
            ("a\\", false),
        ] {
            assert_eq!(has_wildcard(text), want, "{text}");
        }
    }
}
