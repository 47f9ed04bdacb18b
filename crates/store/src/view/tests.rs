use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::tree::compare_paths;

fn entry(path: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Whiteout { 0 } else { 0o644 };
    Entry {
        path: path.into(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

/// `d/` directory, `d//` opaque directory, `-f` whiteout, `l>t` symlink, `h=t` hard link, else file.
fn layer(words: &str) -> Arc<Index> {
    let one = |word: &str| {
        if let Some((path, target)) = word.split_once('>') {
            entry(
                path,
                Kind::Symlink {
                    target: target.into(),
                },
            )
        } else if let Some((path, target)) = word.split_once('=') {
            entry(
                path,
                Kind::HardLink {
                    target: target.into(),
                },
            )
        } else if let Some(path) = word.strip_suffix("//") {
            entry(path, Kind::Directory { opaque: true })
        } else if let Some(path) = word.strip_suffix('/') {
            entry(path, Kind::Directory { opaque: false })
        } else if let Some(path) = word.strip_prefix('-') {
            entry(path, Kind::Whiteout)
        } else {
            entry(
                word,
                Kind::File {
                    size: 1,
                    hash: [0; 32],
                },
            )
        }
    };
    Arc::new(Index::new(words.split_whitespace().map(one).collect()))
}

fn view(layers: &[&str]) -> View {
    View::new(layers.iter().map(|words| layer(words)).collect())
}

fn listing(view: &View) -> String {
    let show = |v: Visited<'_>| {
        let slash = if v.found.is_directory() { "/" } else { "" };
        format!(
            "{}{slash}@{}",
            String::from_utf8_lossy(v.path),
            v.found.layer
        )
    };
    view.walk(b"").map(show).collect::<Vec<_>>().join(" ")
}

#[test]
fn l07_l08_l14_layers_merge() {
    let table: &[(&[&str], &str)] = &[
        (&[], ""),
        (&["a/ a/f b"], "a/@0 a/f@0 b@0"),
        (&["a/ a/f b", "a/ a/g"], "a/@1 a/f@0 a/g@1 b@0"),
        (&["a/ a/f b", "-a"], "b@0"),
        (&["a/ a/f a/g", "a/ -a/f"], "a/@1 a/g@0"),
        (&["a/ a/f", "-a", "a/ a/h"], "a/@2 a/h@2"),
        (&["a/ a/f a/d/ a/d/x", "a// a/g"], "a/@1 a/g@1"),
        (&["a/ a/f", "a"], "a@1"),
        (&["a", "a/ a/f"], "a/@1 a/f@1"),
        (&["a/ a/f", "a", "a/ a/g"], "a/@2 a/g@2"),
        // No entry of its own: the directory below gives its metadata, or nobody does.
        (&["a/ a/f", "a/g"], "a/@0 a/f@0 a/g@1"),
        (&["a/b/c"], "a/@0 a/b/@0 a/b/c@0"),
        (&["a", "a/b"], "a/@1 a/b@1"),
        (&["a/ a/f", "-a a/g"], "a/@1 a/g@1"),
        (&["a/ a/x a.b a0", "a/ a/y"], "a/@1 a/x@0 a/y@1 a.b@0 a0@0"),
        (&["a/ a/l>x", "a/ a/l/ a/l/f"], "a/@1 a/l/@1 a/l/f@1"),
        (&["-gone"], ""),
    ];
    for (layers, want) in table {
        assert_eq!(listing(&view(layers)), *want, "{layers:?}");
    }
}

#[test]
fn directories_without_entry_are_0755() {
    let view = view(&["a/b/c"]);
    let found = view.lookup(b"a/b").unwrap();
    assert_eq!(
        (
            found.entry.mode,
            found.entry.path.len(),
            found.is_directory()
        ),
        (0o755, 0, true)
    );
    assert!(view.lookup(b"").unwrap().is_directory());
    assert!(View::default().lookup(b"").unwrap().is_directory());
    assert_eq!(view.lookup(b"a/b/c/d"), None);
}

#[test]
fn c20_c22_links_resolve_inside_the_root() {
    let view = view(&[
        "d/ d/f d/up>../d/f abs>/d dot>. d/out>../../../../etc/x loop>loop l1>l2 l2>d/f dang>no/such/../x file",
        "d/ d/sub/",
    ]);
    let table: &[(&str, bool, &str, usize)] = &[
        ("", true, "", 0),
        ("/", true, "", 0),
        ("d/f", true, "d/f", 3),
        ("/d//./f/", true, "d/f", 3),
        ("d/up", true, "d/f", 3),
        ("d/up", false, "d/up", 4),
        ("abs", false, "abs", 3),
        ("abs/", false, "abs", 3),
        ("abs", true, "d", 1),
        ("abs/sub/new/er", false, "d/sub/new/er", 5),
        ("dot/dot/d/../l1", true, "d/f", 3),
        ("d/out", true, "etc/x", 0),
        ("../../d", true, "d", 1),
        ("dang", true, "no/x", 0),
        ("no/../d/f", true, "d/f", 3),
        ("file/x", true, "file/x", 4),
    ];
    for (path, follow, want, existing) in table {
        let got = view.resolve(path.as_bytes(), *follow).unwrap();
        assert_eq!(
            (got.path.as_slice(), got.existing),
            (want.as_bytes(), *existing),
            "{path}"
        );
    }
    assert_eq!(view.resolve(b"loop/x", false).unwrap_err().path, b"loop/x");
    assert!(view.resolve(b"loop", false).unwrap().exists());
}

#[test]
fn l11_hard_links_read_the_file_of_their_layer() {
    let view = view(&["a b=a c=b x=gone", "-a"]);
    for name in [&b"b"[..], b"c"] {
        let file = view.file_of(view.lookup(name).unwrap()).unwrap();
        assert_eq!((file.layer, file.entry.path.as_slice()), (0, &b"a"[..]));
    }
    assert_eq!(view.file_of(view.lookup(b"x").unwrap()), None);
}

/// The same by applying layer after layer to a map, as unpacking does.
#[derive(Default)]
struct Model(BTreeMap<String, (bool, usize)>);

impl Model {
    fn remove(&mut self, path: &str, keep_self: bool) {
        let below = format!("{path}/");
        self.0
            .retain(|p, _| !(p.starts_with(&below) || (!keep_self && p == path)));
    }

    fn make_parents(&mut self, path: &str, layer: usize) {
        for (i, _) in path.match_indices('/') {
            if self.0.get(&path[..i]).is_none_or(|(dir, _)| !dir) {
                self.0.insert(path[..i].into(), (true, layer));
            }
        }
    }

    fn apply(&mut self, index: &Index, layer: usize) {
        let text = |e: &Entry| String::from_utf8(e.path.clone()).unwrap();
        for e in index.entries() {
            match e.kind {
                Kind::Whiteout => self.remove(&text(e), false),
                Kind::Directory { opaque: true } => self.remove(&text(e), true),
                _ => {}
            }
        }
        for e in index.entries() {
            let path = text(e);
            let directory = match e.kind {
                Kind::Whiteout => continue,
                Kind::Directory { .. } => true,
                _ => false,
            };
            if !directory {
                self.remove(&path, false);
            }
            self.make_parents(&path, layer);
            self.0.insert(path, (directory, layer));
        }
    }
}

/// Small and repeatable; `xorshift64`.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn path(&mut self) -> String {
        let names = ["a", "b", "a.b", "c-d", "z"];
        let parts = 1 + self.below(4);
        let part = |_| names[usize::try_from(self.below(5)).unwrap()];
        (0..parts).map(part).collect::<Vec<_>>().join("/")
    }

    fn layer(&mut self) -> Index {
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..self.below(14) {
            let path = self.path();
            let kind = match self.below(8) {
                0 | 1 => Kind::Whiteout,
                2 => Kind::Directory { opaque: true },
                3 | 4 => Kind::Directory { opaque: false },
                _ => Kind::File {
                    size: 0,
                    hash: [0; 32],
                },
            };
            entries.push(entry(&path, kind));
        }
        let index = Index::new(entries);
        // A file with something below it in the same layer is no tree.
        let sound = |e: &&Entry| {
            matches!(e.kind, Kind::Directory { .. } | Kind::Whiteout)
                || index.subtree(&e.path).len() == 1
        };
        let kept: Vec<Entry> = index.entries().iter().filter(sound).cloned().collect();
        Index::new(kept)
    }
}

