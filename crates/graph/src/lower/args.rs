//! `ARG` inside a stage (rules A02-A08, A14, A16).

use dockerfile::instruction::ArgDeclaration;

use super::captured::ArgUse;
use super::error::LowerError;
use super::history;
use super::stage::Scope;

/// Recognised, but never in the environment (rule A16).
const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

pub(crate) fn lower(
    scope: &mut Scope<'_>,
    declarations: &[ArgDeclaration],
) -> Result<(), LowerError> {
    let mut shown = Vec::with_capacity(declarations.len());
    for declaration in declarations {
        let name = &declaration.name;
        let value = value(scope, declaration)?;
        if let Some(value) = &value
            && !NOT_IN_ENVIRONMENT.contains(&name.as_str())
        {
            scope.state.variables.set(name, value);
        }
        shown.push(match &value {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        });
        capture(scope, declaration, value.clone());
        scope.state.declare(name, value);
    }
    scope
        .state
        .record(history::metadata(format!("ARG {}", shown.join(" "))));
    Ok(())
}

fn capture(scope: &mut Scope<'_>, declaration: &ArgDeclaration, value: Option<String>) {
    let name = &declaration.name;
    let inherited = declaration.default.is_none()
        && !scope.build.build_args.contains_key(name)
        && scope.build.globals.value(name).is_some();
    let captured = &mut scope.state.captured;
    captured.used.insert(name.clone());
    if !inherited {
        let used = ArgUse {
            value,
            ..ArgUse::new(declaration, scope.instruction.lines)
        };
        captured.args.insert(name.clone(), used);
    }
}

/// The build argument, else the default here, else the global value, else unset. A default that
/// cannot be expanded is no error when a build argument stands in for it (rule A05).
fn value(scope: &Scope<'_>, declaration: &ArgDeclaration) -> Result<Option<String>, LowerError> {
    if let Some(given) = scope.build.build_args.get(&declaration.name) {
        return Ok(Some(given.clone()));
    }
    match &declaration.default {
        Some(default) => scope.words().word(default).map(Some),
        None => Ok(scope
            .build
            .globals
            .value(&declaration.name)
            .map(str::to_owned)),
    }
}
