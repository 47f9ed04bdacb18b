//! Layers by diff_id: their index, and their directory when somebody needed the files.

use std::path::{Path, PathBuf};

use crate::Store;
use crate::atomic::rename_into_place;
use crate::codec;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::owner::Owners;
use crate::tree::Index;

/// A fresh pair of directories on the store's file system: `files` for the content of a layer
/// (an overlay upper), `work` beside it. Both empty. What is not committed is cleared away later.
#[derive(Debug)]
pub struct LayerDraft {
    files: PathBuf,
    work: PathBuf,
}

impl LayerDraft {
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.files.clone()
    }

    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.work.clone()
    }
}

/// What the names of sets of layers with [`Owners::Recorded`] end in.
const RECORDED: &str = ".recorded";

impl Store {
    fn index_path(&self, diff_id: &Digest) -> PathBuf {
        self.path("index").join(diff_id.hex())
    }

    /// The name is short, as an overlay option holds at most 255 bytes.
    fn layer_path(&self, set: &str, diff_id: &Digest) -> PathBuf {
        self.path("layers").join(set).join(&diff_id.hex()[..32])
    }

    /// The layers of this boot whose directories keep owners in one way.
    fn layer_set(&self, owners: Owners) -> String {
        match owners {
            Owners::Inode => self.boot_id.clone(),
            Owners::Recorded => format!("{}{RECORDED}", self.boot_id),
        }
    }

    /// Where this process puts layers.
    fn own_layer_path(&self, diff_id: &Digest) -> PathBuf {
        let owners = self.owners.get().copied().unwrap_or(Owners::Inode);
        self.layer_path(&self.layer_set(owners), diff_id)
    }

    /// True when the layer's index is known, without reading it.
    #[must_use]
    pub fn has_index(&self, diff_id: &Digest) -> bool {
        self.index_path(diff_id).exists()
    }

    /// The layer's index; `None` when unknown or damaged.
    #[must_use]
    pub fn index(&self, diff_id: &Digest) -> Option<Index> {
        codec::decode(&std::fs::read(self.index_path(diff_id)).ok()?)
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn put_index(&self, diff_id: &Digest, index: &Index) -> Result<()> {
        self.names
            .write(&self.index_path(diff_id), &codec::encode(index))
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn layer_draft(&self) -> Result<LayerDraft> {
        let draft = LayerDraft {
            files: self.names.fresh(),
            work: self.names.fresh(),
        };
        for path in [&draft.files, &draft.work] {
            std::fs::create_dir(path).map_err(Error::io("create", path))?;
        }
        Ok(draft)
    }

    /// Makes the draft's files the directory of `diff_id`. When there is one already (two
    /// processes made the same layer) that one stays and the draft is cleared away later.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit_layer(&self, draft: &LayerDraft, diff_id: &Digest) -> Result<PathBuf> {
        let target = self.own_layer_path(diff_id);
        if target.exists() {
            return Ok(target);
        }
        match rename_into_place(&draft.files, &target) {
            // Another process was faster.
            Err(_) if target.exists() => Ok(target),
            result => result.map(|()| target),
        }
    }

    /// The layer's directory when it is there and can be trusted: layers are written without
    /// fsync (the overlay is `volatile`), so one of an earlier boot may be incomplete and is made
    /// again from its blob or its step. Outside any will do, since there it is not looked into.
    #[must_use]
    pub fn layer_directory(&self, diff_id: &Digest) -> Option<PathBuf> {
        let sets = match self.owners.get() {
            Some(owners) => vec![*owners],
            None => vec![Owners::Inode, Owners::Recorded],
        };
        let paths = sets
            .into_iter()
            .map(|set| self.layer_path(&self.layer_set(set), diff_id));
        paths.into_iter().find(|path| path.exists())
    }

    /// A directory of an earlier boot, to be checked against the diff_id and then
    /// [`Store::trust_layer`]ed.
    #[must_use]
    pub fn untrusted_layer_directory(&self, diff_id: &Digest) -> Option<PathBuf> {
        let boots = std::fs::read_dir(self.path("layers")).ok()?;
        let paths = boots.flatten().filter_map(|boot| {
            let set = boot.file_name();
            let set = set.to_str()?;
            let owners = if set.ends_with(RECORDED) {
                Owners::Recorded
            } else {
                Owners::Inode
            };
            let is_ours = self.owners.get().is_none_or(|ours| *ours == owners);
            is_ours.then(|| self.layer_path(set, diff_id))
        });
        paths.into_iter().find(|path| path.exists())
    }

    /// Takes a checked directory over into this boot.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn trust_layer(&self, diff_id: &Digest) -> Result<()> {
        match self.untrusted_layer_directory(diff_id) {
            Some(path) => rename_into_place(&path, &self.own_layer_path(diff_id)),
            None => Ok(()),
        }
    }

    /// Tells the boots of the machine apart: what was written under another one may be damaged.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Where things that are neither blobs nor layers may be kept (`cache mounts`, stat caches).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn area(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(path)
    }

    /// A fresh path in this process's temporary directory; nothing is there yet.
    #[must_use]
    pub fn temporary_path(&self) -> PathBuf {
        self.names.fresh()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(Path::new(name))
    }
}
