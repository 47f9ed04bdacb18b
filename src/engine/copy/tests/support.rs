//! Layers and contexts in memory and in temporary directories.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use graph::op;
use store::content::{Content, Item};
use store::tree::{Entry, Index, Kind};
use store::view::View;

use crate::engine::copy::{
    CopyError, ImageUsers, LayerFiles, Limits, Means, Planned, Source, StageTree, TempFiles, Tree,
    plan_copy, select,
};

/// A stack of layers with the bytes of their files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stack {
    pub(crate) view: View,
    contents: HashMap<(usize, Vec<u8>), Content>,
}

impl Stack {
    /// As an engine would: items become an index and files somewhere.
    pub(crate) fn push(&mut self, items: Vec<Item>) {
        let layer = self.view.layers().len();
        let mut entries = Vec::new();
        for Item { entry, content } in items {
            self.contents.insert((layer, entry.path.clone()), content);
            entries.push(entry);
        }
        let mut layers = self.view.layers().to_vec();
        layers.push(Arc::new(Index::new(entries)));
        self.view = View::new(layers);
    }

    pub(crate) fn content(&self, path: &[u8]) -> Vec<u8> {
        let found = self.view.lookup(path).expect("file");
        let file = self.view.file_of(found).expect("file");
        bytes(&self.contents[&(file.layer, file.entry.path.clone())])
    }
}

