//! What the parser and the checks know of a Dockerfile, as JSON: `inspect --format json FILE`.
//!
//! For measuring this crate alone. Every base image counts as an empty linux/amd64 image, and
//! what only lowering finds wrong is not found.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use layercake_dockerfile::check::{CheckContext, check};
use layercake_dockerfile::instruction::{File, InstructionKind};
use layercake_dockerfile::{Severity, Source, parse};
use serde_json::{Value, json};

fn main() {
    let path = std::env::args().next_back().unwrap_or_default();
    let bytes = std::fs::read(&path).unwrap_or_default();
    let source = Source {
        name: path,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    };
    let parsed = parse(&source);
    let build_args = BTreeMap::new();
    let needed = needed_stages(&parsed.file);
    let context = |stages| CheckContext {
        build_args: &build_args,
        target: None,
        target_platform: "linux/amd64",
        build_platform: "linux/amd64",
        ignore: None,
        base: &|_| None,
        stages,
        options: None,
    };
    let all = check(&parsed.file, &context(None));
    let built = check(&parsed.file, &context(Some(&needed)));
    let error = parsed
        .diagnostics
        .iter()
        .find(|diagnostic| diagnostic.severity == Severity::Error)
        .or(built.stopped.as_ref())
        .map(|diagnostic| json!({"message": diagnostic.message, "line": diagnostic.lines.first}));
    let warnings: Vec<Value> = all
        .warnings
        .iter()
        .map(|warning| json!({"rule": warning.rule, "lines": lines(warning.lines.first, warning.lines.last)}))
        .collect();
    println!(
        "{}",
        json!({
            "ok": error.is_none(),
            "error": error,
            "meta_args": meta_args(&parsed.file),
            "stages": stages(&parsed.file),
            "needed_stages": needed,
            "warnings": warnings,
        })
    );
}

fn lines(first: u32, last: u32) -> Vec<u32> {
    (first..=last).collect()
}

fn meta_args(file: &File) -> Vec<&str> {
    file.meta_args
        .iter()
        .flat_map(|instruction| match &instruction.kind {
            InstructionKind::Arg(declarations) => {
                declarations.iter().map(|each| each.name.as_str()).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

fn stages(file: &File) -> Vec<Value> {
    file.stages
        .iter()
        .map(|stage| {
            json!({
                "name": stage.name.clone().unwrap_or_default(),
                "base_name": stage.base,
                "platform": stage.platform.clone().unwrap_or_default(),
                "from_line": stage.lines.first,
                "commands": stage.instructions.iter().map(|each| each.keyword.to_uppercase()).collect::<Vec<_>>(),
                "lines": stage.instructions.iter().map(|each| each.lines.first).collect::<Vec<_>>(),
            })
        })
        .collect()
}

/// What the last stage reaches, names taken as written.
fn needed_stages(file: &File) -> Vec<usize> {
    let find = |name: &str, before: usize| {
        file.stages[..before]
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(name))
    };
    let mut needed = BTreeSet::new();
    let mut todo: Vec<usize> = file.stages.len().checked_sub(1).into_iter().collect();
    while let Some(index) = todo.pop() {
        if !needed.insert(index) {
            continue;
        }
        let stage = &file.stages[index];
        todo.extend(find(&stage.base, index));
        for instruction in &stage.instructions {
            let all = file.stages.len();
            match &instruction.kind {
                InstructionKind::Copy(copy) => {
                    let Some(from) = &copy.from else { continue };
                    let stage = match from.parse::<usize>() {
                        Ok(index) => Some(index).filter(|index| *index < all),
                        Err(_) => find(&from.to_lowercase(), all),
                    };
                    todo.extend(stage);
                }
                InstructionKind::Run(run) => {
                    let names = run.mounts.iter().filter_map(|mount| mount.from.as_deref());
                    todo.extend(names.filter_map(|name| find(&name.to_lowercase(), all)));
                }
                _ => {}
            }
        }
    }
    needed.into_iter().collect()
}
