//! One attempt at a build, outside or inside the user namespace.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use graph::facts::{Facts, Selection};
use graph::lower::LowerError;
use graph::solve::{Limits, Solved};
use graph::{Cancel, Event, NodeId, Op, Plan};
use oci::registry::Client;
use serde::{Deserialize, Serialize};
use store::Store;
use store::owner::Owners;
use tokio::runtime::Handle;

use super::context::Contexts;
use super::dockerfile::{self, Dockerfile};
use super::executor::{Engine, Output, StepError};
use super::export::{self, Exported};
use super::layers::Layers;
use super::resolve::{Images, Resolver};
use super::run::{RunSettings, host_resolv_conf};
use crate::failure::{Failure, FailureKind};
use crate::report::{self, Plain};
use crate::request::{BuildRequest, NamedContext, Progress, SecretSource, native_platform};

/// What the process outside found out and the one inside should not ask again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Handoff {
    /// The Dockerfile, when it came from standard input.
    pub(crate) dockerfile: Option<String>,
    pub(crate) pins: BTreeMap<String, String>,
}

/// How an attempt ended when it did not fail.
pub(crate) enum Attempt {
    Done(Exported),
    /// It must be done again inside.
    NeedsInside(Handoff),
}

pub(crate) struct Build<'a> {
    pub(crate) request: &'a BuildRequest,
    pub(crate) runtime: Handle,
    pub(crate) cancel: Cancel,
    /// `None` outside.
    pub(crate) owners: Option<Owners>,
    pub(crate) handoff: Handoff,
}

impl Build<'_> {
    pub(crate) fn run(mut self) -> Result<Attempt, Failure> {
        let request = self.request;
        let dockerfile = dockerfile::read(request, self.handoff.dockerfile.take())?;
        let parsed = ::dockerfile::parse(&dockerfile.source);
        if let Some(failure) = dockerfile::syntax_failure(&dockerfile.source, &parsed.diagnostics) {
            return Err(failure);
        }
        let store = Arc::new(Store::open(&request.store_root)?);
        let layers = Arc::new(Layers::new(store.clone(), self.owners));
        let selection = selection(request);
        let mut images = Images::default();
        let facts = self.resolve(&dockerfile, &parsed.file, &selection, &layers, &mut images)?;
        let plan = graph::lower::lower(&parsed.file, &selection, &facts)
            .map_err(|errors| lower_failure(&dockerfile, &errors))?;
        let plan = Arc::new(plan);
        let contexts = contexts(request, &dockerfile, &store)?;
        let pins = images.pins.clone();
        let (solved, plain) = self.solve(&plan, layers.clone(), images, contexts)?;
        if solved
            .failures
            .iter()
            .any(|(_, e)| matches!(e, StepError::NeedsInside))
        {
            let text = Some(dockerfile.source.text);
            let from_stdin = request.dockerfile == crate::request::DockerfileSource::Stdin;
            let handoff = Handoff {
                dockerfile: text.filter(|_| from_stdin),
                pins,
            };
            return Ok(Attempt::NeedsInside(handoff));
        }
        let tree = solved.output(plan.target).cloned();
        if let Some(failure) = step_failure(solved, &plan, &dockerfile, &plain) {
            return Err(failure);
        }
        let Some(Output::Tree(tree)) = tree else {
            let message = "the target gave no file system";
            return Err(Failure::new(FailureKind::Internal, message));
        };
        let exported = match export::export(request, &layers, &plan, &tree) {
            Err(_) if layers.wants_inside() => {
                return Ok(Attempt::NeedsInside(Handoff {
                    dockerfile: None,
                    pins,
                }));
            }
            other => other?,
        };
        plain.flush_outside();
        if request.progress != Progress::Quiet {
            summary(&plain, &exported);
        }
        Ok(Attempt::Done(exported))
    }

    /// Asks what lowering needs until it needs nothing more: triggers of base images may name
    /// further ones.
    fn resolve(
        &self,
        dockerfile: &Dockerfile,
        file: &::dockerfile::File,
        selection: &Selection,
        layers: &Layers,
        images: &mut Images,
    ) -> Result<Facts, Failure> {
        let resolver = Resolver {
            layers,
            contexts: &self.request.contexts,
            runtime: self.runtime.clone(),
            client: Arc::new(Client::new(oci::registry::Options::default())),
            pins: self.handoff.pins.clone(),
        };
        let mut facts = Facts::default();
        loop {
            let needs = graph::lower::needs(file, selection, &facts)
                .map_err(|errors| lower_failure(dockerfile, &errors))?;
            if needs.images.is_empty() {
                return Ok(facts);
            }
            resolver
                .resolve(&needs, &mut facts, images)
                .map_err(|(mut failure, lines)| {
                    let source = &dockerfile.source;
                    failure.excerpt = Some(report::excerpt(&source.name, &source.text, lines));
                    failure
                })?;
        }
    }

    fn solve(
        &self,
        plan: &Arc<Plan>,
        layers: Arc<Layers>,
        images: Images,
        contexts: Contexts,
    ) -> Result<(Solved<Output, StepError>, Arc<Progressing>), Failure> {
        let runs = plan.nodes.iter().any(|n| matches!(n.op, Op::Run(_)));
        let inside = self.owners.is_some();
        let progress = Arc::new(Progressing::new(
            plan.clone(),
            self.request.progress,
            inside,
        ));
        let reporter = progress.clone();
        let events: Arc<dyn Fn(Event) + Send + Sync> = Arc::new(move |e| reporter.handle(e));
        let engine = Engine {
            layers,
            images,
            contexts,
            run: RunSettings {
                secrets: secrets(self.request)?,
                resolv_conf: if runs { host_resolv_conf() } else { Vec::new() },
            },
            events: events.clone(),
            cancel: self.cancel.clone(),
            warnings: std::sync::Mutex::default(),
            may_execute: inside || !runs,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = Limits {
            running: self.request.jobs,
            preparing: cores.max(2),
        };
        let solve =
            graph::solve::solve(plan.clone(), Arc::new(engine), limits, &self.cancel, events);
        Ok((self.runtime.block_on(solve), progress))
    }
}

