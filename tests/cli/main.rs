//! End-to-end tests: the program itself, real namespaces, one module per topic.
//!
//! They need a static busybox as the only program of their images, and what the machine must
//! allow for a user to run steps; what is missing is printed, and with `LAYERCAKE_REQUIRE=run` in
//! the environment it is a failure. `LAYERCAKE_BIN` names another program to test.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it skips"
)]

mod cache;
mod checks;
mod containers;
mod contexts;
mod determinism;
mod emulation;
mod errors;
mod escape;
mod forms;
mod git;
mod http;
mod image;
mod kill;
mod limits;
mod network;
mod parallel;
mod places;
mod rules;
mod rungs;
mod secrets;
mod server;
mod ssh;
mod sshd;
mod stages;
mod steps;
mod stores;
mod support;
mod survive;
