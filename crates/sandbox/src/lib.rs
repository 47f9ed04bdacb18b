//! Runs one command in a rootless container described by a plain value.

pub mod spec;
