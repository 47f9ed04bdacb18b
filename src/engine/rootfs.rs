//! The root file system that a step changes: an overlay, or a plain directory where overlays are
//! refused. Both give the same layer.
//!
//! Filling a plain directory copies the whole base, so one that a step is done with is kept: the
//! next step of its stage goes on in it, after the layers between were put on top.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, Timespec, Timestamps};
use sandbox::inside::Isolation;
use sandbox::spec::{Processes, Root};
use store::Digest;
use store::content::Item;
use store::dirwriter::{DirWriter, open_directory};
use store::layer::LayerDraft;
use store::plain::{self, Snapshot};
use store::scan::{StepClock, scan};
use store::tree::{Entry, Kind};

use super::copying;
use super::executor::{Engine, StepError};
use super::host::Rung;
use super::layers::Tree;
use crate::failure::{Failure, FailureKind};
use crate::request::Snapshotter;

/// As many directories wait for a next step; of more the oldest goes.
const IDLE_MAX: usize = 4;

/// What every step has mounts on.
const MOUNT_POINTS: [&[u8]; 5] = [b"proc", b"sys", b"dev", b"etc/hosts", b"etc/resolv.conf"];

/// How steps of this build are kept apart from the host and get their roots.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) isolation: Isolation,
    pub(crate) processes: Processes,
    snapshotter: Snapshotter,
    /// Oldest first.
    idle: Mutex<Vec<Plain>>,
    /// With the time of its directories.
    skeleton: Mutex<Option<(i64, PathBuf)>>,
}

/// A directory that holds a stack of layers.
#[derive(Debug)]
struct Plain {
    tree: Tree,
    draft: LayerDraft,
}

/// A root in use by a step.
pub(super) enum StepRoot {
    Overlay {
        draft: LayerDraft,
        lowers: Vec<PathBuf>,
        start: (i64, i64),
    },
    Plain {
        draft: LayerDraft,
        before: Snapshot,
        start: (i64, i64),
        /// Whether a next step can go on in it; known after the changes are.
        is_whole: Cell<bool>,
    },
}

impl Roots {
    pub(crate) fn new(rung: Rung) -> Self {
        Self {
            isolation: rung.isolation,
            processes: rung.processes,
            snapshotter: rung.snapshotter,
            idle: Mutex::default(),
            skeleton: Mutex::default(),
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.snapshotter == Snapshotter::Plain
    }

    pub(crate) fn is_chroot(&self) -> bool {
        self.isolation == Isolation::Chroot
    }

    /// A root with the files of `base` for one step. `epoch` is the time of `/` that it sees.
    pub(super) fn prepare(
        &self,
        engine: &Engine,
        base: &Tree,
        epoch: i64,
    ) -> Result<StepRoot, StepError> {
        if !self.is_plain() {
            let mut lowers = engine.layers.lowers(base)?;
            let view = engine.layers.view(base)?;
            if MOUNT_POINTS.iter().any(|path| view.lookup(path).is_none()) {
                lowers.push(self.skeleton(engine, epoch)?);
            }
            let draft = engine.layers.behind.layer_draft()?;
            let start = prepare_directory(&draft.files(), epoch)?;
            return Ok(StepRoot::Overlay {
                draft,
                lowers,
                start,
            });
        }
        let draft = self.plain(engine, base)?;
        prepare_directory(&draft.files(), epoch)?;
        let scratch = draft.work().join("clock");
        let before = Snapshot::take(&draft.files(), &scratch)?;
        let start = Snapshot::now(&scratch)?;
        Ok(StepRoot::Plain {
            draft,
            before,
            start,
            is_whole: Cell::new(true),
        })
    }

    /// A directory to lie below all layers, with the mount points that every step needs. Those
    /// that an image lacks would else be made in each step's upper directory and removed again.
    fn skeleton(&self, engine: &Engine, epoch: i64) -> Result<PathBuf, Failure> {
        let mut skeleton = self.skeleton.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, path)) = skeleton.as_ref().filter(|(time, _)| *time == epoch) {
            return Ok(path.clone());
        }
        let path = engine.layers.store.layer_draft()?.files();
        for name in ["proc", "sys", "dev", "etc"] {
            let directory = path.join(name);
            std::fs::create_dir(&directory).map_err(store::Error::io("create", &directory))?;
            if name == "etc" {
                for file in ["hosts", "resolv.conf"].map(|file| directory.join(file)) {
                    std::fs::write(&file, "").map_err(store::Error::io("create", &file))?;
                }
            }
            // As a step sees what it makes itself, should it change one.
            prepare_directory(&directory, epoch)?;
        }
        *skeleton = Some((epoch, path.clone()));
        Ok(path)
    }

    fn plain(&self, engine: &Engine, base: &Tree) -> Result<LayerDraft, StepError> {
        let (held, draft) = match self.take(engine, base)? {
            Some(plain) => (plain.tree.layers.len(), plain.draft),
            None => {
                let draft = engine.layers.store.layer_draft()?;
                fill_root(engine, base, &draft.files())?;
                (base.layers.len(), draft)
            }
        };
        for top in held..base.layers.len() {
            let tree = Tree::new(base.layers[..=top].to_vec());
            let view = engine.layers.view(&tree)?;
            let owners = engine.layers.owners()?;
            let mut writer = DirWriter::new(open_directory(&draft.files())?, owners);
            let open = |found: &store::view::Found<'_>| copying::open(&engine.layers, &tree, found);
            plain::write_top_layer(&view, &mut writer, &open)?;
            writer.finish()?;
        }
        Ok(draft)
    }

    /// The idle directory that holds most of `base`.
    fn take(&self, engine: &Engine, base: &Tree) -> Result<Option<Plain>, StepError> {
        let mut can_apply = Vec::new();
        for layer in base.layers.iter() {
            can_apply.push(plain::can_be_applied(&*engine.layers.index(layer)?));
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |plain: &Plain| {
            let held = plain.tree.layers.len();
            base.layers.starts_with(&plain.tree.layers) && can_apply[held..].iter().all(|can| *can)
        };
        let best = (0..idle.len())
            .filter(|at| fits(&idle[*at]))
            .max_by_key(|at| idle[*at].tree.layers.len());
        Ok(best.map(|at| idle.remove(at)))
    }

    fn give_back(&self, tree: Tree, draft: LayerDraft) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == IDLE_MAX {
            // Its files go with the temporary directory of the process.
            idle.remove(0);
        }
        idle.push(Plain { tree, draft });
    }
}

