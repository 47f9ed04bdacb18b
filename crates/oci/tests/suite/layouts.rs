//! Layouts written, extended, read and refused.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use oci::error::LayoutError;
use oci::image::{Image, ResolvedImage};
use oci::layer::ReadOptions;
use oci::layout::{BlobSource, Layout, write_archive, write_archive_file, write_directory};
use oci::platform::Platform;
use oci::reference::Reference;
use serde_json::Value;
use store::Digest;
use store::content::{Content, Item};
use store::tree::Kind;

use super::images::image;
use super::tarball::entry;

struct Blobs(tempfile::TempDir);

impl Blobs {
    fn new(blobs: &[(Digest, Vec<u8>)]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        for (digest, bytes) in blobs {
            fs::write(directory.path().join(digest.hex()), bytes).expect("blob");
        }
        Self(directory)
    }
}

impl BlobSource for Blobs {
    fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.0.path().join(digest.hex()))
    }

    fn link_to(&self, digest: &Digest, path: &Path) -> io::Result<()> {
        fs::hard_link(self.0.path().join(digest.hex()), path)
    }
}

fn file(path: &str, bytes: &[u8]) -> Item {
    let entry = entry(
        path,
        Kind::File {
            size: 0,
            hash: [0; 32],
        },
    );
    Item {
        entry,
        content: Content::Bytes(bytes.to_vec().into()),
    }
}

/// An image whose files say `text`, twice in the same layer.
fn sample(text: &str) -> (Image, Blobs) {
    let layer = vec![file("f", text.as_bytes())];
    let (image, blobs) = image(vec![layer.clone(), vec![file("g", b"other")], layer]);
    (image, Blobs::new(&blobs))
}

fn platform() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn reference(text: &str) -> Reference {
    text.parse().expect(text)
}

fn resolve(path: &Path, name: Option<&str>) -> Result<ResolvedImage, LayoutError> {
    Layout::open(path)?.resolve(name, &platform())
}

