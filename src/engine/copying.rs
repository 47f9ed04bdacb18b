//! `COPY`, `ADD` and `WORKDIR` as steps: brings [`super::copy`], which plans on data, together
//! with contexts, trees and the store.

use std::io;

use graph::NodeId;
use graph::op::{self, CopySource};
use graph::{KeyBuilder, Op};
use store::Digest;
use store::content::{Content, Reader};
use store::view::{Found, View};

use super::context::ContextTree;
use super::copy::{
    AnonymousFiles, CopyError, ImageUsers, LayerFiles, Means, Planned, Selection, Source,
    StageTree, archive_limits, plan_copy, plan_workdir, select,
};
use super::executor::{Engine, Made, Output, StepError};
use super::layers::{Layers, Tree};
use super::secrets::{Leaks, UNMOUNTED_MIN};
use crate::failure::{Failure, FailureKind};

/// Opens files of a tree's layers.
pub(super) struct TreeFiles<'a> {
    pub(super) layers: &'a Layers,
    pub(super) tree: &'a Tree,
}

impl LayerFiles for TreeFiles<'_> {
    fn content(&self, layer: usize, path: &[u8]) -> io::Result<Content> {
        let diff_id = self.tree.layers.get(layer).ok_or(io::ErrorKind::NotFound)?;
        self.layers
            .content(diff_id, path)
            .map_err(|failure| io::Error::other(failure.message))
    }
}

/// The bytes of a regular file found in the view of `tree`.
pub(super) fn open(layers: &Layers, tree: &Tree, file: &Found<'_>) -> io::Result<Reader> {
    TreeFiles { layers, tree }
        .content(file.layer, &file.entry.path)?
        .open()
}

/// Outside of a build that runs steps, a file that the user may not read is no error yet: inside,
/// where the user is root, it may be readable, and whether a build gets there first depends on
/// what else it does.
fn failed(engine: &Engine, error: CopyError) -> StepError {
    if error.is_refused() && !engine.may_execute {
        return StepError::NeedsInside;
    }
    error.into()
}

impl From<CopyError> for StepError {
    fn from(error: CopyError) -> Self {
        let mut failure = Failure::of(FailureKind::Build, &error);
        failure.hints = error.hints();
        Self::Failed(failure)
    }
}

/// A digest of what the sources of `op` select: the files as `COPY` sees them (rules K02-K05).
pub(super) fn selection_key(
    engine: &Engine,
    op: &op::Copy,
    inputs: &[Output],
) -> Result<[u8; 32], StepError> {
    with_selection(engine, op, inputs, |selection| Ok(selection.key()))
}

pub(super) fn copy(
    engine: &Engine,
    node: NodeId,
    op: &op::Copy,
    inputs: &[Output],
) -> Result<Made, StepError> {
    copy_and(engine, op, inputs, |engine, planned| {
        add(engine, node, inputs, planned)
    })
}

fn copy_and<T>(
    engine: &Engine,
    op: &op::Copy,
    inputs: &[Output],
    add: impl FnOnce(&Engine, Planned) -> Result<T, StepError>,
) -> Result<T, StepError> {
    let base = inputs[0].tree()?;
    let view = if super::copy::is_linked(op) {
        View::default()
    } else {
        engine.layers.view(base)?
    };
    let files = TreeFiles {
        layers: &engine.layers,
        tree: base,
    };
    let users = ImageUsers::new(&view, &files);
    let temp = AnonymousFiles {
        directory: engine.layers.store.area("tmp")?,
    };
    let means = Means {
        temp: &temp,
        below: &files,
        limits: archive_limits(),
    };
    with_selection(engine, op, inputs, |selection| {
        let planned = plan_copy(op, selection, &view, &users, means);
        add(engine, planned.map_err(|e| failed(engine, e))?)
    })
}

