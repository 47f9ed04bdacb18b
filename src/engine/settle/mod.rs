//! Files whose very content is the time or the place of the step that wrote them, settled like
//! file times are (docs/design/0003): so that a step that installs packages gives the same bytes
//! twice, however steps are run.
//!
//! The list is short and named here ([`rule_of`]). Only files that the step wrote are touched, and
//! of their content only what the rule names.

mod identity;
mod rewrite;
mod times;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use store::content::{Content, Item};
use store::dirwriter::{DirWriter, open_directory};
use store::owner::Owners;
use store::scan::{StepClock, whiteout};
use store::tree::Kind;
use store::view::View;

/// What a settled file may depend on.
pub(super) struct Step<'a> {
    pub(super) clock: StepClock,
    /// What was there before.
    pub(super) view: &'a View,
    /// The content of a file of `view`; nothing when it has none there.
    pub(super) read: &'a dyn Fn(&[u8]) -> io::Result<Vec<u8>>,
    /// The command.
    pub(super) args: &'a [String],
    /// Of the layers that were there before.
    pub(super) base: [u8; 32],
}

/// Where the items are.
pub(super) struct Place<'a> {
    pub(super) directory: &'a Path,
    /// It holds the layers below as well.
    pub(super) is_plain: bool,
    pub(super) owners: Owners,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Times of day between start and end of the step become the epoch.
    Log,
    /// As a log, and without what was printed: terminals are not to be had everywhere.
    Transcript,
    /// As a log, and lines in the order in which the file system lists files are sorted.
    FontLog,
    /// Removed: holds inode numbers and change times of the files it describes, so it is void as
    /// soon as these are in an image, and its program makes it again.
    Cache,
    /// A random identity becomes one derived from the step.
    MachineId,
    /// The day of the step, as the day of the last change of a password, becomes that of the epoch.
    Passwords,
    /// The time of the source becomes what that is settled to; else Python would take it for stale.
    Bytecode,
}

/// A larger file is left as it is, in bytes.
pub(super) const SIZE_MAX: u64 = 64 << 20;

fn rule_of(item: &Item) -> Option<Rule> {
    let Kind::File { size, .. } = item.entry.kind else {
        return None;
    };
    let path = item.entry.path.as_slice();
    match path {
        b"var/cache/ldconfig/aux-cache"
        | b"var/cache/apt/pkgcache.bin"
        | b"var/cache/apt/srcpkgcache.bin" => Some(Rule::Cache),
        _ if path.ends_with(b".pyc") => Some(Rule::Bytecode),
        _ if size > SIZE_MAX => None,
        b"var/log/apt/term.log" => Some(Rule::Transcript),
        b"var/log/fontconfig.log" => Some(Rule::FontLog),
        b"etc/machine-id" | b"var/lib/dbus/machine-id" => Some(Rule::MachineId),
        b"etc/shadow" | b"etc/shadow-" => Some(Rule::Passwords),
        _ if path.starts_with(b"var/log/") => Some(Rule::Log),
        _ => None,
    }
}

/// Settles what `items` hold of such files, on disk as well; returns the items that go on.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn settle(
    items: Vec<Item>,
    place: &Place<'_>,
    step: &Step<'_>,
) -> store::Result<Vec<Item>> {
    if items.iter().all(|item| rule_of(item).is_none()) {
        return Ok(items);
    }
    let root = open_directory(place.directory)?;
    let mut writer = DirWriter::new(open_directory(place.directory)?, place.owners);
    let mut settled = Vec::with_capacity(items.len());
    for mut item in items {
        match rule_of(&item) {
            Some(Rule::Cache) => remove(&mut item, &mut writer, place, step)?,
            // An older file is not of this step.
            Some(rule) if item.entry.mtime == step.clock.epoch => {
                let path = String::from_utf8_lossy(&item.entry.path).into_owned();
                rewrite_item(&root, &mut item, rule, step)
                    .map_err(store::Error::io("settle", path))?;
            }
            _ => {}
        }
        settled.push(item);
    }
    writer.finish()?;
    Ok(settled)
}

/// Removes the file of `item`, and what was there of that name before: that is void too.
fn remove(
    item: &mut Item,
    writer: &mut DirWriter,
    place: &Place<'_>,
    step: &Step<'_>,
) -> store::Result<()> {
    let path = std::mem::take(&mut item.entry.path);
    *item = Item {
        entry: whiteout(&path),
        content: Content::None,
    };
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let parent = place.directory.join(OsStr::from_bytes(&path[..end]));
    let metadata = parent.symlink_metadata();
    let metadata = metadata.map_err(store::Error::io("stat", &parent))?;
    writer.set_directory_time(&path[..end], metadata.mtime());
    if step.view.lookup(&path).is_some() && !place.is_plain {
        writer.write(&item.entry, &mut io::empty())
    } else {
        writer.remove(&path)
    }
}

fn rewrite_item(root: &OwnedFd, item: &mut Item, rule: Rule, step: &Step<'_>) -> io::Result<()> {
    let Kind::File { size, .. } = &mut item.entry.kind else {
        return Ok(());
    };
    let limit = if rule == Rule::Bytecode {
        rewrite::BYTECODE_HEADER
    } else {
        SIZE_MAX
    };
    let mut old = Vec::new();
    item.content.open()?.take(limit).read_to_end(&mut old)?;
    let mut new = old.clone();
    match rule {
        Rule::Log => drop(times::settle_times(&mut new, &step.clock)),
        Rule::Transcript => {
            rewrite::cut_transcript(&mut new, &step.clock);
            times::settle_times(&mut new, &step.clock);
        }
        Rule::FontLog => {
            rewrite::sort_cache_lines(&mut new);
            times::settle_times(&mut new, &step.clock);
        }
        Rule::MachineId => identity::settle(&mut new, step)?,
        Rule::Passwords => {
            // The other file is a copy of it, made before a change.
            let below = (step.read)(b"etc/shadow")?;
            rewrite::settle_passwords(&mut new, &below, &step.clock);
        }
        Rule::Bytecode => rewrite::settle_bytecode(&mut new, &step.clock),
        Rule::Cache => {}
    }
    if new == old {
        return Ok(());
    }
    *size -= (old.len() - new.len()) as u64;
    let file = rustix::fs::openat2(
        root,
        item.entry.path.as_slice(),
        OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    write(File::from(file), &new, *size, item.entry.mtime)
}

/// Overwrites the beginning of a file and cuts it.
fn write(file: File, bytes: &[u8], size: u64, mtime: i64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0)?;
    file.set_len(size)?;
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(&file, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20 05:55:00 to 05:56:00 UTC.
    pub(super) const CLOCK: StepClock = StepClock {
        start: (1_795_154_100, 0),
        end: (1_795_154_160, 0),
        epoch: 315_619_200,
    };
}
