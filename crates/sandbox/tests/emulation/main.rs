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
mod programs;
mod step;
mod tests;

use std::panic::catch_unwind;
use std::process::ExitCode;

use layercake_sandbox::inside::{self, Isolation};
use layercake_sandbox::spec::Processes;

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
        fixture::set_processes(inside.processes);
        let filter = inside.args.first().and_then(|arg| arg.to_str());
        return run_all(filter.unwrap_or(""));
    }
    if argument == step::ARGUMENT {
        return step::main();
    }
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    for processes in [Processes::Own, Processes::Host] {
        println!("processes {}:", processes.name());
        let launcher = inside::Launcher::new([filter.clone().unwrap_or_default()]);
        let launcher = launcher.isolation(Some(Isolation::SingleId));
        match launcher.processes(processes).run() {
            Ok(0) => {}
            Ok(code) => {
                println!("inside: exit code {code}");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                println!(
                    "skipped: this machine cannot run steps: {error}: {:?}",
                    error.remedy()
                );
                return ExitCode::from(u8::from(fixture::is_required()));
            }
        }
    }
    ExitCode::SUCCESS
}

fn run_all(filter: &str) -> ExitCode {
    let mut failed = Vec::new();
    for (name, test) in tests::TESTS
        .iter()
        .chain(programs::TESTS)
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
