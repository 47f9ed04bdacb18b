//! `build --call`: questions about a Dockerfile, answered as `docker buildx build --call` does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use graph::outline::{self, Credential, Outline, Target};
use serde_json::{Value, json};

use super::check;
use super::parse::usage;
use crate::engine::Examination;
use crate::failure::{Failure, FailureKind};
use crate::report;
use crate::request::BuildRequest;

/// `--call=METHOD[,format=FORMAT][,ignorestatus=BOOL]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    method: Method,
    json: bool,
    /// Warnings are no reason for an exit status.
    ignore_status: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Check,
    Outline,
    Targets,
    Describe,
}

/// Reads the value of `--call`; `None`: an ordinary build.
pub(super) fn parse(text: &str) -> Result<Option<Call>, Failure> {
    let mut name = None;
    let mut call = Call {
        method: Method::Check,
        json: false,
        ignore_status: false,
    };
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("format", "json")) => call.json = true,
            Some(("format", "text" | "")) => call.json = false,
            Some(("format", other)) => {
                let message = format!("--call {text}: format={other} is neither json nor text");
                return Err(usage(message));
            }
            Some(("ignorestatus", "true" | "1")) => call.ignore_status = true,
            Some(("ignorestatus", "false" | "0")) => call.ignore_status = false,
            None if name.is_none() => name = Some(field),
            _ => return Err(usage(format!("--call {text}: {field} is not understood"))),
        }
    }
    call.method = match name.unwrap_or_default() {
        "" | "build" => return Ok(None),
        "check" | "lint" => Method::Check,
        "outline" => Method::Outline,
        "targets" => Method::Targets,
        "subrequests.describe" => Method::Describe,
        other => {
            let message = format!("--call {other} is not implemented");
            let methods = "use one of build, check, outline, targets, subrequests.describe";
            return Err(usage(message).hint(methods));
        }
    };
    Ok(Some(call))
}

/// Answers; the exit code is 1 when the checks found something, as that of buildx.
pub(super) fn run(request: &BuildRequest, call: Call) -> Result<u8, Failure> {
    if call.method == Method::Describe {
        print(&describe(call.json)?);
        return Ok(0);
    }
    let examination = Examination::new(request)?;
    match call.method {
        Method::Targets => {
            examination.syntax()?;
            let targets = outline::targets(&examination.parsed.file);
            if call.json {
                let sources = [BASE64.encode(&examination.dockerfile.source.text)];
                print(&pretty(&json!({"targets": targets, "sources": sources}))?);
            } else {
                print(&targets_text(&targets));
            }
            Ok(0)
        }
        Method::Outline => {
            let outline = examination.outline()?;
            if call.json {
                let mut value = serde_json::to_value(&outline).map_err(|e| internal(&e))?;
                value["sources"] = json!([BASE64.encode(&examination.dockerfile.source.text)]);
                print(&pretty(&value)?);
            } else {
                print(&outline_text(&outline));
            }
            Ok(0)
        }
        Method::Check | Method::Describe => {
            let code = check::run(&examination, call.json)?;
            Ok(if call.ignore_status { 0 } else { code })
        }
    }
}

fn print(text: &str) {
    let text = text.strip_suffix('\n').unwrap_or(text);
    if !text.is_empty() {
        report::data(text);
    }
}

pub(super) fn pretty(value: &Value) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|e| internal(&e))
}

fn internal(error: &dyn std::error::Error) -> Failure {
    Failure::of(FailureKind::Internal, error)
}

fn targets_text(targets: &[Target]) -> String {
    let mut rows = vec![["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for target in targets {
        let name = match (target.name.as_deref(), target.default) {
            (None, true) => "(default)".to_owned(),
            (name, false) => name.unwrap_or_default().to_owned(),
            (Some(name), true) => format!("{name} (default)"),
        };
        rows.push([name, target.description.clone().unwrap_or_default()]);
    }
    columns(&rows, 1)
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    let named = outline.name.is_some() || outline.description.is_some();
    if named {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let mut rows = vec![["TARGET:".to_owned(), name.to_owned()]];
        if let Some(description) = &outline.description {
            rows.push(["DESCRIPTION:".to_owned(), description.clone()]);
        }
        text += &columns(&rows, 1);
        text.push('\n');
    }
    if !outline.args.is_empty() {
        let head = ["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned);
        let row = |arg: &outline::Arg| {
            let description = arg.description.clone().unwrap_or_default();
            [arg.name.clone(), arg.value.clone(), description]
        };
        let rows: Vec<_> = std::iter::once(head)
            .chain(outline.args.iter().map(row))
            .collect();
        text += &columns(&rows, 3);
        text.push('\n');
    }
    text += &credentials_text("SECRET", &outline.secrets);
    text += &credentials_text("SSH", &outline.ssh);
    text
}

fn credentials_text(title: &str, list: &[Credential]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut rows = vec![[title.to_owned(), "REQUIRED".to_owned()]];
    for each in list {
        let required = if each.required { "true" } else { "" };
        rows.push([each.name.clone(), required.to_owned()]);
    }
    columns(&rows, 3) + "\n"
}

/// Name and description.
type Described = (&'static str, &'static str);

/// The questions there are. As with BuildKit, `check` is not among them.
fn describe(as_json: bool) -> Result<String, Failure> {
    const QUESTIONS: [(&str, &str, Option<&[Described]>); 3] = [
        (
            "outline",
            "List all parameters current build target supports",
            Some(&[("target", "Target build stage")]),
        ),
        (
            "targets",
            "List all targets current build supports",
            Some(&[]),
        ),
        (
            "subrequests.describe",
            "List available subrequest types",
            None,
        ),
    ];
    if !as_json {
        let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned)];
        rows.extend(QUESTIONS.map(|(name, text, _)| [name, "1.0.0", text].map(str::to_owned)));
        return Ok(columns(&rows, 1));
    }
    let named = |(name, description): &Described| json!({"name": name, "description": description});
    let question = |(name, description, options): (&str, &str, Option<&[Described]>)| {
        let options = options.map(|list| list.iter().map(named).collect::<Vec<Value>>());
        let metadata = ["result.json", "result.txt"].map(|name| named(&(name, "")));
        json!({
            "name": format!("frontend.{name}"),
            "version": "1.0.0",
            "type": "rpc",
            "description": description,
            "opts": options,
            "inputs": null,
            "metadata": metadata,
            "refs": null,
        })
    };
    pretty(&Value::Array(QUESTIONS.map(question).to_vec()))
}

/// Rows with aligned columns; the last one is not padded.
fn columns<const N: usize>(rows: &[[String; N]], padding: usize) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default() + padding
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row[..N - 1].iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}"));
        }
        text.push_str(&row[N - 1]);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_formats() {
        let call = |method, json| {
            Some(Call {
                method,
                json,
                ignore_status: false,
            })
        };
        for (text, want) in [
            ("build", None),
            ("check", call(Method::Check, false)),
            ("lint", call(Method::Check, false)),
            ("check,format=json", call(Method::Check, true)),
            ("outline,format=json", call(Method::Outline, true)),
            ("targets", call(Method::Targets, false)),
            ("subrequests.describe", call(Method::Describe, false)),
        ] {
            assert_eq!(parse(text).ok(), Some(want), "{text}");
        }
        for text in [
            "convertllb",
            "check,format=xml",
            "check,targets",
            "check,x=1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [["a", "bb", "c"], ["long", "", "d"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows, 1), "a    bb c\nlong    d\n");
    }
}
