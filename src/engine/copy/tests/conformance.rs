//! Recorded cases whose Dockerfiles need nothing but `FROM`, `COPY`, `ADD`, `USER` and `WORKDIR`,
//! read by a few lines here and not by the real parser, so that only copying is tested.
//!
//! `LAYERCAKE_CONFORMANCE` names the directory that holds `base` and `cases`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use graph::op;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::content::{Content, Item};
use store::tree::Kind;

use super::support::{Stack, Temp, assert_layer};
use crate::engine::context::{ContextOptions, ContextTree, IgnoreFile};
use crate::engine::copy::{
    ImageUsers, Limits, Means, Source, StageTree, Tree, plan_copy, plan_workdir, select,
};

const TOPICS: &[&str] = &[
    "copy",
    "copyflags",
    "add",
    "link",
    "workdir",
    "dockerignore",
    "multistage",
    "stages",
];

#[test]
fn recorded_cases() {
    let Some(root) = std::env::var_os("LAYERCAKE_CONFORMANCE").map(PathBuf::from) else {
        println!("skipped: LAYERCAKE_CONFORMANCE is not set");
        return;
    };
    let mut failed = Vec::new();
    let mut passed = 0;
    for topic in TOPICS {
        let mut cases: Vec<_> = fs::read_dir(root.join("cases").join(topic))
            .unwrap()
            .map(|case| case.unwrap().path())
            .collect();
        cases.sort();
        for case in cases {
            match run_case(&root, &case) {
                None => {}
                Some(Ok(())) => passed += 1,
                Some(Err(why)) => failed.push(format!("{}: {why}", case.display())),
            }
        }
    }
    assert!(failed.is_empty(), "{passed} passed\n{}", failed.join("\n"));
    println!("{passed} passed");
    assert!(passed > 20);
}

struct Case<'a> {
    root: &'a Path,
    directory: PathBuf,
    contexts: BTreeMap<String, PathBuf>,
}

/// `None`: it needs more than is offered here.
fn run_case(root: &Path, case: &Path) -> Option<Result<(), String>> {
    let work = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .arg("-P")
        .arg(case)
        .arg(work.path())
        .status();
    assert!(copied.unwrap().success());
    let directory = work.path().join(case.file_name().unwrap());
    let context = directory.join("ctx");
    fs::create_dir_all(&context).unwrap();
    settle_modes(&directory);
    if directory.join("setup.sh").exists() {
        let status = Command::new("sh")
            .args(["-eu", "../setup.sh"])
            .current_dir(&context)
            .status()
            .unwrap();
        assert!(status.success());
    }
    let toml = fs::read_to_string(directory.join("case.toml")).unwrap_or_default();
    if toml.contains("args") || toml.contains("target") || toml.contains("file =") {
        return None;
    }
    let contexts = toml
        .split('"')
        .collect::<Vec<_>>()
        .windows(3)
        .filter_map(|w| Some((w[0].to_owned(), directory.join(w[2].strip_prefix("dir:")?))))
        .collect();
    let text = fs::read_to_string(directory.join("Dockerfile")).ok()?;
    let expected = fs::read_to_string(case.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let case = Case {
        root,
        directory,
        contexts,
    };
    let outcome = case.build(&text)?;
    Some(match (outcome, expected["fails"].as_bool()) {
        (Err(error), Some(true)) => {
            let words: Vec<&str> = toml.split('"').skip(1).step_by(2).collect();
            let said = words.iter().all(|word| error.contains(word));
            if said {
                Ok(())
            } else {
                Err(format!("wrong error: {error}"))
            }
        }
        (Err(error), _) => Err(error),
        (Ok(_), Some(true)) => Err("should have failed".into()),
        (Ok(stack), _) => compare(&case, &stack, &expected),
    })
}

fn settle_modes(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_symlink() {
        return;
    }
    let executable = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            settle_modes(&entry.unwrap().path());
        }
    }
}

/// The state of a stage.
#[derive(Clone, Default)]
struct Stage {
    name: String,
    stack: Stack,
    cwd: String,
    user: String,
}

