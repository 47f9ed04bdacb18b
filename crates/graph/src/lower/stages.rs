//! The graph of stages: what each begins with and takes files from (rules S01-S12).

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use dockerfile::LineRange;
use dockerfile::instruction::{Instruction, InstructionKind, Stage};
use dockerfile::suggest::nearest;

use super::build::{Build, is_reserved};
use super::error::{ErrorKind, LowerError};
use super::expand::{Budget, global_word};
use super::variables::Variables;
use super::{platform, reference};
use crate::facts::Platform;

/// The empty image (rule S12).
const SCRATCH: &str = "scratch";

/// Images that are often meant by a name with a slip in it.
const COMMON_IMAGES: [&str; 7] = [
    "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
];

/// Index into [`Stages::all`].
pub(crate) type StageId = usize;

/// A stage of the file, or an image that a `--from` names: a stage without instructions.
#[derive(Debug)]
pub(crate) struct StageSpec<'a> {
    /// `None` for an image that a `--from` names.
    pub(crate) declared: Option<&'a Stage>,
    /// The lower-case name, or `stage-N`.
    pub(crate) label: String,
    pub(crate) base: Base,
    /// `--platform` of the `FROM`.
    pub(crate) platform: Option<Platform>,
    pub(crate) lines: LineRange,
    /// Variables the `FROM` line looked up and found.
    pub(crate) used: BTreeSet<String>,
    /// Triggers of the base first (rule S21).
    pub(crate) commands: Vec<Command<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    Scratch,
    Stage(StageId),
    /// The reference, expanded.
    Image(String),
    /// A named context has this stage's name and stands in its place (rule S02).
    Replaced(String),
}

#[derive(Debug)]
pub(crate) struct Command<'a> {
    pub(crate) instruction: Cow<'a, Instruction>,
    /// Where files come from: one for `COPY --from`, one per mount of `RUN`. `None` is the
    /// build context, or nothing.
    pub(crate) sources: Vec<Option<StageId>>,
    /// From an ONBUILD of the base.
    pub(crate) trigger: bool,
}

#[derive(Debug)]
pub(crate) struct Stages<'a> {
    pub(crate) all: Vec<StageSpec<'a>>,
    by_name: HashMap<String, StageId>,
    images: HashMap<String, StageId>,
    pub(crate) target: StageId,
}

