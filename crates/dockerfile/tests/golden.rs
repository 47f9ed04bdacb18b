//! Every file below testdata/dockerfile/{ok,err} parses to the dump beside it.
//!
//! UPDATE=1 rewrites the dumps; read the difference before committing it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use layercake_dockerfile::instruction::{File, Instruction};
use layercake_dockerfile::{Parsed, Severity, Source, parse};

fn testdata(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/dockerfile")
        .join(kind)
}

fn instruction(out: &mut String, indent: &str, instruction: &Instruction) {
    let Instruction {
        kind,
        keyword,
        text,
        comments,
        skip_checks,
        lines,
        ..
    } = instruction;
    writeln!(out, "{indent}{lines} {keyword}: {kind:?}").expect("a string");
    writeln!(out, "{indent}    text {text:?}").expect("a string");
    if !comments.is_empty() {
        writeln!(
            out,
            "{indent}    comments {comments:?} skip {skip_checks:?}"
        )
        .expect("a string");
    }
}

fn dump_file(out: &mut String, file: &File) {
    writeln!(out, "directives {:?}", file.directives).expect("a string");
    for place in &file.empty_continuations {
        writeln!(out, "empty continuation {}", place.lines).expect("a string");
    }
    for arg in &file.meta_args {
        instruction(out, "", arg);
    }
    for stage in &file.stages {
        writeln!(
            out,
            "{} {} base={:?} name={:?} ({:?} {:?}) platform={:?} description={:?} comments={:?}",
            stage.lines,
            stage.keyword,
            stage.base,
            stage.name,
            stage.as_keyword,
            stage.name_written,
            stage.platform,
            stage.description,
            stage.comments
        )
        .expect("a string");
        for each in &stage.instructions {
            instruction(out, "  ", each);
        }
    }
}

fn dump_diagnostics(out: &mut String, source: &Source, parsed: &Parsed) {
    for diagnostic in &parsed.diagnostics {
        let shown = &source.text[diagnostic.span.start..diagnostic.span.end];
        writeln!(
            out,
            "line {} {:?}: {}",
            diagnostic.lines, diagnostic.severity, diagnostic.message
        )
        .expect("a string");
        writeln!(out, "    at {shown:?}").expect("a string");
        if let Some(help) = &diagnostic.help {
            writeln!(out, "    help: {help}").expect("a string");
        }
    }
}

/// The dump of every Dockerfile of a folder equals the one beside it.
fn compare(kind: &str, dump: impl Fn(&Source) -> String) {
    let update = std::env::var_os("UPDATE").is_some();
    let mut files: Vec<PathBuf> = std::fs::read_dir(testdata(kind))
        .expect("testdata")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "Dockerfile")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut different = Vec::new();
    for path in files {
        let bytes = std::fs::read(&path).expect("a Dockerfile");
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let source = Source {
            name,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        };
        let got = dump(&source);
        let expected = path.with_extension("txt");
        if update {
            std::fs::write(&expected, &got).expect("a dump");
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != got {
            different.push(format!("{}:\n{got}", source.name));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn good_files() {
    compare("ok", |source| {
        let parsed = parse(source);
        let mut out = String::new();
        assert!(
            !parsed.has_errors(),
            "{}: {:#?}",
            source.name,
            parsed.diagnostics
        );
        dump_file(&mut out, &parsed.file);
        dump_diagnostics(&mut out, source, &parsed);
        out
    });
}

#[test]
fn bad_files() {
    compare("err", |source| {
        let parsed = parse(source);
        let mut out = String::new();
        assert!(
            parsed
                .diagnostics
                .iter()
                .any(|diagnostic| diagnostic.severity == Severity::Error),
            "{}",
            source.name
        );
        dump_diagnostics(&mut out, source, &parsed);
        out
    });
}
