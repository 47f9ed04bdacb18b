//! What the parse of one instruction needs: its line, and where problems go.

use super::split::Word;
use crate::diagnostic::{Diagnostic, Severity};
use crate::lines::LogicalLine;

pub(super) struct Context<'a> {
    pub(super) line: &'a LogicalLine,
    pub(super) keyword: &'a str,
    pub(super) escape: char,
    /// The comment block above.
    pub(super) comments: &'a [String],
    pub(super) diagnostics: &'a mut Vec<Diagnostic>,
    /// An error that the reference finds while it splits the line, before it looks at what the
    /// instruction is: it also refuses such a trigger.
    pub(super) is_malformed: bool,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        line: &'a LogicalLine,
        keyword: &'a str,
        escape: char,
        comments: &'a [String],
        diagnostics: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            line,
            keyword,
            escape,
            comments,
            diagnostics,
            is_malformed: false,
        }
    }

    /// As [`Self::error_at`], for what the line's grammar does not allow.
    pub(super) fn malformed_at(
        &mut self,
        word: &Word,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.is_malformed = true;
        self.error_at(word, message, help);
    }

    /// A problem of the whole instruction.
    pub(super) fn error(&mut self, message: impl Into<String>, help: Option<String>) {
        let end = self.line.text.trim_end().len();
        self.push(Severity::Error, 0, end, message.into(), help);
    }

    /// A problem of one word of it.
    pub(super) fn error_at(
        &mut self,
        word: &Word,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.push(Severity::Error, word.start, word.end, message.into(), help);
    }

    pub(super) fn warning_at(
        &mut self,
        word: &Word,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.push(
            Severity::Warning,
            word.start,
            word.end,
            message.into(),
            help,
        );
    }

    fn push(
        &mut self,
        severity: Severity,
        start: usize,
        end: usize,
        message: String,
        help: Option<String>,
    ) {
        let span = self.line.source_span(start, end);
        self.diagnostics.push(Diagnostic {
            severity,
            rule: None,
            message,
            help,
            lines: self.line.lines,
            span,
        });
    }
}
