//! Keeps bytes, cache records and root-filesystem snapshots on disk, safely under concurrency
//! and crash.
#![forbid(unsafe_code)]

pub mod content;
pub mod digest;
pub mod dirwriter;
pub mod error;
pub mod owner;
pub mod tree;

pub use digest::Digest;
pub use error::{Error, Result};
