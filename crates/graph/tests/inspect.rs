//! The report on a file: stages, targets, outline; and that there is one for any text.

use std::fs;
use std::path::Path;

use dockerfile::{Parsed, Source};
use layercake_graph::facts::{Facts, Platform, Selection};
use layercake_graph::inspect::inspect;
use layercake_graph::lower::needs;
use layercake_graph::outline;
use serde_json::json;

fn parse(text: &str) -> Parsed {
    dockerfile::parse(&Source {
        name: "Dockerfile".to_owned(),
        text: text.to_owned(),
    })
}

fn selection() -> Selection {
    let host = Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: None,
    };
    Selection {
        target_platform: host.clone(),
        build_platform: host,
        ..Selection::default()
    }
}

#[test]
fn p30_targets_and_outline() {
    let parsed = parse(
        "# base the image to begin with\n\
         ARG base=alpine:3.9\n\
         ARG unused\n\
         # build compiles\n\
         FROM --platform=$BUILDPLATFORM $base AS build\n\
         ARG jobs\n\
         RUN --mount=type=secret,id=token,required \\\n  --mount=type=ssh make\n\
         FROM scratch\n\
         ARG base\n\
         ARG TARGETARCH\n\
         COPY --from=build /out /\n",
    );
    let inspection = inspect(&parsed, &selection());
    let report = serde_json::to_value(&inspection).unwrap();
    let lines = |lines: &[u32]| {
        let range = |line: &u32| json!({"start": {"line": line}, "end": {"line": line}});
        json!({"ranges": lines.iter().map(range).collect::<Vec<_>>()})
    };
    let expected = json!({
        "ok": true,
        "error": null,
        "meta_args": ["base", "unused"],
        "stages": [
            {"name": "build", "base_name": "$base", "platform": "$BUILDPLATFORM", "from_line": 5,
             "commands": ["ARG", "RUN"], "lines": [6, 7]},
            {"name": "", "base_name": "scratch", "platform": "", "from_line": 9,
             "commands": ["ARG", "ARG", "COPY"], "lines": [10, 11, 12]},
        ],
        "dependencies": [
            {"stage": 0, "kind": "base", "line": 5, "on_image": "docker.io/library/alpine:3.9"},
            {"stage": 1, "kind": "copy", "line": 12, "on_stage": 0},
        ],
        "target": 1,
        "needed_stages": [0, 1],
        "needed_images": ["docker.io/library/alpine:3.9"],
        "targets": {"targets": [
            {"name": "build", "description": "compiles", "base": "$base",
             "platform": "$BUILDPLATFORM", "location": lines(&[5])},
            {"default": true, "base": "scratch", "location": lines(&[9])},
        ]},
        "outline": {
            "args": [
                {"name": "base", "description": "the image to begin with", "value": "alpine:3.9",
                 "location": lines(&[2])},
                {"name": "jobs", "location": lines(&[6])},
            ],
            "secrets": [{"name": "token", "required": true, "location": lines(&[7, 8])}],
            "ssh": [{"name": "default", "location": lines(&[7, 8])}],
        },
    });
    assert_eq!(report, expected);
}

#[test]
fn outline_of_a_target_with_build_arguments() {
    let parsed = parse("ARG V=1\nARG W=$V-x\nFROM scratch AS a\nARG W\nFROM scratch AS b\n");
    let mut selection = selection();
    selection.target = Some("A".to_owned());
    selection.build_args.insert("V".to_owned(), "2".to_owned());
    let outline = outline::outline(&parsed.file, &selection, &Facts::default()).unwrap();
    assert_eq!(outline.name.as_deref(), Some("a"));
    let args: Vec<_> = outline
        .args
        .iter()
        .map(|arg| (arg.name.as_str(), arg.value.as_str()))
        .collect();
    assert_eq!(args, [("V", "2"), ("W", "2-x")]);
}

#[test]
fn errors_say_where() {
    for (text, message, line) in [
        ("FROM a\nFOO x\n", "unknown instruction: FOO", 2),
        (
            "FROM a\n\nUSER ${X:?no}\n",
            "failed to process \"${X:?no}\": X: no",
            3,
        ),
        ("ARG x\n", "dockerfile contains no stages to build", 0),
    ] {
        let inspection = inspect(&parse(text), &selection());
        assert!(!inspection.ok, "{text}");
        let error = inspection.error.expect(text);
        assert!(error.message.starts_with(message), "{}", error.message);
        if line > 0 {
            assert_eq!(error.line, line, "{text}");
        }
    }
}

/// Cuts, doubles and swaps lines and words of the golden Dockerfiles: whatever comes out, there is
/// a verdict.
#[test]
fn any_text_gets_a_verdict() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/lower");
    let texts: Vec<String> = fs::read_dir(directory)
        .expect("testdata")
        .map(|entry| fs::read_to_string(entry.expect("entry").path()).expect("text"))
        .map(|text| text.split("===\n").nth(1).expect("a Dockerfile").to_owned())
        .collect();
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut below = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % bound.max(1) as u64).expect("fits")
    };
    let mut good = 0;
    for _ in 0..4000 {
        let mut pieces: Vec<String> = Vec::new();
        for _ in 0..=below(2) {
            let text = &texts[below(texts.len())];
            pieces.extend(
                text.split_inclusive([' ', '\n', '=', '/', '$'])
                    .map(str::to_owned),
            );
        }
        for _ in 0..below(4).min(pieces.len()) {
            let (a, b) = (below(pieces.len()), below(pieces.len()));
            match below(3) {
                0 => drop(pieces.remove(a)),
                1 => pieces.insert(a, pieces[b].clone()),
                _ => pieces.swap(a, b),
            }
        }
        let inspection = inspect(&parse(&pieces.concat()), &selection());
        assert_eq!(inspection.ok, inspection.error.is_none());
        good += usize::from(inspection.ok);
    }
    assert!(
        good > 400,
        "only {good} texts were good, so little was lowered"
    );
}

#[test]
fn images_that_may_be_misspelt_stages_or_contexts_are_told_apart() {
    let parsed = parse(
        "FROM scratch AS builder\nFROM scratch\nCOPY --from=biulder /a /\n\
         COPY --from=docz /a /\nCOPY --from=something /a /\n",
    );
    let selection = Selection {
        contexts: [("docs".to_owned(), false)].into(),
        ..selection()
    };
    let needs = needs(&parsed.file, &selection, &Facts::default()).unwrap();
    let near = |name: &str| {
        let mut images = needs.images.values();
        let need = images.find(|need| need.reference == name);
        need.unwrap().advice.as_deref()
    };
    assert_eq!(near("biulder"), Some("did you mean builder?"));
    assert_eq!(near("docz"), Some("did you mean docs?"));
    assert_eq!(near("something"), None);
    let parsed = parse("FROM later AS first\nFROM first AS later\n");
    let needs = layercake_graph::lower::needs(&parsed.file, &selection, &Facts::default());
    let needs = needs.unwrap();
    let advice = needs.images.values().next().unwrap().advice.as_deref();
    assert!(advice.unwrap().contains("line 2"), "{advice:?}");
}
