//! Any ignore file answers for any path: the first line is the path.
#![no_main]

use layercake_dockerfile::glob::Glob;
use layercake_dockerfile::ignore::Patterns;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (path, file) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(patterns) = Patterns::parse(file) {
        let result = patterns.matches(path, &patterns.root());
        let below = format!("{path}/x");
        let inside = patterns.matches(&below, &result.for_entries).matched;
        assert!(!result.matched || inside || patterns.may_contain_reincluded(path));
        patterns.matches_alone(path);
        patterns.may_match_below(path);
    }
    if let Ok(glob) = Glob::new(file) {
        assert!(!glob.matches(&below(path)) || glob.may_match_below(path));
    }
});

fn below(path: &str) -> String {
    format!("{path}/x")
}
