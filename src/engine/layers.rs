//! Layers in whatever form somebody needs them: an index to look into, a directory to mount or
//! read files from, a blob to ship. Each form is made from another on first demand, once.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::layer::{Compression, LayerSink, ReadOptions, Workers, decompress, pack, scan, unpack};
use serde::{Deserialize, Serialize};
use store::blob::BlobWriter;
use store::content::{Content, Item};
use store::digest::{DigestMap, DigestState, HashWriter};
use store::dirwriter::{DirWriter, open_directory};
use store::owner::Owners;
use store::record::RecordKind;
use store::tree::{ContentHash, Index, Kind};
use store::view::View;
use store::{Digest, Store};

use super::behind::WriteBehind;
use super::flatten::{self, Merger};
use super::smalltars::{Kept, SmallTars};
use crate::failure::{Failure, FailureKind};

const BLOBS: RecordKind = RecordKind("blobs");

/// Where the blob of a layer that an image brought can be had.
pub(crate) trait Origin: Send + Sync {
    fn blob(&self) -> LayerBlob;
    /// The compressed bytes; the caller verifies them.
    fn open(&self) -> Result<Box<dyn Read + Send>, Failure>;
}

/// A layer as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerBlob {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) media_type: String,
}

/// What is known of the blob of a layer.
#[derive(Debug, Serialize, Deserialize)]
struct BlobRecord {
    #[serde(flatten)]
    blob: LayerBlob,
    /// Under which it was written, or last checked.
    boot: String,
}

impl LayerBlob {
    fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }
}

/// A stack of layers, bottom first: what a step makes and the next one starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) layers: Arc<[Digest]>,
}

impl Tree {
    pub(crate) fn new(layers: Vec<Digest>) -> Self {
        Self {
            layers: layers.into(),
        }
    }

    pub(crate) fn with(&self, layer: Digest) -> Self {
        Self {
            layers: self.layers.iter().copied().chain([layer]).collect(),
        }
    }

