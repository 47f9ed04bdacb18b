//! Rules over the keywords and stage names of the whole file.

use std::collections::BTreeSet;

use super::report::{Report, place_of, place_of_stage};
use super::rules;
use crate::instruction::{File, Place};
use crate::text::quote;

pub(super) fn check(file: &File, report: &mut Report<'_>) {
    report.globally();
    stage_names(file, report);
    instruction_casing(file, report);
}

fn stage_names(file: &File, report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    for stage in &file.stages {
        let Some(name) = stage.name.as_deref() else {
            continue;
        };
        if matches!(name, "context" | "scratch") {
            let message = format!(
                "Stage name should not use the same name as reserved stage {}",
                quote(name)
            );
            report.warn(
                rules::RESERVED_STAGE_NAME,
                place_of_stage(stage),
                message,
                None,
            );
        }
        if !seen.insert(name) {
            let message = format!(
                "Duplicate stage name {}, stage names should be unique",
                quote(name)
            );
            report.warn(
                rules::DUPLICATE_STAGE_NAME,
                place_of_stage(stage),
                message,
                None,
            );
        }
    }
}

/// Upper case wins a tie; keywords of mixed case do not vote.
fn instruction_casing(file: &File, report: &mut Report<'_>) {
    let keywords = || {
        file.stages.iter().flat_map(|stage| {
            let from = (stage.keyword.as_str(), place_of_stage(stage));
            let rest = stage
                .instructions
                .iter()
                .map(|each| (each.keyword.as_str(), place_of(each)));
            std::iter::once(from).chain(rest)
        })
    };
    let is_lower = |keyword: &str| keyword == keyword.to_lowercase();
    let is_upper = |keyword: &str| keyword == keyword.to_uppercase();
    let lower = keywords().filter(|(keyword, _)| is_lower(keyword)).count();
    let upper = keywords().filter(|(keyword, _)| is_upper(keyword)).count();
    let majority_is_lower = lower > upper;
    for (keyword, place) in keywords() {
        let wanted = match majority_is_lower {
            true if !is_lower(keyword) => "lowercase",
            false if !is_upper(keyword) => "uppercase",
            _ => continue,
        };
        warn(report, keyword, wanted, place);
    }
}

fn warn(report: &mut Report<'_>, keyword: &str, wanted: &str, place: Place) {
    let message =
        format!("Command '{keyword}' should match the case of the command majority ({wanted})");
    report.warn(rules::CONSISTENT_INSTRUCTION_CASING, place, message, None);
}