/// Shows progress inside. Outside nothing is shown until it is clear that the build ends there,
/// as otherwise all of it would be shown twice.
pub(crate) struct Progressing {
    plain: Plain,
    quiet: bool,
    held: Option<std::sync::Mutex<Vec<Event>>>,
}

impl Progressing {
    fn new(plan: Arc<Plan>, progress: Progress, inside: bool) -> Self {
        Self {
            plain: Plain::new(plan, Box::new(report::line)),
            quiet: progress == Progress::Quiet,
            held: (!inside).then(std::sync::Mutex::default),
        }
    }

    fn handle(&self, event: Event) {
        match &self.held {
            Some(held) => {
                held.lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push(event);
            }
            None if self.quiet => {}
            None => self.plain.handle(&event),
        }
    }

    /// Shows what was held back.
    fn flush_outside(&self) {
        let Some(held) = self.held.as_ref().filter(|_| !self.quiet) else {
            return;
        };
        let events = std::mem::take(
            &mut *held
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        events.iter().for_each(|event| self.plain.handle(event));
    }
}

fn summary(progress: &Progressing, exported: &Exported) {
    let (executed, cached) = progress.plain.counts();
    report::line(&format!(
        "{} layers, {} of {} steps cached, {}",
        exported.layers,
        cached,
        executed + cached,
        exported.manifest
    ));
    for place in &exported.places {
        report::line(&format!("  {place}"));
    }
}

fn selection(request: &BuildRequest) -> Selection {
    let native = native_platform();
    Selection {
        target: request.target.clone(),
        all_stages: false,
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        target_platform: request.platform.clone().unwrap_or_else(|| native.clone()),
        build_platform: native,
        platform_explicit: request.platform.is_some(),
        contexts: request
            .contexts
            .iter()
            .map(|(name, c)| (name.clone(), matches!(c, NamedContext::Directory(_))))
            .collect(),
        no_cache: request.no_cache,
        no_cache_filter: request.no_cache_filter.clone(),
        network: request.network,
        add_hosts: request.add_hosts.clone(),
        shm_size: request.shm_size,
        ulimits: request.ulimits.clone(),
        hostname: None,
        allow: request.allow.clone(),
    }
}

fn contexts(
    request: &BuildRequest,
    dockerfile: &Dockerfile,
    store: &Store,
) -> Result<Contexts, Failure> {
    let cache = store.area("context")?;
    let mut contexts = Contexts::new(cache);
    if let Some(path) = &request.context {
        let ignore = dockerfile::ignore_file(dockerfile, path)?;
        contexts
            .add(graph::op::MAIN_CONTEXT, path, ignore)
            .map_err(|e| context_failure(&e))?;
    }
    for (name, context) in &request.contexts {
        if let NamedContext::Directory(path) = context {
            // Rule G08: its own ignore file.
            let ignore = dockerfile::read_ignore(&path.join(".dockerignore"))?;
            contexts
                .add(name, path, ignore)
                .map_err(|e| context_failure(&e))?;
        }
    }
    Ok(contexts)
}

fn context_failure(error: &dyn std::error::Error) -> Failure {
    Failure::of(FailureKind::Usage, error)
}

fn secrets(request: &BuildRequest) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    use std::os::unix::ffi::OsStringExt;
    let read = |(id, source): (&String, &SecretSource)| {
        let content = match source {
            SecretSource::File(path) => std::fs::read(path)
                .map_err(|e| format!("secret {id}: {}: {e}", Path::new(path).display()))?,
            SecretSource::Environment(name) => std::env::var_os(name)
                .map(OsStringExt::into_vec)
                .ok_or_else(|| format!("secret {id}: the environment has no {name}"))?,
        };
        Ok((id.clone(), content))
    };
    let secrets: Result<_, String> = request.secrets.iter().map(read).collect();
    secrets.map_err(|message| Failure::new(FailureKind::Usage, message))
}

