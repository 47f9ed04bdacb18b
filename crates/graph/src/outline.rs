//! What a file offers the command line: its targets (`--call=targets`) and, for one target, the
//! arguments, secrets and ssh agents it can be given (`--call=outline`). Serialised, both are the
//! JSON that `docker buildx build --call=…,format=json` prints.

use std::collections::{BTreeMap, BTreeSet};

use dockerfile::{File, LineRange};
use serde::Serialize;
use serde::ser::{Serialize as SerializeTrait, Serializer};
use serde_json::json;

use crate::facts::{Facts, Selection};
use crate::lower::{
    self, ArgUse, Base, Build, CredentialUse, LowerError, Resolved, StageId, Walked,
};

/// Lines of the file, as the JSON says it: one range for each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location(pub LineRange);

impl SerializeTrait for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let lines = self.0.first..=self.0.last;
        let ranges: Vec<_> = lines
            .map(|line| json!({"start": {"line": line}, "end": {"line": line}}))
            .collect();
        json!({ "ranges": ranges }).serialize(serializer)
    }
}

/// One stage that can be asked for with `--target`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Built when no target is given (rule S08).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// As written.
    pub base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    pub location: Location,
}

/// The stages of a file in order.
#[must_use]
pub fn targets(file: &File) -> Vec<Target> {
    let last = file.stages.len().saturating_sub(1);
    let target = |(index, stage): (usize, &dockerfile::instruction::Stage)| Target {
        name: stage.name.clone(),
        default: index == last,
        description: stage.description.clone(),
        base: stage.base.clone(),
        platform: stage.platform.clone(),
        location: Location(stage.lines),
    };
    file.stages.iter().enumerate().map(target).collect()
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outline {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Credential>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Credential>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arg {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it is now; empty when unset.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub location: Location,
}

/// A secret or an ssh agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credential {
    pub name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    pub location: Location,
}

/// The outline of the target, each list in order of line. The same argument declared in several
/// stages shows as the target sees it, else as its base does, else the first stage it takes files
/// from.
///
/// # Errors
/// As [`lower::lower`].
pub fn outline(
    file: &File,
    selection: &Selection,
    facts: &Facts,
) -> Result<Outline, Vec<LowerError>> {
    lower::check_syntax(file, selection).map_err(|error| vec![error])?;
    let build = Build::new(file, selection).map_err(|error| vec![error])?;
    let (resolved, walked) = lower::evaluate(&build, facts)?;
    Ok(assemble(&build, &resolved, &walked))
}

pub(crate) fn assemble(build: &Build<'_>, resolved: &Resolved<'_, '_>, walked: &Walked) -> Outline {
    let target = resolved.stages.target;
    let stage = resolved.stages.all[target].declared;
    let mut args = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    let mut agents = BTreeMap::new();
    for id in in_order_of_precedence(resolved, target) {
        let Some(state) = &walked.states[id] else {
            continue;
        };
        let captured = &state.captured;
        for name in used_arguments(build, resolved, walked, id) {
            let known = captured
                .args
                .get(&name)
                .or_else(|| build.global_args.get(&name));
            if let Some(used) = known {
                args.entry(name).or_insert_with(|| used.clone());
            }
        }
        for (list, found) in [
            (&mut secrets, &captured.secrets),
            (&mut agents, &captured.agents),
        ] {
            for (name, used) in found {
                list.entry(name.clone()).or_insert(*used);
            }
        }
    }
    Outline {
        name: stage.and_then(|stage| stage.name.clone()),
        description: stage.and_then(|stage| stage.description.clone()),
        args: arguments(args),
        secrets: credentials(secrets),
        ssh: credentials(agents),
    }
}

/// The stage, its base and what that needs, then what its instructions take files from: a walk
/// down the first branch first.
fn in_order_of_precedence(resolved: &Resolved<'_, '_>, target: StageId) -> Vec<StageId> {
    let mut order = Vec::new();
    let mut open = vec![target];
    while let Some(id) = open.pop() {
        if order.contains(&id) {
            continue;
        }
        order.push(id);
        let sources = resolved.stages.taken_from(id);
        open.extend(sources.into_iter().rev().map(|(source, _)| source));
        if let Base::Stage(base) = resolved.stages.all[id].base {
            open.push(base);
        }
    }
    order
}

/// Names declared in the stage or looked up by its `FROM`, by that of its bases, and by the
/// defaults of any of these.
fn used_arguments(
    build: &Build<'_>,
    resolved: &Resolved<'_, '_>,
    walked: &Walked,
    id: StageId,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let captured = walked.states[id].as_ref().map(|state| &state.captured);
    let mut open: Vec<String> = captured
        .into_iter()
        .flat_map(|captured| captured.used.iter().cloned())
        .collect();
    let mut stage = Some(id);
    while let Some(id) = stage {
        let spec = &resolved.stages.all[id];
        open.extend(spec.used.iter().cloned());
        stage = match spec.base {
            Base::Stage(base) => Some(base),
            _ => None,
        };
    }
    while let Some(name) = open.pop() {
        let here = captured.is_some_and(|captured| captured.args.contains_key(&name));
        if !here && let Some(global) = build.global_args.get(&name) {
            open.extend(
                global
                    .needs
                    .iter()
                    .filter(|need| !names.contains(*need))
                    .cloned(),
            );
        }
        names.insert(name);
    }
    names
}

fn arguments(found: BTreeMap<String, ArgUse>) -> Vec<Arg> {
    let mut args: Vec<Arg> = found
        .into_iter()
        .map(|(name, used)| Arg {
            name,
            description: used.description,
            value: used.value.unwrap_or_default(),
            location: Location(used.lines),
        })
        .collect();
    args.sort_by_key(|arg| arg.location.0.first);
    args
}

fn credentials(found: BTreeMap<String, CredentialUse>) -> Vec<Credential> {
    let mut list: Vec<Credential> = found
        .into_iter()
        .map(|(name, used)| Credential {
            name,
            required: used.required,
            location: Location(used.lines),
        })
        .collect();
    list.sort_by_key(|credential| credential.location.0.first);
    list
}
