use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::*;
use crate::engine::copy::{LinkId, NodeKind};

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn open(root: &Path, ignore: &str) -> ContextTree {
    let ignore = IgnoreFile {
        name: ".dockerignore".into(),
        text: ignore.into(),
    };
    ContextTree::open(ContextOptions {
        name: "the build context".into(),
        directory: root.to_owned(),
        ignore: Some(ignore),
        cache: None,
    })
    .unwrap()
}

/// All that is visible.
fn listing(tree: &ContextTree, path: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for (name, node) in tree.children(path).unwrap() {
        let path = join(path, &name);
        assert_eq!(tree.node(&path).unwrap().as_ref(), Some(&node), "{path:?}");
        let slash = if node.is_directory() { "/" } else { "" };
        names.push(format!(
            "{}{slash}",
            String::from_utf8(path.clone()).unwrap()
        ));
        if node.is_directory() {
            names.extend(listing(tree, &path));
        }
    }
    names
}

#[test]
fn i04_i05_i08_ignore_rules() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for path in [
        "a.txt",
        "b.md",
        "d/a.txt",
        "d/b.md",
        "d/e/c.log",
        "d/e/a.txt",
        "x/d/a.txt",
    ] {
        write(root, path, path);
    }
    let all = [
        "a.txt",
        "b.md",
        "d/",
        "d/a.txt",
        "d/b.md",
        "d/e/",
        "d/e/a.txt",
        "d/e/c.log",
        "x/",
        "x/d/",
        "x/d/a.txt",
    ];
    let table: &[(&str, &[&str])] = &[
        ("", &all),
        (".", &all),
        ("*", &[]),
        ("**", &[]),
        ("d", &["a.txt", "b.md", "x/", "x/d/", "x/d/a.txt"]),
        (
            "**/*.txt\n**/*.log",
            &["b.md", "d/", "d/b.md", "d/e/", "x/", "x/d/"],
        ),
        // An ignored directory is there if something in it is.
        ("*\n!d/e/c.log", &["d/", "d/e/", "d/e/c.log"]),
        (
            "d\nx\n!d/e/*.txt\n!x/none",
            &["a.txt", "b.md", "d/", "d/e/", "d/e/a.txt"],
        ),
        ("*\n!d\nd/e", &["d/", "d/a.txt", "d/b.md"]),
        ("*\n!**/b.md", &["b.md", "d/", "d/b.md"]),
        // Nothing to take back at `d`, so the `!` is no rule for what is in it.
        ("d/e\n!d\nx", &["a.txt", "b.md", "d/", "d/a.txt", "d/b.md"]),
    ];
    for (ignore, want) in table {
        assert_eq!(listing(&open(root, ignore), b""), *want, "{ignore:?}");
    }
}

#[test]
fn i14_ignored_directories_are_not_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    write(root, "closed/f", "");
    write(root, "open", "");
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let tree = open(root, "closed\n!other/f");
    assert_eq!(listing(&tree, b""), ["open"]);
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn i12_the_rule_that_hides_is_named() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "d/f", "");
    let tree = open(directory.path(), "# all\n\nd\n!e\n");
    let rule = tree.hidden_by(b"d/f").unwrap();
    assert_eq!(
        (rule.file.as_str(), rule.line, rule.pattern.as_str()),
        (".dockerignore", 3, "d")
    );
    assert_eq!(tree.hidden_by(b"d/absent"), None);
    assert_eq!(tree.hidden_by(b"e"), None);
}

#[test]
fn i03_malformed_patterns_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let ignore = IgnoreFile {
        name: "Dockerfile.dockerignore".into(),
        text: "a[".into(),
    };
    let error = ContextTree::open(ContextOptions {
        name: "x".into(),
        directory: directory.path().to_owned(),
        ignore: Some(ignore),
        cache: None,
    });
    assert_eq!(error.unwrap_err().to_string(), "Dockerfile.dockerignore");
}

#[test]
fn c09_c11_c12_c13_metadata() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    write(root, "f", "content");
    fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(root.join("f"), root.join("g")).unwrap();
    write(root, "single", "");
    symlink("/etc/passwd", root.join("l")).unwrap();
    fs::create_dir(root.join("d")).unwrap();
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o2700)).unwrap();
    let handle = fs::File::open(root).unwrap();
    // The name of the directory may be too long for a socket address.
    let address = format!("/proc/self/fd/{}/s", handle.as_raw_fd());
    let _socket = UnixListener::bind(address).unwrap();
    let tree = open(root, "");
    let node = |path: &[u8]| tree.node(path).unwrap().unwrap();

    let f = node(b"f");
    assert_eq!(
        (&f.kind, f.mode, f.uid, f.gid, f.mtime),
        (&NodeKind::File { size: 7 }, 0o4751, 0, 0, None)
    );
    assert!(matches!(f.link, Some(LinkId::Inode { .. })));
    assert_eq!(f.link, node(b"g").link);
    assert_eq!(node(b"single").link, None);
    assert_eq!(node(b"d").mode, 0o2700);
    assert_eq!(
        node(b"l").kind,
        NodeKind::Symlink {
            target: b"/etc/passwd".to_vec()
        }
    );
    assert_eq!(node(b"s").kind, NodeKind::File { size: 0 });

    let facts = tree.read(&[b"f", b"s", b"g"]).unwrap();
    assert_eq!(facts[0].hash, *blake3::hash(b"content").as_bytes());
    assert_eq!(facts[1].hash, *blake3::hash(b"").as_bytes());
    assert_eq!(facts[2], facts[0]);
    let mut content = String::new();
    io::Read::read_to_string(
        &mut tree.content(b"s").unwrap().open().unwrap(),
        &mut content,
    )
    .unwrap();
    assert_eq!(content, "");
    io::Read::read_to_string(
        &mut tree.content(b"f").unwrap().open().unwrap(),
        &mut content,
    )
    .unwrap();
    assert_eq!(content, "content");
}

