//! What of the sources a cached result depends on (rules K02-K05).

use std::collections::HashMap;

use super::select::{Match, Selection};
use super::tree::{LinkId, NodeKind};

/// Changes with every change of what is hashed below, so that old records miss.
const VERSION: &[u8] = b"layercake.copy.v2\0";

/// See [`Selection::key`].
pub type ContentKey = [u8; 32];

impl Selection<'_> {
    /// A digest of all that the result takes from the sources: for each source the name it is
    /// copied under (rules C37, K03), and of every file the path below the source, type, mode,
    /// owner, extended attributes, size, link target, device numbers, which names are one file,
    /// and BLAKE3 of the content; not times (rule K02), and of a directory that is a source itself
    /// neither mode nor owner, as its destination does not get them (rule C06).
    ///
    /// It stands for the `sources` of the operation: with equal keys and an otherwise equal
    /// operation on an equal destination the result is the same but for times.
    #[must_use]
    pub fn key(&self) -> ContentKey {
        let mut hasher = Framed::default();
        hasher.raw(VERSION);
        hasher.number(self.matches.len());
        for found in &self.matches {
            hash_match(&mut hasher, found);
        }
        hasher.finish()
    }
}

fn hash_match(hasher: &mut Framed, found: &Match<'_>) {
    if found.directory {
        hasher.bytes(b"directory");
    } else {
        hasher.bytes(b"file");
        hasher.bytes(&found.base_name);
    }
    hasher.number(usize::from(found.unpack));
    hasher.number(found.picks.len());
    let groups = groups(found);
    for pick in &found.picks {
        let node = &pick.node;
        hasher.bytes(&pick.rel);
        hasher.number(usize::from(pick.on_the_way));
        hash_kind(hasher, &node.kind);
        // Of a source directory the destination takes nothing but what is in it.
        let own = !(found.directory && pick.rel.is_empty());
        let xattrs = pick
            .facts
            .as_ref()
            .map_or(&node.xattrs, |facts| &facts.xattrs);
        let xattrs = if own { xattrs.as_slice() } else { &[] };
        if own {
            hasher.number(node.mode as usize);
            hasher.number(node.uid as usize);
            hasher.number(node.gid as usize);
        }
        let group = node.link.as_ref().and_then(|link| groups.get(link));
        hasher.number(group.copied().unwrap_or(0));
        hasher.number(xattrs.len());
        for (name, value) in xattrs {
            hasher.bytes(name);
            hasher.bytes(value);
        }
        if let Some(facts) = &pick.facts {
            hasher.bytes(&facts.hash);
        }
    }
}

/// Numbers from 1 for files that are copied under several names; that a file has more names
/// elsewhere does not matter.
fn groups<'m>(found: &'m Match<'_>) -> HashMap<&'m LinkId, usize> {
    let mut names: HashMap<&LinkId, usize> = HashMap::new();
    let mut groups = HashMap::new();
    for link in found
        .picks
        .iter()
        .filter_map(|pick| pick.node.link.as_ref())
    {
        let count = names.entry(link).or_default();
        *count += 1;
        if *count == 2 {
            groups.insert(link, groups.len() + 1);
        }
    }
    groups
}

fn hash_kind(hasher: &mut Framed, kind: &NodeKind) {
    match kind {
        NodeKind::Directory => hasher.bytes(b"d"),
        NodeKind::File { size } => {
            hasher.bytes(b"f");
            hasher.raw(&size.to_le_bytes());
        }
        NodeKind::Symlink { target } => {
            hasher.bytes(b"l");
            hasher.bytes(target);
        }
        NodeKind::CharDevice { major, minor } => {
            hasher.bytes(b"c");
            hasher.number(*major as usize);
            hasher.number(*minor as usize);
        }
        NodeKind::BlockDevice { major, minor } => {
            hasher.bytes(b"b");
            hasher.number(*major as usize);
            hasher.number(*minor as usize);
        }
        NodeKind::Fifo => hasher.bytes(b"p"),
    }
}

/// Every value with its length before it, so that no two lists look alike (rule K18).
#[derive(Default)]
struct Framed {
    hasher: blake3::Hasher,
    /// What is not hashed yet: many small pieces at once cost much less.
    pending: Vec<u8>,
}

/// Bytes.
const PENDING_MAX: usize = 64 << 10;

impl Framed {
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.raw(bytes);
    }

    fn number(&mut self, number: usize) {
        self.raw(&(number as u64).to_le_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PENDING_MAX {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
    }

    fn finish(mut self) -> ContentKey {
        self.hasher.update(&self.pending);
        *self.hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_is_hashed_at_once_does_not_matter() {
        let piece = [7; 1000];
        for count in [0, 1, 65, 66, 200] {
            let mut hasher = Framed::default();
            let mut plain = blake3::Hasher::new();
            for _ in 0..count {
                hasher.bytes(&piece);
                plain.update(&1000_u64.to_le_bytes());
                plain.update(&piece);
            }
            assert_eq!(hasher.finish(), *plain.finalize().as_bytes(), "{count}");
        }
    }
}
