//! The text form of `layercake inspect`: the stages as a tree, each with what it needs.

use std::collections::BTreeSet;
use std::fmt::Write;

use graph::inspect::{Dependency, DependencyKind, Inspection, Needed};

use super::inspect::Report;

pub(super) fn render(report: &Report) -> String {
    let inspection = &report.inspection;
    let mut out = String::new();
    for problem in report.errors.iter().take(MOST_ERRORS) {
        out.push_str(&problem.render(false));
        out.push_str("\n\n");
    }
    if let Some(more) = report
        .errors
        .len()
        .checked_sub(MOST_ERRORS)
        .filter(|n| *n > 0)
    {
        writeln!(out, "and {more} more errors\n").ok();
    }
    if let Some(target) = inspection.target {
        tree(inspection, target, &mut out);
        unneeded(inspection, &mut out);
    }
    parameters(inspection, &mut out);
    if !report.warnings.is_empty() {
        out.push_str("\nwarnings, base images taken as empty (build --check says more)\n");
    }
    for warning in &report.warnings {
        let rule = warning.rule.unwrap_or_default();
        // Writes to a string cannot fail.
        writeln!(out, "  line {}: {rule}: {}", warning.lines, warning.message).ok();
    }
    out
}

/// Of more errors the first ones are shown.
const MOST_ERRORS: usize = 20;

/// The tree is not drawn deeper: its lines would get long.
const DEEPEST: usize = 64;

/// One line of the tree that is still to be written.
struct Line<'a> {
    /// What is drawn before it, and before the lines below it.
    lead: (String, String),
    text: String,
    stage: Option<&'a Dependency>,
}

fn tree(inspection: &Inspection, target: usize, out: &mut String) {
    let mut shown = BTreeSet::new();
    let mut open = vec![Line {
        lead: (String::new(), String::new()),
        text: String::new(),
        stage: None,
    }];
    while let Some(line) = open.pop() {
        let stage = match line.stage {
            None => Some(target),
            Some(edge) => match edge.on {
                Needed::Stage(id) => Some(id),
                _ => None,
            },
        };
        let again = stage.is_some_and(|id| !shown.insert(id));
        let name = match (stage, line.stage.map(|edge| &edge.on)) {
            (Some(id), _) => describe(inspection, id),
            (None, Some(Needed::Image(name))) => format!("image {name}"),
            (None, Some(Needed::Context(name))) => format!("build context {name}"),
            (None, _) => String::new(),
        };
        let note = if again { " (see above)" } else { "" };
        let name = name + note;
        writeln!(out, "{}{}{name}", line.lead.0, line.text).ok();
        let deep = line.lead.1.chars().count() > 3 * DEEPEST;
        if let (Some(id), false, false) = (stage, again, deep) {
            let children: Vec<&Dependency> = needs_of(inspection, id);
            let last = children.len();
            let lines = children.into_iter().enumerate().map(|(at, edge)| {
                let (own, below) = match at + 1 == last {
                    true => ("└─ ", "   "),
                    false => ("├─ ", "│  "),
                };
                Line {
                    lead: (line.lead.1.clone() + own, line.lead.1.clone() + below),
                    text: cause(edge),
                    stage: Some(edge),
                }
            });
            let lines: Vec<Line<'_>> = lines.collect();
            open.extend(lines.into_iter().rev());
        }
    }
}

/// Needs of one stage, those of equal kind and goal once.
fn needs_of(inspection: &Inspection, id: usize) -> Vec<&Dependency> {
    let mut needs: Vec<&Dependency> = Vec::new();
    // They are in order of stage.
    let all = &inspection.dependencies;
    let first = all.partition_point(|edge| edge.stage < id);
    for edge in all[first..].iter().take_while(|edge| edge.stage == id) {
        let known = |other: &Dependency| other.kind == edge.kind && other.on == edge.on;
        if !needs.iter().any(|other| known(other)) {
            needs.push(edge);
        }
    }
    needs
}

fn cause(edge: &Dependency) -> String {
    let line = edge.line;
    match edge.kind {
        DependencyKind::Base => "from ".to_owned(),
        DependencyKind::Copy => format!("copies (line {line}) from "),
        DependencyKind::Mount => format!("mounts (line {line}) "),
    }
}

/// `builder (line 3, 12 instructions)`.
fn describe(inspection: &Inspection, id: usize) -> String {
    let Some(stage) = inspection.stages.get(id) else {
        return format!("stage {id}");
    };
    let name = if stage.name.is_empty() {
        format!("stage {id}")
    } else {
        format!("stage {}", stage.name)
    };
    let count = match stage.commands.len() {
        1 => "1 instruction".to_owned(),
        count => format!("{count} instructions"),
    };
    format!("{name} (line {}, {count})", stage.from_line)
}

fn unneeded(inspection: &Inspection, out: &mut String) {
    let spare: Vec<String> = (0..inspection.stages.len())
        .filter(|id| !inspection.needed_stages.contains(id))
        .map(|id| describe(inspection, id))
        .collect();
    if inspection.ok && !spare.is_empty() {
        writeln!(out, "\nnot needed\n  {}", spare.join("\n  ")).ok();
    }
}

fn parameters(inspection: &Inspection, out: &mut String) {
    let Some(outline) = &inspection.outline else {
        return;
    };
    if !outline.args.is_empty() {
        out.push_str("\nbuild arguments\n");
    }
    for arg in &outline.args {
        let description = arg.description.as_deref();
        let description = description.map_or_else(String::new, |text| format!(": {text}"));
        let line = arg.location.0.first;
        writeln!(
            out,
            "  {}={} (line {line}){description}",
            arg.name, arg.value
        )
        .ok();
    }
    for (title, list) in [("secrets", &outline.secrets), ("ssh agents", &outline.ssh)] {
        if !list.is_empty() {
            writeln!(out, "\n{title}").ok();
        }
        for each in list {
            let required = if each.required { ", required" } else { "" };
            writeln!(
                out,
                "  {} (line {}{required})",
                each.name, each.location.0.first
            )
            .ok();
        }
    }
}