fn tree(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = walkdir::WalkDir::new(path)
        .min_depth(1)
        .into_iter()
        .map(|e| {
            e.expect("walk")
                .path()
                .strip_prefix(path)
                .expect("below")
                .display()
                .to_string()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn u05_what_is_written_is_read_and_nothing_else_is_there() {
    let (image, blobs) = sample("one");
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("new/layout");
    write_directory(&path, &image, &[reference("app:1")], &blobs).expect("write");
    let read = resolve(&path, Some("1")).expect("resolve");
    assert_eq!(read.manifest, image.manifest);
    assert_eq!(read.config, image.config);
    assert_eq!(read.platform, platform());
    let layout = Layout::open(&path).expect("open");
    for (layer, blob) in read.layers.iter().zip(&image.layers) {
        assert_eq!((layer.digest, layer.size), (blob.digest, blob.size));
        let mut bytes = Vec::new();
        layout.copy_blob(&layer.digest, &mut bytes).expect("copy");
        let tar = oci::layer::decompress(bytes.as_slice()).expect("magic");
        let scanned = oci::layer::scan(tar, ReadOptions::default()).expect("scan");
        assert_eq!(scanned.diff_id, layer.diff_id);
    }
    // Of three layers two are equal.
    let names = tree(&path);
    assert_eq!(
        names
            .iter()
            .filter(|n| n.starts_with("blobs/sha256/"))
            .count(),
        4,
        "{names:?}"
    );
    assert_eq!(names.len(), 8, "{names:?}");
    let marker = fs::read_to_string(path.join("oci-layout")).expect("marker");
    assert_eq!(marker, r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[test]
fn u05_every_name_has_a_descriptor_with_both_annotations() {
    let (image, blobs) = sample("one");
    let directory = tempfile::tempdir().expect("temporary directory");
    let names = [reference("app"), reference("reg.example/o/app:2")];
    write_directory(directory.path(), &image, &names, &blobs).expect("write");
    let index = fs::read(directory.path().join("index.json")).expect("index");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let annotations = |at: usize| {
        let all = index["manifests"][at]["annotations"].clone();
        serde_json::from_value::<HashMap<String, String>>(all).expect("annotations")
    };
    let expected = |name: &str, tag: &str| {
        HashMap::from([
            ("io.containerd.image.name".to_owned(), name.to_owned()),
            (
                "org.opencontainers.image.created".to_owned(),
                "1980-01-02T00:00:00Z".to_owned(),
            ),
            (
                "org.opencontainers.image.ref.name".to_owned(),
                tag.to_owned(),
            ),
        ])
    };
    assert_eq!(
        annotations(0),
        expected("docker.io/library/app:latest", "latest")
    );
    assert_eq!(annotations(1), expected("reg.example/o/app:2", "2"));
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "amd64");
    for name in [
        "latest",
        "2",
        "docker.io/library/app:latest",
        "app:latest",
        "reg.example/o/app:2",
    ] {
        assert!(resolve(directory.path(), Some(name)).is_ok(), "{name}");
    }
    let error = resolve(directory.path(), Some("3"))
        .expect_err("unknown")
        .to_string();
    assert!(
        error.ends_with("has no image \"3\"; there are: latest, 2"),
        "{error}"
    );
}

#[test]
fn an_existing_layout_is_extended() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path();
    let write = |text: &str, names: &[Reference]| {
        let (image, blobs) = sample(text);
        write_directory(path, &image, names, &blobs).expect("write");
        image.manifest_digest
    };
    let first = write("1", &[reference("app:1")]);
    let second = write("2", &[reference("app:2")]);
    let nameless = write("3", &[]);
    let found = |name: &str| resolve(path, Some(name)).expect(name).manifest_digest;
    assert_eq!((found("1"), found("2")), (first, second));
    assert!(matches!(
        resolve(path, None),
        Err(LayoutError::Ambiguous { .. })
    ));
    assert_eq!(found(&nameless.to_string()), nameless, "by digest");
    let replaced = write("4", &[reference("app:1")]);
    let again = write("5", &[]);
    assert_eq!((found("1"), found("2")), (replaced, second));
    let index: Value =
        serde_json::from_slice(&fs::read(path.join("index.json")).expect("index")).expect("JSON");
    let digests: Vec<_> = index["manifests"]
        .as_array()
        .expect("list")
        .iter()
        .map(|m| m["digest"].clone())
        .collect();
    assert_eq!(digests, [second, replaced, again].map(|d| d.to_string()));
    let latest = write("6", &[reference("app")]);
    assert_eq!(resolve(path, None).expect("latest").manifest_digest, latest);
}

#[test]
fn a_blob_cut_short_by_a_kill_is_written_again() {
    let (image, blobs) = sample("one");
    let directory = tempfile::tempdir().expect("temporary directory");
    write_directory(directory.path(), &image, &[], &blobs).expect("write");
    let path = Layout::open(directory.path())
        .expect("open")
        .blob_path(&image.manifest_digest);
    fs::write(&path, &image.manifest[..10]).expect("cut");
    write_directory(directory.path(), &image, &[], &blobs).expect("write");
    assert_eq!(fs::read(&path).expect("blob"), image.manifest);
}

#[test]
fn damaged_layouts_are_refused() {
    let (image, blobs) = sample("one");
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damage: [Damage<'_>; 6] = [
        ("not an OCI image layout", &|p| {
            fs::remove_file(p.join("oci-layout")).expect("remove");
        }),
        ("its version is 2.0.0", &|p| {
            fs::write(p.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).expect("write");
        }),
        ("invalid JSON", &|p| {
            fs::write(p.join("index.json"), "{").expect("write");
        }),
        ("longer than", &|p| {
            fs::write(p.join("index.json"), vec![b' '; 5 << 20]).expect("write");
        }),
        ("has other content", &|p| {
            let path = Layout::open(p)
                .expect("open")
                .blob_path(&image.config_digest);
            fs::write(path, "{}").expect("write");
        }),
        ("open ", &|p| {
            let path = Layout::open(p)
                .expect("open")
                .blob_path(&image.manifest_digest);
            fs::remove_file(path).expect("remove");
        }),
    ];
    for (expected, damage) in damage {
        let directory = tempfile::tempdir().expect("temporary directory");
        write_directory(directory.path(), &image, &[], &blobs).expect("write");
        damage(directory.path());
        let error = resolve(directory.path(), None).expect_err(expected);
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            text = format!("{text}: {source}");
        }
        assert!(text.contains(expected), "{text}");
    }
    let file = tempfile::NamedTempFile::new().expect("file");
    let error = Layout::open(file.path()).expect_err("a file").to_string();
    assert!(error.contains("archives have to be unpacked"), "{error}");
}

#[test]
fn a_missing_layer_leaves_the_old_image_and_no_rest() {
    let (old, old_blobs) = sample("old");
    let directory = tempfile::tempdir().expect("temporary directory");
    write_directory(directory.path(), &old, &[], &old_blobs).expect("write");
    let before = tree(directory.path());
    let (new, _) = sample("new");
    let none = Blobs::new(&[]);
    assert!(write_directory(directory.path(), &new, &[], &none).is_err());
    assert_eq!(
        resolve(directory.path(), None)
            .expect("old")
            .manifest_digest,
        old.manifest_digest
    );
    let added: Vec<_> = tree(directory.path())
        .into_iter()
        .filter(|n| !before.contains(n))
        .collect();
    assert!(added.iter().all(|n| !n.contains("/.")), "{added:?}");
}

#[test]
fn nested_indexes_are_followed_and_not_forever() {
    let (image, blobs) = sample("one");
    let directory = tempfile::tempdir().expect("temporary directory");
    write_directory(directory.path(), &image, &[], &blobs).expect("write");
    let manifest = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest_digest.to_string(), "size": image.manifest.len(),
        "platform": {"os": "linux", "architecture": "amd64"},
    });
    let nest = |inner: &Value| {
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [inner],
        });
        let bytes = serde_json::to_vec(&index).expect("JSON");
        let digest = Digest::of(&bytes);
        let path = directory.path().join("blobs/sha256").join(digest.hex());
        fs::File::create(path)
            .expect("create")
            .write_all(&bytes)
            .expect("write");
        fs::write(directory.path().join("index.json"), &bytes).expect("index");
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest.to_string(), "size": bytes.len(),
        })
    };
    let mut inner = nest(&manifest);
    for depth in 0..6 {
        let resolved = resolve(directory.path(), None);
        assert_eq!(resolved.is_ok(), depth < 4, "{depth}: {resolved:?}");
        inner = nest(&inner);
    }
}

#[test]
fn equal_images_make_equal_archives() {
    let (image, blobs) = sample("one");
    let names = [reference("app:1"), reference("app:2")];
    let one = write_archive(Vec::new(), &image, &names, &blobs).expect("archive");
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("image.tar");
    write_archive_file(&path, &image, &names, &blobs).expect("archive");
    assert!(fs::read(&path).expect("read") == one);
    assert_eq!(tree(directory.path()), ["image.tar"]);
    let scanned = oci::layer::scan(one.as_slice(), ReadOptions::default()).expect("scan");
    let names: Vec<_> = scanned
        .index
        .entries()
        .iter()
        .map(|e| (e.mode, e.mtime))
        .collect();
    assert_eq!(names[..2], [(0o755, 0); 2]);
    assert!(
        names[2..].iter().all(|n| *n == (0o444, 0)) && names.len() == 8,
        "{names:?}"
    );
    let missing = write_archive_file(&path, &image, &[], &Blobs::new(&[]));
    assert!(missing.is_err() && fs::read(&path).expect("old one") == one);
}