#[test]
fn c21_links_are_never_followed_by_the_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", "s");
    symlink(outside.path(), directory.path().join("out")).unwrap();
    let tree = open(directory.path(), "");
    assert_eq!(tree.node(b"out/secret").unwrap(), None);
    assert!(tree.children(b"out").is_err());
    assert!(tree.read(&[b"out/secret"]).is_err());
    assert!(tree.content(b"out/secret").unwrap().open().is_err());
}

#[test]
fn paths_that_are_not_there() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "f", "");
    let tree = open(directory.path(), "");
    for path in [&b"x"[..], b"x/y", b"f/x", b"f/x/y"] {
        assert_eq!(tree.node(path).unwrap(), None, "{path:?}");
    }
    assert!(tree.node(b"").unwrap().unwrap().is_directory());
    let error = tree.read(&[b"f", b"x", b"y"]).unwrap_err();
    assert_eq!(error.to_string(), "the build context: read /x");
}

#[test]
fn many_files_come_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..300).map(|i| format!("f{i:03}")).collect();
    for name in &names {
        write(directory.path(), name, name);
    }
    let tree = open(directory.path(), "");
    let paths: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let facts = tree.read(&paths).unwrap();
    for (name, facts) in names.iter().zip(facts) {
        assert_eq!(facts.hash, *blake3::hash(name.as_bytes()).as_bytes());
    }
}

#[test]
fn hashes_are_remembered_and_changes_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    write(directory.path(), "f", "one");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let set_old = |path: &Path| {
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(old).unwrap();
    };
    let read = || {
        let tree = ContextTree::open(ContextOptions {
            name: "the build context".into(),
            directory: directory.path().to_owned(),
            ignore: None,
            cache: Some(cache.path().to_owned()),
        });
        tree.unwrap().read(&[b"f"]).unwrap()[0].hash
    };
    let path = directory.path().join("f");
    set_old(&path);
    assert_eq!(read(), *blake3::hash(b"one").as_bytes());
    // The same size and mtime; only the ctime tells.
    fs::write(&path, "two").unwrap();
    set_old(&path);
    assert_eq!(read(), *blake3::hash(b"two").as_bytes());
}

/// They would be in no layer, so nothing depends on them.
#[test]
fn extended_attributes_are_not_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "d/f", "x");
    let facts = || {
        let tree = open(directory.path(), "");
        let node = tree.node(b"d").unwrap().unwrap();
        (node, tree.read(&[b"d/f"]).unwrap())
    };
    let before = facts();
    for path in ["d", "d/f"] {
        let path = directory.path().join(path);
        if rustix::fs::setxattr(path, "user.a", b"v", rustix::fs::XattrFlags::empty()).is_err() {
            eprintln!("SKIPPED: no user extended attributes here");
            return;
        }
    }
    assert_eq!(facts(), before);
}

/// What is read ahead and what is asked for one by one.
fn everything(tree: &ContextTree, ahead: bool) -> Vec<(String, [u8; 32], Vec<u8>)> {
    if ahead {
        tree.will_read_below(b"");
    }
    let names = listing(tree, b"").into_iter();
    let is_file = |name: &String| {
        let node = tree.node(name.trim_end_matches('/').as_bytes()).unwrap();
        node.unwrap().is_file()
    };
    let files: Vec<String> = names.filter(is_file).collect();
    let paths: Vec<&[u8]> = files.iter().map(|name| name.as_bytes()).collect();
    let facts = tree.read(&paths).unwrap();
    let content = |path: &&[u8]| {
        let mut content = Vec::new();
        let mut opened = tree.content(path).unwrap().open().unwrap();
        io::Read::read_to_end(&mut opened, &mut content).unwrap();
        content
    };
    let contents: Vec<Vec<u8>> = paths.iter().map(content).collect();
    let all = files.into_iter().zip(facts).zip(contents);
    all.map(|((name, facts), content)| (name, facts.hash, content))
        .collect()
}

