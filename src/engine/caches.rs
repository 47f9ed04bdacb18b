//! `RUN --mount=type=cache`: directories that outlive steps and builds (rules R20-R25).
//!
//! A cache lies in `caches/<hash of what makes it another cache>/<number>/`: `data`, and a `lock`
//! that is held exclusively by a `locked` or `private` user and shared by a `shared` one. The
//! kernel drops locks with the process, so a killed build locks nobody out.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use graph::op::{self, MountKind, Sharing};
use rustix::fs::{Gid, Mode, Uid};
use store::dirwriter::{DirWriter, open_directory};
use store::tree::{Entry, Kind};

use super::copying;
use super::executor::{Engine, Output, StepError};
use super::layers::Tree;
use super::mounts::input_tree;
use crate::failure::{Failure, FailureKind};

/// More concurrent users of one private cache are refused.
const PRIVATE_MAX: u32 = 1000;
/// How often a `locked` cache in use is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The use of a cache by one step.
#[derive(Debug)]
pub(super) struct CacheLease {
    path: PathBuf,
    _lock: File,
}

impl CacheLease {
    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

/// Finds or makes the cache of a mount, and waits for it if need be. Also tells whether it is to
/// be read-only.
pub(super) fn lease(
    engine: &Engine,
    op: &op::Run,
    mount: &op::Mount,
    inputs: &[Output],
) -> Result<(CacheLease, bool), StepError> {
    let MountKind::Cache {
        id,
        input,
        source,
        sharing,
        mode,
        uid,
        gid,
        read_only,
    } = &mount.kind
    else {
        return Err(Failure::new(FailureKind::Internal, "not a cache mount").into());
    };
    let seed = match input {
        Some(number) => Some(input_tree(engine, op, &inputs[*number], source)?),
        None => None,
    };
    // Of a local context only what was selected is in the tree.
    let seed_path = match input.map(|number| &inputs[number]) {
        Some(Output::Context(_)) => copying::MOUNTED,
        _ => source,
    };
    let root = directory(engine, id, seed.as_ref(), source, (*mode, *uid, *gid))?;
    let make = |path: &Path| match &seed {
        Some(tree) => populate(engine, tree, seed_path, path),
        None => make_empty(path, *mode, *uid, *gid).map_err(|e| io_failure(path, &e)),
    };
    let lease = match sharing {
        Sharing::Shared => take(engine, &root.join("0"), false, &make)?,
        Sharing::Locked => take(engine, &root.join("0"), true, &make)?,
        Sharing::Private => private(engine, &root, &make)?,
    };
    Ok((lease, *read_only))
}

fn io_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        FailureKind::Cache,
        format!("cache mount {}: {error}", path.display()),
    )
}

/// Other ids, owners, modes or seeds are other caches (rules R20, R21).
fn directory(
    engine: &Engine,
    id: &str,
    seed: Option<&Tree>,
    source: &str,
    (mode, uid, gid): (u32, u32, u32),
) -> Result<PathBuf, StepError> {
    let mut hasher = blake3::Hasher::new();
    for part in [id, source, &format!("{mode:o} {uid} {gid}")] {
        hasher
            .update(&(part.len() as u64).to_le_bytes())
            .update(part.as_bytes());
    }
    if let Some(tree) = seed {
        hasher.update(&tree.digest());
    }
    let name = hasher.finalize().to_hex();
    let path = engine
        .layers
        .store
        .area("caches")?
        .join(&name.as_str()[..32]);
    std::fs::create_dir_all(&path).map_err(|e| io_failure(&path, &e))?;
    // For people who look: nothing reads it.
    std::fs::write(path.join("id"), id).map_err(|e| io_failure(&path, &e))?;
    Ok(path)
}

type Make<'a> = &'a dyn Fn(&Path) -> Result<(), Failure>;

