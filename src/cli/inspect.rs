//! `layercake inspect`: what can be said of a Dockerfile without touching an image.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use dockerfile::check::{CheckContext, check};
use dockerfile::{Diagnostic, LineRange, Parsed, Severity, Source};
use graph::facts::{Platform, Selection};
use graph::inspect::{Inspection, inspect};
use serde_json::{Value, json};

use super::call::pretty;
use super::{build, check as rules, inspect_text, parse};
use crate::engine;
use crate::failure::{Failure, FailureKind};
use crate::report::{self, LineStarts, Problem};

/// Show what a Dockerfile builds and needs, without touching an image
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The Dockerfile; - reads standard input
    file: PathBuf,
    /// For people or for programs
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Look at this stage instead of the last one
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set a build argument; without a value it comes from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Platform to build for
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    platform: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// All there is to say.
pub(super) struct Report {
    pub(super) source: Arc<Source>,
    pub(super) parsed: Parsed,
    pub(super) inspection: Inspection,
    /// Of all stages, in order of line.
    pub(super) warnings: Vec<Diagnostic>,
    /// Why the file cannot be built.
    pub(super) errors: Vec<Problem>,
}

/// Succeeds whatever the file is like, as long as it can be read.
pub(super) fn run(args: &InspectArgs) -> Result<u8, Failure> {
    let source = engine::read_alone(&args.file)?;
    let report = examine(source, &selection(args)?);
    match args.format {
        Format::Json => report::data(&pretty(&document(&report)?)?),
        Format::Text => report::data(inspect_text::render(&report).trim_end()),
    }
    Ok(0)
}

fn selection(args: &InspectArgs) -> Result<Selection, Failure> {
    let platform: Platform = parse::platform(&args.platform)?;
    Ok(Selection {
        target: args.target.clone(),
        build_args: build::build_args(&args.build_arg),
        target_platform: platform.clone(),
        build_platform: platform,
        ..Selection::default()
    })
}

fn examine(source: Arc<Source>, selection: &Selection) -> Report {
    let parsed = dockerfile::parse(&source);
    let inspection = inspect(&parsed, selection);
    let mut warnings = Vec::new();
    if !parsed.has_errors() {
        let platform = selection.target_platform.to_string();
        let context = CheckContext {
            build_args: &selection.build_args,
            target: selection.target.as_deref(),
            target_platform: &platform,
            build_platform: &platform,
            ignore: None,
            base: &|_| None,
            stages: None,
            options: None,
        };
        warnings = check(&parsed.file, &context).warnings;
        warnings.sort_by_key(|warning| warning.lines.first);
    }
    let errors = errors(&source, &parsed, &inspection);
    Report {
        source,
        parsed,
        inspection,
        warnings,
        errors,
    }
}

fn errors(source: &Arc<Source>, parsed: &Parsed, inspection: &Inspection) -> Vec<Problem> {
    if parsed.has_errors() {
        let found = parsed.diagnostics.iter();
        let errors = found.filter(|found| found.severity == Severity::Error);
        return errors.map(|error| Problem::new(source, error)).collect();
    }
    let placed = inspection.error.iter().map(|error| {
        let lines = LineRange {
            first: error.line,
            last: error.line,
        };
        Problem::at_lines(
            source,
            lines,
            None,
            error.message.as_str(),
            error.help.clone(),
        )
    });
    placed.collect()
}

fn document(report: &Report) -> Result<Value, Failure> {
    let mut document = serde_json::to_value(&report.inspection)
        .map_err(|e| Failure::of(FailureKind::Internal, &e))?;
    let starts = LineStarts::new(&report.source.text);
    let warning = |warning: &Diagnostic| {
        let mut value = Problem::new(&report.source, warning).json(&starts);
        value["lines"] = (warning.lines.first..=warning.lines.last).collect();
        value["url"] = json!(rules::page(warning.rule.unwrap_or_default()));
        value
    };
    let directives = &report.parsed.file.directives;
    document["syntax"] = json!(directives.syntax);
    document["escape"] = json!(directives.escape);
    document["warnings"] = report.warnings.iter().map(warning).collect();
    // What the parser warns of is no build check.
    let found = report.parsed.diagnostics.iter();
    let hints = found
        .filter(|found| found.severity == Severity::Warning)
        .map(|hint| Problem::new(&report.source, hint).json(&starts));
    let errors = report.errors.iter().map(|error| error.json(&starts));
    document["diagnostics"] = errors.chain(hints).collect();
    Ok(document)
}
