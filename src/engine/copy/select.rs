//! Which files of its sources a `COPY` takes: decided by the sources alone, never by the
//! destination, so that it can be part of a cache key.

mod walk;

use dockerfile::glob::{BadPattern, Glob, has_wildcard};
use dockerfile::ignore::Patterns;
use graph::op;
use store::content::Content;

use super::error::{CopyError, NotFound, text};
use super::similar::similar_names;
use super::tree::{FileFacts, Node, NodeKind, Tree, resolve};
use super::{Source, dest::join};
use walk::Walk;

/// The files of all sources of one instruction, in the order they are copied.
#[derive(Debug)]
pub struct Selection<'a> {
    pub(super) matches: Vec<Match<'a>>,
}

/// One file or directory that a source stands for; a wildcard may stand for several.
#[derive(Debug)]
pub(super) struct Match<'a> {
    /// The name a file gets in a directory: the last component as written, for a symlink its own
    /// and not that of what it leads to (rule C20).
    pub base_name: Vec<u8>,
    /// For messages.
    pub shown: String,
    /// The source was a directory, whose content is copied (rule C05); then the first pick is
    /// the directory itself.
    pub directory: bool,
    /// Unpack it, if it is an archive (rules D10, D11).
    pub unpack: bool,
    /// Directories before what is in them, siblings by name.
    pub picks: Vec<Pick<'a>>,
}

/// One file to copy.
#[derive(Debug)]
pub(super) struct Pick<'a> {
    /// Relative to the match: `""` for the source itself.
    pub rel: Vec<u8>,
    pub node: Node,
    /// Of regular files.
    pub facts: Option<FileFacts>,
    pub bytes: Bytes<'a>,
    /// A directory that was not asked for itself: something in it was (rules C31, C33).
    pub on_the_way: bool,
}

/// Where the content of a pick is.
#[derive(Clone)]
pub(super) enum Bytes<'a> {
    Tree { tree: &'a dyn Tree, path: Vec<u8> },
    Given(Content),
}

impl std::fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tree { tree, path } => write!(f, "{}:/{}", tree.name(), text(path)),
            Self::Given(content) => content.fmt(f),
        }
    }
}

impl Pick<'_> {
    /// # Errors
    /// [`CopyError::Tree`].
    pub(super) fn content(&self) -> Result<Content, CopyError> {
        Ok(match &self.bytes {
            Bytes::Tree { tree, path } if self.node.is_file() => tree.content(path)?,
            Bytes::Tree { .. } => Content::None,
            Bytes::Given(content) => content.clone(),
        })
    }
}

/// # Errors
/// [`CopyError::NotFound`] and what reading the sources fails with.
pub fn select<'a>(op: &op::Copy, sources: &[Source<'a>]) -> Result<Selection<'a>, CopyError> {
    if op.sources.len() != sources.len() {
        let planned = op.sources.len();
        return Err(CopyError::SourceCount {
            sources: sources.len(),
            planned,
        });
    }
    let exclude = Patterns::from_list(op.exclude.iter().map(String::as_str));
    let exclude = exclude.map_err(|source| CopyError::Exclude { source })?;
    let mut matches = Vec::new();
    for (planned, source) in op.sources.iter().zip(sources) {
        let unpack = match planned {
            op::CopySource::Path { .. } => op.unpack,
            op::CopySource::Inline { .. } | op::CopySource::Literal { .. } => false,
            op::CopySource::Download { unpack, .. } => *unpack,
        };
        let mut found = select_one(op, planned, source, &exclude)?;
        for found in &mut found {
            found.unpack = unpack;
        }
        matches.append(&mut found);
    }
    read_all(&mut matches)?;
    Ok(Selection { matches })
}

fn select_one<'a>(
    op: &op::Copy,
    planned: &op::CopySource,
    source: &Source<'a>,
    exclude: &Patterns,
) -> Result<Vec<Match<'a>>, CopyError> {
    let selector = |tree, written| Selector {
        tree,
        written,
        exclude,
    };
    Ok(match (planned, source) {
        (op::CopySource::Path { path, .. }, Source::Tree(tree)) if op.parents => {
            selector(*tree, path).parents()?
        }
        (op::CopySource::Path { path, .. }, Source::Tree(tree)) => selector(*tree, path).plain()?,
        (op::CopySource::Literal { path, .. }, Source::Tree(tree)) => {
            vec![selector(*tree, path).one(&clean(path.as_bytes()))?]
        }
        (op::CopySource::Download { name, .. }, Source::Tree(tree)) => {
            vec![selector(*tree, name).one(name.as_bytes())?]
        }
        (op::CopySource::Inline { name, content }, _) => vec![inline(name, content)],
        (
            op::CopySource::Download { name, .. }
            | op::CopySource::Path { path: name, .. }
            | op::CopySource::Literal { path: name, .. },
            Source::File(file),
        ) => vec![single(name, file)],
        (
            op::CopySource::Path { .. }
            | op::CopySource::Literal { .. }
            | op::CopySource::Download { .. },
            Source::Inline,
        ) => {
            return Err(CopyError::SourceCount {
                sources: 0,
                planned: 1,
            });
        }
    })
}