fn take(
    engine: &Engine,
    slot: &Path,
    exclusive: bool,
    make: Make<'_>,
) -> Result<CacheLease, StepError> {
    let lock = open_lock(slot)?;
    loop {
        let result = if exclusive {
            lock.try_lock()
        } else {
            lock.try_lock_shared()
        };
        match result {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if engine.cancelled() => {
                return Err(StepError::Cancelled);
            }
            // Polled rather than waited for, so that an interrupt is heard.
            Err(TryLockError::WouldBlock) => std::thread::sleep(RETRY),
            Err(TryLockError::Error(e)) => return Err(io_failure(slot, &e).into()),
        }
    }
    fill(engine, slot, make)?;
    Ok(CacheLease {
        path: slot.join("data"),
        _lock: lock,
    })
}

/// The first slot nobody uses: a second user at the same time gets a cache of its own (rule R23).
fn private(engine: &Engine, root: &Path, make: Make<'_>) -> Result<CacheLease, StepError> {
    for number in 0..PRIVATE_MAX {
        let slot = root.join(number.to_string());
        let lock = open_lock(&slot)?;
        if lock.try_lock().is_ok() {
            fill(engine, &slot, make)?;
            return Ok(CacheLease {
                path: slot.join("data"),
                _lock: lock,
            });
        }
    }
    Err(Failure::new(
        FailureKind::Cache,
        "too many users of one private cache mount",
    )
    .into())
}

fn open_lock(slot: &Path) -> Result<File, Failure> {
    std::fs::create_dir_all(slot).map_err(|e| io_failure(slot, &e))?;
    let path = slot.join("lock");
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(&path).map_err(|e| io_failure(&path, &e))
}

/// Makes `data` under another name first, so that a killed process leaves none half-made. Two
/// shared users may do so at once; the first to rename wins.
fn fill(engine: &Engine, slot: &Path, make: Make<'_>) -> Result<(), StepError> {
    let data = slot.join("data");
    if data.exists() {
        return Ok(());
    }
    let fresh = engine.layers.store.temporary_path();
    std::fs::create_dir(&fresh).map_err(|e| io_failure(&fresh, &e))?;
    make(&fresh)?;
    match std::fs::rename(&fresh, &data) {
        Err(_) if data.exists() => Ok(()),
        other => Ok(other.map_err(|e| io_failure(&data, &e))?),
    }
}

fn make_empty(path: &Path, mode: u32, uid: u32, gid: u32) -> std::io::Result<()> {
    rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}

/// Copies what the cache starts from (rule R22).
fn populate(engine: &Engine, tree: &Tree, source: &str, path: &Path) -> Result<(), Failure> {
    let view = engine.layers.view(tree)?;
    let root = view
        .resolve(source.trim_matches('/').as_bytes(), true)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let below = root.path;
    let found = view.lookup(&below);
    if !below.is_empty() && !found.is_some_and(|f| f.is_directory()) {
        let message = format!("cache mount source {source:?} is not a directory");
        return Err(Failure::new(FailureKind::Build, message));
    }
    if let Some(directory) = found {
        let entry = directory.entry;
        make_empty(path, entry.mode, entry.uid, entry.gid).map_err(|e| io_failure(path, &e))?;
    }
    let mut writer = DirWriter::new(open_directory(path)?, engine.layers.owners()?);
    for visited in view.walk(&below) {
        let Some(relative) = below_root(visited.path, &below) else {
            continue;
        };
        let file = view.file_of(visited.found).unwrap_or(visited.found);
        let entry = Entry {
            path: relative.to_vec(),
            ..file.entry.clone()
        };
        if matches!(entry.kind, Kind::File { .. }) {
            let mut content =
                copying::open(&engine.layers, tree, &file).map_err(|e| io_failure(path, &e))?;
            writer.write(&entry, &mut content)?;
        } else {
            writer.write(&entry, &mut std::io::empty())?;
        }
    }
    Ok(writer.finish()?)
}

fn below_root<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(root)?;
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    (!rest.is_empty()).then_some(rest)
}
