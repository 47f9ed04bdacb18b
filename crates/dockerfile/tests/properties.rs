//! What holds for every input: nothing panics, spans are inside the text, printing and parsing
//! again changes nothing, and size does no harm.

use std::collections::BTreeMap;
use std::fmt::Write;

use layercake_dockerfile::check::{CheckContext, check};
use layercake_dockerfile::glob::Glob;
use layercake_dockerfile::ignore::Patterns;
use layercake_dockerfile::instruction::{
    CopySource, File, Heredoc, Instruction, InstructionKind, Stage,
};
use layercake_dockerfile::word::{expand, expand_for_display, expand_heredoc, expand_words};
use layercake_dockerfile::{Parsed, Source, parse, parse_trigger};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn source(text: &str) -> Source {
    Source {
        name: "Dockerfile".to_owned(),
        text: text.to_owned(),
    }
}

/// Pieces that meet each other in Dockerfiles, and some that should not.
fn dockerfile() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "FROM ",
        "from ",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD ",
        "LABEL ",
        "EXPOSE ",
        "VOLUME ",
        "SHELL ",
        "USER ",
        "WORKDIR ",
        "STOPSIGNAL ",
        "MAINTAINER ",
        "AS ",
        "a",
        "b ",
        "x=1 ",
        "$x",
        "${x:-",
        "${x",
        "}",
        "\"",
        "'",
        "\\",
        "`",
        "\\\n",
        "\\ \n",
        "\n",
        "\r\n",
        "\n\n",
        "#",
        "# c\n",
        "<<EOF",
        "<<-E",
        "EOF\n",
        "E\n",
        "\tE\n",
        "[",
        "]",
        "\"a\", ",
        "--mount=type=cache,",
        "target=/t",
        "--from=",
        "--link ",
        "-- ",
        "--",
        "=",
        ",",
        "/",
        " ",
        "\t",
        "\u{a0}",
        "é",
        "\u{feff}",
        "# escape=`\n",
        "# check=skip=all\n",
        "80/tcp ",
        "%*",
        "//",
        "NONE",
        "&& ",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn word() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "$", "{", "}", "A", "B", "1", ":", "-", "+", "?", "#", "%", "/", "//", "*", "?", "\\", "`",
        "'", "\"", " ", "<", "<<", "é", "\n", "x", "${A", "${B:-", "$A",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn spans_are_inside(parsed: &Parsed, text: &str) {
    let inside = |start: usize, end: usize| text.get(start..end).is_some();
    for diagnostic in &parsed.diagnostics {
        assert!(
            inside(diagnostic.span.start, diagnostic.span.end),
            "{diagnostic:?} in {text:?}"
        );
        assert!(diagnostic.lines.first <= diagnostic.lines.last);
    }
    for stage in &parsed.file.stages {
        assert!(inside(stage.span.start, stage.span.end), "{stage:?}");
        for instruction in &stage.instructions {
            assert!(
                inside(instruction.span.start, instruction.span.end),
                "{instruction:?} in {text:?}"
            );
        }
    }
}

/// Writes a file so that it parses to the same again.
fn print(file: &File) -> String {
    let mut out = format!("# escape={}\n", file.directives.escape);
    for argument in &file.meta_args {
        print_instruction(&mut out, argument);
    }
    for stage in &file.stages {
        writeln!(out, "{}", stage.text).expect("a string");
        for instruction in &stage.instructions {
            print_instruction(&mut out, instruction);
        }
    }
    out
}

