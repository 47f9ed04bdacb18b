//! One attempt at a build, outside or inside the user namespace.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ::dockerfile::{Diagnostic, LineRange};
use graph::facts::{Facts, Selection};
use graph::solve::{Limits, Solved};
use graph::{Cancel, Event, NodeId, Op, Plan};
use oci::registry::Client;
use sandbox::inside::Isolation;
use sandbox::spec::Processes;
use serde::{Deserialize, Serialize};
use store::Store;
use store::owner::Owners;
use tokio::runtime::Handle;

use super::cgroup::Cgroups;
use super::checks;
use super::context::Contexts;
use super::dns::ResolvConf;
use super::dockerfile::{self, Dockerfile, lower_failure};
use super::executor::{Engine, Output, StepError};
use super::export::{self, Exported};
use super::fetch::context::{self, FetchedContexts};
use super::fetch::{Access, Fetching, Pins};
use super::host::Rung;
use super::layers::Layers;
use super::logs::Logs;
use super::resolve::{Images, Resolver};
use super::rootfs::Roots;
use super::run::RunSettings;
use super::secrets::{SecretValues, Secrets};
use crate::config;
use crate::failure::{Failure, FailureKind};
use crate::report::{self, Plain, Problem};
use crate::request::{
    BuildRequest, DockerfileSource, NamedContext, Progress, Snapshotter, native_platform,
};

/// What the process outside found out and the one inside should not ask again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Handoff {
    /// The Dockerfile, when it came from standard input.
    pub(crate) dockerfile: Option<String>,
    pub(crate) pins: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) sources: Pins,
    /// Where a context from elsewhere was put.
    #[serde(default)]
    pub(crate) context: Option<PathBuf>,
    /// What was chosen for the process inside.
    #[serde(default)]
    pub(crate) snapshotter: Option<Snapshotter>,
    /// Read outside; passed in memory only.
    pub(crate) secrets: Option<SecretValues>,
}

/// How an attempt ended when it did not fail.
pub(crate) enum Attempt {
    Done(Exported),
    /// It must be done again inside.
    NeedsInside(Handoff),
}

/// What steps are given or leave besides layers.
struct World {
    images: Images,
    contexts: Contexts,
    fetching: Arc<Fetching>,
    secrets: Arc<Secrets>,
    logs: Arc<Logs>,
    /// The files of contexts.
    _fetched: FetchedContexts,
}

pub(crate) struct Build<'a> {
    pub(crate) request: &'a BuildRequest,
    pub(crate) runtime: Handle,
    pub(crate) cancel: Cancel,
    /// `None` outside.
    pub(crate) owners: Option<Owners>,
    /// How steps are run; `None` outside.
    pub(crate) rung: Option<Rung>,
    pub(crate) handoff: Handoff,
}

