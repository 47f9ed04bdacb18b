//! From instructions to a [`Plan`].
//!
//! Lowering touches nothing: what it must know of images is asked for with [`needs`], answered in
//! [`Facts`], and asked again until nothing is missing (an image may bring ONBUILD triggers that
//! name further images). Only stages that the target needs are evaluated (rule S06).

mod args;
mod bases;
mod build;
mod buildkit_args;
mod captured;
mod chmod;
mod config;
mod copy;
mod env;
mod epoch;
mod error;
mod expand;
mod expose;
mod finish;
mod history;
mod mounts;
mod needs;
mod nodes;
mod onbuild;
mod path;
pub mod platform;
pub mod reference;
mod remote;
mod run;
mod stage;
mod stages;
mod variables;
mod walk;
mod workdir;

use dockerfile::File;

pub use bases::{StageBases, bases};
pub use epoch::DEFAULT_EPOCH;
pub use error::{ErrorKind, LowerError};

pub(crate) use build::{Build, check_syntax};
pub(crate) use captured::{ArgUse, CredentialUse};
pub(crate) use needs::{Resolved, Root, resolve};
pub(crate) use stages::{Base, StageId, Stages};
pub(crate) use walk::Walked;

use crate::facts::{Facts, Needs, Selection};
use crate::plan::Plan;

/// The images that must be resolved before `file` can be lowered and are not in `facts` yet; only
/// those the target reaches (rules S02, S06, G09). Empty: [`lower`] can be called.
///
/// # Errors
/// Whatever can be known to be wrong without those images.
pub fn needs(file: &File, selection: &Selection, facts: &Facts) -> Result<Needs, Vec<LowerError>> {
    check_syntax(file, selection).map_err(|error| vec![error])?;
    let build = Build::new(file, selection).map_err(|error| vec![error])?;
    Ok(needs::resolve(&build, facts)?.needs)
}

/// Lowers the target and what it needs.
///
/// # Errors
/// What is wrong with the file, at most one error for each stage; or, a mistake of the caller,
/// [`ErrorKind::Unresolved`] when [`needs`] is not empty.
pub fn lower(file: &File, selection: &Selection, facts: &Facts) -> Result<Plan, Vec<LowerError>> {
    check_syntax(file, selection).map_err(|error| vec![error])?;
    lower_any_syntax(file, selection, facts)
}

/// [`lower`] whatever `# syntax=` says.
pub(crate) fn lower_any_syntax(
    file: &File,
    selection: &Selection,
    facts: &Facts,
) -> Result<Plan, Vec<LowerError>> {
    let build = Build::new(file, selection).map_err(|error| vec![error])?;
    let (resolved, walked) = evaluate(&build, facts)?;
    finish::finish(&build, walked, resolved.stages.target).map_err(|error| vec![error])
}

/// Everything but the image of the target.
pub(crate) fn evaluate<'a, 'f>(
    build: &Build<'a>,
    facts: &'f Facts,
) -> Result<(Resolved<'a, 'f>, Walked), Vec<LowerError>> {
    let resolved = needs::resolve(build, facts)?;
    if let Some(need) = resolved.needs.images.values().next() {
        let message = format!("image {} is not resolved", need.reference);
        return Err(vec![LowerError::new(ErrorKind::Unresolved, message)]);
    }
    let walked = walk::walk(build, &resolved)?;
    Ok((resolved, walked))
}
