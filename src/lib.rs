//! layercake builds OCI images from Dockerfiles. docs/ARCHITECTURE.md says how the pieces fit;
//! [`main`] is the program.
#![forbid(unsafe_code)]

mod cli;
mod config;
pub mod engine;
mod failure;
mod report;
mod request;

use std::ffi::OsString;
use std::process::ExitCode;

use engine::leash;
use failure::{Failure, FailureKind};

/// The program: to be called first thing in `main`, while the process has one thread.
#[must_use]
pub fn main() -> ExitCode {
    report::exit_on_panic(FailureKind::Internal.exit_code());
    match sandbox::inside::enter(std::env::args_os()) {
        Ok(None)
            if std::env::args_os()
                .nth(1)
                .is_some_and(|a| a == leash::ARGUMENT) =>
        {
            ExitCode::from(leash::run(std::env::args_os().skip(2)))
        }
        Ok(None) => cli::main(std::env::args_os().collect(), None),
        Ok(Some(inside))
            if inside
                .args
                .first()
                .is_some_and(|a| a == sandbox::probe::ARGUMENT) =>
        {
            ExitCode::from(sandbox::probe::run_inside(&inside))
        }
        Ok(Some(mut inside)) => {
            let program = OsString::from("layercake");
            let args = std::iter::once(program)
                .chain(std::mem::take(&mut inside.args))
                .collect();
            cli::main(args, Some(inside))
        }
        Err(error) => {
            let failure = Failure::of(FailureKind::Usage, &error);
            report::failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}
