use super::*;

fn source(text: &str) -> Arc<Source> {
    Arc::new(Source {
        name: "Dockerfile".to_owned(),
        text: text.to_owned(),
    })
}

fn range(first: u32, last: u32) -> LineRange {
    LineRange { first, last }
}

#[test]
fn a_word_has_carets_and_the_lines_around_it() {
    let source = source("FROM a\nRUNN x\nCMD y\n");
    let problem = Problem::at_lines(
        &source,
        range(2, 2),
        Some("RUNN"),
        "unknown instruction: RUNN",
        Some("did you mean RUN?".to_owned()),
    );
    let want = "\
error: unknown instruction: RUNN
 --> Dockerfile:2:1
  |
1 | FROM a
2 | RUNN x
  | ^^^^
3 | CMD y
  |
  = help: did you mean RUN?";
    assert_eq!(problem.render(false), want);
}

#[test]
fn an_instruction_of_several_lines_is_marked_as_a_whole() {
    let source = source("FROM a\n  RUN x \\\n    y\nCMD z");
    let problem = Problem::at_lines(&source, range(2, 3), None, "failed", None);
    let shown = problem.excerpt(false);
    assert!(shown.starts_with(" --> Dockerfile:2:3\n"), "{shown}");
    assert!(shown.contains("3 | |     y\n"), "{shown}");
    assert!(!shown.contains("failed"), "{shown}");
}

#[test]
fn any_place_in_any_text_can_be_shown() {
    for text in [
        "",
        "\n",
        "é",
        "é\r\nFROM ü\r\n",
        "a\n\n\n",
        "\t\tx\n\u{7}\n",
    ] {
        let source = source(text);
        for first in 0..5 {
            for last in 0..5 {
                let problem = Problem::at_lines(&source, range(first, last), None, "m", None);
                problem.render(false);
                problem.json(&LineStarts::new(text));
            }
        }
        for start in 0..=text.len() + 1 {
            for end in 0..=text.len() + 1 {
                let span = Span { start, end };
                let problem = Problem {
                    span,
                    ..Problem::at_lines(&source, range(1, 1), None, "m", None)
                };
                problem.render(true);
                problem.json(&LineStarts::new(text));
            }
        }
    }
}

#[test]
fn a_long_instruction_is_shown_in_part() {
    let text = format!("FROM a\nRUN x{}\n", " \\\n y".repeat(300));
    let problem = Problem::at_lines(&source(&text), range(2, 302), None, "failed", None);
    assert!(problem.excerpt(false).lines().count() < 60);
    let text = format!("FROM a\nRUN {}\n", "x".repeat(1 << 20));
    let problem = Problem::at_lines(&source(&text), range(2, 2), None, "failed", None);
    assert!(problem.excerpt(false).len() < 1 << 17);
}

#[test]
fn json_counts_lines_and_columns_from_one() {
    let source = source("FROM a\nRÜN x\n");
    let problem = Problem::at_lines(&source, range(2, 2), Some("x"), "m", None);
    let json = problem.json(&LineStarts::new(&source.text));
    assert_eq!(json["span"]["from"], json!({"line": 2, "column": 5}));
    assert_eq!(json["span"]["start"], 12);
    assert_eq!(json["severity"], "error");
}
