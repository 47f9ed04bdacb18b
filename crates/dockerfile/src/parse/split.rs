//! Cuts a logical line into keyword, flags and arguments, and arguments into words.
//!
//! Every piece keeps its byte offset in the line, for messages.

use crate::text::is_separator;

/// A piece of a logical line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// The text; quotes are resolved in flags and kept in arguments.
    pub(super) text: String,
    /// Byte range in the logical line, quotes included.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A logical line in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command<'a> {
    pub(super) keyword: &'a str,
    /// Offset of the keyword.
    pub(super) start: usize,
    pub(super) flags: Vec<Word>,
    /// The rest, blanks at the ends removed.
    pub(super) arguments: &'a str,
    /// Offset of `arguments`.
    pub(super) arguments_start: usize,
}

pub(super) fn command(line: &str, escape: char) -> Command<'_> {
    let trimmed = line.trim();
    let start = line.len() - line.trim_start().len();
    let keyword_length = trimmed.find(is_separator).unwrap_or(trimmed.len());
    let keyword = &trimmed[..keyword_length];
    let after = trimmed[keyword_length..].trim_start_matches(is_separator);
    let after_start = start + trimmed.len() - after.len();
    let (flags, rest) = flags(after, escape);
    let arguments = after[rest..].trim();
    let arguments_start = after_start + after.len() - after[rest..].trim_start().len();
    Command {
        keyword,
        start,
        flags: flags
            .into_iter()
            .map(|flag| Word {
                start: flag.start + after_start,
                end: flag.end + after_start,
                ..flag
            })
            .collect(),
        arguments,
        arguments_start,
    }
}

/// The words at the head of `text` that start with `--`, quotes and escapes resolved, and where
/// the rest begins; a bare `--` ends them (rule P16).
fn flags(text: &str, escape: char) -> (Vec<Word>, usize) {
    let mut flags = Vec::new();
    let mut position = 0;
    loop {
        position = text.len() - text[position..].trim_start().len();
        if !text[position..].starts_with("--") {
            return (flags, position);
        }
        let word = flag_word(text, position, escape);
        position = word.end;
        if word.text == "--" {
            return (flags, position);
        }
        flags.push(word);
    }
}

/// One flag from `start` to the next blank outside quotes.
fn flag_word(text: &str, start: usize, escape: char) -> Word {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[start..].char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            return Word {
                text: word,
                start,
                end: start + at,
            };
        }
        if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
        } else if c == escape {
            // Also inside single quotes; at the very end it vanishes.
            if let Some((_, escaped)) = chars.next() {
                word.push(escaped);
            }
        } else {
            word.push(c);
        }
    }
    Word {
        text: word,
        start,
        end: text.len(),
    }
}

/// Words split at blanks outside quotes, quotes and escapes kept (rule P19): `ENV`, `LABEL`, `ARG`.
pub(super) fn quoted_words(text: &str, escape: char) -> Vec<Word> {
    let mut words = Vec::new();
    let mut position = 0;
    loop {
        position = text.len() - text[position..].trim_start().len();
        if position == text.len() {
            return words;
        }
        let word = quoted_word(text, position, escape);
        position = word.end;
        if !word.text.is_empty() {
            words.push(word);
        }
    }
}

fn quoted_word(text: &str, start: usize, escape: char) -> Word {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[start..].char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            return Word {
                text: word,
                start,
                end: start + at,
            };
        }
        if c == escape && quote != Some('\'') {
            // An escape character at the very end vanishes.
            if let Some((_, escaped)) = chars.next() {
                word.push(c);
                word.push(escaped);
            }
            continue;
        }
        if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
        }
        word.push(c);
    }
    Word {
        text: word,
        start,
        end: text.len(),
    }
}

/// Fields split at blanks, quotes having no meaning: `FROM`, `COPY`, `EXPOSE`, `VOLUME`.
pub(super) fn fields(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut position = 0;
    // An argument list is trimmed of all Unicode blanks but split only at some of them.
    while position < text.len() {
        let rest = &text[position..];
        let length = rest.find(is_separator).unwrap_or(rest.len());
        words.push(Word {
            text: rest[..length].to_owned(),
            start: position,
            end: position + length,
        });
        let after = &rest[length..];
        position = text.len() - after.trim_start_matches(is_separator).len();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[Word]) -> Vec<&str> {
        words.iter().map(|word| word.text.as_str()).collect()
    }

    #[test]
    fn p16_flags_end_at_the_first_argument_or_at_two_dashes() {
        let cases: [(&str, &[&str], &str); 9] = [
            ("COPY --a=b --c d --e", &["--a=b", "--c"], "d --e"),
            ("COPY --a -- --b", &["--a"], "--b"),
            ("COPY --", &[], ""),
            ("COPY --a=\"b c\" d", &["--a=b c"], "d"),
            ("COPY --a='b\\ c' d", &["--a=b c"], "d"),
            ("COPY --a=b\\ c d", &["--a=b c"], "d"),
            ("COPY --a=\"b c", &["--a=b c"], ""),
            ("  COPY   -x y  ", &[], "-x y"),
            ("COPY --a\u{a0}é", &["--a"], "é"),
        ];
        for (line, flags, arguments) in cases {
            let command = command(line, '\\');
            assert_eq!(command.keyword, "COPY", "{line}");
            assert_eq!(texts(&command.flags), flags, "{line}");
            assert_eq!(command.arguments, arguments, "{line}");
            assert!(
                line[command.arguments_start..].starts_with(arguments),
                "{line}"
            );
        }
    }

    #[test]
    fn p19_words_keep_quotes_and_escapes() {
        let cases: [(&str, &[&str]); 7] = [
            ("a=b  c=\"d e\" f='g h'i", &["a=b", "c=\"d e\"", "f='g h'i"]),
            ("a=b\\ c", &["a=b\\ c"]),
            ("a=\"b\\\" c\" d", &["a=\"b\\\" c\"", "d"]),
            ("a='b\\' c", &["a='b\\'", "c"]),
            ("a=\"b c", &["a=\"b c"]),
            ("a=b\\", &["a=b"]),
            ("\"\"", &["\"\""]),
        ];
        for (text, want) in cases {
            assert_eq!(texts(&quoted_words(text, '\\')), want, "{text}");
        }
    }

    #[test]
    fn fields_split_at_ascii_blanks_only() {
        assert_eq!(texts(&fields("a\t \u{b}b\u{a0}c")), ["a", "b\u{a0}c"]);
        assert!(fields("").is_empty());
    }
}
