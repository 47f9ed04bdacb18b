//! Manifests made and chosen.

use oci::error::ImageError;
use oci::image::{Document, Image, assemble, choose};
use oci::layer::{Blob, Compression, LayerSink, Workers, pack};
use oci::platform::Platform;
use oci_spec::image::MediaType;
use store::Digest;
use store::content::Item;

/// An image of these layers, and the layers' bytes.
pub(crate) fn image(layers: Vec<Vec<Item>>) -> (Image, Vec<(Digest, Vec<u8>)>) {
    let mut blobs = Vec::new();
    let mut bytes = Vec::new();
    let mut diff_ids = Vec::new();
    for items in layers {
        let sink = LayerSink::new(Vec::new(), Compression::Gzip, &Workers::new(2));
        let (_, sink) = pack(items, sink).expect("pack");
        let sealed = sink.finish().expect("finish");
        diff_ids.push(format!("\"{}\"", sealed.diff_id));
        bytes.push((sealed.blob.digest, sealed.writer));
        blobs.push(sealed.blob);
    }
    let config = config(&diff_ids.join(","));
    (assemble(config, blobs).expect("assemble"), bytes)
}

pub(crate) fn config(diff_ids: &str) -> Vec<u8> {
    format!(
        r#"{{"architecture":"amd64","config":{{}},"created":"1980-01-02T00:00:00Z","history":[],"os":"linux","rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
    )
    .into_bytes()
}

#[test]
fn u11_an_image_without_layers_is_valid() {
    let image = assemble(config(""), Vec::new()).expect("assemble");
    let config_digest = Digest::of(&config(""));
    let expected = format!(
        r#"{{"config":{{"digest":"{config_digest}","mediaType":"application/vnd.oci.image.config.v1+json","size":{}}},"layers":[],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#,
        config("").len()
    );
    assert_eq!(String::from_utf8(image.manifest).expect("utf-8"), expected);
}

#[test]
fn l18_base_layers_keep_their_blobs_under_oci_names() {
    let digest = Digest::of(b"x");
    let list = format!("\"{digest}\"");
    for (given, expected) in [
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            MediaType::ImageLayerGzip,
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar",
            MediaType::ImageLayer,
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            MediaType::ImageLayerZstd,
        ),
    ] {
        let blob = Blob {
            digest,
            size: 1,
            media_type: given.into(),
        };
        let image = assemble(config(&list), vec![blob]).expect("assemble");
        assert_eq!(
            image.layers,
            [Blob {
                digest,
                size: 1,
                media_type: expected
            }]
        );
    }
    for foreign in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.in-toto+json",
    ] {
        let blob = Blob {
            digest,
            size: 1,
            media_type: foreign.into(),
        };
        let error = assemble(config(&list), vec![blob]).expect_err(foreign);
        assert!(error.to_string().contains(foreign), "{error}");
    }
}

#[test]
fn m01_config_and_layers_must_agree() {
    let digest = Digest::of(b"x");
    let blob = Blob {
        digest,
        size: 1,
        media_type: MediaType::ImageLayerGzip,
    };
    for config in [
        config(""),
        b"[]".to_vec(),
        b"{".to_vec(),
        config("\"sha512:00\""),
    ] {
        assert!(assemble(config, vec![blob.clone()]).is_err());
    }
}

fn member(media_type: &str, platform: &str, annotation: &str) -> String {
    let digest = Digest::of(platform.as_bytes());
    let platform = match platform.split('/').collect::<Vec<_>>().as_slice() {
        [os, architecture] => {
            format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#)
        }
        _ => String::new(),
    };
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{digest}","size":1,"annotations":{{"{annotation}":"x"}}{platform}}}"#
    )
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn chosen(members: &[String], wanted: &str) -> Result<String, ImageError> {
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        members.join(",")
    );
    let Document::Index(index) = Document::parse(text.as_bytes(), Some(INDEX))? else {
        panic!("no index")
    };
    let wanted: Platform = wanted.parse().expect("platform");
    choose(&index, &wanted).map(|d| d.digest().to_string())
}

#[test]
fn u07_the_platform_is_chosen_and_attestations_never() {
    let attestation = member(MANIFEST, "unknown/unknown", "vnd.docker.reference.type");
    let plain = |platform| member(MANIFEST, platform, "a");
    let all = [
        attestation.clone(),
        plain("linux/386"),
        plain("linux/amd64"),
        plain("linux/arm64"),
    ];
    let digest = |platform: &str| Digest::of(platform.as_bytes()).to_string();
    assert_eq!(
        chosen(&all, "linux/amd64").expect("amd64"),
        digest("linux/amd64")
    );
    assert_eq!(
        chosen(&all, "linux/arm64/v8").expect("arm64"),
        digest("linux/arm64")
    );
    assert_eq!(
        chosen(&all[..2], "linux/amd64").expect("386 runs"),
        digest("linux/386")
    );
    let error = chosen(&all, "linux/s390x").expect_err("none").to_string();
    assert_eq!(
        error,
        "no image for linux/s390x; there are: linux/386, linux/amd64, linux/arm64"
    );
    assert_eq!(
        chosen(&[attestation.clone(), plain("")], "linux/arm").expect("only"),
        digest("")
    );
    assert!(chosen(&[attestation], "unknown/unknown").is_err());
}

#[test]
fn documents_are_what_they_say_or_refused() {
    let manifest = String::from_utf8(image(vec![]).0.manifest).expect("utf-8");
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    let is_index = |text: &str, media_type| {
        Document::parse(text.as_bytes(), media_type).map(|d| matches!(d, Document::Index(_)))
    };
    assert!(is_index(index, None).expect("index"));
    assert!(is_index(index, Some("application/json")).expect("index"));
    assert!(!is_index(&manifest, Some(MANIFEST)).expect("manifest"));
    for (text, media_type) in [
        (index, Some(MANIFEST)),
        (index, Some("text/html")),
        (r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#, None),
        (
            r#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#,
            None,
        ),
        (
            r#"{"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#,
            None,
        ),
        ("<html>", None),
        ("{}", None),
    ] {
        assert!(is_index(text, media_type).is_err(), "{text}");
    }
}
