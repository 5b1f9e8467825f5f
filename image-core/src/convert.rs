//! To and from oci-spec's types, for programs that speak those.
//!
//! oci-spec knows fewer members than a document may hold, so *to* can lose what it has no place for, and says so in
//! its name: the bytes of a [`Document`](crate::Document) stay the truth.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::ImageConfig;
use crate::descriptor::Descriptor;
use crate::error::{DocumentError, JsonError};
use crate::index::Index;
use crate::manifest::Manifest;

fn through_json<A: Serialize, B: DeserializeOwned>(
    kind: &'static str,
    value: &A,
) -> Result<B, DocumentError> {
    let text = crate::json::to_bytes(value).map_err(|source| DocumentError::Json { kind, source })?;
    serde_json::from_slice(&text).map_err(|source| DocumentError::Json { kind, source: JsonError(source) })
}

macro_rules! conversions {
    ($($ours:ident <=> $theirs:path, $kind:literal;)*) => {$(
        impl $ours {
            /// As oci-spec's type, without the members that it does not know.
            ///
            /// # Errors
            /// [`DocumentError::Json`] when oci-spec refuses the document.
            pub fn to_oci_lossy(&self) -> Result<$theirs, DocumentError> {
                through_json($kind, self)
            }

            /// From oci-spec's type.
            ///
            /// # Errors
            /// [`DocumentError::Json`] when a digest in it is none (oci-spec does not check).
            pub fn from_oci(value: &$theirs) -> Result<Self, DocumentError> {
                through_json($kind, value)
            }
        }
    )*};
}

conversions! {
    Descriptor <=> oci_spec::image::Descriptor, "descriptor";
    Manifest <=> oci_spec::image::ImageManifest, "manifest";
    Index <=> oci_spec::image::ImageIndex, "index";
    ImageConfig <=> oci_spec::image::ImageConfiguration, "image config";
}
