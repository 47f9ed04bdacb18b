//! Many entries at once: helper threads read and hash small files ahead, in order.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use store::content::{Content, Item, Reader};
use store::tree::{ContentHash, Entry, Index, Kind};

use super::header::{encode, padding};
use super::write::{LayerWriter, changed, content_error, open};
use crate::error::LayerError;

/// Two readers keep two cores and one disk busy; the third thread is the caller's, which hashes
/// the archive. More did not help.
const READERS: usize = 2;
/// Items a reader takes at once.
const BATCH: usize = 64;
/// Batches a reader is ahead of the archive.
const AHEAD: usize = 2;
/// Files up to this size are read by the helpers.
const SMALL: u64 = 128 << 10;
/// A batch holds no more content than this (plus one file); later files of it are streamed.
const BATCH_BYTES: usize = 1 << 20;
/// Below this, starting threads costs more than it saves.
const MINIMUM: usize = 24;

/// Writes all items as one archive and returns their index. Items are sorted first, and of two
/// with the same path the later one is written, so the order given does not matter.
///
/// Memory is bounded: at most `READERS * (AHEAD + 2)` batches of about 1 MiB each.
///
/// # Errors
/// As [`LayerWriter::append`].
pub fn pack<W: Write>(items: Vec<Item>, out: W) -> Result<(Index, W), LayerError> {
    let mut items = sorted(items);
    let mut writer = LayerWriter::new(out);
    if items.len() < MINIMUM {
        for item in &mut items {
            writer.append(&mut item.entry, &item.content)?;
        }
    } else {
        pack_threaded(&mut items, &mut writer)?;
    }
    let index = Index::new(items.into_iter().map(|item| item.entry).collect());
    Ok((index, writer.finish()?))
}

fn sorted(mut items: Vec<Item>) -> Vec<Item> {
    // Stable: of two items with one path the later one stays later.
    items.sort_by(|a, b| store::tree::compare_paths(&a.entry.path, &b.entry.path));
    let mut kept: Vec<Item> = Vec::with_capacity(items.len());
    for item in items {
        match kept.last_mut() {
            Some(last) if last.entry.path == item.entry.path => *last = item,
            _ => kept.push(item),
        }
    }
    kept
}

/// What a reader makes of one batch: tar bytes, with the large files left out.
struct Batch<'a> {
    items: &'a mut [Item],
    pieces: Vec<Piece>,
}

enum Piece {
    Tar(Vec<u8>),
    /// To be streamed by the caller's thread: an index into `items`.
    Large(usize),
}

type Filled<'a> = Result<Batch<'a>, LayerError>;

fn pack_threaded<W: Write>(
    items: &mut [Item],
    writer: &mut LayerWriter<W>,
) -> Result<(), LayerError> {
    let mut lanes: Vec<Vec<&mut [Item]>> = (0..READERS).map(|_| Vec::new()).collect();
    let batches = items.len().div_ceil(BATCH);
    for (number, chunk) in items.chunks_mut(BATCH).enumerate() {
        lanes[number % READERS].push(chunk);
    }
    thread::scope(|scope| {
        let mut receivers: Vec<Receiver<Filled>> = Vec::with_capacity(READERS);
        for lane in lanes {
            let (sender, receiver) = sync_channel(AHEAD);
            receivers.push(receiver);
            scope.spawn(move || read_lane(lane, &sender));
        }
        // Dropping the receivers, on an error, ends readers that are still at work.
        (0..batches).try_for_each(|number| {
            // A reader ends early only after it has sent an error, which ended this loop.
            let Ok(batch) = receivers[number % READERS].recv() else {
                return Ok(());
            };
            write_batch(batch?, writer)
        })
    })
}

fn read_lane<'a>(lane: Vec<&'a mut [Item]>, sender: &SyncSender<Filled<'a>>) {
    for items in lane {
        let batch = fill(items);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

fn fill(items: &mut [Item]) -> Filled<'_> {
    let mut pieces = Vec::new();
    let mut tar = Vec::new();
    for (number, item) in items.iter_mut().enumerate() {
        if !matches!(item.entry.kind, Kind::File { .. }) {
            encode(&item.entry, 0, &mut tar)?;
            continue;
        }
        let (size, mut reader) = open(&item.entry, &item.content)?;
        if size > SMALL || tar.len() > BATCH_BYTES {
            pieces.push(Piece::Tar(std::mem::take(&mut tar)));
            pieces.push(Piece::Large(number));
            continue;
        }
        encode(&item.entry, size, &mut tar)?;
        let hash = match &item.content {
            Content::Hashed { bytes, hash } => {
                tar.extend_from_slice(bytes);
                tar.resize(tar.len() + padding(size), 0);
                *hash
            }
            _ => read_small(&item.entry, size, &mut reader, &mut tar)?,
        };
        item.entry.kind = Kind::File { size, hash };
    }
    pieces.push(Piece::Tar(tar));
    Ok(Batch { items, pieces })
}

/// Appends the content and its padding.
fn read_small(
    entry: &Entry,
    size: u64,
    reader: &mut Reader,
    tar: &mut Vec<u8>,
) -> Result<ContentHash, LayerError> {
    let start = tar.len();
    let end = start + usize::try_from(size).unwrap_or(usize::MAX);
    // One byte more, to see the end of the file without another buffer; and as a regular file
    // gives less than was asked for only at its end, without another call.
    tar.resize(end + 1, 0);
    let mut n = 0;
    while start + n <= end {
        let asked = end + 1 - start - n;
        match reader.read(&mut tar[start + n..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(content_error(entry)(e)),
            Ok(read) => {
                n += read;
                if read < asked {
                    break;
                }
            }
        }
    }
    if n as u64 != size {
        return Err(changed(entry, size, n as u64));
    }
    let hash = *blake3::hash(&tar[start..end]).as_bytes();
    tar.truncate(end);
    tar.resize(end + padding(size), 0);
    Ok(hash)
}

fn write_batch<W: Write>(batch: Batch<'_>, writer: &mut LayerWriter<W>) -> Result<(), LayerError> {
    for piece in batch.pieces {
        match piece {
            Piece::Tar(bytes) => writer.write_raw(&bytes)?,
            Piece::Large(number) => {
                let item = &mut batch.items[number];
                writer.append(&mut item.entry, &item.content)?;
            }
        }
    }
    Ok(())
}