pub(super) fn workdir(
    engine: &Engine,
    node: NodeId,
    op: &op::Workdir,
    base: &Tree,
) -> Result<Made, StepError> {
    let view = engine.layers.view(base)?;
    let files = TreeFiles {
        layers: &engine.layers,
        tree: base,
    };
    let planned = plan_workdir(op, &view, &ImageUsers::new(&view, &files))?;
    add(engine, node, &[], planned)
}

/// For layers of the image, in which no secret may be.
fn add(
    engine: &Engine,
    node: NodeId,
    inputs: &[Output],
    planned: Planned,
) -> Result<Made, StepError> {
    for warning in &planned.warnings {
        engine.note(node, format!("warning: {warning}"));
    }
    let secrets = &engine.run.secrets;
    let leaks = Leaks::find(secrets, secrets.ids(), UNMOUNTED_MIN, &planned.items)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    leaks.check(secrets)?;
    Ok(Made {
        secrets: leaks.ids().map(str::to_owned).collect(),
        ..add_unchecked(engine, inputs, planned)?.into()
    })
}

fn add_unchecked(
    engine: &Engine,
    inputs: &[Output],
    planned: Planned,
) -> Result<Digest, StepError> {
    let (layer, are_as_selected) = engine.layers.add_as_blob(planned.items)?;
    if !are_as_selected {
        contexts(engine, inputs).for_each(ContextTree::note_change);
    }
    Ok(layer)
}

/// Whether nobody is known to have written to the contexts among `inputs` since they were looked
/// at. Else what is made of them is not what its key says, and must not be recorded.
pub(super) fn are_unchanged(engine: &Engine, inputs: &[Output]) -> bool {
    !contexts(engine, inputs).any(ContextTree::has_changed)
}

fn contexts<'e>(engine: &'e Engine, inputs: &[Output]) -> impl Iterator<Item = &'e ContextTree> {
    inputs.iter().filter_map(|input| match input {
        Output::Context(name) => engine.contexts.tree(name).ok(),
        _ => None,
    })
}

/// Looks the sources of `op` up in its inputs and hands them to `use_selection`.
fn with_selection<T>(
    engine: &Engine,
    op: &op::Copy,
    inputs: &[Output],
    use_selection: impl FnOnce(&Selection<'_>) -> Result<T, StepError>,
) -> Result<T, StepError> {
    let wanted = |number: usize| {
        op.sources.iter().any(|source| {
            matches!(
                source,
                CopySource::Path { input, .. } | CopySource::Literal { input, .. }
                    if *input == number
            )
        })
    };
    let mut views = Vec::with_capacity(inputs.len());
    for (number, input) in inputs.iter().enumerate() {
        views.push(match input {
            Output::Tree(tree) if wanted(number) => Some((engine.layers.view(tree)?, tree)),
            _ => None,
        });
    }
    let files: Vec<Option<TreeFiles<'_>>> = views
        .iter()
        .map(|v| {
            v.as_ref().map(|(_, tree)| TreeFiles {
                layers: &engine.layers,
                tree,
            })
        })
        .collect();
    let stages: Vec<Option<StageTree<'_>>> = views
        .iter()
        .zip(&files)
        .map(|(view, files)| {
            let (view, files) = (view.as_ref()?, files.as_ref()?);
            Some(stage_tree(&view.0, files))
        })
        .collect();
    let mut checkouts = Vec::with_capacity(inputs.len());
    for input in inputs {
        checkouts.push(match input {
            Output::Checkout(checkout) => Some(checkout.tree(&engine.access())?),
            _ => None,
        });
    }
    let mut sources = Vec::with_capacity(op.sources.len());
    for source in &op.sources {
        sources.push(match source {
            CopySource::Inline { .. } => Source::Inline,
            CopySource::Download { input, .. } => match &inputs[*input] {
                Output::Download(download) => Source::File(download.file(&engine.layers.store)?),
                _ => return Err(Failure::new(FailureKind::Internal, "not a download").into()),
            },
            CopySource::Path { input, .. } | CopySource::Literal { input, .. } => {
                match (&inputs[*input], &stages[*input], &checkouts[*input]) {
                    (Output::Context(name), _, _) => Source::Tree(
                        engine
                            .contexts
                            .tree(name)
                            .map_err(|e| Failure::of(FailureKind::Usage, &e))?,
                    ),
                    (Output::Tree(_), Some(stage), _) => Source::Tree(stage),
                    (Output::Checkout(_), _, Some(tree)) => Source::Tree(tree.as_ref()),
                    (Output::Tree(_) | Output::Download(_) | Output::Checkout(_), _, _) => {
                        return Err(
                            Failure::new(FailureKind::Internal, "no view of a source").into()
                        );
                    }
                }
            }
        });
    }
    use_selection(&select(op, &sources).map_err(|e| failed(engine, e))?)
}

fn stage_tree<'a>(view: &'a View, files: &'a TreeFiles<'a>) -> StageTree<'a> {
    StageTree::new("the stage or image", view, files)
}

