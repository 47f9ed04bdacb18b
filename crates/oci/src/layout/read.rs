//! Finds an image in a layout; every document is verified against the digest that named it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex};
use serde_json::Value;
use store::digest::{Digest, HashWriter};

use super::{BLOBS, IMAGE_NAME, INDEX, MARKER, REF_NAME};
use crate::error::{ImageError, LayoutError};
use crate::image::{DOCUMENT_BYTES, Document, ResolvedImage, choose, config_of, digest_of};
use crate::platform::Platform;
use crate::reference::Reference;

/// How deep an index may lie within indexes: a layout's own, a platform index, one to spare.
const DEPTH_MAX: usize = 4;

/// An existing layout directory.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    index: ImageIndex,
}

impl Layout {
    /// # Errors
    /// [`LayoutError::NotALayout`], [`LayoutError::Io`], [`LayoutError::Image`] for an `index.json`
    /// that is none.
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let not = |reason: &str| LayoutError::NotALayout {
            path: path.to_path_buf(),
            reason: reason.to_owned(),
        };
        let metadata = std::fs::metadata(path).map_err(LayoutError::io("open", path))?;
        if !metadata.is_dir() {
            return Err(not(
                "it is no directory; archives have to be unpacked first",
            ));
        }
        check_marker(path)?;
        let index = read_file(&path.join(INDEX))?;
        let index = serde_json::from_slice(&index).map_err(ImageError::Json);
        Ok(Self {
            path: path.to_path_buf(),
            index: index.map_err(LayoutError::image(path))?,
        })
    }

    /// The image a tag or digest names; without a name the only one, or the one tagged `latest`.
    /// Of an index the member for `platform` is taken.
    ///
    /// # Errors
    /// [`LayoutError::NotFound`], [`LayoutError::Ambiguous`], [`LayoutError::Mismatch`] when a blob
    /// is not what its name says, [`LayoutError::Image`].
    pub fn resolve(
        &self,
        name: Option<&str>,
        platform: &Platform,
    ) -> Result<ResolvedImage, LayoutError> {
        let image = LayoutError::image(&self.path);
        let (mut digest, mut media_type) = match name.map(str::parse::<Digest>) {
            Some(Ok(digest)) => (digest, None),
            _ => self.find(name, platform)?,
        };
        for _ in 0..DEPTH_MAX {
            let bytes = self.document(&digest)?;
            match Document::parse(&bytes, media_type.as_deref()).map_err(&image)? {
                Document::Index(index) => {
                    let chosen = choose(&index, platform).map_err(&image)?;
                    digest = digest_of(chosen).map_err(&image)?;
                    media_type = Some(chosen.media_type().to_string());
                }
                Document::Manifest(manifest) => {
                    let config = config_of(&manifest).and_then(digest_of).map_err(&image)?;
                    let config = self.document(&config)?;
                    return ResolvedImage::new(bytes, &manifest, config).map_err(image);
                }
            }
        }
        Err(image(ImageError::Nesting { limit: DEPTH_MAX }))
    }

    /// Opens a blob and its size; the caller verifies while it reads.
    ///
    /// # Errors
    /// [`LayoutError::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<(File, u64), LayoutError> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(LayoutError::io("open", &path))?;
        let size = file
            .metadata()
            .map_err(LayoutError::io("read", &path))?
            .len();
        Ok((file, size))
    }

    /// Where a blob lies.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(BLOBS).join(digest.hex())
    }

    fn find(
        &self,
        name: Option<&str>,
        platform: &Platform,
    ) -> Result<(Digest, Option<String>), LayoutError> {
        let manifests = self.index.manifests();
        let wanted = name.unwrap_or("latest");
        let found = match manifests.iter().find(|d| is_named(d, wanted)) {
            Some(found) => found,
            None if name.is_some() => {
                return Err(LayoutError::NotFound {
                    path: self.path.clone(),
                    name: wanted.to_owned(),
                    known: self.names(),
                });
            }
            // A layout whose members are the platforms of one image names none of them.
            None if manifests.iter().all(|d| own_name(d).is_none()) && !manifests.is_empty() => {
                choose(&self.index, platform).map_err(LayoutError::image(&self.path))?
            }
            None => match manifests.as_slice() {
                [only] => only,
                _ => {
                    let path = self.path.clone();
                    return Err(LayoutError::Ambiguous {
                        path,
                        known: self.names(),
                    });
                }
            },
        };
        let digest = digest_of(found).map_err(LayoutError::image(&self.path))?;
        Ok((digest, Some(found.media_type().to_string())))
    }

    /// For messages.
    fn names(&self) -> String {
        let names: Vec<_> = self.index.manifests().iter().filter_map(own_name).collect();
        if names.is_empty() {
            "none with a name".to_owned()
        } else {
            names.join(", ")
        }
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>, LayoutError> {
        let path = self.blob_path(digest);
        let bytes = read_file(&path)?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            let size = bytes.len() as u64;
            let path = self.path.clone();
            return Err(LayoutError::Mismatch {
                path,
                expected: *digest,
                actual,
                size,
            });
        }
        Ok(bytes)
    }

    /// Copies a blob and verifies it.
    ///
    /// # Errors
    /// [`LayoutError::Mismatch`] after all has been written, [`LayoutError::Io`].
    pub fn copy_blob(
        &self,
        digest: &Digest,
        writer: &mut dyn io::Write,
    ) -> Result<(), LayoutError> {
        let (mut file, _) = self.open_blob(digest)?;
        let mut hashed = HashWriter::new(writer);
        let path = self.blob_path(digest);
        io::copy(&mut file, &mut hashed).map_err(LayoutError::io("copy", &path))?;
        let (actual, size, _) = hashed.finish();
        if actual == *digest {
            return Ok(());
        }
        Err(LayoutError::Mismatch {
            path: self.path.clone(),
            expected: *digest,
            actual,
            size,
        })
    }
}

