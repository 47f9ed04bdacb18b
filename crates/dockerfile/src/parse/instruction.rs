//! From the parts of a logical line to a typed instruction.

use std::collections::HashMap;

use super::context::Context;
use super::flags::{self, Kind, Known};
use super::heredoc;
use super::json::{self, Array};
use super::split::{self, Command, Word};
use super::{healthcheck, run};
use crate::instruction::{
    ArgDeclaration, CommandLine, Copy, CopySource, Heredoc, InstructionKind, KeyValues,
};
use crate::text::{is_separator, quote};

const ADD: Known = &[
    ("chown", Kind::One),
    ("chmod", Kind::One),
    ("link", Kind::Bool),
    ("keep-git-dir", Kind::Bool),
    ("checksum", Kind::One),
    ("unpack", Kind::Bool),
    ("exclude", Kind::Many),
];
const COPY: Known = &[
    ("chown", Kind::One),
    ("from", Kind::One),
    ("chmod", Kind::One),
    ("link", Kind::Bool),
    ("exclude", Kind::Many),
    ("parents", Kind::Bool),
];

/// Types the arguments of `command`, `FROM` and `ONBUILD` excepted. `None` when that is not
/// possible; the diagnostics tell why.
pub(super) fn parse(
    context: &mut Context<'_>,
    command: &Command<'_>,
    heredocs: Vec<Heredoc>,
) -> Option<InstructionKind> {
    let keyword = command.keyword.to_ascii_uppercase();
    Some(match keyword.as_str() {
        "ADD" => InstructionKind::Add(copy(context, command, &keyword, ADD, heredocs)?),
        "COPY" => InstructionKind::Copy(copy(context, command, &keyword, COPY, heredocs)?),
        "ARG" => InstructionKind::Arg(arg(context, command)?),
        "CMD" => InstructionKind::Cmd(command_without_flags(context, command)?),
        "ENTRYPOINT" => InstructionKind::Entrypoint(command_without_flags(context, command)?),
        "ENV" => InstructionKind::Env(key_values(context, command, &keyword)?),
        "LABEL" => InstructionKind::Label(key_values(context, command, &keyword)?),
        "EXPOSE" => InstructionKind::Expose(expose(context, command)?),
        "HEALTHCHECK" => InstructionKind::Healthcheck(healthcheck::parse(context, command)?),
        "MAINTAINER" => InstructionKind::Maintainer(rest_of_line(context, command, &keyword)?),
        "RUN" => InstructionKind::Run(run::parse(context, command, heredocs)?),
        "SHELL" => InstructionKind::Shell(shell(context, command)?),
        "STOPSIGNAL" => {
            ignored_flags(context, command);
            InstructionKind::Stopsignal(only_argument(context, command, &keyword)?)
        }
        "USER" => InstructionKind::User(rest_of_line(context, command, &keyword)?),
        "VOLUME" => InstructionKind::Volume(volume(context, command)?),
        "WORKDIR" => InstructionKind::Workdir(rest_of_line(context, command, &keyword)?),
        _ => return None,
    })
}

/// Shell or exec form; `None` for an array with an element that is not a string (rule P13).
pub(super) fn command_line(
    context: &mut Context<'_>,
    text: &str,
    at: usize,
) -> Option<CommandLine> {
    match json::parse_array(text) {
        Array::Strings(words) => Some(CommandLine::Exec(words)),
        Array::Invalid => Some(CommandLine::Shell(text.to_owned())),
        Array::Mixed => {
            not_strings(context, text, at);
            None
        }
    }
}

fn not_strings(context: &mut Context<'_>, text: &str, at: usize) {
    let word = Word {
        text: String::new(),
        start: at,
        end: at + text.len(),
    };
    let message = "when using JSON array syntax, arrays must be comprised of strings only";
    context.malformed_at(
        &word,
        message,
        Some("put every element in double quotes".to_owned()),
    );
}

/// The arguments as one word.
pub(super) fn whole(command: &Command<'_>) -> Word {
    let start = command.arguments_start;
    Word {
        text: command.arguments.to_owned(),
        start,
        end: start + command.arguments.len(),
    }
}

/// Words of a JSON array or, failing that, fields; whether it was an array.
fn list(context: &mut Context<'_>, command: &Command<'_>) -> Option<(Vec<Word>, bool)> {
    match json::parse_array(command.arguments) {
        Array::Strings(words) => {
            let place = whole(command);
            Some((
                words
                    .into_iter()
                    .map(|text| Word {
                        text,
                        ..place.clone()
                    })
                    .collect(),
                true,
            ))
        }
        Array::Invalid => Some((fields(command), false)),
        Array::Mixed => {
            not_strings(context, command.arguments, command.arguments_start);
            None
        }
    }
}

