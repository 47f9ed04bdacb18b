//! Cache keys: what a step's result depends on, as one BLAKE3 hash.
//!
//! A key covers the format version, the op as JSON (serde leaves out what cannot matter, see
//! [`crate::op`]), and a digest per input that the executor supplies: of the whole tree below,
//! or of just the files that are read. Every part is framed by its length (rule K18).

use std::fmt;

use crate::op::Op;

/// Bump when the meaning of an op or the bytes of a layer change: old records are then misses.
const VERSION: &str = "layercake step 1";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Collects the parts of a key in order.
#[derive(Debug)]
pub struct KeyBuilder(blake3::Hasher);

impl KeyBuilder {
    /// Starts with the op itself.
    ///
    /// # Panics
    /// Never: ops hold only strings, numbers and lists, which JSON can always hold.
    #[must_use]
    pub fn new(op: &Op) -> Self {
        let json = serde_json::to_vec(op).expect("an op is plain data");
        let mut builder = Self(blake3::Hasher::new());
        builder.part(VERSION.as_bytes()).part(&json);
        builder
    }

    pub fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    #[must_use]
    pub fn finish(&self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }
}
