//! The command line: what was typed, one file per command.

mod annotation;
mod build;
mod call;
mod check;
mod doctor;
mod inspect;
mod inspect_text;
mod parse;
mod prune;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sandbox::inside::Inside;

use crate::failure::{Failure, FailureKind};
use crate::report;

/// Builds OCI images from Dockerfiles: no daemon, no root.
#[derive(Debug, Parser)]
#[command(name = "layercake", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(Box<build::BuildArgs>),
    Doctor(doctor::DoctorArgs),
    Inspect(inspect::InspectArgs),
    Prune(prune::PruneArgs),
}

/// Runs the command that `args` (program name first) ask for; `inside` when this process is the
/// one in the user namespace.
pub(crate) fn main(args: Vec<OsString>, inside: Option<Inside>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() {
                FailureKind::Usage.exit_code()
            } else {
                0
            };
            // A closed terminal is no reason to fail differently.
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    let result: Result<u8, Failure> = match cli.command {
        Command::Build(args) => build::run(*args, inside),
        Command::Doctor(args) => doctor::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Prune(args) => prune::run(&args, inside),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report::failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}
