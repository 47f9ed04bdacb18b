//! OCI image layouts: directories (and, written only, tar archives) with `oci-layout`,
//! `index.json` and blobs by digest (image-spec, "OCI Image Layout Specification").

mod read;
mod write;

pub use read::Layout;
pub use write::{BlobSource, write_archive, write_archive_file, write_directory};

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs/sha256";
const VERSION: &str = "1.0.0";
/// The tag, or what else the image is called within the layout (image-spec, "Annotations").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The complete reference, as containerd and BuildKit write it (rule U05).
const IMAGE_NAME: &str = "io.containerd.image.name";
const CREATED: &str = "org.opencontainers.image.created";
