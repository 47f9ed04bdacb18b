//! One stage while its instructions are applied, and which module each instruction goes to.

use std::collections::HashMap;

use dockerfile::LineRange;
use dockerfile::instruction::{Instruction, InstructionKind};

use super::build::Build;
use super::captured::Captured;
use super::error::LowerError;
use super::expand::Words;
use super::nodes::Nodes;
use super::variables::Variables;
use super::{args, config, copy, env, expose, path, run, workdir};
use crate::config::ImageConfig;
use crate::op::{NodeId, Op};
use crate::plan::{HistoryEntry, Meta};

/// All `created_by` texts of a stage together; registries take configs of 4 to 8 MiB.
const LARGEST_HISTORY: usize = 8 << 20;

/// What a stage hands to a stage that begins with it (rule S13).
#[derive(Debug, Clone)]
pub(crate) struct StageState {
    pub(crate) tree: NodeId,
    pub(crate) config: ImageConfig,
    /// New entries; those of the base image are in `config`.
    pub(crate) history: Vec<HistoryEntry>,
    /// Bytes of the texts in `history`.
    recorded: usize,
    pub(crate) variables: Variables,
    /// Declared `ARG`s in the order of their first declaration, each with the value the last one
    /// gave (rules A09, M05).
    args: Vec<(String, Option<String>)>,
    /// Where in `args` a name is.
    arg_places: HashMap<String, usize>,
    /// Where in the config's environment a name first is.
    env_places: HashMap<String, usize>,
    /// `CMD` was set in this stage (rule S14).
    pub(crate) cmd_set: bool,
    pub(crate) captured: Captured,
}

impl StageState {
    pub(crate) fn new(tree: NodeId, config: ImageConfig) -> Self {
        Self {
            tree,
            config,
            history: Vec::new(),
            recorded: 0,
            variables: Variables::default(),
            args: Vec::new(),
            arg_places: HashMap::new(),
            env_places: HashMap::new(),
            cmd_set: false,
            captured: Captured::default(),
        }
    }

    pub(crate) fn args(&self) -> &[(String, Option<String>)] {
        &self.args
    }

    /// Notes an `ARG`; the value of an earlier one of this name is replaced in its place.
    pub(crate) fn declare(&mut self, name: &str, value: Option<String>) {
        match self.arg_places.get(name) {
            Some(&place) => self.args[place].1 = value,
            None => {
                self.arg_places.insert(name.to_owned(), self.args.len());
                self.args.push((name.to_owned(), value));
            }
        }
    }

    /// Puts a variable into the config: in the place of an earlier value, else at the end.
    pub(crate) fn set_env(&mut self, key: &str, value: &str) {
        let env = &mut self.config.config.env;
        let entry = format!("{key}={value}");
        match self.env_places.get(key) {
            Some(&place) => env[place] = entry,
            None => {
                // A key may hold a `=` itself: then its entry goes by what stands before that.
                let name = entry.split('=').next().unwrap_or_default().to_owned();
                self.env_places.entry(name).or_insert(env.len());
                env.push(entry);
            }
        }
    }

    pub(crate) fn record(&mut self, entry: HistoryEntry) {
        self.recorded += entry.created_by.len();
        self.history.push(entry);
    }

    /// Absolute; clean unless `WORKDIR` said otherwise.
    pub(crate) fn workdir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            workdir => workdir,
        }
    }

    /// Makes the config complete before the first instruction: a PATH (rule A18), an
    /// absolute working directory (rule M17), its variables in force.
    pub(crate) fn begin(&mut self) {
        const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let config = &mut self.config.config;
        config.on_build.clear();
        if !config
            .env
            .iter()
            .any(|entry| entry.split('=').next() == Some("PATH"))
        {
            config.env.push(format!("PATH={PATH}"));
        }
        if !config.working_dir.is_empty() {
            config.working_dir = path::working_directory("/", &config.working_dir);
        }
        let pairs = || {
            let entries = config.env.iter();
            entries.map(|entry| entry.split_once('=').unwrap_or((entry, "")))
        };
        self.variables.set_all(pairs());
        self.env_places.clear();
        for (place, (name, _)) in pairs().enumerate() {
            self.env_places.entry(name.to_owned()).or_insert(place);
        }
        self.cmd_set = false;
        self.captured = Captured::default();
    }
}

/// Counts the steps of a stage: `[builder 2/5] `.
#[derive(Debug)]
pub(crate) struct StepNames {
    /// Empty when the file has one stage only.
    pub(crate) label: String,
    pub(crate) done: usize,
    pub(crate) total: usize,
}