impl StepRoot {
    pub(super) fn spec(&self) -> Root {
        match self {
            Self::Overlay { draft, lowers, .. } => Root::Overlay {
                lowers: lowers.clone(),
                upper: draft.files(),
                work: draft.work(),
            },
            Self::Plain { draft, .. } => Root::Plain(draft.files()),
        }
    }

    fn draft(&self) -> &LayerDraft {
        match self {
            Self::Overlay { draft, .. } | Self::Plain { draft, .. } => draft,
        }
    }

    /// Whether it holds all files, not only the changed ones.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain { .. })
    }

    /// Where changed files are after the step.
    pub(super) fn files(&self) -> PathBuf {
        self.draft().files()
    }

    /// Puts directories into the root, as changes that the step makes.
    pub(super) fn add_directories(&self, engine: &Engine, items: &[Item]) -> Result<(), Failure> {
        let owners = engine.layers.owners()?;
        let mut writer = DirWriter::new(open_directory(&self.files())?, owners);
        for item in items {
            writer.write(&item.entry, &mut std::io::empty())?;
        }
        Ok(writer.finish()?)
    }

    /// Runs `with` an empty directory beside the root, for what a step without mounts needs, and
    /// removes it: secrets may be in there.
    pub(super) fn with_scratch<T>(&self, with: impl FnOnce(&Path) -> T) -> Result<T, Failure> {
        let path = self.draft().work().join("step");
        std::fs::create_dir(&path).map_err(store::Error::io("create", &path))?;
        let result = with(&path);
        std::fs::remove_dir_all(&path).map_err(store::Error::io("remove", &path))?;
        Ok(result)
    }

    /// What the step changed, with its times settled, and the clock that tells which those are.
    pub(super) fn changes(
        &self,
        engine: &Engine,
        epoch: i64,
    ) -> Result<(Vec<Item>, StepClock), Failure> {
        let owners = engine.layers.owners()?;
        let build = |e: store::Error| Failure::of(FailureKind::Build, &e);
        let clock = |start| StepClock {
            start,
            end: now(),
            epoch,
        };
        match self {
            Self::Overlay { draft, start, .. } => {
                let clock = clock(*start);
                let items = scan(&draft.files(), owners, Some(&clock)).map_err(build)?;
                Ok((items, clock))
            }
            Self::Plain {
                draft,
                before,
                start,
                is_whole,
            } => {
                let clock = clock(*start);
                let changes = before.changes(&draft.files(), owners, Some(&clock));
                let changes = changes.map_err(build)?;
                is_whole.set(changes.is_whole);
                Ok((changes.items, clock))
            }
        }
    }

    /// Makes a layer of the changes and lets go of the root.
    pub(super) fn into_layer(
        self,
        engine: &Engine,
        base: &Tree,
        items: Vec<Item>,
    ) -> Result<Digest, Failure> {
        match self {
            Self::Overlay { draft, .. } => engine.layers.add_as_directory(items, &draft),
            Self::Plain {
                draft, is_whole, ..
            } => {
                let (layer, _) = engine.layers.add_as_blob(items)?;
                if is_whole.get() {
                    engine.roots.give_back(base.with(layer), draft);
                }
                Ok(layer)
            }
        }
    }
}

