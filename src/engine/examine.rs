//! Looking at a Dockerfile as a build would, without building: what `--call` and `--check` ask.

use ::dockerfile::check::Checked;
use ::dockerfile::{Diagnostic, Parsed};
use graph::Cancel;
use graph::facts::{Facts, Selection};
use graph::lower::LowerError;
use graph::outline::Outline;
use std::sync::Arc;

use super::build::{Build, Handoff, selection};
use super::dockerfile::{self, Dockerfile};
use super::layers::Layers;
use super::resolve::Images;
use super::{checks, start};
use crate::config;
use crate::failure::Failure;
use crate::request::BuildRequest;

/// A Dockerfile that was read and parsed, whether or not it is a good one.
pub(crate) struct Examination<'a> {
    request: &'a BuildRequest,
    pub(crate) dockerfile: Dockerfile,
    pub(crate) parsed: Parsed,
}

/// What the checks found, and why the file cannot be built.
#[derive(Debug, Default)]
pub(crate) struct Lint {
    pub(crate) warnings: Vec<Diagnostic>,
    pub(crate) failure: Option<Failure>,
}

impl<'a> Examination<'a> {
    pub(crate) fn new(request: &'a BuildRequest) -> Result<Self, Failure> {
        let dockerfile = dockerfile::read(request, None)?;
        let parsed = ::dockerfile::parse(&dockerfile.source);
        Ok(Self {
            request,
            dockerfile,
            parsed,
        })
    }

    /// All syntax errors as one failure.
    pub(crate) fn syntax(&self) -> Result<(), Failure> {
        let failure = dockerfile::syntax_failure(&self.dockerfile.source, &self.parsed.diagnostics);
        failure.map_or(Ok(()), Err)
    }

    /// The outline of the target.
    pub(crate) fn outline(&self) -> Result<Outline, Failure> {
        self.syntax()?;
        let selection = selection(self.request);
        let facts = self.facts(&selection)?;
        graph::outline::outline(&self.parsed.file, &selection, &facts).map_err(|e| self.failed(&e))
    }

    /// Runs the checks over the target, or over all stages when none was asked for.
    pub(crate) fn lint(&self) -> Lint {
        let mut warnings = Vec::new();
        let failure = self.lint_into(&mut warnings).err();
        Lint { warnings, failure }
    }

    fn lint_into(&self, warnings: &mut Vec<Diagnostic>) -> Result<(), Failure> {
        self.syntax()?;
        let file = &self.parsed.file;
        let mut selection = selection(self.request);
        selection.all_stages = selection.target.is_none();
        let facts = match self.facts(&selection) {
            Ok(facts) => facts,
            Err(failure) => {
                // What can be said without base images is said all the same.
                *warnings = checks::without_stages(file, &selection);
                return Err(failure);
            }
        };
        let checked: Checked =
            checks::run(self.request, &self.dockerfile, file, &selection, &facts)?;
        *warnings = checked.warnings;
        graph::lower::lower(file, &selection, &facts).map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// Configs of the base images; none of their layers is fetched.
    fn facts(&self, selection: &Selection) -> Result<Facts, Failure> {
        let runtime = start::runtime()?;
        let store = Arc::new(config::open_store(&self.request.store_root)?);
        let layers = Layers::new(store, None);
        let build = Build {
            request: self.request,
            runtime: runtime.handle().clone(),
            cancel: Cancel::default(),
            owners: None,
            rung: None,
            handoff: Handoff::default(),
        };
        let mut images = Images::default();
        let file = &self.parsed.file;
        let facts = build.resolve(&self.dockerfile, file, selection, &layers, &mut images);
        runtime.shutdown_background();
        facts
    }

    fn failed(&self, errors: &[LowerError]) -> Failure {
        dockerfile::lower_failure(&self.dockerfile.source, errors)
    }
}
