//! Rules that need the variables of a stage: its instructions are followed with the environment
//! they see (rules X04, X16, A01-A16).

use std::collections::{BTreeMap, BTreeSet};

use super::from::{Base, Resolved};
use super::report::{Report, place_of, place_of_stage, stop};
use super::secrets::looks_secret;
use super::{BaseImage, CheckContext, expose, platform, rules};
use crate::diagnostic::Diagnostic;
use crate::instruction::{
    ArgDeclaration, CommandLine, Copy, CopySource, File, Instruction, InstructionKind, KeyValues,
    Place, Stage,
};
use crate::path::clean;
use crate::suggest::nearest;
use crate::text::quote;
use crate::word::{expand_heredoc, expand_tracked, expand_words};

/// `ARG`s that never become variables (rule A16).
const NOT_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Most bytes that words expand to and variables take, summed over all stages.
const MAX_HELD: usize = 256 << 20;

/// Most names a misspelt one is compared with.
const MAX_SUGGESTED_FROM: usize = 1000;

/// Most names that are compared with others: it takes longer than all else.
const MAX_SUGGESTIONS: usize = 1000;

/// `PATH` of an image that sets none (rule A18).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a stage hands to those that build on it.
#[derive(Debug, Clone, Default)]
struct State {
    env: BTreeMap<String, String>,
    /// Names declared by `ARG`, with or without a value.
    declared: BTreeSet<String>,
    has_shell: bool,
    workdir_set: bool,
    os: String,
    /// Triggers for the stages on top of this one.
    onbuild: Vec<String>,
}

/// Where each instruction that should be used once was last seen.
#[derive(Debug, Default)]
struct Last {
    cmd: Option<Place>,
    entrypoint: Option<Place>,
    healthcheck: Option<Place>,
}

pub(super) fn check(
    file: &File,
    context: &CheckContext<'_>,
    resolved: Resolved,
    report: &mut Report<'_>,
) -> Result<(), Diagnostic> {
    let mut evaluator = Evaluator {
        context,
        report,
        escape: file.directives.escape,
        global: resolved.global,
        state: State::default(),
        last: Last::default(),
        held: 0,
        suggestions: MAX_SUGGESTIONS,
    };
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    let mut states: Vec<State> = Vec::with_capacity(file.stages.len());
    for (index, (stage, base)) in file.stages.iter().zip(&resolved.stages).enumerate() {
        let wanted = context
            .stages
            .is_none_or(|stages| stages.binary_search(&index).is_ok());
        if wanted {
            let inherited = by_name
                .get(base.name.as_str())
                .and_then(|index| states.get(*index))
                .cloned();
            evaluator.stage(index, stage, base, inherited)?;
        }
        // A stage that is left out leaves an empty state; nothing that is needed builds on it.
        states.push(std::mem::take(&mut evaluator.state));
        if let Some(name) = stage.name.as_deref() {
            by_name.insert(name, index);
        }
    }
    Ok(())
}

struct Evaluator<'a, 'r> {
    context: &'a CheckContext<'a>,
    report: &'a mut Report<'r>,
    escape: char,
    global: BTreeMap<String, String>,
    state: State,
    last: Last,
    /// Bytes of variables kept so far, in all stages.
    held: usize,
    /// Misspelt names that may still be compared.
    suggestions: usize,
}

impl Evaluator<'_, '_> {
    fn stage(
        &mut self,
        index: usize,
        stage: &Stage,
        base: &Base,
        inherited: Option<State>,
    ) -> Result<(), Diagnostic> {
        let place = place_of_stage(stage);
        self.last = Last::default();
        let triggers = match inherited {
            Some(mut inherited) => {
                let triggers = std::mem::take(&mut inherited.onbuild);
                let bytes = inherited
                    .env
                    .iter()
                    .map(|(name, value)| name.len() + value.len())
                    .sum();
                self.hold(bytes, place)?;
                self.state = inherited;
                triggers
            }
            None => self.base_image(index, stage, base),
        };
        if self.state.os != "windows" {
            self.state
                .env
                .entry("PATH".to_owned())
                .or_insert_with(|| DEFAULT_PATH.to_owned());
        }
        for trigger in &triggers {
            let (instruction, diagnostics) = crate::parse_trigger(trigger);
            let Some(mut instruction) = instruction else {
                let message = diagnostics
                    .into_iter()
                    .next()
                    .map(|diagnostic| diagnostic.message);
                return Err(stop(place, message.unwrap_or_default()));
            };
            instruction.lines = place.lines;
            instruction.span = place.span;
            self.instruction(&instruction)?;
        }
        stage
            .instructions
            .iter()
            .try_for_each(|instruction| self.instruction(instruction))
    }

