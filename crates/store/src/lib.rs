//! Keeps bytes, cache records and root-filesystem snapshots on disk, safely under concurrency
//! and crash.
#![forbid(unsafe_code)]

pub mod content;
pub mod tree;
