//! Why a command failed: what kind of trouble, what it was, and what to do about it.

use std::fmt;

use crate::report::Problem;

/// Decides the exit code; documented in docs/reference/exit-codes.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A step of the build failed.
    Build,
    /// The command line is wrong.
    Usage,
    /// The Dockerfile is wrong.
    Dockerfile,
    /// The machine does not allow or have what is needed.
    Environment,
    /// An image could not be had.
    Registry,
    /// The store is damaged, in use, or of another version.
    Cache,
    /// A bug in layercake.
    Internal,
    /// Interrupted by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
}

impl FailureKind {
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Build => 1,
            Self::Usage => 2,
            Self::Dockerfile => 3,
            Self::Environment => 4,
            Self::Registry => 5,
            Self::Cache => 6,
            Self::Internal => 70,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

/// An error as people see it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// Each on a line of its own after the message.
    pub hints: Vec<String>,
    /// Printed before all else: the last output of the step that failed.
    pub excerpt: Option<String>,
    /// Where in the Dockerfile. A single one is shown above the message, which is about it; of
    /// several each is shown with a message of its own.
    pub problems: Vec<Problem>,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hints: Vec::new(),
            excerpt: None,
            problems: Vec::new(),
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The whole chain of causes as one sentence.
    pub fn of(kind: FailureKind, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors repeat their source in their own text.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        Self::new(kind, message)
    }
}

impl Failure {
    /// As it is printed; `styled` with colours.
    #[must_use]
    pub fn render(&self, styled: bool) -> String {
        let mut parts: Vec<String> = self.excerpt.iter().cloned().collect();
        match self.problems.as_slice() {
            [problem] => parts.push(problem.excerpt(styled)),
            problems => parts.extend(problems.iter().map(|each| each.render(styled) + "\n")),
        }
        parts.push(format!("ERROR: {}", self.message));
        parts.extend(self.hints.iter().map(|hint| format!("  hint: {hint}")));
        parts.join("\n")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        let kind = match &error {
            store::Error::Io { source, .. }
                if source.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()) =>
            {
                FailureKind::Environment
            }
            // A step made a file that no layer can hold (rule L10).
            store::Error::Entry { .. } => FailureKind::Build,
            _ => FailureKind::Cache,
        };
        Self::of(kind, &error)
    }
}

impl From<&sandbox::Error> for Failure {
    fn from(error: &sandbox::Error) -> Self {
        use sandbox::Error as E;
        let kind = match error {
            E::CommandNotFound { .. }
            | E::CommandNotExecutable { .. }
            | E::ExecFormat { .. }
            | E::InterpreterMissing { .. }
            | E::Execute { .. }
            | E::TargetIsRoot { .. }
            | E::MountType { .. } => FailureKind::Build,
            E::Invalid { .. } => FailureKind::Usage,
            _ => FailureKind::Environment,
        };
        let mut failure = Self::of(kind, error);
        failure.hints.extend(error.remedy());
        failure
    }
}