impl<'a> Stages<'a> {
    /// Expands the `FROM` lines, links the stages and finds the target.
    ///
    /// # Errors
    /// All errors of the `FROM` lines, else the first of: unknown target, a `--from` that cannot
    /// be, a circle. BuildKit reports these for stages the target does not need as well.
    pub(crate) fn new(build: &Build<'a>) -> Result<Self, Vec<LowerError>> {
        let mut stages = Self {
            all: Vec::new(),
            by_name: HashMap::new(),
            images: HashMap::new(),
            target: 0,
        };
        let mut errors = Vec::new();
        for (index, stage) in build.file.stages.iter().enumerate() {
            match stages.declare(build, index, stage) {
                Ok(spec) => {
                    stages.all.push(spec);
                    if let Some(name) = &stage.name {
                        stages.by_name.insert(name.to_lowercase(), index);
                    }
                }
                Err(error) => errors.push(error.at(stage.lines)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        stages.link(build).map_err(|error| vec![error])?;
        Ok(stages)
    }

    fn declare(
        &self,
        build: &Build<'a>,
        index: StageId,
        stage: &'a Stage,
    ) -> Result<StageSpec<'a>, LowerError> {
        let escape = build.file.directives.escape;
        let budget = &build.budget;
        let base = global_word(&stage.base, escape, &build.globals, stage.lines, budget)?;
        if base.value.is_empty() {
            let error =
                LowerError::value(format!("base name ({}) should not be blank", stage.base));
            return Err(match base.unset.first() {
                Some(name) => error.about(&stage.base).help(unset(build, name)),
                None => error.about(&stage.base),
            });
        }
        let mut used = base.used;
        let platform = stage
            .platform
            .as_deref()
            .map(|written| stage_platform(build, written, stage.lines, &mut used))
            .transpose()?;
        let for_context = platform
            .as_ref()
            .unwrap_or(&build.selection.target_platform);
        let name = stage.name.as_deref();
        name.map_or(Ok(()), can_be_replaced)?;
        let replaced = name.and_then(|name| build.named_context(name, for_context));
        let base = match replaced {
            Some(key) => Base::Replaced(key.to_owned()),
            None if base.value == SCRATCH && !self.by_name.contains_key(SCRATCH) => Base::Scratch,
            // As written: `FROM Builder` is not the stage `builder` (rule S01).
            None => match self.by_name.get(&base.value) {
                Some(&id) => Base::Stage(id),
                None => Base::Image(base.value),
            },
        };
        Ok(StageSpec {
            declared: Some(stage),
            label: stage
                .name
                .clone()
                .unwrap_or_else(|| format!("stage-{index}")),
            base,
            platform,
            lines: stage.lines,
            used,
            commands: Vec::new(),
        })
    }

    fn link(&mut self, build: &Build<'a>) -> Result<(), LowerError> {
        self.target = self.find_target(build)?;
        for id in 0..build.file.stages.len() {
            // What stands in a stage's place brings its own content (rule S02).
            if matches!(self.all[id].base, Base::Replaced(_)) {
                continue;
            }
            for instruction in &build.file.stages[id].instructions {
                let command = self.command(Cow::Borrowed(instruction), false)?;
                self.all[id].commands.push(command);
            }
        }
        self.check_circles()?;
        for stage in &self.all {
            if let Base::Image(name) = &stage.base {
                reference::parse(name)
                    .map_err(|error| self.invalid_reference(build, stage, name, &error))?;
            }
        }
        Ok(())
    }

    fn invalid_reference(
        &self,
        build: &Build<'a>,
        stage: &StageSpec<'a>,
        name: &str,
        reason: &dyn std::fmt::Display,
    ) -> LowerError {
        let message = format!("failed to parse stage name \"{name}\": {reason}");
        let names = self.by_name.keys().map(String::as_str);
        let written = stage.declared.map_or(name, |stage| &stage.base);
        let error = LowerError::new(ErrorKind::Reference, message)
            .suggest(name, sorted(names))
            .about(written)
            .at(stage.lines);
        let escape = build.file.directives.escape;
        let expanded = global_word(written, escape, &build.globals, stage.lines, &build.budget);
        match expanded.ok().and_then(|found| found.unset.first().cloned()) {
            Some(missing) => error.help(unset(build, &missing)),
            None => error,
        }
    }

    /// Rules S08, S09.
    fn find_target(&self, build: &Build<'a>) -> Result<StageId, LowerError> {
        let Some(name) = build
            .selection
            .target
            .as_deref()
            .filter(|name| !name.is_empty())
        else {
            return Ok(self.all.len() - 1);
        };
        self.by_name
            .get(&name.to_lowercase())
            .copied()
            .ok_or_else(|| {
                let message = format!("target stage \"{name}\" could not be found");
                let error = LowerError::new(ErrorKind::UnknownStage, message)
                    .suggest(name, self.all.iter().map(|stage| stage.label.as_str()));
                let names: Vec<&str> = sorted(self.by_name.keys().map(String::as_str)).collect();
                if names.is_empty() {
                    error.help("no stage of this file has a name")
                } else {
                    error.help(format!("stages that have names: {}", names.join(", ")))
                }
            })
    }

    /// Looks up what the instruction takes files from, adding images as stages of their own.
    pub(crate) fn command(
        &mut self,
        instruction: Cow<'a, Instruction>,
        trigger: bool,
    ) -> Result<Command<'a>, LowerError> {
        let lines = instruction.lines;
        let sources = match &instruction.kind {
            InstructionKind::Copy(copy) => match copy.from.as_deref() {
                Some(from) => vec![Some(self.copy_source(from, lines)?)],
                None => Vec::new(),
            },
            InstructionKind::Run(run) => {
                let named = |from: &Option<String>| from.clone().filter(|name| !name.is_empty());
                let names = run.mounts.iter().map(|mount| named(&mount.from));
                names
                    .map(|name| name.map(|name| self.source_by_name(&name, lines)))
                    .collect()
            }
            _ => Vec::new(),
        };
        Ok(Command {
            instruction,
            sources,
            trigger,
        })
    }

    /// Rules S02, X03.
    fn copy_source(&mut self, from: &str, lines: LineRange) -> Result<StageId, LowerError> {
        let none = Variables::default();
        let plain = global_word(from, '\\', &none, lines, &Budget::default())?.value;
        if plain != from {
            return Err(LowerError::new(
                ErrorKind::Expansion,
                "variable expansion is not supported for --from, define a new stage with FROM \
                 using ARG from global scope as a workaround",
            )
            .help("add `FROM ${IMAGE} AS name` above, with `ARG IMAGE` before the first FROM, and use --from=name")
            .about(from)
            .at(lines));
        }
        let Ok(index) = from.parse::<i64>() else {
            return Ok(self.source_by_name(from, lines));
        };
        let declared = self
            .all
            .iter()
            .filter(|stage| stage.declared.is_some())
            .count();
        usize::try_from(index)
            .ok()
            .filter(|&id| id < declared)
            .ok_or_else(|| {
                LowerError::new(
                    ErrorKind::UnknownStage,
                    format!("invalid stage index {index}"),
                )
                .about(from)
                .help(format!(
                    "stages count from 0; the last one is {}",
                    declared - 1
                ))
                .at(lines)
            })
    }

    /// A stage, whichever case its name is written in, else an image.
    fn source_by_name(&mut self, name: &str, lines: LineRange) -> StageId {
        if let Some(&id) = self.by_name.get(&name.to_lowercase()) {
            return id;
        }
        if let Some(&id) = self.images.get(name) {
            return id;
        }
        let id = self.all.len();
        self.all.push(StageSpec {
            declared: None,
            label: name.to_owned(),
            base: if name == SCRATCH {
                Base::Scratch
            } else {
                Base::Image(name.to_owned())
            },
            platform: None,
            lines,
            used: BTreeSet::new(),
            commands: Vec::new(),
        });
        self.images.insert(name.to_owned(), id);
        id
    }

    /// Rule S05.
    pub(crate) fn check_circles(&self) -> Result<(), LowerError> {
        let mut done = vec![false; self.all.len()];
        for start in 0..self.all.len() {
            // A stack of (stage, dependencies not yet followed) instead of recursion: a file may
            // chain as many stages as it has lines.
            let mut path: Vec<(StageId, Vec<(StageId, LineRange)>)> = Vec::new();
            if !done[start] {
                path.push((start, self.taken_from(start)));
            }
            while let Some((stage, rest)) = path.last_mut() {
                let Some((next, lines)) = rest.pop() else {
                    done[*stage] = true;
                    path.pop();
                    continue;
                };
                if path.iter().any(|(on_path, _)| *on_path == next) {
                    let name = &self.all[start].label;
                    return Err(LowerError::new(
                        ErrorKind::CircularDependency,
                        format!("circular dependency detected on stage: {name}"),
                    )
                    .help(format!(
                        "stage `{}` is needed to build itself; take the files from a stage above it, \
                         or move these lines to a stage of their own",
                        self.all[next].label
                    ))
                    .at(lines));
                }
                if !done[next] {
                    path.push((next, self.taken_from(next)));
                }
            }
        }
        Ok(())
    }

    /// Stages whose files the instructions of `id` use, and the lines that do.
    pub(crate) fn taken_from(&self, id: StageId) -> Vec<(StageId, LineRange)> {
        let commands = &self.all[id].commands;
        commands
            .iter()
            .flat_map(|command| {
                let lines = command.instruction.lines;
                command
                    .sources
                    .iter()
                    .flatten()
                    .map(move |&source| (source, lines))
            })
            .collect()
    }

    /// What to say if there is no such image: a stage or named context may have been meant.
    pub(crate) fn advice(&self, id: StageId, image: &str, build: &Build<'_>) -> Option<String> {
        if let Some(&later) = self.by_name.get(image).filter(|&&later| later >= id) {
            return Some(format!(
                "stage {image} begins on line {}; FROM can only begin with a stage above it",
                self.all[later].lines.first
            ));
        }
        let name = image.split([':', '@']).next().unwrap_or_default();
        let names = self.by_name.keys().map(String::as_str);
        let contexts = build.selection.contexts.keys().map(String::as_str);
        nearest(name, sorted(names.chain(contexts)).chain(COMMON_IMAGES))
            .map(|near| format!("did you mean {near}?"))
    }

    /// The target and all it needs (rule S06), or all stages and what they need.
    pub(crate) fn reachable(&self, all: bool) -> BTreeSet<StageId> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.target];
        if all {
            let declared = |id: &StageId| self.all[*id].declared.is_some();
            open.extend((0..self.all.len()).filter(declared));
        }
        while let Some(id) = open.pop() {
            if !found.insert(id) {
                continue;
            }
            if let Base::Stage(base) = self.all[id].base {
                open.push(base);
            }
            open.extend(self.taken_from(id).into_iter().map(|(source, _)| source));
        }
        found
    }
}

