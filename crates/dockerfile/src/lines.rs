//! Physical lines, and the logical lines that continuations make of them (rules P05-P11, P32).

use crate::source::{LineRange, Span};
use crate::text::{is_comment, trim_newline};

/// Longest physical line, in bytes without its LF (rule P11).
pub const MAX_LINE_BYTES: usize = 65_535;

/// The byte order mark that may open a file (rule P04).
pub(crate) const BOM: char = '\u{feff}';

/// One physical line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    /// The text with its line end.
    pub(crate) raw: &'a str,
    /// Byte offset of `raw` in the source.
    pub(crate) start: usize,
    /// Counted from 1.
    pub(crate) number: u32,
}

impl<'a> Line<'a> {
    pub(crate) fn content(&self) -> &'a str {
        trim_newline(self.raw)
    }

    /// Offset just after the text, before the line end.
    pub(crate) fn content_end(&self) -> usize {
        self.start + self.content().len()
    }

    pub(crate) fn span(&self) -> Span {
        Span {
            start: self.start,
            end: self.content_end(),
        }
    }

    /// Whether the line is over [`MAX_LINE_BYTES`].
    pub(crate) fn is_too_long(&self) -> bool {
        self.raw.strip_suffix('\n').unwrap_or(self.raw).len() > MAX_LINE_BYTES
    }
}

/// Hands out physical lines one by one.
#[derive(Debug, Clone)]
pub(crate) struct Lines<'a> {
    text: &'a str,
    offset: usize,
    number: u32,
}

impl<'a> Lines<'a> {
    /// Starts after a byte order mark, if there is one.
    pub(crate) fn new(text: &'a str) -> Self {
        let offset = if text.starts_with(BOM) {
            BOM.len_utf8()
        } else {
            0
        };
        Self {
            text,
            offset,
            number: 0,
        }
    }

    /// Number of the last line handed out.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Byte offset of the next line.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = &self.text[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
        let line = Line {
            raw: &rest[..length],
            start: self.offset,
            number: self.number.saturating_add(1),
        };
        self.offset += length;
        self.number = line.number;
        Some(line)
    }
}

/// An instruction's text with its continuation lines joined, and where each piece came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogicalLine {
    pub(crate) text: String,
    /// `(offset in text, offset in source)` of each piece, ascending.
    pieces: Vec<(usize, usize)>,
    pub(crate) lines: LineRange,
    /// From the first character to the end of the last line.
    pub(crate) span: Span,
    /// Blank lines were dropped between continued lines (rule P08).
    pub(crate) has_empty_continuation: bool,
}

impl LogicalLine {
    /// Reads the continuation lines of the instruction whose first line is `first`.
    pub(crate) fn read(first: Line<'_>, rest: &mut Lines<'_>, escape: char) -> Self {
        let content = first.content();
        let trimmed = content.trim_start();
        let start = first.start + content.len() - trimmed.len();
        let (head, mut continues) = cut_continuation(trimmed, escape);
        let mut logical = Self {
            text: head.to_owned(),
            pieces: vec![(0, start)],
            lines: LineRange {
                first: first.number,
                last: first.number,
            },
            span: Span {
                start,
                end: first.content_end(),
            },
            has_empty_continuation: false,
        };
        while continues {
            let Some(line) = rest.next() else { break };
            logical.lines.last = line.number;
            logical.span.end = line.content_end();
            let content = line.content();
            if is_comment(content) {
                continue;
            }
            if content.trim_start().is_empty() {
                logical.has_empty_continuation = true;
                continue;
            }
            let (piece, more) = cut_continuation(content, escape);
            logical.pieces.push((logical.text.len(), line.start));
            logical.text.push_str(piece);
            continues = more;
        }
        logical
    }

    /// The part from byte `at` on, for the trigger inside `ONBUILD`.
    pub(crate) fn tail(&self, at: usize) -> Self {
        let first = self.pieces.partition_point(|piece| piece.0 <= at);
        let mut pieces = vec![(0, self.source_offset(at))];
        pieces.extend(
            self.pieces[first..]
                .iter()
                .map(|piece| (piece.0 - at, piece.1)),
        );
        Self {
            text: self.text[at..].to_owned(),
            pieces,
            lines: self.lines,
            span: Span {
                start: self.source_offset(at),
                end: self.span.end,
            },
            has_empty_continuation: false,
        }
    }

