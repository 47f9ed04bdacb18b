//! `RUN --mount=type=cache`: directories that outlive steps and builds (rules R20-R25).
//!
//! ```text
//! caches/<hash of what makes it another cache>/
//!   meta.json      its id, and when it was made and last used: see `Meta`
//!   <number>/data  what is mounted: 0, and others for simultaneous private users
//!   <number>/seeds of a cache with `from=`, which of its directories have been copied so far
//!   <number>/lock  held exclusively by a locked or private user, shared by a shared one
//! ```
//!
//! The kernel drops locks with the process, so a killed build locks nobody out.

mod seed;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use graph::NodeId;
use graph::op::{self, MountKind, Sharing};
use rustix::fs::{CWD, Mode, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use store::owner::Owners;

use self::seed::{directory_in, populate, seed};
use super::copying;
use super::executor::{Engine, Output, StepError};
use super::layers::Tree;
use super::mounts::input_tree;
use crate::failure::{Failure, FailureKind};

/// More concurrent users of one private cache are refused.
const PRIVATE_MAX: u32 = 1000;
/// How often a cache in use is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// Who waits longer for a cache is told why.
const PATIENCE: Duration = Duration::from_secs(1);

/// The caches that one step uses, for as long as this lives.
#[derive(Debug, Default)]
pub(super) struct CacheLeases {
    /// By the number of the mount.
    paths: BTreeMap<usize, PathBuf>,
    _locks: Vec<File>,
}

impl CacheLeases {
    pub(super) fn path(&self, mount: usize) -> Result<PathBuf, Failure> {
        let path = self.paths.get(&mount).cloned();
        path.ok_or_else(|| Failure::new(FailureKind::Internal, "a cache mount was not prepared"))
    }
}

/// What is kept beside a cache, for whoever lists caches; seconds since 1970.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    id: String,
    created: u64,
    last_used: u64,
}

/// One cache as one step wants it.
struct Wanted {
    id: String,
    /// The strictest that any mount of the step asks for.
    sharing: Sharing,
    /// Their numbers, and the directory in the cache that each shows; `""` for all of it.
    mounts: Vec<(usize, String)>,
    content: Content,
    /// What is in it is to go first.
    fresh: bool,
}

/// What a new cache starts with.
enum Content {
    Empty {
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// A directory of a tree.
    Copy {
        tree: Tree,
        source: String,
    },
    /// The whole tree; only directories that somebody mounts are really copied (rule R22).
    Parts {
        tree: Tree,
        sources: Vec<String>,
    },
}

/// Caches that start anew in a build have done so (rule K12).
#[derive(Debug, Default)]
pub(crate) struct Renewed(Mutex<BTreeSet<PathBuf>>);

/// Finds or makes the caches of a step, and waits for those that others use. All builds take
/// caches in the same order, so that two steps with the same two never wait for each other.
/// Several mounts of one cache in one step are one use of it.
pub(super) fn lease(
    engine: &Engine,
    node: NodeId,
    op: &op::Run,
    inputs: &[Output],
) -> Result<CacheLeases, StepError> {
    let mut caches: BTreeMap<PathBuf, Wanted> = BTreeMap::new();
    for number in 0..op.mounts.len() {
        let Some((directory, wanted)) = wanted(engine, op, number, inputs)? else {
            continue;
        };
        match caches.get_mut(&directory) {
            Some(same) => {
                same.mounts.extend(wanted.mounts);
                same.content.extend(wanted.content);
                same.sharing = stricter(same.sharing, wanted.sharing);
            }
            None => {
                caches.insert(directory, wanted);
            }
        }
    }
    let mut leases = CacheLeases::default();
    for (directory, wanted) in caches {
        if wanted.fresh {
            renew(engine, node, &directory, &wanted.id)?;
        }
        let (path, lock) = take(engine, node, &directory, &wanted)?;
        note_use(engine, &directory, &wanted.id)?;
        for (mount, source) in wanted.mounts {
            leases.paths.insert(mount, inside(&path, &source)?);
        }
        leases._locks.push(lock);
    }
    Ok(leases)
}

/// The directory at `source` of a cache. What steps put there may be links: none of them may lead
/// out of the cache (rule R25).
fn inside(cache: &Path, source: &str) -> Result<PathBuf, Failure> {
    let source = source.trim_matches('/');
    if source.is_empty() {
        return Ok(cache.to_path_buf());
    }
    let refused = |why: &str| {
        let message = format!("cache mount source {source:?} {why}");
        Err(Failure::new(FailureKind::Build, message))
    };
    let root = cache.canonicalize().map_err(|e| io_failure(cache, &e))?;
    match root.join(source).canonicalize() {
        Ok(path) if !path.starts_with(&root) => refused("leads out of the cache"),
        Ok(path) if !path.is_dir() => refused("is not a directory"),
        Ok(path) => Ok(path),
        Err(_) => refused("is not in the cache"),
    }
}

fn stricter(a: Sharing, b: Sharing) -> Sharing {
    match (a, b) {
        (Sharing::Locked, _) | (_, Sharing::Locked) => Sharing::Locked,
        (Sharing::Private, _) | (_, Sharing::Private) => Sharing::Private,
        (Sharing::Shared, Sharing::Shared) => Sharing::Shared,
    }
}

/// The cache of a mount and its directory, if it is a cache mount.
fn wanted(
    engine: &Engine,
    op: &op::Run,
    number: usize,
    inputs: &[Output],
) -> Result<Option<(PathBuf, Wanted)>, StepError> {
    let MountKind::Cache {
        id,
        input,
        source,
        sharing,
        mode,
        uid,
        gid,
        owned,
        read_only: _,
        fresh,
    } = &op.mounts[number].kind
    else {
        return Ok(None);
    };
    let (mode, uid, gid) = (*mode, *uid, *gid);
    let (content, shown) = match input.map(|number| &inputs[number]) {
        // Without a seed the source is a directory that an earlier step made in the cache.
        None => (Content::Empty { mode, uid, gid }, source.clone()),
        Some(input @ Output::Context(_)) => {
            let tree = input_tree(engine, op, input, source)?;
            // Of a local context only what was selected is in the tree.
            let source = copying::MOUNTED.to_owned();
            (Content::Copy { tree, source }, String::new())
        }
        Some(input) => {
            let tree = input_tree(engine, op, input, source)?;
            let source = directory_in(engine, &tree, source)?;
            let sources = vec![source.clone()];
            (Content::Parts { tree, sources }, source)
        }
    };
    let owner = owned.then_some((mode, uid, gid));
    let directory = directory(engine, id, &content, source, owner)?;
    let wanted = Wanted {
        id: id.clone(),
        // Where nothing can be mounted a cache is moved to the one step that uses it.
        sharing: if engine.roots.is_chroot() {
            Sharing::Locked
        } else {
            *sharing
        },
        mounts: vec![(number, shown)],
        content,
        fresh: *fresh,
    };
    Ok(Some((directory, wanted)))
}

fn io_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        FailureKind::Cache,
        format!("cache mount {}: {error}", path.display()),
    )
}

