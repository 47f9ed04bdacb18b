//! Archives other programs wrote (`testdata/tar`), and archives other programs read.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use oci::layer::{LayerReader, ReadOptions, decompress, pack};
use store::content::{Content, Item};
use store::tree::{Entry, Kind};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/tar")
        .join(name)
}

/// The entries of an archive with their contents, sorted, and its bytes.
fn read(name: &str) -> (Vec<Item>, Vec<u8>) {
    let mut tar = Vec::new();
    let file = File::open(testdata(name)).expect(name);
    decompress(file)
        .expect(name)
        .read_to_end(&mut tar)
        .expect(name);
    let mut reader = LayerReader::new(tar.as_slice(), ReadOptions::default());
    let mut items = Vec::new();
    while let Some(mut member) = reader.next().expect(name) {
        let mut content = Vec::new();
        member.read_to_end(&mut content).expect(name);
        items.push(Item {
            entry: member.entry.clone(),
            content: Content::Bytes(content.into()),
        });
    }
    let (index, _) = reader.finish().expect(name);
    for item in &mut items {
        item.entry = index.get(&item.entry.path).expect("in the index").clone();
        if !matches!(item.entry.kind, Kind::File { .. }) {
            item.content = Content::None;
        }
    }
    items.sort_by(|a, b| store::tree::compare_paths(&a.entry.path, &b.entry.path));
    (items, tar)
}

fn entries(name: &str) -> Vec<Entry> {
    read(name).0.into_iter().map(|item| item.entry).collect()
}

#[test]
fn files_with_holes_are_read_as_they_were() {
    for name in ["gnu", "pax-0.0", "pax-0.1", "pax-1.0"] {
        let (items, _) = read(&format!("sparse-{name}.tar.gz"));
        let bytes = |item: &Item| {
            let mut bytes = Vec::new();
            let mut reader = item.content.open().expect(name);
            reader.read_to_end(&mut bytes).expect(name);
            bytes
        };
        let [after, all_hole, holes] = items.as_slice() else {
            panic!("{name}: {items:?}");
        };
        assert_eq!(after.entry.path, b"after", "{name}");
        assert_eq!(bytes(after), b"after\n", "{name}");
        assert_eq!(all_hole.entry.path, b"all-hole", "{name}");
        assert_eq!(bytes(all_hole), vec![0; 100_000], "{name}");
        assert_eq!(holes.entry.path, b"holes", "{name}");
        assert_eq!((holes.entry.mode, holes.entry.uid), (0o640, 5), "{name}");
        let mut expected = vec![0; 2_457_605];
        for piece in 0..60 {
            let at = piece * 40960;
            expected[at..at + 4].copy_from_slice(format!("{piece:04}").as_bytes());
        }
        assert!(bytes(holes) == expected, "{name}");
        let hash = *blake3::hash(&expected).as_bytes();
        let size = expected.len() as u64;
        assert_eq!(holes.entry.kind, Kind::File { size, hash }, "{name}");
    }
}

#[test]
fn every_program_s_archive_of_a_tree_reads_the_same() {
    let expected = entries("go.tar.gz");
    assert_eq!(expected.len(), 17);
    for name in [
        "gnu-tar-gnu",
        "gnu-tar-oldgnu",
        "gnu-tar-posix",
        "python-gnu",
        "python-pax",
        "busybox",
    ] {
        let mut found = entries(&format!("{name}.tar.gz"));
        if name == "busybox" {
            for entry in &mut found {
                let known = expected
                    .iter()
                    .find(|e| e.path == entry.path)
                    .expect("same names");
                match entry.path.as_slice() {
                    b"tree/old" => entry.mtime = known.mtime,
                    b"tree/bigid" => (entry.uid, entry.gid) = (known.uid, known.gid),
                    _ => {}
                }
            }
        }
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(found.len(), expected.len(), "{name}");
    }
}

#[test]
fn l02_the_bytes_are_those_of_go() {
    let (items, go) = read("go.tar.gz");
    let (_, mut tar) = pack(items, Vec::new()).expect("pack");
    // umoci leaves out the end.
    assert_eq!(tar.len(), go.len().next_multiple_of(512) + 1024);
    tar.truncate(go.len());
    assert!(
        tar == go,
        "first difference at {:?}",
        tar.iter().zip(&go).position(|(a, b)| a != b)
    );
}

#[test]
fn gnu_tar_reads_what_is_written() {
    let Ok(version) = Command::new("tar").arg("--version").output() else {
        println!("skipped: no tar program here");
        return;
    };
    if !String::from_utf8_lossy(&version.stdout).contains("GNU tar") {
        println!("skipped: tar is not GNU tar");
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("layer.tar");
    pack(read("go.tar.gz").0, File::create(&path).expect("create")).expect("pack");
    let list = Command::new("tar")
        .env("TZ", "UTC")
        .args(["--quoting-style=escape", "--full-time", "-tvf"])
        .arg(&path)
        .output()
        .expect("tar");
    assert!(
        list.status.success(),
        "{}",
        String::from_utf8_lossy(&list.stderr)
    );
    let text = String::from_utf8(list.stdout).expect("escaped");
    let text = text
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    for expected in [
        "-rw-r--r-- 3000000/4000000",
        "crw-r--r-- 0/0 1,3",
        "brw-r--r-- 0/0 7,300",
        "1960-01-01 00:00:00 tree/old",
        "drwxrwxrwt",
        "-rwsr-xr-x",
        "tree/hard link to tree/file",
        "tree/dir/bad\\377\\nname",
        "tree/soft -> ../../etc/passwd",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}
