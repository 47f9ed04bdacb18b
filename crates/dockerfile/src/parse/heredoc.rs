//! Heredocs: which words open one, and where its body ends (rules H01-H06).

use crate::instruction::Heredoc;
use crate::lines::Lines;
use crate::text::trim_newline;
use crate::word::{split_delimiter, split_keeping_syntax};

/// A heredoc as opened by a word, before its body is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
    pub(super) fd: Option<u32>,
}

impl Opening {
    /// `body` is the text as in the file.
    pub(super) fn with_body(self, body: String) -> Heredoc {
        let Self {
            name,
            expand,
            strip_tabs,
            fd,
        } = self;
        let stripped = if strip_tabs {
            without_tabs(&body)
        } else {
            None
        };
        let (body, body_with_tabs) = match stripped {
            Some(stripped) => (stripped, Some(body)),
            None => (body, None),
        };
        Heredoc {
            name,
            expand,
            strip_tabs,
            fd,
            body,
            body_with_tabs,
        }
    }
}

/// The heredocs a logical line opens, in order. A line whose quotes or substitutions do not end
/// opens none.
pub(super) fn openings(line: &str) -> Vec<Opening> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let words = split_keeping_syntax(line).unwrap_or_default();
    words.iter().filter_map(|word| opening(word)).collect()
}

/// Reads `<digits><<[-]<blanks><delimiter>` (rule H02).
pub(super) fn opening(word: &str) -> Option<Opening> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &word[..word.len() - rest.len()];
    let rest = rest.strip_prefix("<<")?;
    let (strip_tabs, rest) = rest
        .strip_prefix('-')
        .map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let name = single_word(rest, false)?;
    let with_quotes = single_word(rest, true)?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Opening {
        // Quotes that vanish when the delimiter is unquoted make the body literal (rule H03).
        expand: quotes(&name) == quotes(&with_quotes),
        name,
        strip_tabs,
        fd: if digits.is_empty() {
            None
        } else {
            Some(digits.parse().unwrap_or(u32::MAX))
        },
    })
}

fn single_word(text: &str, raw_quotes: bool) -> Option<String> {
    let words = split_delimiter(text, raw_quotes).ok()?;
    let [word] = <[String; 1]>::try_from(words).ok()?;
    Some(word)
}

/// Reads the body up to the terminator (rule H05): `None` when the file ends first.
pub(super) fn read_body(
    opening: &Opening,
    lines: &mut Lines<'_>,
    end: &mut usize,
) -> Option<String> {
    let mut body = String::new();
    for line in lines {
        let content = trim_newline(line.raw);
        let candidate = if opening.strip_tabs {
            content.trim_start_matches('\t')
        } else {
            content
        };
        if candidate == opening.name {
            *end = line.content_end();
            return Some(body);
        }
        body.push_str(line.raw);
    }
    None
}

/// The body without the tabs that lead its lines (rule H04), if there are any.
fn without_tabs(body: &str) -> Option<String> {
    let mut lines = body.split_inclusive('\n');
    let any = lines.clone().any(|line| line.starts_with('\t'));
    any.then(|| {
        lines
            .by_ref()
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    })
}
