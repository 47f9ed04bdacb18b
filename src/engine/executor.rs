//! Answers the scheduler: what a node's key is, whether its result is known, and how to make it.

use std::sync::Arc;
use std::time::Instant;

use graph::op::{self, MountKind, Op};
use graph::{Cancel, Event, Executor, Key, KeyBuilder, Node, NodeId, Prepared};
use serde::{Deserialize, Serialize};
use store::Digest;
use store::record::RecordKind;

use super::caches::Renewed;
use super::context::Contexts;
use super::fetch::{self, Access, Fetching, git, http};
use super::layers::{Layers, Tree};
use super::resolve::Images;
use super::rootfs::Roots;
use super::run::RunSettings;
use super::{copying, run};
use crate::failure::{Failure, FailureKind};

const STEPS: RecordKind = RecordKind("steps");

/// What a node gives: a handle, no files.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    Tree(Tree),
    /// A local directory, by the name of its context.
    Context(Arc<str>),
    /// A file that `ADD` fetched.
    Download(Arc<http::Download>),
    /// The files of a commit that `ADD` fetched.
    Checkout(Arc<git::Checkout>),
}

impl Output {
    pub(crate) fn tree(&self) -> Result<&Tree, Failure> {
        match self {
            Self::Tree(tree) => Ok(tree),
            Self::Context(name) => {
                let message = format!("the local context {name:?} cannot be a root file system");
                Err(Failure::new(FailureKind::Dockerfile, message))
            }
            Self::Download(_) | Self::Checkout(_) => {
                let message = "what ADD fetched cannot be a root file system";
                Err(Failure::new(FailureKind::Internal, message))
            }
        }
    }
}

/// Why a node has no result.
#[derive(Debug)]
pub(crate) enum StepError {
    Failed(Failure),
    /// Stopped by the cancel switch.
    Cancelled,
    /// The work needs the user namespace; this process is outside.
    NeedsInside,
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Outside of the scheduler, which tells them apart.
impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Failed(failure) => failure,
            StepError::Cancelled | StepError::NeedsInside => {
                Self::new(FailureKind::Interrupted, "the build was canceled")
            }
        }
    }
}

impl From<store::Error> for StepError {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Everything steps need, shared by all of them.
pub(crate) struct Engine {
    pub(crate) layers: Arc<Layers>,
    pub(crate) images: Images,
    pub(crate) contexts: Contexts,
    pub(crate) run: RunSettings,
    pub(crate) roots: Roots,
    pub(crate) fetching: Arc<Fetching>,
    pub(crate) events: Arc<dyn Fn(Event) + Send + Sync>,
    pub(crate) cancel: Cancel,
    pub(crate) renewed: Renewed,
    /// False in the process outside when the plan has steps that run: then nothing is executed
    /// there, as all of it can be done inside at once.
    pub(crate) may_execute: bool,
}

/// What is kept of a step that was done.
#[derive(Debug, Serialize, Deserialize)]
struct StepRecord {
    layer: String,
    /// Milliseconds it took.
    took_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<run::UsageRecord>,
    /// Ids of secrets that are in the layer, because the build allowed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<String>,
}

/// A step's new layer and what making it took.
pub(crate) struct Made {
    pub(crate) layer: Digest,
    pub(crate) usage: Option<run::UsageRecord>,
    /// As in the record.
    pub(crate) secrets: Vec<String>,
}

impl From<Digest> for Made {
    fn from(layer: Digest) -> Self {
        Self {
            layer,
            usage: None,
            secrets: Vec::new(),
        }
    }
}

impl Engine {
    /// The result recorded under `key`, if all of its bytes are still there.
    pub(super) fn look_up(&self, key: &Key) -> Result<Option<Digest>, StepError> {
        let Some(bytes) = self.layers.behind.record(STEPS, &key.0)? else {
            return Ok(None);
        };
        let record: Option<StepRecord> = serde_json::from_slice(&bytes).ok();
        // What another build allowed is made again here, and refused then.
        let allowed = |id: &String| self.run.secrets.is_allowed_in_layers(id);
        let record = record.filter(|r| r.secrets.iter().all(allowed));
        let layer = record.and_then(|r| r.layer.parse().ok());
        Ok(layer.filter(|layer| self.layers.is_available(layer)))
    }

