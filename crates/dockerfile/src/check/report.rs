//! Collects warnings that are not switched off.

use super::Checked;
use super::rules::Rule;
use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::{CheckOptions, Instruction, Place, Stage};
use crate::parse::directive::{check_in_comment, parse_check};

pub(super) struct Report<'a> {
    options: &'a CheckOptions,
    /// Options of the comment block above the instruction at hand.
    local: CheckOptions,
    warnings: Vec<Diagnostic>,
}

impl<'a> Report<'a> {
    pub(super) fn new(options: &'a CheckOptions) -> Self {
        Self {
            options,
            local: CheckOptions::default(),
            warnings: Vec::new(),
        }
    }

    /// Takes the `# check=` of a comment block into account for what is warned of next; an empty
    /// block goes back to the options of the file.
    pub(super) fn with_comments(&mut self, comments: &[String]) -> &mut Self {
        self.local = comments
            .iter()
            .find_map(|comment| check_in_comment(comment))
            .and_then(|text| parse_check(text).ok())
            .unwrap_or_default();
        self
    }

    /// Only the options of the file count.
    pub(super) fn globally(&mut self) -> &mut Self {
        self.with_comments(&[])
    }

    pub(super) fn warn(
        &mut self,
        rule: &'static Rule,
        place: Place,
        message: String,
        help: Option<String>,
    ) {
        if !self.is_on(rule) {
            return;
        }
        let Place { lines, span } = place;
        self.warnings.push(Diagnostic {
            severity: Severity::Warning,
            rule: Some(rule.name),
            message,
            help,
            lines,
            span,
        });
    }

    fn is_on(&self, rule: &Rule) -> bool {
        let named = |list: &[String]| list.iter().any(|name| name == rule.name);
        let (file, local) = (self.options, &self.local);
        if rule.experimental {
            file.experimental_all
                || local.experimental_all
                || named(&file.experimental)
                || named(&local.experimental)
        } else {
            !(file.skip_all || local.skip_all || named(&file.skip) || named(&local.skip))
        }
    }

    pub(super) fn finish(self, stopped: Option<Diagnostic>) -> Checked {
        let mut failed_rules: Vec<&'static str> = Vec::new();
        if self.options.error {
            for rule in self.warnings.iter().filter_map(|warning| warning.rule) {
                if !failed_rules.contains(&rule) {
                    failed_rules.push(rule);
                }
            }
        }
        Checked {
            warnings: self.warnings,
            stopped,
            failed_rules,
        }
    }
}

pub(super) fn place_of(instruction: &Instruction) -> Place {
    Place {
        lines: instruction.lines,
        span: instruction.span,
    }
}

pub(super) fn place_of_stage(stage: &Stage) -> Place {
    Place {
        lines: stage.lines,
        span: stage.span,
    }
}

/// An error that ends the evaluation.
pub(super) fn stop(place: Place, message: String) -> Diagnostic {
    let Place { lines, span } = place;
    Diagnostic {
        severity: Severity::Error,
        rule: None,
        message,
        help: None,
        lines,
        span,
    }
}
