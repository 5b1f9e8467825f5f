//! Statements about an image: how it was made, what is in it.

use std::path::Path;

use cooperage::image::{Descriptor, Digest, Reference, Timestamp};
use cooperage::registry::server::Registry;
use cooperage::{
    Attestation, Build, Context, Engine, Error, LayoutImage, NamedContext, Output, PackageKind, Timestamps,
};
use serde_json::Value;

use crate::base::skipped;
use crate::{context, engine, quiet, transcript};

const IN_TOTO: &str = "application/vnd.in-toto+json";
const STATUS: &str = "Package: libc6\nStatus: install ok installed\nMaintainer: Keepers <keepers@example.com>\nArchitecture: amd64\n\
                      Source: glibc (2.36)\nVersion: 2.36-9+deb12u1\nDescription: words\n more: words\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
const APK: &str = "C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nm:K <k@example.com>\n\n";

/// The statement of a referrer in a registry, and its kind.
async fn statement(engine: &Engine, name: &Reference, referrer: &Descriptor) -> (String, Value) {
    let fetched = engine.client().manifest(&name.at_digest(referrer.digest)).await.unwrap();
    let manifest: Value = serde_json::from_slice(&fetched.bytes).unwrap();
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    let layer: Descriptor = serde_json::from_value(manifest["layers"][0].clone()).unwrap();
    assert_eq!(layer.media_type.to_string(), IN_TOTO);
    let bytes = engine.client().blob_into(name, &layer, Vec::new()).await.unwrap();
    let statement: Value = serde_json::from_slice(&bytes).unwrap();
    let kind = statement["predicateType"].as_str().unwrap().to_owned();
    assert_eq!(layer.annotations["in-toto.io/predicate-type"], kind);
    (kind, statement)
}

