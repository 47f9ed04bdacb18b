//! Lowers the Dockerfiles of `testdata/lower` and compares plan, history, config or errors with
//! what stands there. Each file: options of the build, a line `===`, the Dockerfile, a line `===`,
//! the outcome. `LAYERCAKE_UPDATE_GOLDEN=1` writes the outcomes anew; read the difference before
//! keeping it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use layercake_graph::Plan;
use layercake_graph::config::ImageConfig;
use layercake_graph::facts::{Facts, ImageFact, Platform, Selection};
use layercake_graph::lower::{self, DEFAULT_EPOCH, LowerError};
use layercake_graph::op::Network;
use serde_json::{Value, json};

const SEPARATOR: &str = "===\n";

#[test]
fn plans_are_as_recorded() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/lower");
    let update = std::env::var_os("LAYERCAKE_UPDATE_GOLDEN").is_some();
    let mut entries: Vec<_> = fs::read_dir(&directory)
        .expect("testdata")
        .map(|entry| entry.expect("entry").path())
        .collect();
    entries.sort();
    assert!(
        !entries.is_empty(),
        "no golden files in {}",
        directory.display()
    );
    let mut differing = Vec::new();
    for path in entries {
        let text = fs::read_to_string(&path).expect("a golden file");
        let mut parts = text.splitn(3, SEPARATOR);
        let options = parts.next().expect("options");
        let file = parts.next().expect("a Dockerfile after ===");
        let recorded = parts.next().unwrap_or_default();
        let outcome = outcome(options, file);
        if update {
            let text = format!("{options}{SEPARATOR}{file}{SEPARATOR}{outcome}");
            fs::write(&path, text).expect("written");
        } else if outcome != recorded {
            differing.push(format!("{}:\n{outcome}", path.display()));
        }
    }
    assert!(
        differing.is_empty(),
        "differ from what is recorded:\n{}",
        differing.join("\n")
    );
}

fn outcome(options: &str, text: &str) -> String {
    let mut case = Case::new(options);
    let source = dockerfile::Source {
        name: "Dockerfile".to_owned(),
        text: text.to_owned(),
    };
    let parsed = dockerfile::parse(&source);
    if let Some(error) = parsed.diagnostics.iter().find(|found| found.rule.is_none()) {
        return format!("parse error: {}\n", error.message);
    }
    let mut asked = String::new();
    loop {
        let needs = match lower::needs(&parsed.file, &case.selection, &case.facts) {
            Ok(needs) => needs,
            Err(errors) => return asked + &render_errors(&errors),
        };
        if needs.images.is_empty() {
            break;
        }
        for (key, need) in needs.images {
            let context = if need.named_context { "context " } else { "" };
            let _ = writeln!(
                asked,
                "needs {context}{} for {}",
                need.reference, need.platform
            );
            if let Some(meant) = &need.advice {
                let _ = writeln!(asked, "      {meant}");
            }
            let fact = case
                .images
                .get(&need.reference)
                .cloned()
                .unwrap_or_else(|| base("{}"));
            case.facts.images.insert(key, fact);
        }
    }
    match lower::lower(&parsed.file, &case.selection, &case.facts) {
        Ok(plan) => asked + &render(&plan),
        Err(errors) => asked + &render_errors(&errors),
    }
}

/// An image of one layer with this `config` object.
fn base(config: &str) -> ImageFact {
    let config: Value = serde_json::from_str(config).expect("a config object");
    let image = json!({"os": "linux", "architecture": "amd64", "config": config});
    let config: ImageConfig = serde_json::from_value(image).expect("an image config");
    ImageFact { config, layers: 1 }
}

struct Case {
    selection: Selection,
    images: BTreeMap<String, ImageFact>,
    facts: Facts,
}

impl Case {
    fn new(options: &str) -> Self {
        let host = Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        };
        let mut selection = Selection {
            target_platform: host.clone(),
            build_platform: host.clone(),
            ..Selection::default()
        };
        let mut images = BTreeMap::new();
        for line in options
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (key, value) = line.split_once(": ").expect("option: value");
            let pair = || {
                let (name, value) = value.split_once('=').expect("name=value");
                (name.to_owned(), value.to_owned())
            };
            match key {
                "arg" => drop(selection.build_args.insert(pair().0, pair().1)),
                "label" => drop(selection.labels.insert(pair().0, pair().1)),
                "target" => selection.target = Some(value.to_owned()),
                "platform" => {
                    selection.target_platform =
                        lower::platform::parse(value, &host).expect("a platform");
                    selection.platform_explicit = true;
                }
                "context" => drop(selection.contexts.insert(value.to_owned(), false)),
                "directory" => drop(selection.contexts.insert(value.to_owned(), true)),
                "allow" => drop(selection.allow.insert(value.to_owned())),
                "no-cache-filter" => drop(selection.no_cache_filter.insert(value.to_owned())),
                "add-host" => selection.add_hosts.push(pair()),
                "network" => {
                    selection.network = Some(if value == "host" {
                        Network::Host
                    } else {
                        Network::None
                    });
                }
                "image" => drop(images.insert(pair().0, base(&pair().1))),
                _ => panic!("unknown option {key}"),
            }
        }
        Self {
            selection,
            images,
            facts: Facts::default(),
        }
    }
}

fn render(plan: &Plan) -> String {
    let mut text = String::new();
    for (number, node) in plan.nodes.iter().enumerate() {
        let no_cache = if node.meta.no_cache {
            " (no cache)"
        } else {
            ""
        };
        let lines = node
            .meta
            .lines
            .map_or(String::new(), |(a, b)| format!(" lines {a}-{b}"));
        let _ = writeln!(text, "{number} {}{lines}{no_cache}", node.meta.name);
        let inputs: Vec<usize> = node.inputs.iter().map(|input| input.0).collect();
        let op = serde_json::to_value(&node.op).expect("JSON");
        let _ = writeln!(text, "  {}", short(&op));
        if !inputs.is_empty() {
            let _ = writeln!(text, "  from {inputs:?}");
        }
    }
    let _ = writeln!(text, "target {}", plan.target.0);
    for entry in &plan.history {
        let empty = if entry.empty_layer { " (empty)" } else { "" };
        let _ = writeln!(text, "history {:?}{empty}", entry.created_by);
    }
    let config = serde_json::to_value(&plan.config).expect("JSON");
    let _ = writeln!(text, "config {}", short(&config));
    if let Some(epoch) = plan.source_date_epoch {
        let _ = writeln!(text, "epoch {epoch}");
    }
    text
}

/// Leaves out what says nothing: false, null, empty text and lists, the default epoch and hostname.
fn short(value: &Value) -> Value {
    let dull = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "buildkitsandbox",
        Value::Number(number) => number.as_i64() == Some(DEFAULT_EPOCH),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) | Value::Bool(true) => false,
    };
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), short(value)))
            .filter(|(key, value)| !dull(value) || key == "path")
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(short).collect(),
        other => other.clone(),
    }
}

fn render_errors(errors: &[LowerError]) -> String {
    let mut text = String::new();
    for error in errors {
        let lines = error
            .lines
            .map_or("-".to_owned(), |lines| lines.to_string());
        let _ = writeln!(text, "error {:?} line {lines}: {error}", error.kind);
        if let Some(help) = &error.help {
            let _ = writeln!(text, "  help: {help}");
        }
    }
    text
}
