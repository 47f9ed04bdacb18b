//! Applies the instructions of all stages the target needs, in the order of the file.

use dockerfile::instruction::InstructionKind;

use super::build::Build;
use super::error::LowerError;
use super::history;
use super::needs::{Resolved, Root};
use super::nodes::Nodes;
use super::platform;
use super::stage::{Scope, SourceTree, StageState, StepNames, lines};
use super::stages::{Base, StageId, StageSpec};
use crate::config::ImageConfig;
use crate::facts::{ImageFact, ImageNeed, Platform};
use crate::op::{Copy, CopySource, NodeId, Op};
use crate::plan::{HistoryEntry, Meta};

/// What BuildKit's exporter notes for a layer that no instruction accounts for.
const EXPORTER_COMMENT: &str = "buildkit.exporter.image.v0";

/// The nodes of all needed stages.
pub(crate) struct Walked {
    pub(crate) nodes: Nodes,
    /// By stage, at its end; `None` for stages not needed and for images.
    pub(crate) states: Vec<Option<StageState>>,
}

struct Walk<'b, 'a, 'f> {
    build: &'b Build<'a>,
    resolved: &'b Resolved<'a, 'f>,
    nodes: Nodes,
    /// By stage, at its end.
    states: Vec<Option<StageState>>,
}

