//! Parser directives at the head of the file (rules P01-P04) and `# check=` options.

use super::json;
use crate::instruction::CheckOptions;
use crate::lines::BOM;

/// A directive the language knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Syntax,
    Escape,
    Check,
}

impl Key {
    fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "syntax" => Some(Self::Syntax),
            "escape" => Some(Self::Escape),
            "check" => Some(Self::Check),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }
}

/// Scans the leading run of directive comments; the first line that is none ends it for good.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scanner {
    seen: Vec<Key>,
    done: bool,
}

/// A directive was given twice (rule P02).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repeated(pub(crate) Key);

impl Scanner {
    /// Reads one line as a directive behind `prefix` (`#`, `//` or nothing).
    pub(crate) fn line<'a>(
        &mut self,
        line: &'a str,
        prefix: &str,
    ) -> Result<Option<(Key, &'a str)>, Repeated> {
        if self.done {
            return Ok(None);
        }
        let Some((key, value)) = line.strip_prefix(prefix).and_then(split) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&key) {
            return Err(Repeated(key));
        }
        self.seen.push(key);
        Ok(Some((key, value)))
    }
}

/// `key = value`, for a known key and a value that is not blank.
fn split(text: &str) -> Option<(Key, &str)> {
    let (name, value) = text.trim_start().split_once('=')?;
    let name = name.trim_end_matches(is_regex_blank);
    let key = Key::parse(name)?;
    let trimmed = value
        .trim_start_matches(is_regex_blank)
        .trim_end_matches(is_regex_blank);
    // The pattern wants at least one character and takes a blank when there is nothing else.
    let value = if trimmed.is_empty() {
        &value[value.len().saturating_sub(1)..]
    } else {
        trimmed
    };
    if value.is_empty() {
        None
    } else {
        Some((key, value))
    }
}

/// `\s` of the reference's pattern.
fn is_regex_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ')
}

/// The value of `syntax` in any form: `#`, `//`, JSON, after a `#!` line (rule P04).
pub(crate) fn detect_syntax(text: &str) -> Option<String> {
    let text = without_head(text);
    if let Some(value) = find(text, Key::Syntax, "#").or_else(|| find(text, Key::Syntax, "//")) {
        return Some(first_word(value).to_owned());
    }
    json::object_member(text, Key::Syntax.name())
}

/// The value of `check`, cut at the first space.
pub(crate) fn detect_check(text: &str) -> Option<&str> {
    find(without_head(text), Key::Check, "#").map(first_word)
}

/// The `check` options in a comment's text, without its `#`: those of one instruction.
pub(crate) fn check_in_comment(comment: &str) -> Option<&str> {
    match Scanner::default().line(comment, "") {
        Ok(Some((Key::Check, value))) => Some(first_word(value)),
        _ => None,
    }
}

fn first_word(value: &str) -> &str {
    value.split(' ').next().unwrap_or(value)
}

fn without_head(text: &str) -> &str {
    let text = text.strip_prefix(BOM).unwrap_or(text);
    if text.starts_with("#!") {
        text.split_once('\n').map_or("", |(_, rest)| rest)
    } else {
        text
    }
}

fn find<'a>(text: &'a str, key: Key, prefix: &str) -> Option<&'a str> {
    let mut scanner = Scanner::default();
    for line in text.lines() {
        let (found, value) = scanner.line(line, prefix).ok()??;
        if found == key {
            return Some(value);
        }
    }
    None
}

/// Reads `skip=A,B;error=true;experimental=all`; at most three parts, as the reference splits.
pub(crate) fn parse_check(text: &str) -> Result<CheckOptions, String> {
    let mut options = CheckOptions::default();
    let text = text.trim();
    if text.is_empty() {
        return Ok(options);
    }
    for part in text.splitn(3, ';') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("invalid check option {part:?}"))?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "skip" if value == "all" => options.skip_all = true,
            "skip" => options.skip = names(value),
            "experimental" if value == "all" => options.experimental_all = true,
            "experimental" => options.experimental = names(value),
            "error" => {
                options.error = crate::text::parse_bool(value).ok_or_else(|| {
                    format!("failed to parse check option {part:?}: {value:?} is not a boolean")
                })?;
            }
            _ => return Err(format!("invalid check option {key:?}")),
        }
    }
    Ok(options)
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p04_syntax_in_every_form() {
        let cases = [
            ("# syntax=a/b:1 trailing\nFROM x", Some("a/b:1")),
            ("#SYNTAX =  a/b:1\t\r\nFROM x", Some("a/b:1")),
            ("\u{feff}# syntax=a\n", Some("a")),
            ("#!/usr/bin/env x\n# syntax=a\n", Some("a")),
            ("// syntax=a\n", Some("a")),
            ("{\"syntax\": \"a b\"}", Some("a b")),
            ("# escape=`\n# syntax=a\n", Some("a")),
            ("# note\n# syntax=a\n", None),
            ("\n# syntax=a\n", None),
            ("# syntax=\n", None),
            (" # syntax=a\n", None),
            ("# other=x\n# syntax=a\n", None),
        ];
        for (text, want) in cases {
            assert_eq!(detect_syntax(text).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn check_options() {
        let options = parse_check("skip=A, B;error=TRUE;experimental=all").expect("good");
        assert_eq!(options.skip, ["A", "B"]);
        assert!(options.error && options.experimental_all && !options.skip_all);
        assert!(parse_check("skip=all").expect("good").skip_all);
        for bad in [
            "skip",
            "x=1",
            "error=maybe",
            "skip=A;error=true;experimental=B;skip=C",
        ] {
            assert!(
                parse_check(bad).is_err() || bad.starts_with("skip=A"),
                "{bad}"
            );
        }
        assert_eq!(check_in_comment(" check=skip=A why"), Some("skip=A"));
        assert_eq!(check_in_comment("nothing"), None);
    }
}
