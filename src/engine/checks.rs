//! The build checks with what a build knows: its arguments, base images and ignore file.

use ::dockerfile::check::{BaseImage, CheckContext, Checked, check, parse_options};
use ::dockerfile::ignore::Patterns;
use ::dockerfile::instruction::CheckOptions;
use ::dockerfile::{Diagnostic, File};
use graph::config::ImageConfig;
use graph::facts::{Facts, Selection};
use graph::lower::LowerError;

use super::dockerfile::{self, Dockerfile};
use crate::failure::{Failure, FailureKind};
use crate::report;
use crate::request::BuildRequest;

/// The build argument that stands in for `# check=`.
const OPTIONS: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Runs all checks over the stages that `selection` needs.
///
/// # Errors
/// When the options or the ignore file are wrong, or the stages cannot be made out.
pub(crate) fn run(
    request: &BuildRequest,
    dockerfile: &Dockerfile,
    file: &File,
    selection: &Selection,
    facts: &Facts,
) -> Result<Checked, Failure> {
    let failed = |errors: Vec<LowerError>| dockerfile::lower_failure(&dockerfile.source, &errors);
    let bases = graph::lower::bases(file, selection, facts).map_err(failed)?;
    let options = options(selection)?;
    let ignore = ignore(request, dockerfile)?;
    let context = CheckContext {
        build_args: &selection.build_args,
        target: selection.target.as_deref(),
        target_platform: &selection.target_platform.to_string(),
        build_platform: &selection.build_platform.to_string(),
        ignore: ignore.as_ref(),
        base: &|stage| bases.images.get(&stage).map(|config| base_image(config)),
        stages: Some(&bases.stages),
        options: options.as_ref(),
    };
    Ok(check(file, &context))
}

/// What can be found without following any stage.
pub(crate) fn without_stages(file: &File, selection: &Selection) -> Vec<Diagnostic> {
    let options = options(selection).ok().flatten();
    let context = CheckContext {
        build_args: &selection.build_args,
        target: selection.target.as_deref(),
        target_platform: &selection.target_platform.to_string(),
        build_platform: &selection.build_platform.to_string(),
        ignore: None,
        base: &|_| None,
        stages: Some(&[]),
        options: options.as_ref(),
    };
    check(file, &context).warnings
}

fn options(selection: &Selection) -> Result<Option<CheckOptions>, Failure> {
    let Some(text) = selection.build_args.get(OPTIONS) else {
        return Ok(None);
    };
    let options = parse_options(text).map_err(|message| {
        let message = format!("failed to parse build argument {OPTIONS}: {message}");
        Failure::new(FailureKind::Usage, message).hint(format!(
            "write --build-arg {OPTIONS}='skip=RULE,RULE;error=true'"
        ))
    })?;
    Ok(Some(options))
}

/// A malformed ignore file is the error of whoever reads the context.
fn ignore(request: &BuildRequest, dockerfile: &Dockerfile) -> Result<Option<Patterns>, Failure> {
    let Some(context) = request.context.as_deref() else {
        return Ok(None);
    };
    // Rule I10.
    if request.remote_context.is_some() {
        return Ok(None);
    }
    let file = dockerfile::ignore_file(dockerfile, context)?;
    Ok(file.and_then(|file| Patterns::parse(&file.text).ok()))
}

fn base_image(config: &ImageConfig) -> BaseImage {
    let pair = |entry: &String| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.to_owned())
    };
    let platform = match config.variant.as_deref() {
        _ if config.os.is_empty() => None,
        None | Some("") => Some(format!("{}/{}", config.os, config.architecture)),
        Some(variant) => Some(format!("{}/{}/{variant}", config.os, config.architecture)),
    };
    BaseImage {
        env: config.config.env.iter().map(pair).collect(),
        has_shell: !config.config.shell.is_empty(),
        onbuild: config.config.on_build.clone(),
        platform,
    }
}

/// `error=true`: warnings fail the build.
pub(crate) fn violation(checked: &Checked) -> Option<Failure> {
    if checked.failed_rules.is_empty() {
        return None;
    }
    let rules = checked.failed_rules.join(", ");
    let message = format!("failed to solve: lint violation found for rules: {rules}");
    Some(
        Failure::new(FailureKind::Dockerfile, message)
            .hint("error=true of the check options makes warnings fail the build"),
    )
}

/// The list of warnings at the end of a build, as buildx prints it; empty without warnings.
pub(crate) fn summary(warnings: &[Diagnostic]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let mut text = match warnings.len() {
        1 => "\n 1 warning found".to_owned(),
        count => format!("\n {count} warnings found"),
    };
    text.push_str(" (use --check to see where and why):");
    for warning in warnings {
        let rule = warning.rule.unwrap_or_default();
        let line = warning.lines.first;
        text.push_str(&format!("\n - {rule}: {} (line {line})", warning.message));
    }
    text
}

/// Prints the list.
pub(crate) fn tell(warnings: &[Diagnostic]) {
    if !warnings.is_empty() {
        report::line(&summary(warnings));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_listed_with_rule_and_line() {
        let source = ::dockerfile::Source {
            name: "Dockerfile".to_owned(),
            text: "FROM scratch\nMAINTAINER x\nCMD y\n".to_owned(),
        };
        let parsed = ::dockerfile::parse(&source);
        let context = CheckContext {
            build_args: &std::collections::BTreeMap::new(),
            target: None,
            target_platform: "linux/amd64",
            build_platform: "linux/amd64",
            ignore: None,
            base: &|_| None,
            stages: None,
            options: None,
        };
        let checked = check(&parsed.file, &context);
        let want = "\n 2 warnings found (use --check to see where and why):\
            \n - MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)\
            \n - JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior \
            related to OS signals (line 3)";
        assert_eq!(summary(&checked.warnings), want);
        assert_eq!(summary(&[]), "");
        assert!(violation(&checked).is_none());
    }
}
