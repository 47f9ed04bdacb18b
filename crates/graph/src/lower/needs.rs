//! Which images must be known before a file can be lowered, and what each stage begins with once
//! they are (rules S02, S06, S15, G06, G09).

use std::borrow::Cow;
use std::collections::BTreeSet;

use dockerfile::instruction::InstructionKind;

use super::build::Build;
use super::error::{ErrorKind, LowerError};
use super::stages::{Base, Command, StageId, Stages};
use super::{onbuild, platform, reference};
use crate::config::ImageConfig;
use crate::facts::{Facts, ImageFact, ImageNeed, Needs};

/// What a stage that begins with no other stage begins with.
#[derive(Debug)]
pub(crate) enum Root<'f> {
    Scratch,
    Image {
        need: ImageNeed,
        fact: &'f ImageFact,
    },
    /// A named context that is a local directory.
    Directory(String),
}

#[derive(Debug)]
pub(crate) struct Resolved<'a, 'f> {
    pub(crate) stages: Stages<'a>,
    pub(crate) reachable: BTreeSet<StageId>,
    /// By stage; `None` for stages that begin with a stage, are not needed or not yet known.
    pub(crate) roots: Vec<Option<Root<'f>>>,
    /// Empty when lowering can go on.
    pub(crate) needs: Needs,
}

/// Follows the target's dependencies as far as the facts go. ONBUILD triggers of the images that
/// are known already take part, and may bring in more (rule S21).
///
/// # Errors
/// Errors of the graph, of triggers, and stages used before they are defined (rule S04).
pub(crate) fn resolve<'a, 'f>(
    build: &Build<'a>,
    facts: &'f Facts,
) -> Result<Resolved<'a, 'f>, Vec<LowerError>> {
    let mut resolved = Resolved {
        stages: Stages::new(build)?,
        reachable: BTreeSet::new(),
        roots: Vec::new(),
        needs: Needs::default(),
    };
    let mut triggered = BTreeSet::new();
    loop {
        resolved.reachable = resolved.stages.reachable(build.selection.all_stages);
        let mut grown = false;
        for id in resolved.reachable.clone() {
            resolved
                .find_root(build, facts, id)
                .map_err(|error| vec![error])?;
            if let Some(triggers) = resolved.triggers(id)
                && triggered.insert(id)
            {
                grown |= resolved
                    .add_triggers(id, &triggers)
                    .map_err(|error| vec![error])?;
            }
        }
        if !grown {
            break;
        }
    }
    let errors = resolved.out_of_order();
    if errors.is_empty() {
        Ok(resolved)
    } else {
        Err(errors)
    }
}

