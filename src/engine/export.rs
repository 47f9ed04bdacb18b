//! The last two stops: the image's documents, and where they go.

use std::path::Path;
use std::sync::Mutex;

use graph::Plan;
use graph::lower::DEFAULT_EPOCH;
use oci::image::Image;
use oci::layer::Blob;
use oci::reference::Reference;
use serde_json::{Value, json};
use store::Digest;

use super::layers::{LayerBlob, Layers, Tree};
use super::resolve::put_tag;
use super::time::rfc3339;
use crate::failure::{Failure, FailureKind};
use crate::report;
use crate::request::{BuildRequest, Output};

/// What was made and where it is.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) descriptor: Value,
    pub(crate) layers: usize,
    /// Compressed bytes of all layers.
    pub(crate) size: u64,
    pub(crate) names: Vec<String>,
    /// For people: `dir/image (OCI layout)`.
    pub(crate) places: Vec<String>,
}

pub(super) fn export(
    request: &BuildRequest,
    layers: &Layers,
    plan: &Plan,
    tree: &Tree,
) -> Result<Exported, Failure> {
    let names = names(&request.tags)?;
    let blobs = blobs(layers, tree)?;
    let config = config(plan, tree)?;
    let size = blobs.iter().map(|b| b.size).sum();
    let image = oci::image::assemble_annotated(config, blobs, request.annotations.clone())
        .map_err(|e| Failure::of(FailureKind::Internal, &e))?;
    layers.store.put_blob(&image.config)?;
    layers.store.put_blob(&image.manifest)?;
    let mut places = Vec::new();
    for output in &request.outputs {
        places.push(write(layers, &image, &names, output)?);
    }
    for name in &names {
        put_tag(&layers.store, name, &image.manifest_digest)?;
        places.push(format!("{} (local store)", name.familiar()));
    }
    let descriptor = image
        .descriptor(std::collections::HashMap::new())
        .map_err(|e| Failure::of(FailureKind::Internal, &e))?;
    Ok(Exported {
        manifest: image.manifest_digest,
        config: image.config_digest,
        descriptor: serde_json::to_value(descriptor)
            .map_err(|e| Failure::of(FailureKind::Internal, &e))?,
        layers: tree.layers.len(),
        size,
        names: names.iter().map(ToString::to_string).collect(),
        places,
    })
}

fn names(tags: &[String]) -> Result<Vec<Reference>, Failure> {
    let name = |tag: &String| {
        let reference: Reference = tag
            .parse()
            .map_err(|e| Failure::of(FailureKind::Usage, &e))?;
        Ok(reference.with_default_tag())
    };
    tags.iter().map(name).collect()
}

/// Every layer as a blob in the store, several at once: most are there, the others must be
/// compressed.
fn blobs(layers: &Layers, tree: &Tree) -> Result<Vec<Blob>, Failure> {
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(4);
    let results: Vec<Mutex<Option<Result<LayerBlob, Failure>>>> =
        tree.layers.iter().map(|_| Mutex::new(None)).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(slot) = results.get(at) else { return };
            let made = layers.blob(&tree.layers[at]);
            *slot
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(made);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(tree.layers.len()) {
            scope.spawn(work);
        }
        work();
    });
    results
        .into_iter()
        .map(|slot| {
            let made = slot
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let blob = made.unwrap_or_else(|| {
                Err(Failure::new(
                    FailureKind::Internal,
                    "a layer was not exported",
                ))
            })?;
            let digest = blob
                .digest
                .parse()
                .map_err(|e| Failure::of(FailureKind::Internal, &e))?;
            Ok(Blob {
                digest,
                size: blob.size,
                media_type: blob.media_type.as_str().into(),
            })
        })
        .collect()
}

/// The config blob: what lowering made, with layers, history and times (rules M01, M02).
fn config(plan: &Plan, tree: &Tree) -> Result<Vec<u8>, Failure> {
    let mut config = plan.config.clone();
    let created = rfc3339(plan.source_date_epoch.unwrap_or(DEFAULT_EPOCH));
    config.created = Some(created.clone());
    config.rootfs.kind = "layers".to_owned();
    config.rootfs.diff_ids = tree.layers.iter().map(ToString::to_string).collect();
    for entry in &plan.history {
        let mut value = json!({
            "created": created,
            "created_by": entry.created_by,
            "comment": entry.comment,
        });
        if entry.empty_layer {
            value["empty_layer"] = Value::Bool(true);
        }
        config.history.push(value);
    }
    serde_json::to_vec(&config).map_err(|e| Failure::of(FailureKind::Internal, &e))
}

fn write(
    layers: &Layers,
    image: &Image,
    names: &[Reference],
    output: &Output,
) -> Result<String, Failure> {
    let Output::Oci { destination, tar } = output;
    let source = layers.store.as_ref();
    let result = if *tar {
        oci::layout::write_archive_file(destination, image, names, source)
    } else {
        oci::layout::write_directory(destination, image, names, source)
    };
    result.map_err(|e| Failure::of(FailureKind::Environment, &e))?;
    let form = if *tar {
        "OCI layout, tar"
    } else {
        "OCI layout"
    };
    Ok(format!("{} ({form})", destination.display()))
}

/// Tells the result to whoever asked: stdout, `--iidfile`, `--metadata-file`.
pub(super) fn announce(request: &BuildRequest, exported: &Exported) -> Result<(), Failure> {
    let put = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).map_err(|e| {
            Failure::new(
                FailureKind::Environment,
                format!("write {}: {e}", path.display()),
            )
        })
    };
    if let Some(path) = &request.iid_file {
        // As buildx: the image id is the digest of the config.
        put(path, exported.config.to_string().as_bytes())?;
    }
    if let Some(path) = &request.metadata_file {
        let mut metadata = json!({
            "containerimage.config.digest": exported.config.to_string(),
            "containerimage.descriptor": exported.descriptor,
            "containerimage.digest": exported.manifest.to_string(),
        });
        if !exported.names.is_empty() {
            metadata["image.name"] = Value::String(exported.names.join(","));
        }
        let json = serde_json::to_vec_pretty(&metadata)
            .map_err(|e| Failure::of(FailureKind::Internal, &e))?;
        put(path, &json)?;
    }
    report::data(&exported.manifest.to_string());
    Ok(())
}
