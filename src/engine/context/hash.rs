//! Hashes of many files, two at a time, remembered from one build to the next.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use super::disk::{Disk, Seen, xattrs};
use super::kept::{Kept, KeptFiles, Room};
use super::statcache::{Identity, StatCache};
use crate::engine::copy::FileFacts;

/// Reading and hashing overlap; more threads only make disks seek.
const THREADS: usize = 2;
const BUFFER: usize = 128 << 10;

/// Facts of `files`, in their order; what had to be read for them goes to `kept`.
///
/// # Errors
/// The first file, in order, that cannot be read.
pub(super) fn read_files(
    disk: &Disk,
    cache: &StatCache,
    kept: &KeptFiles,
    seen: &HashMap<Vec<u8>, Seen>,
    files: &[&[u8]],
) -> Result<Vec<FileFacts>, (Vec<u8>, io::Error)> {
    let seen: Vec<Option<&Seen>> = files.iter().map(|path| seen.get(*path)).collect();
    let mut facts = cache.get(seen.iter().map(|seen| match seen {
        Some(Seen::File(identity)) => Some(identity),
        _ => None,
    }));
    for (facts, seen) in facts.iter_mut().zip(&seen) {
        if let Some(Seen::Socket) = seen {
            *facts = Some(empty());
        }
    }
    let missing: Vec<usize> = (0..files.len()).filter(|at| facts[*at].is_none()).collect();
    let next = AtomicUsize::new(0);
    let room = Room::new();
    let work = || Learnt::read(disk, files, &missing, &next, &room);
    let learnt: Vec<Learnt> = if missing.len() < 2 {
        vec![work()]
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            let join = |thread: ScopedJoinHandle<'_, Learnt>| {
                let panicked = |panic| std::panic::resume_unwind(panic);
                thread.join().unwrap_or_else(panicked)
            };
            threads.into_iter().map(join).collect()
        })
    };
    let mut contents = Vec::new();
    let mut failed: Option<(usize, io::Error)> = None;
    for learnt in learnt {
        cache.put(learnt.unchanged.into_iter());
        contents.extend(learnt.contents);
        for (at, known) in learnt.facts {
            facts[at] = Some(known);
        }
        match (&failed, learnt.failed) {
            (Some(first), Some(other)) if first.0 < other.0 => {}
            (_, Some(other)) => failed = Some(other),
            (_, None) => {}
        }
    }
    kept.replace(contents);
    match failed {
        Some((at, error)) => Err((files[at].to_vec(), error)),
        // Without a failure nothing is missing any more.
        None => Ok(facts.into_iter().flatten().collect()),
    }
}

/// What one thread found out.
#[derive(Default)]
struct Learnt {
    /// By the number of the file.
    facts: Vec<(usize, FileFacts)>,
    contents: Vec<Kept>,
    /// To be remembered.
    unchanged: Vec<(Identity, FileFacts)>,
    failed: Option<(usize, io::Error)>,
}

impl Learnt {
    /// Reads those of `files` whose numbers are `missing`, with others who take from `next`.
    fn read(
        disk: &Disk,
        files: &[&[u8]],
        missing: &[usize],
        next: &AtomicUsize,
        room: &Room,
    ) -> Self {
        let mut learnt = Self::default();
        let mut buffer = vec![0; BUFFER];
        while let Some(&at) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            match read_file(disk, files[at], &mut buffer) {
                Ok(read) => {
                    let kept = |bytes| Kept::new(files[at], bytes, read.facts.hash, room);
                    learnt.contents.extend(read.content.and_then(kept));
                    let unchanged = read.unchanged.map(|it| (it, read.facts.clone()));
                    learnt.unchanged.extend(unchanged);
                    learnt.facts.push((at, read.facts));
                }
                Err(error) => {
                    // Nobody needs the rest; what is before it is still finished by the others.
                    next.store(missing.len(), Ordering::Relaxed);
                    learnt.failed = Some((at, error));
                    break;
                }
            }
        }
        learnt
    }
}

fn empty() -> FileFacts {
    FileFacts {
        hash: *blake3::hash(b"").as_bytes(),
        xattrs: Vec::new(),
    }
}

/// One file that was read.
struct Read<'b> {
    facts: FileFacts,
    /// If all of it fits into the buffer.
    content: Option<&'b [u8]>,
    /// What it was before and after.
    unchanged: Option<Identity>,
}

fn read_file<'b>(disk: &Disk, path: &[u8], buffer: &'b mut [u8]) -> io::Result<Read<'b>> {
    let (mut file, before) = disk.open_file(path)?;
    let size = u64::try_from(before.st_size).unwrap_or(0);
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    let mut last = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                total += n as u64;
                last = n;
                // The end, without asking for it.
                if total == size && n < buffer.len() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let facts = FileFacts {
        hash: *hasher.finalize().as_bytes(),
        xattrs: xattrs(file.as_fd()),
    };
    let identity = Identity::of(&before);
    let is_unchanged = Identity::of(&rustix::fs::fstat(&file)?) == identity;
    let is_whole = total == size && total == last as u64;
    Ok(Read {
        facts,
        content: is_whole.then(|| &buffer[..last]),
        unchanged: is_unchanged.then_some(identity),
    })
}
