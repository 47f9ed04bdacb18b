//! The instructions of a Dockerfile as typed values, words still unexpanded.
//!
//! Every word is kept as written (quotes and `$` included); [`crate::word`] expands it later with
//! the environment of its place. Nothing here knows what an instruction does.

use crate::source::{LineRange, Span};

/// A whole file: what the parser understood of it. Totality: any text gives a `File`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct File {
    pub directives: Directives,
    /// `ARG`s before the first `FROM` (rule P23), in order.
    pub meta_args: Vec<Instruction>,
    pub stages: Vec<Stage>,
    /// Last lines of the instructions that have blank lines between continued ones (rule P08).
    pub empty_continuations: Vec<Place>,
}

/// Where something stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    pub lines: LineRange,
    pub span: Span,
}

/// Parser directives at the head of the file (rules P01-P04).
#[derive(Debug, Clone, PartialEq)]
pub struct Directives {
    /// `# syntax=`: the reference, cut at the first blank.
    pub syntax: Option<String>,
    /// `# escape=`: `\` unless told.
    pub escape: char,
    pub check: CheckOptions,
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            syntax: None,
            escape: '\\',
            check: CheckOptions::default(),
        }
    }
}

/// `# check=skip=A,B;error=true;experimental=all`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckOptions {
    pub skip: Vec<String>,
    pub skip_all: bool,
    pub error: bool,
    pub experimental: Vec<String>,
    pub experimental_all: bool,
}

/// One `FROM` and the instructions below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The name after `AS`, lower-cased (rule S01).
    pub name: Option<String>,
    /// The name as typed, for checks.
    pub name_written: Option<String>,
    /// Image, stage or `scratch`, unexpanded.
    pub base: String,
    /// `--platform=`, unexpanded.
    pub platform: Option<String>,
    /// The keyword as typed (`FROM`, `from`) and that of `AS`, for checks.
    pub keyword: String,
    pub as_keyword: Option<String>,
    /// What the comment block above says of this stage: the text after `# <name> ` (rule P30).
    pub description: Option<String>,
    /// The comment block above, line by line, each without its `#`.
    pub comments: Vec<String>,
    /// Rules of a `# check=skip=` comment above this instruction.
    pub skip_checks: Vec<String>,
    pub lines: LineRange,
    pub span: Span,
    /// The `FROM` line as written, continuation lines joined.
    pub text: String,
    pub instructions: Vec<Instruction>,
}

/// One instruction with where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    pub kind: InstructionKind,
    /// The keyword as typed.
    pub keyword: String,
    /// The logical line as written: continuation lines joined, comments gone, flags included,
    /// heredoc bodies excluded.
    pub text: String,
    /// The comment block above, lines joined.
    pub description: Option<String>,
    /// The comment block above, line by line, each without its `#`.
    pub comments: Vec<String>,
    /// Rules of a `# check=skip=` comment above this instruction.
    pub skip_checks: Vec<String>,
    pub lines: LineRange,
    /// From the keyword to the end of the last line, heredoc bodies included.
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub enum InstructionKind {
    Add(Copy),
    Arg(Vec<ArgDeclaration>),
    Cmd(CommandLine),
    Copy(Copy),
    Entrypoint(CommandLine),
    Env(KeyValues),
    /// Words as written, sorted (rule P21).
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(KeyValues),
    Maintainer(String),
    Onbuild(Onbuild),
    Run(Run),
    /// Never empty (rule P15).
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// Shell form or exec form (rules P13-P15).
#[derive(Debug, Clone, PartialEq)]
pub enum CommandLine {
    /// The text handed to the `SHELL`, blanks at the ends removed.
    Shell(String),
    /// Decoded JSON strings; may be empty for `CMD` and `ENTRYPOINT`.
    Exec(Vec<String>),
}

/// `name` or `name=value` of `ARG` (rule P20).
#[derive(Debug, Clone, PartialEq)]
pub struct ArgDeclaration {
    pub name: String,
    /// `None`: no `=`; `Some("")`: an empty default.
    pub default: Option<String>,
    pub description: Option<String>,
    pub lines: LineRange,
}

/// `ENV` and `LABEL` (rules P18, P19).
#[derive(Debug, Clone, PartialEq)]
pub struct KeyValues {
    pub pairs: Vec<(String, String)>,
    /// `ENV key rest of the line`.
    pub legacy: bool,
}

/// `COPY` and `ADD`, flags unexpanded; a flag the other instruction owns is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Copy {
    /// Sources and heredocs in the order written.
    pub sources: Vec<CopySource>,
    pub destination: String,
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
    /// `ADD --checksum=`.
    pub checksum: Option<String>,
    /// `ADD --keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `ADD --unpack`.
    pub unpack: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CopySource {
    Path(String),
    Heredoc(Heredoc),
}

/// One heredoc with its body (rules H01-H06).
#[derive(Debug, Clone, PartialEq)]
pub struct Heredoc {
    /// The delimiter without quotes; the file name in `COPY` (rule H11).
    pub name: String,
    /// False when any part of the delimiter was quoted (rule H03).
    pub expand: bool,
    /// `<<-`: leading tabs are already gone from `body` (rule H04).
    pub strip_tabs: bool,
    /// The file descriptor number written before `<<`.
    pub fd: Option<u32>,
    /// Lines with their newlines.
    pub body: String,
    /// The body with its tabs, where `strip_tabs` removed any.
    pub body_with_tabs: Option<String>,
}

impl Heredoc {
    /// The body as in the file: what a shell gets that strips the tabs itself (rule H09).
    pub fn body_as_written(&self) -> &str {
        self.body_with_tabs.as_deref().unwrap_or(&self.body)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub command: CommandLine,
    /// Bodies in the order of their `<<` in `command` (shell form only, rules H07-H09).
    pub heredocs: Vec<Heredoc>,
    pub mounts: Vec<Mount>,
    pub network: Network,
    pub security: Security,
    /// `--device=` values, as written.
    pub devices: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    #[default]
    Sandbox,
    Insecure,
}

/// `RUN --mount=`: values unexpanded, keys checked (rules R16-R18).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mount {
    pub kind: MountKind,
    pub id: Option<String>,
    pub from: Option<String>,
    pub source: Option<String>,
    pub target: Option<String>,
    /// `Some(true)` for ro, `Some(false)` for rw, `None` for the default of the type.
    pub read_only: Option<bool>,
    /// tmpfs `size=`, bytes.
    pub size: Option<u64>,
    pub sharing: Option<Sharing>,
    pub required: Option<bool>,
    pub mode: Option<u32>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// secret `env=`.
    pub env: Option<String>,
    /// The option text as written.
    pub text: String,
    /// A typed option holds a variable, so that its field and the rules between fields wait for
    /// [`Mount::expand`].
    pub deferred: bool,
}

/// What a `--device=` value asks for: a CDI device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub required: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Healthcheck {
    None,
    Cmd(HealthcheckCommand),
}

/// Durations in nanoseconds, 0 when not given (rule P28).
#[derive(Debug, Clone, PartialEq)]
pub struct HealthcheckCommand {
    pub command: CommandLine,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

/// The trigger's own text (heredoc bodies included, rule P26) and what it parses to with the
/// escape character of this file; `None` when it is wrong, which only its children find out.
#[derive(Debug, Clone, PartialEq)]
pub struct Onbuild {
    pub text: String,
    pub trigger: Option<Box<Instruction>>,
}