/// Named contexts are looked up by stage name, so BuildKit wants all names to be good image names
/// too: `a-` is none.
fn can_be_replaced(name: &str) -> Result<(), LowerError> {
    match reference::parse(name) {
        Err(error) if !is_reserved(name) => {
            let message = format!("invalid context name {name}: {error}");
            Err(LowerError::new(ErrorKind::Reference, message)
                .about(name)
                .help("end stage names in a letter or digit, and use single dots"))
        }
        _ => Ok(()),
    }
}

/// Advice for a variable of a `FROM` line that has no value.
fn unset(build: &Build<'_>, name: &str) -> String {
    match nearest(name, build.globals.names()) {
        Some(near) => format!("`{name}` has no value before FROM; did you mean {near}?"),
        None => format!(
            "`{name}` has no value before FROM; pass --build-arg {name}=… or write ARG \
             {name}=<default> above the first FROM"
        ),
    }
}

fn stage_platform(
    build: &Build<'_>,
    written: &str,
    lines: LineRange,
    used: &mut BTreeSet<String>,
) -> Result<Platform, LowerError> {
    let escape = build.file.directives.escape;
    let expanded = global_word(written, escape, &build.globals, lines, &build.budget)?;
    let suggest = |error: LowerError| match expanded.unset.first() {
        Some(name) => error.suggest(name, build.globals.names()).about(written),
        None => error.about(written),
    };
    if expanded.value.is_empty() {
        let message = format!("empty platform value from expression {written}");
        return Err(suggest(LowerError::new(ErrorKind::Reference, message)));
    }
    used.extend(expanded.used.iter().cloned());
    platform::parse(&expanded.value, &build.selection.build_platform).map_err(|error| {
        let message = format!("failed to parse platform {written}: {error}");
        suggest(LowerError::new(ErrorKind::Reference, message))
    })
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let names: BTreeSet<&str> = names.collect();
    names.into_iter()
}