impl Case<'_> {
    fn build(&self, text: &str) -> Option<Result<Stack, String>> {
        let mut stages: Vec<Stage> = Vec::new();
        for line in text
            .lines()
            .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        {
            if line.ends_with('\\') || line.contains(['$', '<']) || line.contains("--checksum") {
                return None;
            }
            let words = words(line);
            match words[0].to_uppercase().as_str() {
                "FROM" => {
                    let known = stages.iter().find(|s| s.name == words[1]).cloned();
                    let name = words.get(3).cloned().unwrap_or_default();
                    let stack = match known {
                        Some(stage) => stage.stack,
                        None if words[1] == "scratch" => Stack::default(),
                        None => self.image(&words[1])?,
                    };
                    stages.push(Stage {
                        name,
                        stack,
                        cwd: "/".into(),
                        user: String::new(),
                    });
                }
                "USER" => stages.last_mut()?.user = words[1].clone(),
                "WORKDIR" => {
                    let stage = stages.last_mut()?;
                    let path = absolute(&stage.cwd, &words[1]);
                    stage.cwd.clone_from(&path);
                    let op = op::Workdir {
                        path,
                        user: stage.user.clone(),
                        epoch: 1,
                    };
                    let users = ImageUsers::new(&stage.stack.view, &stage.stack);
                    match plan_workdir(&op, &stage.stack.view, &users) {
                        Ok(planned) => stage.stack.push(planned.items),
                        Err(error) => return Some(Err(error.to_string())),
                    }
                }
                "COPY" | "ADD" => match self.copy(&words, &stages)? {
                    Ok(items) => stages.last_mut()?.stack.push(items),
                    Err(error) => return Some(Err(error)),
                },
                _ => return None,
            }
        }
        Some(Ok(stages.pop()?.stack))
    }

    fn copy(&self, words: &[String], stages: &[Stage]) -> Option<Result<Vec<Item>, String>> {
        let stage = stages.last()?;
        let mut flags: BTreeMap<&str, &str> = BTreeMap::new();
        let mut paths: Vec<&str> = Vec::new();
        for word in &words[1..] {
            match word.strip_prefix("--") {
                Some(flag) if paths.is_empty() => {
                    let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
                    flags.insert(name, value);
                }
                _ => paths.push(word),
            }
        }
        let destination = absolute(&stage.cwd, paths.pop()?);
        let from = flags.get("from").copied();
        let add = words[0].eq_ignore_ascii_case("add");
        let unpack = flags.get("unpack").map_or(add, |v| *v == "true");
        let parents = flags.contains_key("parents");
        let path = |path: &&str| {
            let clean = absolute("/", path).trim_start_matches('/').to_owned();
            let path = if parents {
                path.trim_start_matches('/').to_owned()
            } else {
                clean
            };
            op::CopySource::Path { input: 1, path }
        };
        let text = |name: &str| flags.get(name).map(|v| (*v).to_owned());
        let op = op::Copy {
            sources: paths.iter().map(path).collect(),
            destination,
            chown: text("chown"),
            chmod: text("chmod"),
            link: flags.contains_key("link"),
            parents,
            exclude: text("exclude").into_iter().collect(),
            unpack,
            keep_owner: from.is_some(),
            epoch: 1,
        };
        let source = match from {
            None => Ok(self.directory.join("ctx")),
            Some(name) => match self.contexts.get(name) {
                Some(directory) => Ok(directory.clone()),
                None => {
                    let number = name.parse().ok().and_then(|n: usize| stages.get(n));
                    let named = || stages.iter().find(|s| s.name.eq_ignore_ascii_case(name));
                    Err(match number.or_else(named) {
                        Some(stage) => stage.stack.clone(),
                        None => self.image(name)?,
                    })
                }
            },
        };
        Some(match source {
            Ok(directory) => plan(&op, &context(&directory), stage),
            Err(from) => plan(&op, &StageTree::new("the stage", &from.view, &from), stage),
        })
    }

    /// A base image of the cases.
    fn image(&self, name: &str) -> Option<Stack> {
        let layout = self.root.join("base").join(name);
        let read = |digest: &Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
        };
        let index = fs::read(layout.join("index.json")).ok()?;
        let mut manifest: Value = serde_json::from_slice(&index).unwrap();
        while let Some(first) = manifest.get("manifests").map(|m| m[0]["digest"].clone()) {
            manifest = serde_json::from_slice(&read(&first)).unwrap();
        }
        let mut stack = Stack::default();
        for layer in manifest["layers"].as_array().unwrap() {
            stack.push(layer_items(&read(&layer["digest"])));
        }
        Some(stack)
    }
}

fn context(directory: &Path) -> ContextTree {
    let ignore = fs::read_to_string(directory.join(".dockerignore")).ok();
    ContextTree::open(ContextOptions {
        name: "the build context".into(),
        directory: directory.to_owned(),
        ignore: ignore.map(|text| IgnoreFile {
            name: ".dockerignore".into(),
            text,
        }),
        cache: None,
    })
    .unwrap()
}

