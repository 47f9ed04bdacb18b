//! Solves a plan: every node as soon as its inputs are done, equal ones once.
//!
//! One task, [`driver`], owns all node states; the executor's blocking calls run on threads and
//! answer with messages. [`state`] is the table of what may follow what.

mod driver;
mod state;
#[cfg(test)]
mod tests;

pub use driver::{Limits, Solved, solve};
