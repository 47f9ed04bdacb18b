//! What to tell people who wrote a line that is no instruction.

use super::heredoc::Opening;
use super::split::Command;
use crate::lines::LogicalLine;
use crate::source::Span;
use crate::suggest::nearest_ignoring_case;
use crate::text::is_comment;

const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// First words that are nearly always a shell command whose line lost its continuation.
const SHELL_WORDS: [&str; 22] = [
    "&&", "||", "|", ";", "apk", "apt", "apt-get", "cd", "chmod", "chown", "curl", "dnf", "done",
    "echo", "fi", "mkdir", "mv", "npm", "pip", "rm", "wget", "yum",
];

/// Where the instruction before a bad line stands.
#[derive(Debug, Clone)]
pub(super) struct Previous {
    /// Its physical lines, heredoc bodies excluded.
    span: Span,
    last_line: u32,
    /// It holds `<<` that opened no heredoc.
    has_dead_heredoc: bool,
}

impl Previous {
    /// `(start, end)` are the offsets of its physical lines.
    pub(super) fn new(line: &LogicalLine, (start, end): (usize, usize), no_heredocs: bool) -> Self {
        Self {
            span: Span { start, end },
            last_line: line.lines.last,
            has_dead_heredoc: no_heredocs && line.text.contains("<<"),
        }
    }
}

/// Help for a line that is no instruction.
pub(super) fn unknown_instruction(
    text: &str,
    command: &Command<'_>,
    previous: Option<&Previous>,
    escape: char,
) -> String {
    if let Some(cause) = previous.and_then(|previous| broken_continuation(text, previous, escape)) {
        return cause;
    }
    let shell = SHELL_WORDS.contains(&command.keyword)
        || command.keyword.starts_with(['-', '&', '|', '"', '\'']);
    match previous {
        _ if is_misspelt(command.keyword) => known_instruction(command.keyword),
        Some(previous) if previous.has_dead_heredoc => format!(
            "the << on line {} opens no heredoc: a quote or a substitution on that line does not end, \
             or the word after << is not a plain delimiter",
            previous.last_line
        ),
        Some(previous) if shell => format!(
            "if this line belongs to the instruction above it, end line {} with {escape}; \
             if it is a command of its own, write RUN before it",
            previous.last_line
        ),
        _ => known_instruction(command.keyword),
    }
}

/// Whether a word looks like a misspelt instruction.
pub(super) fn is_misspelt(keyword: &str) -> bool {
    misspelt(keyword).is_some()
}

fn misspelt(keyword: &str) -> Option<&'static str> {
    // Two letters are as near to some instruction as any others.
    if keyword.chars().count() <= 2 || SHELL_WORDS.contains(&keyword) {
        return None;
    }
    nearest_ignoring_case(keyword, INSTRUCTIONS)
}

/// The nearest instruction, or all of them.
pub(super) fn known_instruction(keyword: &str) -> String {
    match misspelt(keyword) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!(
            "an instruction is one of {}; a shell command needs RUN before it",
            INSTRUCTIONS.join(", ")
        ),
    }
}

/// Why the instruction before this line ended although it looks continued.
fn broken_continuation(text: &str, previous: &Previous, escape: char) -> Option<String> {
    let lines = text.get(previous.span.start..previous.span.end)?;
    let last = lines
        .lines()
        .rfind(|line| !line.trim().is_empty() && !is_comment(line))?;
    let number = previous.last_line;
    let end = last.trim_end();
    if let Some((_, after)) = last.rsplit_once(escape) {
        let comment = after.trim_start();
        if comment.starts_with('#') && after.len() > comment.len() {
            return Some(format!(
                "line {number} does not continue here: its {escape} is followed by `{}`; \
                 nothing may follow the {escape}, move the comment to its own line",
                shortened(comment.trim_end())
            ));
        }
        if !after.is_empty() && comment.is_empty() {
            return Some(format!(
                "line {number} does not continue here: its {escape} is followed by a blank that is neither space nor tab"
            ));
        }
    }
    if end.ends_with(escape) {
        return Some(format!(
            "line {number} does not continue here: {escape}{escape} at its end is an escaped {escape}; write a single one"
        ));
    }
    let other = if escape == '\\' { '`' } else { '\\' };
    let before = end.strip_suffix(other)?;
    before.ends_with([' ', '\t']).then(|| {
        format!("line {number} ends in {other}, but this file's escape character is {escape}; see the escape directive")
    })
}

/// Help for a heredoc whose terminator is missing; `rest` is the file after line `number`.
pub(super) fn unterminated_heredoc(opening: &Opening, rest: &str, number: u32) -> String {
    let name = &opening.name;
    let candidate = (number + 1..)
        .zip(rest.lines())
        .find(|(_, line)| line.trim() == name.as_str());
    if let Some((number, line)) = candidate {
        let why = if line.trim_end() != line {
            "blanks after it"
        } else {
            "blanks before it"
        };
        let cure = if line.trim_start() != line && line.trim_start_matches('\t') == name.as_str() {
            format!("; <<-{name} allows tabs before it")
        } else {
            String::new()
        };
        return format!("line {number} has {name} with {why}; it must be the whole line{cure}");
    }
    format!("end it with a line that is exactly {}", shortened(name))
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