impl Build<'_> {
    pub(crate) fn run(mut self) -> Result<Attempt, Failure> {
        let mut warnings = Vec::new();
        let result = self.attempt(&mut warnings);
        // Inside all of it is found once more.
        let again = matches!(result, Ok(Attempt::NeedsInside(_)));
        if !again && self.request.progress != Progress::Quiet {
            checks::tell(&warnings);
        }
        result
    }

    fn attempt(&mut self, warnings: &mut Vec<Diagnostic>) -> Result<Attempt, Failure> {
        let request = self.request;
        let dockerfile = dockerfile::read(request, self.handoff.dockerfile.take())?;
        let parsed = ::dockerfile::parse(&dockerfile.source);
        if let Some(failure) = dockerfile::syntax_failure(&dockerfile.source, &parsed.diagnostics) {
            return Err(failure);
        }
        let store = Arc::new(config::open_store(&request.store_root)?);
        let layers = Arc::new(Layers::new(store.clone(), self.owners));
        let selection = selection(request);
        let mut images = Images::default();
        let facts = self.resolve(&dockerfile, &parsed.file, &selection, &layers, &mut images)?;
        let checked = checks::run(request, &dockerfile, &parsed.file, &selection, &facts)?;
        warnings.clone_from(&checked.warnings);
        let plan = graph::lower::lower(&parsed.file, &selection, &facts)
            .map_err(|errors| lower_failure(&dockerfile.source, &errors))?;
        if let Some(failure) = checks::violation(&checked) {
            return Err(failure);
        }
        let plan = Arc::new(plan);
        let pins = images.pins.clone();
        let world = self.world(&dockerfile, &plan, images, &store)?;
        let (fetching, secrets) = (world.fetching.clone(), world.secrets.clone());
        let logs = world.logs.clone();
        let (solved, plain) = self.solve(&plan, layers.clone(), world)?;
        let again = || Handoff {
            sources: fetching.pins(),
            secrets: Some(secrets.values()),
            ..handoff(request, &dockerfile, pins.clone())
        };
        if solved
            .failures
            .iter()
            .any(|(_, e)| matches!(e, StepError::NeedsInside))
        {
            return Ok(Attempt::NeedsInside(again()));
        }
        let tree = solved.output(plan.target).cloned();
        if let Some(mut failure) = step_failure(solved, &plan, &dockerfile, &plain) {
            failure.message = secrets.mask(failure.message);
            return Err(failure);
        }
        let Some(Output::Tree(tree)) = tree else {
            let message = "the target gave no file system";
            return Err(Failure::new(FailureKind::Internal, message));
        };
        let exported = match export::export(request, &layers, &plan, &tree) {
            Err(_) if layers.wants_inside() => {
                return Ok(Attempt::NeedsInside(again()));
            }
            other => other?,
        };
        plain.flush_outside();
        if request.progress != Progress::Quiet {
            summary(&plan, &plain, &exported);
            if let Some(path) = logs.path().filter(|_| request.verbose) {
                report::line(&format!("  logs of the steps: {}", path.display()));
            }
        }
        Ok(Attempt::Done(exported))
    }

    /// Asks what lowering needs until it needs nothing more: triggers of base images may name
    /// further ones.
    pub(super) fn resolve(
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
                .map_err(|errors| lower_failure(&dockerfile.source, &errors))?;
            if needs.images.is_empty() {
                return Ok(facts);
            }
            resolver
                .resolve(&needs, &mut facts, images)
                .map_err(|(mut failure, lines)| {
                    failure.problems.push(problem(dockerfile, lines));
                    let mut asking = needs.images.values().filter(|need| need.lines == lines);
                    if let Some(advice) = asking.find_map(|need| need.advice.clone()) {
                        failure.hints.push(advice);
                    }
                    failure
                })?;
        }
    }

    fn solve(
        &self,
        plan: &Arc<Plan>,
        layers: Arc<Layers>,
        world: World,
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
        let number = progress.clone();
        let run = RunSettings {
            secrets: world.secrets,
            resolv_conf: if runs {
                ResolvConf::new(&self.request.dns)
            } else {
                ResolvConf::default()
            },
            limits: self.request.limits,
            cgroups: if runs && inside {
                Cgroups::new(&self.request.limits)?
            } else {
                None
            },
            logs: world.logs,
            number: Box::new(move |node| number.plain.number_of(node)),
        };
        let engine = Engine {
            layers: layers.clone(),
            images: world.images,
            contexts: world.contexts,
            fetching: world.fetching,
            run,
            roots: self.roots(),
            events: events.clone(),
            cancel: self.cancel.clone(),
            renewed: super::caches::Renewed::default(),
            may_execute: inside || !runs,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = Limits {
            running: self.jobs(),
            preparing: cores.max(2),
        };
        let solve =
            graph::solve::solve(plan.clone(), Arc::new(engine), limits, &self.cancel, events);
        let solved = self.runtime.block_on(solve);
        sandbox::wait_for_teardown();
        if inside {
            let root = layers.store.root().to_owned();
            let thread = std::thread::Builder::new().name("leftovers".to_owned());
            // Ends with the process, wherever it is then; without a thread they stay.
            drop(thread.spawn(move || Store::clear_leftovers(&root)));
        }
        let kept = layers.behind.flush();
        // A failed step matters more than that it may be done again.
        if solved.failures.is_empty() {
            kept?;
        }
        Ok((solved, progress))
    }
}

impl Build<'_> {
    /// A secret may come from a pipe, which can be read once.
    /// Fetches the contexts that are elsewhere, if the plan uses them.
    fn world(
        &mut self,
        dockerfile: &Dockerfile,
        plan: &Plan,
        images: Images,
        store: &Arc<Store>,
    ) -> Result<World, Failure> {
        let request = self.request;
        let sources = std::mem::take(&mut self.handoff.sources);
        let fetching = Fetching::new(self.runtime.clone(), request.agents.clone(), sources);
        let secrets = self.secrets()?;
        let access = Access {
            fetching: &fetching,
            store,
            secrets: &secrets,
            cancel: &self.cancel,
            may_execute: true,
        };
        let fetched = context::named(request, plan, &access)?;
        Ok(World {
            images,
            contexts: contexts(request, dockerfile, store, &fetched)?,
            fetching: Arc::new(fetching),
            secrets,
            logs: Arc::new(Logs::new(store.area("logs")?)),
            _fetched: fetched,
        })
    }

    fn secrets(&mut self) -> Result<Arc<Secrets>, Failure> {
        let values = match self.handoff.secrets.take() {
            Some(values) => values,
            None => SecretValues::read(&self.request.secrets)?,
        };
        let secrets = Secrets::new(values, &self.request.secrets_in_layers)?;
        Ok(Arc::new(secrets))
    }

    fn roots(&self) -> Roots {
        // Outside no step gets that far.
        let outside = Rung {
            isolation: Isolation::UserNamespace,
            processes: Processes::Own,
            snapshotter: Snapshotter::Overlay,
        };
        let rung = self.rung.unwrap_or(outside);
        Roots::new(rung)
    }

    fn jobs(&self) -> usize {
        // More would only hold locks of caches meanwhile.
        let one_by_one = self.rung.is_some_and(Rung::runs_one_by_one);
        if one_by_one { 1 } else { self.request.jobs }
    }
}