impl StepNames {
    pub(crate) fn next(&mut self, trigger: bool, text: &str) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        self.done += 1;
        let label = if self.label.is_empty() {
            String::new()
        } else {
            format!("{} ", self.label)
        };
        let width = self.total.to_string().len();
        let trigger = if trigger { "ONBUILD " } else { "" };
        format!(
            "[{label}{:width$}/{}] {trigger}{text}",
            self.done, self.total
        )
    }
}

/// Everything an instruction sees and changes.
#[derive(Debug)]
pub(crate) struct Scope<'s> {
    pub(crate) build: &'s Build<'s>,
    pub(crate) state: &'s mut StageState,
    pub(crate) nodes: &'s mut Nodes,
    pub(crate) names: &'s mut StepNames,
    pub(crate) instruction: &'s Instruction,
    /// Trees of the stages and images the instruction takes files from.
    pub(crate) sources: &'s [Option<SourceTree>],
    pub(crate) stage: &'s str,
    pub(crate) trigger: bool,
    pub(crate) no_cache: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceTree {
    pub(crate) node: NodeId,
    /// A local directory: owners mean nothing there.
    pub(crate) directory: bool,
}

impl Scope<'_> {
    pub(crate) fn words(&self) -> Words<'_> {
        self.build.words(&self.state.variables)
    }

    /// Adds a node on top of the stage's tree; `inputs[0]` is that tree.
    pub(crate) fn step(&mut self, op: Op, more_inputs: &[NodeId], text: &str) {
        let meta = Meta {
            name: self.names.next(self.trigger, text),
            stage: self.stage.to_owned(),
            lines: Some(lines(self.instruction.lines)),
            no_cache: self.no_cache,
        };
        let mut inputs = vec![self.state.tree];
        inputs.extend_from_slice(more_inputs);
        self.state.tree = self.nodes.add(op, inputs, meta);
    }

    /// Applies the instruction.
    pub(crate) fn dispatch(&mut self) -> Result<(), LowerError> {
        let result = match &self.instruction.kind {
            InstructionKind::Add(add) => copy::lower(self, add, true),
            InstructionKind::Copy(copy) => copy::lower(self, copy, false),
            InstructionKind::Arg(declarations) => args::lower(self, declarations),
            InstructionKind::Env(pairs) => env::lower(self, pairs),
            InstructionKind::Run(run) => run::lower(self, run),
            InstructionKind::Workdir(path) => workdir::lower(self, path),
            InstructionKind::Expose(ports) => expose::lower(self, ports),
            InstructionKind::Cmd(command) => config::cmd(self, command),
            InstructionKind::Entrypoint(command) => config::entrypoint(self, command),
            InstructionKind::Healthcheck(check) => config::healthcheck(self, check),
            InstructionKind::Label(pairs) => config::label(self, pairs),
            InstructionKind::Maintainer(name) => config::maintainer(self, name),
            InstructionKind::Onbuild(onbuild) => config::onbuild(self, onbuild),
            InstructionKind::Shell(shell) => config::shell(self, shell),
            InstructionKind::Stopsignal(signal) => config::stopsignal(self, signal),
            InstructionKind::User(user) => config::user(self, user),
            InstructionKind::Volume(paths) => config::volume(self, paths),
        };
        result
            .and_then(|()| self.check_size())
            .map_err(|error| error.at(self.instruction.lines))
    }

    /// Values that refer to values grow fast (`ENV a=$a$a`); all of them are in the history.
    fn check_size(&self) -> Result<(), LowerError> {
        if self.state.recorded <= LARGEST_HISTORY {
            return Ok(());
        }
        Err(LowerError::value(format!(
            "the history of stage {} is larger than {LARGEST_HISTORY} bytes",
            self.stage
        ))
        .help(
            "registries refuse configs of this size; make the values of ENV, ARG and LABEL shorter",
        ))
    }
}

/// The instruction as step names show it: keyword in capitals.
pub(crate) fn step_text(text: &str) -> String {
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

pub(crate) fn lines(range: LineRange) -> (u32, u32) {
    (range.first, range.last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_as_buildkit_counts_them() {
        let mut names = StepNames {
            label: "b".into(),
            done: 8,
            total: 10,
        };
        assert_eq!(names.next(false, "RUN x"), "[b  9/10] RUN x");
        assert_eq!(names.next(true, "RUN x"), "[b 10/10] ONBUILD RUN x");
        let mut names = StepNames {
            label: String::new(),
            done: 0,
            total: 2,
        };
        assert_eq!(names.next(false, "RUN x"), "[1/2] RUN x");
        let mut names = StepNames {
            label: "i".into(),
            done: 0,
            total: 0,
        };
        assert_eq!(names.next(false, "FROM i"), "FROM i");
    }
}
