//! What all stages of one build share: the arguments given, the global `ARG`s, the epoch.

use std::collections::BTreeMap;

use dockerfile::File;
use dockerfile::instruction::InstructionKind;

use super::captured::ArgUse;
use super::error::LowerError;
use super::expand::{Budget, Words, global_word};
use super::variables::Variables;
use super::{buildkit_args, epoch, platform, reference};
use crate::facts::Selection;

/// Frontends whose language this is, whatever their tag (and the name BuildKit gives its own).
const BUILT_IN_FRONTENDS: [&str; 2] = [
    "docker.io/docker/dockerfile",
    "docker.io/docker/dockerfile-upstream",
];
const BUILT_IN_NAME: &str = "dockerfile.v0";

#[derive(Debug)]
pub(crate) struct Build<'a> {
    pub(crate) file: &'a File,
    pub(crate) selection: &'a Selection,
    /// `--build-arg`, the epoch in plain form.
    pub(crate) build_args: BTreeMap<String, String>,
    /// Platform arguments and the `ARG`s before the first `FROM` (rules A01, A13).
    pub(crate) globals: Variables,
    /// The global `ARG`s by name, for the outline.
    pub(crate) global_args: BTreeMap<String, ArgUse>,
    pub(crate) source_date_epoch: Option<i64>,
    pub(crate) budget: Budget,
}

impl<'a> Build<'a> {
    /// Evaluates the head of the file.
    ///
    /// # Errors
    /// When there is no stage, a global `ARG` cannot be expanded or the epoch is no number.
    pub(crate) fn new(file: &'a File, selection: &'a Selection) -> Result<Self, LowerError> {
        let Some(last) = file.stages.last() else {
            return Err(LowerError::value("dockerfile contains no stages to build")
                .help("add a FROM instruction"));
        };
        buildkit_args::check(&selection.build_args)?;
        let asked = selection.target.as_deref().filter(|name| !name.is_empty());
        let mut globals = platform::global_variables(selection, asked.or(last.name.as_deref()));
        let budget = Budget::default();
        let global_args = declare_globals(file, selection, &mut globals, &budget)?;
        let mut build_args = selection.build_args.clone();
        let source_date_epoch = epoch::resolve(&mut build_args, &mut globals)?;
        Ok(Self {
            file,
            selection,
            build_args,
            globals,
            global_args,
            source_date_epoch,
            budget,
        })
    }

    pub(crate) fn words<'v>(&'v self, variables: &'v Variables) -> Words<'v> {
        Words {
            budget: &self.budget,
            escape: self.file.directives.escape,
            variables,
        }
    }

    pub(crate) fn epoch(&self) -> i64 {
        self.source_date_epoch.unwrap_or(epoch::DEFAULT_EPOCH)
    }

    /// The key of [`Selection::contexts`] that replaces `name`: `name::platform` is tried first,
    /// spellings of one image are equal, `scratch` and `context` cannot be replaced (rules G06,
    /// S12).
    pub(crate) fn named_context(
        &self,
        name: &str,
        for_platform: &crate::facts::Platform,
    ) -> Option<&'a str> {
        if is_reserved(name) {
            return None;
        }
        let wanted = reference::familiar(name);
        let platform = platform::normalise(for_platform).to_string();
        let contexts = &self.selection.contexts;
        let find = |platform: Option<&str>| {
            contexts.keys().map(String::as_str).find(|key| {
                let (name, suffix) = match key.split_once("::") {
                    Some((name, suffix)) => (name, Some(suffix)),
                    None => (*key, None),
                };
                suffix == platform && reference::familiar(name) == wanted
            })
        };
        find(Some(&platform)).or_else(|| find(None))
    }
}

/// Names that no named context replaces.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context")
}

/// Evaluates the `ARG`s before the first `FROM` in order; each sees those before it (rule A01).
fn declare_globals(
    file: &File,
    selection: &Selection,
    globals: &mut Variables,
    budget: &Budget,
) -> Result<BTreeMap<String, ArgUse>, LowerError> {
    let escape = file.directives.escape;
    let mut args: BTreeMap<String, ArgUse> = BTreeMap::new();
    for instruction in &file.meta_args {
        let InstructionKind::Arg(declarations) = &instruction.kind else {
            continue;
        };
        for declaration in declarations {
            let name = &declaration.name;
            let mut used = ArgUse::new(declaration, instruction.lines);
            if let Some(value) = selection.build_args.get(name) {
                used.value = Some(value.clone());
            } else if let Some(default) = &declaration.default {
                let expanded = global_word(default, escape, globals, instruction.lines, budget)?;
                used.value = Some(expanded.value);
                used.needs = expanded.used;
                if used.needs.remove(name) {
                    let before = args.get(name).map(|before| before.needs.clone());
                    used.needs.extend(before.unwrap_or_default());
                }
            }
            if let Some(value) = &used.value {
                globals.set(name, value);
            }
            args.insert(name.clone(), used);
        }
    }
    Ok(args)
}

/// Refuses a `# syntax=` (or `BUILDKIT_SYNTAX`) that names a frontend with another language.
///
/// # Errors
/// When it is not the built-in one.
pub(crate) fn check_syntax(file: &File, selection: &Selection) -> Result<(), LowerError> {
    let given = selection
        .build_args
        .get("BUILDKIT_SYNTAX")
        .map(String::as_str);
    let Some(syntax) = given.or(file.directives.syntax.as_deref()) else {
        return Ok(());
    };
    let name = reference::parse(syntax).map(|parsed| format!("{}/{}", parsed.domain, parsed.path));
    let built_in = syntax == BUILT_IN_NAME
        || name.is_ok_and(|name| BUILT_IN_FRONTENDS.contains(&name.as_str()));
    if built_in {
        return Ok(());
    }
    Err(LowerError::unsupported(format!(
        "frontend image \"{syntax}\" of # syntax= is not supported"
    ))
    .help(
        "only the built-in language (docker/dockerfile, docker/dockerfile-upstream) is \
             understood; frontend images are programs and are not run. \
             --build-arg BUILDKIT_SYNTAX=docker/dockerfile overrides the directive",
    ))
}
