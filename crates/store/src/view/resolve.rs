//! Symlink resolution that cannot leave its root, for any kind of tree.

use std::collections::VecDeque;

/// As many as BuildKit follows (`continuity/fs`); Linux itself stops at 40.
const MAX_LINKS: usize = 255;

/// What is at a path, as far as resolving cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Missing,
    Symlink(Vec<u8>),
    Other,
}

/// Where a path leads when all symlinks on the way are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Relative to the root, clean, `""` for the root; what does not exist is kept as written.
    pub path: Vec<u8>,
    /// Length of the leading part of `path` that exists. It may be something else than a directory
    /// although more follows.
    pub existing: usize,
}

impl Resolved {
    #[must_use]
    pub fn exists(&self) -> bool {
        self.existing == self.path.len()
    }
}

/// Symlinks that lead to each other, or too many of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("too many symbolic links in /{}", String::from_utf8_lossy(.path))]
pub struct TooManyLinks {
    pub path: Vec<u8>,
}

/// Resolves `path` in the tree that `look` describes. `look` is asked for clean relative paths
/// whose parents exist and are not symlinks. A leading `/`, and `..` at the root, stay at the root
/// (rule C21). `follow_last`: whether a symlink as the last component is followed too.
///
/// # Errors
/// [`TooManyLinks`] after 255 of them; what `look` fails with.
pub fn resolve_with<E: From<TooManyLinks>>(
    path: &[u8],
    follow_last: bool,
    mut look: impl FnMut(&[u8]) -> Result<Step, E>,
) -> Result<Resolved, E> {
    let mut pending: VecDeque<Vec<u8>> = components(path).collect();
    let mut at = Resolved {
        path: Vec::new(),
        existing: 0,
    };
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == b".." {
            let end = at.path.iter().rposition(|c| *c == b'/').unwrap_or(0);
            at.path.truncate(end);
            at.existing = at.existing.min(end);
            continue;
        }
        let parent = at.path.len();
        if parent > 0 {
            at.path.push(b'/');
        }
        at.path.extend_from_slice(&name);
        if at.existing < parent {
            continue;
        }
        match look(&at.path)? {
            Step::Missing => {}
            Step::Symlink(target) if follow_last || !pending.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(TooManyLinks {
                        path: path.to_vec(),
                    }
                    .into());
                }
                let start = if target.first() == Some(&b'/') {
                    0
                } else {
                    parent
                };
                at.path.truncate(start);
                at.existing = start;
                for (i, name) in components(&target).enumerate() {
                    pending.insert(i, name);
                }
            }
            Step::Symlink(_) | Step::Other => at.existing = at.path.len(),
        }
    }
    Ok(at)
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|c| *c == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
}
