//! Inspects real Dockerfiles and compares verdict, stages, needed stages and images, targets and
//! outline with those of the reference. `LAYERCAKE_CORPUS` names a directory with
//! `expected.jsonl`, `LAYERCAKE_CORPUS_FILES` that of the files; without them there is nothing to
//! do.
#![allow(
    clippy::print_stderr,
    reason = "a test that says what it skipped and what differs"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use layercake_graph::facts::{Platform, Selection};
use layercake_graph::inspect::{Inspection, inspect};
use serde_json::{Value, json};

/// Refused by the reference only because its base image was empty of WORKDIR or ENV.
const FAKE: [&str; 2] = [
    "crazy-max__undock/hack__docs.Dockerfile",
    "sixeyed__diamol/ch06__exercises__todo-list__Dockerfile",
];

#[test]
fn verdicts_stages_targets_and_outlines_are_those_of_the_reference() {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(corpus), Some(files)) = (
        variable("LAYERCAKE_CORPUS"),
        variable("LAYERCAKE_CORPUS_FILES"),
    ) else {
        eprintln!("skipped: LAYERCAKE_CORPUS and LAYERCAKE_CORPUS_FILES are not set");
        return;
    };
    let host = Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: None,
    };
    let selection = Selection {
        target_platform: host.clone(),
        build_platform: host,
        platform_explicit: true,
        ..Selection::default()
    };
    let mut failures = Vec::new();
    let mut checked = 0;
    for line in fs::read_to_string(corpus.join("expected.jsonl"))
        .expect("a list")
        .lines()
    {
        let expected: Value = serde_json::from_str(line).expect("JSON");
        let name = expected["file"].as_str().expect("file");
        let bytes = fs::read(files.join(name)).expect("the file");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let parsed = dockerfile::parse(&dockerfile::Source {
            name: name.to_owned(),
            text,
        });
        let inspection = inspect(&parsed, &selection);
        let differences = compare(name, &expected, &inspection);
        failures.extend(
            differences
                .into_iter()
                .map(|text| format!("{name}: {text}")),
        );
        checked += 1;
    }
    eprintln!("{checked} files");
    assert!(
        failures.is_empty(),
        "{}\n{} differ",
        failures.join("\n"),
        failures.len()
    );
}

fn compare(name: &str, expected: &Value, inspection: &Inspection) -> Vec<String> {
    let good = expected["ok"] == json!(true);
    if good != inspection.ok && !FAKE.contains(&name) {
        let error = inspection
            .error
            .as_ref()
            .map(|error| error.message.as_str());
        return vec![format!(
            "want ok={good} ({}) got {error:?}",
            expected["error"]
        )];
    }
    if !good {
        return Vec::new();
    }
    let got = serde_json::to_value(inspection).expect("JSON");
    let mut differences = Vec::new();
    for field in [
        "meta_args",
        "stages",
        "needed_stages",
        "needed_images",
        "targets",
    ] {
        if got[field] != expected[field] {
            differences.push(format!(
                "{field}: want {} got {}",
                expected[field], got[field]
            ));
        }
    }
    let unstable = expected["outline_unstable_args"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for field in ["name", "description"] {
        if got["outline"][field] != expected["outline"][field] {
            differences.push(format!(
                "outline {field}: want {} got {}",
                expected["outline"][field], got["outline"][field]
            ));
        }
    }
    for field in ["args", "secrets", "ssh"] {
        let list = |value: &Value| -> BTreeMap<String, Value> {
            let items = value["outline"][field]
                .as_array()
                .cloned()
                .unwrap_or_default();
            items
                .into_iter()
                .filter(|item| !unstable.contains(&item["name"]))
                .map(|item| (item["name"].to_string(), item))
                .collect()
        };
        let (wanted, got) = (list(expected), list(&got));
        for (name, item) in &wanted {
            if got.get(name) != Some(item) {
                differences.push(format!("{field}: want {item} got {:?}", got.get(name)));
            }
        }
        for (name, item) in got.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
            differences.push(format!("{field}: extra {name} {item}"));
        }
    }
    differences
}
