//! What can be said of a Dockerfile without its base images: whether its default target lowers,
//! which stages and images that needs, its targets and outline. Every base counts as an empty
//! image of the platform.

use dockerfile::instruction::InstructionKind;
use dockerfile::{File, Parsed, Severity};
use serde::Serialize;

use crate::config::ImageConfig;
use crate::facts::{Facts, ImageFact, Platform, Selection};
use crate::lower::{self, Base, Build, LowerError, Resolved, Root, Stages, reference};
use crate::outline::{self, Outline, Target};

/// The report; serialised it is the JSON of `inspect --format json`, warnings excepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    pub ok: bool,
    /// The first error.
    pub error: Option<Problem>,
    /// Names of the `ARG`s before the first `FROM`, in order.
    pub meta_args: Vec<String>,
    pub stages: Vec<StageSummary>,
    /// What the stages begin with and take files from, in order of stage and line; empty when the
    /// stages cannot be linked.
    pub dependencies: Vec<Dependency>,
    /// The stage that is built; none when the stages cannot be linked.
    pub target: Option<usize>,
    /// Indices of the stages that the target reaches.
    pub needed_stages: Vec<usize>,
    /// Base images of the target's stages, in full form (`docker.io/library/alpine:3.9`), sorted.
    pub needed_images: Vec<String>,
    pub targets: Targets,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outline: Option<Outline>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Targets {
    pub targets: Vec<Target>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub message: String,
    /// The first line to blame; 0 when there is none.
    pub line: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// A stage as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageSummary {
    /// Lower-case; empty without a name.
    pub name: String,
    pub base_name: String,
    pub platform: String,
    pub from_line: u32,
    /// Keywords in capitals.
    pub commands: Vec<String>,
    /// The first line of each command.
    pub lines: Vec<u32>,
}

/// One edge of the graph of stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// Index of the stage that needs something.
    pub stage: usize,
    pub kind: DependencyKind,
    pub line: u32,
    #[serde(flatten)]
    pub on: Needed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DependencyKind {
    /// `FROM`.
    Base,
    /// `COPY --from`.
    Copy,
    /// `RUN --mount=from=`.
    Mount,
}

/// What is needed: `{"on_stage": 0}` or `{"on_image": "docker.io/library/alpine:3.9"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Needed {
    #[serde(rename = "on_stage")]
    Stage(usize),
    #[serde(rename = "on_image")]
    Image(String),
    /// The name of a `--build-context`.
    #[serde(rename = "on_context")]
    Context(String),
}

/// Inspects a file as built with `selection`.
#[must_use]
pub fn inspect(parsed: &Parsed, selection: &Selection) -> Inspection {
    let file = &parsed.file;
    let mut inspection = Inspection {
        ok: false,
        error: None,
        meta_args: meta_args(file),
        stages: summaries(file),
        dependencies: Vec::new(),
        target: None,
        needed_stages: Vec::new(),
        needed_images: Vec::new(),
        targets: Targets {
            targets: outline::targets(file),
        },
        outline: None,
    };
    let syntax = parsed
        .diagnostics
        .iter()
        .find(|found| found.severity == Severity::Error);
    if let Some(error) = syntax {
        inspection.error = Some(Problem {
            message: error.message.clone(),
            line: error.lines.first,
            help: error.help.clone(),
        });
        return inspection;
    }
    match evaluate(file, selection, &mut inspection) {
        Ok(()) => inspection.ok = true,
        Err(errors) => {
            inspection.error = errors.into_iter().next().map(|error| Problem {
                message: error.message,
                line: error.lines.map_or(0, |lines| lines.first),
                help: error.help,
            });
        }
    }
    inspection
}

fn evaluate(
    file: &File,
    selection: &Selection,
    inspection: &mut Inspection,
) -> Result<(), Vec<LowerError>> {
    let build = Build::new(file, selection).map_err(|error| vec![error])?;
    let stages = Stages::new(&build)?;
    inspection.target = Some(stages.target);
    inspection.dependencies = dependencies(&stages);
    let mut facts = Facts::default();
    loop {
        let needs = lower::resolve(&build, &facts)?.needs;
        if needs.images.is_empty() {
            break;
        }
        for (key, need) in needs.images {
            facts.images.insert(key, empty_image(&need.platform));
        }
    }
    let (resolved, walked) = lower::evaluate(&build, &facts)?;
    let declared = |id: &usize| resolved.stages.all[*id].declared.is_some();
    inspection.needed_stages = resolved
        .reachable
        .iter()
        .copied()
        .filter(declared)
        .collect();
    inspection.needed_images = needed_images(&resolved);
    inspection.outline = Some(outline::assemble(&build, &resolved, &walked));
    Ok(())
}

fn dependencies(stages: &Stages<'_>) -> Vec<Dependency> {
    let mut found = Vec::new();
    for (id, stage) in stages.all.iter().enumerate() {
        if stage.declared.is_none() {
            continue;
        }
        let edge = |kind, line, on| Dependency {
            stage: id,
            kind,
            line,
            on,
        };
        let base = needed(&stage.base);
        found.extend(base.map(|on| edge(DependencyKind::Base, stage.lines.first, on)));
        for command in &stage.commands {
            let kind = match command.instruction.kind {
                InstructionKind::Run(_) => DependencyKind::Mount,
                _ => DependencyKind::Copy,
            };
            for &source in command.sources.iter().flatten() {
                let spec = &stages.all[source];
                let on = match spec.declared {
                    Some(_) => Some(Needed::Stage(source)),
                    None => needed(&spec.base),
                };
                found.extend(on.map(|on| edge(kind, command.instruction.lines.first, on)));
            }
        }
    }
    found
}

/// `None` for scratch.
fn needed(base: &Base) -> Option<Needed> {
    match base {
        Base::Scratch => None,
        Base::Stage(id) => Some(Needed::Stage(*id)),
        Base::Image(name) => Some(Needed::Image(
            reference::normalise(name).unwrap_or_else(|_| name.clone()),
        )),
        Base::Replaced(name) => Some(Needed::Context(name.clone())),
    }
}

fn needed_images(resolved: &Resolved<'_, '_>) -> Vec<String> {
    let mut images: Vec<String> = resolved
        .reachable
        .iter()
        .filter_map(|&id| match resolved.roots[id].as_ref()? {
            Root::Image { need, .. } if !need.named_context => {
                reference::normalise(&need.reference).ok()
            }
            _ => None,
        })
        .collect();
    images.sort();
    images.dedup();
    images
}

fn empty_image(platform: &Platform) -> ImageFact {
    let config = ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    ImageFact { config, layers: 0 }
}

fn meta_args(file: &File) -> Vec<String> {
    use dockerfile::instruction::InstructionKind::Arg;
    let declarations = file
        .meta_args
        .iter()
        .flat_map(|instruction| match &instruction.kind {
            Arg(declarations) => declarations.as_slice(),
            _ => &[],
        });
    declarations
        .map(|declaration| declaration.name.clone())
        .collect()
}

fn summaries(file: &File) -> Vec<StageSummary> {
    let summary = |stage: &dockerfile::instruction::Stage| StageSummary {
        name: stage.name.clone().unwrap_or_default(),
        base_name: stage.base.clone(),
        platform: stage.platform.clone().unwrap_or_default(),
        from_line: stage.lines.first,
        commands: stage
            .instructions
            .iter()
            .map(|it| it.keyword.to_uppercase())
            .collect(),
        lines: stage.instructions.iter().map(|it| it.lines.first).collect(),
    };
    file.stages.iter().map(summary).collect()
}
