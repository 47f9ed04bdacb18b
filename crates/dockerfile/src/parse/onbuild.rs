//! `ONBUILD` (rule P26).

use super::context::Context;
use super::json::{self, Array};
use super::split::{self, Command};
use super::{Parser, flags, instruction};
use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::{Heredoc, Instruction, InstructionKind, Onbuild, Place};
use crate::lines::LogicalLine;

/// Whether a line may open heredocs: `RUN`, `COPY` and `ADD`, also as triggers, not in JSON form
/// (rule H01).
pub(super) fn may_open_heredocs(command: &Command<'_>, escape: char) -> bool {
    let inner;
    let command = if command.keyword.eq_ignore_ascii_case("ONBUILD") {
        inner = split::command(command.arguments, escape);
        &inner
    } else {
        command
    };
    let keyword = command.keyword;
    ["RUN", "COPY", "ADD"]
        .iter()
        .any(|known| keyword.eq_ignore_ascii_case(known))
        && !matches!(json::parse_array(command.arguments), Array::Strings(_))
}

impl Parser<'_> {
    pub(super) fn onbuild(
        &mut self,
        line: &LogicalLine,
        command: &Command<'_>,
        comments: Vec<String>,
        heredocs: Vec<Heredoc>,
    ) {
        self.unknown_run = 0;
        let escape = self.file.directives.escape;
        let text = trigger_text(line, command, &heredocs);
        let before = self.diagnostics.len();
        let mut context = Context::new(
            line,
            command.keyword,
            escape,
            &comments,
            &mut self.diagnostics,
        );
        flags::parse(&mut context, &command.flags, &[]);
        if command.arguments.is_empty() {
            let help = Some("write ONBUILD <instruction>".to_owned());
            context.error("ONBUILD requires at least one argument", help);
        }
        if self.diagnostics.len() > before {
            return;
        }
        let tail = line.tail(command.arguments_start);
        let inner = split::command(command.arguments, escape);
        if let Some(message) = refused(inner.keyword) {
            self.error(keyword_place(&tail, &inner), message, None);
            return;
        }
        let trigger = self.trigger_kind(&tail, &inner, heredocs).map(|kind| {
            Box::new(Instruction {
                kind,
                keyword: inner.keyword.to_owned(),
                text: command.arguments.to_owned(),
                description: None,
                comments: Vec::new(),
                skip_checks: Vec::new(),
                lines: line.lines,
                span: tail.span,
            })
        });
        self.add(
            InstructionKind::Onbuild(Onbuild { text, trigger }),
            line,
            command,
            comments,
        );
    }

    /// What the trigger will be. The reference only splits its line here and finds the rest when a
    /// child is built, so the rest is a warning.
    fn trigger_kind(
        &mut self,
        tail: &LogicalLine,
        inner: &Command<'_>,
        heredocs: Vec<Heredoc>,
    ) -> Option<InstructionKind> {
        let mut found = Vec::new();
        let escape = self.file.directives.escape;
        let mut context = Context::new(tail, inner.keyword, escape, &[], &mut found);
        let kind = instruction::parse(&mut context, inner, heredocs);
        let is_malformed = context.is_malformed;
        if kind.is_none() && found.is_empty() {
            let Place { lines, span } = keyword_place(tail, inner);
            found.push(Diagnostic {
                severity: Severity::Error,
                rule: None,
                message: format!("unknown instruction: {}", inner.keyword),
                help: Some(super::hint::known_instruction(inner.keyword)),
                lines,
                span,
            });
        }
        let good = !found
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error);
        for mut diagnostic in found {
            if !is_malformed && diagnostic.severity == Severity::Error {
                diagnostic.severity = Severity::Warning;
                diagnostic.message = format!(
                    "builds on top of this image will fail: {}",
                    diagnostic.message
                );
            }
            self.diagnostics.push(diagnostic);
        }
        kind.filter(|_| good)
    }

    /// `FROM` in the text of a trigger.
    pub(super) fn refused_trigger(&mut self, line: &LogicalLine, command: &Command<'_>) {
        let message = refused(command.keyword).unwrap_or_default();
        self.error(keyword_place(line, command), message, None);
    }
}

/// Why an instruction can be no trigger.
fn refused(keyword: &str) -> Option<String> {
    let keyword = keyword.to_uppercase();
    match keyword.as_str() {
        "ONBUILD" => Some("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        "FROM" | "MAINTAINER" => Some(format!("{keyword} isn't allowed as an ONBUILD trigger")),
        _ => None,
    }
}

fn keyword_place(line: &LogicalLine, command: &Command<'_>) -> Place {
    let span = line.source_span(command.start, command.start + command.keyword.len());
    Place {
        lines: line.lines,
        span,
    }
}

/// The text stored in the image: the line without its `ONBUILD`, then each heredoc's body and
/// terminator.
fn trigger_text(line: &LogicalLine, command: &Command<'_>, heredocs: &[Heredoc]) -> String {
    let blank = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ');
    let rest = &line.text[command.start + command.keyword.len()..];
    let mut text = rest.trim_start_matches(blank).to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(heredoc.body_as_written());
        text.push_str(&heredoc.name);
    }
    text
}