fn plan(op: &op::Copy, tree: &dyn Tree, stage: &Stage) -> Result<Vec<Item>, String> {
    let sources = vec![Source::Tree(tree); op.sources.len()];
    let means = Means {
        temp: &Temp,
        below: &stage.stack,
        limits: Limits::default(),
    };
    let users = ImageUsers::new(&stage.stack.view, &stage.stack);
    let planned = select(op, &sources)
        .and_then(|selection| plan_copy(op, &selection, &stage.stack.view, &users, means));
    planned
        .inspect(|p| assert_layer(&p.items))
        .map(|p| p.items)
        .map_err(|e| e.to_string())
}

fn layer_items(blob: &[u8]) -> Vec<Item> {
    use oci::layer::{LayerReader, ReadOptions, decompress};
    use std::io::Read;
    let mut contents = BTreeMap::new();
    let plain = decompress(std::io::Cursor::new(blob.to_vec())).unwrap();
    let mut reader = LayerReader::new(plain, ReadOptions::default());
    while let Some(mut member) = reader.next().unwrap() {
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        contents.insert(member.entry.path.clone(), bytes);
    }
    let (index, _) = reader.finish().unwrap();
    let content = |path: &[u8]| match index.get(path).map(|e| &e.kind) {
        Some(Kind::File { .. }) => Content::Bytes(contents[path].clone().into()),
        _ => Content::None,
    };
    let entries = index.entries().iter();
    entries
        .map(|e| Item {
            entry: e.clone(),
            content: content(&e.path),
        })
        .collect()
}

/// Splits at blanks or reads the JSON form.
fn words(line: &str) -> Vec<String> {
    if let Some((keyword, list)) = line.split_once(' ')
        && let Ok(list) = serde_json::from_str::<Vec<String>>(list)
    {
        return std::iter::once(keyword.to_owned()).chain(list).collect();
    }
    line.split_whitespace().map(str::to_owned).collect()
}

fn absolute(cwd: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{cwd}/{path}")
    };
    let directory = path.ends_with('/') || path.ends_with("/.") || path == ".";
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let slash = if directory && !parts.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{slash}", parts.join("/"))
}

fn compare(case: &Case<'_>, stack: &Stack, expected: &Value) -> Result<(), String> {
    let base = expected["base"].as_str().filter(|b| !b.is_empty());
    let mut want = base
        .map(|b| facts(&case.image(b).unwrap()))
        .unwrap_or_default();
    for gone in expected["gone"].as_array().unwrap() {
        want.remove(gone.as_str().unwrap());
    }
    for (path, facts) in expected["files"].as_object().unwrap() {
        want.insert(path.clone(), facts.clone());
    }
    let got = facts(stack);
    let mut differences = Vec::new();
    for path in got.keys().chain(want.keys()) {
        let (got, want) = (got.get(path), want.get(path));
        if got != want {
            differences.push(format!("  {path}: got {got:?}, want {want:?}"));
        }
    }
    differences.dedup();
    if differences.is_empty() {
        Ok(())
    } else {
        Err(format!("\n{}", differences.join("\n")))
    }
}

fn facts(stack: &Stack) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut names: BTreeMap<(usize, Vec<u8>), Vec<String>> = BTreeMap::new();
    for visited in stack.view.walk(b"") {
        let path = String::from_utf8_lossy(visited.path).into_owned();
        let file = stack.view.file_of(visited.found).unwrap();
        let entry = file.entry;
        let mut fact = json!({
            "mode": format!("{:04o}", entry.mode), "uid": entry.uid, "gid": entry.gid
        });
        match &entry.kind {
            Kind::Directory { .. } => fact["type"] = json!("dir"),
            Kind::Symlink { target } => {
                fact["type"] = json!("link");
                fact["to"] = json!(String::from_utf8_lossy(target));
                fact["mode"] = json!("0777");
            }
            Kind::File { size, .. } => {
                let sum = Sha256::digest(stack.content(visited.path));
                let hex: String = sum.iter().take(8).map(|b| format!("{b:02x}")).collect();
                fact["type"] = json!("file");
                fact["size"] = json!(size);
                fact["sha"] = json!(hex);
                let key = (file.layer, entry.path.clone());
                names.entry(key).or_default().push(path.clone());
            }
            Kind::Fifo => fact["type"] = json!("fifo"),
            other => panic!("{other:?}"),
        }
        for (name, value) in &entry.xattrs {
            let sum = Sha256::digest(value);
            let hex: String = sum.iter().take(6).map(|b| format!("{b:02x}")).collect();
            fact["xattr"][String::from_utf8_lossy(name).as_ref()] = json!(hex);
        }
        all.insert(path, fact);
    }
    for names in names.into_values().filter(|names| names.len() > 1) {
        let first = names.iter().min().cloned();
        for name in &names {
            all.get_mut(name).unwrap()["hard"] = json!(first);
        }
    }
    all
}
