//! The rules of the house that a compiler does not check: which crate may use which, what must
//! not occur where, and how long files and lines may get.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every allowed edge between our own packages (docs/ARCHITECTURE.md).
const EDGES: [(&str, &str); 7] = [
    ("layercake", "dockerfile"),
    ("layercake", "graph"),
    ("layercake", "store"),
    ("layercake", "oci"),
    ("layercake", "sandbox"),
    ("graph", "dockerfile"),
    ("oci", "store"),
];

/// Words that show that a crate does what is not its job.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    (
        "dockerfile",
        &["std::fs", "std::env", "std::process", "tokio", "async fn"],
    ),
    ("graph", &["std::fs", "std::env", "std::process", "reqwest"]),
    ("store", &["tokio", "reqwest", "Dockerfile", "manifest::"]),
    ("oci", &["Dockerfile"]),
    ("sandbox", &["Dockerfile", "oci_spec", "tokio"]),
];

const LINE_MAX: usize = 120;
const FILE_MAX: usize = 1200;
/// A longer file says why in its module text, with these words.
const FILE_USUAL: usize = 800;
const LONG_REASON: &str = "Long because";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(directory)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|e| e.file_name() != "target")
        .map(|entry| entry.expect("the source tree is readable").into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

fn all_sources() -> Vec<PathBuf> {
    ["src", "crates", "tests"]
        .iter()
        .flat_map(|d| sources(&root().join(d)))
        .collect()
}

#[test]
fn crates_use_each_other_only_along_the_allowed_edges() {
    let mut found = BTreeSet::new();
    let mut manifests = vec![("layercake".to_owned(), root().join("Cargo.toml"))];
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        manifests.push((name, path.join("Cargo.toml")));
    }
    let names: Vec<String> = manifests.iter().map(|(name, _)| name.clone()).collect();
    for (name, path) in &manifests {
        let text = fs::read_to_string(path).unwrap();
        let own = if name == "layercake" {
            text.split_once("[package]").unwrap().1
        } else {
            &text
        };
        for line in own.lines() {
            let used = line.split(['.', ' ', '=']).next().unwrap();
            if names.iter().any(|n| n == used) {
                found.insert((name.clone(), used.to_owned()));
            }
        }
    }
    let allowed: BTreeSet<(String, String)> = EDGES
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect();
    assert_eq!(found, allowed);
}

#[test]
fn crates_keep_to_their_job() {
    let mut bad = Vec::new();
    for (name, words) in FORBIDDEN {
        for path in sources(&root().join("crates").join(name).join("src")) {
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate() {
                // Words in comments and tests do nothing.
                let code = line.split("//").next().unwrap();
                if code.contains("#[cfg(test)]") {
                    break;
                }
                if let Some(word) = words.iter().find(|w| code.contains(**w)) {
                    bad.push(format!("{}:{}: {word}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn unsafe_code_is_in_one_file() {
    let allowed = Path::new("crates/sandbox/src/sys.rs");
    // Puts itself under the restrictions of a container; the crate's own calls are private.
    let imitation = Path::new("crates/sandbox/examples/docker_like.rs");
    // Starts a child in its own memory, as vfork(2) does, to see who it is.
    let vfork = Path::new("crates/sandbox/tests/emulation/step/raw.rs");
    let mut bad = Vec::new();
    for path in all_sources() {
        let relative = path.strip_prefix(root()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let word = ["unsafe", " {"].concat();
        let in_sys = relative == allowed || relative.starts_with(allowed.with_extension(""));
        let is_exempt = in_sys || relative == imitation || relative == vfork;
        if text.contains(&word) && !is_exempt {
            bad.push(relative.to_path_buf());
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn files_and_lines_are_short() {
    let mut bad = Vec::new();
    for path in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let count = text.lines().count();
        if count > FILE_MAX || (count > FILE_USUAL && !text.contains(LONG_REASON)) {
            bad.push(format!("{}: {count} lines", path.display()));
        }
        for (number, line) in text.lines().enumerate() {
            // A text is searched for as a whole.
            if line.chars().count() > LINE_MAX && !line.contains('"') {
                bad.push(format!("{}:{}: a long line", path.display(), number + 1));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_document_that_is_linked_exists() {
    let mut bad = Vec::new();
    let documents = walkdir::WalkDir::new(root().join("docs"))
        .into_iter()
        .filter_map(|e| Some(e.ok()?.into_path()))
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .chain([root().join("README.md")]);
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            if !path.parent().unwrap().join(file).exists() {
                bad.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}
