//! Archives made to leave the root, to exhaust memory or to confuse.

use std::io::Read;
use std::path::Path;

use oci::error::LayerError;
use oci::layer::{Limits, ReadOptions, Scanned, decompress, scan, unpack};
use store::dirwriter::{DirWriter, open_directory};
use store::owner::Owners;
use store::tree::{Entry, Kind};

use super::tarball::{CHAR, FILE, LINK, SYMLINK, Tarball, dir, entry, file};

fn index(tar: &[u8]) -> Vec<Entry> {
    scanned(tar).expect("scan").index.entries().to_vec()
}

/// What `scan` says, checked to be what `unpack` says and does.
#[expect(clippy::print_stdout, reason = "says what was not tested")]
fn scanned(tar: &[u8]) -> Result<Scanned, LayerError> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may unpack, as it gives files away");
        return scan(tar, ReadOptions::default());
    }
    let outside = tempfile::tempdir().expect("temporary directory");
    let root = outside.path().join("root");
    std::fs::create_dir(&root).expect("root");
    std::fs::write(outside.path().join("victim"), "safe").expect("victim");
    let writer = DirWriter::new(open_directory(&root).expect("open"), Owners::Inode);
    let unpacked = unpack(tar, ReadOptions::default(), writer);
    let names: Vec<_> = std::fs::read_dir(outside.path())
        .expect("list")
        .map(|e| e.expect("entry").file_name().into_string().expect("name"))
        .collect();
    assert_eq!(names.len(), 2, "something left the root: {names:?}");
    assert_eq!(
        std::fs::read(outside.path().join("victim")).expect("victim"),
        b"safe"
    );
    let scanned = scan(tar, ReadOptions::default());
    match (&scanned, &unpacked) {
        (Ok(scanned), Ok(unpacked)) => {
            assert_eq!(scanned.index, unpacked.index);
            assert_eq!(scanned.diff_id, unpacked.diff_id);
            compare(&root, &unpacked.index, &unpacked.skipped);
        }
        (Err(_), Err(_)) => {}
        other => panic!("scan and unpack disagree: {other:?}"),
    }
    scanned
}

