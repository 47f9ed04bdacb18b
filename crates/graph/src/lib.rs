//! Turns instructions into a plan of operations, gives each its cache key, and schedules them.
//!
//! Pure but for the scheduler's clockless use of tokio: no files, no registries, no namespaces.
#![forbid(unsafe_code)]

pub mod config;
pub mod facts;
pub mod op;
pub mod plan;

pub use op::{NodeId, Op};
pub use plan::{Node, Plan};