#[test]
fn agrees_with_applying_layers_one_after_another() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..2000 {
        let layers: Vec<Arc<Index>> = (0..1 + random.below(6))
            .map(|_| Arc::new(random.layer()))
            .collect();
        let mut model = Model::default();
        for (i, layer) in layers.iter().enumerate() {
            model.apply(layer, i);
        }
        let view = View::new(layers);
        let mut want: Vec<(Vec<u8>, bool)> = model
            .0
            .iter()
            .map(|(p, (dir, _))| (p.clone().into_bytes(), *dir))
            .collect();
        want.sort_by(|a, b| compare_paths(&a.0, &b.0));
        let got: Vec<(Vec<u8>, bool)> = view
            .walk(b"")
            .map(|v| (v.path.to_vec(), v.found.is_directory()))
            .collect();
        assert_eq!(got, want, "round {round}");
        for _ in 0..60 {
            let path = random.path();
            let got = view.lookup(path.as_bytes()).map(|f| f.is_directory());
            assert_eq!(
                got,
                model.0.get(&path).map(|(dir, _)| *dir),
                "round {round}: {path}"
            );
            let below = format!("{path}/");
            let inside = |p: &&String| p.starts_with(&below) && !p[below.len()..].contains('/');
            let want: Vec<&[u8]> = model
                .0
                .keys()
                .filter(inside)
                .map(|p| p.as_bytes())
                .collect();
            let got: Vec<&[u8]> = view
                .children(path.as_bytes())
                .iter()
                .map(|v| v.path)
                .collect();
            assert_eq!(got, want, "round {round}: children of {path}");
        }
    }
}

#[test]
fn files_come_from_the_topmost_layer_that_has_them() {
    let layers: Vec<String> = (0..130)
        .map(|i| format!("d/ d/common d/only{i} e{i}/ e{i}/f"))
        .collect();
    let words: Vec<&str> = layers.iter().map(String::as_str).collect();
    let view = view(&words);
    assert_eq!(view.lookup(b"d/common").unwrap().layer, 129);
    assert_eq!(view.lookup(b"d/only3").unwrap().layer, 3);
    assert_eq!(view.children(b"d").len(), 131);
    assert_eq!(view.walk(b"").count(), 1 + 131 + 260);
}