fn print_instruction(out: &mut String, instruction: &Instruction) {
    writeln!(out, "{}", instruction.text).expect("a string");
    let kind = match &instruction.kind {
        InstructionKind::Onbuild(onbuild) => match &onbuild.trigger {
            Some(trigger) => &trigger.kind,
            None => &instruction.kind,
        },
        kind => kind,
    };
    let heredocs: Vec<&Heredoc> = match kind {
        InstructionKind::Run(run) => run.heredocs.iter().collect(),
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) => copy
            .sources
            .iter()
            .filter_map(|source| match source {
                CopySource::Heredoc(heredoc) => Some(heredoc),
                CopySource::Path(_) => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    for heredoc in heredocs {
        writeln!(out, "{}{}", heredoc.body_as_written(), heredoc.name).expect("a string");
    }
}

/// Without what printing is meant to lose: places, comments and blanks at the end.
fn without_places(file: &File) -> Vec<String> {
    let stage = |stage: &Stage| {
        format!(
            "{} {:?} {} {:?}",
            stage.keyword, stage.name, stage.base, stage.platform
        )
    };
    let stages = file.stages.iter().flat_map(|each| {
        std::iter::once(stage(each)).chain(each.instructions.iter().map(instruction_without_places))
    });
    file.meta_args
        .iter()
        .map(instruction_without_places)
        .chain(stages)
        .collect()
}

fn instruction_without_places(instruction: &Instruction) -> String {
    let kind = match &instruction.kind {
        InstructionKind::Arg(declarations) => {
            format!(
                "{:?}",
                declarations
                    .iter()
                    .map(|each| (&each.name, &each.default))
                    .collect::<Vec<_>>()
            )
        }
        InstructionKind::Onbuild(onbuild) => {
            format!(
                "{:?} {}",
                onbuild.text.trim_end(),
                onbuild
                    .trigger
                    .as_deref()
                    .map(instruction_without_places)
                    .unwrap_or_default()
            )
        }
        kind => format!("{kind:?}"),
    };
    format!("{} {kind}", instruction.keyword)
}

/// Texts whose last character would continue the line when printed alone, and heredocs in JSON or
/// behind words that `COPY` splits differently, cannot be printed this way.
fn is_printable(file: &File) -> bool {
    let instructions = || {
        file.meta_args
            .iter()
            .chain(file.stages.iter().flat_map(|stage| &stage.instructions))
    };
    let texts = || {
        instructions()
            .map(|each| &each.text)
            .chain(file.stages.iter().map(|stage| &stage.text))
    };
    texts().all(|text| !text.ends_with(file.directives.escape) && !text.starts_with('#'))
        && instructions().all(|each| {
            !each.text.contains("<<")
                || matches!(&each.kind, InstructionKind::Run(run) if run.heredocs.len() < 2)
        })
}

/// A blank that only Unicode knows, at the beginning of what continues an empty line.
#[test]
fn p26_text_of_a_trigger_after_a_no_break_space() {
    let parsed = parse(&source("FROM a\n\\\n\u{a0}ONBUILD RUN x\n"));
    let Some(InstructionKind::Onbuild(onbuild)) =
        parsed.file.stages[0].instructions.first().map(|i| &i.kind)
    else {
        panic!("{parsed:?}");
    };
    assert_eq!(onbuild.text, "RUN x");
}

/// The same inputs in every run, so that a run fails for what was changed. To look for others is
/// what the fuzz targets are for.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_261_120),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text_parses_and_is_checked(text in prop_oneof![dockerfile(), any::<String>()]) {
        let parsed = parse(&source(&text));
        spans_are_inside(&parsed, &text);
        let (_, diagnostics) = parse_trigger(&text);
        for diagnostic in diagnostics {
            prop_assert!(text.get(diagnostic.span.start..diagnostic.span.end).is_some());
        }
        let build_args = BTreeMap::new();
        let context = CheckContext {
            build_args: &build_args, target: None, target_platform: "linux/amd64", build_platform: "linux/amd64",
            ignore: None, base: &|_| None, stages: None, options: None,
        };
        check(&parsed.file, &context);
    }

    #[test]
    fn printing_and_parsing_again_is_stable(text in dockerfile()) {
        let parsed = parse(&source(&format!("FROM a\n{text}")));
        prop_assume!(is_printable(&parsed.file));
        let printed = print(&parsed.file);
        let again = parse(&source(&printed));
        prop_assert_eq!(without_places(&parsed.file), without_places(&again.file), "{}", printed);
    }

    #[test]
    fn any_word_expands_or_fails(text in prop_oneof![word(), any::<String>()], value in word()) {
        let env = BTreeMap::from([("A".to_owned(), value), ("B".to_owned(), String::new())]);
        for escape in ['\\', '`'] {
            let _ = expand(&text, escape, &env);
            let _ = expand_words(&text, escape, &env);
            let _ = expand_for_display(&text, escape, &env);
        }
        let _ = expand_heredoc(&text, &env);
    }

    #[test]
    fn quoted_text_expands_to_itself(text in "[^']*") {
        prop_assert_eq!(expand(&format!("'{text}'"), '\\', &BTreeMap::new()), Ok(text));
    }

    #[test]
    fn any_ignore_file_answers(text in "([a-z!*?/\\[\\]\\\\.# -]|\n){0,40}", path in "[a-z./]{1,20}") {
        let Ok(patterns) = Patterns::parse(&text) else { return Ok(()) };
        let result = patterns.matches(&path, &patterns.root());
        prop_assert_eq!(result.matched, result.rule.is_some_and(|rule| !patterns.rules()[rule].exception));
        patterns.matches_alone(&path);
        // A directory that is not worth walking has nothing below it that is taken back.
        let below = format!("{path}/x");
        if result.matched && !patterns.may_contain_reincluded(&path) {
            prop_assert!(patterns.matches(&below, &result.for_entries).matched, "{} {}", text, path);
        }
    }

    #[test]
    fn a_glob_matches_its_own_literal_text(text in "[a-z/.]{0,20}") {
        prop_assert!(Glob::new(&text).is_ok_and(|glob| glob.matches(&text)));
    }
}

