//! `WORKDIR` (rules W01-W08).

use super::error::LowerError;
use super::stage::{Scope, step_text};
use super::{history, path};
use crate::op::{Op, Workdir};

pub(crate) fn lower(scope: &mut Scope<'_>, written: &str) -> Result<(), LowerError> {
    let words = scope.words();
    let expanded = words.word(written)?;
    let name = step_text(&words.for_name(&scope.instruction.text));
    let target = path::working_directory(scope.state.workdir(), &expanded);
    scope.state.config.config.working_dir.clone_from(&target);
    let text = format!("WORKDIR {target}");
    // The root exists always: no layer (rule W04).
    if target == "/" {
        scope.state.record(history::metadata(text));
        return Ok(());
    }
    let op = Workdir {
        path: path::resolve("/", &target),
        user: scope.state.config.config.user.clone(),
        epoch: scope.build.epoch(),
    };
    scope.step(Op::Workdir(op), &[], &name);
    scope.state.record(history::layer(text));
    Ok(())
}
