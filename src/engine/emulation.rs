//! Owners where there is only one id: what a step is told about the layers below it, and what it
//! says about its own.
//!
//! Regular files and directories carry their owners themselves (`store::owner`). Symlinks and fifos
//! cannot: theirs are in the indexes of layers, and a step is told them by inode.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
use sandbox::emulate::{Emulation, InodeOwner, Owner};
use sandbox::inside::Isolation;
use sandbox::spec::Root;
use store::content::Item;
use store::owner;
use store::tree::{Entry, Kind};

use super::executor::Engine;
use super::layers::Tree;
use super::ssh::AgentSocket;
use crate::failure::Failure;

/// What a step on `base` needs, with sockets mounted into it; `None` where the kernel keeps owners.
pub(super) fn prepare(
    engine: &Engine,
    base: &Tree,
    root: &Root,
    sockets: &[AgentSocket],
) -> Result<Option<Emulation>, Failure> {
    if engine.roots.isolation != Isolation::SingleId {
        return Ok(None);
    }
    let directories = match root {
        Root::Overlay { lowers, .. } => lowers.as_slice(),
        Root::Plain(directory) => std::slice::from_ref(directory),
    };
    let mut inodes = HashMap::new();
    for socket in sockets {
        if let Some(found) = inode(socket.path(), socket.owner()) {
            inodes.insert(found.inode, found);
        }
    }
    let view = engine.layers.view(base)?;
    for (layer, index) in view.layers().iter().enumerate() {
        for entry in index.entries().iter().filter(|entry| may_be_owned(entry)) {
            // What an upper layer replaced has another owner.
            let visible = view.lookup(&entry.path).filter(|f| f.layer == layer);
            let file = visible.and_then(|found| view.file_of(found));
            let Some(Entry { uid, gid, .. }) = file.map(|f| f.entry).filter(|e| is_owned(e)) else {
                continue;
            };
            for directory in directories {
                let path = directory.join(os_str(&entry.path));
                if let Some(found) = inode(&path, (*uid, *gid)) {
                    inodes.entry(found.inode).or_insert(found);
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

/// Puts the owners that a step was told, and those it kept itself, into what it changed below
/// `directory`.
pub(super) fn apply(
    told: &HashMap<u64, InodeOwner>,
    kept: &[InodeOwner],
    items: &mut [Item],
    directory: &Path,
) {
    if told.is_empty() && kept.is_empty() {
        return;
    }
    let kept: HashMap<u64, &InodeOwner> = kept.iter().map(|o| (o.inode, o)).collect();
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
        let Some(found) = inode(&path, (0, 0)) else {
            continue;
        };
        let same = |known: &&InodeOwner| known.born == found.born;
        let own = kept.get(&found.inode).copied().filter(same);
        // In a plain root files of lower layers are changed in place.
        let known = own.or_else(|| told.get(&found.inode).filter(same));
        if let Some(known) = known {
            (entry.uid, entry.gid) = known.owner;
        }
    }
}

/// The inode at `path` (not followed) with an owner; `None` when it takes attributes, or is not
/// there: an upper layer may have removed it.
fn inode(path: &Path, owner: Owner) -> Option<InodeOwner> {
    let mask = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, mask).ok()?;
    if takes_attributes(FileType::from_raw_mode(found.stx_mode.into())) {
        return None;
    }
    Some(InodeOwner {
        inode: found.stx_ino,
        born: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        owner,
    })
}

/// Without a look at what a hard link is to.
fn may_be_owned(entry: &Entry) -> bool {
    is_owned(entry) || matches!(entry.kind, Kind::HardLink { .. })
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
