//! Files whose values grow without end are refused while they are still small in memory.

use dockerfile::Source;
use layercake_graph::facts::{Facts, Platform, Selection};
use layercake_graph::lower::{LowerError, lower};

fn errors(text: String) -> Vec<LowerError> {
    let host = Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: None,
    };
    let selection = Selection {
        target_platform: host.clone(),
        build_platform: host,
        ..Selection::default()
    };
    let source = Source {
        name: "Dockerfile".to_owned(),
        text,
    };
    let parsed = dockerfile::parse(&source);
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    lower(&parsed.file, &selection, &Facts::default()).expect_err("refused")
}

/// A value of 512 KiB in `a`, by doubling.
fn half_a_megabyte(keyword: &str) -> String {
    format!("{keyword} a=0123456789abcdef\n") + &format!("{keyword} a=$a$a\n").repeat(15)
}

#[test]
fn one_word_is_bounded() {
    let [error] = &errors(format!("FROM scratch\n{}", "ENV a=x$a$a\n".repeat(64)))[..] else {
        panic!("one error");
    };
    assert!(error.message.contains("1048576"), "{}", error.message);
    assert!(
        error.lines.is_some_and(|lines| lines.first < 30),
        "{error:?}"
    );
}

#[test]
fn all_words_together_are_bounded() {
    let grown = half_a_megabyte("ARG");
    let many = |line: &str| line.repeat(2000);
    for (case, text) in [
        (
            "labels of one instruction",
            format!("FROM scratch\n{grown}LABEL{}", many(" l=$a")),
        ),
        (
            "steps that keep a copy",
            format!("FROM scratch\n{grown}{}", many("RUN true\n")),
        ),
        (
            "stages that inherit",
            format!("FROM scratch AS s0\n{grown}")
                + &(1..2000)
                    .map(|n| format!("FROM s{} AS s{n}\n", n - 1))
                    .collect::<String>(),
        ),
        (
            "global arguments",
            grown.clone()
                + &(0..2000)
                    .map(|n| format!("ARG b{n}=$a\n"))
                    .collect::<String>()
                + "FROM scratch\n",
        ),
    ] {
        let found = errors(text);
        let error = found.first().expect("an error");
        assert!(
            error.message.contains("268435456") || error.message.contains("8388608"),
            "{case}: {}",
            error.message
        );
        assert!(error.help.is_some() && error.lines.is_some(), "{case}");
    }
}

/// Work grows with the size of the file, not with its square.
#[test]
fn many_names_are_no_burden() {
    let lines: String = (0..30_000)
        .map(|n| format!("ENV e{n}=$e{}\nARG a{n}\n", n.max(1) - 1))
        .collect();
    // The only error is the last line's.
    let text = format!("FROM scratch\n{lines}STOPSIGNAL nothing\n");
    let [error] = &errors(text)[..] else {
        panic!("one error");
    };
    assert!(
        error.message.contains("invalid signal"),
        "{}",
        error.message
    );
}
