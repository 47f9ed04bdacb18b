//! `FROM` and the global arguments (rules A01, A13, A15).

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Report, place_of, place_of_stage, stop};
use super::{CheckContext, platform, reference, rules};
use crate::diagnostic::Diagnostic;
use crate::instruction::{File, Instruction, InstructionKind, Place, Stage};
use crate::suggest::nearest;
use crate::text::quote;
use crate::word::{ExpandError, Expansion, expand_tracked};

/// The global arguments, and each stage's base and platform after expansion.
pub(super) struct Resolved {
    pub(super) global: BTreeMap<String, String>,
    pub(super) stages: Vec<Base>,
}

pub(super) struct Base {
    pub(super) name: String,
    /// `--platform` after expansion.
    pub(super) platform: Option<String>,
}

/// Most bytes of values that global arguments may have; see the same bound for stages.
const MAX_HELD: usize = 256 << 20;

pub(super) fn check(
    file: &File,
    context: &CheckContext<'_>,
    report: &mut Report<'_>,
) -> Result<Resolved, Diagnostic> {
    let escape = file.directives.escape;
    let defaults = platform_arguments(file, context);
    report.globally();
    default_arguments(file, &defaults, report);

    let mut global = defaults;
    let mut declared = BTreeSet::new();
    let mut held = 0;
    for instruction in &file.meta_args {
        declare(instruction, escape, Some(context.build_args), &mut global)
            .map_err(|error| stop(place_of(instruction), error.to_string()))?;
        let names = names(instruction);
        held += size(&names, &global);
        if held > MAX_HELD {
            let message = format!("the global arguments take more than {MAX_HELD} bytes");
            return Err(stop(place_of(instruction), message));
        }
        declared.extend(names);
    }
    let mut stages = Vec::with_capacity(file.stages.len());
    for stage in &file.stages {
        stages.push(from(stage, escape, &global, &declared, context, report)?);
    }
    Ok(Resolved { global, stages })
}

fn platform_arguments(file: &File, context: &CheckContext<'_>) -> BTreeMap<String, String> {
    let last = || file.stages.last().and_then(|stage| stage.name.as_deref());
    let stage = context
        .target
        .or_else(last)
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    let mut arguments = BTreeMap::from([("TARGETSTAGE".to_owned(), stage.to_owned())]);
    for (prefix, name) in [
        ("BUILD", context.build_platform),
        ("TARGET", context.target_platform),
    ] {
        let mut parts = name.split('/').map(str::to_owned);
        arguments.insert(format!("{prefix}PLATFORM"), name.to_owned());
        arguments.insert(format!("{prefix}OS"), parts.next().unwrap_or_default());
        arguments.insert(format!("{prefix}OSVERSION"), String::new());
        arguments.insert(format!("{prefix}ARCH"), parts.next().unwrap_or_default());
        arguments.insert(format!("{prefix}VARIANT"), parts.next().unwrap_or_default());
    }
    for (name, value) in &mut arguments {
        if let Some(given) = context.build_args.get(name) {
            value.clone_from(given);
        }
    }
    arguments
}

/// Applies the declarations of one `ARG` before the first `FROM`.
fn declare(
    instruction: &Instruction,
    escape: char,
    build_args: Option<&BTreeMap<String, String>>,
    global: &mut BTreeMap<String, String>,
) -> Result<(), ExpandError> {
    let InstructionKind::Arg(declarations) = &instruction.kind else {
        return Ok(());
    };
    for declaration in declarations {
        let given = build_args
            .and_then(|arguments| arguments.get(&declaration.name))
            .cloned();
        let value = match (given, &declaration.default) {
            (Some(given), _) => Some(given),
            (None, Some(default)) => Some(expand_tracked(default, escape, global)?.value),
            (None, None) => None,
        };
        if let Some(value) = value {
            global.insert(declaration.name.clone(), value);
        }
    }
    Ok(())
}

/// Bytes of the values that an instruction set.
fn size(names: &[String], global: &BTreeMap<String, String>) -> usize {
    let values = names.iter().filter_map(|name| global.get(name));
    values.map(String::len).sum()
}

