//! Owners where there is only one id: what a step is told about the layers below it, and what it
//! says about its own.
//!
//! Regular files and directories carry their owners themselves (`store::owner`). Symlinks and fifos
//! cannot: theirs are in the indexes of layers, and a step is told them by inode.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
use sandbox::emulate::{Emulation, InodeOwner};
use sandbox::inside::Isolation;
use sandbox::spec::Root;
use store::content::Item;
use store::owner;
use store::tree::{Entry, Kind};

use super::executor::Engine;
use super::layers::Tree;
use crate::failure::Failure;

/// What a step on `base` needs; `None` where the kernel keeps owners.
pub(super) fn prepare(
    engine: &Engine,
    base: &Tree,
    root: &Root,
) -> Result<Option<Emulation>, Failure> {
    if engine.roots.isolation != Isolation::SingleId {
        return Ok(None);
    }
    let directories = match root {
        Root::Overlay { lowers, .. } => lowers.as_slice(),
        Root::Plain(directory) => std::slice::from_ref(directory),
    };
    let mut inodes = HashMap::new();
    // Of two owners for one file that of the upper layer counts.
    for layer in base.layers.iter().rev() {
        let index = engine.layers.index(layer)?;
        let owned = index.entries().iter().filter(|entry| is_owned(entry));
        for entry in owned {
            for directory in directories {
                if let Ok(stat) = rustix::fs::lstat(directory.join(os_str(&entry.path)))
                    && !takes_attributes(FileType::from_raw_mode(stat.st_mode))
                {
                    inodes.entry(stat.st_ino).or_insert((entry.uid, entry.gid));
                }
            }
        }
    }
    Ok(Some(Emulation {
        attribute: owner::ATTRIBUTE,
        encode: owner::encode,
        decode: owner::decode,
        inodes: Arc::new(inodes),
    }))
}

/// Puts the owners that a step kept by inode into what it changed below `directory`.
///
/// # Errors
/// When a changed file cannot be looked at.
pub(super) fn apply(
    owners: &[InodeOwner],
    items: &mut [Item],
    directory: &Path,
) -> Result<(), Failure> {
    if owners.is_empty() {
        return Ok(());
    }
    let owners: HashMap<u64, &InodeOwner> = owners.iter().map(|o| (o.inode, o)).collect();
    for item in items {
        let entry = &mut item.entry;
        let may_be_kept = matches!(
            entry.kind,
            Kind::Symlink { .. } | Kind::Fifo | Kind::HardLink { .. }
        );
        if !may_be_kept {
            continue;
        }
        let path = directory.join(os_str(&entry.path));
        let mask = StatxFlags::INO | StatxFlags::BTIME;
        let found = rustix::fs::statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, mask)
            .map_err(store::Error::io("stat", &path))?;
        let born = (found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
        if let Some(kept) = owners.get(&found.stx_ino).filter(|kept| kept.born == born) {
            (entry.uid, entry.gid) = kept.owner;
        }
    }
    Ok(())
}

fn is_owned(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::Symlink { .. } | Kind::Fifo) && (entry.uid, entry.gid) != (0, 0)
}

fn takes_attributes(kind: FileType) -> bool {
    matches!(kind, FileType::RegularFile | FileType::Directory)
}

fn os_str(path: &[u8]) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(path)
}
