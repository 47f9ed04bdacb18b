//! `ONBUILD` (rule P26).

use super::context::Context;
use super::json::{self, Array};
use super::split::{self, Command, Word};
use super::{Parser, flags, instruction, skipped_checks};
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
        let text = trigger_text(line, &heredocs);
        let before = self.diagnostics.len();
        {
            let diagnostics = &mut self.diagnostics;
            let mut context = Context {
                line,
                keyword: command.keyword,
                escape,
                comments: &comments,
                diagnostics,
            };
            flags::parse(&mut context, &command.flags, &[]);
            if command.arguments.is_empty() {
                let help = Some("write ONBUILD <instruction>".to_owned());
                context.error("ONBUILD requires at least one argument", help);
            }
        }
        if self.diagnostics.len() > before {
            return;
        }
        let tail = line.tail(command.arguments_start);
        let inner = split::command(command.arguments, escape);
        let kind = self.trigger_kind(&tail, &inner, heredocs, line);
        let Some(kind) = kind else { return };
        let trigger = Instruction {
            kind,
            keyword: inner.keyword.to_owned(),
            text: command.arguments.to_owned(),
            description: None,
            comments: Vec::new(),
            skip_checks: Vec::new(),
            lines: line.lines,
            span: tail.span,
        };
        let instruction = Instruction {
            kind: InstructionKind::Onbuild(Onbuild {
                text,
                trigger: Box::new(trigger),
            }),
            keyword: command.keyword.to_owned(),
            text: line.text.trim().to_owned(),
            description: (!comments.is_empty()).then(|| comments.join("\n")),
            skip_checks: skipped_checks(&comments),
            comments,
            lines: line.lines,
            span: line.span,
        };
        match self.file.stages.last_mut() {
            Some(stage) => stage.instructions.push(instruction),
            None => self.before_from(line, command),
        }
    }

    fn trigger_kind(
        &mut self,
        tail: &LogicalLine,
        inner: &Command<'_>,
        heredocs: Vec<Heredoc>,
        line: &LogicalLine,
    ) -> Option<InstructionKind> {
        let keyword = inner.keyword.to_uppercase();
        let refused = match keyword.as_str() {
            "ONBUILD" => Some("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
            "FROM" | "MAINTAINER" => Some(format!("{keyword} isn't allowed as an ONBUILD trigger")),
            _ => None,
        };
        let escape = self.file.directives.escape;
        let before = self.diagnostics.len();
        let diagnostics = &mut self.diagnostics;
        let mut context = Context {
            line: tail,
            keyword: inner.keyword,
            escape,
            comments: &[],
            diagnostics,
        };
        if let Some(message) = refused {
            let (start, end) = (inner.start, inner.start + inner.keyword.len());
            context.error_at(
                &Word {
                    text: keyword,
                    start,
                    end,
                },
                message,
                None,
            );
            return None;
        }
        let kind = instruction::parse(&mut context, inner, heredocs);
        if kind.is_none() && self.diagnostics.len() == before {
            let span = tail.source_span(inner.start, inner.start + inner.keyword.len());
            let help = super::hint::known_instruction(inner.keyword);
            let place = Place {
                lines: line.lines,
                span,
            };
            self.error(
                place,
                format!("unknown instruction: {}", inner.keyword),
                Some(help),
            );
        }
        kind
    }

    /// `FROM`, `ONBUILD` or `MAINTAINER` in the text of a trigger.
    pub(super) fn refused_trigger(&mut self, line: &LogicalLine, command: &Command<'_>) {
        let span = line.source_span(command.start, command.start + command.keyword.len());
        let message = format!(
            "{} isn't allowed as an ONBUILD trigger",
            command.keyword.to_uppercase()
        );
        self.error(
            Place {
                lines: line.lines,
                span,
            },
            message,
            None,
        );
    }
}

/// The text stored in the image: the line without its `ONBUILD`, then each heredoc's body and
/// terminator.
fn trigger_text(line: &LogicalLine, heredocs: &[Heredoc]) -> String {
    let blank = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ');
    let rest = line.text.trim_start_matches(blank);
    let rest = rest.get("ONBUILD".len()..).unwrap_or_default();
    let mut text = rest.trim_start_matches(blank).to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(heredoc.body_as_written());
        text.push_str(&heredoc.name);
    }
    text
}
