//! What a cache with `from=` starts with (rule R22).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use store::dirwriter::{DirWriter, open_directory};
use store::tree::{Entry, Kind};

use super::{io_failure, make_empty};
use crate::engine::copying;
use crate::engine::executor::{Engine, StepError};
use crate::engine::layers::Tree;
use crate::failure::{Failure, FailureKind};

/// The directory that `source` leads to in a tree, as a path without symlinks.
pub(super) fn directory_in(engine: &Engine, tree: &Tree, source: &str) -> Result<String, Failure> {
    let view = engine.layers.view(tree)?;
    let found = view
        .resolve(source.trim_matches('/').as_bytes(), true)
        .map_err(|e| Failure::of(FailureKind::Build, &e))?;
    let is_directory = view.lookup(&found.path).is_some_and(|f| f.is_directory());
    match String::from_utf8(found.path) {
        Ok(path) if path.is_empty() || is_directory => Ok(path),
        _ => {
            let message = format!("cache mount source {source:?} is not a directory");
            Err(Failure::new(FailureKind::Build, message))
        }
    }
}

/// Copies those of the directories into the cache that are not in it yet. Other users of the cache
/// may have parts of it mounted meanwhile.
pub(super) fn seed(
    engine: &Engine,
    slot: &Path,
    tree: &Tree,
    sources: &[String],
) -> Result<(), StepError> {
    let record = slot.join("seeds");
    let mut file = File::options();
    let file = file.read(true).write(true).create(true).truncate(false);
    let file = file.open(&record).map_err(|e| io_failure(&record, &e))?;
    // Held for as long as copying takes.
    file.lock().map_err(|e| io_failure(&record, &e))?;
    let text = std::io::read_to_string(&file).map_err(|e| io_failure(&record, &e))?;
    let data = slot.join("data");
    let mut seeds: Vec<String> = serde_json::from_str(&text).unwrap_or_default();
    seeds.retain(|seed| data.join(seed).is_dir());
    for source in sources {
        if seeds.iter().any(|seed| is_in(source, seed)) {
            continue;
        }
        seed_part(engine, &data, tree, source, &seeds)?;
        seeds.retain(|seed| !is_in(seed, source));
        seeds.push(source.clone());
        let json = serde_json::to_vec(&seeds).unwrap_or_default();
        file.set_len(0)
            .and_then(|()| file.write_all_at(&json, 0))
            .map_err(|e| io_failure(&record, &e))?;
    }
    Ok(())
}

/// Whether one path is the other or below it.
fn is_in(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| directory.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// Copies a directory of the tree to its place in the cache. What was copied of it before, and may
/// have been changed since, stays as it is.
fn seed_part(
    engine: &Engine,
    data: &Path,
    tree: &Tree,
    source: &str,
    seeds: &[String],
) -> Result<(), StepError> {
    let fresh = engine.layers.store.temporary_path();
    std::fs::create_dir(&fresh).map_err(|e| io_failure(&fresh, &e))?;
    populate(engine, tree, source, &fresh)?;
    for seed in seeds.iter().filter(|seed| is_in(seed, source)) {
        let below = seed[source.len()..].trim_start_matches('/');
        let place = fresh.join(below);
        let set_aside = engine.layers.store.temporary_path();
        std::fs::rename(&place, set_aside)
            .and_then(|()| std::fs::rename(data.join(seed), &place))
            .map_err(|e| io_failure(&place, &e))?;
    }
    let place = if source.is_empty() {
        data.to_owned()
    } else {
        data.join(source)
    };
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent).map_err(|e| io_failure(parent, &e))?;
    }
    if place.exists() {
        // Directories that only led to parts of it.
        let set_aside = engine.layers.store.temporary_path();
        std::fs::rename(&place, set_aside).map_err(|e| io_failure(&place, &e))?;
    }
    Ok(std::fs::rename(&fresh, &place).map_err(|e| io_failure(&place, &e))?)
}

/// Copies what the cache starts from (rule R22).
pub(super) fn populate(
    engine: &Engine,
    tree: &Tree,
    source: &str,
    path: &Path,
) -> Result<(), Failure> {
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
        let owners = engine.layers.owners()?;
        make_empty(owners, path, entry.mode, (entry.uid, entry.gid))
            .map_err(|e| io_failure(path, &e))?;
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
