//! Keeps bytes, cache records and root-filesystem snapshots on disk, safely under concurrency
//! and crash. [`format`] describes the files; [`Store`] is the way in.
#![forbid(unsafe_code)]

mod atomic;
pub mod blob;
mod codec;
pub mod content;
pub mod diff;
pub mod digest;
pub mod dirwriter;
pub mod error;
pub mod format;
pub mod layer;
pub mod owner;
pub mod plain;
pub mod record;
pub mod scan;
mod session;
pub mod tree;
pub mod view;

pub use digest::Digest;
pub use error::{Error, Result};
pub use session::Store;