    /// Starts from an image; its triggers.
    fn base_image(&mut self, index: usize, stage: &Stage, base: &Base) -> Vec<String> {
        let context = self.context;
        let (base, given) = (base.name.as_str(), base.platform.as_deref());
        let image = (context.base)(index).unwrap_or_default();
        let BaseImage {
            env,
            has_shell,
            onbuild,
            platform: actual,
        } = image;
        let default = context.build_platform;
        let wanted = platform::parse(given.unwrap_or(context.target_platform), default);
        if let (Some(wanted), Some(actual)) = (
            &wanted,
            actual.and_then(|name| platform::parse(&name, default)),
        ) && (&wanted.os, &wanted.architecture) != (&actual.os, &actual.architecture)
        {
            let message = format!(
                "Base image {base} was pulled with platform {}, expected {} for current build",
                quote(&actual.name()),
                quote(&wanted.name())
            );
            let place = place_of_stage(stage);
            self.report
                .globally()
                .warn(rules::INVALID_BASE_IMAGE_PLATFORM, place, message, None);
        }
        let os = wanted.map(|platform| platform.os).unwrap_or_default();
        self.state = State {
            env: env.into_iter().collect(),
            has_shell,
            os,
            ..State::default()
        };
        onbuild
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), Diagnostic> {
        let place = place_of(instruction);
        self.report.with_comments(&instruction.comments);
        let keyword = instruction.keyword.as_str();
        match &instruction.kind {
            InstructionKind::Arg(declarations) => self.arg(declarations, place)?,
            InstructionKind::Env(pairs) => self.env(keyword, pairs, place)?,
            InstructionKind::Label(pairs) => {
                self.expand_pairs(pairs, place)?;
                self.legacy(keyword, pairs, place);
            }
            InstructionKind::Add(copy) => self.copy(copy, "Add", place)?,
            InstructionKind::Copy(copy) => self.copy(copy, "Copy", place)?,
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    let mut failed = None;
                    let mut expand = |value: &str| match self.expand(value, place) {
                        Ok(value) => Ok(value),
                        Err(diagnostic) => {
                            let message = diagnostic.message.clone();
                            failed = Some(diagnostic);
                            Err(message)
                        }
                    };
                    if let Err(error) = mount.expand(&mut expand) {
                        return Err(failed.unwrap_or_else(|| stop(place, error.message)));
                    }
                }
            }
            InstructionKind::Cmd(line) => self.command(keyword, line, place, |last| &mut last.cmd),
            InstructionKind::Entrypoint(line) => {
                self.command(keyword, line, place, |last| &mut last.entrypoint);
            }
            InstructionKind::Healthcheck(_) => {
                self.once(keyword, place, |last| &mut last.healthcheck);
            }
            InstructionKind::Expose(ports) => self.expose(ports, place)?,
            InstructionKind::Workdir(path) => self.workdir(path, place)?,
            InstructionKind::User(word) | InstructionKind::Stopsignal(word) => {
                self.expand(word, place)?;
            }
            InstructionKind::Volume(paths) => {
                for path in paths {
                    self.expand(path, place)?;
                }
            }
            InstructionKind::Shell(_) => self.state.has_shell = true,
            InstructionKind::Onbuild(onbuild) => self.state.onbuild.push(onbuild.text.clone()),
            InstructionKind::Maintainer(_) => {}
        }
        Ok(())
    }

    /// Expands a word and warns of variables nobody has declared.
    fn expand(&mut self, word: &str, place: Place) -> Result<String, Diagnostic> {
        match expand_tracked(word, self.escape, &self.state.env) {
            Ok(expansion) => {
                expansion
                    .unset
                    .iter()
                    .for_each(|name| self.undefined(name, place));
                self.hold(expansion.value.len(), place)?;
                Ok(expansion.value)
            }
            Err(error) => {
                error
                    .unset
                    .iter()
                    .for_each(|name| self.undefined(name, place));
                Err(stop(place, error.to_string()))
            }
        }
    }

    fn undefined(&mut self, name: &str, place: Place) {
        if self.state.declared.contains(name) || NOT_VARIABLES.contains(&name) {
            return;
        }
        let mut message = format!("Usage of undefined variable '${name}'");
        let known = self.state.env.keys().map(String::as_str);
        let compared = if self.suggestions > 0 {
            MAX_SUGGESTED_FROM
        } else {
            0
        };
        self.suggestions = self.suggestions.saturating_sub(1);
        if let Some(nearest) = nearest(name, known.take(compared)) {
            message.push_str(&format!(" (did you mean ${nearest}?)"));
        }
        let help = format!("declare it with ARG {name} or ENV {name}=<value> above, in this stage");
        self.report
            .warn(rules::UNDEFINED_VAR, place, message, Some(help));
    }

    fn set(&mut self, name: String, value: String, place: Place) -> Result<(), Diagnostic> {
        self.hold(name.len() + value.len(), place)?;
        self.state.env.insert(name, value);
        Ok(())
    }

    /// Counts memory that variables take; `ENV a=$a$a` doubles it line by line.
    fn hold(&mut self, bytes: usize, place: Place) -> Result<(), Diagnostic> {
        self.held = self.held.saturating_add(bytes);
        if self.held > MAX_HELD {
            return Err(stop(
                place,
                format!("the variables of all stages take more than {MAX_HELD} bytes"),
            ));
        }
        Ok(())
    }

    fn expand_pairs(
        &mut self,
        pairs: &KeyValues,
        place: Place,
    ) -> Result<Vec<(String, String)>, Diagnostic> {
        pairs
            .pairs
            .iter()
            .map(|(key, value)| Ok((self.expand(key, place)?, self.expand(value, place)?)))
            .collect()
    }

    fn legacy(&mut self, keyword: &str, pairs: &KeyValues, place: Place) {
        if pairs.legacy {
            let message = format!(
                "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
            );
            self.report
                .warn(rules::LEGACY_KEY_VALUE_FORMAT, place, message, None);
        }
    }

    fn secret(&mut self, keyword: &str, name: &str, place: Place) {
        if looks_secret(name) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({keyword} {})",
                quote(name)
            );
            let help = "use RUN --mount=type=secret: it leaves no trace in the image".to_owned();
            self.report.warn(
                rules::SECRETS_USED_IN_ARG_OR_ENV,
                place,
                message,
                Some(help),
            );
        }
    }

    fn env(&mut self, keyword: &str, pairs: &KeyValues, place: Place) -> Result<(), Diagnostic> {
        // All values see the environment from before the instruction (rule X04).
        let expanded = self.expand_pairs(pairs, place)?;
        self.legacy(keyword, pairs, place);
        for (name, value) in expanded {
            self.secret("ENV", &name, place);
            self.set(name, value, place)?;
        }
        Ok(())
    }

    fn arg(&mut self, declarations: &[ArgDeclaration], place: Place) -> Result<(), Diagnostic> {
        for ArgDeclaration { name, default, .. } in declarations {
            self.secret("ARG", name, place);
            let value = match (self.context.build_args.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(default, place)?),
                (None, None) => self.global.get(name).cloned(),
            };
            if let Some(value) = value
                && !NOT_VARIABLES.contains(&name.as_str())
            {
                self.set(name.clone(), value, place)?;
            }
            self.state.declared.insert(name.clone());
        }
        Ok(())
    }

    fn copy(&mut self, copy: &Copy, verb: &str, place: Place) -> Result<(), Diagnostic> {
        for word in [&copy.chown, &copy.chmod, &copy.checksum]
            .into_iter()
            .flatten()
        {
            self.expand(word, place)?;
        }
        let mut sources = Vec::new();
        for source in &copy.sources {
            if let CopySource::Path(path) = source {
                sources.push(self.expand(path, place)?);
            }
        }
        self.expand(&copy.destination, place)?;
        for source in &copy.sources {
            if let CopySource::Heredoc(heredoc) = source
                && heredoc.expand
            {
                let expansion = expand_heredoc(&heredoc.body, &self.state.env)
                    .map_err(|error| stop(place, error.to_string()))?;
                expansion
                    .unset
                    .iter()
                    .for_each(|name| self.undefined(name, place));
            }
        }
        if copy.from.is_none() {
            sources
                .iter()
                .for_each(|source| self.ignored(source, verb, place));
        }
        Ok(())
    }

    /// Exceptions (`!`) are too difficult to judge without the files, so the reference gives up.
    fn ignored(&mut self, source: &str, verb: &str, place: Place) {
        let Some(ignore) = self
            .context
            .ignore
            .filter(|ignore| !ignore.has_exceptions())
        else {
            return;
        };
        if is_remote(source) {
            return;
        }
        let path = clean(source);
        let is_root = path == "." || path == "/";
        let hides_root = |pattern: &str| matches!(pattern, "*" | "**" | "**/*");
        if is_root && !ignore.rules().iter().any(|rule| hides_root(&rule.pattern)) {
            return;
        }
        let found = ignore.matches_alone(&path);
        if found.matched {
            let message = format!(
                "Attempting to {verb} file {} that is excluded by .dockerignore",
                quote(&path)
            );
            let rule = found.rule.and_then(|index| ignore.rules().get(index));
            let help = rule.map(|rule| {
                format!(
                    "line {} of the ignore file excludes it: {}",
                    rule.line, rule.text
                )
            });
            self.report
                .warn(rules::COPY_IGNORED_FILE, place, message, help);
        }
    }

    fn command(
        &mut self,
        keyword: &str,
        line: &CommandLine,
        place: Place,
        last: impl Fn(&mut Last) -> &mut Option<Place>,
    ) {
        self.once(keyword, place, last);
        if let CommandLine::Shell(text) = line
            && !self.state.has_shell
        {
            let message = format!(
                "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
            );
            let help = if text.starts_with('[') {
                "it begins like a JSON array but is none: strings are in double quotes, with \
                 commas between them"
                    .to_owned()
            } else {
                format!(
                    "write {keyword} [\"program\", \"argument\"], or set SHELL to show that it is meant"
                )
            };
            self.report
                .warn(rules::JSON_ARGS_RECOMMENDED, place, message, Some(help));
        }
    }

    /// The place told is that of the instruction that has no effect: the one before.
    fn once(
        &mut self,
        keyword: &str,
        place: Place,
        last: impl Fn(&mut Last) -> &mut Option<Place>,
    ) {
        if let Some(before) = last(&mut self.last).replace(place) {
            let message = format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            );
            self.report.warn(
                rules::MULTIPLE_INSTRUCTIONS_DISALLOWED,
                before,
                message,
                None,
            );
        }
    }

    fn expose(&mut self, ports: &[String], place: Place) -> Result<(), Diagnostic> {
        let mut words = Vec::new();
        for port in ports {
            let expanded = expand_words(port, self.escape, &self.state.env);
            words.extend(expanded.map_err(|error| stop(place, error.to_string()))?);
        }
        match words
            .iter()
            .find(|word| !expose::check(word, place, self.report))
        {
            Some(word) => Err(stop(place, format!("invalid port: {}", quote(word)))),
            None => Ok(()),
        }
    }

    fn workdir(&mut self, path: &str, place: Place) -> Result<(), Diagnostic> {
        let path = self.expand(path, place)?;
        let absolute =
            path.starts_with('/') || (self.state.os == "windows" && is_windows_absolute(&path));
        if !self.state.workdir_set && !absolute {
            let message = format!(
                "Relative workdir {} can have unexpected results if the base image changes",
                quote(&path)
            );
            let help = "begin the first WORKDIR of the stage with /".to_owned();
            self.report
                .warn(rules::WORKDIR_RELATIVE_PATH, place, message, Some(help));
        }
        self.state.workdir_set = true;
        Ok(())
    }
}

fn is_windows_absolute(path: &str) -> bool {
    let path = path.replace('\\', "/");
    path.starts_with('/') || path.as_bytes().get(1..3) == Some(b":/")
}

/// URLs and git remotes; they are no files of the context.
fn is_remote(source: &str) -> bool {
    let schemes = ["http://", "https://", "git://", "ssh://"];
    let scp_like = || {
        let (user, rest) = source.split_once('@')?;
        let (host, _) = rest.split_once(':')?;
        Some(!user.contains('/') && !host.contains('/'))
    };
    schemes.iter().any(|scheme| source.starts_with(scheme)) || scp_like() == Some(true)
}
