//! Lowers the cases of a conformance suite and compares platform, config, history and number of
//! layers with what BuildKit made of them. `LAYERCAKE_CONFORMANCE` names the suite's directory
//! (`cases/<topic>/<case>/{Dockerfile,case.toml,expected.json}`, `base/<name>` OCI layouts);
//! without it there is nothing to do. `LAYERCAKE_CONFORMANCE_FILTER` is part of a case's name.
#![allow(
    clippy::print_stderr,
    reason = "a test that says what it skipped and what differs"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use layercake_graph::config::ImageConfig;
use layercake_graph::facts::{Facts, ImageFact, Platform, Selection};
use layercake_graph::lower::{self, LowerError};
use layercake_graph::{Op, Plan};
use serde_json::{Value, json};

/// Config fields the suite records.
const FIELDS: [&str; 12] = [
    "Env",
    "Cmd",
    "Entrypoint",
    "WorkingDir",
    "User",
    "Labels",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
    "Shell",
];

#[test]
fn configs_and_histories_are_those_of_the_reference() {
    let Some(suite) = std::env::var_os("LAYERCAKE_CONFORMANCE").map(PathBuf::from) else {
        eprintln!("skipped: LAYERCAKE_CONFORMANCE is not set");
        return;
    };
    let filter = std::env::var("LAYERCAKE_CONFORMANCE_FILTER").unwrap_or_default();
    let mut checked = 0;
    let mut failures = Vec::new();
    for topic in directories(&suite.join("cases")) {
        for case in directories(&topic) {
            let name = case
                .strip_prefix(&suite)
                .expect("below the suite")
                .display()
                .to_string();
            if !name.contains(&filter) {
                continue;
            }
            checked += 1;
            let differences = check(&suite, &case);
            failures.extend(
                differences
                    .into_iter()
                    .map(|text| format!("{name}: {text}")),
            );
        }
    }
    assert!(checked > 0, "no case in {}", suite.display());
    eprintln!("{checked} cases");
    assert!(
        failures.is_empty(),
        "{}\n{} differ",
        failures.join("\n"),
        failures.len()
    );
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).expect("a directory");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// Differences; a case that must fail may do so later than in lowering.
fn check(suite: &Path, case: &Path) -> Vec<String> {
    let settings = fs::read_to_string(case.join("case.toml")).unwrap_or_default();
    let settings = settings_of(&settings);
    // File names that are no UTF-8 stand in there as lone surrogates; names do not matter here.
    let expected = fs::read_to_string(case.join("expected.json")).expect("expected.json");
    let expected: Value = serde_json::from_str(&expected.replace("\\udc", "\\u00")).expect("JSON");
    let result = build(suite, case, &settings);
    if expected.get("fails") == Some(&json!(true)) {
        return match result {
            Err(error) if std::env::var_os("LAYERCAKE_CONFORMANCE_ERRORS").is_some() => {
                eprintln!(
                    "{}\n  reference: {}\n  here:      {error}",
                    case.display(),
                    expected["error"]
                );
                Vec::new()
            }
            _ => Vec::new(),
        };
    }
    match result {
        Ok((plan, base_layers)) => compare(&expected, &plan, base_layers, settings.get("ignore")),
        Err(error) => vec![error],
    }
}

fn build(
    suite: &Path,
    case: &Path,
    settings: &BTreeMap<String, Vec<String>>,
) -> Result<(Plan, BTreeMap<String, usize>), String> {
    let file = settings
        .get("file")
        .map_or("Dockerfile", |words| words[0].as_str());
    let bytes = fs::read(case.join(file)).expect("Dockerfile");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let parsed = dockerfile::parse(&dockerfile::Source {
        name: file.to_owned(),
        text,
    });
    if let Some(error) = parsed.diagnostics.iter().find(|found| found.rule.is_none()) {
        return Err(format!("parse: {}", error.message));
    }
    let selection = selection(suite, settings);
    let mut facts = Facts::default();
    loop {
        let needs = lower::needs(&parsed.file, &selection, &facts).map_err(first)?;
        if needs.images.is_empty() {
            break;
        }
        for (key, need) in needs.images {
            let written = settings
                .get("contexts")
                .into_iter()
                .flatten()
                .collect::<Vec<_>>();
            let base = written
                .chunks(2)
                .find(|pair| *pair[0] == need.reference)
                .and_then(|pair| pair[1].strip_prefix("image:"))
                .unwrap_or(&need.reference);
            let layout = suite.join("base").join(base);
            if !layout.is_dir() {
                return Err(format!("no base image {}", need.reference));
            }
            facts.images.insert(key, image(&layout));
        }
    }
    let layers = facts
        .images
        .iter()
        .map(|(key, fact)| (key.clone(), fact.layers))
        .collect();
    Ok((
        lower::lower(&parsed.file, &selection, &facts).map_err(first)?,
        layers,
    ))
}

