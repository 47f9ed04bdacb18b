//! Hashes of many files, two at a time, remembered from one build to the next.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::disk::{Disk, Seen, xattrs};
use super::statcache::{Identity, StatCache};
use crate::engine::copy::FileFacts;

/// Reading and hashing overlap; more threads only make disks seek.
const THREADS: usize = 2;
const BUFFER: usize = 128 << 10;

/// Facts of `files`, in their order.
///
/// # Errors
/// The first file, in order, that cannot be read.
pub(super) fn read_files(
    disk: &Disk,
    cache: &StatCache,
    seen: &HashMap<Vec<u8>, Seen>,
    files: &[&[u8]],
) -> Result<Vec<FileFacts>, (Vec<u8>, io::Error)> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done: Vec<(usize, io::Result<FileFacts>)> = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = files.get(at) else {
                return done;
            };
            let facts = match seen.get(*path) {
                Some(Seen::Socket) => Ok(empty()),
                Some(Seen::File(identity)) if let Some(known) = cache.get(identity) => Ok(known),
                _ => read_file(disk, cache, path, &mut buffer),
            };
            let failed = facts.is_err();
            done.push((at, facts));
            if failed {
                // Nobody needs the rest; what is before it is still finished by the others.
                next.store(files.len(), Ordering::Relaxed);
                return done;
            }
        }
    };
    let mut done = if files.len() < 2 {
        work()
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .flat_map(|t| {
                    t.join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        })
    };
    done.sort_by_key(|(at, _)| *at);
    let mut facts = Vec::with_capacity(files.len());
    for (at, result) in done {
        facts.push(result.map_err(|error| (files[at].to_vec(), error))?);
    }
    Ok(facts)
}

fn empty() -> FileFacts {
    FileFacts {
        hash: *blake3::hash(b"").as_bytes(),
        xattrs: Vec::new(),
    }
}

fn read_file(
    disk: &Disk,
    cache: &StatCache,
    path: &[u8],
    buffer: &mut [u8],
) -> io::Result<FileFacts> {
    let (mut file, before) = disk.open_file(path)?;
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
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
    if Identity::of(&rustix::fs::fstat(&file)?) == identity {
        cache.put(identity, facts.clone());
    }
    Ok(facts)
}
