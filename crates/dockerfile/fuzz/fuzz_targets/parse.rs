//! Any text parses, its diagnostics point into it, and the checks run on what was understood.
#![no_main]

use std::collections::BTreeMap;

use layercake_dockerfile::check::{CheckContext, check};
use layercake_dockerfile::{Source, parse, parse_trigger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Source { name: String::new(), text: text.to_owned() };
    let parsed = parse(&source);
    for diagnostic in &parsed.diagnostics {
        assert!(text.get(diagnostic.span.start..diagnostic.span.end).is_some());
    }
    let build_args = BTreeMap::new();
    let context = CheckContext {
        build_args: &build_args,
        target: None,
        target_platform: "linux/amd64",
        build_platform: "linux/amd64",
        ignore: None,
        base: &|_| None,
        stages: None,
        options: None,
    };
    check(&parsed.file, &context);
    parse_trigger(text);
});
