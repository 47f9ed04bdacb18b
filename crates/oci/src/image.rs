//! Images as documents: manifests and indexes read, chosen from and made.

use std::collections::{BTreeMap, HashMap};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, ImageManifestBuilder, MediaType};
use serde_json::Value;
use store::digest::Digest;

use crate::error::ImageError;
use crate::json::{canonical, text};
use crate::layer::Blob;
use crate::platform::Platform;

/// Manifests and configs longer than this are refused: they are held in memory and parsed.
/// 4 MiB is what registries accept (distribution-spec, "Pushing Manifests").
pub const DOCUMENT_BYTES: u64 = 4 << 20;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// Media types a registry is asked for.
pub(crate) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    DOCKER_INDEX,
    DOCKER_MANIFEST,
];

/// What a tag can point to.
#[derive(Debug, Clone)]
pub enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// A layer of an image that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// Of the blob as it is stored.
    pub digest: Digest,
    pub size: u64,
    /// As the manifest says; the blob's first bytes may say otherwise.
    pub media_type: MediaType,
    /// Of the uncompressed archive, from the image config.
    pub diff_id: Digest,
}

/// An image that exists: everything but the layers' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    pub manifest_digest: Digest,
    pub manifest: Vec<u8>,
    pub config_digest: Digest,
    pub config: Vec<u8>,
    pub layers: Vec<LayerDescriptor>,
    /// As the config says; it may be another than the one asked for when there was no choice.
    pub platform: Platform,
}

/// An image that was made: documents ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub manifest_digest: Digest,
    pub manifest: Vec<u8>,
    pub config_digest: Digest,
    pub config: Vec<u8>,
    /// With the media types of the manifest.
    pub layers: Vec<Blob>,
    pub platform: Platform,
    /// The config's `created`, verbatim.
    pub created: Option<String>,
    /// Of every descriptor that names the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// What people say of an image beside its config (rules of the image spec's annotations).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// In the manifest, and so in its digest.
    pub manifest: BTreeMap<String, String>,
    /// In the descriptors that name the manifest.
    pub descriptor: BTreeMap<String, String>,
}

/// Makes the manifest of an image. `config` is used byte for byte; `layers` are in the order of
/// its `rootfs.diff_ids` (rule M01). Docker's media types become OCI's, the blobs stay (rule L18).
///
/// # Errors
/// [`ImageError::Config`] when the config is not an image config or has another number of layers,
/// [`ImageError::LayerType`] for a layer that is not a tar archive.
pub fn assemble(config: Vec<u8>, layers: Vec<Blob>) -> Result<Image, ImageError> {
    assemble_annotated(config, layers, Annotations::default())
}

/// As [`assemble`], with annotations.
///
/// # Errors
/// As [`assemble`].
pub fn assemble_annotated(
    config: Vec<u8>,
    layers: Vec<Blob>,
    annotations: Annotations,
) -> Result<Image, ImageError> {
    let parsed = Config::parse(&config)?;
    if parsed.diff_ids.len() != layers.len() {
        return Err(ImageError::Config {
            reason: "it has another number of layers than given",
        });
    }
    let layers: Vec<Blob> = layers
        .into_iter()
        .map(|blob| {
            Ok(Blob {
                media_type: oci_layer_type(&blob.media_type)?,
                ..blob
            })
        })
        .collect::<Result<_, ImageError>>()?;
    let config_digest = Digest::of(&config);
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(
            MediaType::ImageConfig,
            config_digest,
            config.len() as u64,
        )?)
        .layers(
            layers
                .iter()
                .map(|blob| descriptor(blob.media_type.clone(), blob.digest, blob.size))
                .collect::<Result<Vec<_>, _>>()?,
        )
        .build()?;
    if !annotations.manifest.is_empty() {
        manifest.set_annotations(Some(annotations.manifest.into_iter().collect()));
    }
    let manifest = canonical(&manifest).map_err(ImageError::Json)?;
    Ok(Image {
        manifest_digest: Digest::of(&manifest),
        manifest,
        config_digest,
        config,
        layers,
        platform: parsed.platform,
        created: parsed.created,
        annotations: annotations.descriptor,
    })
}

