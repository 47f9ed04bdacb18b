//! `ENV` (rules A17, X04).

use dockerfile::instruction::KeyValues;

use super::error::LowerError;
use super::history;
use super::stage::Scope;

pub(crate) fn lower(scope: &mut Scope<'_>, pairs: &KeyValues) -> Result<(), LowerError> {
    let mut text = String::from("ENV");
    for (key, value) in expand(scope, pairs)? {
        text.push_str(&format!(" {key}={value}"));
        scope.state.set_env(&key, &value);
        scope.state.variables.set(&key, value);
    }
    scope.state.record(history::metadata(text));
    Ok(())
}

/// All pairs with the variables from before the instruction.
pub(crate) fn expand(
    scope: &Scope<'_>,
    pairs: &KeyValues,
) -> Result<Vec<(String, String)>, LowerError> {
    let words = scope.words();
    pairs
        .pairs
        .iter()
        .map(|(key, value)| Ok((words.word(key)?, words.word(value)?)))
        .collect()
}
