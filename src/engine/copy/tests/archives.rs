//! `ADD` of archives: rules D01-D11, D22.

use std::io::Write;

use store::content::Content;
use store::tree::Kind;

use super::support::{Stack, assert_layer, copy_op, items, plan, show, stack};
use crate::engine::copy::{
    CopyError, ImageUsers, Limits, Means, Planned, Source, StageTree, plan_copy, select,
};

/// A tar from lines as of [`items`]: what they say in their order.
fn tar(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for line in text.split(['\n', ';']).filter(|l| !l.trim().is_empty()) {
        let item = items(line).remove(0);
        let mut header = tar::Header::new_ustar();
        header.set_mode(item.entry.mode);
        header.set_uid(item.entry.uid.into());
        header.set_gid(item.entry.gid.into());
        header.set_mtime(item.entry.mtime.try_into().unwrap());
        let mut name = item.entry.path.clone();
        let mut content = Vec::new();
        match item.entry.kind {
            Kind::Directory { .. } => {
                header.set_entry_type(tar::EntryType::Directory);
                name.push(b'/');
            }
            Kind::Symlink { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.as_old_mut().linkname[..target.len()].copy_from_slice(&target);
            }
            Kind::HardLink { target } => {
                header.set_entry_type(tar::EntryType::Link);
                header.as_old_mut().linkname[..target.len()].copy_from_slice(&target);
            }
            _ => content = super::support::bytes(&item.content),
        }
        header.as_old_mut().name[..name.len()].copy_from_slice(&name);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A stage with the file `name`.
fn holding(files: &[(&str, &[u8])]) -> Stack {
    let mut layer = Vec::new();
    for (name, bytes) in files {
        let mut item = items(&format!("{name} @1")).remove(0);
        let hash = *blake3::hash(bytes).as_bytes();
        item.entry.kind = Kind::File {
            size: bytes.len() as u64,
            hash,
        };
        item.content = Content::Bytes(bytes.to_vec().into());
        layer.push(item);
    }
    let mut stack = Stack::default();
    stack.push(layer);
    stack
}

fn add(line: &str, files: &[(&str, &[u8])], before: &str) -> Result<Planned, CopyError> {
    let from = holding(files);
    let tree = StageTree::new("the build context", &from.view, &from);
    let mut op = copy_op(line);
    op.unpack = true;
    plan(&op, &tree, &stack(&[before]))
}

fn added(archive: &str, before: &str) -> Vec<String> {
    show(&add("x /o", &[("x", &tar(archive))], before).unwrap().items)
}

#[test]
fn d01_archives_are_known_by_their_content() {
    let plain = tar("f 640 1:2 @3 = text");
    let want = ["o/ 755 0:0 @9", "o/f 640 1:2 @3 = text"];
    let forms = [
        plain.clone(),
        gzip(&plain),
        bzip2(&plain),
        gzip(&bzip2(&plain)),
    ];
    for (i, form) in forms[..3].iter().enumerate() {
        let planned = add("x /o", &[("x", form)], "").unwrap();
        assert_eq!(show(&planned.items), want, "form {i}");
    }
    // Only one compression is looked through; what is inside a file is its own affair.
    let not: &[&[u8]] = &[
        b"",
        b"text",
        &[0; 2048],
        &plain[..500],
        &forms[3],
        &gzip(b"text"),
        &gzip(b""),
        b"\x1f\x8bnot gzip",
        b"BZh9 not bzip2",
        b"\xfd7zXZ\0not xz",
        b"\x28\xb5\x2f\xfdnot zstd",
    ];
    for bytes in not {
        let planned = add("x.tar.gz /o", &[("x.tar.gz", bytes)], "").unwrap();
        let Kind::File { size, .. } = planned.items[0].entry.kind else {
            panic!()
        };
        assert_eq!((planned.items.len(), size), (1, bytes.len() as u64));
    }
}

#[test]
fn d02_d05_into_a_directory() {
    assert_eq!(
        added("./ 700 1:1 @1; ./f @2 = x", ""),
        ["o/ 755 0:0 @9", "o/f 644 0:0 @2 = x"]
    );
    assert_eq!(
        added("./ 700 1:1 @1; f @2 = x", "o/ 711 3:3 @4"),
        ["o/ 711 3:3 @4", "o/f 644 0:0 @2 = x"]
    );
    // Directories nobody describes.
    assert_eq!(
        added("a/b/f @2 = x", "o/ @1; o/a/ 700 5:5 @5"),
        [
            "o/ 755 0:0 @1",
            "o/a/ 700 5:5 @5",
            "o/a/b/ 755 0:0 @9",
            "o/a/b/f 644 0:0 @2 = x",
        ]
    );
    // Directories that are described take it over, and keep what is in them.
    assert_eq!(
        added("a/ @0", "o/ @1; o/a/ 700 5:5 @5; o/a/k"),
        ["o/ 755 0:0 @1", "o/a/ 755 0:0 @0"]
    );
    let planned = add("x /l/p", &[("x", &tar("f"))], "t/; l -> t").unwrap();
    assert_eq!(
        show(&planned.items),
        ["t/ 755 0:0 @0", "t/p/ 755 0:0 @9", "t/p/f 644 0:0 @0 = "]
    );
}

#[test]
fn d03_d04_owner_and_mode() {
    let from = holding(&[(
        "x",
        &tar("d/ 750 3:4 @1; d/f 4755 5:6 @1 = x; l 7:8 @1 -> d"),
    )]);
    let tree = StageTree::new("the build context", &from.view, &from);
    let mut op = copy_op("x /o/p");
    op.unpack = true;
    op.keep_owner = false;
    op.chmod = Some("600".into());
    assert_eq!(
        show(&plan(&op, &tree, &stack(&[""])).unwrap().items),
        [
            "o/ 755 0:0 @9",
            "o/p/ 755 0:0 @9",
            "o/p/d/ 750 3:4 @1",
            "o/p/d/f 4755 5:6 @1 = x",
            "o/p/l 7:8 @1 -> d",
        ]
    );
    op.chown = Some("20:30".into());
    assert_eq!(
        show(&plan(&op, &tree, &stack(&[""])).unwrap().items),
        [
            "o/ 755 20:30 @9",
            "o/p/ 755 20:30 @9",
            "o/p/d/ 750 20:30 @1",
            "o/p/d/f 4755 20:30 @1 = x",
            "o/p/l 20:30 @1 -> d",
        ]
    );
}

#[test]
fn d06_members_stay_below_the_destination() {
    assert_eq!(
        added("../../f = x; /abs = y", ""),
        [
            "o/ 755 0:0 @9",
            "o/abs 644 0:0 @0 = y",
            "o/f 644 0:0 @0 = x"
        ]
    );
    // Links in the destination and in the archive, both taken from the directory unpacked to.
    assert_eq!(
        added("l/f = x", "o/; o/real/; o/l -> /real"),
        [
            "o/ 755 0:0 @0",
            "o/real/ 755 0:0 @0",
            "o/real/f 644 0:0 @0 = x",
        ]
    );
    assert_eq!(
        added("d/; l -> d; l/f = x", "o/"),
        [
            "o/ 755 0:0 @0",
            "o/d/ 755 0:0 @0",
            "o/d/f 644 0:0 @0 = x",
            "o/l 0:0 @0 -> d",
        ]
    );
    // Nothing is made where a symlink leads to nothing.
    for (archive, before) in [
        ("l/f", "o/; o/l -> /out; out/"),
        ("l/f", "o/; o/l = file"),
        ("l -> no/where; l/f", ""),
        ("l -> no; l/d/f", ""),
        ("l/f/g", "o/; o/l -> gone"),
    ] {
        let error = add("x /o", &[("x", &tar(archive))], before).unwrap_err();
        let CopyError::Archive { name, source } = error else {
            panic!("{error}")
        };
        assert_eq!(name, "x");
        assert!(source.to_string().contains("member l/"), "{source}");
    }
}

#[test]
fn d07_members_replace_what_is_there() {
    assert_eq!(
        added("a = x", "o/; o/a/; o/a/b"),
        ["o/ 755 0:0 @0", "o/a 644 0:0 @0 = x"]
    );
    assert_eq!(
        added("a/; a/f = x", "o/; o/a -> /t; t/"),
        ["o/ 755 0:0 @0", "o/a/ 755 0:0 @0", "o/a/f 644 0:0 @0 = x",]
    );
    assert_eq!(
        added("a = x; a = y", "o/"),
        ["o/ 755 0:0 @0", "o/a 644 0:0 @0 = y"]
    );
    // Gone and back: what the layers below had in it does not come back (rules L07, L08).
    let files = [
        ("1", &tar("a = x")[..]),
        ("2", &tar("a/; a/new = y; a/kept/; a/kept/n")[..]),
    ];
    let planned = add("1 2 /o", &files, "o/; o/a/; o/a/old; o/a/kept/; o/a/kept/o").unwrap();
    assert_eq!(
        show(&planned.items),
        [
            "o/ 755 0:0 @0",
            "o/a/ 755 0:0 @0",
            "o/a/kept/ 755 0:0 @0",
            "o/a/kept/n 644 0:0 @0 = ",
            "-o/a/kept/o",
            "o/a/new 644 0:0 @0 = y",
            "-o/a/old",
        ]
    );
}

#[test]
fn d08_names_that_mean_removal_are_left_out() {
    let archive = tar("d/; d/.wh.f; d/g = x; .wh.d/; .wh.d/f");
    let planned = add("x /o", &[("x", &archive)], "o/; o/d/; o/d/f").unwrap();
    assert_eq!(
        show(&planned.items),
        ["o/ 755 0:0 @0", "o/d/ 755 0:0 @0", "o/d/g 644 0:0 @0 = x"]
    );
    assert_eq!(planned.warnings.len(), 3, "{:?}", planned.warnings);
    assert!(
        planned.warnings[0].contains("d/.wh.f"),
        "{:?}",
        planned.warnings
    );
}

#[test]
fn d04_hard_links() {
    let archive = "f 600 1:1 @2 = x; b/; b/l 600 1:1 @2 => f; a 600 1:1 @2 => b/l";
    assert_eq!(
        added(archive, "o/"),
        [
            "o/ 755 0:0 @0",
            "o/a 600 1:1 @2 = x",
            "o/b/ 755 0:0 @0",
            "o/b/l 600 1:1 @2 => o/a",
            "o/f 600 1:1 @2 => o/a",
        ]
    );
    for archive in [
        "l => nowhere",
        "l => l",
        "f = x; f => f",
        "d/; l => d",
        "l => f; f = x",
    ] {
        let error = add("x /o", &[("x", &tar(archive))], "").unwrap_err();
        assert!(
            matches!(error, CopyError::Archive { .. }),
            "{archive}: {error}"
        );
    }
}

#[test]
fn d04_hard_links_to_files_of_the_image() {
    // What the archive says of the link is said of the file.
    assert_eq!(
        added("h 600 3:4 @5 => t", "o/; o/t 644 1:2 @1 = base; o/other"),
        [
            "o/ 755 0:0 @0",
            "o/h 600 3:4 @5 = base",
            "o/t 600 3:4 @5 => o/h",
        ]
    );
    // Through symlinks, which end at the directory unpacked to.
    assert_eq!(
        added("z 644 @1 => l/t", "o/; o/d/; o/d/t @1 = x; o/l -> /d"),
        [
            "o/ 755 0:0 @0",
            "o/d/ 755 0:0 @0",
            "o/d/t 644 0:0 @1 = x",
            "o/z 644 0:0 @1 => o/d/t",
        ]
    );
    assert_eq!(
        added("z => l", "o/; o/l 3:3 @1 -> gone"),
        [
            "o/ 755 0:0 @0",
            "o/l 0:0 @1 -> gone",
            "o/z 777 0:0 @1 => o/l"
        ]
    );
    // Its own directory would be gone before it is made.
    let error = add("x /o", &[("x", &tar("d => d/t"))], "o/; o/d/; o/d/t").unwrap_err();
    assert!(matches!(error, CopyError::Archive { .. }), "{error}");
}

#[test]
fn d04_the_last_name_says_what_a_file_is_like() {
    assert_eq!(
        added(
            "f 600 1:1 @2 = x; g 640 3:3 @4 => f; h 700 5:5 @6 => g",
            "o/"
        ),
        [
            "o/ 755 0:0 @0",
            "o/f 700 5:5 @6 = x",
            "o/g 700 5:5 @6 => o/f",
            "o/h 700 5:5 @6 => o/f",
        ]
    );
}

#[test]
fn d04_files_with_holes() {
    for name in ["gnu", "pax-1.0"] {
        let archive = recorded(&format!("../tar/sparse-{name}.tar.gz"));
        let planned = add("x /o", &[("x", &archive)], "").unwrap();
        assert_layer(&planned.items);
        let sizes: Vec<u64> = planned
            .items
            .iter()
            .filter_map(|item| match item.entry.kind {
                Kind::File { size, .. } => Some(size),
                _ => None,
            })
            .collect();
        assert_eq!(sizes, [6, 100_000, 2_457_605], "{name}");
    }
}

#[test]
fn d10_d11_what_is_not_unpacked() {
    let archive = tar("f = x");
    let planned = add("d /o", &[("d/x.tar", &archive)], "").unwrap();
    assert_eq!(planned.items[1].entry.path, b"o/x.tar");
    let from = holding(&[("x.tar", &archive)]);
    let tree = StageTree::new("the build context", &from.view, &from);
    let planned = plan(&copy_op("x.tar /o/"), &tree, &stack(&[""])).unwrap();
    assert_eq!(planned.items[1].entry.path, b"o/x.tar");
}

#[test]
fn d22_decompression_is_bounded() {
    let archive = gzip(&tar(&format!("f = {}", "x".repeat(10_000))));
    let from = holding(&[("x", &archive)]);
    let tree = StageTree::new("the build context", &from.view, &from);
    let mut op = copy_op("x /o");
    op.unpack = true;
    let to = stack(&[""]);
    let sources = [Source::Tree(&tree)];
    let selection = select(&op, &sources).unwrap();
    let users = ImageUsers::new(&to.view, &to);
    let plan_with = |archive_bytes| {
        let limits = Limits {
            archive_bytes,
            ..Limits::default()
        };
        let means = Means {
            temp: &super::support::Temp,
            below: &to,
            limits,
        };
        plan_copy(&op, &selection, &to.view, &users, means)
    };
    assert_layer(&plan_with(20_000).unwrap().items);
    assert!(matches!(
        plan_with(5_000).unwrap_err(),
        CopyError::Archive { .. }
    ));
}

/// A tar with the file `f`, made by the usual tools.
fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(format!(
        "{}/testdata/archives/{name}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

#[test]
fn d01_xz_and_zstd() {
    for name in ["one.tar.xz", "one.tar.zst"] {
        let planned = add("x /o", &[("x", &recorded(name))], "").unwrap();
        assert_eq!(
            show(&planned.items),
            ["o/ 755 0:0 @9", "o/f 640 1:2 @3 = text\n"],
            "{name}"
        );
    }
}

#[test]
fn damaged_archives_are_copied_or_refused() {
    let plain = tar("d/ 750; d/f 640 1:2 @3 = text; l -> d; h => d/f");
    let archives = [
        recorded("one.tar.xz"),
        recorded("one.tar.zst"),
        gzip(&plain),
        bzip2(&plain),
        plain,
    ];
    let mut outcomes = [0, 0];
    for archive in archives {
        let step = archive.len() / 200 + 1;
        for at in (0..archive.len()).step_by(step) {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = archive.clone();
                damaged[at] ^= flip;
                damaged.truncate(archive.len() - at % 3);
                match add("x /o", &[("x", &damaged)], "") {
                    Ok(_) => outcomes[0] += 1,
                    Err(CopyError::Archive { .. }) => outcomes[1] += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 100), "{outcomes:?}");
}
