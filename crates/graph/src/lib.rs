//! Turns instructions into a plan of operations, gives each its cache key, and schedules them.
//!
//! Pure but for the scheduler's use of tokio: no files, no registries, no namespaces.
#![forbid(unsafe_code)]

pub mod cancel;
pub mod config;
pub mod event;
pub mod executor;
pub mod facts;
pub mod inspect;
pub mod key;
pub mod lower;
pub mod op;
pub mod outline;
pub mod plan;
pub mod solve;

pub use cancel::Cancel;
pub use event::Event;
pub use executor::{Executor, Prepared};
pub use key::{Key, KeyBuilder};
pub use op::{NodeId, Op};
pub use plan::{Node, Plan};
