//! `SOURCE_DATE_EPOCH`: the time everything new gets (rules E01, E04).

use super::error::LowerError;
use super::variables::Variables;
use std::collections::BTreeMap;

/// 1980-01-02 00:00 UTC, the time of everything new when nothing else is asked for: late enough
/// for formats that begin in 1980, in every time zone.
pub const DEFAULT_EPOCH: i64 = 315_619_200;

/// The variable's name.
pub(crate) const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Reads the build argument, else the global `ARG`, and puts the number back in plain form; an
/// empty build argument takes the variable away.
///
/// # Errors
/// When the value is not a whole number of seconds.
pub(crate) fn resolve(
    build_args: &mut BTreeMap<String, String>,
    globals: &mut Variables,
) -> Result<Option<i64>, LowerError> {
    let given = build_args.get(VARIABLE).cloned();
    let Some(text) = given.or_else(|| {
        globals
            .value(VARIABLE)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }) else {
        return Ok(None);
    };
    if text.is_empty() {
        build_args.remove(VARIABLE);
        globals.remove(VARIABLE);
        return Ok(None);
    }
    let seconds: i64 = text.parse().map_err(|_| {
        LowerError::unsupported(format!("invalid {VARIABLE}: {text}"))
            .help("give whole seconds since 1970; taking the time from a context, a named context or a stage is not implemented")
    })?;
    if let Some(value) = build_args.get_mut(VARIABLE) {
        *value = seconds.to_string();
    }
    if globals.value(VARIABLE).is_some() {
        globals.set(VARIABLE, seconds.to_string());
    }
    Ok(Some(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(build_arg: Option<&str>, global: Option<&str>) -> Result<Option<i64>, LowerError> {
        let mut args = BTreeMap::new();
        args.extend(build_arg.map(|value| (VARIABLE.to_owned(), value.to_owned())));
        let mut globals = Variables::default();
        if let Some(value) = global {
            globals.set(VARIABLE, value);
        }
        resolve(&mut args, &mut globals)
    }

    #[test]
    fn e04_the_build_argument_wins_and_an_empty_one_unsets() {
        for (build_arg, global, expected) in [
            (None, None, None),
            (Some("5"), None, Some(5)),
            (Some("-5"), None, Some(-5)),
            (None, Some("7"), Some(7)),
            (Some("5"), Some("7"), Some(5)),
            (Some(""), Some("7"), None),
            (None, Some(""), None),
        ] {
            assert_eq!(
                resolved(build_arg, global),
                Ok(expected),
                "{build_arg:?} {global:?}"
            );
        }
        assert!(resolved(Some("context"), None).is_err());
    }
}
