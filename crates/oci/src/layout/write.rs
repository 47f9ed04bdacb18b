//! Writes one image as a layout. `index.json` comes last, renamed into place, so that a reader
//! sees the old image or the new one and nothing in between.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Descriptor;
use serde_json::{Value, json};
use store::content::Content;
use store::digest::Digest;
use store::tree::{Entry, Kind};

use super::read::{check_marker, read_file};
use super::{BLOBS, CREATED, IMAGE_NAME, INDEX, MARKER, REF_NAME, VERSION};
use crate::error::{ImageError, LayoutError};
use crate::image::Image;
use crate::json::canonical;
use crate::layer::LayerWriter;
use crate::reference::Reference;

/// Where layer blobs come from.
pub trait BlobSource {
    /// # Errors
    /// Also when there is no such blob.
    fn open(&self, digest: &Digest) -> io::Result<File>;

    /// Puts the blob at `path`, which does not exist: hard link, reflink or copy.
    ///
    /// # Errors
    /// Those of the last way that was tried.
    fn link_to(&self, digest: &Digest, path: &Path) -> io::Result<()>;
}

impl BlobSource for store::Store {
    fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.blob_path(digest))
    }

    fn link_to(&self, digest: &Digest, path: &Path) -> io::Result<()> {
        self.link_blob(digest, path)
    }
}

/// Writes the image into the directory `path`, which is made when it is missing. A layout that is
/// there is extended: other names stay, an image of the same name (or, without one, the image
/// without a name) is replaced; its blobs stay, as others may need them. Several processes may
/// write to one layout.
///
/// # Errors
/// [`LayoutError::Io`]; [`LayoutError::NotALayout`] and [`LayoutError::Image`] when what is there
/// cannot be extended.
pub fn write_directory(
    path: &Path,
    image: &Image,
    names: &[Reference],
    blobs: &dyn BlobSource,
) -> Result<(), LayoutError> {
    let directory = path.join(BLOBS);
    std::fs::create_dir_all(&directory).map_err(LayoutError::io("create", &directory))?;
    // Held until the end; of the directory itself, so that no lock file is left behind.
    let lock = File::open(path).map_err(LayoutError::io("open", path))?;
    lock.lock().map_err(LayoutError::io("lock", path))?;
    let old = if path.join(MARKER).exists() {
        check_marker(path)?;
        read_index(path)?
    } else {
        put(&path.join(MARKER), &marker())?;
        Vec::new()
    };
    for (digest, (size, source)) in parts(image) {
        let to = directory.join(digest.hex());
        if std::fs::metadata(&to).is_ok_and(|there| there.len() == size) {
            continue;
        }
        match source {
            Part::Bytes(bytes) => put(&to, bytes)?,
            Part::Blob => link(&to, &digest, size, blobs)?,
        }
    }
    let index = index(path, image, names, old)?;
    put(&path.join(INDEX), &index)
}

/// Writes the image as a tar archive of a layout: sorted, mode 0444 (directories 0755), of 1970,
/// so that equal images make equal archives.
///
/// # Errors
/// [`LayoutError::Io`] for blobs that cannot be read or are not of their size, and for `out`.
pub fn write_archive<W: Write>(
    out: W,
    image: &Image,
    names: &[Reference],
    blobs: &dyn BlobSource,
) -> Result<W, LayoutError> {
    let mut archive = LayerWriter::new(out);
    let mut append = |path: &str, mode, kind, content: &Content| {
        let name = path.as_bytes().to_vec();
        let xattrs = Vec::new();
        let mut entry = Entry {
            path: name,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs,
        };
        let error = |e| LayoutError::io("archive", path)(io::Error::other(e));
        archive.append(&mut entry, content).map_err(error)
    };
    let file = Kind::File {
        size: 0,
        hash: [0; 32],
    };
    for directory in ["blobs", BLOBS] {
        append(
            directory,
            0o755,
            Kind::Directory { opaque: false },
            &Content::None,
        )?;
    }
    for (digest, (size, source)) in parts(image) {
        let path = format!("{BLOBS}/{}", digest.hex());
        let content = match source {
            Part::Bytes(bytes) => Content::Bytes(bytes.to_owned().into()),
            Part::Blob => {
                let file = blobs
                    .open(&digest)
                    .map_err(LayoutError::io("open blob", &path))?;
                Content::Range {
                    file: Arc::new(file),
                    offset: 0,
                    len: size,
                }
            }
        };
        append(&path, 0o444, file.clone(), &content)?;
    }
    let index = index(Path::new(INDEX), image, names, Vec::new())?;
    append(INDEX, 0o444, file.clone(), &Content::Bytes(index.into()))?;
    append(MARKER, 0o444, file, &Content::Bytes(marker().into()))?;
    archive
        .finish()
        .map_err(|e| LayoutError::io("archive", INDEX)(io::Error::other(e)))
}

