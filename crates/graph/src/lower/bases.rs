//! What the build checks ask of lowering: which stages count, and what each begins with.

use std::collections::BTreeMap;

use dockerfile::File;

use super::build::{Build, check_syntax};
use super::error::LowerError;
use super::needs::{Root, resolve};
use super::stages::Base;
use crate::config::ImageConfig;
use crate::facts::{Facts, Selection};

/// The stages that a build evaluates.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageBases<'f> {
    /// Indices of stages of the file, ascending; those in whose place a named context stands
    /// (rule S02) are not evaluated.
    pub stages: Vec<usize>,
    /// Of stages that begin with an image: its config.
    pub images: BTreeMap<usize, &'f ImageConfig>,
}

/// # Errors
/// As [`super::needs()`].
pub fn bases<'f>(
    file: &File,
    selection: &Selection,
    facts: &'f Facts,
) -> Result<StageBases<'f>, Vec<LowerError>> {
    check_syntax(file, selection).map_err(|error| vec![error])?;
    let build = Build::new(file, selection).map_err(|error| vec![error])?;
    let resolved = resolve(&build, facts)?;
    let mut bases = StageBases::default();
    for &id in &resolved.reachable {
        let spec = &resolved.stages.all[id];
        if spec.declared.is_none() || matches!(spec.base, Base::Replaced(_)) {
            continue;
        }
        bases.stages.push(id);
        if let Some(Root::Image { fact, .. }) = resolved.roots.get(id).and_then(Option::as_ref) {
            bases.images.insert(id, &fact.config);
        }
    }
    Ok(bases)
}
