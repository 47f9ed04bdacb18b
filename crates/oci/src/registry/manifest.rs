//! Manifests: found by tag or digest, verified, resolved to an image.

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response};
use store::digest::Digest;

use super::Client;
use super::repository::Repository;
use super::transport::{Request, read};
use crate::error::{ImageError, RegistryError};
use crate::image::{DOCUMENT_BYTES, Document, ResolvedImage, choose, config_of, digest_of};
use crate::platform::Platform;
use crate::reference::Reference;

/// An index, the index within it some tools make, and the manifest.
const DEPTH_MAX: usize = 3;
const CONTENT_DIGEST: &str = "Docker-Content-Digest";

impl Client {
    /// What a reference points to now, an index or a manifest, without fetching it where the
    /// registry answers HEAD. A reference with a digest needs no registry.
    ///
    /// # Errors
    /// Any [`RegistryError`] about requests.
    pub async fn digest(&self, reference: &Reference) -> Result<Digest, RegistryError> {
        if let Some(digest) = reference.digest() {
            return Ok(digest);
        }
        let repository = Repository::of(reference)?;
        let url = repository.manifest(name(reference));
        let head = Request {
            method: Method::HEAD,
            url,
            from: 0,
        };
        let response = self.send(&repository, &head).await?;
        match content_digest(&response) {
            Some(digest) => Ok(digest),
            None => Ok(self.manifest(&repository, name(reference)).await?.1),
        }
    }

    /// The image for `platform` that a reference names; of one with tag and digest the digest
    /// counts. Manifests and config are fetched and verified, layers are not.
    ///
    /// # Errors
    /// [`RegistryError::Image`] for what is not an image of this platform, and those about
    /// requests.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, RegistryError> {
        let repository = Repository::of(reference)?;
        let image = |source| RegistryError::Image {
            reference: reference.familiar(),
            source,
        };
        let mut name = match reference.digest() {
            Some(digest) => digest.to_string(),
            None => self::name(reference).to_owned(),
        };
        for _ in 0..DEPTH_MAX {
            let (bytes, _, media_type) = self.manifest(&repository, &name).await?;
            match Document::parse(&bytes, media_type.as_deref()).map_err(image)? {
                Document::Index(index) => {
                    let chosen = choose(&index, platform)
                        .and_then(digest_of)
                        .map_err(image)?;
                    name = chosen.to_string();
                }
                Document::Manifest(manifest) => {
                    let config = config_of(&manifest).map_err(image)?;
                    let digest = digest_of(config).map_err(image)?;
                    let size = config.size();
                    if size > DOCUMENT_BYTES {
                        let host = repository.host;
                        return Err(RegistryError::TooLong {
                            host,
                            limit: DOCUMENT_BYTES,
                        });
                    }
                    let mut config = Vec::new();
                    self.fetch_blob(reference, &digest, size, &mut config)
                        .await?;
                    return ResolvedImage::new(bytes, &manifest, config).map_err(image);
                }
            }
        }
        Err(image(ImageError::Nesting { limit: DEPTH_MAX }))
    }

    /// Bytes, digest and media type of a manifest or index.
    async fn manifest(
        &self,
        repository: &Repository,
        name: &str,
    ) -> Result<(Vec<u8>, Digest, Option<String>), RegistryError> {
        let request = Request::get(repository.manifest(name));
        let response = self.send(repository, &request).await?;
        let expected = name.parse().ok().or_else(|| content_digest(&response));
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| {
            // Without parameters such as `; charset=utf-8`.
            value
                .to_str()
                .ok()?
                .split(';')
                .next()
                .map(|value| value.trim().to_owned())
        });
        let bytes = read(&repository.host, response, DOCUMENT_BYTES).await?;
        let actual = Digest::of(&bytes);
        match expected {
            Some(expected) if expected != actual => Err(RegistryError::Mismatch {
                host: repository.host.clone(),
                expected,
                actual,
                size: bytes.len() as u64,
            }),
            _ => Ok((bytes, actual, media_type)),
        }
    }
}

fn name(reference: &Reference) -> &str {
    reference.tag().unwrap_or("latest")
}

fn content_digest(response: &Response) -> Option<Digest> {
    response
        .headers()
        .get(CONTENT_DIGEST)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
