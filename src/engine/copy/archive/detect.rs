//! What a file is by its first bytes.

use std::io::{self, BufReader, Cursor, Read};

/// Of a tar archive.
pub(super) const BLOCK: usize = 512;

/// Working memory an xz stream may ask for: `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 512 << 10;

/// A stream of plain bytes.
pub(super) struct Plain {
    pub reader: Box<dyn Read>,
    pub compressed: bool,
}

/// Looks through gzip, bzip2, xz and zstd, told apart by their magic numbers (rule D01). Streams
/// that follow each other are one.
///
/// # Errors
/// Those of the reader.
pub(super) fn decompress(mut reader: impl Read + 'static) -> io::Result<Plain> {
    let mut magic = Vec::with_capacity(6);
    reader.by_ref().take(6).read_to_end(&mut magic)?;
    let whole = Cursor::new(magic.clone()).chain(reader);
    let reader: Box<dyn Read> = match magic.as_slice() {
        [b'B', b'Z', b'h', ..] => {
            Box::new(bzip2::bufread::MultiBzDecoder::new(BufReader::new(whole)))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new_mem_limit(
            BufReader::new(whole),
            true,
            XZ_MEMORY_KIB,
        )),
        _ => {
            let decoder = oci::layer::decompress(whole)?;
            let compressed = !matches!(decoder, oci::layer::Decoder::Plain(_));
            return Ok(Plain {
                reader: Box::new(decoder),
                compressed,
            });
        }
    };
    Ok(Plain {
        reader,
        compressed: true,
    })
}

/// Whether a block is the header of a tar member, of whatever dialect: all there is to tell is its
/// checksum (POSIX.1-1988), the sum of its bytes with the checksum's own taken as blanks.
pub(super) fn is_tar_header(block: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    if block.len() != BLOCK || block.iter().all(|b| *b == 0) {
        return false;
    }
    let text = block[CHECKSUM]
        .split(|b| *b == 0)
        .find(|part| !part.is_empty());
    let text = std::str::from_utf8(text.unwrap_or_default())
        .unwrap_or_default()
        .trim();
    let Ok(want) = i64::from_str_radix(text, 8) else {
        return false;
    };
    let others = || block[..CHECKSUM.start].iter().chain(&block[CHECKSUM.end..]);
    let blanks = 8 * i64::from(b' ');
    let unsigned: i64 = others().map(|b| i64::from(*b)).sum();
    let signed: i64 = others().map(|b| i64::from(b.cast_signed())).sum();
    want == blanks + unsigned || want == blanks + signed
}