/// # Errors
/// At most one error for each stage; stages that need a stage with an error are left out.
pub(crate) fn walk(
    build: &Build<'_>,
    resolved: &Resolved<'_, '_>,
) -> Result<Walked, Vec<LowerError>> {
    let states = resolved.stages.all.iter().map(|_| None).collect();
    let mut walk = Walk {
        build,
        resolved,
        nodes: Nodes::default(),
        states,
    };
    let mut errors = Vec::new();
    for &id in &resolved.reachable {
        match walk.stage(id) {
            Ok(state) => walk.states[id] = state,
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Walked {
        nodes: walk.nodes,
        states: walk.states,
    })
}

impl Walk<'_, '_, '_> {
    /// `None` for stages without instructions, whose trees are made when asked for, and for those
    /// that need a stage with an error.
    fn stage(&mut self, id: StageId) -> Result<Option<StageState>, LowerError> {
        let resolved = self.resolved;
        let spec = &resolved.stages.all[id];
        if spec.declared.is_none() {
            return Ok(None);
        }
        let mut names = self.step_names(id);
        let Some(mut state) = self.first_state(id, &mut names) else {
            return Ok(None);
        };
        if matches!(spec.base, Base::Replaced(_)) {
            return Ok(Some(state));
        }
        self.build
            .budget
            .spend(state.variables.size())
            .map_err(|error| error.at(spec.lines))?;
        state.begin();
        for command in &spec.commands {
            let mut sources = Vec::with_capacity(command.sources.len());
            for source in &command.sources {
                sources.push(match source {
                    None => None,
                    Some(source) => match self.source(*source) {
                        Some(tree) => Some(tree),
                        None => return Ok(None),
                    },
                });
            }
            let mut scope = Scope {
                build: self.build,
                state: &mut state,
                nodes: &mut self.nodes,
                names: &mut names,
                instruction: &command.instruction,
                sources: &sources,
                stage: &spec.label,
                trigger: command.trigger,
                no_cache: no_cache(self.build, spec),
            };
            scope.dispatch()?;
        }
        Ok(Some(state))
    }

    fn step_names(&self, id: StageId) -> StepNames {
        let spec = &self.resolved.stages.all[id];
        let steps = spec.commands.iter().filter(|command| {
            command.trigger
                || matches!(
                    command.instruction.kind,
                    InstructionKind::Add(_)
                        | InstructionKind::Copy(_)
                        | InstructionKind::Run(_)
                        | InstructionKind::Workdir(_)
                )
        });
        // What comes from a named context is no step of the stage.
        let root = self.resolved.roots[id].as_ref();
        let from_image = usize::from(matches!(
            root,
            Some(Root::Image { need, fact }) if !need.named_context && fact.layers > 0
        ));
        let alone = self.resolved.stages.all.len() == 1;
        StepNames {
            label: if alone {
                String::new()
            } else {
                spec.label.clone()
            },
            done: 0,
            total: from_image + steps.count(),
        }
    }

    /// The state before the first instruction; `None` when the base has an error.
    fn first_state(&mut self, id: StageId, names: &mut StepNames) -> Option<StageState> {
        let spec = &self.resolved.stages.all[id];
        if let Base::Stage(base) = spec.base {
            return self.states[base].clone();
        }
        let goal = &self.build.selection.target_platform;
        let platform = spec.platform.as_ref().unwrap_or(goal);
        let replaced = matches!(spec.base, Base::Replaced(_));
        match self.resolved.roots[id].as_ref()? {
            Root::Scratch => {
                let node = self.scratch();
                // BuildKit gives scratch the platform of the build, whatever `--platform` says.
                Some(StageState::new(node, empty_image(goal)))
            }
            Root::Directory(name) => {
                let name = name.clone();
                let config = if replaced {
                    bare_image(platform)
                } else {
                    empty_image(platform)
                };
                Some(self.directory_as_root(&name, config, spec))
            }
            Root::Image { need, fact } => {
                let node = self.image(need, fact, spec, Some(names));
                let mut config = fact.config.clone();
                config.created = None;
                config.config.on_build.clear();
                if fact.layers == 0 && config.os.is_empty() && config.architecture.is_empty() {
                    config = if replaced {
                        bare_image(platform)
                    } else {
                        empty_image(platform)
                    };
                }
                Some(StageState::new(node, config))
            }
        }
    }

    /// The tree that a `--from` of this stage reads; `None` when it has an error.
    fn source(&mut self, id: StageId) -> Option<SourceTree> {
        let spec = &self.resolved.stages.all[id];
        match self.resolved.roots[id].as_ref() {
            Some(Root::Directory(name)) => Some(SourceTree {
                node: self.context(name),
                directory: true,
            }),
            Some(root) if spec.declared.is_none() || matches!(spec.base, Base::Replaced(_)) => {
                let node = match root {
                    Root::Image { need, fact } => self.image(need, fact, spec, None),
                    _ => self.scratch(),
                };
                Some(SourceTree {
                    node,
                    directory: false,
                })
            }
            _ => {
                let state = self.states[id].as_ref()?;
                Some(SourceTree {
                    node: state.tree,
                    directory: false,
                })
            }
        }
    }

    fn image(
        &mut self,
        need: &ImageNeed,
        fact: &ImageFact,
        spec: &StageSpec<'_>,
        names: Option<&mut StepNames>,
    ) -> NodeId {
        // Without layers there is nothing but the config (rule S15).
        if fact.layers == 0 {
            return self.scratch();
        }
        let text = if need.named_context {
            format!("[context {}] {}", need.reference, need.reference)
        } else {
            let full = super::reference::normalise(&need.reference);
            format!("FROM {}", full.as_deref().unwrap_or(&need.reference))
        };
        let name = match names {
            Some(names) if !need.named_context => names.next(false, &text),
            _ => text,
        };
        let meta = || Meta {
            name,
            stage: spec.label.clone(),
            lines: Some(lines(spec.lines)),
            no_cache: false,
        };
        self.nodes.leaf(Op::Image { name: need.key() }, meta)
    }

    fn scratch(&mut self) -> NodeId {
        self.nodes.leaf(Op::Scratch, || Meta {
            name: "scratch".to_owned(),
            ..Meta::default()
        })
    }

    fn context(&mut self, name: &str) -> NodeId {
        let op = Op::Context {
            name: name.to_owned(),
        };
        let meta = || Meta {
            name: format!("[context {name}] load from client"),
            ..Meta::default()
        };
        self.nodes.leaf(op, meta)
    }

    /// A directory of this machine as a base: one layer with all it holds.
    fn directory_as_root(
        &mut self,
        name: &str,
        config: ImageConfig,
        spec: &StageSpec<'_>,
    ) -> StageState {
        let scratch = self.scratch();
        let context = self.context(name);
        let source = CopySource::Path {
            input: 1,
            path: String::new(),
        };
        let op = Copy::plain(vec![source], "/".to_owned(), self.build.epoch());
        let meta = Meta {
            name: format!("[context {name}] FROM {name}"),
            stage: spec.label.clone(),
            lines: Some(lines(spec.lines)),
            no_cache: no_cache(self.build, spec),
        };
        let node = self.nodes.add(Op::Copy(op), vec![scratch, context], meta);
        let mut state = StageState::new(node, config);
        state.record(HistoryEntry {
            comment: EXPORTER_COMMENT,
            ..history::layer(format!("[context {name}] load from client"))
        });
        state
    }
}

/// `--no-cache`, or `--no-cache-filter` with the stage's name in any case (rule K12).
fn no_cache(build: &Build<'_>, spec: &StageSpec<'_>) -> bool {
    let name = spec.declared.and_then(|stage| stage.name.as_deref());
    let filter = &build.selection.no_cache_filter;
    build.selection.no_cache
        || name.is_some_and(|name| {
            filter
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(name))
        })
}

/// What `FROM scratch` begins with (rule A19); PATH comes with the first instruction.
fn empty_image(platform: &Platform) -> ImageConfig {
    let mut config = bare_image(platform);
    config.config.working_dir = "/".to_owned();
    config
}

fn bare_image(platform: &Platform) -> ImageConfig {
    let platform = platform::normalise(platform);
    let mut config = ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        ..ImageConfig::default()
    };
    config.rootfs.kind = "layers".to_owned();
    config
}
