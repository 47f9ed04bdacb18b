//! Any bytes: the reader ends with an index or an error, the index keeps its promises, and what
//! can be written again reads the same.
#![no_main]

use std::collections::HashMap;
use std::io::Read;

use libfuzzer_sys::fuzz_target;
use oci::layer::{LayerReader, Limits, ReadOptions, decompress, pack, scan};
use store::content::{Content, Item};
use store::tree::{Index, Kind, compare_paths};

fuzz_target!(|data: &[u8]| {
    let limits = Limits {
        entries: 1000,
        archive_bytes: 1 << 20,
        ..Limits::default()
    };
    let options = ReadOptions {
        limits,
        ..ReadOptions::default()
    };
    let data = mend(data);
    let Ok(tar) = decompress(data.as_slice()) else {
        return;
    };
    let mut reader = LayerReader::new(tar, options);
    let mut contents = HashMap::new();
    loop {
        match reader.next() {
            Err(_) => return,
            Ok(None) => break,
            Ok(Some(mut member)) => {
                let mut bytes = Vec::new();
                if member.read_to_end(&mut bytes).is_err() {
                    return;
                }
                contents.insert(*blake3::hash(&bytes).as_bytes(), bytes);
            }
        }
    }
    let Ok((index, _)) = reader.finish() else {
        return;
    };
    check(&index);
    let item = |entry: &store::tree::Entry| {
        let content = match &entry.kind {
            Kind::File { hash, .. } => Content::Bytes(contents[hash].as_slice().into()),
            _ => Content::None,
        };
        Item {
            entry: entry.clone(),
            content,
        }
    };
    // Some names can be read and not be written, such as devices beyond what ustar holds.
    let Ok((written, tar)) = pack(index.entries().iter().map(item).collect(), Vec::new()) else {
        return;
    };
    assert_eq!(written, index);
    let again = scan(tar.as_slice(), ReadOptions::default()).expect("what was written is read");
    assert_eq!(again.index, index);
});

/// Puts right checksums into what looks like a header; nearly no change would get past them.
fn mend(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    data
}

fn check(index: &Index) {
    for pair in index.entries().windows(2) {
        assert!(compare_paths(&pair[0].path, &pair[1].path).is_lt());
    }
    for entry in index.entries() {
        let clean = |c: &[u8]| !matches!(c, b"" | b"." | b"..") && !c.contains(&0);
        assert!(entry.path.split(|b| *b == b'/').all(clean), "{entry:?}");
        if let Some(at) = entry.path.iter().rposition(|b| *b == b'/') {
            let parent = index.get(&entry.path[..at]).expect("a parent");
            assert!(
                matches!(parent.kind, Kind::Directory { .. }),
                "{entry:?} below {parent:?}"
            );
        }
        if let Kind::HardLink { target } = &entry.kind {
            let target = index.get(target).expect("a target");
            assert!(!matches!(
                target.kind,
                Kind::HardLink { .. } | Kind::Directory { .. }
            ));
            assert!(compare_paths(&target.path, &entry.path).is_lt());
        }
    }
}
