//! The only prints of the program: data on stdout, everything else on stderr. A stream that is
//! closed is no reason to fail.

use std::io::Write;

/// A line on stderr.
pub(crate) fn line(text: &str) {
    // One write: lines of several processes on one terminal stay whole.
    std::io::stderr()
        .lock()
        .write_all(format!("{text}\n").as_bytes())
        .ok();
}

/// A line of data on stdout.
pub(crate) fn data(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").ok();
}

/// A panic on any thread is a bug: it ends the process with `code`, since a thread that just
/// vanished could leave the build waiting for ever.
#[expect(
    clippy::disallowed_methods,
    reason = "no stack is left to return an exit code through"
)]
pub(crate) fn exit_on_panic(code: u8) {
    std::panic::set_hook(Box::new(move |info| {
        line(&format!("ERROR: internal error: {info}"));
        line("  hint: this is a bug in layercake; please report it with the Dockerfile");
        std::process::exit(code.into());
    }));
}