#[test]
fn reading_ahead_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for d in 0..7 {
        for f in 0..40 * d {
            write(
                directory.path(),
                &format!("d{d}/e/f{f}"),
                &format!("{d} {f}"),
            );
        }
    }
    write(directory.path(), "d6/big", &"x".repeat(200_000));
    fs::create_dir(directory.path().join("empty")).unwrap();
    symlink("d1", directory.path().join("link")).unwrap();
    for ignore in ["", "d3\n**/f1*", "*\n!d5/e/f2*"] {
        let one_by_one = everything(&open(directory.path(), ignore), false);
        assert!(!one_by_one.is_empty());
        let ahead = everything(&open(directory.path(), ignore), true);
        assert_eq!(ahead, one_by_one, "{ignore}");
        for (name, hash, content) in ahead {
            assert_eq!(*blake3::hash(&content).as_bytes(), hash, "{name}");
        }
    }
}

#[test]
fn reading_ahead_finds_the_files_as_they_were_then() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "d/f", "before");
    let tree = open(directory.path(), "");
    tree.will_read_below(b"d");
    write(directory.path(), "d/f", "after!");
    let facts = tree.read(&[b"d/f"]).unwrap();
    assert_eq!(facts[0].hash, *blake3::hash(b"before").as_bytes());
    let Content::Hashed { bytes, .. } = tree.content(b"d/f").unwrap() else {
        panic!("not kept");
    };
    assert_eq!(bytes, &b"before"[..]);
    // Whose memory it was takes it.
    assert!(matches!(
        tree.content(b"d/f").unwrap(),
        Content::Beneath { .. }
    ));
}

#[test]
fn what_was_read_ahead_stays_when_a_part_of_it_is_asked_for_too() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "d/f", "before");
    write(directory.path(), "d/e/f", "before");
    let tree = open(directory.path(), "");
    tree.will_read_below(b"");
    for path in ["d/f", "d/e/f", "d/e/new"] {
        write(directory.path(), path, "after!");
    }
    tree.will_read_below(b"d");
    assert_eq!(listing(&tree, b"d"), ["d/e/", "d/e/f", "d/f"]);
    for path in [&b"d/f"[..], b"d/e/f"] {
        let facts = tree.read(&[path]).unwrap();
        assert_eq!(facts[0].hash, *blake3::hash(b"before").as_bytes());
        let content = tree.content(path).unwrap();
        assert!(matches!(content, Content::Hashed { .. }), "{content:?}");
    }
}

#[test]
fn a_file_stays_as_it_was_first_read_when_its_directory_is_listed() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "d/f", "before");
    let tree = open(directory.path(), "");
    let before = tree.read(&[b"d/f"]).unwrap();
    write(directory.path(), "d/f", "after!");
    tree.will_read_below(b"d");
    assert_eq!(tree.read(&[b"d/f"]).unwrap(), before);
}

#[test]
fn what_cannot_be_read_ahead_is_told_when_it_is_asked_for() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root reads everything");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let closed = fs::Permissions::from_mode(0o000);
    write(directory.path(), "d/f", "");
    write(directory.path(), "e/f", "");
    fs::set_permissions(directory.path().join("d/f"), closed.clone()).unwrap();
    fs::set_permissions(directory.path().join("e"), closed).unwrap();
    let tree = open(directory.path(), "");
    tree.will_read_below(b"");
    let error = tree.read(&[b"d/f"]).unwrap_err();
    assert_eq!(error.to_string(), "the build context: read /d/f");
    let error = tree.children(b"e").unwrap_err();
    assert_eq!(error.to_string(), "the build context: list /e");
    let open = fs::Permissions::from_mode(0o700);
    fs::set_permissions(directory.path().join("e"), open).unwrap();
}

#[test]
fn ignored_directories_are_not_read_ahead() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "d/ignored/f", "");
    write(directory.path(), "d/f", "");
    let tree = open(directory.path(), "d/ignored");
    tree.will_read_below(b"");
    assert!(tree.listings.get(b"d").is_some());
    assert!(tree.listings.get(b"d/ignored").is_none());
}

#[test]
fn contexts_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let mut contexts = Contexts::new(directory.path().to_owned());
    contexts.add("extra", directory.path(), None).unwrap();
    assert_eq!(
        contexts.tree("extra").unwrap().name(),
        "the build context \"extra\""
    );
    assert_eq!(contexts.tree("other").unwrap_err().name, "other");
    let missing = directory.path().join("absent");
    assert!(matches!(
        contexts.add("x", &missing, None),
        Err(ContextError::Open { .. })
    ));
}

#[test]
fn c28_names_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    let name = b"n\xff\n \xc3\xa9";
    fs::write(
        directory.path().join(std::ffi::OsStr::from_bytes(name)),
        "x",
    )
    .unwrap();
    let tree = open(directory.path(), "*.md");
    let children = tree.children(b"").unwrap();
    assert_eq!(children.len(), 1);
    assert_eq!(children[0].0, name);
    assert_eq!(
        tree.read(&[name]).unwrap()[0].hash,
        *blake3::hash(b"x").as_bytes()
    );
    assert!(tree.content(name).unwrap().open().is_ok());
}
