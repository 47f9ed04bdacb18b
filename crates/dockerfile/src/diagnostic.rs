//! What the parser and the checks have to say about a file. A diagnostic is not a Rust error: a
//! file may have many, and parsing goes on after each.

use crate::source::{LineRange, Span};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Name of the build check (`StageNameCasing`), `None` for a syntax error.
    pub rule: Option<&'static str>,
    pub message: String,
    /// What to do about it; shown on its own line.
    pub help: Option<String>,
    pub lines: LineRange,
    pub span: Span,
}
