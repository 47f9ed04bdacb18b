//! Vectors for the expansion of words (rules X04-X20, H12).

use std::collections::BTreeMap;

use layercake_dockerfile::word::{
    Empty, ExpandErrorKind, MAX_EXPANDED, MAX_NESTING, expand, expand_for_display, expand_heredoc,
    expand_keeping_unset, expand_tracked, expand_words,
};

fn environment() -> BTreeMap<String, String> {
    [
        ("A", "one"),
        ("B", "two words"),
        ("EMPTY", ""),
        ("PATH_", "/usr/local/lib/x.tar.gz"),
        ("STARS", "a*b*c"),
        ("LINES", "l1\nl2"),
        ("DOLLAR", "$0"),
        ("PORTS", "80 81/udp"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// `None` stands for an error.
fn check(cases: &[(&str, Option<&str>)]) {
    let env = environment();
    for (word, want) in cases {
        let got = expand(word, '\\', &env);
        assert_eq!(got.as_deref().ok(), *want, "{word}: {got:?}");
    }
}

#[test]
fn x05_quotes() {
    check(&[
        ("'$A'", Some("$A")),
        ("\"$A\"", Some("one")),
        ("a'b'\"c\"d", Some("abcd")),
        ("\"a\\\"b\"", Some("a\"b")),
        ("\"a\\$A\"", Some("a$A")),
        ("\"a\\\\b\"", Some("a\\b")),
        ("\"a\\nb\"", Some("a\\nb")),
        ("'a\\'", Some("a\\")),
        ("\"it's\"", Some("it's")),
        ("'", None),
        ("\"", None),
        ("\"a\\", None),
        ("it's", None),
    ]);
}

#[test]
fn x06_escapes_outside_quotes() {
    check(&[
        ("a\\ b", Some("a b")),
        ("\\$A", Some("$A")),
        ("\\\\$A", Some("\\one")),
        ("a\\", Some("a")),
        ("\\*", Some("*")),
        ("\\n", Some("n")),
    ]);
}

#[test]
fn x07_unset_is_empty() {
    check(&[("a$NONE-b", Some("a-b")), ("${NONE}", Some(""))]);
    let env = environment();
    let keep = |word: &str| expand_keeping_unset(word, '\\', &env).expect(word);
    assert_eq!(
        keep("$A $NONE ${NONE} ${NONE:-d} ${NONE%x}"),
        "one $NONE ${NONE} ${NONE:-d} ${NONE%x}"
    );
    assert_eq!(keep("${NONE//a/b} '$A'"), "${NONE/a/b} $A");
    assert_eq!(
        expand_for_display("\"$A\" '$A' $NONE", '\\', &env).expect("good"),
        "\"one\" '$A' $NONE"
    );
}

#[test]
fn x08_x09_x12_defaults() {
    check(&[
        ("${A:-d}", Some("one")),
        ("${NONE:-d}", Some("d")),
        ("${EMPTY:-d}", Some("d")),
        ("${EMPTY-d}", Some("")),
        ("${NONE-d}", Some("d")),
        ("${A:+d}", Some("d")),
        ("${EMPTY:+d}", Some("")),
        ("${EMPTY+d}", Some("d")),
        ("${NONE+d}", Some("")),
        ("${A:?m}", Some("one")),
        ("${EMPTY?m}", Some("")),
        ("${EMPTY:?m}", None),
        ("${NONE?m}", None),
        ("${NONE:-${NONE2:-${A}}}", Some("one")),
        ("${NONE:-'$A}'}", Some("$A}")),
        ("${NONE:-\"a b\"}", Some("a b")),
        ("${NONE:-a\\}b}", Some("a}b")),
        ("${NONE:-}", Some("")),
        ("${NONE:-:}", Some(":")),
    ]);
    let message = |word: &str| {
        expand(word, '\\', &environment())
            .expect_err(word)
            .to_string()
    };
    assert_eq!(
        message("${NONE:?say $A}"),
        "failed to process \"${NONE:?say $A}\": NONE: say one"
    );
    assert_eq!(
        message("${NONE?}"),
        "failed to process \"${NONE?}\": NONE: is not allowed to be unset"
    );
    assert_eq!(
        message("${EMPTY:?}"),
        "failed to process \"${EMPTY:?}\": EMPTY: is not allowed to be empty"
    );
}

#[test]
fn x10_patterns() {
    check(&[
        ("${PATH_#*/}", Some("usr/local/lib/x.tar.gz")),
        ("${PATH_##*/}", Some("x.tar.gz")),
        ("${PATH_%.*}", Some("/usr/local/lib/x.tar")),
        ("${PATH_%%.*}", Some("/usr/local/lib/x")),
        ("${PATH_%/*}", Some("/usr/local/lib")),
        ("${PATH_#/usr}", Some("/local/lib/x.tar.gz")),
        ("${PATH_#nope}", Some("/usr/local/lib/x.tar.gz")),
        ("${PATH_/l*l/-}", Some("/usr/-ib/x.tar.gz")),
        ("${PATH_/\\//-}", Some("-usr/local/lib/x.tar.gz")),
        ("${PATH_//\\//-}", Some("-usr-local-lib-x.tar.gz")),
        ("${PATH_//./}", Some("/usr/local/lib/xtargz")),
        ("${A/?/X}", Some("Xne")),
        ("${A//?/X}", Some("XXX")),
        ("${A/[o]/X}", Some("one")),
        ("${STARS//\\*/-}", Some("a-b-c")),
        ("${STARS%\\**}", Some("a*b")),
        ("${STARS%%\\**}", Some("a")),
        ("${A#}", Some("one")),
        ("${NONE#a}", Some("")),
        ("${A#\\x}", None),
        ("${A##*}", Some("")),
        ("${A#*}", Some("one")),
        ("${A%%*}", Some("")),
        ("${EMPTY//*/x}", Some("x")),
        ("${A//*/x}", Some("x")),
        // Neither wildcard takes a newline.
        ("${LINES##*}", Some("\nl2")),
        ("${LINES#l1?}", Some("l1\nl2")),
    ]);
}

#[test]
fn x11_x18_x20_what_is_refused() {
    check(&[
        ("${A:=x}", None),
        ("${A=x}", None),
        ("${A:#x}", None),
        ("${A:%x}", None),
        ("${A^^}", None),
        ("${A,}", None),
        ("${A@Q}", None),
        ("${A/x}", None),
        ("${A//x}", None),
        ("${}", None),
        ("${:x}", None),
        ("${{x}}", None),
        ("${A", None),
        ("${A:-x", None),
        ("${", None),
        ("$", Some("$")),
        ("a$", Some("a$")),
    ]);
    let kind = |word: &str| expand(word, '\\', &environment()).expect_err(word).kind;
    assert_eq!(
        kind("${A:=x}"),
        ExpandErrorKind::UnsupportedModifier(":=".to_owned())
    );
    assert_eq!(kind("${}"), ExpandErrorKind::BadSubstitution);
    assert_eq!(kind("${A:-x"), ExpandErrorKind::MissingBrace);
    assert_eq!(kind("${A/x}"), ExpandErrorKind::MissingSlash);
}

#[test]
fn x13_special_names() {
    check(&[
        ("$1x", Some("x")),
        ("$12x", Some("x")),
        ("$@$*$#$?$-$$$!", Some("")),
        ("$.x", Some("$.x")),
        ("$ x", Some("$ x")),
        ("$A_", Some("")),
        ("${1}", Some("")),
    ]);
}

#[test]
fn x14_words_are_split_after_expansion() {
    let env = environment();
    let words = |text: &str| expand_words(text, '\\', &env).expect(text);
    assert_eq!(words("$PORTS"), ["80", "81/udp"]);
    assert_eq!(words("\"$PORTS\""), ["80 81/udp"]);
    assert_eq!(words("a\\ b c"), ["a b", "c"]);
    assert_eq!(words("$EMPTY \"\" x"), ["x"]);
    assert_eq!(words("8${A}0"), ["8one0"]);
}

#[test]
fn x15_the_escape_character_is_the_files() {
    let env = environment();
    assert_eq!(expand("a` b\\c`$A", '`', &env).expect("good"), "a b\\c$A");
    assert_eq!(expand("\"`\"\\\"", '`', &env).expect("good"), "\"\\");
}

#[test]
fn x18_replacement_template() {
    check(&[
        // The value's own `$0` is a template with `//`, plain text with `/`.
        ("${A//n/<$DOLLAR>}", Some("o<n>e")),
        ("${A/n/<$DOLLAR>}", Some("o<$0>e")),
        ("${A//n/'$1x'}", Some("oe")),
        ("${A//n/'${1}x'}", Some("oxe")),
        ("${A//n/'${0}${0}'}", Some("onne")),
        ("${A//n/'$$'}", Some("o$e")),
        ("${A//n/'$.'}", Some("o$.e")),
        ("${A//n/'${0'}", Some("o${0e")),
    ]);
}

#[test]
fn x19_words_are_evaluated_eagerly() {
    check(&[("${A:-${NONE:?m}}", None), ("${NONE:+${NONE2?m}}", None)]);
}

#[test]
fn names_that_were_looked_up() {
    let env = environment();
    let expansion = expand_tracked("$A ${NONE:-$B} '$X' ${Y-}", '\\', &env).expect("good");
    assert_eq!(expansion.used.into_iter().collect::<Vec<_>>(), ["A", "B"]);
    assert_eq!(
        expansion.unset.into_iter().collect::<Vec<_>>(),
        ["NONE", "Y"]
    );
    let error = expand_tracked("$X ${NONE?}", '\\', &env).expect_err("required");
    assert_eq!(error.unset.into_iter().collect::<Vec<_>>(), ["NONE", "X"]);
    assert_eq!(error.kind.required_name(), Some("NONE"));
}

#[test]
fn h12_heredoc_bodies() {
    let env = environment();
    let body = |text: &str| expand_heredoc(text, &env).expect(text).value;
    assert_eq!(body("a '$A' \"$B\"\n"), "a 'one' \"two words\"\n");
    assert_eq!(body("\\$A \\\\ \\n it's\n"), "$A \\ n it's\n");
    assert_eq!(body("${NONE:-d} $NONE.\n"), "d .\n");
    assert!(expand_heredoc("${", &env).is_err());
}

#[test]
fn limits() {
    let deep = |depth: usize| format!("{}x{}", "${N:-".repeat(depth), "}".repeat(depth));
    assert_eq!(expand(&deep(MAX_NESTING), '\\', &Empty).expect("deep"), "x");
    assert_eq!(
        expand(&deep(MAX_NESTING + 1), '\\', &Empty)
            .expect_err("too deep")
            .kind,
        ExpandErrorKind::TooDeep
    );
    assert_eq!(
        expand(&deep(100_000), '\\', &Empty)
            .expect_err("too deep")
            .kind,
        ExpandErrorKind::TooDeep
    );

    let env = BTreeMap::from([("BIG".to_owned(), "x".repeat(1 << 20))]);
    assert_eq!(
        expand(&"$BIG".repeat(2), '\\', &env)
            .expect_err("too long")
            .kind,
        ExpandErrorKind::TooLong {
            limit: MAX_EXPANDED
        }
    );
    let pattern = format!("${{BIG%{}}}", "?*".repeat(1 << 10));
    assert_eq!(
        expand(&pattern, '\\', &env).expect_err("too complex").kind,
        ExpandErrorKind::TooComplex
    );
}
