//! Takes the bytes of a layer archive and makes both its digests and its blob in one pass.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::Receiver;

use oci_spec::image::MediaType;
use store::digest::{Digest, HashWriter};

use super::compress::{Compression, PIECE};
use super::workers::Workers;

/// A `Write` for tar bytes. The caller's thread hashes, [`Workers`] compress, and the compressed
/// pieces are written to `W` in order; memory is bounded by two pieces for each worker.
///
/// When only the diff id is wanted, a `store::digest::HashWriter` does.
#[derive(Debug)]
pub struct LayerSink<W> {
    tar: HashWriter<io::Sink>,
    blob: HashWriter<W>,
    compression: Compression,
    workers: Workers,
    piece: Vec<u8>,
    pending: VecDeque<Receiver<io::Result<Done>>>,
    spare: Vec<Vec<u8>>,
}

/// A compressed piece and the buffer it was made from, to be used again.
#[derive(Debug)]
struct Done {
    compressed: Vec<u8>,
    piece: Vec<u8>,
}

/// What a finished [`LayerSink`] knows.
#[derive(Debug)]
pub struct Sealed<W> {
    /// SHA-256 of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of the uncompressed archive.
    pub tar_size: u64,
    pub blob: Blob,
    pub writer: W,
}

/// A compressed layer, as a descriptor says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: MediaType,
}

impl<W: Write> LayerSink<W> {
    /// The blob goes to `writer`, which is not flushed.
    pub fn new(writer: W, compression: Compression, workers: &Workers) -> Self {
        Self {
            tar: HashWriter::new(io::sink()),
            blob: HashWriter::new(writer),
            compression,
            workers: workers.clone(),
            piece: Vec::new(),
            pending: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Compresses the last piece and waits for all.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<Sealed<W>> {
        let last = std::mem::take(&mut self.piece);
        if self.pending.is_empty() {
            // A small layer: no thread is started for it.
            self.blob.write_all(&self.compression.compress(&last)?)?;
        } else {
            if !last.is_empty() {
                self.submit(last);
            }
            while let Some(next) = self.pending.pop_front() {
                self.collect(&next)?;
            }
        }
        let (diff_id, tar_size, _) = self.tar.finish();
        let (digest, size, writer) = self.blob.finish();
        let blob = Blob {
            digest,
            size,
            media_type: self.compression.media_type(),
        };
        Ok(Sealed {
            diff_id,
            tar_size,
            blob,
            writer,
        })
    }

    fn submit(&mut self, piece: Vec<u8>) {
        let compression = self.compression;
        self.pending.push_back(self.workers.run(move || {
            let compressed = compression.compress(&piece)?;
            Ok(Done { compressed, piece })
        }));
    }

    fn collect(&mut self, next: &Receiver<io::Result<Done>>) -> io::Result<()> {
        let done = next
            .recv()
            .map_err(|_| io::Error::other("a compression thread panicked"))??;
        self.spare.push(done.piece);
        self.blob.write_all(&done.compressed)
    }

    /// Hands the full piece on and makes room for the next.
    fn turn(&mut self) -> io::Result<()> {
        let full = std::mem::take(&mut self.piece);
        self.submit(full);
        if self.pending.len() >= 2 * self.workers.count()
            && let Some(next) = self.pending.pop_front()
        {
            self.collect(&next)?;
        }
        self.piece = self.spare.pop().unwrap_or_default();
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for LayerSink<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // A full piece is handed on when more comes, so that the last one is never empty.
        if self.piece.len() == PIECE {
            self.turn()?;
        }
        let n = buffer.len().min(PIECE - self.piece.len());
        self.tar.write_all(&buffer[..n])?;
        self.piece.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Does nothing: where pieces end must depend on the bytes alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
