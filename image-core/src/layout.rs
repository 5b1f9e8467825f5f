//! How a directory or an archive is an OCI image layout.
//!
//! ```text
//!  oci-layout                    {"imageLayoutVersion":"1.0.0"}
//!  index.json                    an index; an entry for each name of an image
//!  blobs/<algorithm>/<hex>       manifests, configs, layers
//! ```
//!
//! Source: image-spec `image-layout.md`.

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::reference::Reference;

/// The name of the file that says that it is a layout.
pub const MARKER: &str = "oci-layout";
/// What that file has in it.
pub const MARKER_TEXT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}\n";
/// The name of the file with the index.
pub const INDEX: &str = "index.json";
/// The annotation of an entry of the index with its tag, by the specification.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of an entry of the index with its whole name, by containerd and docker.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// Where the blob with this digest is, from the top of the layout.
///
/// ```
/// use image_core::{Digest, layout};
/// let path = layout::blob_path(&Digest::sha256(b""));
/// assert_eq!(path, "blobs/sha256/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
/// ```
#[must_use]
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The entries of the index for one image: one for each of `names`, or a single one without a name.
///
/// ```
/// use image_core::{Descriptor, MediaType, layout};
/// let manifest = Descriptor::of(MediaType::OciManifest, b"{}");
/// let entries = layout::entries(&manifest, &["example.com/app:v1".parse()?]);
/// assert_eq!(entries[0].annotations[layout::REF_NAME], "v1");
/// assert_eq!(entries[0].annotations[layout::IMAGE_NAME], "example.com/app:v1");
/// assert_eq!(layout::entries(&manifest, &[]), [manifest]);
/// # Ok::<(), image_core::ReferenceError>(())
/// ```
#[must_use]
pub fn entries(manifest: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![manifest.clone()];
    }
    let named = |name: &Reference| {
        let mut entry = manifest.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.canonical());
        if let Some(tag) = name.tag() {
            entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        }
        entry
    };
    names.iter().map(named).collect()
}
