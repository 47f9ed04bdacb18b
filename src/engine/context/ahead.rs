//! A directory that is copied whole is read by several threads at once, names, metadata and
//! contents, before anybody asks for them one by one.
//!
//! What goes wrong here is forgotten: who asks finds it again, and says so in order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::hash::{Hasher, THREADS};
use super::kept::Room;
use super::listings::Child;
use super::{ContextTree, Unlisted, disk, join};

/// Names that a thread looks at at once.
const CHUNK: usize = 64;

/// Lists everything visible below `top` and hashes the files in it.
pub(super) fn read_below(tree: &ContextTree, top: &[u8]) {
    let room = Room::new();
    let work = Work::default();
    work.add(std::iter::once(Job::List(top.to_vec())));
    let help = || {
        let mut hasher = Hasher::new(&room);
        while let Some(job) = work.take() {
            do_job(tree, &work, job, &mut hasher);
            work.done();
        }
        hasher.finish(&tree.hashes);
    };
    std::thread::scope(|scope| {
        let mut hasher = Hasher::new(&room);
        let mut helpers = 0;
        while let Some(job) = work.take() {
            do_job(tree, &work, job, &mut hasher);
            work.done();
            // For little, starting a thread takes longer.
            if helpers + 1 < THREADS && work.is_waiting() {
                helpers += 1;
                scope.spawn(help);
            }
        }
        hasher.finish(&tree.hashes);
    });
}

enum Job {
    /// A directory.
    List(Vec<u8>),
    /// Some names in one: the number of the chunk.
    Look(Arc<Directory>, usize),
}

/// One that is being listed.
struct Directory {
    path: Vec<u8>,
    unlisted: Unlisted,
    chunks: Mutex<Vec<Vec<Child>>>,
    /// Chunks nobody has looked at.
    left: AtomicUsize,
}

fn do_job(tree: &ContextTree, work: &Work, job: Job, hasher: &mut Hasher<'_>) {
    match job {
        Job::List(path) => {
            if let Some(children) = tree.listings.get(&path) {
                work.add(subdirectories(&path, &children));
                return;
            }
            let Ok(unlisted) = tree.names(&path) else {
                return;
            };
            let count = unlisted.names.len().div_ceil(CHUNK);
            let directory = Arc::new(Directory {
                path,
                unlisted,
                chunks: Mutex::new((0..count).map(|_| Vec::new()).collect()),
                left: AtomicUsize::new(count),
            });
            if count == 0 {
                directory.put(tree, Vec::new());
            }
            work.add((0..count).map(|chunk| Job::Look(directory.clone(), chunk)));
        }
        Job::Look(directory, chunk) => {
            let Some(children) = look(tree, &directory, chunk, hasher) else {
                return;
            };
            work.add(subdirectories(&directory.path, &children));
            directory.looked(tree, chunk, children);
        }
    }
}

fn subdirectories(path: &[u8], children: &[Child]) -> impl Iterator<Item = Job> {
    let directories = children.iter().filter(|child| child.node.is_directory());
    directories.map(move |child| Job::List(join(path, &child.name)))
}

/// The children of a chunk; `None` when they cannot be looked at.
fn look(
    tree: &ContextTree,
    directory: &Directory,
    chunk: usize,
    hasher: &mut Hasher<'_>,
) -> Option<Vec<Child>> {
    let Directory { unlisted, .. } = directory;
    let names = unlisted.names.chunks(CHUNK).nth(chunk)?;
    let children = unlisted.look(names).ok()?;
    let files = children.iter().filter(|child| !child.ignored);
    for child in tree.hashes.missing(files) {
        let file = disk::open_file_in(&unlisted.opened, &child.name).ok();
        // Whoever wants to read it will be told.
        let _ = file.map(|file| hasher.read(child, file));
    }
    Some(children)
}

impl Directory {
    fn looked(&self, tree: &ContextTree, chunk: usize, children: Vec<Child>) {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks[chunk] = children;
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let chunks = std::mem::take(&mut *chunks);
            self.put(tree, chunks.into_iter().flatten().collect());
        }
    }

    fn put(&self, tree: &ContextTree, children: Vec<Child>) {
        let children = tree.listings.put(self.path.clone(), children.into());
        tree.holders.add(&children);
    }
}

/// Jobs and whether there may be more.
#[derive(Default)]
struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    /// Including those that somebody does.
    open: usize,
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, jobs: impl Iterator<Item = Job>) {
        let mut state = self.state();
        let before = state.jobs.len();
        state.jobs.extend(jobs);
        state.open += state.jobs.len() - before;
        if state.jobs.len() > before {
            self.changed.notify_all();
        }
    }

    /// The job that came last, so that there are never many; `None` when all are done.
    fn take(&self) -> Option<Job> {
        let wait = |state: &mut State| state.jobs.is_empty() && state.open > 0;
        let state = self.changed.wait_while(self.state(), wait);
        state.unwrap_or_else(PoisonError::into_inner).jobs.pop()
    }

    /// One that was taken.
    fn done(&self) {
        let mut state = self.state();
        state.open -= 1;
        if state.open == 0 {
            self.changed.notify_all();
        }
    }

    fn is_waiting(&self) -> bool {
        !self.state().jobs.is_empty()
    }
}
