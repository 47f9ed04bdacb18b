//! `.dockerignore` (rules I01-I08), and the same patterns in `COPY --exclude` (rule C30) and
//! `COPY --parents` (rule C32).

mod pattern;

use crate::glob::Glob;
use crate::lines::{BOM, MAX_LINE_BYTES};
use crate::path::clean;
use pattern::Matcher;

/// A list of patterns; later ones win (rule I04).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    rules: Vec<Rule>,
    has_exceptions: bool,
}

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The line of the file, from 1; for a list of patterns, its place in the list.
    pub line: u32,
    /// As written, blanks at the ends removed.
    pub text: String,
    /// The cleaned path without `!`.
    pub pattern: String,
    /// It begins with `!`: what it matches is not ignored after all.
    pub exception: bool,
    matcher: Matcher,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error("line {line}: illegal exclusion pattern: \"!\"")]
    LoneException { line: u32 },
    #[error("line {line}: syntax error in pattern {pattern:?}")]
    Malformed { line: u32, pattern: String },
    #[error("line {line} is longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong { line: u32 },
}

/// Which rules matched a directory: what its entries need to know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParentMatches(Vec<bool>);

/// What the patterns say of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Ignored (`.dockerignore`, `--exclude`) or chosen (`--parents`).
    pub matched: bool,
    /// Index of the rule that decided, `None` when none matched.
    pub rule: Option<usize>,
    /// Pass it for the entries of this path when it is a directory.
    pub for_entries: ParentMatches,
}