/// The directory has what the index says, name for name.
fn compare(root: &Path, index: &store::tree::Index, skipped: &[Vec<u8>]) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut expected: Vec<_> = index.entries().iter().map(|e| e.path.clone()).collect();
    expected.retain(|path| !skipped.contains(path));
    let mut found = Vec::new();
    for file in walkdir::WalkDir::new(root).min_depth(1) {
        let file = file.expect("walk");
        let path = file
            .path()
            .strip_prefix(root)
            .expect("below")
            .as_os_str()
            .as_bytes()
            .to_vec();
        let entry = index
            .get(&path)
            .unwrap_or_else(|| panic!("{path:?} is not in the index"));
        let metadata = file.path().symlink_metadata().expect("stat");
        let kind = metadata.file_type();
        let same = match &entry.kind {
            Kind::Directory { .. } => kind.is_dir(),
            Kind::File { size, hash } => {
                let content = std::fs::read(file.path()).expect("read");
                *size == metadata.len() && blake3::hash(&content) == *hash
            }
            Kind::Symlink { target } => {
                std::fs::read_link(file.path())
                    .expect("link")
                    .as_os_str()
                    .as_bytes()
                    == target
            }
            Kind::HardLink { target } => {
                let other = root.join(std::ffi::OsStr::from_bytes(target));
                metadata.ino() == other.symlink_metadata().expect("target").ino()
            }
            Kind::Whiteout => kind.is_char_device() && metadata.rdev() == 0,
            Kind::CharDevice { .. } => kind.is_char_device(),
            Kind::BlockDevice { .. } => kind.is_block_device(),
            Kind::Fifo => kind.is_fifo(),
        };
        assert!(same, "{entry:?} is {metadata:?}");
        found.push(path);
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn l15_names_stop_at_the_root() {
    let tar = Tarball::default()
        .file("../../victim", b"evil")
        .file("/abs", b"1")
        .file("a/../../b", b"2")
        .file("./c//d/./e", b"3")
        .end();
    let d = [file("abs", b"1"), file("b", b"2"), dir("c"), dir("c/d")];
    let rest = [file("c/d/e", b"3"), file("victim", b"evil")];
    assert_eq!(index(&tar), [d.as_slice(), &rest].concat());
}

#[test]
fn l15_a_symlink_leads_later_members_only_inside() {
    let tar = Tarball::default()
        .symlink("up", "../../..")
        .file("up/victim", b"evil")
        .symlink("abs", "/etc")
        .file("abs/passwd", b"x")
        .symlink("chain", "abs/../up/var")
        .file("chain/f", b"y")
        .end();
    let link = |path, target: &str| {
        entry(
            path,
            Kind::Symlink {
                target: target.into(),
            },
        )
    };
    assert_eq!(
        index(&tar),
        [
            link("abs", "/etc"),
            link("chain", "abs/../up/var"),
            dir("etc"),
            file("etc/passwd", b"x"),
            link("up", "../../.."),
            dir("var"),
            file("var/f", b"y"),
            file("victim", b"evil"),
        ]
    );
}

#[test]
fn l15_a_member_named_like_a_symlink_replaces_it() {
    let tar = Tarball::default()
        .symlink("f", "../victim")
        .file("f", b"mine")
        .end();
    assert_eq!(index(&tar), [file("f", b"mine")]);
    let tar = Tarball::default()
        .symlink("d", "..")
        .dir("d/")
        .file("d/victim", b"x")
        .end();
    assert_eq!(index(&tar), [dir("d"), file("d/victim", b"x")]);
}

#[test]
fn l15_hard_links_stay_inside() {
    for target in ["../victim", "/etc/passwd", "missing", "self", "d"] {
        let tar = Tarball::default().dir("d/").link("self", target).end();
        assert!(
            matches!(scanned(&tar), Err(LayerError::LinkTarget { .. })),
            "{target}"
        );
    }
    let tar = Tarball::default()
        .file("victim", b"inner")
        .symlink("up", "..")
        .link("a", "../../victim")
        .link("b", "up/victim")
        .end();
    let link = |path| {
        entry(
            path,
            Kind::HardLink {
                target: b"a".to_vec(),
            },
        )
    };
    let up = entry(
        "up",
        Kind::Symlink {
            target: b"..".to_vec(),
        },
    );
    assert_eq!(
        index(&tar),
        [file("a", b"inner"), link("b"), up, link("victim")]
    );
}

#[test]
fn l11_a_hard_link_outlives_the_name_it_was_made_from() {
    let tar = Tarball::default()
        .file("a", b"old")
        .link("b", "a")
        .link("c", "b")
        .file("a", b"new")
        .end();
    let c = entry(
        "c",
        Kind::HardLink {
            target: b"b".to_vec(),
        },
    );
    assert_eq!(index(&tar), [file("a", b"new"), file("b", b"old"), c]);
}

#[test]
fn l15_nothing_is_below_a_file() {
    let tar = Tarball::default().file("f", b"").file("f/g", b"").end();
    assert!(matches!(scanned(&tar), Err(LayerError::Parent { .. })));
}

#[test]
fn symlink_loops_end() {
    let tar = Tarball::default()
        .symlink("a", "b/x")
        .symlink("b", "a/x")
        .file("a/f", b"")
        .end();
    assert!(matches!(scanned(&tar), Err(LayerError::SymlinkLoop { .. })));
}

#[test]
fn l14_later_members_replace_earlier_ones() {
    let tar = Tarball::default()
        .dir("d/")
        .file("d/f", b"1")
        .file("d", b"now a file")
        .file("e", b"1")
        .dir("e/")
        .file("e/f", b"2")
        .file("e/f", b"3")
        .end();
    assert_eq!(
        index(&tar),
        [file("d", b"now a file"), dir("e"), file("e/f", b"3")]
    );
}

#[test]
fn l16_the_root_is_ignored() {
    let tar = Tarball::default()
        .dir("./")
        .dir("/")
        .dir("a/..")
        .file("f", b"")
        .end();
    assert_eq!(index(&tar), [file("f", b"")]);
}

#[test]
fn l07_whiteouts_and_opaque_directories() {
    let opaque = |path| entry(path, Kind::Directory { opaque: true });
    let tar = Tarball::default()
        .dir("d/")
        .file("d/.wh..wh..opq", b"")
        .file("d/kept", b"1")
        .file("e/.wh.gone", b"content is ignored")
        .file(".wh.again", b"")
        .dir("again/")
        .dir(".wh..wh.plnk/")
        .file(".wh..wh.plnk/x", b"")
        .file(".wh.parent", b"")
        .file("parent/f", b"2")
        .file("x/.wh..wh..opq", b"")
        .end();
    assert_eq!(
        index(&tar),
        [
            opaque("again"),
            opaque("d"),
            file("d/kept", b"1"),
            dir("e"),
            entry("e/gone", Kind::Whiteout),
            opaque("parent"),
            file("parent/f", b"2"),
            opaque("x"),
        ]
    );
    for bad in [".wh.", ".wh..", "d/.wh...", "a/.wh.b/c", ".wh..wh..opq"] {
        assert!(
            scanned(&Tarball::default().file(bad, b"").end()).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn a_device_that_overlayfs_takes_for_a_whiteout_is_one() {
    let tar = Tarball::default().member(CHAR, b"gone", b"", b"").end();
    assert_eq!(index(&tar), [entry("gone", Kind::Whiteout)]);
}

#[test]
fn overlay_attributes_are_dropped_and_binary_ones_kept() {
    let record = |key: &str, value: &[u8]| {
        let rest = [b" SCHILY.xattr.", key.as_bytes(), b"=", value, b"\n"].concat();
        let length = rest.len() + 2;
        [length.to_string().as_bytes(), &rest].concat()
    };
    let capability = b"\x01\x00\x00\x02\n=\x00\xff";
    let records = [
        record("user.overlay.redirect", b"/secret"),
        record("trusted.overlay.opaque", b"y"),
        record("security.capability", capability),
    ]
    .concat();
    let tar = Tarball::default().pax(&records).file("f", b"").end();
    let expected = scan(tar.as_slice(), ReadOptions::default())
        .expect("scan")
        .index;
    let xattrs = vec![(b"security.capability".to_vec(), capability.to_vec())];
    assert_eq!(
        expected.entries(),
        [Entry {
            xattrs,
            ..file("f", b"")
        }]
    );
}

#[test]
fn truncated_archives_are_refused_wherever_they_end() {
    let tar = Tarball::default()
        .file("a", &[b'x'; 700])
        .dir("d/")
        .file("d/b", b"y")
        .end();
    let members = tar.len() - 1024;
    for end in 1..members {
        let result = scan(&tar[..end], ReadOptions::default());
        // At the end of a member it is a whole archive without the zeros, which Go accepts too.
        let whole = [1536, 2048].contains(&end) || (1212..1536).contains(&end) || end > 2560;
        assert_eq!(result.is_ok(), whole, "cut at {end}: {result:?}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let file = Tarball::default().file("f", b"content");
    let mut checksum = file.clone().end();
    checksum[0] ^= 1;
    let mut zeros = file.clone();
    zeros.0.resize(zeros.0.len() + 512, 0);
    let zeros = zeros.file("g", b"").end();
    let cases: [(&str, Vec<u8>); 9] = [
        ("checksum", checksum),
        ("zeros in the middle", zeros),
        (
            "size beyond the end",
            Tarball::default().header(FILE, b"f", b"", 1 << 30).end(),
        ),
        (
            "pax size",
            Tarball::default().pax(b"9 size=x\n").file("f", b"").end(),
        ),
        (
            "pax record",
            Tarball::default().pax(b"99 path=x\n").file("f", b"").end(),
        ),
        (
            "pax uid",
            Tarball::default()
                .pax(b"18 uid=4294967295\n")
                .file("f", b"")
                .end(),
        ),
        ("pax alone", Tarball::default().pax(b"9 path=x\n").end()),
        (
            "empty symlink",
            Tarball::default().member(SYMLINK, b"l", b"", b"").end(),
        ),
        (
            "unknown type",
            Tarball::default().member(b'Z', b"z", b"", b"").end(),
        ),
    ];
    for (name, tar) in cases {
        assert!(scanned(&tar).is_err(), "{name}");
    }
}

#[test]
fn sparse_files_that_make_no_sense() {
    let record = |text: &str| {
        let rest = text.len() + 2;
        let length = (rest + 1..).find(|n| rest + n.to_string().len() == *n);
        format!("{} {text}\n", length.expect("a length"))
    };
    let pax = |records: &[&str], content: &[u8]| {
        let records: String = records.iter().map(|text| record(text)).collect();
        Tarball::default()
            .pax(records.as_bytes())
            .file("s", content)
            .end()
    };
    let one = &[
        "GNU.sparse.major=1",
        "GNU.sparse.minor=0",
        "GNU.sparse.realsize=9",
    ];
    let mut outside = b"1\n8\n2\n".to_vec();
    outside.resize(512, 0);
    outside.extend_from_slice(b"xx");
    let cases = [
        Tarball::default().member(b'S', b"s", b"", b"xx").end(),
        pax(&["GNU.sparse.major=2"], b""),
        pax(&["GNU.sparse.map=0,1"], b"x"),
        pax(&["GNU.sparse.size=1", "GNU.sparse.map=0,1,2"], b"x"),
        pax(&["GNU.sparse.size=1", "GNU.sparse.map=0,2"], b"xx"),
        pax(&["GNU.sparse.size=x", "GNU.sparse.map=0,1"], b"x"),
        pax(one, b"1\n"),
        pax(one, &[b'9'; 1024]),
        pax(one, &outside),
    ];
    for (number, tar) in cases.iter().enumerate() {
        assert!(scanned(tar).is_err(), "{number}");
    }
    // Not more of them than an archive may have bytes.
    let huge = pax(&["GNU.sparse.size=999999999999999", "GNU.sparse.map="], b"");
    let error = scan(huge.as_slice(), ReadOptions::default()).expect_err("too large");
    assert!(error.to_string().contains("limit"), "{error}");
}

#[test]
fn bombs_hit_a_limit() {
    let limits = Limits {
        entries: 10,
        archive_bytes: 1 << 20,
        path_bytes: 64,
        xattr_bytes: 32,
    };
    let scan_limited = |tar: &mut dyn Read| {
        let options = ReadOptions {
            limits,
            ..Default::default()
        };
        match scan(tar, options) {
            Err(LayerError::Limit { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    let many = (0..11)
        .fold(Tarball::default(), |t, n| t.file(&n.to_string(), b""))
        .end();
    assert_eq!(scan_limited(&mut many.as_slice()), "entries");
    let deep = Tarball::default().dir("1/2/3/4/5/6/7/8/9/10/11").end();
    assert_eq!(scan_limited(&mut deep.as_slice()), "entries");
    let endless = Tarball::default().header(FILE, b"f", b"", 1 << 40).0;
    let mut endless = endless.chain(std::io::repeat(0));
    assert_eq!(scan_limited(&mut endless), "bytes");
    let trailing = Tarball::default().file("f", b"").end();
    assert_eq!(
        scan_limited(&mut trailing.chain(std::io::repeat(0))),
        "bytes"
    );
    let long = Tarball::default().member(b'L', b"././@LongLink", b"", &[b'x'; 65]);
    assert_eq!(
        scan_limited(&mut long.file("f", b"").end().as_slice()),
        "bytes in a path"
    );
    let header = Tarball::default().header(b'x', b"x", b"", 1 << 30).0;
    let mut header = header.chain(std::io::repeat(b'1'));
    assert_eq!(scan_limited(&mut header), "bytes in an extended header");
    let xattr = b"51 SCHILY.xattr.user.x=123456789012345678901234567\n";
    let xattr = Tarball::default().pax(xattr).file("f", b"").end();
    let what = "bytes of extended attributes of one entry";
    assert_eq!(scan_limited(&mut xattr.as_slice()), what);
}

#[test]
fn a_path_does_not_grow_through_symlinks() {
    let long = "d/".repeat(45);
    let tar = (0..60).fold(Tarball::default(), |t, n| {
        t.symlink(&format!("l{n}"), &format!("{long}l{}", n + 1))
    });
    // l0 leads to d/…/l1, which does not exist there: one step, no error.
    let tar = tar.file("l0/f", b"").end();
    assert!(scan(tar.as_slice(), ReadOptions::default()).is_ok());
    let long = "e".repeat(98);
    let mut tar = Tarball::default().symlink("s0", &long);
    let mut directory = long.clone();
    for n in 1..45 {
        let target = format!("s{}/{}", n - 1, "x".repeat(90));
        tar = tar.symlink(&format!("s{n}"), &target);
        directory = format!("{directory}/{}", "x".repeat(90));
    }
    let tar = tar.file("s44/f", b"").end();
    let error = scan(tar.as_slice(), ReadOptions::default()).expect_err("long");
    assert!(
        matches!(
            error,
            LayerError::Limit { .. } | LayerError::SymlinkLoop { .. }
        ),
        "{error}"
    );
}

#[test]
fn a_hard_link_to_a_link_and_a_link_type_with_a_size() {
    // Go's reader takes no content after a link, whatever its size says.
    let tar = Tarball::default()
        .file("f", b"x")
        .header(LINK, b"g", b"f", 9000)
        .file("h", b"");
    let g = entry(
        "g",
        Kind::HardLink {
            target: b"f".to_vec(),
        },
    );
    assert_eq!(index(&tar.end()), [file("f", b"x"), g, file("h", b"")]);
}

#[test]
fn damaged_compression_is_an_error() {
    use std::io::Write;
    let tar = Tarball::default().file("f", &[b'x'; 5000]).end();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&tar).expect("gzip");
    let gzip = encoder.finish().expect("gzip");
    let zstd = zstd::bulk::compress(&tar, 3).expect("zstd");
    for whole in [gzip, zstd] {
        let read = |bytes: &[u8]| {
            scan(decompress(bytes)?, ReadOptions::default()).map_err(std::io::Error::other)
        };
        assert!(read(&whole).is_ok());
        assert!(read(&whole[..whole.len() - 9]).is_err(), "cut");
        assert!(
            read(&[&whole[..], b"garbage"].concat()).is_err(),
            "trailing"
        );
    }
}
