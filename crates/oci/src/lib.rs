//! Reads and writes OCI layers, images, layouts and registries.
#![forbid(unsafe_code)]

pub mod error;
pub mod layer;
