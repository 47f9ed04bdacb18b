//! What of a directory is copied with it.

use dockerfile::ignore::{ParentMatches, Patterns};

use super::{Pick, Selector};
use crate::engine::copy::dest::join;
use crate::engine::copy::error::{CopyError, text};
use crate::engine::copy::tree::Node;

/// Collects what is below a directory, without recursion: layers may hold paths of any depth.
pub(super) struct Walk<'a, 's, 'w> {
    pub selector: &'w Selector<'a, 's>,
    /// What `--parents` narrows the walk to; everything if `None`.
    pub include: Option<&'w Patterns>,
    pub picks: &'w mut Vec<Pick<'a>>,
}

struct Level<'a> {
    children: std::vec::IntoIter<(Vec<u8>, Node)>,
    rel: Vec<u8>,
    path: Vec<u8>,
    /// The directory itself, if it is copied only should something in it be (rules C31, C33).
    pending: Option<Pick<'a>>,
    include: ParentMatches,
    exclude: ParentMatches,
}

/// What the patterns say of one path.
struct Verdict {
    taken: bool,
    /// Whether something below it may be taken.
    below: bool,
    include: ParentMatches,
    exclude: ParentMatches,
}

impl<'a> Walk<'a, '_, '_> {
    pub(super) fn run(&mut self, path: Vec<u8>) -> Result<(), CopyError> {
        let root = Verdict {
            taken: true,
            below: true,
            include: self.include.map(Patterns::root).unwrap_or_default(),
            exclude: self.selector.exclude.root(),
        };
        let mut levels = vec![self.level(Vec::new(), path, None, root)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, node)) = level.children.next() else {
                levels.pop();
                continue;
            };
            let (rel, path) = (join(&level.rel, &name), join(&level.path, &name));
            let verdict = self.judge(&rel, level);
            let directory = node.is_directory();
            let mut pick = self.selector.pick(rel.clone(), path.clone(), node);
            let pending = if verdict.taken {
                let waiting = levels.iter_mut().filter_map(|level| level.pending.take());
                self.picks.extend(waiting);
                self.picks.push(pick);
                None
            } else {
                pick.on_the_way = true;
                Some(pick)
            };
            if directory && (verdict.taken || verdict.below) {
                levels.push(self.level(rel, path, pending, verdict)?);
            }
        }
        Ok(())
    }

    fn judge(&self, rel: &[u8], parent: &Level<'a>) -> Verdict {
        let exclude = self.selector.exclude;
        let rel = text(rel);
        let excluded = exclude.matches(&rel, &parent.exclude);
        let may_return = !excluded.matched || exclude.may_contain_reincluded(&rel);
        let Some(include) = self.include else {
            return Verdict {
                taken: !excluded.matched,
                below: may_return,
                include: ParentMatches::default(),
                exclude: excluded.for_entries,
            };
        };
        let included = include.matches(&rel, &parent.include);
        Verdict {
            taken: included.matched && !excluded.matched,
            below: may_return && (included.matched || include.may_match_below(&rel)),
            include: included.for_entries,
            exclude: excluded.for_entries,
        }
    }

    fn level(
        &self,
        rel: Vec<u8>,
        path: Vec<u8>,
        pending: Option<Pick<'a>>,
        verdict: Verdict,
    ) -> Result<Level<'a>, CopyError> {
        let children = self.selector.tree.children(&path)?.into_iter();
        let Verdict {
            include, exclude, ..
        } = verdict;
        Ok(Level {
            children,
            rel,
            path,
            pending,
            include,
            exclude,
        })
    }
}
