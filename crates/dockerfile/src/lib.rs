//! Turns Dockerfile and .dockerignore text into typed instructions and diagnostics.
//!
//! Pure and total: no I/O, no clock, no environment; any text gives a [`File`] and a list of
//! [`Diagnostic`]s, never a panic.
#![forbid(unsafe_code)]

mod automaton;
pub mod check;
pub mod diagnostic;
pub mod glob;
pub mod ignore;
pub mod instruction;
mod lines;
mod parse;
pub mod path;
pub mod platform;
pub mod source;
pub mod suggest;
mod text;
pub mod word;

pub use diagnostic::{Diagnostic, Severity};
pub use instruction::File;
pub use lines::MAX_LINE_BYTES;
pub use parse::{OptionError, Parsed, parse, parse_trigger};
pub use source::{LineRange, Source, Span};
