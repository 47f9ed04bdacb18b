//! `build --check`: the build checks, told as buildx tells them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dockerfile::check::rule;
use dockerfile::{Diagnostic, LineRange};
use graph::outline::Location;
use serde_json::{Value, json};

use super::call::pretty;
use crate::engine::{Examination, Lint};
use crate::failure::Failure;
use crate::report;

/// Where the manual has a page for each rule.
const RULE_PAGES: &str = "https://docs.docker.com/go/dockerfile/rule";

/// Prints what was found; 1 when that is anything.
pub(super) fn run(examination: &Examination<'_>, as_json: bool) -> Result<u8, Failure> {
    let lint = examination.lint();
    if as_json {
        report::data(&pretty(&document(examination, &lint))?);
    } else {
        let text = text(examination, &lint);
        if !text.is_empty() {
            report::data(&text);
        }
    }
    if let Some(failure) = &lint.failure {
        report::failure(failure);
    }
    Ok(u8::from(
        lint.failure.is_some() || !lint.warnings.is_empty(),
    ))
}

/// The page of a rule, where it has one.
pub(super) fn page(name: &str) -> Option<String> {
    let anchor = rule(name)?.anchor;
    (!anchor.is_empty()).then(|| format!("{RULE_PAGES}/{anchor}/"))
}

fn text(examination: &Examination<'_>, lint: &Lint) -> String {
    let mut text = match (lint.warnings.len(), &lint.failure) {
        (0, None) => return "Check complete, no warnings found.".to_owned(),
        (0, Some(_)) => return String::new(),
        (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
        (count, _) => format!("Check complete, {count} warnings have been found!\n"),
    };
    let source = &examination.dockerfile.source;
    let lines: Vec<&str> = source.text.split('\n').collect();
    let mut warnings: Vec<&Diagnostic> = lint.warnings.iter().collect();
    warnings.sort_by_key(|warning| warning.lines.first);
    for warning in warnings {
        let name = warning.rule.unwrap_or_default();
        text.push_str(&format!("\nWARNING: {name}"));
        if let Some(page) = page(name) {
            text.push_str(&format!(" - {page}"));
        }
        let LineRange { first, last } = warning.lines;
        let excerpt = report::excerpt(&source.name, &lines, (first, last));
        text.push_str(&format!("\n{}\n{excerpt}\n", warning.message));
        if let Some(help) = &warning.help {
            text.push_str(&format!("help: {help}\n"));
        }
    }
    text.pop();
    text
}

fn document(examination: &Examination<'_>, lint: &Lint) -> Value {
    let source = &examination.dockerfile.source;
    let warning = |warning: &Diagnostic| {
        let name = warning.rule.unwrap_or_default();
        let mut value = json!({
            "ruleName": name,
            "description": rule(name).map(|rule| rule.description),
            "url": page(name),
            "detail": warning.message,
            "location": Location(warning.lines),
        });
        if value["url"].is_null()
            && let Some(members) = value.as_object_mut()
        {
            members.shift_remove("url");
        }
        value
    };
    let warnings: Vec<Value> = lint.warnings.iter().map(warning).collect();
    let mut document = json!({
        // As BuildKit has it: no list when there is nothing in it.
        "warnings": if warnings.is_empty() { Value::Null } else { Value::Array(warnings) },
        "sources": [{
            "filename": source.name,
            "data": BASE64.encode(&source.text),
            "language": "Dockerfile",
        }],
    });
    if let Some(failure) = &lint.failure {
        let lines = failure.problems.first().map(|problem| problem.lines);
        let message = match failure.problems.as_slice() {
            [first, _, ..] => format!(
                "dockerfile parse error on line {}: {}",
                first.lines, first.message
            ),
            _ => failure.message.clone(),
        };
        document["buildError"] = json!({
            "message": message,
            "location": lines.map_or_else(|| json!({}), |lines| json!(Location(lines))),
        });
    }
    document
}
