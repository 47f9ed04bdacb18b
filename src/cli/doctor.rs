//! `layercake doctor`: what this machine allows, and what would allow more.

use std::fmt::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use clap::{Args, ValueEnum};
use sandbox::probe::{self, Probe};
use serde_json::{Value, json};

use crate::engine::host::{self, Attempt, Rung, Wanted};
use crate::failure::{Failure, FailureKind};
use crate::{config, report};

/// Where each topic has a heading.
const GUIDE: &str = "docs/rootless.md";

/// Show how RUN steps can be run on this machine
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Succeeds when steps can be run.
pub(super) fn run(args: &DoctorArgs) -> Result<u8, Failure> {
    let store = config::store_root()?;
    // As the store makes it: nobody else may look in.
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&store).map_err(|e| {
        let message = format!("{}: {e}", store.display());
        Failure::new(FailureKind::Environment, message).hint("set LAYERCAKE_ROOT")
    })?;
    let found = Found {
        surroundings: probe::surroundings(),
        attempts: host::attempts(Wanted::default(), &store, true),
    };
    match args.format {
        Format::Text => report::data(found.text(&store).trim_end()),
        Format::Json => report::data(&format!("{:#}", found.json(&store))),
    }
    Ok(match found.rung() {
        Some(_) => 0,
        None => FailureKind::Environment.exit_code(),
    })
}

struct Found {
    surroundings: Vec<Probe>,
    attempts: Vec<Attempt>,
}

impl Found {
    fn rung(&self) -> Option<Rung> {
        self.attempts.iter().find_map(Attempt::rung)
    }

    fn text(&self, store: &Path) -> String {
        let mut text = format!("store      {}\n", store.display());
        for probe in &self.surroundings {
            line(&mut text, probe);
        }
        for attempt in &self.attempts {
            let verdict = match attempt.rung() {
                Some(_) => "works",
                None => "not possible",
            };
            let name = attempt.isolation.name();
            let processes = match attempt.is_fallback() {
                true => ", without a process namespace",
                false => "",
            };
            writeln!(text, "\n--isolation {name}{processes}: {verdict}").ok();
            match &attempt.probes {
                Ok(probes) => probes.iter().for_each(|probe| line(&mut text, probe)),
                Err(error) => line(&mut text, &as_probe(error)),
            }
        }
        text.push('\n');
        match self.rung() {
            None => text.push_str("RUN steps cannot be run here; COPY alone needs none of this.\n"),
            Some(rung) => {
                writeln!(text, "builds use {rung}").ok();
                for limit in rung.limits() {
                    writeln!(text, "  - {limit}").ok();
                }
            }
        }
        text
    }

    fn json(&self, store: &Path) -> Value {
        let attempts: Vec<Value> = self
            .attempts
            .iter()
            .map(|attempt| {
                let probes: Vec<Value> = match &attempt.probes {
                    Ok(probes) => probes.iter().map(value).collect(),
                    Err(error) => vec![value(&as_probe(error))],
                };
                json!({
                    "isolation": attempt.isolation.name(),
                    "processes": attempt.processes.name(),
                    "works": attempt.rung().is_some(),
                    "probes": probes,
                })
            })
            .collect();
        json!({
            "store": store.display().to_string(),
            "chosen": self.rung().map(|rung| json!({
                "isolation": rung.isolation.name(),
                "processes": rung.processes.name(),
                "snapshotter": rung.snapshotter.name(),
                "limits": rung.limits(),
            })),
            "probes": self.surroundings.iter().map(value).collect::<Vec<_>>(),
            "attempts": attempts,
        })
    }
}

/// The failure to get in at all, as a row of the table.
fn as_probe(error: &sandbox::Error) -> Probe {
    let failure = Failure::from(error);
    Probe {
        name: probe::topic(error),
        ok: false,
        required: true,
        detail: failure.message,
        remedy: error.remedy(),
    }
}

fn line(text: &mut String, probe: &Probe) {
    let mark = match (probe.ok, probe.required) {
        (true, _) => "ok",
        (false, true) => "FAIL",
        (false, false) => "no",
    };
    writeln!(text, "  {mark:<5}{:<20}{}", probe.name, probe.detail).ok();
    if let Some(remedy) = probe.remedy.as_ref().filter(|_| !probe.ok) {
        writeln!(text, "       {:<20}{remedy}", "").ok();
        let anchor = anchor(probe.name);
        writeln!(text, "       {:<20}see {GUIDE}#{anchor}", "").ok();
    }
}

fn value(probe: &Probe) -> Value {
    json!({
        "name": probe.name,
        "ok": probe.ok,
        "required": probe.required,
        "detail": probe.detail,
        "remedy": probe.remedy,
        "guide": format!("{GUIDE}#{}", anchor(probe.name)),
    })
}

/// The link to a heading, as renderers of Markdown make it.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_its_heading_in_the_guide() {
        let guide = include_str!("../../docs/rootless.md");
        for topic in probe::topics() {
            let heading = format!("### {topic}\n");
            assert!(guide.contains(&heading), "{GUIDE} has no heading {topic}");
        }
    }

    #[test]
    fn anchors_are_those_of_renderers() {
        assert_eq!(anchor("/proc"), "proc");
        assert_eq!(anchor("enter namespaces"), "enter-namespaces");
    }

    #[test]
    fn a_failed_probe_says_what_helps() {
        let found = Found {
            surroundings: Vec::new(),
            attempts: vec![Attempt {
                isolation: sandbox::inside::Isolation::UserNamespace,
                processes: sandbox::spec::Processes::Own,
                probes: Err(sandbox::Error::HelperMissing {
                    program: "newuidmap",
                }),
            }],
        };
        let text = found.text(Path::new("/store"));
        for part in [
            "FAIL subordinate ids",
            "install newuidmap",
            "#subordinate-ids",
            "cannot be run",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let json = found.json(Path::new("/store"));
        assert_eq!(json["chosen"], Value::Null);
        assert_eq!(json["attempts"][0]["probes"][0]["ok"], Value::Bool(false));
    }
}
