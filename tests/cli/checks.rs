//! Build checks in builds and on their own, `--call`, `inspect`, `--annotation`.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Env, Said, layercake};

const WARNED: &str = "FROM scratch AS Base\nMAINTAINER me\nCOPY a /\n";

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {}", said.stdout))
}

fn ask(env: &Env, flags: &[&str]) -> Said {
    env.build_to(flags)
}

fn inspect(env: &Env, flags: &[&str]) -> Said {
    let mut command = layercake();
    command.arg("inspect").args(flags);
    command.arg(env.context().join("Dockerfile"));
    env.said(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_build_ends_with_its_warnings() {
    let env = Env::bare();
    env.write("a", "x");
    env.dockerfile(WARNED);
    env.build(&[])
        .success()
        .says(" 2 warnings found (use --check to see where and why):")
        .says("\n - StageNameCasing: Stage name 'Base' should be lowercase (line 1)")
        .says("\n - MaintainerDeprecated: ");
    env.build(&["--quiet"]).success().does_not_say("warning");
    env.dockerfile(&format!("# check=skip=all\n{WARNED}"));
    env.build(&[]).success().does_not_say("warning");
}

#[test]
fn error_true_fails_the_build_before_it_starts() {
    let env = Env::bare();
    env.write("a", "x");
    env.dockerfile(&format!("# check=error=true\n{WARNED}"));
    env.build(&[])
        .failure(3)
        .says("lint violation found for rules: StageNameCasing, MaintainerDeprecated")
        .does_not_say("DONE");
    env.dockerfile(WARNED);
    let options = |text: &str| format!("BUILDKIT_DOCKERFILE_CHECK={text}");
    let strict = options("skip=StageNameCasing;error=true");
    env.build(&["--build-arg", &strict])
        .failure(3)
        .says("for rules: MaintainerDeprecated");
    env.build(&["--build-arg", &options("skip=all;error=true")])
        .success();
    env.build(&["--build-arg", &options("what")])
        .failure(2)
        .says("BUILDKIT_DOCKERFILE_CHECK");
}

#[test]
fn a_copy_of_an_ignored_file_is_warned_of_with_the_line_that_hides_it() {
    let env = Env::bare();
    env.write(".dockerignore", "# no secrets\nsecret*\n");
    env.dockerfile("FROM scratch\nCOPY secret.txt /\n");
    let said = ask(&env, &["--check"]).failure(1);
    for part in ["CopyIgnoredFile", "line 2 of the ignore file", "secret*"] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
}

#[test]
fn check_shows_each_warning_in_its_place_and_says_so_with_its_status() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nMAINTAINER me\n");
    let said = ask(&env, &["--check"]).failure(1);
    let want = "\
Check complete, 1 warning has been found!

WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
Maintainer instruction is deprecated in favor of using label
Dockerfile:2
--------------------
   1 |     FROM scratch
   2 | >>> MAINTAINER me
   3 |     
--------------------
help: write LABEL org.opencontainers.image.authors=\"me\"
";
    assert_eq!(said.stdout, want);
    ask(&env, &["--call=check,ignorestatus=true"]).success();
    env.dockerfile("FROM scratch\n");
    let said = ask(&env, &["--check"]).success();
    assert_eq!(said.stdout, "Check complete, no warnings found.\n");
}

#[test]
fn check_looks_at_all_stages_unless_told_which() {
    let env = Env::bare();
    env.dockerfile("FROM scratch AS a\nWORKDIR x\nFROM scratch AS b\nCMD x\n");
    let rules = |flags: &[&str]| -> Vec<String> {
        let said = ask(&env, &[&["--call=check,format=json"], flags].concat());
        let names = json(&said)["warnings"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let name = |warning: &Value| warning["ruleName"].as_str().unwrap().to_owned();
        names.iter().map(name).collect()
    };
    assert_eq!(rules(&[]), ["WorkdirRelativePath", "JSONArgsRecommended"]);
    assert_eq!(rules(&["--target", "b"]), ["JSONArgsRecommended"]);
}

#[test]
fn check_as_json_is_that_of_buildx() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nMAINTAINER \\\n me\n");
    let said = ask(&env, &["--call=check,format=json"]).failure(1);
    let line = |line: u32| json!({"start": {"line": line}, "end": {"line": line}});
    let want = json!({
        "warnings": [{
            "ruleName": "MaintainerDeprecated",
            "description": "The MAINTAINER instruction is deprecated, use a label instead to \
                            define an image author",
            "url": "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
            "detail": "Maintainer instruction is deprecated in favor of using label",
            "location": {"ranges": [line(2), line(3)]},
        }],
        "sources": [{
            "filename": "Dockerfile",
            "data": "RlJPTSBzY3JhdGNoCk1BSU5UQUlORVIgXAogbWUK",
            "language": "Dockerfile",
        }],
    });
    assert_eq!(json(&said), want);
    env.dockerfile("FROM scratch\nRUNN x\n");
    let said = ask(&env, &["--call=check,format=json"]).failure(1);
    let error = &json(&said)["buildError"];
    assert_eq!(error["location"]["ranges"], json!([line(2)]));
    assert!(
        error["message"].as_str().unwrap().contains("RUNN"),
        "{error}"
    );
}

#[test]
fn targets_and_outline_as_buildx_prints_them() {
    let env = Env::bare();
    env.dockerfile(
        "# VERSION of it all\nARG VERSION=1\n# base has the tools\nFROM scratch AS base\n\
         ARG VERSION\nFROM base\nARG TOP\nRUN --mount=type=secret,id=key,required true\n",
    );
    let targets = ask(&env, &["--call=targets"]).success();
    assert_eq!(
        targets.stdout,
        "TARGET    DESCRIPTION\nbase      has the tools\n(default) \n"
    );
    let outline = ask(&env, &["--call=outline"]).success();
    let want = "\
BUILD ARG   VALUE   DESCRIPTION
VERSION     1       of it all
TOP                 

SECRET   REQUIRED
key      true

";
    assert_eq!(outline.stdout.trim_end(), want.trim_end());
    let outline = ask(&env, &["--call=outline,format=json", "--target", "base"]).success();
    let found = json(&outline);
    assert_eq!(found["name"], "base");
    assert_eq!(found["args"][0]["value"], "1");
    let targets = json(&ask(&env, &["--call=targets,format=json"]).success());
    assert_eq!(targets["targets"][1]["default"], true);
    assert!(targets["sources"][0].is_string());
    ask(&env, &["--call=convertllb"])
        .failure(2)
        .says("convertllb")
        .says("outline");
}

#[test]
fn inspect_says_what_a_file_needs() {
    let env = Env::bare();
    env.dockerfile(
        "FROM alpine:3 AS build\nRUN make\nFROM scratch AS spare\nFROM scratch\n\
         COPY --from=build /a /\nMAINTAINER me\n",
    );
    let report = json(&inspect(&env, &["--format", "json"]).success());
    assert_eq!(report["ok"], true);
    assert_eq!(report["needed_stages"], json!([0, 2]));
    assert_eq!(
        report["needed_images"],
        json!(["docker.io/library/alpine:3"])
    );
    assert_eq!(report["warnings"][0]["rule"], "MaintainerDeprecated");
    assert_eq!(report["warnings"][0]["lines"], json!([6]));
    let text = inspect(&env, &[]).success().stdout;
    let want = "\
stage 2 (line 4, 2 instructions)
└─ copies (line 5) from stage build (line 1, 1 instruction)
   └─ from image docker.io/library/alpine:3

not needed
  stage spare (line 3, 0 instructions)
";
    assert!(text.starts_with(want), "{text}");
}

#[test]
fn inspect_tells_every_error_with_its_place_and_succeeds() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nRUNN x\nCOPY --form=a b c\n");
    let report = json(&inspect(&env, &["--format=json"]).success());
    assert_eq!(report["ok"], false);
    assert_eq!(report["error"]["line"], 2);
    let found = report["diagnostics"].as_array().unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1]["severity"], "error");
    assert_eq!(found[1]["help"], "did you mean --from?");
    assert_eq!(found[1]["span"]["from"], json!({"line": 3, "column": 6}));
    let text = inspect(&env, &[]).success().stdout;
    assert!(text.contains("= help: did you mean RUN?"), "{text}");
}

#[test]
fn annotations_are_in_the_manifest_or_its_descriptor() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\n");
    let flags = [
        "--annotation",
        "a=1",
        "--annotation",
        "manifest-descriptor:b=2",
    ];
    env.build(&flags).success();
    assert_eq!(env.image().manifest["annotations"], json!({"a": "1"}));
    let index = std::fs::read_to_string(env.path("out/index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["manifests"][0]["annotations"]["b"], "2");
    env.build(&["--annotation", "index:a=1"])
        .failure(2)
        .says("no index");
}

#[test]
fn build_arguments_for_the_builder_are_honoured_or_refused() {
    let env = Env::bare();
    env.dockerfile("# syntax=someone/else:1\nFROM scratch\n");
    env.build(&[]).failure(3).says("someone/else:1");
    let own = "BUILDKIT_SYNTAX=docker/dockerfile:1";
    env.build(&["--build-arg", own]).success();
    env.dockerfile("FROM scratch\n");
    env.build(&["--build-arg", "BUILDKIT_INLINE_CACHE=1"])
        .failure(3)
        .says("BUILDKIT_INLINE_CACHE");
}
