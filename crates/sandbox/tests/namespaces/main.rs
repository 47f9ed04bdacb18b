//! Runs real steps in real namespaces.
//!
//! A program of its own instead of the test harness, because the process must enter its
//! namespaces before it has threads. Outside (`outside.rs`) run the tests of the process
//! structure; then this program launches itself inside, where the others run (`steps.rs`,
//! `mounts.rs`). An argument selects tests by a part of their names.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test program and its report"
)]

mod fixture;
mod mounts;
mod outside;
mod processes;
mod steps;

use std::panic::catch_unwind;
use std::process::ExitCode;

use layercake_sandbox::inside;
use layercake_sandbox::spec::Processes;

/// A test by name; it fails by panicking.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let inside = match inside::enter(std::env::args_os()) {
        Ok(inside) => inside,
        Err(error) => {
            println!("enter: {error}");
            return ExitCode::FAILURE;
        }
    };
    match inside {
        Some(inside) => match inside.args.first().and_then(|arg| arg.to_str()) {
            Some("--tests") => {
                let filter = inside
                    .args
                    .get(1)
                    .and_then(|arg| arg.to_str())
                    .unwrap_or("");
                fixture::set_ids(inside.uids);
                fixture::set_processes(inside.processes);
                let tests = [steps::TESTS, mounts::TESTS, processes::TESTS].concat();
                ExitCode::from(u8::from(!run_all(&tests, filter)))
            }
            _ => outside::role(inside),
        },
        None if std::env::args().nth(1).as_deref() == Some("--euid") => {
            // Copied into a root and made setuid by a test.
            println!("{}", rustix::process::geteuid().as_raw());
            ExitCode::SUCCESS
        }
        None => match std::env::args().nth(1).as_deref() {
            Some(outside::OUTER) => outside::outer(),
            Some("--limit") => processes::limit(),
            _ => run_outside(),
        },
    }
}

fn run_outside() -> ExitCode {
    let filter = std::env::args()
        .skip(1)
        .find(|arg| !arg.starts_with("--"))
        .unwrap_or_default();
    if let Err(error) = inside::Launcher::new(["exit", "0"]).run() {
        println!(
            "skipped: this machine cannot run steps: {error}: {:?}",
            error.remedy()
        );
        return ExitCode::from(u8::from(fixture::is_required()));
    }
    let mut ok = run_all(outside::TESTS, &filter);
    for processes in [Processes::Own, Processes::Host] {
        println!("inside, processes {}:", processes.name());
        let launcher = inside::Launcher::new(["--tests", &filter]);
        match launcher.processes(processes).run() {
            Ok(0) => {}
            Ok(code) => {
                println!("inside: exit code {code}");
                ok = false;
            }
            Err(error) => {
                println!("inside: {error}");
                ok = false;
            }
        }
    }
    ExitCode::from(u8::from(!ok))
}

fn run_all(tests: &[Test], filter: &str) -> bool {
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(filter)) {
        let ok = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if !ok {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    failed.is_empty()
}
