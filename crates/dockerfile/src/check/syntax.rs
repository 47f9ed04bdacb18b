//! Rules that need one instruction and its comments.

use super::report::{Report, place_of, place_of_stage};
use super::rules;
use crate::instruction::{File, Instruction, InstructionKind, Place, Stage};

pub(super) fn check(file: &File, report: &mut Report<'_>) {
    for &place in &file.empty_continuations {
        let help = "remove the blank line, or put a # on it".to_owned();
        report.globally().warn(
            rules::NO_EMPTY_CONTINUATION,
            place,
            "Empty continuation line".to_owned(),
            Some(help),
        );
    }
    for argument in &file.meta_args {
        instruction(argument, report);
    }
    for stage in &file.stages {
        from(stage, report);
        for each in &stage.instructions {
            instruction(each, report);
        }
    }
}

fn from(stage: &Stage, report: &mut Report<'_>) {
    let place = place_of_stage(stage);
    report.with_comments(&stage.comments);
    let Some(written) = &stage.name_written else {
        return;
    };
    if *written != written.to_lowercase() {
        let message = format!("Stage name '{written}' should be lowercase");
        report.warn(rules::STAGE_NAME_CASING, place, message, None);
    }
    if let Some(keyword) = &stage.as_keyword
        && !same_casing(&stage.keyword, keyword)
    {
        let message = format!(
            "'{keyword}' and '{}' keywords' casing do not match",
            stage.keyword
        );
        report.warn(rules::FROM_AS_CASING, place, message, None);
    }
    if let Some(name) = &stage.name {
        description("FROM", &[name.as_str()], &stage.comments, place, report);
    }
}

/// Mixed casing of `FROM` itself is another rule's.
fn same_casing(from: &str, keyword: &str) -> bool {
    if from == from.to_lowercase() {
        keyword == keyword.to_lowercase()
    } else {
        from != from.to_uppercase() || keyword == keyword.to_uppercase()
    }
}

fn instruction(instruction: &Instruction, report: &mut Report<'_>) {
    let place = place_of(instruction);
    report.with_comments(&instruction.comments);
    match &instruction.kind {
        InstructionKind::Maintainer(author) => {
            let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
            let help = format!("write LABEL org.opencontainers.image.authors={author:?}");
            report.warn(rules::MAINTAINER_DEPRECATED, place, message, Some(help));
        }
        InstructionKind::Arg(declarations) => {
            let names: Vec<&str> = declarations
                .iter()
                .map(|declaration| declaration.name.as_str())
                .collect();
            description("ARG", &names, &instruction.comments, place, report);
        }
        _ => {}
    }
}

/// The last comment line above a definition must begin with its name.
fn description(
    keyword: &str,
    names: &[&str],
    comments: &[String],
    place: Place,
    report: &mut Report<'_>,
) {
    let (Some(last), Some(first)) = (comments.last(), names.first()) else {
        return;
    };
    let word = last.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    let message =
        format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    let help = "if the comment describes something else, put an empty # line below it".to_owned();
    report.warn(
        rules::INVALID_DEFINITION_DESCRIPTION,
        place,
        message,
        Some(help),
    );
}
