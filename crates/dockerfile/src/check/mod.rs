//! The build checks (`--check`, and the warnings of a build): BuildKit's rules by their names.
//!
//! [`check`] finds all that a file, its build arguments and its `.dockerignore` show; what a base
//! image adds comes in through [`CheckContext::base`].

mod casing;
mod evaluate;
mod expose;
mod from;
mod platform;
mod reference;
mod report;
mod rules;
mod secrets;
mod syntax;

use std::collections::BTreeMap;

pub use rules::{RULES, Rule, rule};

use crate::diagnostic::Diagnostic;
use crate::ignore::Patterns;
use crate::instruction::{CheckOptions, File};
use report::Report;

/// What a check knows beside the file.
pub struct CheckContext<'a> {
    /// `--build-arg`.
    pub build_args: &'a BTreeMap<String, String>,
    /// `--target`; the last stage when `None`. Only `TARGETSTAGE` depends on it.
    pub target: Option<&'a str>,
    /// `os/arch[/variant]`.
    pub target_platform: &'a str,
    pub build_platform: &'a str,
    /// The context's ignore file.
    pub ignore: Option<&'a Patterns>,
    /// What the stage with this index of the file begins with, where that is an image; `None`
    /// counts as an image without any config.
    pub base: &'a dyn Fn(usize) -> Option<BaseImage>,
    /// The stages to evaluate, in order of the file: those a build needs. `None`: all (rule S07).
    pub stages: Option<&'a [usize]>,
    /// Options in place of the file's `# check=` (`BUILDKIT_DOCKERFILE_CHECK`).
    pub options: Option<&'a CheckOptions>,
}

impl std::fmt::Debug for CheckContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckContext")
            .field("build_args", &self.build_args)
            .field("target", &self.target)
            .field("target_platform", &self.target_platform)
            .field("stages", &self.stages)
            .finish_non_exhaustive()
    }
}

/// What the checks want to know of a base image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseImage {
    pub env: Vec<(String, String)>,
    /// `config.Shell` is not empty.
    pub has_shell: bool,
    /// `config.OnBuild`.
    pub onbuild: Vec<String>,
    /// `os/arch[/variant]` as in the config.
    pub platform: Option<String>,
}

/// What the checks found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checked {
    /// In the order in which BuildKit reports them: by pass, then by place.
    pub warnings: Vec<Diagnostic>,
    /// Why the evaluation ended early: the build fails here too.
    pub stopped: Option<Diagnostic>,
    /// The rules that fired, when `error=true` makes that a failure.
    pub failed_rules: Vec<&'static str>,
}

/// Runs all rules on a file that parsed without errors.
pub fn check(file: &File, context: &CheckContext<'_>) -> Checked {
    let options = context.options.unwrap_or(&file.directives.check);
    let mut report = Report::new(options);
    syntax::check(file, &mut report);
    casing::check(file, &mut report);
    let stopped = from::check(file, context, &mut report)
        .and_then(|stages| evaluate::check(file, context, stages, &mut report))
        .err();
    report.finish(stopped)
}

/// Reads the options of a `# check=` directive or of `BUILDKIT_DOCKERFILE_CHECK`.
///
/// # Errors
/// What is wrong, in BuildKit's words.
pub fn parse_options(text: &str) -> Result<CheckOptions, String> {
    crate::parse::directive::parse_check(text)
}
