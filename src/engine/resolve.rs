//! Images by name: out of an OCI layout, the local store, or a registry. An image is resolved
//! once per build (rule S17); its layers stay where they are until somebody needs them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use graph::config::ImageConfig;
use graph::facts::{Facts, ImageFact, ImageNeed, Needs, Platform};
use oci::image::{Document, ResolvedImage};
use oci::layout::Layout;
use oci::reference::Reference;
use oci::registry::Client;
use serde::{Deserialize, Serialize};
use store::record::RecordKind;
use store::{Digest, Store};
use tokio::runtime::Handle;

use super::layers::{LayerBlob, Layers, Origin, Tree};
use crate::failure::{Failure, FailureKind};
use crate::request::NamedContext;

const TAGS: RecordKind = RecordKind("tags");

/// Resolved images by the name that [`graph::Op::Image`] uses.
#[derive(Debug, Default)]
pub(crate) struct Images {
    trees: BTreeMap<String, Tree>,
    /// Manifest digests by the same name: the process inside takes these instead of asking again.
    pub(crate) pins: BTreeMap<String, String>,
}

impl Images {
    pub(crate) fn tree(&self, name: &str) -> Result<Tree, Failure> {
        self.trees.get(name).cloned().ok_or_else(|| {
            Failure::new(
                FailureKind::Internal,
                format!("image {name} was not resolved"),
            )
        })
    }
}

/// What a tag of the local store stands for.
#[derive(Debug, Serialize, Deserialize)]
struct TagRecord {
    name: String,
    manifest: String,
}

fn tag_key(name: &str) -> [u8; 32] {
    *blake3::hash(name.as_bytes()).as_bytes()
}

/// Makes `name` stand for a manifest whose blobs are in the store.
pub(crate) fn put_tag(store: &Store, name: &Reference, manifest: &Digest) -> Result<(), Failure> {
    let name = name.to_string();
    let record = TagRecord {
        name: name.clone(),
        manifest: manifest.to_string(),
    };
    let json = serde_json::to_vec(&record)
        .map_err(|e| Failure::new(FailureKind::Internal, e.to_string()))?;
    Ok(store.put_record(TAGS, &tag_key(&name), &json)?)
}

/// Answers [`Needs`].
pub(crate) struct Resolver<'a> {
    pub(crate) layers: &'a Layers,
    pub(crate) contexts: &'a BTreeMap<String, NamedContext>,
    pub(crate) runtime: Handle,
    pub(crate) client: Arc<Client>,
    /// Manifest digests found before, by image name.
    pub(crate) pins: BTreeMap<String, String>,
}

/// An image with the place its blobs come from.
struct Found {
    image: ResolvedImage,
    origin: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Store,
    Layout(PathBuf),
    Registry(Reference),
}