fn lower_failure(dockerfile: &Dockerfile, errors: &[LowerError]) -> Failure {
    let source = &dockerfile.source;
    let mut failure = Failure::new(FailureKind::Dockerfile, "");
    let mut excerpts = Vec::new();
    let mut messages = Vec::new();
    for error in errors {
        messages.push(error.message.clone());
        failure.hints.extend(error.help.clone());
        if let Some(lines) = error.lines {
            let lines = (lines.first, lines.last);
            excerpts.push(report::excerpt(&source.name, &source.text, lines));
        }
    }
    failure.message = messages.join("\nERROR: ");
    failure.excerpt = Some(excerpts.join("\n")).filter(|e| !e.is_empty());
    failure
}

/// The first failure that is not just the echo of another.
fn step_failure(
    solved: Solved<Output, StepError>,
    plan: &Plan,
    dockerfile: &Dockerfile,
    progress: &Progressing,
) -> Option<Failure> {
    let mut cancelled = None;
    for (node, error) in solved.failures {
        match error {
            StepError::Failed(failure) => {
                progress.flush_outside();
                return Some(placed(failure, node, plan, dockerfile, progress));
            }
            StepError::Cancelled | StepError::NeedsInside => {
                cancelled = Some(Failure::new(
                    FailureKind::Interrupted,
                    "the build was canceled",
                ));
            }
        }
    }
    let unfinished = solved
        .outputs
        .get(plan.target.0)
        .is_none_or(Option::is_none);
    cancelled.or_else(|| {
        unfinished.then(|| Failure::new(FailureKind::Interrupted, "the build was canceled"))
    })
}

fn placed(
    mut failure: Failure,
    node: NodeId,
    plan: &Plan,
    dockerfile: &Dockerfile,
    progress: &Progressing,
) -> Failure {
    let mut parts: Vec<String> = progress.plain.tail(node).into_iter().collect();
    if let Some(lines) = plan.nodes[node.0].meta.lines {
        let source = &dockerfile.source;
        parts.push(report::excerpt(&source.name, &source.text, lines));
    }
    failure.message = format!("failed to solve: {}", failure.message);
    failure.excerpt = (!parts.is_empty()).then(|| parts.join("\n"));
    failure
}
