//! Layers: the tar archives an image is made of, written, compressed, read and unpacked.
//!
//! Writing: [`pack`] or [`LayerWriter`] turns entries into canonical tar bytes, [`LayerSink`] takes
//! those and makes the two digests and the compressed blob in the same pass.
//! Reading: [`decompress`] detects the compression, [`LayerReader`] yields entries, [`scan`] and
//! [`unpack`] make an index (and a directory) of them.

mod archive;
mod compress;
mod decompress;
mod header;
mod limits;
mod pack;
mod pax;
mod place;
mod read;
mod scan;
mod sink;
mod sparse;
mod workers;
mod write;

pub use compress::Compression;
pub use decompress::{Decoder, Source, decompress};
pub use limits::Limits;
pub use pack::pack;
pub use read::{LayerReader, Markers, Member, ReadOptions};
pub use scan::{Scanned, scan, unpack};
pub use sink::{Blob, LayerSink, Sealed};
pub use workers::Workers;
pub use write::LayerWriter;