/// Other ids, owners, modes or seeds are other caches (rules R20, R21); `source` is one of a local
/// context.
fn directory(
    engine: &Engine,
    id: &str,
    content: &Content,
    source: &str,
    owner: Option<(u32, u32, u32)>,
) -> Result<PathBuf, StepError> {
    let owner = owner.map(|(mode, uid, gid)| format!("{mode:o} {uid} {gid}"));
    let source = match content {
        Content::Copy { .. } => source,
        Content::Empty { .. } | Content::Parts { .. } => "",
    };
    let mut hasher = blake3::Hasher::new();
    for part in [id, source, &owner.unwrap_or_default()] {
        hasher
            .update(&(part.len() as u64).to_le_bytes())
            .update(part.as_bytes());
    }
    if let Content::Copy { tree, .. } | Content::Parts { tree, .. } = content {
        hasher.update(&tree.digest());
    }
    if engine.layers.owners()? == Owners::Recorded {
        // Files of a cache cannot change hands between ways of keeping owners.
        hasher.update(b"recorded");
    }
    let name = hasher.finalize().to_hex();
    let path = engine
        .layers
        .store
        .area("caches")?
        .join(&name.as_str()[..32]);
    std::fs::create_dir_all(&path).map_err(|e| io_failure(&path, &e))?;
    Ok(path)
}

/// Records the time. Of several users at once the last one wins, which is as good.
fn note_use(engine: &Engine, directory: &Path, id: &str) -> Result<(), Failure> {
    let path = directory.join("meta.json");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let known: Option<Meta> = std::fs::read(&path)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok());
    let meta = Meta {
        id: id.to_owned(),
        created: known.map_or(now, |meta| meta.created),
        last_used: now,
    };
    let fresh = engine.layers.store.temporary_path();
    let json = serde_json::to_vec(&meta).unwrap_or_default();
    std::fs::write(&fresh, json)
        .and_then(|()| std::fs::rename(&fresh, &path))
        .map_err(|e| io_failure(&path, &e))
}

/// The directory to mount and the lock that goes with it.
fn take(
    engine: &Engine,
    node: NodeId,
    directory: &Path,
    wanted: &Wanted,
) -> Result<(PathBuf, File), StepError> {
    let (slot, lock) = match wanted.sharing {
        Sharing::Private => private(directory)?,
        sharing => {
            let slot = directory.join("0");
            let lock = open_lock(&slot)?;
            wait(engine, node, &lock, sharing == Sharing::Locked, &wanted.id)?;
            (slot, lock)
        }
    };
    fill(engine, &slot, &wanted.content)?;
    Ok((slot.join("data"), lock))
}

