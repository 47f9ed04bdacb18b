//! Every build check on a file that breaks it and on one that does not.

use std::collections::{BTreeMap, BTreeSet};

use layercake_dockerfile::check::{
    BaseImage, CheckContext, Checked, RULES, check, parse_options, rule,
};
use layercake_dockerfile::ignore::Patterns;
use layercake_dockerfile::{Source, parse};

static NO_ARGUMENTS: BTreeMap<String, String> = BTreeMap::new();

fn run_with<'a>(text: &str, adjust: impl FnOnce(&mut CheckContext<'a>)) -> Checked {
    let source = Source {
        name: "Dockerfile".to_owned(),
        text: text.to_owned(),
    };
    let parsed = parse(&source);
    assert!(!parsed.has_errors(), "{text}: {:?}", parsed.diagnostics);
    let mut context = CheckContext {
        build_args: &NO_ARGUMENTS,
        target: None,
        target_platform: "linux/amd64",
        build_platform: "linux/amd64",
        ignore: None,
        base: &|_| None,
        stages: None,
        options: None,
    };
    adjust(&mut context);
    check(&parsed.file, &context)
}

fn fired(checked: &Checked) -> Vec<(&'static str, u32)> {
    checked
        .warnings
        .iter()
        .map(|warning| (warning.rule.expect("a rule"), warning.lines.first))
        .collect()
}

fn run(text: &str) -> Vec<(&'static str, u32)> {
    let checked = run_with(text, |_| {});
    assert_eq!(checked.stopped, None, "{text}");
    fired(&checked)
}

/// A rule, a file that breaks it and the lines told, a file that does not.
const CASES: &[(&str, &str, &[u32], &str)] = &[
    ("StageNameCasing", "FROM a AS Base", &[1], "FROM a AS base"),
    (
        "FromAsCasing",
        "FROM a as b\nFROM a AS c",
        &[1],
        "FROM a AS b",
    ),
    (
        "NoEmptyContinuation",
        "FROM a\nRUN x \\\n\n  y",
        &[4],
        "FROM a\nRUN x \\\n# c\n  y",
    ),
    (
        "ConsistentInstructionCasing",
        "FROM a\nRUN x\nrun y\nRuN z",
        &[3, 4],
        "from a\nrun x",
    ),
    (
        "DuplicateStageName",
        "FROM a AS x\nFROM b AS x",
        &[2],
        "FROM a AS x\nFROM b AS y",
    ),
    (
        "ReservedStageName",
        "FROM a AS scratch\nFROM a AS context",
        &[1, 2],
        "FROM scratch",
    ),
    (
        "JSONArgsRecommended",
        "FROM a\nCMD x\nENTRYPOINT y",
        &[2, 3],
        "FROM a\nSHELL [\"sh\"]\nCMD x\nENTRYPOINT [\"y\"]",
    ),
    (
        "MaintainerDeprecated",
        "FROM a\nMAINTAINER x",
        &[2],
        "FROM a\nLABEL maintainer=x",
    ),
    (
        "UndefinedArgInFrom",
        "ARG VARIANT\nFROM a:x${VARIENT}",
        &[2],
        "ARG V=1\nFROM a:$V$TARGETARCH",
    ),
    (
        "WorkdirRelativePath",
        "FROM a\nWORKDIR x\nWORKDIR y",
        &[2],
        "FROM a\nWORKDIR /x\nWORKDIR y",
    ),
    (
        "UndefinedVar",
        "FROM a\nCOPY $X /$Y",
        &[2, 2],
        "FROM a\nARG X\nENV Y=1\nCOPY $X$PATH /$Y",
    ),
    (
        "MultipleInstructionsDisallowed",
        "FROM a\nCMD [\"a\"]\nCMD [\"b\"]\nCMD [\"c\"]",
        &[2, 3],
        "FROM a AS b\nCMD [\"a\"]\nFROM b\nCMD [\"b\"]",
    ),
    (
        "LegacyKeyValueFormat",
        "FROM a\nENV x y\nLABEL x y z",
        &[2, 3],
        "FROM a\nENV x=y\nLABEL x=y",
    ),
    (
        "RedundantTargetPlatform",
        "FROM --platform=${TARGETPLATFORM} a",
        &[1],
        "FROM --platform=$BUILDPLATFORM a",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "FROM a\nARG API_KEY\nENV token=x",
        &[2, 3],
        "FROM a\nARG KEYS\nENV TOKEN_FILE=/x PUBLIC_KEY=y",
    ),
    (
        "InvalidDefaultArgInFrom",
        "ARG T\nFROM busybox:$T",
        &[2],
        "ARG T=1\nFROM busybox:$T",
    ),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/arm64 a AS b",
        &[1],
        "FROM --platform=linux/arm64 a AS build-arm64",
    ),
    (
        "ExposeProtoCasing",
        "FROM a\nEXPOSE 80/TcP",
        &[2],
        "FROM a\nEXPOSE 80/tcp 81",
    ),
    (
        "ExposeInvalidFormat",
        "FROM a\nEXPOSE 127.0.0.1:80:80 5000:81",
        &[2, 2],
        "FROM a\nEXPOSE 80 81",
    ),
];

