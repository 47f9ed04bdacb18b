//! The only prints of the program: data on stdout, everything else on stderr. A stream that is
//! closed is no reason to fail.

use std::io::Write;

/// A line on stderr.
pub(crate) fn line(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

/// A line of data on stdout.
pub(crate) fn data(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").ok();
}
