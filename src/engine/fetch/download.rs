//! Contexts that are one file of an HTTP server (rules G05, G10): an archive, unpacked, or a
//! Dockerfile.

use std::io;
use std::path::{Path, PathBuf};

use graph::{KeyBuilder, Op, op};
use store::content::Content;
use store::dirwriter::{DirWriter, open_directory};
use store::layer::LayerDraft;
use store::owner::Owners;
use store::tree::{Entry, Kind};
use store::view::View;

use super::{Access, http};
use crate::engine::copy::users::NumbersOnly;
use crate::engine::copy::{
    AnonymousFiles, LayerFiles, Means, Source, archive_limits, plan_copy, select,
};
use crate::engine::executor::StepError;

/// What a download is called in its context, as BuildKit calls it.
pub(super) const NAME: &str = "context";

/// Files that were downloaded, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Downloaded {
    directory: PathBuf,
    _draft: LayerDraft,
}

impl Downloaded {
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Downloads `url`, or takes it from the store if the server says that it did not change, and puts
/// it into a directory: what is in it, if it is an archive and `unpack` says so, else itself under
/// [`NAME`]. Everything belongs to root then, as what `COPY` takes from a context does; directories
/// can be entered and files read by whoever builds, and devices are left out.
///
/// # Errors
/// As for `ADD` of the URL.
pub(super) fn bring(access: &Access<'_>, url: &str, unpack: bool) -> Result<Downloaded, StepError> {
    let download = op::Http {
        url: url.to_owned(),
        checksum: None,
    };
    let key = KeyBuilder::new(&Op::Http(download.clone())).finish();
    let found = match http::look_up(access, &download, &key)? {
        Some(found) => found,
        None => http::fetch(access, &download, &key, access.cancel)?,
    };
    let source = op::CopySource::Download {
        input: 1,
        name: NAME.to_owned(),
        unpack,
    };
    let copy = op::Copy::plain(vec![source], "/".to_owned(), 0);
    let sources = [Source::File(found.file(access.store)?)];
    let selection = select(&copy, &sources)?;
    let temp = AnonymousFiles {
        directory: access.store.area("tmp")?,
    };
    let means = Means {
        temp: &temp,
        below: &Nothing,
        limits: archive_limits(),
    };
    let planned = plan_copy(&copy, &selection, &View::default(), &NumbersOnly, means)?;
    let draft = access.store.layer_draft()?;
    let directory = draft.files();
    let mut writer = DirWriter::new(open_directory(&directory)?, Owners::Recorded);
    for item in planned.items {
        let Some(entry) = readable(item.entry) else {
            continue;
        };
        let written = match &item.content {
            Content::None => writer.write(&entry, &mut io::empty()),
            content => {
                let mut bytes = content
                    .open()
                    .map_err(store::Error::io("read", &directory))?;
                writer.write(&entry, &mut bytes)
            }
        };
        written?;
    }
    writer.finish()?;
    Ok(Downloaded {
        directory,
        _draft: draft,
    })
}

/// The entry as an ordinary user can make and read it; `None` for what only root can make.
fn readable(entry: Entry) -> Option<Entry> {
    let needed = match entry.kind {
        Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Whiteout => return None,
        Kind::Directory { .. } => 0o700,
        _ => 0o400,
    };
    Some(Entry {
        mode: entry.mode | needed,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
        ..entry
    })
}

/// There is nothing below an archive that is unpacked into an empty directory.
struct Nothing;

impl LayerFiles for Nothing {
    fn content(&self, _layer: usize, _path: &[u8]) -> io::Result<Content> {
        Err(io::ErrorKind::NotFound.into())
    }
}
