//! Reads and writes OCI layers, images, layouts and registries.
#![forbid(unsafe_code)]

pub mod error;
pub mod http;
pub mod image;
pub mod json;
pub mod layer;
pub mod layout;
pub mod platform;
pub mod reference;
pub mod registry;
#[cfg(feature = "testing")]
pub mod testing;
