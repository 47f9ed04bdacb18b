//! What the fuzz targets begin with (testdata/fuzz): each seed does here what its target does.
//! Inputs that a target fell over are added there and stay.

use std::collections::BTreeMap;
use std::path::Path;

use layercake_dockerfile::check::{CheckContext, check};
use layercake_dockerfile::glob::Glob;
use layercake_dockerfile::ignore::Patterns;
use layercake_dockerfile::word::{expand, expand_for_display, expand_heredoc, expand_words};
use layercake_dockerfile::{Source, parse, parse_trigger};

fn seeds(target: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fuzz");
    let entries = std::fs::read_dir(folder.join(target)).expect("the seeds");
    let seed = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        (path.display().to_string(), text)
    };
    let seeds: Vec<_> = entries.map(seed).collect();
    assert!(seeds.len() >= 5, "{target}: {} seeds", seeds.len());
    seeds
}

#[test]
fn parse_seeds() {
    for (name, text) in seeds("parse") {
        let parsed = parse(&Source {
            name: name.clone(),
            text: text.clone(),
        });
        for found in &parsed.diagnostics {
            let span = found.span;
            assert!(
                text.get(span.start..span.end).is_some(),
                "{name}: {found:?}"
            );
        }
        let context = CheckContext {
            build_args: &BTreeMap::new(),
            target: None,
            target_platform: "linux/amd64",
            build_platform: "linux/amd64",
            ignore: None,
            base: &|_| None,
            stages: None,
            options: None,
        };
        check(&parsed.file, &context);
        parse_trigger(&text);
        let understood = !parsed.file.stages.is_empty() || !parsed.diagnostics.is_empty();
        assert!(understood, "{name}: nothing came of it");
    }
}

#[test]
fn expand_seeds() {
    for (name, text) in seeds("expand") {
        let (value, word) = text.split_once('\n').expect("a value and a word");
        let env = BTreeMap::from([
            ("A".to_owned(), value.to_owned()),
            ("B".to_owned(), String::new()),
        ]);
        let mut expanded = 0;
        for escape in ['\\', '`'] {
            expanded += usize::from(expand(word, escape, &env).is_ok());
            let _ = expand_words(word, escape, &env);
            let _ = expand_for_display(word, escape, &env);
        }
        let _ = expand_heredoc(word, &env);
        let broken = name.ends_with("broken") || name.ends_with("defaults");
        assert!(expanded > 0 || broken, "{name}");
    }
}

#[test]
fn ignore_seeds() {
    for (name, text) in seeds("ignore") {
        let (path, file) = text.split_once('\n').expect("a path and a file");
        if let Ok(patterns) = Patterns::parse(file) {
            let result = patterns.matches(path, &patterns.root());
            let below = format!("{path}/x");
            let inside = patterns.matches(&below, &result.for_entries).matched;
            let reincluded = patterns.may_contain_reincluded(path);
            assert!(!result.matched || inside || reincluded, "{name}");
        }
        for line in file.lines() {
            if let Ok(glob) = Glob::new(line) {
                let below = format!("{path}/x");
                assert!(
                    !glob.matches(&below) || glob.may_match_below(path),
                    "{name}"
                );
            }
        }
    }
}