/// The arguments split at blanks.
pub(super) fn fields(command: &Command<'_>) -> Vec<Word> {
    shifted(split::fields(command.arguments), command)
}

fn shifted(words: Vec<Word>, command: &Command<'_>) -> Vec<Word> {
    let by = command.arguments_start;
    words
        .into_iter()
        .map(|word| Word {
            start: word.start + by,
            end: word.end + by,
            ..word
        })
        .collect()
}

fn at_least_one(context: &mut Context<'_>, keyword: &str) {
    let help = match keyword {
        "VOLUME" => "write VOLUME <path>...",
        "EXPOSE" => "write EXPOSE <port>[/<protocol>]...",
        "ENV" | "LABEL" => "write <name>=<value>",
        "ARG" => "write ARG <name>[=<default>]",
        "SHELL" => "write SHELL [\"program\", \"argument\"]",
        _ => "write what it is about after it, or remove the line",
    };
    let message = format!("{keyword} requires at least one argument");
    context.error(message, Some(help.to_owned()));
}

/// Flags the reference splits off but never looks at.
pub(super) fn ignored_flags(context: &mut Context<'_>, command: &Command<'_>) {
    let keyword = command.keyword.to_ascii_uppercase();
    for flag in &command.flags {
        let message = format!("{keyword} takes no flags; {} has no effect", flag.text);
        context.warning_at(flag, message, Some("remove it".to_owned()));
    }
}

fn only_argument(
    context: &mut Context<'_>,
    command: &Command<'_>,
    keyword: &str,
) -> Option<String> {
    if command.arguments.is_empty() {
        let help = format!("write {keyword} <value>");
        context.error(
            format!("{keyword} requires exactly one argument"),
            Some(help),
        );
        return None;
    }
    Some(command.arguments.to_owned())
}

/// One value, blanks included (rule P24).
fn rest_of_line(context: &mut Context<'_>, command: &Command<'_>, keyword: &str) -> Option<String> {
    flags::parse(context, &command.flags, &[]);
    only_argument(context, command, keyword)
}

fn command_without_flags(context: &mut Context<'_>, command: &Command<'_>) -> Option<CommandLine> {
    flags::parse(context, &command.flags, &[]);
    command_line(context, command.arguments, command.arguments_start)
}

fn expose(context: &mut Context<'_>, command: &Command<'_>) -> Option<Vec<String>> {
    flags::parse(context, &command.flags, &[]);
    let mut ports: Vec<String> = fields(command).into_iter().map(|word| word.text).collect();
    if ports.is_empty() {
        at_least_one(context, "EXPOSE");
        return None;
    }
    ports.sort();
    Some(ports)
}

fn shell(context: &mut Context<'_>, command: &Command<'_>) -> Option<Vec<String>> {
    flags::parse(context, &command.flags, &[]);
    match command_line(context, command.arguments, command.arguments_start)? {
        CommandLine::Exec(words) if !words.is_empty() => Some(words),
        CommandLine::Shell(text) if !text.is_empty() => {
            let message = format!("SHELL requires the arguments to be in JSON form, not: {text}");
            let words: Vec<String> = text.split_whitespace().map(quote).collect();
            context.error_at(
                &whole(command),
                message,
                Some(format!("write SHELL [{}]", words.join(", "))),
            );
            None
        }
        _ => {
            at_least_one(context, "SHELL");
            None
        }
    }
}

fn volume(context: &mut Context<'_>, command: &Command<'_>) -> Option<Vec<String>> {
    flags::parse(context, &command.flags, &[]);
    let (words, _) = list(context, command)?;
    if words.is_empty() {
        at_least_one(context, "VOLUME");
        return None;
    }
    if let Some(blank) = words.iter().find(|word| word.text.trim().is_empty()) {
        context.error_at(blank, "VOLUME specified can not be an empty string", None);
        return None;
    }
    Some(
        words
            .into_iter()
            .map(|word| word.text.trim().to_owned())
            .collect(),
    )
}

