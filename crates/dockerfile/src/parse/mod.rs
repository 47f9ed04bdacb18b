//! The parser: text in, [`File`] and diagnostics out (rules P01-P32, H01-H06).
//!
//! It refuses what BuildKit refuses before it evaluates anything, and one thing more: options of
//! `RUN --mount` that can never be right are errors here, where BuildKit notices them only in the
//! stages it builds. Flags that BuildKit splits off and forgets (`ARG --x`) are warnings.

mod context;
mod csv;
pub(crate) mod directive;
mod flags;
mod from;
mod healthcheck;
mod heredoc;
mod hint;
mod instruction;
mod json;
mod mount;
mod number;
mod onbuild;
mod run;
mod split;

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::{Directives, File, Heredoc, Instruction, InstructionKind, Place};
use crate::lines::{Line, Lines, LogicalLine, MAX_LINE_BYTES};
use crate::source::{LineRange, Source, Span};
use context::Context;
pub use mount::OptionError;

/// What a text says, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    pub file: File,
    /// In the order of the file. Build checks are not among them, see [`crate::check`].
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether the file must be refused.
    pub fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// Parses a whole Dockerfile. Instructions that cannot be understood are left out of the file and
/// have an error in the diagnostics; parsing goes on after them.
pub fn parse(source: &Source) -> Parsed {
    let mut parser = Parser::new(&source.text);
    parser.file.directives.syntax = directive::detect_syntax(&source.text);
    parser.check_directive();
    parser.run();
    parser.check_whole_file();
    Parsed {
        file: parser.file,
        diagnostics: parser.diagnostics,
    }
}

/// Parses the text of an `ONBUILD` trigger, as stored in an image's config: one instruction with
/// the bodies of its heredocs, escape character `\` unless the text has a directive. What other
/// programs put there may be what `ONBUILD` does not take, `MAINTAINER` and `ONBUILD`, but no
/// `FROM`.
pub fn parse_trigger(text: &str) -> (Option<Instruction>, Vec<Diagnostic>) {
    let mut parser = Parser::new(text);
    parser.trigger = true;
    parser.run();
    let mut instructions = std::mem::take(&mut parser.file.meta_args);
    let whole = Place {
        lines: LineRange {
            first: 1,
            last: parser.lines.number().max(1),
        },
        span: Span {
            start: 0,
            end: text.len(),
        },
    };
    if parser.count != 1 && parser.diagnostics.is_empty() {
        parser.error(
            whole,
            "onbuild trigger should be a single expression".to_owned(),
            None,
        );
    }
    let failed = parser
        .diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error);
    let instruction = if failed { None } else { instructions.pop() };
    (instruction, parser.diagnostics)
}

/// What the block of comments above says of each name: the text after `# <name> ` in the first
/// line that begins so (rule P30).
struct Descriptions<'a>(HashMap<&'a str, &'a str>);

impl<'a> Descriptions<'a> {
    fn new(comments: &'a [String]) -> Self {
        let mut by_name = HashMap::new();
        for (name, text) in comments.iter().filter_map(|line| line.split_once(' ')) {
            by_name.entry(name).or_insert(text);
        }
        Self(by_name)
    }

    fn of(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|text| (*text).to_owned())
    }
}

/// Rules a comment block switches off for its instruction.
fn skipped_checks(comments: &[String]) -> Vec<String> {
    let Some(text) = comments
        .iter()
        .find_map(|comment| directive::check_in_comment(comment))
    else {
        return Vec::new();
    };
    match directive::parse_check(text) {
        Ok(options) if options.skip_all => vec!["all".to_owned()],
        Ok(options) => options.skip,
        Err(_) => Vec::new(),
    }
}

