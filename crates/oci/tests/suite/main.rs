//! Everything the crate promises, through its public interface.

extern crate layercake_oci as oci;

mod archives;
mod hostile;
mod images;
mod layers;
mod layouts;
mod registries;
mod tarball;
