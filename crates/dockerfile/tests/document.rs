//! The examples of docs/reference/checks.md do what the document says.

use std::collections::BTreeMap;
use std::path::Path;

use layercake_dockerfile::check::{BaseImage, CheckContext, RULES, check};
use layercake_dockerfile::ignore::Patterns;
use layercake_dockerfile::{Source, parse};

const PAGE: &str = "docs/reference/checks.md";

/// What is under the heading of one rule.
#[derive(Debug, Default)]
struct Section {
    rule: String,
    prose: usize,
    ignore: Option<String>,
    /// Code blocks by the word before them.
    examples: BTreeMap<String, String>,
}

fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut label = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rule) = line.strip_prefix("## ") {
            let rule = rule.to_owned();
            sections.push(Section {
                rule,
                ..Section::default()
            });
        }
        let Some(section) = sections.last_mut() else {
            continue;
        };
        match line {
            "Bad:" | "Good:" => label = line.trim_end_matches(':').to_owned(),
            "```dockerfile" | "```dockerignore" => {
                let code: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
                let code = code.join("\n") + "\n";
                if line == "```dockerignore" {
                    section.ignore = Some(code);
                } else {
                    let before = section.examples.insert(label.clone(), code);
                    assert_eq!(before, None, "{}: two {label} examples", section.rule);
                }
            }
            _ => section.prose += usize::from(!line.starts_with('#') && line.len() > 40),
        }
    }
    sections
}

fn fired(section: &Section, text: &str) -> Vec<&'static str> {
    let source = Source {
        name: "Dockerfile".to_owned(),
        text: text.to_owned(),
    };
    let parsed = parse(&source);
    assert!(!parsed.has_errors(), "{text}: {:?}", parsed.diagnostics);
    let ignore = section.ignore.as_deref().map(Patterns::parse);
    let ignore = ignore.transpose().expect("a good ignore file");
    let other_platform = text.contains("only-arm64");
    let base = |_| {
        other_platform.then(|| BaseImage {
            platform: Some("linux/arm64".to_owned()),
            ..BaseImage::default()
        })
    };
    let context = CheckContext {
        build_args: &BTreeMap::new(),
        target: None,
        target_platform: "linux/amd64",
        build_platform: "linux/amd64",
        ignore: ignore.as_ref(),
        base: &base,
        stages: None,
        options: None,
    };
    let warnings = check(&parsed.file, &context).warnings;
    warnings.into_iter().filter_map(|w| w.rule).collect()
}

#[test]
fn every_rule_is_explained_with_a_bad_and_a_good_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join(PAGE)).expect("the document");
    let sections = sections(&text);
    let documented: Vec<&str> = sections.iter().map(|s| s.rule.as_str()).collect();
    let rules: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(
        documented, rules,
        "rules of the document, in the order of the table"
    );
    for section in &sections {
        assert!(section.prose > 0, "{}: no paragraph", section.rule);
        for (label, want) in [("Bad", &[section.rule.as_str()][..]), ("Good", &[])] {
            let example = section.examples.get(label);
            let example = example.unwrap_or_else(|| panic!("{}: no {label}", section.rule));
            assert_eq!(fired(section, example), want, "{}: {label}", section.rule);
        }
    }
}