/// Throws away what is in a cache, once in a build (rule K12). What another build has mounted
/// stays.
fn renew(engine: &Engine, node: NodeId, directory: &Path, id: &str) -> Result<(), Failure> {
    let mut renewed = engine
        .renewed
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if !renewed.insert(directory.to_owned()) {
        return Ok(());
    }
    let slots = std::fs::read_dir(directory).map_err(|e| io_failure(directory, &e))?;
    for slot in slots.flatten().map(|entry| entry.path()) {
        if !slot.is_dir() {
            continue;
        }
        let lock = open_lock(&slot)?;
        if lock.try_lock().is_err() {
            engine.note(
                node,
                format!("the cache mount {id} is in use and stays as it is"),
            );
            continue;
        }
        let data = slot.join("data");
        // Goes with the other temporary files of this process.
        match std::fs::rename(&data, engine.layers.store.temporary_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_failure(&data, &e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn wait(
    engine: &Engine,
    node: NodeId,
    lock: &File,
    exclusive: bool,
    id: &str,
) -> Result<(), StepError> {
    let start = Instant::now();
    let mut told = false;
    loop {
        let result = if exclusive {
            lock.try_lock()
        } else {
            lock.try_lock_shared()
        };
        match result {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if engine.cancelled() => {
                return Err(StepError::Cancelled);
            }
            // Polled rather than waited for, so that an interrupt is heard.
            Err(TryLockError::WouldBlock) => std::thread::sleep(RETRY),
            Err(TryLockError::Error(e)) => return Err(io_failure(Path::new(id), &e).into()),
        }
        if !told && start.elapsed() > PATIENCE {
            told = true;
            let text = format!("waiting for the cache mount {id}, which another step uses");
            engine.note(node, text);
        }
    }
}

/// The first slot nobody uses: a second user at the same time gets a cache of its own (rule R23).
fn private(directory: &Path) -> Result<(PathBuf, File), Failure> {
    for number in 0..PRIVATE_MAX {
        let slot = directory.join(number.to_string());
        let lock = open_lock(&slot)?;
        if lock.try_lock().is_ok() {
            return Ok((slot, lock));
        }
    }
    Err(Failure::new(
        FailureKind::Cache,
        "too many users of one private cache mount",
    ))
}

fn open_lock(slot: &Path) -> Result<File, Failure> {
    std::fs::create_dir_all(slot).map_err(|e| io_failure(slot, &e))?;
    let path = slot.join("lock");
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(&path).map_err(|e| io_failure(&path, &e))
}

impl Content {
    /// Several mounts of one cache may show several parts of it.
    fn extend(&mut self, other: Self) {
        if let (Self::Parts { sources, .. }, Self::Parts { sources: more, .. }) = (self, other) {
            sources.extend(more);
        }
    }
}

/// Makes `data` under another name first, so that a killed process leaves none half-made. Two
/// shared users may do so at once; the first to rename wins.
fn fill(engine: &Engine, slot: &Path, content: &Content) -> Result<(), StepError> {
    let data = slot.join("data");
    if let Content::Parts { tree, sources } = content {
        return seed(engine, slot, tree, sources);
    }
    if data.exists() {
        return Ok(());
    }
    let fresh = engine.layers.store.temporary_path();
    std::fs::create_dir(&fresh).map_err(|e| io_failure(&fresh, &e))?;
    match content {
        Content::Parts { .. } => {}
        Content::Empty { mode, uid, gid } => {
            let owners = engine.layers.owners()?;
            make_empty(owners, &fresh, *mode, (*uid, *gid)).map_err(|e| io_failure(&fresh, &e))?;
        }
        Content::Copy { tree, source } => populate(engine, tree, source, &fresh)?,
    }
    // Never over one that somebody else has just made and mounted.
    match renameat_with(CWD, &fresh, CWD, &data, RenameFlags::NOREPLACE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // NFS, and most of FUSE.
        Err(Errno::INVAL) => {
            rename_new(slot, &fresh, &data).map_err(|e| io_failure(&data, &e).into())
        }
        Err(e) => Err(io_failure(&data, &e.into()).into()),
    }
}

/// Renames unless there is one, where the kernel cannot do both at once.
fn rename_new(slot: &Path, fresh: &Path, data: &Path) -> std::io::Result<()> {
    let turn = File::create(slot.join("turn"))?;
    turn.lock()?;
    if data.exists() {
        return Ok(());
    }
    std::fs::rename(fresh, data)
}

fn make_empty(
    owners: Owners,
    path: &Path,
    mode: u32,
    (uid, gid): (u32, u32),
) -> std::io::Result<()> {
    owners.give(path, uid, gid)?;
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}