#[test]
fn a_dockerfile_of_ten_megabytes() {
    let text = format!(
        "FROM a\nRUN {}true\n",
        "echo some words of a command && \\\n".repeat(300_000)
    );
    assert!(text.len() > 10_000_000);
    let parsed = parse(&source(&text));
    assert!(!parsed.has_errors());
    assert_eq!(parsed.file.stages[0].instructions[0].lines.last, 300_002);
}

#[test]
fn a_dockerfile_of_a_hundred_thousand_lines() {
    let lines = [
        "RUN echo $x <<EOF\nbody\nEOF\n",
        "ENV a=\"b c\" d=$e\n",
        "COPY --chown=1:2 [\"a\", \"b\"]\n",
        "# note\n",
    ];
    let text = format!("FROM a\n{}", lines.concat().repeat(17_000));
    let parsed = parse(&source(&text));
    assert!(!parsed.has_errors());
    assert_eq!(parsed.file.stages[0].instructions.len(), 51_000);
}

#[test]
fn pathological_inputs_end() {
    for text in [
        "FROM a\nRUN ".to_owned() + &"\\\n".repeat(500_000),
        "FROM a\n".to_owned() + &"x\n".repeat(200_000),
        "FROM a\nCMD ".to_owned() + &"[".repeat(60_000),
        "FROM a\n".to_owned() + &"RUN <<A\nA\n".repeat(100_000),
        "FROM a\nRUN ".to_owned() + &"<<A ".repeat(16_000) + "\n" + &"A\n".repeat(16_000),
        "# c\n".repeat(200_000) + "FROM a\n",
        "FROM a\nENV ".to_owned() + &"a=b ".repeat(16_000),
        "FROM a\nCOPY ".to_owned() + &"${a:-".repeat(12_000) + "<<x y\n",
    ] {
        parse(&source(&text));
    }
    let stars = Patterns::parse(&"*?".repeat(10_000)).expect("good");
    assert!(stars.matches_alone(&"x".repeat(20_000)).matched);
}
