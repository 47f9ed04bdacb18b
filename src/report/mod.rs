//! What people see on stderr while a build runs, and on stdout when it is done.

mod diagnostic;
mod excerpt;
mod plain;
mod summary;
mod terminal;

pub use diagnostic::{LineStarts, Problem};
pub(crate) use excerpt::excerpt;
pub(crate) use plain::Plain;
pub(crate) use summary::{Summary, bytes as size};
pub(crate) use terminal::{data, exit_on_panic, line};

use std::io::IsTerminal;

use crate::failure::Failure;

/// Prints a failure.
pub(crate) fn failure(failure: &Failure) {
    line(&failure.render(styled()));
}

/// Whether stderr takes colours: a terminal, and `NO_COLOR` (no-color.org) is empty or unset.
pub(crate) fn styled() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !unwanted
}