/// Where [`context_tree`] puts what was selected.
pub(super) const MOUNTED: &str = "mounted";

/// A `COPY` of one path of a context to a fixed place in an empty tree.
fn mount_copy(source: &str, epoch: i64) -> op::Copy {
    let source = CopySource::Literal {
        input: 1,
        path: source.to_owned(),
    };
    op::Copy::plain(vec![source], format!("/{MOUNTED}"), epoch)
}

fn mount_inputs(name: &str) -> [Output; 2] {
    [Output::Tree(Tree::default()), Output::Context(name.into())]
}

/// A digest of what a mount of `source` of the local context `name` shows (rule K09).
pub(super) fn mount_key(engine: &Engine, name: &str, source: &str) -> Result<[u8; 32], StepError> {
    selection_key(engine, &mount_copy(source, 0), &mount_inputs(name))
}

/// A digest of what a mount of `source` of another stage or image shows (rule K09).
pub(super) fn tree_mount_key(
    engine: &Engine,
    tree: &Tree,
    source: &str,
) -> Result<[u8; 32], StepError> {
    let view = engine.layers.view(tree)?;
    let root = view
        .resolve(source.trim_matches('/').as_bytes(), true)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let mut hasher = blake3::Hasher::new();
    // The selection leaves out what a copied directory does not give to its destination.
    if let Some(found) = view.lookup(&root.path) {
        let entry = found.entry;
        for number in [entry.mode, entry.uid, entry.gid] {
            hasher.update(&number.to_le_bytes());
        }
    }
    let copy_op = op::Copy {
        keep_owner: true,
        ..mount_copy(source, 0)
    };
    let inputs = [Output::Tree(Tree::default()), Output::Tree(tree.clone())];
    hasher.update(&selection_key(engine, &copy_op, &inputs)?);
    Ok(*hasher.finalize().as_bytes())
}

/// The files of a local context below `source`, made into a layer as `COPY` would.
pub(super) fn context_tree(
    engine: &Engine,
    name: &str,
    source: &str,
    epoch: i64,
) -> Result<Tree, StepError> {
    let copy_op = mount_copy(source, epoch);
    let inputs = mount_inputs(name);
    let selected = selection_key(engine, &copy_op, &inputs)?;
    let mut key = KeyBuilder::new(&Op::Copy(copy_op.clone()));
    let key = key.part(b"mount").part(&selected).finish();
    if let Some(layer) = engine.look_up(&key)? {
        return Ok(Tree::new(vec![layer]));
    }
    let layer = copy_and(engine, &copy_op, &inputs, |engine, planned| {
        add_unchecked(engine, &inputs, planned)
    })?;
    if are_unchanged(engine, &inputs) {
        engine.put(&key, &layer.into(), 0)?;
    }
    Ok(Tree::new(vec![layer]))
}