impl Image {
    /// Of the manifest, with the platform, as an index lists it.
    ///
    /// # Errors
    /// [`ImageError::Descriptor`], which a valid digest does not cause.
    pub fn descriptor(
        &self,
        mut annotations: HashMap<String, String>,
    ) -> Result<Descriptor, ImageError> {
        annotations.extend(self.annotations.clone());
        let size = self.manifest.len() as u64;
        let mut made = descriptor(MediaType::ImageManifest, self.manifest_digest, size)?;
        let mut platform = oci_spec::image::Platform::default();
        platform.set_os(self.platform.os().into());
        platform.set_architecture(self.platform.architecture().into());
        let variant = self.platform.variant();
        platform.set_variant((!variant.is_empty()).then(|| variant.to_owned()));
        made.set_platform(Some(platform));
        made.set_annotations((!annotations.is_empty()).then_some(annotations));
        Ok(made)
    }
}

fn descriptor(media_type: MediaType, digest: Digest, size: u64) -> Result<Descriptor, ImageError> {
    Ok(Descriptor::new(
        media_type,
        size,
        oci_spec::image::Digest::try_from(digest.to_string())?,
    ))
}

/// The OCI name of a layer's media type, as BuildKit translates (`oci-mediatypes=true`).
///
/// # Errors
/// [`ImageError::LayerType`] for what is not a tar archive that can be fetched: foreign layers
/// (only Windows has them) and artifacts.
pub fn oci_layer_type(media_type: &MediaType) -> Result<MediaType, ImageError> {
    match media_type {
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => {
            Ok(media_type.clone())
        }
        MediaType::Other(name) => match name.as_str() {
            DOCKER_LAYER => Ok(MediaType::ImageLayer),
            DOCKER_LAYER_GZIP => Ok(MediaType::ImageLayerGzip),
            DOCKER_LAYER_ZSTD => Ok(MediaType::ImageLayerZstd),
            _ => Err(ImageError::LayerType {
                media_type: name.clone(),
            }),
        },
        other => Err(ImageError::LayerType {
            media_type: other.to_string(),
        }),
    }
}

impl Document {
    /// `media_type` is what the descriptor or the registry says, if it says something; the
    /// document's own word must not contradict it.
    ///
    /// # Errors
    /// [`ImageError::Json`] and [`ImageError::Kind`] for what is neither.
    pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ImageError> {
        let value: Value = serde_json::from_slice(bytes).map_err(ImageError::Json)?;
        let has = |key| value.get(key).is_some();
        let own = text(&value, "mediaType");
        let kind = |name: &str| {
            Err(ImageError::Kind {
                media_type: name.to_owned(),
            })
        };
        // Schema 1 has neither type nor index; a document that is two things at once is an attack
        // on whoever looks at the other one (CVE-2021-41190).
        if has("fsLayers") || has("history") {
            return kind("docker manifest schema 1");
        }
        if has("manifests") && (has("config") || has("layers")) {
            return kind("manifest and index in one document");
        }
        let is_index = match own.or(media_type) {
            Some("application/vnd.oci.image.index.v1+json" | DOCKER_INDEX) => true,
            Some("application/vnd.oci.image.manifest.v1+json" | DOCKER_MANIFEST) => false,
            Some("application/json" | "application/octet-stream" | "text/plain") | None => {
                has("manifests")
            }
            Some(other) => return kind(other),
        };
        if is_index != has("manifests") {
            return kind("document that is not what its media type says");
        }
        Ok(if is_index {
            Self::Index(serde_json::from_value(value).map_err(ImageError::Json)?)
        } else {
            Self::Manifest(serde_json::from_value(value).map_err(ImageError::Json)?)
        })
    }
}