/// [`write_archive`] to a file that appears when it is whole.
///
/// # Errors
/// As [`write_archive`].
pub fn write_archive_file(
    path: &Path,
    image: &Image,
    names: &[Reference],
    blobs: &dyn BlobSource,
) -> Result<(), LayoutError> {
    replace(path, |file| {
        let out = BufWriter::with_capacity(1 << 20, file);
        let mut out = write_archive(out, image, names, blobs)?;
        out.flush().map_err(LayoutError::io("write", path))
    })
}

enum Part<'a> {
    Bytes(&'a [u8]),
    Blob,
}

/// All blobs of the image, each once, with their sizes.
fn parts(image: &Image) -> BTreeMap<Digest, (u64, Part<'_>)> {
    let documents = [
        (image.manifest_digest, &image.manifest),
        (image.config_digest, &image.config),
    ];
    let layers = image
        .layers
        .iter()
        .map(|blob| (blob.digest, (blob.size, Part::Blob)));
    layers
        .chain(documents.map(|(digest, bytes)| (digest, (bytes.len() as u64, Part::Bytes(bytes)))))
        .collect()
}

fn marker() -> Vec<u8> {
    format!("{{\"imageLayoutVersion\":\"{VERSION}\"}}").into_bytes()
}

/// Manifest descriptors of an index that exists, with whatever fields they have.
fn read_index(path: &Path) -> Result<Vec<Value>, LayoutError> {
    let bytes = match read_file(&path.join(INDEX)) {
        Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let error = |e| LayoutError::image(path)(ImageError::Json(e));
    let mut index: Value = serde_json::from_slice(&bytes).map_err(error)?;
    match index.get_mut("manifests").map(Value::take) {
        Some(Value::Array(manifests)) => Ok(manifests),
        _ => Err(LayoutError::NotALayout {
            path: path.to_path_buf(),
            reason: "its index.json lists no manifests".to_owned(),
        }),
    }
}

fn index(
    path: &Path,
    image: &Image,
    names: &[Reference],
    old: Vec<Value>,
) -> Result<Vec<u8>, LayoutError> {
    let error = LayoutError::image(path);
    let new = descriptors(image, names).map_err(&error)?;
    let new: Vec<Value> = new
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()
        .map_err(|e| error(ImageError::Json(e)))?;
    let mut manifests = old;
    manifests.retain(|known| !new.iter().any(|new| replaces(new, known)));
    manifests.extend(new);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    canonical(&index).map_err(|e| error(ImageError::Json(e)))
}

/// One for each name; without names, one without (rule U05).
fn descriptors(image: &Image, names: &[Reference]) -> Result<Vec<Descriptor>, ImageError> {
    let created = image
        .created
        .iter()
        .map(|created| (CREATED.to_owned(), created.clone()));
    if names.is_empty() {
        return Ok(vec![image.descriptor(created.collect())?]);
    }
    let one = |name: &Reference| {
        let name = name.clone().with_default_tag();
        let short = name.tag().map_or_else(|| name.name(), str::to_owned);
        let mut annotations: HashMap<String, String> = created.clone().collect();
        annotations.insert(REF_NAME.to_owned(), short);
        annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        image.descriptor(annotations)
    };
    names.iter().map(one).collect()
}

fn replaces(new: &Value, known: &Value) -> bool {
    let name = |value: &Value, key: &str| {
        value
            .get("annotations")?
            .get(key)?
            .as_str()
            .map(str::to_owned)
    };
    match (name(new, IMAGE_NAME), name(known, IMAGE_NAME)) {
        (Some(new), Some(known)) => new == known,
        // Tools other than containerd know tags alone; and nothing with nothing.
        _ => name(new, REF_NAME) == name(known, REF_NAME),
    }
}

/// Writes a file under another name and renames it.
fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), LayoutError>,
) -> Result<(), LayoutError> {
    let temporary = temporary(path);
    let result = File::create(&temporary)
        .map_err(LayoutError::io("create", &temporary))
        .and_then(|mut file| write(&mut file))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(LayoutError::io("write", path)));
    if result.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    result
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    replace(path, |file| {
        file.write_all(bytes)
            .map_err(LayoutError::io("write", path))
    })
}

fn link(
    path: &Path,
    digest: &Digest,
    size: u64,
    blobs: &dyn BlobSource,
) -> Result<(), LayoutError> {
    let temporary = temporary(path);
    // Left by a process that was killed and whose id this one has.
    drop(std::fs::remove_file(&temporary));
    let linked = blobs.link_to(digest, &temporary).and_then(|()| {
        if std::fs::metadata(&temporary)?.len() != size {
            return Err(io::Error::other(format!(
                "blob {digest} is not {size} bytes long"
            )));
        }
        std::fs::rename(&temporary, path)
    });
    linked.map_err(|error| {
        drop(std::fs::remove_file(&temporary));
        LayoutError::io("write", path)(error)
    })
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}
