//! What can be said of a Dockerfile without its base images: whether its default target lowers,
//! which stages and images that needs, its targets and outline. Every base counts as an empty
//! image of the platform.

use dockerfile::{File, Parsed, Severity};
use serde::Serialize;

use crate::config::ImageConfig;
use crate::facts::{Facts, ImageFact, Platform, Selection};
use crate::lower::{self, Build, LowerError, Resolved, Root, reference};
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

/// Inspects a file as built with `selection`.
#[must_use]
pub fn inspect(parsed: &Parsed, selection: &Selection) -> Inspection {
    let file = &parsed.file;
    let mut inspection = Inspection {
        ok: false,
        error: None,
        meta_args: meta_args(file),
        stages: summaries(file),
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
