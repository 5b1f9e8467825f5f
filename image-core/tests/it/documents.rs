//! No document loses a byte, and none that can be read in two ways is read at all.

use image_core::strategies::{as_others_write, document, image_config, index, manifest, reference};
use image_core::{
    AnyManifest, CONFIG_LIMIT, Digest, Document, DocumentError, ImageConfig, MANIFEST_LIMIT, MediaType,
    Reference,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn runner() -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(200) })
}

/// Runs `check` on 200 values.
fn each<S: Strategy>(values: S, check: impl Fn(S::Value)) {
    let result = runner().run(&values, |value| {
        check(value);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn generated_configs_keep_every_byte() {
    each(document(image_config()), |(value, bytes)| {
        let read = Document::<ImageConfig>::config(bytes.clone()).unwrap();
        assert_eq!(read.bytes(), bytes);
        assert_eq!(*read.digest(), Digest::sha256(&bytes));
        assert_eq!(*read.value(), value, "the typed view");
        let (value, again) = read.into_parts();
        assert_eq!(again, bytes);
        // Through the types and our own writer, twice: the same bytes, and nothing lost.
        let ours = Document::from_value(value).unwrap();
        let read = Document::<ImageConfig>::config(ours.bytes().to_vec()).unwrap();
        assert_eq!(Document::from_value(read.value().clone()).unwrap().bytes(), ours.bytes());
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(json(ours.bytes()), json(&bytes));
    });
    println!("200 generated configs: every byte kept");
}

#[test]
fn generated_manifests_and_indexes_keep_every_byte() {
    each(document(manifest()), |(value, bytes)| {
        let Ok(AnyManifest::Manifest(read)) = AnyManifest::parse(bytes.clone(), value.media_type.as_ref())
        else {
            panic!("{}", String::from_utf8_lossy(&bytes));
        };
        assert_eq!((read.bytes(), read.value()), (bytes.as_slice(), &value));
        let ours = Document::from_value(value).unwrap();
        let again = AnyManifest::parse(ours.bytes().to_vec(), None).unwrap();
        assert_eq!(again.bytes(), ours.bytes());
    });
    each(document(index()), |(value, bytes)| {
        let Ok(AnyManifest::Index(read)) = AnyManifest::parse(bytes.clone(), value.media_type.as_ref())
        else {
            panic!("{}", String::from_utf8_lossy(&bytes));
        };
        assert_eq!((read.bytes(), read.value()), (bytes.as_slice(), &value));
    });
    println!("200 generated manifests and 200 indexes: every byte kept");
}

#[test]
fn what_is_manifest_and_index_at_once_is_refused() {
    each((manifest(), index(), 0_usize..4, any::<u64>()), |(manifest, index, way, seed)| {
        let mut both = serde_json::to_value(&manifest).unwrap();
        let other = serde_json::to_value(&index).unwrap();
        match way {
            0 => both["manifests"] = other["manifests"].clone(),
            1 => both["manifests"] = serde_json::json!([]),
            2 => {
                both = other;
                both["layers"] = serde_json::json!([]);
            }
            _ => {
                both = other;
                both["config"] = serde_json::to_value(&manifest.config).unwrap();
            }
        }
        let bytes = as_others_write(&both, seed);
        assert!(matches!(AnyManifest::parse(bytes, None), Err(DocumentError::Ambiguous)), "{both}");
    });
    // What says that it is the other.
    each((manifest(), any::<u64>()), |(mut manifest, seed)| {
        manifest.media_type = None;
        let bytes = as_others_write(&manifest, seed);
        for index in [MediaType::OciIndex, MediaType::DockerIndex] {
            assert!(matches!(
                AnyManifest::parse(bytes.clone(), Some(&index)),
                Err(DocumentError::UnknownKind { .. })
            ));
        }
    });
    println!("200 ambiguous documents: all refused");
}

#[test]
fn a_member_twice_is_refused() {
    let manifest = |layers: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,
            "digest":"{}"}},"layers":[]{layers}}}"#,
            Digest::sha256(b"{}")
        )
        .into_bytes()
    };
    assert!(AnyManifest::parse(manifest(""), None).is_ok());
    for twice in [r#","layers":[]"#, r#","schemaVersion":2"#] {
        assert!(
            matches!(AnyManifest::parse(manifest(twice), None), Err(DocumentError::Json { .. })),
            "{twice}"
        );
    }
}

#[test]
fn schema_one_and_what_is_too_large_are_refused_by_name() {
    for text in [
        r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[]}"#,
        r#"{"fsLayers":[{"blobSum":"sha256:00"}]}"#,
    ] {
        let error = AnyManifest::parse(text.as_bytes().to_vec(), None).unwrap_err();
        assert!(matches!(error, DocumentError::SchemaOne), "{error}");
        assert_eq!(error.to_string(), "docker image manifest schema 1 is not supported");
    }
    let large = |limit: u64| vec![b' '; usize::try_from(limit).unwrap() + 1];
    assert!(matches!(
        AnyManifest::parse(large(MANIFEST_LIMIT), None),
        Err(DocumentError::TooLarge { limit: MANIFEST_LIMIT, .. })
    ));
    assert!(matches!(
        Document::<ImageConfig>::config(large(CONFIG_LIMIT)),
        Err(DocumentError::TooLarge { limit: CONFIG_LIMIT, .. })
    ));
}

#[test]
fn generated_names_read_back() {
    each(reference(), |name| {
        assert_eq!(Reference::parse(&name.canonical()).unwrap(), name);
        assert_eq!(Reference::parse(&name.familiar()).unwrap(), name);
    });
}
