//! `HEALTHCHECK` (rule P28).

use super::context::Context;
use super::flags::{self, Flags, Kind, Known};
use super::instruction::{command_line, ignored_flags};
use super::number::duration;
use super::split::{Command, Word};
use crate::instruction::{CommandLine, Healthcheck, HealthcheckCommand};
use crate::text::quote;

const HEALTHCHECK: Known = &[
    ("interval", Kind::One),
    ("timeout", Kind::One),
    ("start-period", Kind::One),
    ("start-interval", Kind::One),
    ("retries", Kind::One),
];

/// Shortest duration other than 0, in nanoseconds.
const SHORTEST: i64 = 1_000_000;

pub(super) fn parse(context: &mut Context<'_>, command: &Command<'_>) -> Option<Healthcheck> {
    let kind_length = command
        .arguments
        .find(char::is_whitespace)
        .unwrap_or(command.arguments.len());
    let (kind, rest) = command.arguments.split_at(kind_length);
    let rest = rest.trim_start();
    let start = command.arguments_start;
    let word = Word {
        text: kind.to_owned(),
        start,
        end: start + kind.len(),
    };
    match kind.to_uppercase().as_str() {
        "" => {
            context.error("HEALTHCHECK requires at least one argument", Some(usage()));
            None
        }
        "NONE" => {
            ignored_flags(context, command);
            if !rest.is_empty() {
                context.error_at(&word, "HEALTHCHECK NONE takes no arguments", None);
                return None;
            }
            Some(Healthcheck::None)
        }
        "CMD" => {
            let flags = flags::parse(context, &command.flags, HEALTHCHECK);
            let at = start + command.arguments.len() - rest.len();
            let line = command_line(context, rest, at)?;
            if matches!(&line, CommandLine::Shell(text) if text.is_empty())
                || matches!(&line, CommandLine::Exec(words) if words.is_empty())
            {
                context.error("Missing command after HEALTHCHECK CMD", Some(usage()));
                return None;
            }
            Some(Healthcheck::Cmd(HealthcheckCommand {
                command: line,
                interval: interval(context, &flags, "interval"),
                timeout: interval(context, &flags, "timeout"),
                start_period: interval(context, &flags, "start-period"),
                start_interval: interval(context, &flags, "start-interval"),
                retries: retries(context, &flags),
            }))
        }
        kind => {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(kind));
            context.error_at(&word, message, Some(usage()));
            None
        }
    }
}

fn usage() -> String {
    "write HEALTHCHECK [--interval=30s ...] CMD <command>, or HEALTHCHECK NONE".to_owned()
}

fn interval(context: &mut Context<'_>, flags: &Flags, name: &str) -> i64 {
    let Some(flag) = flags.flag(name).filter(|flag| !flag.value.is_empty()) else {
        return 0;
    };
    match duration(&flag.value) {
        Ok(value) if value == 0 || value >= SHORTEST => return value,
        Ok(_) => {
            let message = format!("Interval {} cannot be less than 1ms", quote(name));
            context.error_at(&flag.word, message, Some("0 means the default".to_owned()));
        }
        Err(message) => {
            let help = "a duration is numbers with units: 500ms, 30s, 1m30s, 2h".to_owned();
            context.error_at(&flag.word, message, Some(help));
        }
    }
    0
}

fn retries(context: &mut Context<'_>, flags: &Flags) -> i64 {
    let Some(flag) = flags.flag("retries").filter(|flag| !flag.value.is_empty()) else {
        return 0;
    };
    let digits = flag.value.strip_prefix(['+', '-']).unwrap_or(&flag.value);
    let message = if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        format!(
            "strconv.ParseInt: parsing {}: invalid syntax",
            quote(&flag.value)
        )
    } else {
        match flag.value.parse::<i32>() {
            Ok(value) if value >= 0 => return value.into(),
            Ok(value) => format!("--retries cannot be negative ({value})"),
            Err(_) => format!(
                "strconv.ParseInt: parsing {}: value out of range",
                quote(&flag.value)
            ),
        }
    };
    context.error_at(
        &flag.word,
        message,
        Some("write --retries=<number>".to_owned()),
    );
    0
}