    /// One digest for the whole stack, for keys.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for layer in self.layers.iter() {
            hasher.update(layer.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// See the module text.
pub(crate) struct Layers {
    pub(crate) store: Arc<Store>,
    pub(super) behind: WriteBehind,
    pub(super) merger: Merger,
    small: SmallTars,
    workers: Workers,
    /// `None` outside the user namespace: directories hold files of mapped ids, so none is made
    /// or read there.
    owners: Option<Owners>,
    wants_inside: AtomicBool,
    origins: Mutex<DigestMap<Arc<dyn Origin>>>,
    indexes: Mutex<DigestMap<Arc<Index>>>,
    descriptors: Mutex<DigestMap<Arc<OwnedFd>>>,
    /// Those seen so far: nobody removes any while the store is open.
    directories: Mutex<DigestMap<PathBuf>>,
    turns: Mutex<HashMap<(Form, Digest), Turn>>,
}

/// Held by whoever makes a form of a layer.
type Turn = Arc<Mutex<()>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Index,
    Directory,
    Blob,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn internal(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Internal, message)
}

fn damaged(digest: &Digest, error: &dyn std::error::Error) -> Failure {
    let mut failure = Failure::of(FailureKind::Registry, error);
    failure.message = format!("layer {digest}: {}", failure.message);
    failure
}

impl Layers {
    pub(crate) fn new(store: Arc<Store>, owners: Option<Owners>) -> Self {
        if let Some(owners) = owners {
            store.keep_owners(owners);
        }
        Self {
            behind: WriteBehind::new(store.clone()),
            merger: Merger::default(),
            small: SmallTars::default(),
            store,
            workers: Workers::one_per_core(),
            owners,
            wants_inside: AtomicBool::new(false),
            origins: Mutex::default(),
            indexes: Mutex::default(),
            descriptors: Mutex::default(),
            directories: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// True when something failed only because this process is outside the user namespace.
    pub(crate) fn wants_inside(&self) -> bool {
        self.wants_inside.load(Ordering::Relaxed)
    }

    /// The kind of owners kept in directories.
    ///
    /// # Errors
    /// Outside, after noting that the build must go on inside.
    pub(crate) fn owners(&self) -> Result<Owners, Failure> {
        self.owners.ok_or_else(|| {
            self.wants_inside.store(true, Ordering::Relaxed);
            internal("layer files are needed outside the user namespace")
        })
    }

    pub(crate) fn add_origin(&self, diff_id: Digest, origin: Arc<dyn Origin>) {
        lock(&self.origins).entry(diff_id).or_insert(origin);
    }

    fn origin(&self, diff_id: &Digest) -> Option<Arc<dyn Origin>> {
        lock(&self.origins).get(diff_id).cloned()
    }

    /// Whoever holds the turn makes the form; the others then find it made.
    fn turn(&self, form: Form, diff_id: &Digest) -> Turn {
        lock(&self.turns)
            .entry((form, *diff_id))
            .or_default()
            .clone()
    }

    /// True when every form of the layer can be had, told by a few `stat`s.
    pub(crate) fn is_available(&self, diff_id: &Digest) -> bool {
        let has_content = || {
            self.store.layer_directory(diff_id).is_some()
                || self.stored_blob(diff_id).is_some()
                || self.origin(diff_id).is_some()
        };
        self.has_index(diff_id) && (has_content() || self.recheck(diff_id))
    }

    /// A directory of an earlier boot counts again when its bytes still give the diff_id.
    fn recheck(&self, diff_id: &Digest) -> bool {
        let Some(path) = self.store.untrusted_layer_directory(diff_id) else {
            return false;
        };
        if self.owners().is_err() {
            return false;
        }
        let Ok(root) = open_directory(&path) else {
            return false;
        };
        let Ok(index) = self.index(diff_id) else {
            return false;
        };
        let items = items(&index, &Arc::new(root));
        let packed = pack(items, HashWriter::new(std::io::sink()));
        let same = packed.is_ok_and(|(_, writer)| writer.finish().0 == *diff_id);
        same && self.store.trust_layer(diff_id).is_ok()
    }

    /// The blob, if it is in the store and can be trusted: one written under an earlier boot is
    /// read once, as a power cut may have left other bytes of the same length.
    fn stored_blob(&self, diff_id: &Digest) -> Option<LayerBlob> {
        let record = self.behind.record(BLOBS, diff_id.as_bytes()).ok()??;
        let BlobRecord { blob, boot } = serde_json::from_slice(&record).ok()?;
        let digest = blob.digest()?;
        if self.store.blob_size(&digest) != Some(blob.size) {
            return None;
        }
        if boot != self.store.boot_id() {
            let mut file = self.store.open_blob(&digest).ok()?;
            if Digest::of_reader(&mut file).ok()? != digest {
                return None;
            }
            self.record_blob(diff_id, &blob).ok()?;
        }
        Some(blob)
    }

    fn record_blob(&self, diff_id: &Digest, blob: &LayerBlob) -> Result<(), Failure> {
        let boot = self.store.boot_id().to_owned();
        let record = BlobRecord {
            blob: blob.clone(),
            boot,
        };
        let json = serde_json::to_vec(&record).map_err(|e| internal(e.to_string()))?;
        self.behind.put_record(BLOBS, diff_id.as_bytes(), json);
        Ok(())
    }

    /// The compressed bytes from the store or the image's origin.
    fn open_blob(&self, diff_id: &Digest) -> Result<Box<dyn Read + Send>, Failure> {
        if let Some(digest) = self.stored_blob(diff_id).and_then(|b| b.digest()) {
            return Ok(Box::new(self.store.open_blob(&digest)?));
        }
        match self.origin(diff_id) {
            Some(origin) => origin.open(),
            None => Err(Failure::new(
                FailureKind::Cache,
                format!("layer {diff_id} is gone from the store"),
            )
            .hint("build again with --no-cache")),
        }
    }

    /// What the layer contains.
    pub(crate) fn index(&self, diff_id: &Digest) -> Result<Arc<Index>, Failure> {
        if let Some(index) = lock(&self.indexes).get(diff_id) {
            return Ok(index.clone());
        }
        let turn = self.turn(Form::Index, diff_id);
        let _turn = lock(&turn);
        if let Some(index) = lock(&self.indexes).get(diff_id) {
            return Ok(index.clone());
        }
        let index = match self.store.index(diff_id) {
            Some(index) => index,
            None => {
                let tar = decompress(self.open_blob(diff_id)?).map_err(|e| damaged(diff_id, &e))?;
                let scanned =
                    scan(tar, ReadOptions::default()).map_err(|e| damaged(diff_id, &e))?;
                check(diff_id, &scanned.diff_id)?;
                self.store.put_index(diff_id, &scanned.index)?;
                scanned.index
            }
        };
        let index = Arc::new(index);
        lock(&self.indexes).insert(*diff_id, index.clone());
        Ok(index)
    }

    pub(crate) fn view(&self, tree: &Tree) -> Result<View, Failure> {
        Ok(View::new(self.indexes(&tree.layers)?))
    }

    /// What each of `layers` contains.
    fn indexes(&self, layers: &[Digest]) -> Result<Vec<Arc<Index>>, Failure> {
        let known = lock(&self.indexes);
        let indexes = layers.iter().map(|layer| known.get(layer).cloned());
        let indexes: Vec<Option<Arc<Index>>> = indexes.collect();
        drop(known);
        let index = |(index, layer): (Option<_>, _)| index.map_or_else(|| self.index(layer), Ok);
        indexes.into_iter().zip(layers).map(index).collect()
    }

    /// The layer's files, unpacked when they are not yet.
    pub(crate) fn directory(&self, diff_id: &Digest) -> Result<PathBuf, Failure> {
        let owners = self.owners()?;
        if let Some(path) = self.known_directory(diff_id) {
            return Ok(path);
        }
        let turn = self.turn(Form::Directory, diff_id);
        let _turn = lock(&turn);
        if let Some(path) = self.known_directory(diff_id) {
            return Ok(path);
        }
        if !self.has_blob(diff_id) && self.recheck(diff_id) {
            return self
                .store
                .layer_directory(diff_id)
                .ok_or_else(|| internal("layer vanished"));
        }
        let draft = self.store.layer_draft()?;
        let writer = DirWriter::new(open_directory(&draft.files())?, owners);
        let tar = decompress(self.open_blob(diff_id)?).map_err(|e| damaged(diff_id, &e))?;
        let unpacked =
            unpack(tar, ReadOptions::default(), writer).map_err(|e| damaged(diff_id, &e))?;
        check(diff_id, &unpacked.diff_id)?;
        if !self.store.has_index(diff_id) {
            self.store.put_index(diff_id, &unpacked.index)?;
        }
        Ok(self.store.commit_layer(&draft, diff_id)?)
    }

    /// The layer's directory when it is there.
    pub(super) fn known_directory(&self, diff_id: &Digest) -> Option<PathBuf> {
        if let Some(path) = lock(&self.directories).get(diff_id) {
            return Some(path.clone());
        }
        let path = self.store.layer_directory(diff_id)?;
        lock(&self.directories).insert(*diff_id, path.clone());
        Some(path)
    }

    fn has_blob(&self, diff_id: &Digest) -> bool {
        self.stored_blob(diff_id).is_some() || self.origin(diff_id).is_some()
    }

    /// Directories of a stack for an overlay: top first, without empty layers (they add nothing)
    /// and without a second occurrence below (hidden wholly by the first; overlayfs refuses it
    /// with ELOOP). An empty directory when that leaves none (rule S12): overlayfs wants one.
    pub(crate) fn lowers(&self, tree: &Tree) -> Result<Vec<PathBuf>, Failure> {
        let (mut wanted, mut indexes) = (Vec::new(), Vec::new());
        let mut seen: HashSet<&Digest, DigestState> = HashSet::default();
        let all = self.indexes(&tree.layers)?;
        for (layer, index) in tree.layers.iter().zip(all).rev() {
            if seen.insert(layer) && !index.is_empty() {
                wanted.push(*layer);
                indexes.push(index);
            }
        }
        if wanted.is_empty() {
            return Ok(vec![self.store.layer_draft()?.files()]);
        }
        self.unpack_all(&wanted);
        wanted.reverse();
        indexes.reverse();
        flatten::directories(self, &wanted, &indexes)
    }

    /// Unpacks the layers of which nothing is known yet, because a step is about to run on them: to
    /// inflate a layer once gives its directory and its index.
    pub(super) fn unpack_unknown(&self, tree: &Tree) {
        let mut unknown: Vec<Digest> = tree.layers.to_vec();
        unknown.retain(|layer| !self.has_index(layer));
        unknown.sort_unstable();
        unknown.dedup();
        match unknown.as_slice() {
            [layer] => {
                // The error comes again.
                self.directory(layer).ok();
            }
            layers => self.unpack_all(layers),
        }
    }

    /// Unpacks what is not unpacked of these layers, several at once as inflating is one thread per
    /// layer. Errors come again when a directory is asked for.
    pub(super) fn unpack_all(&self, wanted: &[Digest]) {
        let missing: Vec<&Digest> = wanted
            .iter()
            .filter(|l| self.known_directory(l).is_none())
            .collect();
        if missing.len() < 2 {
            return;
        }
        let queue = Mutex::new(missing.iter());
        std::thread::scope(|scope| {
            for _ in 0..self.workers.count().max(4).min(missing.len()) {
                scope.spawn(|| {
                    while let Some(layer) = { lock(&queue).next() } {
                        self.directory(layer).ok();
                    }
                });
            }
        });
    }

    /// The directory called `name`, made by `make` in an empty one when it is not there.
    pub(super) fn merged_directory(
        &self,
        name: &Digest,
        make: impl FnOnce(&Store, Owners) -> Result<PathBuf, Failure>,
    ) -> Result<PathBuf, Failure> {
        let turn = self.turn(Form::Directory, name);
        let _turn = lock(&turn);
        match self.known_directory(name) {
            Some(path) => Ok(path),
            None => make(&self.store, self.owners()?),
        }
    }

    /// A handle to the bytes of a regular file of one layer.
    pub(crate) fn content(&self, diff_id: &Digest, path: &[u8]) -> Result<Content, Failure> {
        let known = lock(&self.descriptors).get(diff_id).cloned();
        let root = match known {
            Some(root) => root,
            None => {
                let root = Arc::new(open_directory(&self.directory(diff_id)?)?);
                lock(&self.descriptors).insert(*diff_id, root.clone());
                root
            }
        };
        Ok(Content::Beneath {
            root,
            path: path.to_vec(),
        })
    }

    fn put_index(&self, diff_id: &Digest, index: Index) {
        let index = Arc::new(index);
        lock(&self.indexes).insert(*diff_id, index.clone());
        self.behind.put_index(*diff_id, index);
    }

    fn has_index(&self, diff_id: &Digest) -> bool {
        lock(&self.indexes).contains_key(diff_id) || self.store.has_index(diff_id)
    }

    /// Puts a layer made of `items` into the store as a blob. Tells too whether the files in it have
    /// the hashes that the items came with: somebody may have written to one since.
    pub(crate) fn add_as_blob(&self, items: Vec<Item>) -> Result<(Digest, bool), Failure> {
        let expected: Vec<_> = items.iter().filter_map(read_again).collect();
        let (index, sink) = pack(items, self.sink()?).map_err(|e| unbuilt(&e))?;
        let (diff_id, _) = self.seal(sink)?;
        let is_as_expected = |(path, expected): &(Vec<u8>, ContentHash)| {
            let kind = index.get(path).map(|entry| &entry.kind);
            matches!(kind, Some(Kind::File { hash, .. }) if hash == expected)
        };
        let are_as_expected = expected.iter().all(is_as_expected);
        if !self.has_index(&diff_id) {
            self.put_index(&diff_id, index);
        }
        Ok((diff_id, are_as_expected))
    }

    fn sink(&self) -> Result<LayerSink<BlobWriter>, Failure> {
        let writer = self.store.blob_writer()?;
        Ok(LayerSink::new(writer, Compression::Gzip, &self.workers))
    }

    /// Keeps the blob and a record of it.
    fn seal(&self, sink: LayerSink<BlobWriter>) -> Result<(Digest, LayerBlob), Failure> {
        let sealed = sink.finish().map_err(|e| unbuilt(&e))?;
        self.store
            .commit_blob(sealed.writer, Some(&sealed.blob.digest))?;
        let blob = LayerBlob {
            digest: sealed.blob.digest.to_string(),
            size: sealed.blob.size,
            media_type: sealed.blob.media_type.to_string(),
        };
        self.record_blob(&sealed.diff_id, &blob)?;
        Ok((sealed.diff_id, blob))
    }

    /// Puts a layer made of `items`, whose files lie in `draft`, into the store as a directory.
    pub(crate) fn add_as_directory(
        &self,
        items: Vec<Item>,
        draft: &store::layer::LayerDraft,
    ) -> Result<Digest, Failure> {
        let (index, writer) =
            pack(items, HashWriter::new(Kept::default())).map_err(|e| unbuilt(&e))?;
        let (diff_id, _, kept) = writer.finish();
        self.put_index(&diff_id, index);
        self.store.commit_layer(draft, &diff_id)?;
        self.small.put(diff_id, kept);
        Ok(diff_id)
    }

    /// The layer as a blob in the store.
    pub(crate) fn blob(&self, diff_id: &Digest) -> Result<LayerBlob, Failure> {
        let turn = self.turn(Form::Blob, diff_id);
        let _turn = lock(&turn);
        if let Some(blob) = self.stored_blob(diff_id) {
            return Ok(blob);
        }
        if let Some(origin) = self.origin(diff_id) {
            return self.import(diff_id, origin.as_ref());
        }
        let mut sink = self.sink()?;
        if let Some(tar) = self.small.take(diff_id) {
            sink.write_all(&tar).map_err(|e| unbuilt(&e))?;
        } else {
            let index = self.index(diff_id)?;
            let root = Arc::new(open_directory(&self.directory(diff_id)?)?);
            (_, sink) = pack(items(&index, &root), sink).map_err(|e| unbuilt(&e))?;
        }
        let (actual, blob) = self.seal(sink)?;
        check(diff_id, &actual)?;
        Ok(blob)
    }

    fn import(&self, diff_id: &Digest, origin: &dyn Origin) -> Result<LayerBlob, Failure> {
        let blob = origin.blob();
        let digest = blob
            .digest()
            .ok_or_else(|| internal("bad digest from an image"))?;
        if self.store.blob_size(&digest) != Some(blob.size) {
            let mut writer = self.store.blob_writer()?;
            let mut reader = origin.open()?;
            std::io::copy(&mut reader, &mut writer)
                .map_err(|e| Failure::of(FailureKind::Registry, &e))?;
            self.store
                .commit_blob(writer, Some(&digest))
                .map_err(|e| damaged(&digest, &e))?;
        }
        self.record_blob(diff_id, &blob)?;
        Ok(blob)
    }

    /// A blob that is not a layer, or is known to be in the store.
    pub(crate) fn open_stored(&self, digest: &Digest) -> Result<File, Failure> {
        Ok(self.store.open_blob(digest)?)
    }
}

fn unbuilt(error: &dyn std::error::Error) -> Failure {
    Failure::of(FailureKind::Build, error)
}

fn check(expected: &Digest, actual: &Digest) -> Result<(), Failure> {
    if expected == actual {
        return Ok(());
    }
    let message = format!("layer {expected}: its content has the diff_id {actual}");
    Err(Failure::new(FailureKind::Registry, message))
}

/// A file that is opened only now, and the hash it had when it was looked at, if it was.
fn read_again(item: &Item) -> Option<(Vec<u8>, ContentHash)> {
    match (&item.entry.kind, &item.content) {
        (Kind::File { hash, .. }, Content::Beneath { .. }) if *hash != ContentHash::default() => {
            Some((item.entry.path.clone(), *hash))
        }
        _ => None,
    }
}

/// The items of a layer whose files lie below `root`.
fn items(index: &Index, root: &Arc<OwnedFd>) -> Vec<Item> {
    let item = |entry: &store::tree::Entry| {
        let content = match entry.kind {
            Kind::File { .. } => Content::Beneath {
                root: root.clone(),
                path: entry.path.clone(),
            },
            _ => Content::None,
        };
        Item {
            entry: entry.clone(),
            content,
        }
    };
    index.entries().iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use store::tree::Entry;

    use super::*;

    #[test]
    fn files_that_were_written_to_since_they_were_hashed_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
        let layers = Layers::new(store, None);
        std::fs::write(directory.path().join("file"), "content").unwrap();
        let root = Arc::new(open_directory(directory.path()).unwrap());
        let add = |hash: ContentHash| {
            let entry = Entry {
                path: b"file".to_vec(),
                kind: Kind::File { size: 7, hash },
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: 0,
                xattrs: Vec::new(),
            };
            let content = Content::Beneath {
                root: root.clone(),
                path: b"file".to_vec(),
            };
            layers.add_as_blob(vec![Item { entry, content }]).unwrap()
        };
        let (layer, is_same) = add(*blake3::hash(b"content").as_bytes());
        assert!(is_same);
        assert_eq!(add(*blake3::hash(b"earlier").as_bytes()), (layer, false));
        // Nobody had looked at it.
        assert_eq!(add([0; 32]), (layer, true));
    }
}