/// Refuses a layout of a version nobody knows yet.
pub(super) fn check_marker(path: &Path) -> Result<(), LayoutError> {
    let not = |reason: String| LayoutError::NotALayout {
        path: path.to_path_buf(),
        reason,
    };
    let marker = match read_file(&path.join(MARKER)) {
        Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(not("it has no oci-layout file".to_owned()));
        }
        other => other?,
    };
    let marker: Value = serde_json::from_slice(&marker).unwrap_or_default();
    match crate::json::text(&marker, "imageLayoutVersion") {
        Some(version) if version.starts_with("1.") => Ok(()),
        Some(version) => Err(not(format!("its version is {version}"))),
        None => Err(not("its oci-layout file names no version".to_owned())),
    }
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, LayoutError> {
    let file = File::open(path).map_err(LayoutError::io("open", path))?;
    let mut bytes = Vec::new();
    let mut limited = file.take(DOCUMENT_BYTES + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(LayoutError::io("read", path))?;
    if bytes.len() as u64 > DOCUMENT_BYTES {
        return Err(LayoutError::TooLong {
            path: path.to_path_buf(),
            limit: DOCUMENT_BYTES,
        });
    }
    Ok(bytes)
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor
        .annotations()
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

fn own_name(descriptor: &Descriptor) -> Option<String> {
    let name = annotation(descriptor, REF_NAME).or(annotation(descriptor, IMAGE_NAME));
    name.map(str::to_owned)
}

/// By tag or whole reference; both annotations are seen in the wild with either.
fn is_named(descriptor: &Descriptor, wanted: &str) -> bool {
    let reference = |text: &str| {
        text.parse::<Reference>()
            .ok()
            .map(Reference::with_default_tag)
    };
    [REF_NAME, IMAGE_NAME]
        .iter()
        .filter_map(|key| annotation(descriptor, key))
        .any(|name| {
            name == wanted
                || reference(name).is_some_and(|known| {
                    // `12` as a whole name would be docker.io/library/12.
                    let is_whole = name.contains(['/', ':']);
                    is_whole
                        && (known.tag() == Some(wanted)
                            || wanted.contains(['/', ':']) && Some(known) == reference(wanted))
                })
        })
}
