//! `FROM` (rule P22).

use super::context::Context;
use super::flags::{self, Kind, Known};
use super::instruction::fields;
use super::split::{Command, Word};
use super::{Descriptions, Parser, skipped_checks};
use crate::instruction::Stage;
use crate::lines::LogicalLine;
use crate::text::quote;

const FROM: Known = &[("platform", Kind::One)];

impl Parser<'_> {
    pub(super) fn from(
        &mut self,
        line: &LogicalLine,
        command: &Command<'_>,
        comments: Vec<String>,
    ) {
        self.unknown_run = 0;
        let escape = self.file.directives.escape;
        let mut context = Context::new(
            line,
            command.keyword,
            escape,
            &comments,
            &mut self.diagnostics,
        );
        let flags = flags::parse(&mut context, &command.flags, FROM);
        let words = fields(command);
        // After an error the stage stays, so that what follows still has one.
        let (name, as_word) = name(&mut context, &words).unwrap_or_default();
        self.file.stages.push(Stage {
            description: name
                .as_ref()
                .and_then(|name| Descriptions::new(&comments).of(&name.to_lowercase())),
            name: name.as_ref().map(|name| name.to_lowercase()),
            name_written: name,
            base: words
                .into_iter()
                .next()
                .map(|word| word.text)
                .unwrap_or_default(),
            platform: flags.one("platform"),
            keyword: command.keyword.to_owned(),
            as_keyword: as_word,
            skip_checks: skipped_checks(&comments),
            comments,
            lines: line.lines,
            span: line.span,
            text: line.text.trim().to_owned(),
            instructions: Vec::new(),
        });
    }
}

/// The stage's name and the `AS` before it, both as written; `None` after an error.
fn name(context: &mut Context<'_>, words: &[Word]) -> Option<(Option<String>, Option<String>)> {
    match words {
        [_] => Some((None, None)),
        [_, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
            if is_valid(&name.text.to_lowercase()) {
                return Some((Some(name.text.clone()), Some(keyword.text.clone())));
            }
            let message = format!(
                "invalid name for build stage: {}, name can't start with a number or contain symbols",
                quote(&name.text)
            );
            let help =
                "a name begins with a letter and holds letters, digits, - _ and .".to_owned();
            context.error_at(name, message, Some(help));
            None
        }
        _ => {
            let help = match words {
                [] => "write FROM <image>, FROM <stage> or FROM scratch".to_owned(),
                [_, last] if last.text.eq_ignore_ascii_case("as") => {
                    "a name is missing after AS".to_owned()
                }
                _ if words.iter().any(|word| word.text.starts_with('#')) => {
                    "a comment must be on its own line".to_owned()
                }
                [base, name] => format!(
                    "write FROM {} AS {} to name the stage",
                    base.text, name.text
                ),
                _ => "write FROM <image> or FROM <image> AS <name>".to_owned(),
            };
            context.error("FROM requires either one or three arguments", Some(help));
            None
        }
    }
}

/// `^[a-z][a-z0-9-_.]*$`
fn is_valid(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}