/// The member of an index that serves `platform` best. Attestations are never chosen (rule U07);
/// a member without a platform is taken when no other fits.
///
/// # Errors
/// [`ImageError::NoPlatform`] with what there is.
pub fn choose<'a>(
    index: &'a ImageIndex,
    platform: &Platform,
) -> Result<&'a Descriptor, ImageError> {
    let images = || index.manifests().iter().filter(|d| is_image(d));
    let rank = |descriptor: &Descriptor| match descriptor.platform() {
        Some(offered) => platform.rank(&offered.into()),
        None => Some(usize::MAX),
    };
    images()
        .filter_map(|d| Some((rank(d)?, d)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, d)| d)
        .ok_or_else(|| ImageError::NoPlatform {
            wanted: platform.to_string(),
            offered: images()
                .filter_map(|d| d.platform().as_ref())
                .map(|p| Platform::from(p).to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

fn is_image(descriptor: &Descriptor) -> bool {
    let is_document = ACCEPTED.contains(&descriptor.media_type().as_ref());
    let annotations = descriptor.annotations().as_ref();
    let is_attestation = annotations.is_some_and(|a| a.contains_key("vnd.docker.reference.type"));
    let unknown = descriptor
        .platform()
        .as_ref()
        .is_some_and(|p| p.os().to_string() == "unknown");
    is_document && !is_attestation && !unknown
}

/// What of an image config this crate looks at.
struct Config {
    platform: Platform,
    diff_ids: Vec<Digest>,
    created: Option<String>,
}

impl Config {
    fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let value: Value = serde_json::from_slice(bytes).map_err(ImageError::Json)?;
        let invalid = |reason| ImageError::Config { reason };
        let field = |key| text(&value, key);
        let os = field("os").filter(|os| !os.is_empty());
        let architecture = field("architecture").filter(|a| !a.is_empty());
        let (Some(os), Some(architecture)) = (os, architecture) else {
            return Err(invalid("it names no os and architecture"));
        };
        let diff_ids = match value
            .get("rootfs")
            .and_then(|rootfs| rootfs.get("diff_ids"))
        {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => list
                .as_array()
                .and_then(|all| all.iter().map(|id| id.as_str()?.parse().ok()).collect())
                .ok_or(invalid("its rootfs.diff_ids are not sha256 digests"))?,
        };
        Ok(Self {
            platform: Platform::new(os, architecture, field("variant").unwrap_or_default()),
            diff_ids,
            created: field("created").map(str::to_owned),
        })
    }
}

impl ResolvedImage {
    /// Puts an image together from its documents, whose digests have been verified.
    ///
    /// # Errors
    /// [`ImageError::Config`], [`ImageError::LayerType`], [`ImageError::DigestAlgorithm`], or
    /// [`ImageError::Kind`] when the manifest is that of an artifact.
    pub fn new(
        manifest_bytes: Vec<u8>,
        manifest: &ImageManifest,
        config_bytes: Vec<u8>,
    ) -> Result<Self, ImageError> {
        let config = Config::parse(&config_bytes)?;
        if config.diff_ids.len() != manifest.layers().len() {
            return Err(ImageError::Config {
                reason: "it has another number of layers than the manifest",
            });
        }
        let layers = manifest
            .layers()
            .iter()
            .zip(config.diff_ids)
            .map(|(layer, diff_id)| {
                oci_layer_type(layer.media_type())?;
                let digest = digest_of(layer)?;
                let media_type = layer.media_type().clone();
                Ok(LayerDescriptor {
                    digest,
                    size: layer.size(),
                    media_type,
                    diff_id,
                })
            });
        Ok(Self {
            manifest_digest: Digest::of(&manifest_bytes),
            manifest: manifest_bytes,
            config_digest: digest_of(manifest.config())?,
            layers: layers.collect::<Result<_, ImageError>>()?,
            config: config_bytes,
            platform: config.platform,
        })
    }
}

/// The config's descriptor, when the manifest is that of an image.
pub(crate) fn config_of(manifest: &ImageManifest) -> Result<&Descriptor, ImageError> {
    let config = manifest.config();
    match config.media_type() {
        MediaType::ImageConfig => Ok(config),
        MediaType::Other(name) if name == DOCKER_CONFIG => Ok(config),
        other => Err(ImageError::Kind {
            media_type: format!("artifact of type {other}"),
        }),
    }
}

pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest, ImageError> {
    let text = descriptor.digest().to_string();
    text.parse()
        .map_err(|_| ImageError::DigestAlgorithm { digest: text })
}