/// Shows progress inside. Outside nothing is shown until it is clear that the build ends there,
/// as otherwise all of it would be shown twice.
pub(crate) struct Progressing {
    plain: Plain,
    held: Option<std::sync::Mutex<Vec<Event>>>,
}

impl Progressing {
    fn new(plan: Arc<Plan>, progress: Progress, inside: bool) -> Self {
        Self {
            // A failed step is told about also when nothing else is.
            plain: match progress {
                Progress::Quiet => Plain::new(plan, Box::new(|_| {})),
                _ => Plain::new(plan, Box::new(report::line)),
            },
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
            None => self.plain.handle(&event),
        }
    }

    /// Shows what was held back.
    fn flush_outside(&self) {
        let Some(held) = &self.held else {
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

fn summary(plan: &Plan, progress: &Progressing, exported: &Exported) {
    let (executed, cached) = progress.plain.counts();
    let mut stages: Vec<&str> = Vec::new();
    for node in plan.nodes.iter().filter(|n| n.meta.lines.is_some()) {
        if !stages.contains(&node.meta.stage.as_str()) {
            stages.push(&node.meta.stage);
        }
    }
    let summary = report::Summary {
        digest: exported.manifest.to_string(),
        layers: exported.layers,
        size: exported.size,
        stages,
        executed,
        cached,
        places: &exported.places,
    };
    summary.lines().iter().for_each(|line| report::line(line));
}

pub(super) fn selection(request: &BuildRequest) -> Selection {
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
            .map(|(name, c)| {
                (
                    name.clone(),
                    matches!(
                        c,
                        NamedContext::Directory(_) | NamedContext::Git(_) | NamedContext::Http(_)
                    ),
                )
            })
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
    fetched: &FetchedContexts,
) -> Result<Contexts, Failure> {
    let cache = store.area("context")?;
    let mut contexts = Contexts::new(cache);
    if let Some(path) = &request.context {
        // Rule I10: those of fetched contexts are files like any other.
        let ignore = match request.remote_context {
            None => dockerfile::ignore_file(dockerfile, path)?,
            Some(_) => None,
        };
        contexts
            .add(graph::op::MAIN_CONTEXT, path, ignore)
            .map_err(|e| context_failure(&e))?;
    }
    for (name, context) in &request.contexts {
        // Rules G08, I10: its own ignore file, if it is a local one.
        let found = match context {
            NamedContext::Directory(path) => {
                let ignore = dockerfile::read_ignore(&path.join(".dockerignore"))?;
                Some((path.as_path(), ignore))
            }
            _ => fetched.get(name).map(|files| (files.directory(), None)),
        };
        if let Some((path, ignore)) = found {
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
    if let Some(lines) = plan.nodes[node.0].meta.lines {
        failure.problems.push(problem(dockerfile, lines));
    }
    failure.message = format!("failed to solve: {}", failure.message);
    failure.excerpt = progress.plain.tail(node);
    failure
}

/// The lines of a step; what happened is told below them.
fn problem(dockerfile: &Dockerfile, (first, last): (u32, u32)) -> Problem {
    let lines = LineRange { first, last };
    Problem::at_lines(&dockerfile.source, lines, None, "", None)
}

fn handoff(
    request: &BuildRequest,
    dockerfile: &Dockerfile,
    pins: BTreeMap<String, String>,
) -> Handoff {
    let from_stdin = matches!(
        request.dockerfile,
        DockerfileSource::Stdin | DockerfileSource::Url(_)
    );
    Handoff {
        dockerfile: from_stdin.then(|| dockerfile.source.text.clone()),
        pins,
        sources: Pins::default(),
        context: None,
        snapshotter: None,
        secrets: None,
    }
}