impl Resolver<'_> {
    /// Resolves every image in `needs` and adds what it learns to `facts` and `images`.
    ///
    /// # Errors
    /// Of the first image that cannot be had, with the lines that ask for it.
    pub(crate) fn resolve(
        &self,
        needs: &Needs,
        facts: &mut Facts,
        images: &mut Images,
    ) -> Result<(), (Failure, (u32, u32))> {
        for (key, need) in &needs.images {
            if self.is_empty_image(need) {
                images.trees.insert(key.clone(), Tree::default());
                let fact = ImageFact {
                    config: ImageConfig::default(),
                    layers: 0,
                };
                facts.images.insert(key.clone(), fact);
                continue;
            }
            let found = self
                .find(key, need)
                .map_err(|failure| (failure, need.lines))?;
            let fact = self
                .take_in(key, found, images)
                .map_err(|f| (f, need.lines))?;
            facts.images.insert(key.clone(), fact);
        }
        Ok(())
    }

    /// `docker-image://scratch` (rule G07).
    fn is_empty_image(&self, need: &ImageNeed) -> bool {
        let context = need
            .named_context
            .then(|| self.contexts.get(&need.reference))
            .flatten();
        matches!(context, Some(NamedContext::Image(reference)) if reference == "scratch")
    }

    fn find(&self, key: &str, need: &ImageNeed) -> Result<Found, Failure> {
        let pin = self.pins.get(key).map(String::as_str);
        if !need.named_context {
            return self.image(&need.reference, &need.platform, pin);
        }
        match self.contexts.get(&need.reference) {
            Some(NamedContext::OciLayout {
                directory,
                reference,
            }) => {
                let layout = Layout::open(directory).map_err(|e| oci_failure(&e))?;
                let reference = pin.or(reference.as_deref());
                let image = layout
                    .resolve(reference, &oci_platform(&need.platform))
                    .map_err(|e| oci_failure(&e))?;
                Ok(Found {
                    image,
                    origin: Place::Layout(directory.clone()),
                })
            }
            Some(NamedContext::Image(reference)) => self.image(reference, &need.platform, pin),
            Some(context @ (NamedContext::Git(_) | NamedContext::Http(_))) => {
                let what = match context {
                    NamedContext::Git(_) => "a git repository",
                    _ => "a file on an HTTP server",
                };
                let message = format!("build context {:?} is {what}, not an image", need.reference);
                Err(Failure::new(FailureKind::Usage, message))
            }
            Some(NamedContext::Directory(path)) => {
                let message = format!(
                    "build context {:?} is the directory {}, not an image",
                    need.reference,
                    path.display()
                );
                Err(Failure::new(FailureKind::Usage, message))
            }
            None => Err(Failure::new(
                FailureKind::Internal,
                format!("unknown build context {}", need.reference),
            )),
        }
    }

    fn image(&self, text: &str, platform: &Platform, pin: Option<&str>) -> Result<Found, Failure> {
        let reference: Reference = text
            .parse()
            .map_err(|e| Failure::of(FailureKind::Usage, &e))?;
        let found = |image, origin| Ok(Found { image, origin });
        if pin.is_none()
            && let Some(image) = self.tagged(&reference, platform)?
        {
            return found(image, Place::Store);
        }
        // A digest says it all: what is known of it need not be asked again (rule S18).
        let known = pin.and_then(|pin| pin.parse().ok()).or(reference.digest());
        if let Some(digest) = known
            && let Some(image) = self.in_store(&digest, platform)?
        {
            return found(image, Place::Registry(reference));
        }
        let image = self
            .runtime
            .block_on(self.client.resolve(&reference, &oci_platform(platform)))
            .map_err(|e| registry_failure(text, &e))?;
        self.layers.store.put_blob(&image.manifest)?;
        self.layers.store.put_blob(&image.config)?;
        found(image, Place::Registry(reference))
    }

    /// A tag of the local store.
    fn tagged(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<ResolvedImage>, Failure> {
        let name = reference.clone().with_default_tag().to_string();
        let bytes = self.layers.store.record(TAGS, &tag_key(&name))?;
        let record: Option<TagRecord> = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        match record.and_then(|r| r.manifest.parse().ok()) {
            Some(digest) => self.in_store(&digest, platform),
            None => Ok(None),
        }
    }

    /// An image whose manifest and config are in the store; its layers may be elsewhere.
    fn in_store(
        &self,
        digest: &Digest,
        platform: &Platform,
    ) -> Result<Option<ResolvedImage>, Failure> {
        let Some(manifest_bytes) = self.stored(digest)? else {
            return Ok(None);
        };
        let document = Document::parse(&manifest_bytes, None).map_err(|e| oci_failure(&e))?;
        let Document::Manifest(manifest) = document else {
            return Ok(None);
        };
        let config_digest = manifest.config().digest().to_string();
        let config_digest = config_digest.parse().map_err(|e| oci_failure(&e))?;
        let Some(config) = self.stored(&config_digest)? else {
            return Ok(None);
        };
        let image =
            ResolvedImage::new(manifest_bytes, &manifest, config).map_err(|e| oci_failure(&e))?;
        Ok(Some(image).filter(|i| oci_platform(platform).rank(&i.platform).is_some()))
    }

    /// The bytes of a small blob; `None` when it is not there, or damaged.
    fn stored(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Failure> {
        if self.layers.store.blob_size(digest).is_none() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let mut file = self.layers.open_stored(digest)?;
        file.read_to_end(&mut bytes)
            .map_err(store::Error::io("read blob", digest.hex()))?;
        Ok(Some(bytes).filter(|bytes| Digest::of(bytes) == *digest))
    }

    fn take_in(&self, key: &str, found: Found, images: &mut Images) -> Result<ImageFact, Failure> {
        let config: ImageConfig = serde_json::from_slice(&found.image.config).map_err(|e| {
            Failure::new(
                FailureKind::Registry,
                format!("image {key}: its config is invalid: {e}"),
            )
        })?;
        let mut diff_ids = Vec::with_capacity(found.image.layers.len());
        for layer in &found.image.layers {
            let blob = LayerBlob {
                digest: layer.digest.to_string(),
                size: layer.size,
                media_type: layer.media_type.to_string(),
            };
            let origin = BlobOrigin {
                blob,
                digest: layer.digest,
                place: found.origin.clone(),
                store: self.layers.store.clone(),
                client: self.client.clone(),
                runtime: self.runtime.clone(),
            };
            self.layers.add_origin(layer.diff_id, Arc::new(origin));
            diff_ids.push(layer.diff_id);
        }
        images.trees.insert(key.to_owned(), Tree::new(diff_ids));
        images
            .pins
            .insert(key.to_owned(), found.image.manifest_digest.to_string());
        Ok(ImageFact {
            config,
            layers: found.image.layers.len(),
        })
    }
}

/// One layer of a resolved image.
struct BlobOrigin {
    blob: LayerBlob,
    digest: Digest,
    place: Place,
    store: Arc<Store>,
    client: Arc<Client>,
    runtime: Handle,
}

impl Origin for BlobOrigin {
    fn blob(&self) -> LayerBlob {
        self.blob.clone()
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, Failure> {
        if self.store.blob_size(&self.digest) == Some(self.blob.size) {
            return Ok(Box::new(self.store.open_blob(&self.digest)?));
        }
        match &self.place {
            Place::Store => Ok(Box::new(self.store.open_blob(&self.digest)?)),
            Place::Layout(directory) => {
                let layout = Layout::open(directory).map_err(|e| oci_failure(&e))?;
                Ok(Box::new(
                    layout
                        .open_blob(&self.digest)
                        .map_err(|e| oci_failure(&e))?
                        .0,
                ))
            }
            Place::Registry(reference) => {
                let mut writer = self.store.blob_writer()?;
                let fetch =
                    self.client
                        .fetch_blob(reference, &self.digest, self.blob.size, &mut writer);
                self.runtime
                    .block_on(fetch)
                    .map_err(|e| registry_failure(&reference.to_string(), &e))?;
                self.store.commit_blob(writer, Some(&self.digest))?;
                Ok(Box::new(self.store.open_blob(&self.digest)?))
            }
        }
    }
}

pub(crate) fn oci_platform(platform: &Platform) -> oci::platform::Platform {
    let variant = platform.variant.as_deref().unwrap_or_default();
    oci::platform::Platform::new(&platform.os, &platform.architecture, variant)
}

fn oci_failure(error: &dyn std::error::Error) -> Failure {
    Failure::of(FailureKind::Registry, error)
}

fn registry_failure(reference: &str, error: &dyn std::error::Error) -> Failure {
    let mut failure = oci_failure(error);
    failure.message = format!("{reference}: {}", failure.message);
    failure
}
