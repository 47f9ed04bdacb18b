//! ONBUILD triggers (rules S21-S24): the instructions a base hands to whatever begins with it.

use dockerfile::instruction::Instruction;
use dockerfile::{LineRange, Severity};

use super::error::{ErrorKind, LowerError};

/// Parses the text of one trigger; it stands at the `FROM` that brings it in.
///
/// # Errors
/// When the text is not exactly one instruction that may be a trigger.
pub(crate) fn parse(text: &str, from: LineRange) -> Result<Instruction, LowerError> {
    let (instruction, diagnostics) = dockerfile::parse_trigger(text);
    let problem = diagnostics
        .into_iter()
        .find(|found| found.severity == Severity::Error);
    match (instruction, problem) {
        (Some(mut instruction), None) => {
            instruction.lines = from;
            Ok(instruction)
        }
        (_, problem) => {
            let message = problem.map_or_else(
                || "onbuild trigger should be a single expression".to_owned(),
                |problem| problem.message,
            );
            let first_line = text.lines().next().unwrap_or_default();
            Err(LowerError::new(ErrorKind::Trigger, message)
                .help(format!(
                    "the base image or stage has `ONBUILD {first_line}`"
                ))
                .at(from))
        }
    }
}
