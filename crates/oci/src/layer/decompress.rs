//! Layer blobs as plain archives: the compression is detected by its first bytes, as registries
//! hold layers whose media type lies.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// Compressed bytes read at once.
const BUFFER: usize = 128 << 10;
/// Largest window a zstd frame may ask for, as a power of two: the most the format's standard
/// tools accept without being told to (RFC 8878 §3.1.1.1.2 recommends at least 8 MiB).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A reader of uncompressed bytes.
pub enum Decoder<R: BufRead> {
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
    Plain(R),
}

/// What [`Decoder`] reads from: the bytes looked at and the rest.
pub type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// Detects gzip (RFC 1952), zstd (RFC 8878) or neither. Gzip members and zstd frames that follow
/// each other are one stream; anything else behind them is an error, not ignored.
///
/// # Errors
/// Those of the reader.
pub fn decompress<R: Read>(mut reader: R) -> io::Result<Decoder<Source<R>>> {
    let mut magic = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    let start = Cursor::new(magic.clone());
    let source = BufReader::with_capacity(BUFFER, start.chain(reader));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
        // A frame, or a skippable frame before it (RFC 8878 §3.1.2).
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Decoder::Zstd(Box::new(decoder))
        }
        _ => Decoder::Plain(source),
    })
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Plain(reader) => reader.read(buffer),
        }
    }
}

impl<R: BufRead> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Decoder::Gzip",
            Self::Zstd(_) => "Decoder::Zstd",
            Self::Plain(_) => "Decoder::Plain",
        })
    }
}
