//! A build from request to image, in the order of docs/ARCHITECTURE.md:
//! [`dockerfile`] reads and parses, [`resolve`] answers what lowering asks for, the scheduler of
//! the `graph` crate drives [`executor`], [`export`] assembles the image and ships it.
//!
//! A build starts in an ordinary process. As soon as files of other owners are needed (a step
//! must run, a layer be unpacked), the whole of it starts again in a process of its own that is
//! root in a user namespace: [`start`]. A build that finds everything in the cache never gets
//! there.

mod build;
mod caches;
pub mod context;
pub mod copy;
mod copying;
mod dockerfile;
mod executor;
mod export;
mod flatten;
mod layers;
mod mounts;
mod resolve;
mod run;
mod settle;
mod signals;
mod start;
mod time;

pub(crate) use start::{prune_all, start};