struct Parser<'a> {
    text: &'a str,
    lines: Lines<'a>,
    scanner: directive::Scanner,
    comments: Vec<String>,
    file: File,
    diagnostics: Vec<Diagnostic>,
    /// The text is one trigger: there are no stages.
    trigger: bool,
    /// Instructions seen, good or bad.
    count: usize,
    /// The instruction before this one, for hints.
    previous: Option<hint::Previous>,
    /// Lines that are no instruction and follow another such line, not reported one by one.
    unknown_run: u32,
    /// A line was too long; the reference stops reading there.
    stopped: bool,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            lines: Lines::new(text),
            scanner: directive::Scanner::default(),
            comments: Vec::new(),
            file: File {
                directives: Directives::default(),
                ..File::default()
            },
            diagnostics: Vec::new(),
            trigger: false,
            count: 0,
            previous: None,
            unknown_run: 0,
            stopped: false,
        }
    }

    fn run(&mut self) {
        while let Some(line) = self.lines.next() {
            if self.too_long(&line) {
                return;
            }
            let content = line.content();
            if crate::text::is_comment(content) {
                self.comment(line);
                continue;
            }
            // Any line that is no comment ends the directives.
            let _ = self.scanner.line(content.trim_start(), "#");
            if content.trim().is_empty() {
                continue;
            }
            self.instruction(line);
            if self.stopped {
                return;
            }
        }
    }

    fn too_long(&mut self, line: &Line<'_>) -> bool {
        if !line.is_too_long() {
            return false;
        }
        let place = Place {
            lines: LineRange {
                first: line.number,
                last: line.number,
            },
            span: Span {
                start: line.start,
                end: line.start,
            },
        };
        let message = format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}");
        self.error(
            place,
            message,
            Some("continue it on the next line, or COPY the data from a file".to_owned()),
        );
        self.stopped = true;
        true
    }

    fn comment(&mut self, line: Line<'_>) {
        let content = line.content();
        let lines = LineRange {
            first: line.number,
            last: line.number,
        };
        match self.scanner.line(content.trim_start(), "#") {
            Ok(None) => {
                // The reference drops the first character, whatever it is: an indented comment
                // keeps its `#`.
                let mut rest = content.chars();
                rest.next();
                let comment = rest.as_str().trim();
                if comment.is_empty() {
                    self.comments.clear();
                } else {
                    self.comments.push(comment.to_owned());
                }
            }
            Ok(Some((directive::Key::Escape, value))) => match value {
                "\\" => self.file.directives.escape = '\\',
                "`" => self.file.directives.escape = '`',
                _ => {
                    let message = format!("invalid escape token '{value}' does not match ` or \\");
                    self.error(
                        Place {
                            lines,
                            span: line.span(),
                        },
                        message,
                        Some("write # escape=` or leave it out".to_owned()),
                    );
                }
            },
            Ok(Some(_)) => {}
            Err(directive::Repeated(key)) => {
                let message = format!("only one {} parser directive can be used", key.name());
                self.error(
                    Place {
                        lines,
                        span: line.span(),
                    },
                    message,
                    Some("remove this line".to_owned()),
                );
            }
        }
    }

    fn instruction(&mut self, first: Line<'_>) {
        let escape = self.file.directives.escape;
        let start = first.start;
        let mut line = LogicalLine::read(first, &mut self.lines, escape);
        let physical_end = self.lines.offset();
        if self.has_long_line(start, physical_end, line.lines.first) {
            return;
        }
        if line.has_empty_continuation {
            let lines = LineRange {
                first: line.lines.last,
                last: line.lines.last,
            };
            self.file.empty_continuations.push(Place {
                lines,
                span: line.span,
            });
        }
        self.count += 1;
        let comments = std::mem::take(&mut self.comments);
        let logical = line.clone();
        let command = split::command(&logical.text, escape);
        let heredocs = self.heredocs(&mut line, &command);
        let previous = hint::Previous::new(&line, (start, physical_end), heredocs.is_empty());
        match command.keyword.to_ascii_uppercase().as_str() {
            "FROM" if !self.trigger => self.from(&line, &command, comments),
            "FROM" => self.refused_trigger(&line, &command),
            "ONBUILD" => self.onbuild(&line, &command, comments, heredocs),
            _ => self.plain(&line, &command, comments, heredocs),
        }
        self.previous = Some(previous);
    }

    /// A continuation line over the limit.
    fn has_long_line(&mut self, start: usize, end: usize, first: u32) -> bool {
        if end - start <= MAX_LINE_BYTES {
            return false;
        }
        let mut at = start;
        for (number, raw) in (first..).zip(self.text[start..end].split_inclusive('\n')) {
            if self.too_long(&Line {
                raw,
                start: at,
                number,
            }) {
                return true;
            }
            at += raw.len();
        }
        false
    }

    /// The bodies that follow `line`, which grows to hold them.
    fn heredocs(&mut self, line: &mut LogicalLine, command: &split::Command<'_>) -> Vec<Heredoc> {
        if !onbuild::may_open_heredocs(command, self.file.directives.escape) {
            return Vec::new();
        }
        let mut heredocs = Vec::new();
        for opening in heredoc::openings(&line.text) {
            let (start, number) = (self.lines.offset(), self.lines.number());
            let mut end = line.span.end;
            let body = heredoc::read_body(&opening, &mut self.lines, &mut end);
            line.lines.last = self.lines.number();
            let Some(body) = body else {
                let place = Place {
                    lines: line.lines,
                    span: line.source_span(0, line.text.trim_end().len()),
                };
                let help = hint::unterminated_heredoc(&opening, &self.text[start..], number);
                self.error(place, "unterminated heredoc".to_owned(), Some(help));
                line.span.end = self.text.len();
                return Vec::new();
            };
            line.span.end = end;
            heredocs.push(opening.with_body(body));
        }
        heredocs
    }

    fn plain(
        &mut self,
        line: &LogicalLine,
        command: &split::Command<'_>,
        comments: Vec<String>,
        heredocs: Vec<Heredoc>,
    ) {
        let escape = self.file.directives.escape;
        let mut context = Context::new(
            line,
            command.keyword,
            escape,
            &comments,
            &mut self.diagnostics,
        );
        let before = context.diagnostics.len();
        let kind = instruction::parse(&mut context, command, heredocs);
        let known = kind.is_some() || self.diagnostics.len() > before;
        if !known {
            self.unknown(line, command);
            return;
        }
        self.unknown_run = 0;
        if let Some(kind) = kind {
            self.add(kind, line, command, comments);
        }
    }

    /// Puts an instruction where it belongs.
    fn add(
        &mut self,
        kind: InstructionKind,
        line: &LogicalLine,
        command: &split::Command<'_>,
        comments: Vec<String>,
    ) {
        let is_arg = matches!(kind, InstructionKind::Arg(_));
        let instruction = Instruction {
            kind,
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
            None if is_arg || self.trigger => self.file.meta_args.push(instruction),
            None => self.before_from(line, command),
        }
    }

    /// Rule P23.
    fn before_from(&mut self, line: &LogicalLine, command: &split::Command<'_>) {
        // A FROM that did not parse has its own message.
        if self
            .diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
        {
            return;
        }
        let span = line.source_span(command.start, command.start + command.keyword.len());
        let help = format!(
            "a stage begins with FROM; only ARG may stand before it, not {}",
            command.keyword.to_uppercase()
        );
        self.error(
            Place {
                lines: line.lines,
                span,
            },
            "no build stage in current context".to_owned(),
            Some(help),
        );
    }

    /// Rule P29, and why the line may have been taken for an instruction.
    fn unknown(&mut self, line: &LogicalLine, command: &split::Command<'_>) {
        // The lines of a command that lost its continuation are one mistake, misspellings are many.
        if !hint::is_misspelt(command.keyword) {
            self.unknown_run += 1;
            if self.unknown_run > 1 {
                return;
            }
        }
        let span = line.source_span(command.start, command.start + command.keyword.len());
        let help = hint::unknown_instruction(
            self.text,
            command,
            self.previous.as_ref(),
            self.file.directives.escape,
        );
        self.error(
            Place {
                lines: line.lines,
                span,
            },
            format!("unknown instruction: {}", command.keyword),
            Some(help),
        );
    }

    fn error(&mut self, place: Place, message: String, help: Option<String>) {
        let Place { lines, span } = place;
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            rule: None,
            message,
            help,
            lines,
            span,
        });
    }

    fn check_directive(&mut self) {
        let Some(text) = directive::detect_check(self.text) else {
            return;
        };
        match directive::parse_check(text) {
            Ok(options) => self.file.directives.check = options,
            Err(message) => {
                let number = self
                    .text
                    .lines()
                    .position(|line| line.contains(text))
                    .unwrap_or(0) as u32
                    + 1;
                let start = self.text.find(text).unwrap_or(0);
                let place = Place {
                    lines: LineRange {
                        first: number,
                        last: number,
                    },
                    span: Span {
                        start,
                        end: start + text.len(),
                    },
                };
                let help =
                    "write # check=skip=<rule>,<rule>;error=true;experimental=all".to_owned();
                self.error(
                    place,
                    format!("failed to parse check options: {message}"),
                    Some(help),
                );
            }
        }
    }

    /// Rule P12.
    fn check_whole_file(&mut self) {
        if self
            .diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
        {
            return;
        }
        let message = if self.text.is_empty() {
            "the Dockerfile cannot be empty"
        } else if self.count == 0 {
            "file with no instructions"
        } else if self.file.stages.is_empty() {
            "dockerfile contains no stages to build"
        } else {
            return;
        };
        let place = Place {
            lines: LineRange {
                first: 1,
                last: self.lines.number().max(1),
            },
            span: Span::default(),
        };
        self.error(
            place,
            message.to_owned(),
            Some("begin with FROM <image>, or FROM scratch".to_owned()),
        );
    }
}
