//! Typed documents read back to what was written, whatever is in them.

use image_core::{Descriptor, Digest, Document, ImageConfig, Manifest, MediaType, Reference, Timestamp};
use proptest::prelude::*;

fn word() -> impl Strategy<Value = String> {
    "[ -~äß한]{0,12}"
}

proptest! {
    #[test]
    fn configs_read_back(env in proptest::collection::vec(word(), 0..5), label in word(), user in word(), seconds in -1_000_000_i64..4_000_000_000) {
        let mut config = ImageConfig::empty(&image_core::Platform::new("linux", "amd64"));
        config.created = Some(Timestamp::from_seconds(seconds));
        config.config.env = env;
        config.config.user = user;
        config.config.labels.insert(label.clone(), label);
        config.unknown.insert("x-new".into(), serde_json::json!({"deep": [1, null]}));
        let written = Document::from_value(config.clone()).unwrap();
        let read = Document::<ImageConfig>::config(written.bytes().to_vec()).unwrap();
        prop_assert_eq!(read.value(), &config);
        let again = Document::from_value(read.value().clone()).unwrap();
        prop_assert_eq!(again.digest(), written.digest());
    }

    #[test]
    fn names_print_to_themselves(text in "[a-zA-Z0-9./:@_\\-\\[\\]]{1,40}") {
        if let Ok(name) = Reference::parse(&text) && !name.domain().is_empty() {
            prop_assert_eq!(&Reference::parse(&name.canonical()).unwrap(), &name);
            prop_assert_eq!(&Reference::parse(&name.familiar()).unwrap(), &name);
        }
    }

    #[test]
    fn times_print_to_themselves(seconds in -62_135_596_800_i64..253_402_300_799, nanos in 0_u32..1_000_000_000) {
        let time = Timestamp::new(seconds, nanos);
        prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
    }
}

#[test]
fn converts_to_oci_specs_types() {
    let layer = Descriptor::new(
        MediaType::parse("application/vnd.oci.image.layer.v1.tar+gzip"),
        Digest::sha256(b"l"),
        7,
    );
    let manifest = Manifest::oci(Descriptor::of(MediaType::OciConfig, b"{}"), vec![layer]);
    let theirs = manifest.to_oci_lossy().unwrap();
    assert_eq!(Manifest::from_oci(&theirs).unwrap(), manifest);
}