impl LayerFiles for Stack {
    fn content(&self, layer: usize, path: &[u8]) -> io::Result<Content> {
        let content = self.contents.get(&(layer, path.to_vec()));
        content
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

pub(crate) fn bytes(content: &Content) -> Vec<u8> {
    let mut bytes = Vec::new();
    content.open().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Asserts that the items are a layer as they stand: sorted, each path once and after its parent,
/// files before their hard links, contents as described.
pub(crate) fn assert_layer(items: &[Item]) {
    let entries: Vec<_> = items.iter().map(|item| item.entry.clone()).collect();
    let index = Index::new(entries.clone());
    assert_eq!(index.entries(), entries.as_slice());
    for Item { entry, content } in items {
        assert!(
            entry
                .path
                .split(|c| *c == b'/')
                .all(|name| !name.is_empty()),
            "{entry:?}"
        );
        if let Some(at) = entry.path.iter().rposition(|c| *c == b'/') {
            let parent = index.get(&entry.path[..at]).map(|e| &e.kind);
            assert!(
                matches!(parent, Some(Kind::Directory { opaque: false })),
                "{entry:?}"
            );
        }
        if let Kind::HardLink { target } = &entry.kind {
            let file = index.get(target).expect("the file of a hard link");
            let is_file = matches!(file.kind, Kind::File { .. } | Kind::Symlink { .. });
            assert!(is_file, "{entry:?}");
            assert!(
                store::tree::compare_paths(target, &entry.path).is_lt(),
                "{entry:?}"
            );
        }
        if let Kind::File { size, hash } = entry.kind {
            let bytes = bytes(content);
            assert_eq!(bytes.len() as u64, size, "{entry:?}");
            assert_eq!(*blake3::hash(&bytes).as_bytes(), hash, "{entry:?}");
        }
    }
}

/// Temporary files of the system.
#[derive(Debug)]
pub(crate) struct Temp;

impl TempFiles for Temp {
    fn create(&self) -> io::Result<std::fs::File> {
        tempfile::tempfile()
    }
}

/// A layer from lines of `path/ mode uid:gid @mtime`, followed for what is no directory by
/// `= content`, `-> symlink target`, `=> hard link target` or `fifo`. What is left out is 0644
/// (0755), 0:0, 0 and empty.
pub(crate) fn items(text: &str) -> Vec<Item> {
    let mut items: Vec<Item> = text
        .split(['\n', ';'])
        .filter(|l| !l.trim().is_empty())
        .map(item)
        .collect();
    items.sort_by(|a, b| store::tree::compare_paths(&a.entry.path, &b.entry.path));
    items
}

fn item(line: &str) -> Item {
    let mut words = line.split_whitespace();
    let path = words.next().unwrap();
    let directory = path.ends_with('/');
    let (mut kind, mut content) = if directory {
        (Kind::Directory { opaque: false }, Content::None)
    } else {
        (file(b""), Content::Bytes(Vec::new().into()))
    };
    let mut mode = if directory { 0o755 } else { 0o644 };
    let (mut owner, mut mtime) = ((0, 0), 0);
    while let Some(word) = words.next() {
        let rest = || words.clone().collect::<Vec<_>>().join(" ").into_bytes();
        if word == "=" {
            let bytes = rest();
            kind = file(&bytes);
            content = Content::Bytes(bytes.into());
            break;
        } else if word == "->" {
            (kind, mode, content) = (Kind::Symlink { target: rest() }, 0o777, Content::None);
            break;
        } else if word == "=>" {
            (kind, content) = (Kind::HardLink { target: rest() }, Content::None);
            break;
        } else if word == "fifo" {
            (kind, content) = (Kind::Fifo, Content::None);
        } else if let Some(time) = word.strip_prefix('@') {
            mtime = time.parse().unwrap();
        } else if let Some((uid, gid)) = word.split_once(':') {
            owner = (uid.parse().unwrap(), gid.parse().unwrap());
        } else {
            mode = u32::from_str_radix(word, 8).unwrap();
        }
    }
    let path = path.trim_end_matches('/').as_bytes().to_vec();
    let (uid, gid) = owner;
    Item {
        entry: Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
            xattrs: Vec::new(),
        },
        content,
    }
}

fn file(bytes: &[u8]) -> Kind {
    Kind::File {
        size: bytes.len() as u64,
        hash: *blake3::hash(bytes).as_bytes(),
    }
}

/// The inverse of [`items`]; whiteouts are `-path`.
pub(crate) fn show(items: &[Item]) -> Vec<String> {
    let line = |item: &Item| {
        let Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        } = &item.entry;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let path = text(path);
        let meta = format!("{mode:03o} {uid}:{gid} @{mtime}");
        let xattrs: String = xattrs
            .iter()
            .map(|(name, _)| format!(" {}", text(name)))
            .collect();
        match kind {
            Kind::Whiteout => format!("-{path}"),
            Kind::Directory { .. } => format!("{path}/ {meta}{xattrs}"),
            Kind::File { .. } => format!("{path} {meta}{xattrs} = {}", text(&bytes(&item.content))),
            Kind::Symlink { target } => format!("{path} {uid}:{gid} @{mtime} -> {}", text(target)),
            Kind::HardLink { target } => format!("{path} {meta} => {}", text(target)),
            Kind::Fifo => format!("{path} {meta} fifo"),
            Kind::CharDevice { major, minor } => format!("{path} {meta} c{major},{minor}"),
            Kind::BlockDevice { major, minor } => format!("{path} {meta} b{major},{minor}"),
        }
    };
    items.iter().map(line).collect()
}

pub(crate) fn stack(layers: &[&str]) -> Stack {
    let mut stack = Stack::default();
    for layer in layers {
        stack.push(items(layer));
    }
    stack
}

/// A `COPY` with the paths of `line`, the last one being the destination. Owners are kept, as from
/// a stage; the epoch is 9.
pub(crate) fn copy_op(line: &str) -> op::Copy {
    let mut paths: Vec<&str> = line.split_whitespace().collect();
    let destination = paths.pop().unwrap().to_owned();
    let source = |path: &&str| op::CopySource::Path {
        input: 1,
        path: (*path).to_owned(),
    };
    op::Copy {
        keep_owner: true,
        ..op::Copy::plain(paths.iter().map(source).collect(), destination, 9)
    }
}

pub(crate) fn plan(op: &op::Copy, from: &dyn Tree, to: &Stack) -> Result<Planned, CopyError> {
    let sources = vec![Source::Tree(from); op.sources.len()];
    let selection = select(op, &sources)?;
    let means = Means {
        temp: &Temp,
        below: to,
        limits: Limits::default(),
    };
    let planned = plan_copy(
        op,
        &selection,
        &to.view,
        &ImageUsers::new(&to.view, to),
        means,
    )?;
    assert_layer(&planned.items);
    Ok(planned)
}

/// The layer that a `COPY --from` makes.
pub(crate) fn copied(op: &op::Copy, from: &Stack, to: &Stack) -> Result<Vec<String>, String> {
    let tree = StageTree::new("the stage", &from.view, from);
    plan(op, &tree, to)
        .map(|planned| show(&planned.items))
        .map_err(|e| e.to_string())
}