/// The statements about `subject`, by kind.
async fn statements(engine: &Engine, name: &Reference, subject: &Digest) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for referrer in engine.client().referrers(name, subject, Some(IN_TOTO)).await.unwrap() {
        found.push(statement(engine, name, &referrer).await);
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_found_by_the_image_that_they_are_about() {
    let (addr, _server) = crate::export::serve(b"fetched".to_vec()).await;
    for has_api in [true, false] {
        let registry = Registry::in_memory().referrers_api(has_api).listen("127.0.0.1:0").await.unwrap();
        let host = registry.addr();
        let (base, name): (Reference, Reference) =
            (format!("{host}/org/base:v1").parse().unwrap(), format!("{host}/org/app:v1").parse().unwrap());
        let first = tempfile::tempdir().unwrap();
        let first = engine(&first).await;
        let made = first
            .build(Context::files([("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "base")]))
            .run()
            .await
            .unwrap();
        let base_digest = first.push(&made.image, &base, &quiet()).await.unwrap().digest;

        let text = format!(
            "FROM {} AS app\nARG VERSION\nLABEL version=$VERSION\nCOPY f /f\nADD http://{addr}/there?token=secret /there\nCOPY --from=more g /g\nFROM scratch\n",
            base.canonical()
        );
        let more = context(&[("g", "g")]);
        let build = |engine: &Engine, files: &Path| -> Build {
            engine
                .build(Context::directory(files))
                .arg("VERSION", "1.2")
                .target("app")
                .tag(name.clone())
                .secret("token", cooperage::Secret::new("S3CR3T"))
                .context("more", NamedContext::Directory(Context::directory(more.path())))
                .attest(Attestation::Provenance)
                .attest(Attestation::Sbom)
        };
        let mut all = Vec::new();
        for content in ["f", "f", "changed"] {
            let (store, files) =
                (tempfile::tempdir().unwrap(), context(&[("Dockerfile", &text), ("f", content)]));
            let engine = engine(&store).await;
            let built = build(&engine, files.path()).run().await.unwrap();
            let subject = engine.push(&built.image, &name, &quiet()).await.unwrap().digest;
            let found = statements(&engine, &name, &subject).await;
            let kinds: Vec<&str> = found.iter().map(|(kind, _)| kind.as_str()).collect();
            assert_eq!(
                kinds,
                ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"],
                "API: {has_api}"
            );
            for (_, statement) in &found {
                assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
                assert_eq!(statement["subject"][0]["digest"]["sha256"], subject.hex());
                assert!(statement["subject"][0]["name"].as_str().unwrap().starts_with("pkg:docker/"));
            }
            // Pushed again, they are there once.
            engine.push(&built.image, &name, &quiet()).await.unwrap();
            assert_eq!(statements(&engine, &name, &subject).await.len(), 2);
            engine.gc().await.unwrap();
            assert_eq!(engine.store().referrers(&subject).unwrap().len(), 2);
            assert!(engine.store().check().unwrap().is_sound());
            all.push(found);
        }
        // Equal inputs in another directory and another store: the same statement.
        assert_eq!(all[0], all[1]);
        let definition = |at: usize| &all[at][0].1["predicate"]["buildDefinition"];
        let materials = definition(0)["resolvedDependencies"].as_array().unwrap();
        let find = |key: &str, value: &str| {
            let is_it = |entry: &&Value| entry[key].as_str().is_some_and(|text| text.starts_with(value));
            materials.iter().find(is_it).unwrap_or_else(|| panic!("{value} in {materials:?}"))
        };
        assert_eq!(materials.len(), 4);
        assert_eq!(
            find("uri", &format!("pkg:docker/{host}/org/base@v1?"))["digest"]["sha256"],
            base_digest.hex()
        );
        let url = find("uri", &format!("http://{addr}/there"));
        assert_eq!(url["digest"]["sha256"], Digest::sha256(b"fetched").hex());
        let digest = |at: usize, name: &str| {
            let list = definition(at)["resolvedDependencies"].as_array().unwrap();
            list.iter().find(|entry| entry["name"] == name).unwrap()["digest"]["sha256"].clone()
        };
        assert_ne!(digest(0, "context"), digest(2, "context"));
        assert_eq!(digest(0, "context:more"), digest(2, "context:more"));
        let parameters = &definition(0)["externalParameters"];
        assert_eq!(parameters["configSource"]["path"], "Dockerfile");
        assert_eq!(parameters["configSource"]["digest"]["sha256"], Digest::sha256(text.as_bytes()).hex());
        let request = &parameters["request"];
        assert_eq!(request["args"]["build-arg:VERSION"], "1.2");
        assert_eq!(request["args"]["target"], "app");
        assert_eq!(request["args"]["platform"], first.platform().to_string());
        assert_eq!(request["secrets"][0]["id"], "token");
        // No time, no secret, no path of the host.
        let text = all[0][0].1.to_string();
        for absent in ["S3CR3T", "secret?", "token=", "finishedOn", "startedOn", "/tmp"] {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
        registry.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_has_a_time_only_when_one_was_given() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let build = || {
        engine
            .build(Context::files([("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "f")]))
            .attest(Attestation::Provenance)
            .builder_id("https://builder.example.com/1")
    };
    let fixed = Timestamps::Fixed(Timestamp::from_seconds(1_000_000_000));
    for (build, expected) in [
        (build(), None),
        (build().timestamps(fixed), Some("2001-09-09T01:46:40Z")),
        (build().arg("SOURCE_DATE_EPOCH", "1000000000"), Some("2001-09-09T01:46:40Z")),
    ] {
        let built = build.run().await.unwrap();
        let subject = built.image.record().manifest.clone().unwrap();
        let [referrer] = &engine.store().referrers(&subject.digest).unwrap()[..] else {
            panic!("one statement")
        };
        let statement: Value =
            serde_json::from_slice(&engine.store().read_blob(&referrer.blobs[0].digest).unwrap()).unwrap();
        let details = &statement["predicate"]["runDetails"];
        assert_eq!(details["metadata"]["finishedOn"].as_str(), expected);
        assert_eq!(details["builder"]["id"], "https://builder.example.com/1");
        assert_eq!(statement["subject"][0]["name"], "_");
        let build_argument = statement["predicate"]["buildDefinition"]["resolvedDependencies"][0].clone();
        assert_eq!(build_argument["name"], "context");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_packages_of_an_image_are_read_without_running_it() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let image = async |files: &[(&str, &str)]| {
        let mut text = "FROM scratch\n".to_owned();
        for (at, (path, _)) in files.iter().enumerate() {
            text.push_str(&format!("COPY {at} /{path}\n"));
        }
        let mut all = vec![("Dockerfile".to_owned(), text)];
        all.extend(
            files.iter().enumerate().map(|(at, (_, content))| (at.to_string(), (*content).to_owned())),
        );
        engine.build(Context::files(all)).attest(Attestation::Sbom).run().await
    };
    let built = image(&[
        ("var/lib/dpkg/status", STATUS),
        ("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2024a-0+deb12u1\nArchitecture: all\n"),
        ("var/lib/dpkg/status.d/tzdata.md5sums", "0123 usr/share/zoneinfo/UTC\n"),
        ("lib/apk/db/installed", APK),
        ("etc/os-release", "NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n"),
    ])
    .await
    .unwrap();
    let packages = engine.packages(&built.image).unwrap();
    let found: Vec<_> =
        packages.iter().map(|known| (known.kind, known.name.as_str(), known.version.as_str())).collect();
    assert_eq!(
        found,
        [
            (PackageKind::Deb, "libc6", "2.36-9+deb12u1"),
            (PackageKind::Deb, "tzdata", "2024a-0+deb12u1"),
            (PackageKind::Apk, "musl", "1.2.4-r2"),
        ]
    );
    let subject = built.image.record().manifest.clone().unwrap();
    let referrers = engine.store().referrers(&subject.digest).unwrap();
    let bytes = engine.store().read_blob(&referrers[0].blobs[0].digest).unwrap();
    let statement: Value = serde_json::from_slice(&bytes).unwrap();
    let document = &statement["predicate"];
    assert_eq!(
        (&document["spdxVersion"], &document["SPDXID"]),
        (&"SPDX-2.3".into(), &"SPDXRef-DOCUMENT".into())
    );
    let listed = document["packages"].as_array().unwrap();
    // The image itself, and its packages; each is in a relation.
    assert_eq!((listed.len(), document["relationships"].as_array().unwrap().len()), (4, 4));
    let libc = listed.iter().find(|entry| entry["name"] == "libc6").unwrap();
    assert_eq!(
        libc["externalRefs"][0]["referenceLocator"],
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12"
    );
    assert_eq!(libc["supplier"], "Person: Keepers (keepers@example.com)");
    assert_eq!(libc["sourceInfo"], "built from the source package glibc");
    for relation in document["relationships"].as_array().unwrap() {
        let to = &relation["relatedSpdxElement"];
        assert!(listed.iter().any(|entry| entry["SPDXID"] == *to), "{relation}");
    }
    // None is no trouble; a damaged one is told with its line.
    assert_eq!(engine.packages(&image(&[("f", "f")]).await.unwrap().image).unwrap(), []);
    for (path, content, at) in [
        ("var/lib/dpkg/status", "Package: a\nVersion: 1\n\nPackage: b\n\0\0\0\0", 5),
        ("var/lib/dpkg/status", "Package: cut\nStatus: install ok installed\nVers", 3),
        ("lib/apk/db/installed", "P:a\nV:1\n\nnothing\n", 4),
    ] {
        let error = image(&[(path, content)]).await.unwrap_err();
        assert!(
            matches!(&error, Error::PackageDatabase { path: found, line, .. } if found == path && *line == at),
            "{error:?}"
        );
    }
    // Nor is one read without a bound.
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY status /var/lib/dpkg/status\n")]);
    std::fs::File::create(files.path().join("status")).unwrap().set_len(65 << 20).unwrap();
    let build = engine.build(Context::directory(files.path())).attest(Attestation::Sbom);
    let error = build.run().await.unwrap_err();
    assert!(matches!(&error, Error::PackageDatabase { line: 0, .. }), "{error:?}");
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_leave_in_layouts_and_of_every_platform() {
    let (store, empty, at) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (engine(&store).await, engine(&empty).await);
    let files = [("Dockerfile", "FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\nCOPY f /f\n"), ("f", "f")];
    let build =
        || first.build(Context::files(files)).attest(Attestation::Provenance).attest(Attestation::Sbom);
    let built = build().run().await.unwrap();
    let subject = built.image.record().manifest.clone().unwrap();
    let names = ["example.com/app:v1".parse().unwrap()];
    let layout = at.path().join("layout");
    first.export(&built.image, &names, &Output::Layout(layout.clone())).await.unwrap();
    let archive = at.path().join("app.tar");
    first.export(&built.image, &names, &Output::Archive(archive.clone())).await.unwrap();
    let top: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let entries = top["manifests"].as_array().unwrap();
    assert_eq!(entries[0]["digest"], subject.digest.to_string());
    assert_eq!(entries.iter().filter(|entry| entry["artifactType"] == IN_TOTO).count(), 2);
    for blob in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let digest = Digest::sha256(&std::fs::read(blob.path()).unwrap());
        assert_eq!(digest.hex(), blob.file_name().to_str().unwrap());
    }
    for entry in &entries[1..] {
        let path = layout.join("blobs/sha256").join(&entry["digest"].as_str().unwrap()[7..]);
        let manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(manifest["subject"]["digest"], subject.digest.to_string());
        for blob in [&manifest["config"], &manifest["layers"][0]] {
            assert!(layout.join("blobs/sha256").join(&blob["digest"].as_str().unwrap()[7..]).exists());
        }
    }
    // It is still one image, for whoever takes it.
    let given = NamedContext::Layout(layout, LayoutImage::Only);
    let text = "FROM given\nLABEL more=1\n";
    second.build(Context::files([("Dockerfile", text)])).context("given", given).run().await.unwrap();
    let loaded =
        cooperage::store::load(second.store(), &mut std::fs::File::open(&archive).unwrap(), None).unwrap();
    assert_eq!((loaded.len(), loaded[0].image), (1, built.image.id()));

    // Each platform's image has its own.
    let platforms = ["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()];
    let index = build().run_all(&platforms).await.unwrap();
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name: Reference = format!("{}/org/app:v1", registry.addr()).parse().unwrap();
    first.push_index(&index, &name, &quiet()).await.unwrap();
    for entry in &index.index.value().manifests {
        assert_eq!(statements(&first, &name, &entry.digest).await.len(), 2);
    }
    let cross = at.path().join("cross");
    first.export_index(&index, &names, &Output::Layout(cross.clone())).await.unwrap();
    let top: Value = serde_json::from_slice(&std::fs::read(cross.join("index.json")).unwrap()).unwrap();
    assert_eq!(top["manifests"].as_array().unwrap().len(), 1 + 4);
    registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_pushes_statements() {
    let coop = transcript::examples().join("coop");
    if !coop.exists() {
        skipped("the example coop is not built: run `cargo build --examples`");
        return;
    }
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "f")]);
    let name: Reference = format!("{}/org/app:v1", registry.addr()).parse().unwrap();
    let done = std::process::Command::new(coop)
        .arg("--root")
        .arg(root.path())
        .args(["build", "-q", "--push", "--provenance", "--sbom", "-t", &name.canonical()])
        .arg(files.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let engine = engine(&root).await;
    let subject = engine.client().head_manifest(&name).await.unwrap().unwrap().digest;
    assert_eq!(statements(&engine, &name, &subject).await.len(), 2);
    registry.shutdown().await;
}
