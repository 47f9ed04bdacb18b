//! Runs one command in a rootless container described by a plain value.
//!
//! The promise: what [`run`] starts sees only what its [`spec::Spec`] names, has the identity, the
//! capabilities and the system calls that Docker gives to a container by default, cannot reach
//! the caller, and leaves nothing behind (no process, no mount, no mount point) but the
//! changes in its root.
//!
//! Three processes take part; only the last runs steps:
//!
//! ```text
//! A  the ordinary program          inside::Launcher::spawn   maps ids with newuidmap
//! C  re-executed, single-threaded  inside::enter             unshares, waits for W
//! W  process 1 of a pid namespace  inside::enter returns     run(), from any thread
//! ```
//!
//! Each is tied to the one before it by `PR_SET_PDEATHSIG`, and W's end ends its namespace: kill
//! A at any moment, and nothing is left.

mod cancel;
mod caps;
mod cgroup;
mod child;
pub mod chroot;
mod devices;
pub mod emulate;
mod error;
mod filesystem;
mod idmap;
pub mod inside;
mod network;
mod overlay;
mod passing;
mod place;
mod plan;
mod prepare;
pub mod probe;
mod run;
mod seccomp;
mod source;
pub mod spec;
mod stage;
mod stubs;
mod sys;
mod teardown;
pub mod watch;

pub use cancel::Cancel;
pub use error::{EnterStep, Error, Step};
pub use network::DNS_FORWARD;
pub use run::run;
pub use teardown::wait_for_teardown;