/// `ENV` and `LABEL` (rules P18, P19).
fn key_values(
    context: &mut Context<'_>,
    command: &Command<'_>,
    keyword: &str,
) -> Option<KeyValues> {
    flags::parse(context, &command.flags, &[]);
    let words = shifted(
        split::quoted_words(command.arguments, context.escape),
        command,
    );
    let Some(first) = words.first() else {
        at_least_one(context, keyword);
        return None;
    };
    if !first.text.contains('=') {
        let Some((key, value)) = command.arguments.split_once(is_separator) else {
            let help = format!("write {keyword} {}=<value>", first.text);
            context.malformed_at(
                first,
                format!("{keyword} must have two arguments"),
                Some(help),
            );
            return None;
        };
        let value = value.trim_start_matches(is_separator);
        return Some(KeyValues {
            pairs: vec![(key.to_owned(), value.to_owned())],
            legacy: true,
        });
    }
    let mut pairs = Vec::with_capacity(words.len());
    let mut good = true;
    for word in &words {
        match word.text.split_once('=') {
            Some(("", _)) => {
                context.error_at(word, format!("{keyword} names can not be blank"), None);
                good = false;
            }
            Some((key, value)) => pairs.push((key.to_owned(), value.to_owned())),
            None => {
                let shown = quote(&word.text);
                let message = format!(
                    "Syntax error - can't find = in {shown}. Must be of the form: name=value"
                );
                context.malformed_at(
                    word,
                    message,
                    Some(missing_equals_help(keyword, &word.text)),
                );
                // The words after a comment or an unquoted blank fail alike.
                return None;
            }
        }
    }
    good.then_some(KeyValues {
        pairs,
        legacy: false,
    })
}

fn missing_equals_help(keyword: &str, word: &str) -> String {
    if word.starts_with('#') {
        "a comment must be on its own line: text after # on an instruction's line is part of it"
            .to_owned()
    } else {
        format!("quote a value that holds blanks: {keyword} name=\"a value\"")
    }
}

/// `ARG` (rule P20).
fn arg(context: &mut Context<'_>, command: &Command<'_>) -> Option<Vec<ArgDeclaration>> {
    ignored_flags(context, command);
    let words = shifted(
        split::quoted_words(command.arguments, context.escape),
        command,
    );
    if words.is_empty() {
        at_least_one(context, "ARG");
        return None;
    }
    let descriptions = super::Descriptions::new(context.comments);
    let mut declarations = Vec::with_capacity(words.len());
    let mut good = true;
    for word in &words {
        let (name, default) = match word.text.split_once('=') {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (word.text.as_str(), None),
        };
        if name.is_empty() {
            context.error_at(word, "ARG names can not be blank", None);
            good = false;
        }
        declarations.push(ArgDeclaration {
            name: name.to_owned(),
            default,
            description: descriptions.of(name),
            lines: context.line.lines,
        });
    }
    good.then_some(declarations)
}

/// `COPY` and `ADD`.
fn copy(
    context: &mut Context<'_>,
    command: &Command<'_>,
    keyword: &str,
    known: Known,
    heredocs: Vec<Heredoc>,
) -> Option<Copy> {
    let flags = flags::parse(context, &command.flags, known);
    let (words, _) = list(context, command)?;
    let (destination, sources) = destination(context, keyword, words)?;
    if heredoc::opening(&destination.text).is_some() {
        let help = format!("write {keyword} <<EOF /path/of/the/file");
        context.error_at(
            &destination,
            format!("{keyword} cannot accept a heredoc as a destination"),
            Some(help),
        );
        return None;
    }
    // Bodies go by name, the last of equal names.
    let bodies: HashMap<&str, &Heredoc> = heredocs
        .iter()
        .map(|heredoc| (heredoc.name.as_str(), heredoc))
        .collect();
    let sources = sources
        .into_iter()
        .map(|word| source(word, &bodies))
        .collect();
    Some(Copy {
        sources,
        destination: destination.text,
        from: flags.one("from"),
        chown: flags.one("chown"),
        chmod: flags.one("chmod"),
        link: flags.bool("link") == Some(true),
        parents: flags.bool("parents") == Some(true),
        exclude: flags.values("exclude"),
        checksum: flags.one("checksum"),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
    })
}

/// The last word and those before it (rule P27).
fn destination(
    context: &mut Context<'_>,
    keyword: &str,
    mut words: Vec<Word>,
) -> Option<(Word, Vec<Word>)> {
    match words.pop() {
        Some(destination) if !words.is_empty() => Some((destination, words)),
        given => {
            let count = if given.is_some() {
                "only one was"
            } else {
                "none were"
            };
            let message = format!(
                "{keyword} requires at least two arguments, but {count} provided. Destination could not be determined"
            );
            context.error(
                message,
                Some(format!("write {keyword} <source>... <destination>")),
            );
            None
        }
    }
}

fn source(word: Word, bodies: &HashMap<&str, &Heredoc>) -> CopySource {
    match heredoc::opening(&word.text) {
        None => CopySource::Path(word.text),
        Some(opening) => {
            // In JSON form there is no body.
            let found = bodies.get(opening.name.as_str());
            let body = found
                .map(|heredoc| heredoc.body_as_written().to_owned())
                .unwrap_or_default();
            CopySource::Heredoc(opening.with_body(body))
        }
    }
}