/// Rule H11.
fn inline(name: &str, content: &str) -> Match<'static> {
    let file = super::GivenFile {
        content: Content::Bytes(content.to_owned().into()),
        size: content.len() as u64,
        hash: *blake3::hash(content.as_bytes()).as_bytes(),
        mode: 0o644,
        mtime: None,
    };
    single(name, &file)
}

fn single(name: &str, file: &super::GivenFile) -> Match<'static> {
    let node = Node {
        kind: NodeKind::File { size: file.size },
        mode: file.mode,
        uid: 0,
        gid: 0,
        mtime: file.mtime,
        xattrs: Vec::new(),
        link: None,
    };
    let facts = Some(FileFacts {
        hash: file.hash,
        xattrs: Vec::new(),
    });
    let bytes = Bytes::Given(file.content.clone());
    Match {
        base_name: base_name(name.as_bytes()),
        shown: name.into(),
        directory: false,
        unpack: false,
        picks: vec![Pick {
            rel: Vec::new(),
            node,
            facts,
            bytes,
            on_the_way: false,
        }],
    }
}

/// Asks each tree for the facts of its files at once, so that it can hash several at a time.
fn read_all(matches: &mut [Match<'_>]) -> Result<(), CopyError> {
    for found in matches {
        let mut wanted = Vec::new();
        let mut from = None;
        for pick in &found.picks {
            if let (Bytes::Tree { tree, path }, true) = (&pick.bytes, pick.node.is_file()) {
                from = Some(*tree);
                wanted.push(path.as_slice());
            }
        }
        let Some(tree) = from else { continue };
        let facts = tree.read(&wanted)?;
        let files = found.picks.iter_mut().filter(|p| p.node.is_file());
        for (pick, facts) in files.zip(facts) {
            pick.facts = Some(facts);
        }
    }
    Ok(())
}

/// One source path in one tree.
struct Selector<'a, 's> {
    tree: &'a dyn Tree,
    /// As in the operation.
    written: &'s str,
    exclude: &'s Patterns,
}

impl<'a> Selector<'a, '_> {
    /// Rules C16-C20.
    fn plain(&self) -> Result<Vec<Match<'a>>, CopyError> {
        let path = clean(self.written.as_bytes());
        self.expand(&path)?
            .iter()
            .map(|path| self.one(path))
            .collect()
    }

    /// The paths that `path` with its wildcards stands for, unresolved (rules C16-C19).
    fn expand(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
        let parts: Vec<&[u8]> = components(path).collect();
        let Some(first) = parts.iter().position(|part| has_wildcard(&text(part))) else {
            return Ok(vec![path.to_vec()]);
        };
        // `*` and `?` match no `/`, so each component is matched for itself, and directories that
        // cannot lead to a match are not read.
        let globs: Result<Vec<Glob>, BadPattern> = parts[first..]
            .iter()
            .map(|part| Glob::new(&text(part)))
            .collect();
        let globs = globs.map_err(|source| CopyError::Pattern {
            pattern: self.written.into(),
            source,
        })?;
        let literal = parts[..first].join(&b'/');
        let base = resolve(self.tree, &literal, true)?;
        if !base.exists() {
            return Err(self.not_found(&literal)?);
        }
        let mut level = vec![base.path];
        for (depth, glob) in (1..).zip(&globs) {
            let last = depth == globs.len();
            let mut next = Vec::new();
            for directory in &level {
                for (name, node) in self.tree.children(directory)? {
                    if glob.matches(&text(&name)) && (last || node.is_directory()) {
                        next.push(join(directory, &name));
                    }
                }
            }
            level = next;
        }
        Ok(level)
    }

    /// The file or directory at `path`, symlinks followed (rules C20, C21).
    fn one(&self, path: &[u8]) -> Result<Match<'a>, CopyError> {
        let (at, node) = self.follow(path)?;
        let directory = node.is_directory();
        let mut picks = vec![self.pick(Vec::new(), at.clone(), node)];
        if directory {
            if self.exclude.is_empty() {
                self.tree.will_read_below(&at);
            }
            Walk {
                selector: self,
                include: None,
                picks: &mut picks,
            }
            .run(at)?;
        }
        Ok(Match {
            base_name: base_name(path),
            shown: text(path),
            directory,
            unpack: false,
            picks,
        })
    }

    /// Rules C32, C33: each source directory's content, narrowed to what matches the rest of the
    /// path, with the directories that lead there.
    fn parents(&self) -> Result<Vec<Match<'a>>, CopyError> {
        let written = self.written.trim_start_matches("./").as_bytes();
        let pivot = written.windows(3).position(|w| w == b"/./");
        let (root, pattern) = match pivot {
            Some(at) => (clean(&written[..at]), clean(&written[at + 3..])),
            None => (Vec::new(), clean(written)),
        };
        let is_required = !has_wildcard(&text(&root)) && !has_wildcard(&text(&pattern));
        if is_required {
            self.require(&root, &pattern)?;
        }
        let include = self.including(&pattern)?;
        let mut matches = Vec::new();
        for path in self.expand(&root)? {
            let (at, node) = self.follow(&path)?;
            if !node.is_directory() {
                matches.push(self.one(&path)?);
                continue;
            }
            let mut picks = vec![self.pick(Vec::new(), at.clone(), node)];
            Walk {
                selector: self,
                include: Some(&include),
                picks: &mut picks,
            }
            .run(at)?;
            // It may be excluded, with all that is in it.
            if is_required && !picks.iter().any(|pick| is_at_or_below(&pick.rel, &pattern)) {
                return Err(self.not_found(&join(&root, &pattern))?);
            }
            let (base_name, shown) = (base_name(&path), text(&path));
            matches.push(Match {
                base_name,
                shown,
                directory: true,
                unpack: false,
                picks,
            });
        }
        Ok(matches)
    }

    /// A path without wildcards must be there, and not behind a symlink, which `--parents` does
    /// not follow, though one may lead to what is before the `/./`. The pattern that is left of a
    /// whole directory matches nothing in BuildKit.
    fn require(&self, root: &[u8], pattern: &[u8]) -> Result<(), CopyError> {
        if pattern.is_empty() {
            let written = self.written.to_owned();
            return Err(CopyError::ParentsOfNothing { written });
        }
        let base = resolve(self.tree, root, false)?;
        let whole = join(&base.path, pattern);
        let found = resolve(self.tree, &whole, false)?;
        if base.exists() && found.exists() && found.path == whole {
            return Ok(());
        }
        Err(self.not_found(&join(root, pattern))?)
    }

    fn follow(&self, path: &[u8]) -> Result<(Vec<u8>, Node), CopyError> {
        let resolved = resolve(self.tree, path, true)?;
        if resolved.exists()
            && let Some(node) = self.tree.node(&resolved.path)?
        {
            return Ok((resolved.path, node));
        }
        Err(self.not_found(path)?)
    }

    fn pick(&self, rel: Vec<u8>, path: Vec<u8>, node: Node) -> Pick<'a> {
        Pick {
            rel,
            node,
            facts: None,
            bytes: Bytes::Tree {
                tree: self.tree,
                path,
            },
            on_the_way: false,
        }
    }

    fn including(&self, pattern: &[u8]) -> Result<Patterns, CopyError> {
        let bad = |source| CopyError::Include {
            pattern: self.written.into(),
            source,
        };
        let pattern = text(pattern);
        let patterns = (!pattern.is_empty()).then_some(pattern.as_str());
        Patterns::from_list(patterns).map_err(bad)
    }

    fn not_found(&self, path: &[u8]) -> Result<CopyError, CopyError> {
        let resolved = resolve(self.tree, path, true)?;
        let hidden_by = self.tree.hidden_by(&resolved.path);
        let similar = match hidden_by {
            Some(_) => Vec::new(),
            None => similar_names(self.tree, &resolved)?,
        };
        let root = self.tree.name().to_owned();
        let path = format!("/{}", text(path));
        Ok(CopyError::NotFound(Box::new(NotFound {
            path,
            root,
            hidden_by,
            similar,
        })))
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|c| *c == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
}

fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Lexically: no `.`, no `..`, no slashes at the ends (rule C01).
fn clean(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in components(path) {
        if part == b".." {
            kept.pop();
        } else {
            kept.push(part);
        }
    }
    kept.join(&b'/')
}

fn base_name(path: &[u8]) -> Vec<u8> {
    path.rsplit(|c| *c == b'/')
        .next()
        .unwrap_or_default()
        .to_vec()
}
