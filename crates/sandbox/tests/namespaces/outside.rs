//! Outside: the process structure, and that nothing survives.

use std::process::ExitCode;

use layercake_sandbox::inside::{Inside, Launcher};

use crate::Test;

pub const TESTS: &[Test] = &[("exit_code_comes_through", exit_code_comes_through)];

/// What this program does inside for a test outside.
pub fn role(inside: Inside) -> ExitCode {
    let text = |index: usize| {
        inside
            .args
            .get(index)
            .and_then(|arg| arg.to_str())
            .unwrap_or("")
    };
    match text(0) {
        "exit" => ExitCode::from(text(1).parse::<u8>().unwrap_or(99)),
        _ => ExitCode::from(98),
    }
}

fn exit_code_comes_through() {
    for code in [0, 1, 42, 255] {
        let run = Launcher::new(["exit", &code.to_string()]).run();
        assert_eq!(run.unwrap(), code);
    }
}