#[test]
fn each_rule_has_a_bad_and_a_good_file() {
    let mut tested: BTreeSet<&str> = [
        "InvalidBaseImagePlatform",
        "CopyIgnoredFile",
        "InvalidDefinitionDescription",
    ]
    .into();
    for (name, bad, lines, good) in CASES {
        let want: Vec<_> = lines.iter().map(|line| (*name, *line)).collect();
        assert_eq!(run(bad), want, "{name}: {bad}");
        assert_eq!(run(good), [], "{name}: {good}");
        tested.insert(name);
    }
    assert_eq!(tested, RULES.iter().map(|rule| rule.name).collect());
    assert_eq!(RULES.len(), 22);
}

#[test]
fn copy_ignored_file() {
    let ignored = |ignore: &str, text: &str| {
        let patterns = Patterns::parse(ignore).expect("good patterns");
        let checked = run_with(text, |context| context.ignore = Some(&patterns));
        checked
            .warnings
            .into_iter()
            .map(|warning| (warning.message, warning.help.unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let text = "FROM a\nCOPY ./x/y.log z /d/";
    assert_eq!(
        ignored("# c\n*/*.log\n", text),
        [(
            "Attempting to Copy file \"x/y.log\" that is excluded by .dockerignore".to_owned(),
            "line 2 of the ignore file excludes it: */*.log".to_owned()
        )]
    );
    assert_eq!(
        ignored("x", "FROM a\nADD x /x\nADD https://x/y git@x:y /d/").len(),
        1
    );
    assert_eq!(ignored("x\n!x/y.log", text), []);
    assert_eq!(ignored("x", "FROM a\nCOPY --from=b x /x"), []);
    assert_eq!(ignored("x", "FROM a\nCOPY . /x\nCOPY <<x /y\nx"), []);
    assert_eq!(ignored("*", "FROM a\nCOPY . /x").len(), 1);
}

#[test]
fn definition_descriptions_are_experimental() {
    let text = "# nothing of the kind\nARG X=1\n# X is it\nARG X=1\n# free\n#\nARG Y=1\n# other\nFROM a AS b\n";
    assert_eq!(run(text), []);
    let name = "InvalidDefinitionDescription";
    for options in [
        "experimental=all",
        "experimental=InvalidDefinitionDescription",
    ] {
        assert_eq!(
            run(&format!("# check={options}\n#\n{text}")),
            [(name, 4), (name, 11)]
        );
    }
}

#[test]
fn base_images_bring_variables_shell_triggers_and_platform() {
    let image = || BaseImage {
        env: vec![("X".to_owned(), "1".to_owned())],
        has_shell: true,
        onbuild: vec!["COPY $UNSET /a".to_owned(), "ARG Y=1".to_owned()],
        platform: Some("linux/arm64".to_owned()),
    };
    let text = "FROM a\nCMD x\nCOPY $X /$Y\nFROM scratch\nCMD y\n";
    let base = |stage: usize| (stage == 0).then(image);
    let checked = run_with(text, |context| context.base = &base);
    assert_eq!(
        fired(&checked),
        [
            ("InvalidBaseImagePlatform", 1),
            ("UndefinedVar", 1),
            ("JSONArgsRecommended", 5)
        ]
    );
}

#[test]
fn a09_a_stage_inherits_from_the_stage_below() {
    let text = "FROM a AS b\nARG X\nENV Y=1\nWORKDIR /w\nSHELL [\"s\"]\nONBUILD COPY $Z /\nFROM b\nWORKDIR x\nCOPY $X$Y /\nCMD z\nFROM a\nCOPY $X /\n";
    assert_eq!(run(text), [("UndefinedVar", 7), ("UndefinedVar", 12)]);
}

#[test]
fn s07_only_the_stages_asked_for_are_evaluated() {
    let text = "FROM a AS b\nCMD x\nFROM a\nCMD y\n";
    let checked = run_with(text, |context| context.stages = Some(&[1]));
    assert_eq!(fired(&checked), [("JSONArgsRecommended", 4)]);
}

#[test]
fn skipping() {
    assert_eq!(run("# check=skip=JSONArgsRecommended\nFROM a\nCMD x"), []);
    assert_eq!(run("# check=skip=all\nFROM a AS B\nCMD x"), []);
    assert_eq!(
        run("FROM a\n# check=skip=JSONArgsRecommended\nCMD x\nENTRYPOINT y"),
        [("JSONArgsRecommended", 4)]
    );
    assert_eq!(run("FROM a\n# check=skip=all\nCMD x\n"), []);
    assert_eq!(run("# check=skip=StageNameCasing\nFROM a AS B"), []);
    let options = parse_options("skip=StageNameCasing;error=true").expect("good");
    let checked = run_with("# check=skip=all\nFROM a AS B\nCMD x\nCMD y", |context| {
        context.options = Some(&options);
    });
    assert_eq!(
        checked.failed_rules,
        ["JSONArgsRecommended", "MultipleInstructionsDisallowed"]
    );
    assert!(parse_options("nope").is_err());
}

#[test]
fn evaluation_stops_where_the_build_fails() {
    for (text, message) in [
        (
            "FROM a\nCMD x\nENV X=${Y:?why}\nCMD y",
            "failed to process \"${Y:?why}\": Y: why",
        ),
        ("FROM $X", "base name ($X) should not be blank"),
        (
            "FROM --platform=$X a",
            "empty platform value from expression $X",
        ),
        ("FROM a\nEXPOSE x/foo", "invalid port: \"x/foo\""),
        (
            "FROM a\nRUN --mount=type=$X x",
            "unsupported mount type \"\"",
        ),
    ] {
        let checked = run_with(text, |_| {});
        assert_eq!(checked.stopped.expect(text).message, message);
    }
}

#[test]
fn build_args_count() {
    let arguments = BTreeMap::from([("X".to_owned(), "a".to_owned())]);
    let checked = run_with("ARG X\nFROM $X\nARG X=${Y:?}", |context| {
        context.build_args = &arguments;
    });
    assert_eq!(checked.stopped, None);
    assert_eq!(fired(&checked), [("InvalidDefaultArgInFrom", 2)]);
}

#[test]
fn messages_name_what_was_meant() {
    let checked = run_with("FROM a\nENV NAME=x\nCOPY $NAEM /", |_| {});
    assert_eq!(
        checked.warnings[0].message,
        "Usage of undefined variable '$NAEM' (did you mean $NAME?)"
    );
    let checked = run_with("ARG VERSION=1\nFROM a:1$VERSOIN", |_| {});
    assert_eq!(
        checked.warnings[0].message,
        "FROM argument 'VERSOIN' is not declared (did you mean VERSION?)"
    );
    assert_eq!(
        rule("UndefinedVar").expect("a rule").anchor,
        "undefined-var"
    );
}
