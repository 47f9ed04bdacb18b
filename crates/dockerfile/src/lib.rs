//! Turns Dockerfile and .dockerignore text into typed instructions and diagnostics.
//!
//! Pure and total: no I/O, no clock, no environment; any text gives a [`File`] and a list of
//! [`Diagnostic`]s, never a panic.
#![forbid(unsafe_code)]

pub mod diagnostic;
pub mod instruction;
pub mod source;

pub use diagnostic::{Diagnostic, Severity};
pub use instruction::File;
pub use source::{LineRange, Source, Span};