    /// Where byte `at` of `text` stands in the source.
    pub(crate) fn source_offset(&self, at: usize) -> usize {
        let index = self.pieces.partition_point(|piece| piece.0 <= at);
        match index
            .checked_sub(1)
            .and_then(|index| self.pieces.get(index))
        {
            Some((logical, source)) => source + (at - logical),
            None => self.span.start,
        }
    }

    /// The source span of `text[start..end]`.
    pub(crate) fn source_span(&self, start: usize, end: usize) -> Span {
        let from = self.source_offset(start);
        // The end belongs to the piece of the last byte, not to the one that starts after it.
        let to = if end > start {
            self.source_offset(end - 1) + 1
        } else {
            from
        };
        Span {
            start: from,
            end: to.max(from),
        }
    }
}

/// Splits a continuation off the end of `line`: the text before the escape character, and whether
/// there was one (rule P05).
pub(crate) fn cut_continuation(line: &str, escape: char) -> (&str, bool) {
    let Some(head) = line.trim_end_matches([' ', '\t']).strip_suffix(escape) else {
        return (line, false);
    };
    // The reference's pattern wants a character that is not the escape before it, so `\\` and
    // also `\\\` at the end of a line end the instruction.
    if head.ends_with(escape) {
        (line, false)
    } else {
        (head, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p05_continuation_wants_one_escape_and_only_blanks_after_it() {
        let cases = [
            ("a \\", Some("a ")),
            ("a\\", Some("a")),
            ("a \\ \t ", Some("a ")),
            ("\\", Some("")),
            ("\\  ", Some("")),
            ("a \\\\", None),
            ("a \\\\\\", None),
            ("\\\\", None),
            ("a \\ # why", None),
            ("a \\\u{a0}", None),
            ("a `", None),
            ("", None),
        ];
        for (line, want) in cases {
            let got = cut_continuation(line, '\\');
            assert_eq!(
                got,
                want.map_or((line, false), |head| (head, true)),
                "{line:?}"
            );
        }
        assert_eq!(cut_continuation("a `  ", '`'), ("a ", true));
        assert_eq!(cut_continuation("a \\", '`'), ("a \\", false));
    }

    fn read(text: &str) -> LogicalLine {
        let mut lines = Lines::new(text);
        let first = lines.next().expect("a line");
        LogicalLine::read(first, &mut lines, '\\')
    }

    #[test]
    fn p06_joining_inserts_nothing_and_keeps_leading_blanks() {
        assert_eq!(read("  RUN a\\\n  b\\\nc\n").text, "RUN a  bc");
    }

    #[test]
    fn p07_p08_comments_and_blank_lines_vanish() {
        let line = read("RUN a \\\n # x \\\n\n  \n b\nRUN c");
        assert_eq!(line.text, "RUN a  b");
        assert_eq!(line.lines, LineRange { first: 1, last: 5 });
        assert!(line.has_empty_continuation);
    }

    #[test]
    fn p32_crlf_joins_like_lf() {
        assert_eq!(read("RUN a \\\r\n b\r\n").text, "RUN a  b");
    }

    #[test]
    fn source_offsets_survive_joining() {
        let text = "RUN aa \\\n#c\n  bb\n";
        let line = read(text);
        let at = line.text.find("bb").expect("bb");
        assert_eq!(&text[line.source_offset(at)..][..2], "bb");
        let span = line.source_span(4, 6);
        assert_eq!(&text[span.start..span.end], "aa");
        let tail = line.tail(at);
        assert_eq!(&text[tail.source_offset(0)..][..2], "bb");
    }

    #[test]
    fn p11_limit_counts_the_line_without_lf() {
        let line = |length: usize, end: &str| format!("{}{end}", "x".repeat(length));
        for (text, want) in [
            (line(65_535, "\n"), false),
            (line(65_535, ""), false),
            (line(65_536, "\n"), true),
            (line(65_535, "\r\n"), true),
        ] {
            let first = Lines::new(&text).next().expect("a line");
            assert_eq!(first.is_too_long(), want, "{}", text.len());
        }
    }
}