fn first(errors: Vec<LowerError>) -> String {
    errors
        .first()
        .map(|error| format!("lower: {error}"))
        .unwrap_or_default()
}

fn selection(suite: &Path, settings: &BTreeMap<String, Vec<String>>) -> Selection {
    let pairs = |key: &str| -> BTreeMap<String, String> {
        let words = settings.get(key).map(Vec::as_slice).unwrap_or_default();
        words
            .chunks(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect()
    };
    let one = |key: &str| settings.get(key).map(|words| words[0].clone());
    let host = Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: None,
    };
    let platform = one("platform");
    let mut contexts: BTreeMap<String, bool> = directories(&suite.join("base"))
        .iter()
        .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), false)))
        .collect();
    contexts.extend(
        pairs("contexts")
            .into_iter()
            .map(|(k, v)| (k, v.starts_with("dir:"))),
    );
    Selection {
        target: one("target"),
        build_args: pairs("args"),
        labels: pairs("labels"),
        target_platform: platform
            .as_deref()
            .map(|text| lower::platform::parse(text, &host).expect("platform"))
            .unwrap_or_else(|| host.clone()),
        build_platform: host,
        platform_explicit: platform.is_some(),
        contexts,
        ..Selection::default()
    }
}

/// The quoted words of each `key = …` line, in order.
fn settings_of(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut settings = BTreeMap::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let mut words = Vec::new();
        let mut chars = value.chars();
        while let Some(open) = chars.find(|c| matches!(c, '"' | '\'')) {
            let mut word = String::new();
            while let Some(c) = chars.next() {
                match c {
                    c if c == open => break,
                    '\\' if open == '"' => match chars.next() {
                        Some('n') => word.push('\n'),
                        Some('t') => word.push('\t'),
                        other => word.extend(other),
                    },
                    c => word.push(c),
                }
            }
            words.push(word);
        }
        settings.insert(key.trim().to_owned(), words);
    }
    settings
}

fn image(layout: &Path) -> ImageFact {
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&fs::read(path).expect("blob")).expect("JSON")
    };
    let blob = |value: &Value| {
        let digest = value["digest"].as_str().expect("digest").replace(':', "/");
        layout.join("blobs").join(digest)
    };
    let manifest = read(&blob(&read(&layout.join("index.json"))["manifests"][0]));
    let config: ImageConfig =
        serde_json::from_value(read(&blob(&manifest["config"]))).expect("a config");
    ImageFact {
        layers: config.rootfs.diff_ids.len(),
        config,
    }
}

fn compare(
    expected: &Value,
    plan: &Plan,
    base_layers: BTreeMap<String, usize>,
    ignored: Option<&Vec<String>>,
) -> Vec<String> {
    let ignored = |field: &str| ignored.is_some_and(|list| list.iter().any(|item| item == field));
    let mut differences = Vec::new();
    let mut differ = |field: &str, wanted: &Value, got: &Value| {
        if wanted != got && !ignored(field) {
            differences.push(format!("{field}: want {wanted} got {got}"));
        }
    };
    let config = serde_json::to_value(&plan.config).expect("JSON");
    let platform: Vec<&str> = ["os", "architecture", "variant"]
        .iter()
        .filter_map(|key| config[*key].as_str())
        .collect();
    differ(
        "platform",
        &expected["platform"],
        &json!(platform.join("/")),
    );
    for field in FIELDS {
        let name = format!("config.{field}");
        differ(&name, &expected["config"][field], &config["config"][field]);
    }
    let shown = |text: &str| {
        text.trim_end()
            .trim_end_matches("# buildkit")
            .trim_end()
            .to_owned()
    };
    let old = plan.config.history.iter().map(|entry| {
        let text = entry["created_by"].as_str().unwrap_or_default();
        json!({"by": shown(text), "empty": entry["empty_layer"].as_bool().unwrap_or(false)})
    });
    let new = plan
        .history
        .iter()
        .map(|entry| json!({"by": shown(&entry.created_by), "empty": entry.empty_layer}));
    differ("history", &expected["history"], &old.chain(new).collect());
    differ(
        "layers",
        &expected["layers"],
        &json!(layers(plan, &base_layers)),
    );
    differences
}

/// Layers of the target's chain: those of its image, one for every step on it.
fn layers(plan: &Plan, base_layers: &BTreeMap<String, usize>) -> usize {
    let mut node = &plan.nodes[plan.target.0];
    let mut count = 0;
    loop {
        match &node.op {
            Op::Image { name } => return count + base_layers[name],
            Op::Scratch => return count,
            _ => {
                count += 1;
                node = &plan.nodes[node.inputs[0].0];
            }
        }
    }
}