impl Patterns {
    /// Reads the text of a `.dockerignore` file (rule I02).
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(BOM).unwrap_or(text);
        let mut patterns = Self::default();
        for (line, written) in (1..).zip(text.lines()) {
            if written.len() > MAX_LINE_BYTES {
                return Err(IgnoreError::LineTooLong { line });
            }
            // A comment only in the first column, before blanks are trimmed.
            let trimmed = written.trim();
            if written.starts_with('#') || trimmed.is_empty() {
                continue;
            }
            let (mark, path) = match trimmed.strip_prefix('!') {
                Some(path) => ("!", path.trim()),
                None => ("", trimmed),
            };
            let mut path = if path.is_empty() {
                String::new()
            } else {
                clean(path)
            };
            if path.len() > 1 && path.starts_with('/') {
                path.remove(0);
            }
            patterns.push(line, trimmed, &format!("{mark}{path}"))?;
        }
        Ok(patterns)
    }

    /// Patterns one by one, as `--exclude` gives them: a leading `/` stays and matches nothing.
    pub fn from_list<'a>(list: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let mut patterns = Self::default();
        for (line, written) in (1..).zip(list) {
            let trimmed = written.trim();
            if !trimmed.is_empty() {
                patterns.push(line, trimmed, trimmed)?;
            }
        }
        Ok(patterns)
    }

    fn push(&mut self, line: u32, written: &str, pattern: &str) -> Result<(), IgnoreError> {
        let cleaned = clean(pattern.trim());
        let (exception, pattern) = match cleaned.strip_prefix('!') {
            Some("") => return Err(IgnoreError::LoneException { line }),
            Some(pattern) => (true, pattern),
            None => (false, cleaned.as_str()),
        };
        let malformed = || IgnoreError::Malformed {
            line,
            pattern: written.to_owned(),
        };
        // The reference checks the syntax of a glob and then compiles something else.
        Glob::new(pattern).map_err(|_| malformed())?;
        let matcher = Matcher::new(pattern).map_err(|_| malformed())?;
        self.has_exceptions |= exception;
        let rule = Rule {
            line,
            text: written.to_owned(),
            pattern: pattern.to_owned(),
            exception,
            matcher,
        };
        self.rules.push(rule);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// In the order of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether any rule begins with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Matches an entry of a directory whose own result is `parent`; for an entry of the root pass
    /// [`Patterns::root`].
    ///
    /// `path` is relative to the root, without `/` at its ends. A rule that matched the directory
    /// matches all below it (rule I05).
    pub fn matches(&self, path: &str, parent: &ParentMatches) -> Match {
        let mut result = Match {
            matched: false,
            rule: None,
            for_entries: self.root(),
        };
        for (index, rule) in self.rules.iter().enumerate() {
            let inherited = parent.0.get(index).copied().unwrap_or(false);
            // A rule that cannot change the result is not looked at, and counts as unmatched for
            // the entries below too; the reference's corner.
            if !inherited && (rule.exception != result.matched || !rule.matcher.matches(path)) {
                continue;
            }
            result.for_entries.0[index] = true;
            result.matched = !rule.exception;
            result.rule = Some(index);
        }
        result
    }

    /// What entries of the root pass as their parent's result: no rule matched it (rule I08).
    pub fn root(&self) -> ParentMatches {
        ParentMatches(vec![false; self.rules.len()])
    }

    /// Matches a path without a walk: each rule against the path and the directories above it.
    pub fn matches_alone(&self, path: &str) -> Match {
        let mut result = Match {
            matched: false,
            rule: None,
            for_entries: self.root(),
        };
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.exception != result.matched {
                continue;
            }
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            if rule.matcher.matches(path)
                || above.into_iter().any(|parent| rule.matcher.matches(parent))
            {
                result.for_entries.0[index] = true;
                result.matched = !rule.exception;
                result.rule = Some(index);
            }
        }
        result
    }

    /// Whether an ignored `directory` must be walked all the same, because a `!` rule may match
    /// something below it (rules I04, C31).
    pub fn may_contain_reincluded(&self, directory: &str) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.exception && rule.matcher.may_match_below(directory))
    }

    /// Whether a rule without `!` may match something below `directory`: for `--parents`, whose
    /// patterns choose.
    pub fn may_match_below(&self, directory: &str) -> bool {
        self.rules
            .iter()
            .any(|rule| !rule.exception && rule.matcher.may_match_below(directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks to `path` as a directory walk would.
    fn ignored(patterns: &Patterns, path: &str) -> bool {
        let mut parent = patterns.root();
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        let mut matched = false;
        for end in ends {
            let result = patterns.matches(&path[..end], &parent);
            matched = result.matched;
            parent = result.for_entries;
        }
        matched
    }

    #[test]
    fn i02_lines() {
        let text = "\u{feff}# no\n #yes\n\n  /a/b/ \n! /c\n./d/../e\n";
        let patterns = Patterns::parse(text).expect("good");
        let rules: Vec<_> = patterns
            .rules()
            .iter()
            .map(|rule| (rule.line, rule.exception, rule.pattern.as_str()))
            .collect();
        assert_eq!(
            rules,
            [
                (2, false, "#yes"),
                (4, false, "a/b"),
                (5, true, "c"),
                (6, false, "e")
            ]
        );
    }

    #[test]
    fn i03_bad_patterns_are_errors() {
        for text in ["!", "a\n! ", "[", "a[b", "[]a]", "!/", "a\\q"] {
            assert!(Patterns::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Patterns::parse("a\n!"),
            Err(IgnoreError::LoneException { line: 2 })
        );
    }

    #[test]
    fn i04_to_i08_matching() {
        // Patterns, separated by blanks; ignored paths; paths that stay.
        let cases: [(&str, &[&str], &[&str]); 26] = [
            ("a", &["a", "a/b", "a/b/c"], &["ab", "b/a"]),
            ("*", &["a", "a/b", ".x"], &[]),
            ("**", &["a", "a/b"], &[]),
            (".", &[], &["a", "a/b"]),
            ("/", &[], &["a"]),
            ("*.md !README.md", &["x.md"], &["README.md", "a/x.md"]),
            (
                "*.md !README*.md README-secret.md",
                &["README-secret.md", "x.md"],
                &["README.md"],
            ),
            (
                "d !d/keep",
                &["d", "d/x", "d/keep2"],
                &["d/keep", "d/keep/x"],
            ),
            ("!d/keep d", &["d/keep"], &[]),
            ("**/x", &["x", "a/x", "a/b/x", "x/y"], &["ax", "xa"]),
            ("**x", &["x", "ax", "a/bx"], &["xa"]),
            ("a/**", &["a/b", "a/b/c"], &["a", "ab"]),
            ("a**", &["a", "ab", "a/b"], &["ba"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a/bx", "a"]),
            ("**/a/**", &["a/b", "x/a/b"], &["a", "x/a"]),
            ("**/*.go", &["x.go", "a/x.go"], &["x.gox"]),
            ("a?c", &["abc"], &["a/c", "ac"]),
            ("[a-c]x", &["ax", "bx"], &["dx"]),
            ("[^a]x", &["bx"], &["ax"]),
            ("[!a]x", &["!x", "ax"], &["bx"]),
            ("a\\*b", &["a*b"], &["axb"]),
            ("a\\db*", &["a1b", "a2bx"], &["adb"]),
            ("a.b*", &["a.b", "a.bc"], &["axb"]),
            ("(a|b)+*", &["(a|b)+", "(a|b)+c"], &["a", "b"]),
            ("a^b*", &[], &["a^b", "a^bc"]),
            (
                "* !src !src/**/*.c src/skip",
                &["a", "src/skip", "src/skip/x"],
                &["src", "src/a.c", "src/x/y.c", "src/h"],
            ),
        ];
        for (text, yes, no) in cases {
            let patterns = Patterns::parse(&text.replace(' ', "\n")).expect(text);
            for path in yes {
                assert!(ignored(&patterns, path), "{text} should ignore {path}");
            }
            for path in no {
                assert!(!ignored(&patterns, path), "{text} should keep {path}");
            }
        }
    }

    #[test]
    fn i05_a_path_alone_is_matched_with_its_parents() {
        let patterns = Patterns::parse("a\n!a/b\n").expect("good");
        let alone = |path: &str| patterns.matches_alone(path).matched;
        assert!(alone("a") && alone("a/x/y") && !alone("a/b") && !alone("a/b/c") && !alone("z"));
        assert_eq!(patterns.matches_alone("a/b").rule, Some(1));
    }

    #[test]
    fn c31_ignored_directories_with_exceptions_below_are_walked() {
        let cases = [
            ("d\n!d/keep", "d", true),
            ("d\n!d/keep", "d/x", false),
            ("*\n!a/*/c", "a/b", true),
            ("*\n!a/*/c", "b", false),
            ("*\n!**/c", "b/x", true),
            ("*\n!a/**", "a", true),
            ("*\n!a/**", "b", false),
            ("*\n!a", "a", false),
            ("*", "a", false),
        ];
        for (text, directory, want) in cases {
            let patterns = Patterns::parse(text).expect(text);
            assert_eq!(
                patterns.may_contain_reincluded(directory),
                want,
                "{text:?} {directory}"
            );
        }
    }

    #[test]
    fn c30_list_keeps_a_leading_slash() {
        let patterns = Patterns::from_list(["/a", " ", "b"]).expect("good");
        assert!(!ignored(&patterns, "a"));
        assert!(ignored(&patterns, "b"));
        assert_eq!(patterns.rules()[1].line, 3);
    }

    #[test]
    fn c32_chosen_paths() {
        let patterns = Patterns::from_list(["a/**/x"]).expect("good");
        assert!(ignored(&patterns, "a/b/x") && ignored(&patterns, "a/x/y"));
        assert!(patterns.may_match_below("a/b") && !patterns.may_match_below("b"));
    }
}
