//! What this machine allows, each with a remedy. Everything is tried, not guessed from versions
//! and settings: a security module may refuse what a setting allows.

use std::path::Path;

use crate::error::Error;
use crate::{idmap, inside};

/// One thing that steps need or could use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was tried, in words that a user knows.
    pub name: &'static str,
    pub ok: bool,
    /// Without it nothing runs; otherwise only something is lost.
    pub required: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it, if it is not `ok`.
    pub remedy: Option<String>,
}

/// Tries everything from outside (process A). The list is in the order in which a step needs the
/// things; what a failure makes impossible is left out.
///
/// The calling program must call [`inside::enter`] first in `main` and, when
/// [`inside::Inside::args`] is [`ARGUMENT`] alone, return the exit code of [`run_inside`].
pub fn probe() -> Vec<Probe> {
    let _ = Path::new("/");
    let mut probes = Vec::new();
    if !rustix::process::geteuid().is_root() {
        probes.push(subordinate_ids());
    }
    let _ = inside::ARGUMENT;
    probes
}

fn subordinate_ids() -> Probe {
    let result = idmap::available();
    let ok = result.is_ok();
    let (detail, remedy) = match result {
        Ok((uids, gids)) => (format!("{uids} user ids, {gids} group ids"), None),
        Err(error) => (text(&error), error.remedy()),
    };
    Probe {
        name: "subordinate ids",
        ok,
        required: true,
        detail,
        remedy,
    }
}

fn text(error: &Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
