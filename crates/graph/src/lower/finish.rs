//! The image of the target: command line labels and platform (rules M10, M18, S20, W17).

use super::build::Build;
use super::error::{ErrorKind, LowerError};
use super::platform;
use super::stages::StageId;
use super::walk::Walked;
use crate::config::ImageConfig;
use crate::facts::Platform;
use crate::plan::Plan;

/// # Errors
/// When nothing came of the target: only a circle that went unseen could do that.
pub(crate) fn finish(
    build: &Build<'_>,
    mut walked: Walked,
    target: StageId,
) -> Result<Plan, LowerError> {
    let state = walked.states[target].take().ok_or_else(|| {
        LowerError::new(
            ErrorKind::CircularDependency,
            "the target stage needs itself",
        )
    })?;
    let mut config = state.config;
    let labels = &build.selection.labels;
    config
        .config
        .labels
        .extend(labels.iter().map(|(k, v)| (k.clone(), v.clone())));
    set_platform(build, &mut config);
    let (nodes, target) = walked.nodes.finish(state.tree);
    Ok(Plan {
        nodes,
        target,
        config,
        history: state.history,
        source_date_epoch: build.source_date_epoch,
    })
}

/// A platform asked for by name overwrites the base's; otherwise the base's stays (rule S20).
fn set_platform(build: &Build<'_>, config: &mut ImageConfig) {
    let wanted = &build.selection.target_platform;
    if build.selection.platform_explicit {
        let same = wanted.os == config.os && wanted.architecture == config.architecture;
        config.os.clone_from(&wanted.os);
        config.architecture.clone_from(&wanted.architecture);
        if !same {
            config.other.remove("os.version");
        }
        if wanted.variant.is_some() || !same {
            config.variant.clone_from(&wanted.variant);
        }
    }
    // Both must be there (rule M10), also when the base is silent.
    if config.os.is_empty() {
        config.os.clone_from(&wanted.os);
    }
    if config.architecture.is_empty() {
        config.architecture.clone_from(&wanted.architecture);
        config.variant.clone_from(&wanted.variant);
    }
    let normal = platform::normalise(&Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
    });
    (config.os, config.architecture, config.variant) =
        (normal.os, normal.architecture, normal.variant);
}
