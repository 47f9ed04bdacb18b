//! A build from request to image, in the order of docs/ARCHITECTURE.md:
//! [`dockerfile`] reads and parses, [`resolve`] answers what lowering asks for, the scheduler of
//! the `graph` crate drives [`executor`], [`export`] assembles the image and ships it.
//!
//! A build starts in an ordinary process. As soon as files of other owners are needed (a step
//! must run, a layer be unpacked), the whole of it starts again in a process of its own that is
//! root in a user namespace: [`start`]. A build that finds everything in the cache never gets
//! there.

mod agents;
mod behind;
mod build;
mod caches;
mod cgroup;
mod checks;
pub mod context;
pub mod copy;
mod copying;
mod dns;
mod dockerfile;
mod emulation;
mod examine;
mod executor;
mod export;
mod fetch;
mod flatten;
pub(crate) mod host;
mod layers;
pub(crate) mod leash;
pub(crate) mod limits;
mod logs;
mod mounts;
mod output;
mod resolve;
mod room;
mod rootfs;
mod run;
mod secrets;
mod settle;
mod signals;
mod smalltars;
mod ssh;
mod start;
mod time;

pub(crate) use dockerfile::read_alone;
pub(crate) use examine::{Examination, Lint};
pub(crate) use start::{prune_all, start};