    pub(super) fn put(&self, key: &Key, made: &Made, took_ms: u64) -> Result<(), StepError> {
        let usage = made.usage.clone();
        let record = StepRecord {
            layer: made.layer.to_string(),
            took_ms,
            usage,
            secrets: made.secrets.clone(),
        };
        let json = serde_json::to_vec(&record)
            .map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))?;
        self.layers.behind.put_record(STEPS, &key.0, json);
        Ok(())
    }

    /// A step: looked up by key, and by `content_key` when it reads other trees that may hold the
    /// same files (rule K01).
    fn prepare_step(
        &self,
        node: &Node,
        inputs: &[Output],
        base: &Tree,
    ) -> Result<Prepared<Output>, StepError> {
        let key = self.key(node, inputs, base)?;
        let prepared = |hit: Option<Digest>| Prepared {
            key,
            hit: hit.map(|layer| Output::Tree(base.with(layer))),
            silent: false,
        };
        if node.meta.no_cache {
            return Ok(prepared(None));
        }
        if let Some(layer) = self.look_up(&key)? {
            return Ok(prepared(Some(layer)));
        }
        let Some(content_key) = self.content_key(node, inputs, base)? else {
            return Ok(prepared(None));
        };
        let hit = self.look_up(&content_key)?;
        if let Some(layer) = hit {
            // The next look-up needs no content.
            self.put(&key, &layer.into(), 0)?;
        }
        Ok(prepared(hit))
    }

    /// Definition key: the op, the trees it works on, and the selected files of local contexts.
    fn key(&self, node: &Node, inputs: &[Output], base: &Tree) -> Result<Key, StepError> {
        let mut key = match &node.op {
            Op::Copy(copy) if inputs.iter().skip(1).all(is_context) => {
                KeyBuilder::new(&without_sources(copy))
            }
            op => KeyBuilder::new(op),
        };
        match &node.op {
            Op::Copy(copy) => {
                if !super::copy::is_linked(copy) {
                    key.part(&base.digest());
                }
                for input in inputs.iter().skip(1) {
                    match input {
                        Output::Tree(tree) => key.part(&tree.digest()),
                        Output::Context(_) => {
                            key.part(&copying::selection_key(self, copy, inputs)?)
                        }
                        Output::Download(download) => key.part(&download.key()),
                        Output::Checkout(checkout) => key.part(&checkout.key()),
                    };
                }
            }
            Op::Run(run) => {
                key.part(&base.digest());
                self.mount_parts(&mut key, run, inputs, By::Tree)?;
            }
            _ => {
                key.part(&base.digest());
            }
        }
        Ok(key.finish())
    }

    fn mount_parts(
        &self,
        key: &mut KeyBuilder,
        run: &op::Run,
        inputs: &[Output],
        by: By,
    ) -> Result<(), StepError> {
        for mount in &run.mounts {
            let (input, source, is_bind) = match &mount.kind {
                MountKind::Bind { input, source, .. } => (*input, source, true),
                MountKind::Cache {
                    input: Some(input),
                    source,
                    ..
                } => (*input, source, false),
                _ => continue,
            };
            match &inputs[input] {
                Output::Tree(tree) if is_bind && by == By::Content => {
                    key.part(&copying::tree_mount_key(self, tree, source)?)
                }
                Output::Tree(tree) => key.part(&tree.digest()),
                Output::Context(name) => key.part(&copying::mount_key(self, name, source)?),
                Output::Download(_) | Output::Checkout(_) => return Err(not_mountable()),
            };
        }
        Ok(())
    }

    /// Like [`Engine::key`], but with the selected files of other trees instead of those trees.
    fn content_key(
        &self,
        node: &Node,
        inputs: &[Output],
        base: &Tree,
    ) -> Result<Option<Key>, StepError> {
        if !inputs.iter().skip(1).any(|i| matches!(i, Output::Tree(_))) {
            return Ok(None);
        }
        match &node.op {
            Op::Copy(copy) => {
                let fetched = |i: &Output| matches!(i, Output::Download(_) | Output::Checkout(_));
                let mut key = if inputs.iter().any(fetched) {
                    KeyBuilder::new(&node.op)
                } else {
                    KeyBuilder::new(&without_sources(copy))
                };
                key.part(b"content");
                if !super::copy::is_linked(copy) {
                    key.part(&base.digest());
                }
                key.part(&copying::selection_key(self, copy, inputs)?);
                Ok(Some(key.finish()))
            }
            Op::Run(run) => {
                let mut key = KeyBuilder::new(&node.op);
                key.part(b"content").part(&base.digest());
                self.mount_parts(&mut key, run, inputs, By::Content)?;
                Ok(Some(key.finish()))
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    pub(super) fn access(&self) -> Access<'_> {
        Access {
            fetching: &self.fetching,
            store: &self.layers.store,
            secrets: &self.run.secrets,
            cancel: &self.cancel,
            may_execute: self.may_execute,
        }
    }

    /// Said once, at the end of the build.
    pub(crate) fn note(&self, node: NodeId, text: impl Into<String>) {
        let text = self.run.secrets.mask(text.into());
        (self.events)(Event::Note { node, text });
    }

    fn make(
        &self,
        id: NodeId,
        node: &Node,
        inputs: &[Output],
        base: &Tree,
        cancel: &Cancel,
    ) -> Result<Made, StepError> {
        match &node.op {
            Op::Run(run) => run::run(self, id, run, inputs, base, cancel),
            Op::Copy(copy) => copying::copy(self, id, copy, inputs),
            Op::Workdir(workdir) => copying::workdir(self, id, workdir, base),
            Op::Scratch | Op::Image { .. } | Op::Context { .. } | Op::Http(_) | Op::Git(_) => {
                Err(Failure::new(FailureKind::Internal, "a source was executed").into())
            }
        }
    }
}

/// How a key covers the trees that are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// As a whole.
    Tree,
    /// By what a mount shows: writes to it are discarded, so nothing else matters (rule K09).
    Content,
}

