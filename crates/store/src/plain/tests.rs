//! Each test changes a real directory as a step would.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::dirwriter::open_directory;

struct Root {
    directory: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        // As the program sets it.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("fs")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("fs").join(name)
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.path(""), &self.directory.path().join("scratch")).unwrap()
    }

    fn changes(&self, before: &Snapshot) -> Vec<(String, &'static str)> {
        let changes = before.changes(&self.path(""), Owners::Inode, None).unwrap();
        let items = changes.items;
        let kind = |item: &Item| match item.entry.kind {
            Kind::Whiteout => "gone",
            Kind::Directory { .. } => "directory",
            Kind::HardLink { .. } => "link",
            _ => "file",
        };
        let text = |item: &Item| String::from_utf8_lossy(&item.entry.path).into_owned();
        items.iter().map(|i| (text(i), kind(i))).collect()
    }

    /// A socket in a directory whose name may be too long for a socket address.
    fn socket(&self, directory: &str, name: &str) -> UnixListener {
        let directory = std::fs::File::open(self.path(directory)).unwrap();
        UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn named(changes: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    changes.iter().map(|(n, k)| ((*n).to_owned(), *k)).collect()
}

#[test]
fn what_was_not_touched_is_not_reported() {
    let root = Root::new();
    root.write("a/b", "1");
    let before = root.snapshot();
    assert_eq!(root.changes(&before), []);
}

#[test]
fn a_change_is_found_whatever_the_modification_time_says() {
    let root = Root::new();
    root.write("a", "1");
    root.write("b", "1");
    let before = root.snapshot();
    let times = stat(&root.path("a")).unwrap();
    std::fs::write(root.path("a"), "2").unwrap();
    set_times(&root.path("a"), &times).unwrap();
    assert_eq!(root.changes(&before), named(&[("a", "file")]));
}

#[test]
fn a_removed_directory_is_one_whiteout_and_a_replaced_one_is_none() {
    let root = Root::new();
    for name in ["gone/x/y", "replaced/x", "made/again/x", "made/y", "kept/x"] {
        root.write(name, "1");
    }
    let before = root.snapshot();
    for name in ["gone", "replaced", "made"] {
        std::fs::remove_dir_all(root.path(name)).unwrap();
    }
    root.write("replaced", "now a file");
    root.write("made/again/z", "2");
    let expected = [
        ("gone", "gone"),
        ("made", "directory"),
        ("made/again", "directory"),
        ("made/again/x", "gone"),
        ("made/again/z", "file"),
        ("made/y", "gone"),
        ("replaced", "file"),
    ];
    assert_eq!(root.changes(&before), named(&expected));
}

#[test]
fn l11_names_of_one_file_are_separated_before_a_step() {
    let root = Root::new();
    root.write("a", "1");
    std::fs::set_permissions(root.path("a"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::hard_link(root.path("a"), root.path("b")).unwrap();
    let before = root.snapshot();
    let (a, b) = (root.path("a"), root.path("b"));
    let (a, b) = (a.metadata().unwrap(), b.metadata().unwrap());
    assert_ne!(a.ino(), b.ino());
    assert_eq!((a.mode(), a.mtime_nsec()), (b.mode(), b.mtime_nsec()));
    std::fs::write(root.path("a"), "2").unwrap();
    std::fs::hard_link(root.path("a"), root.path("c")).unwrap();
    assert_eq!(
        root.changes(&before),
        named(&[("a", "file"), ("c", "link")])
    );
    assert_eq!(std::fs::read_to_string(root.path("b")).unwrap(), "1");
}

#[test]
fn l11_names_of_one_symlink_or_pipe_are_separated_before_a_step() {
    let root = Root::new();
    root.write("d/a", "1");
    std::os::unix::fs::symlink("target", root.path("s")).unwrap();
    std::fs::hard_link(root.path("s"), root.path("t")).unwrap();
    let mode = Mode::from_raw_mode(0o620);
    rustix::fs::mknodat(CWD, root.path("p"), FileType::Fifo, mode, 0).unwrap();
    rustix::fs::chmod(root.path("p"), mode).unwrap();
    std::fs::hard_link(root.path("p"), root.path("q")).unwrap();
    let old = stat(&root.path("s")).unwrap();
    root.snapshot();
    for (one, other) in [("s", "t"), ("p", "q")] {
        let [one, other] = [one, other].map(|name| stat(&root.path(name)).unwrap());
        assert_ne!(one.st_ino, other.st_ino);
        assert_eq!(one.st_mode, other.st_mode);
        assert_eq!(Print::of(&one).modified, Print::of(&other).modified);
    }
    let target = std::fs::read_link(root.path("t")).unwrap();
    assert_eq!(target.to_str(), Some("target"));
    let new = stat(&root.path("t")).unwrap();
    assert_eq!(Print::of(&new).modified, Print::of(&old).modified);
}

#[test]
fn l13_sockets_do_not_reach_the_next_step() {
    let root = Root::new();
    root.write("run/x", "1");
    let time = root.path("run").metadata().unwrap().modified().unwrap();
    let _socket = root.socket("run", "socket");
    let touched = std::fs::File::open(root.path("run")).unwrap();
    touched.set_modified(time).unwrap();
    root.snapshot();
    assert!(!root.path("run/socket").exists());
    assert_eq!(
        root.path("run").metadata().unwrap().modified().unwrap(),
        time
    );
}

#[test]
fn l13_a_socket_in_the_place_of_a_file_is_told() {
    let root = Root::new();
    root.write("a", "1");
    let before = root.snapshot();
    let is_whole = || {
        let changes = before.changes(&root.path(""), Owners::Inode, None);
        changes.unwrap().is_whole
    };
    let _one = root.socket("", "b");
    assert!(is_whole());
    std::fs::remove_file(root.path("a")).unwrap();
    let _other = root.socket("", "a");
    assert!(!is_whole());
}

fn entry(path: &str, kind: Kind, mtime: i64) -> Entry {
    // Owners that any user may give.
    let own = std::fs::metadata("/proc/self").expect("/proc is there");
    let (uid, gid) = (own.uid(), own.gid());
    Entry {
        path: path.into(),
        kind,
        mode: 0o755,
        uid,
        gid,
        mtime,
        xattrs: Vec::new(),
    }
}

/// The tree of several layers, and that of all but the last with the last on top, are the same.
#[test]
fn a_layer_on_top_gives_the_merged_tree() {
    let file = Kind::File {
        size: 4,
        hash: [0; 32],
    };
    let directory = Kind::Directory { opaque: false };
    let link = |target: &str| Kind::HardLink {
        target: target.into(),
    };
    let bottom = Index::new(vec![
        entry("d", directory.clone(), 10),
        entry("d/x", file.clone(), 11),
        entry("d/y", file.clone(), 12),
        entry("e", file.clone(), 13),
        entry("linked", link("e"), 13),
        entry("turned", directory.clone(), 14),
        entry("turned/x", file.clone(), 15),
    ]);
    let mut top = vec![
        entry("d/x", Kind::Whiteout, 0),
        entry("d/z", file.clone(), 22),
        entry("e/inside", file.clone(), 23),
        entry("turned", file, 24),
    ];
    // A directory that no entry is for belongs to root, to whom only root can give it.
    let is_root = entry("", directory.clone(), 0).uid == 0;
    if !is_root {
        top.insert(2, entry("e", directory, 0));
    }
    let top = Index::new(top);
    let open = |_: &Found<'_>| Content::Bytes(b"data"[..].into()).open();
    let layers = vec![Arc::new(bottom), Arc::new(top)];
    let merged = View::new(layers.clone());
    let below = View::new(layers[..1].to_vec());
    let [whole, stacked] = [Root::new(), Root::new()];
    let writer =
        |root: &Root| DirWriter::new(open_directory(&root.path("")).unwrap(), Owners::Inode);

    write_whole_tree(&merged, &|| Ok(writer(&whole)), &open).unwrap();
    let mut first = writer(&stacked);
    write_tree(&below, b"", &mut first, &open).unwrap();
    first.finish().unwrap();
    let mut second = writer(&stacked);
    write_top_layer(&merged, &mut second, &open).unwrap();
    second.finish().unwrap();

    let list = |root: &Root| {
        let mut all: Vec<_> = walk(&root.path(""))
            .map(|found| {
                let (path, stat) = found.unwrap();
                let path = path.strip_prefix(root.path("")).unwrap().to_owned();
                (path, stat.st_mode, stat.st_mtime, stat.st_nlink)
            })
            .collect();
        all.sort();
        all
    };
    let names: Vec<String> = list(&whole)
        .iter()
        .map(|(path, ..)| path.display().to_string())
        .collect();
    assert_eq!(
        names,
        ["d", "d/y", "d/z", "e", "e/inside", "linked", "turned"]
    );
    assert_eq!(list(&whole), list(&stacked));
}