/// Fills `directory` with all that `tree` has.
fn fill_root(engine: &Engine, tree: &Tree, directory: &Path) -> Result<(), StepError> {
    engine.layers.unpack_all(&tree.layers);
    let view = engine.layers.view(tree)?;
    let owners = engine.layers.owners()?;
    let writer = || Ok(DirWriter::new(open_directory(directory)?, owners));
    let open = |found: &store::view::Found<'_>| copying::open(&engine.layers, tree, found);
    Ok(plain::write_whole_tree(&view, &writer, &open)?)
}

/// Fills `directory` with what `tree` has at and below `below`, which must be a directory.
fn fill(engine: &Engine, tree: &Tree, below: &[u8], directory: &Path) -> Result<(), StepError> {
    let view = engine.layers.view(tree)?;
    let mut writer = DirWriter::new(open_directory(directory)?, engine.layers.owners()?);
    let open = |found: &store::view::Found<'_>| copying::open(&engine.layers, tree, found);
    plain::write_tree(&view, below, &mut writer, &open)?;
    Ok(writer.finish()?)
}

/// A copy of what is at `path` of `tree`, for one step: what a mount of it would show.
pub(super) fn copy_of(engine: &Engine, tree: &Tree, path: &Path) -> Result<PathBuf, StepError> {
    let view = engine.layers.view(tree)?;
    let resolved = view
        .resolve(path.as_os_str().as_encoded_bytes(), true)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let below = resolved.path;
    let missing = || {
        let message = format!("mount source {} does not exist", path.display());
        Failure::new(FailureKind::Build, message)
    };
    // Within another directory, whose entries carry their owner and mode.
    let outer = engine.layers.store.layer_draft()?.files();
    let entry = match view.lookup(&below) {
        Some(found) => view.file_of(found).unwrap_or(found),
        None if below.is_empty() => return Ok(outer),
        None => return Err(missing().into()),
    };
    let named = Entry {
        path: b"source".to_vec(),
        ..entry.entry.clone()
    };
    let mut writer = DirWriter::new(open_directory(&outer)?, engine.layers.owners()?);
    let target = outer.join("source");
    if matches!(named.kind, Kind::File { .. }) {
        let mut content =
            copying::open(&engine.layers, tree, &entry).map_err(store::Error::io("open", path))?;
        writer.write(&named, &mut content)?;
        writer.finish()?;
        return Ok(target);
    }
    writer.write(&named, &mut std::io::empty())?;
    let is_directory = matches!(named.kind, Kind::Directory { .. });
    if is_directory {
        fill(engine, tree, &below, &target)?;
    }
    writer.finish()?;
    Ok(target)
}

/// Gives a root directory the metadata that the step sees for `/`; returns the time before that,
/// on the file system's own clock.
fn prepare_directory(path: &Path, epoch: i64) -> Result<(i64, i64), Failure> {
    let io = |e: rustix::io::Errno| Failure::from(store::Error::io("prepare", path)(e));
    let stat = rustix::fs::stat(path).map_err(io)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(0o755)).map_err(io)?;
    let time = Timespec {
        tv_sec: epoch,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::empty()).map_err(io)?;
    #[allow(clippy::cast_possible_wrap, reason = "nanoseconds are below 2^30")]
    Ok((stat.st_mtime, stat.st_mtime_nsec as i64))
}

fn now() -> (i64, i64) {
    // File times come from a clock of tick resolution, never ahead of this one.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        i64::from(since.subsec_nanos()),
    )
}
