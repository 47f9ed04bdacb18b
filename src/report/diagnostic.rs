//! What is wrong with a Dockerfile, shown in its text: file, line, the piece to blame, advice.

use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use dockerfile::{Diagnostic, LineRange, Severity, Source, Span};
use serde_json::{Value, json};

/// Lines shown before and after those to blame.
const AROUND: u32 = 1;
/// Of a longer piece the middle is left out.
const MOST_LINES: u32 = 40;
/// A longer piece of text is cut: nobody reads more.
const MOST_BYTES: usize = 16 << 10;

/// One error or warning and the text it is about.
#[derive(Debug, Clone)]
pub struct Problem {
    pub source: Arc<Source>,
    pub severity: Severity,
    /// The build check that found it.
    pub rule: Option<&'static str>,
    pub message: String,
    pub help: Option<String>,
    /// All lines of the instruction.
    pub lines: LineRange,
    /// The piece of it to blame.
    pub span: Span,
}

impl Problem {
    /// What the parser or a check found.
    pub fn new(source: &Arc<Source>, found: &Diagnostic) -> Self {
        Self {
            source: source.clone(),
            severity: found.severity,
            rule: found.rule,
            message: found.message.clone(),
            help: found.help.clone(),
            lines: found.lines,
            span: found.span,
        }
    }

    /// An error about whole lines, or about `subject` where it stands in them.
    pub fn at_lines(
        source: &Arc<Source>,
        lines: LineRange,
        subject: Option<&str>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Self {
        let whole = span_of(&source.text, lines);
        let within = subject.and_then(|subject| {
            let start = whole.start + source.text[whole.start..whole.end].find(subject)?;
            let end = start + subject.len();
            Some(Span { start, end })
        });
        Self {
            source: source.clone(),
            severity: Severity::Error,
            rule: None,
            message: message.into(),
            help,
            lines,
            span: within.unwrap_or(whole),
        }
    }

    /// The JSON of `inspect` and of raw progress. Lines count from 1, columns are characters from
    /// 1, `span` is bytes from the beginning of the file.
    pub fn json(&self, lines: &LineStarts) -> Value {
        let position = |offset| {
            let (line, column) = lines.position(&self.source.text, offset);
            json!({"line": line, "column": column})
        };
        json!({
            "severity": severity_name(self.severity),
            "rule": self.rule,
            "message": self.message,
            "help": self.help,
            "file": self.source.name,
            "lines": [self.lines.first, self.lines.last],
            "span": {
                "start": self.span.start,
                "end": self.span.end,
                "from": position(self.span.start),
                "to": position(self.span.end),
            },
        })
    }

    /// The excerpt alone, for a message that stands elsewhere.
    pub fn excerpt(&self, styled: bool) -> String {
        let shown = Shown::new(self);
        let group = Group::with_level(self.level()).element(shown.snippet(self));
        renderer(styled).render(&[group])
    }

    /// Message, excerpt and advice.
    pub fn render(&self, styled: bool) -> String {
        let shown = Shown::new(self);
        let level = self.level();
        let mut title = level.primary_title(single_line(&self.message));
        if let Some(rule) = self.rule {
            title = title.id(rule);
        }
        let mut group = title.element(shown.snippet(self));
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(single_line(help)));
        }
        renderer(styled).render(&[group])
    }

    fn level(&self) -> Level<'static> {
        match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        }
    }
}

/// Where the lines of a text begin.
#[derive(Debug, Clone)]
pub struct LineStarts(Vec<usize>);

impl LineStarts {
    pub fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        Self(
            std::iter::once(0)
                .chain(ends.map(|(at, _)| at + 1))
                .collect(),
        )
    }

    /// Line and column of an offset, the column in characters, both from 1.
    fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let offset = floor(text, offset);
        let line = self.0.partition_point(|start| *start <= offset).max(1);
        let start = self.0.get(line - 1).copied().unwrap_or_default();
        (line, text[start..offset].chars().count() + 1)
    }
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn renderer(styled: bool) -> Renderer {
    let renderer = if styled {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    renderer.decor_style(DecorStyle::Ascii)
}

/// The renderer takes one line as title.
fn single_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The part of the text that is handed to the renderer.
struct Shown {
    text: Range<usize>,
    first_line: u32,
    span: Range<usize>,
    fold: bool,
}

impl Shown {
    fn new(problem: &Problem) -> Self {
        let text = problem.source.text.as_str();
        let start = floor(text, problem.span.start);
        let end = floor(text, problem.span.end.clamp(start, start + MOST_BYTES));
        let line_of = |at: usize| {
            let before = &text.as_bytes()[..at];
            before.iter().filter(|b| **b == b'\n').count() as u32 + 1
        };
        let (first, last) = (line_of(start), line_of(end.max(start + 1).min(text.len())));
        let from = first.saturating_sub(AROUND).max(1);
        let begin = line_start(text, from);
        let after = line_start(text, last + AROUND + 1);
        let finish = floor(text, after.clamp(end, end + MOST_BYTES));
        Self {
            text: begin..finish,
            first_line: from,
            span: start - begin..end - begin,
            fold: last - first > MOST_LINES,
        }
    }

    fn snippet<'a>(&self, problem: &'a Problem) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        Snippet::source(&problem.source.text[self.text.clone()])
            .line_start(self.first_line as usize)
            .path(problem.source.name.as_str())
            .fold(self.fold)
            .annotation(AnnotationKind::Primary.span(self.span.clone()))
    }
}

/// From the first character that is no blank to the end of the last line.
fn span_of(text: &str, lines: LineRange) -> Span {
    let start = line_start(text, lines.first);
    let end = line_start(text, lines.last.max(lines.first).saturating_add(1));
    let piece = &text[start..end];
    let blanks = piece.len() - piece.trim_start().len();
    Span {
        start: start + blanks,
        end: start + blanks + piece.trim().len(),
    }
}

/// Where a line begins, counted from 1; the end of the text when there are not so many.
fn line_start(text: &str, line: u32) -> usize {
    let Some(skipped) = line.checked_sub(2) else {
        return 0;
    };
    let mut ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
    ends.nth(skipped as usize)
        .map_or(text.len(), |(at, _)| at + 1)
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
#[path = "diagnostic_tests.rs"]
mod tests;
