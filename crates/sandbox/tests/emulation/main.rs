//! Runs real steps where there is only one id.
//!
//! A program of its own, as the tests in `namespaces` are: it launches itself inside and runs
//! there. An argument selects tests by a part of their names.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program and its report"
)]

#[path = "../namespaces/fixture.rs"]
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod fixture;
mod step;
mod tests;

use std::panic::catch_unwind;
use std::process::ExitCode;

use layercake_sandbox::inside::{self, Isolation};

/// A test by name; it fails by panicking.
pub type Test = (&'static str, fn());

fn main() -> ExitCode {
    let inside = match inside::enter(std::env::args_os()) {
        Ok(inside) => inside,
        Err(error) => {
            println!("enter: {error}");
            return ExitCode::FAILURE;
        }
    };
    let argument = std::env::args().nth(1).unwrap_or_default();
    if let Some(inside) = inside {
        let filter = inside.args.first().and_then(|arg| arg.to_str());
        return run_all(filter.unwrap_or(""));
    }
    if argument == step::ARGUMENT {
        return step::main();
    }
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let launcher = inside::Launcher::new([filter.unwrap_or_default()]);
    match launcher.isolation(Some(Isolation::SingleId)).run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(code) => {
            println!("inside: exit code {code}");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!(
                "skipped: this machine cannot run steps: {error}: {:?}",
                error.remedy()
            );
            ExitCode::from(u8::from(std::env::var_os("LAYERCAKE_REQUIRE").is_some()))
        }
    }
}

fn run_all(filter: &str) -> ExitCode {
    let mut failed = Vec::new();
    for (name, test) in tests::TESTS
        .iter()
        .filter(|(name, _)| name.contains(filter))
    {
        let ok = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if !ok {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    ExitCode::from(u8::from(!failed.is_empty()))
}