impl<'f> Resolved<'_, 'f> {
    fn find_root(
        &mut self,
        build: &Build<'_>,
        facts: &'f Facts,
        id: StageId,
    ) -> Result<(), LowerError> {
        self.roots.resize_with(self.stages.all.len(), || None);
        if self.roots[id].is_some() {
            return Ok(());
        }
        let stage = &self.stages.all[id];
        let platform = stage
            .platform
            .as_ref()
            .unwrap_or(&build.selection.target_platform);
        if platform.os != "linux" {
            return Err(LowerError::unsupported(format!(
                "images for {} cannot be built, only for linux",
                platform.os
            ))
            .help("only Linux images are built; remove the platform")
            .at(stage.lines));
        }
        let (text, context) = match &stage.base {
            Base::Stage(_) => return Ok(()),
            Base::Scratch => {
                self.roots[id] = Some(Root::Scratch);
                return Ok(());
            }
            Base::Replaced(key) => (key, Some(key.as_str())),
            Base::Image(name) => {
                let full = reference::normalise(name).unwrap_or_else(|_| name.clone());
                (name, build.named_context(&full, platform))
            }
        };
        if let Some(key) = context
            && build.selection.contexts.get(key) == Some(&true)
        {
            self.roots[id] = Some(Root::Directory(key.to_owned()));
            return Ok(());
        }
        let need = ImageNeed {
            reference: context.unwrap_or(text).to_owned(),
            named_context: context.is_some(),
            platform: platform::normalise(platform),
            lines: (stage.lines.first, stage.lines.last),
            advice: None,
        };
        let key = need.key();
        match facts.images.get(&key) {
            Some(fact) => self.roots[id] = Some(Root::Image { need, fact }),
            None => {
                let advice = || self.stages.advice(id, text, build);
                let entry = self.needs.images.entry(key);
                entry.or_insert_with(|| ImageNeed {
                    advice: advice(),
                    ..need
                });
            }
        }
        Ok(())
    }

    /// Texts of the triggers that run in this stage; `None` while its base is not known.
    fn triggers(&self, id: StageId) -> Option<Vec<String>> {
        let stage = &self.stages.all[id];
        if stage.declared.is_none() || matches!(stage.base, Base::Replaced(_)) {
            return Some(Vec::new());
        }
        match (&stage.base, self.roots[id].as_ref()) {
            (Base::Stage(base), _) => {
                let kinds = self.stages.all[*base]
                    .commands
                    .iter()
                    .map(|c| &c.instruction.kind);
                Some(
                    kinds
                        .filter_map(|kind| match kind {
                            InstructionKind::Onbuild(onbuild) => Some(onbuild.text.clone()),
                            _ => None,
                        })
                        .collect(),
                )
            }
            (_, Some(Root::Image { fact, .. })) => Some(on_build(&fact.config)),
            (_, Some(_)) => Some(Vec::new()),
            (_, None) => None,
        }
    }

    /// Puts triggers before the stage's own instructions; true when one takes files from a stage
    /// or image.
    fn add_triggers(&mut self, id: StageId, triggers: &[String]) -> Result<bool, LowerError> {
        let lines = self.stages.all[id].lines;
        let mut commands: Vec<Command<'_>> = Vec::with_capacity(triggers.len());
        for text in triggers {
            let instruction = onbuild::parse(text, lines)?;
            commands.push(self.stages.command(Cow::Owned(instruction), true)?);
        }
        let grown = commands
            .iter()
            .any(|command| command.sources.iter().any(Option::is_some));
        self.stages.all[id].commands.splice(0..0, commands);
        if grown {
            self.stages.check_circles()?;
        }
        Ok(grown)
    }

    /// Rule S04; what a named context replaces is there from the start.
    fn out_of_order(&self) -> Vec<LowerError> {
        let mut errors = Vec::new();
        for &id in &self.reachable {
            for command in &self.stages.all[id].commands {
                for (position, &source) in command.sources.iter().enumerate() {
                    let Some(source) = source else { continue };
                    let spec = &self.stages.all[source];
                    let there = source < id
                        || spec.declared.is_none()
                        || matches!(spec.base, Base::Replaced(_));
                    if !there {
                        errors.push(self.out_of_order_error(id, command, position));
                    }
                }
            }
        }
        errors
    }

    fn out_of_order_error(
        &self,
        id: StageId,
        command: &Command<'_>,
        position: usize,
    ) -> LowerError {
        let current = &self.stages.all[id].label;
        let message = match &command.instruction.kind {
            InstructionKind::Run(run) => {
                let mount = &run.mounts[position];
                format!(
                    "cannot mount from stage \"{}\" to \"{}\", stage needs to be defined before \
                     current command",
                    mount.from.as_deref().unwrap_or_default(),
                    mount.target.as_deref().unwrap_or_default()
                )
            }
            InstructionKind::Copy(copy) => format!(
                "cannot copy from stage \"{}\", it needs to be defined before current stage \
                 \"{current}\"",
                copy.from.as_deref().unwrap_or_default()
            ),
            _ => "a stage is used before it is defined".to_owned(),
        };
        LowerError::new(ErrorKind::OutOfOrder, message)
            .help(format!("move that stage above `{current}`"))
            .at(command.instruction.lines)
    }
}

fn on_build(config: &ImageConfig) -> Vec<String> {
    config.config.on_build.clone()
}
