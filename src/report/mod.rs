//! What people see on stderr while a build runs, and on stdout when it is done.

mod excerpt;
mod plain;
#[expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the one place that prints"
)]
mod terminal;

pub(crate) use excerpt::excerpt;
pub(crate) use plain::Plain;
pub(crate) use terminal::{data, exit_on_panic, line};

use crate::failure::Failure;

/// Prints a failure.
pub(crate) fn failure(failure: &Failure) {
    line(&failure.to_string());
}