fn names(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        InstructionKind::Arg(declarations) => {
            declarations.iter().map(|each| each.name.clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// Base names must stay valid when no build argument is given.
fn default_arguments(file: &File, defaults: &BTreeMap<String, String>, report: &mut Report<'_>) {
    let escape = file.directives.escape;
    let mut global = defaults.clone();
    let mut held = 0;
    for instruction in &file.meta_args {
        if declare(instruction, escape, None, &mut global).is_err() {
            return;
        }
        held += size(&names(instruction), &global);
        if held > MAX_HELD {
            return;
        }
    }
    for stage in &file.stages {
        let Ok(name) = expand_tracked(&stage.base, escape, &global) else {
            return;
        };
        if !reference::is_valid(&name.value) {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.base
            );
            let help = "give the ARG a default that names an image".to_owned();
            report.warn(
                rules::INVALID_DEFAULT_ARG_IN_FROM,
                place_of_stage(stage),
                message,
                Some(help),
            );
        }
    }
}

fn from(
    stage: &Stage,
    escape: char,
    global: &BTreeMap<String, String>,
    declared: &BTreeSet<String>,
    context: &CheckContext<'_>,
    report: &mut Report<'_>,
) -> Result<Base, Diagnostic> {
    let place = place_of_stage(stage);
    report.with_comments(&stage.comments);
    let expand = |word: &str, report: &mut Report<'_>| {
        let expansion = expand_tracked(word, escape, global);
        let unset = match &expansion {
            Ok(expansion) => &expansion.unset,
            Err(error) => &error.unset,
        };
        undeclared(unset, global, declared, place, report);
        expansion.map_err(|error| stop(place, error.to_string()))
    };
    let name = expand(&stage.base, report)?.value;
    if name.is_empty() {
        return Err(stop(
            place,
            format!("base name ({}) should not be blank", stage.base),
        ));
    }
    let Some(written) = &stage.platform else {
        return Ok(Base {
            name,
            platform: None,
        });
    };
    let expansion = expand(written, report)?;
    redundant(written, &expansion, global, place, report);
    constant(stage, &expansion, context, report);
    if expansion.value.is_empty() {
        return Err(stop(
            place,
            format!("empty platform value from expression {written}"),
        ));
    }
    if platform::parse(&expansion.value, context.build_platform).is_none() {
        let message = format!(
            "failed to parse platform {written}: {} is not a platform",
            quote(&expansion.value)
        );
        return Err(stop(place, message));
    }
    Ok(Base {
        name,
        platform: Some(expansion.value),
    })
}

fn undeclared(
    unset: &BTreeSet<String>,
    global: &BTreeMap<String, String>,
    declared: &BTreeSet<String>,
    place: Place,
    report: &mut Report<'_>,
) {
    for name in unset {
        if declared.contains(name) || global.contains_key(name) {
            continue;
        }
        let mut message = format!("FROM argument '{name}' is not declared");
        let known = declared.iter().chain(global.keys()).map(String::as_str);
        if let Some(nearest) = nearest(name, known.take(1000)) {
            message.push_str(&format!(" (did you mean {nearest}?)"));
        }
        let help = format!("add ARG {name} before the first FROM");
        report.warn(rules::UNDEFINED_ARG_IN_FROM, place, message, Some(help));
    }
}

fn redundant(
    written: &str,
    expansion: &Expansion,
    global: &BTreeMap<String, String>,
    place: Place,
    report: &mut Report<'_>,
) {
    const NAME: &str = "TARGETPLATFORM";
    let only =
        expansion.used.len() == 1 && expansion.unset.is_empty() && expansion.used.contains(NAME);
    if only && global.get(NAME) == Some(&expansion.value) {
        let message = format!(
            "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
        );
        report.warn(
            rules::REDUNDANT_TARGET_PLATFORM,
            place,
            message,
            Some("remove the --platform flag".to_owned()),
        );
    }
}

fn constant(
    stage: &Stage,
    expansion: &Expansion,
    context: &CheckContext<'_>,
    report: &mut Report<'_>,
) {
    if !expansion.used.is_empty() || !expansion.unset.is_empty() {
        return;
    }
    let Some(platform) = platform::parse(&expansion.value, context.build_platform) else {
        return;
    };
    let name = stage.name.as_deref().unwrap_or_default();
    if name.contains(&platform.os) || name.contains(&platform.architecture) {
        return;
    }
    let message = format!(
        "FROM --platform flag should not use constant value {}",
        quote(&expansion.value)
    );
    let help = "use $BUILDPLATFORM or an ARG, or name the stage after the platform".to_owned();
    report.warn(
        rules::FROM_PLATFORM_FLAG_CONST_DISALLOWED,
        place_of_stage(stage),
        message,
        Some(help),
    );
}