fn is_context(input: &Output) -> bool {
    matches!(input, Output::Context(_))
}

/// For keys that have the selected files themselves: where these were taken from does not matter
/// (rules C37, K03). Heredocs stay: they are no input (rule H14).
fn without_sources(copy: &op::Copy) -> Op {
    let inline = |source: &&op::CopySource| matches!(source, op::CopySource::Inline { .. });
    Op::Copy(op::Copy {
        sources: copy.sources.iter().filter(inline).cloned().collect(),
        ..copy.clone()
    })
}

/// Only stages, images and directories can be mounted; lowering makes nothing else.
pub(super) fn not_mountable() -> StepError {
    Failure::new(FailureKind::Internal, "what ADD fetched cannot be mounted").into()
}

impl Executor for Engine {
    type Output = Output;
    type Error = StepError;

    fn prepare(&self, node: &Node, inputs: &[Output]) -> Result<Prepared<Output>, StepError> {
        let source = |output| Prepared {
            key: KeyBuilder::new(&node.op).finish(),
            hit: Some(output),
            silent: true,
        };
        match &node.op {
            Op::Scratch => Ok(source(Output::Tree(Tree::default()))),
            Op::Image { name } => Ok(source(Output::Tree(self.images.tree(name)?))),
            Op::Context { name } => Ok(source(Output::Context(name.as_str().into()))),
            Op::Http(_) | Op::Git(_) => fetch::prepare(&self.access(), node),
            Op::Run(_) | Op::Copy(_) | Op::Workdir(_) => {
                let base = inputs[0].tree()?;
                self.prepare_step(node, inputs, base)
                    .map_err(|e| self.inside_or(e))
            }
        }
    }

    /// A record is looked up in microseconds; hashing files of a context takes longer.
    fn is_quick(&self, node: &Node) -> bool {
        match &node.op {
            Op::Scratch | Op::Image { .. } | Op::Context { .. } | Op::Workdir(_) => true,
            Op::Run(run) => !run.mounts.iter().any(|mount| {
                let kind = &mount.kind;
                matches!(
                    kind,
                    MountKind::Bind { .. } | MountKind::Cache { input: Some(_), .. }
                )
            }),
            Op::Copy(_) | Op::Http(_) | Op::Git(_) => false,
        }
    }

    fn execute(
        &self,
        id: NodeId,
        node: &Node,
        key: &Key,
        inputs: &[Output],
        cancel: &Cancel,
    ) -> Result<Output, StepError> {
        if matches!(node.op, Op::Http(_) | Op::Git(_)) {
            let fetched = fetch::execute(&self.access(), node, key, cancel)?;
            if let Some(text) = fetch::describe(&fetched) {
                self.note(id, text);
            }
            return Ok(fetched);
        }
        if !self.may_execute {
            return Err(StepError::NeedsInside);
        }
        let start = Instant::now();
        let scratch = Output::Tree(Tree::default());
        let base = inputs.first().unwrap_or(&scratch).tree()?;
        let made = self
            .make(id, node, inputs, base, cancel)
            .map_err(|e| {
                if cancel.is_cancelled() {
                    StepError::Cancelled
                } else {
                    e
                }
            })
            .map_err(|e| self.inside_or(e))?;
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !copying::are_unchanged(self, inputs) {
            return Ok(Output::Tree(base.with(made.layer)));
        }
        self.put(key, &made, took_ms)?;
        if let Some(content_key) = self.content_key(node, inputs, base)? {
            self.put(&content_key, &made, took_ms)?;
        }
        Ok(Output::Tree(base.with(made.layer)))
    }
}

impl Engine {
    /// What failed only for being outside is done again inside.
    fn inside_or(&self, error: StepError) -> StepError {
        if self.layers.wants_inside() {
            StepError::NeedsInside
        } else {
            error
        }
    }
}
