//! What one builder did, others need not do; and what a build left when it failed, or did differently.

use cooperage::registry::server::Registry;
use cooperage::{CacheLocation, Context, Error};

use crate::base::{NAME, base};
use crate::{context, engine};

#[tokio::test]
async fn a_cache_is_shared_by_registry_and_by_directory() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let locations = [
        CacheLocation::Registry(format!("{}/org/cache:main", registry.addr()).parse().unwrap()),
        CacheLocation::Directory(directory.path().join("cache")),
    ];
    let text = format!(
        "FROM {NAME} AS made\nRUN echo made > /made\nFROM {NAME}\nCOPY --from=made /made /\nCOPY f /f\nRUN cat /made /f > /both\n"
    );
    let files = context(&[("Dockerfile", &text), ("f", "f")]);
    for location in locations {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (engine(&here).await, engine(&there).await);
        if base(&first).await.is_none() || base(&second).await.is_none() {
            return;
        }
        // The first builder of a fleet finds no cache, and that is no error.
        let built = first
            .build(Context::directory(files.path()))
            .cache_from(location.clone())
            .cache_to(location.clone())
            .run()
            .await
            .unwrap();
        assert!(built.steps.iter().all(|step| !step.cached));
        let again =
            second.build(Context::directory(files.path())).cache_from(location.clone()).run().await.unwrap();
        assert!(again.steps.iter().all(|step| step.cached), "{location:?}: {:?}", again.steps);
        assert_eq!(again.image.id(), built.image.id());
        // It is in the store now: without the cache, too.
        let third = second.build(Context::directory(files.path())).run().await.unwrap();
        assert!(third.steps.iter().all(|step| step.cached));
        // A changed file misses where it is read, and nowhere before.
        let other = context(&[("Dockerfile", &text), ("f", "g")]);
        let other = second.build(Context::directory(other.path())).cache_from(location).run().await.unwrap();
        let hits: Vec<bool> = other.steps.iter().map(|step| step.cached).collect();
        assert_eq!(hits, [true, true, false, false], "{:?}", other.steps);
    }
    registry.shutdown().await;
}

#[tokio::test]
async fn a_cache_of_others_is_read_without_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path();
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = cooperage::image::Digest::sha256(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        (digest, bytes.len())
    };
    // The shape that BuildKit writes: chains of layers, records with inputs.
    let config = br#"{"layers":[{"blob":"sha256:aaaa","parent":-1,"annotations":{"mediaType":"x","diffID":"sha256:b","size":1,"createdAt":"2026-01-01T00:00:00Z"}},{"blob":"sha256:c","parent":0}],"records":[{"digest":"random:1","inputs":[[{"link":0,"selector":""}]],"layers":[{"layer":1,"createdAt":"2026-01-01T00:00:00Z"}],"chains":[{"layers":[0,1]}]}]}"#;
    let (config, size) = put(config);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{config}","size":{size}}},"layers":[]}}"#
    );
    let (manifest, size) = put(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{manifest}","size":{size}}}]}}"#
    );
    std::fs::write(layout.join("index.json"), index).unwrap();
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let built = engine
        .build(Context::files([("Dockerfile", "FROM scratch\nCOPY x /x\n"), ("x", "x")]))
        .cache_from(CacheLocation::Directory(layout.to_owned()))
        .run()
        .await
        .unwrap();
    assert!(!built.steps[0].cached);
}

#[tokio::test]
async fn what_a_failed_step_left_can_be_looked_at() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let files = context(&[(
        "Dockerfile",
        &format!("FROM {NAME}\nENV A=b\nWORKDIR /w\nRUN echo half > done; exit 9\n"),
    )]);
    let error = engine.build(Context::directory(files.path())).keep_failed(true).run().await.unwrap_err();
    let Error::StepFailed { image: Some(image), exit_code: 9, .. } = error else { panic!("{error:?}") };
    let output = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = output.clone();
    let ended = engine
        .container(&image)
        .args(["/bin/sh", "-c", "cat done; echo $A; pwd"])
        .remove(true)
        .on_event(move |event| {
            if let cooperage::Event::Output { bytes, .. } = event {
                seen.lock().unwrap().extend_from_slice(bytes);
            }
        })
        .run()
        .await
        .unwrap();
    assert_eq!(ended.code, 0);
    assert_eq!(String::from_utf8_lossy(&output.lock().unwrap()), "half\nb\n/w\n");
    // A prune takes it away.
    assert_eq!(engine.prune_images(false).await.unwrap().images.len(), 1);
}

#[tokio::test]
async fn what_is_not_reproducible_is_named() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let text = format!(
        "FROM {NAME}\nRUN echo same > /same\nRUN cat /proc/sys/kernel/random/uuid > /random && echo 1 > /fixed\nCOPY x /x\n"
    );
    let files = context(&[("Dockerfile", &text), ("x", "x")]);
    let found = engine.build(Context::directory(files.path())).check_reproducible().await.unwrap();
    assert_eq!(found.differences.len(), 1, "{:?}", found.differences);
    assert!(found.differences[0].step.contains("random"));
    assert_eq!(found.differences[0].paths, ["/random"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_cache_of_its_own_layers() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name: cooperage::image::Reference = format!("{}/org/app:v1", registry.addr()).parse().unwrap();
    let text =
        "FROM scratch AS other\nCOPY f /other\nFROM scratch\nCOPY f /one\nCOPY --from=other /other /two\n";
    let files = context(&[("Dockerfile", text), ("f", "f")]);
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (engine(&here).await, engine(&there).await);
    let plain = first.build(Context::directory(files.path())).run().await.unwrap();
    let build = || first.build(Context::directory(files.path())).inline_cache(true);
    let built = build().run().await.unwrap();
    assert_ne!(built.image.id(), plain.image.id());
    assert_eq!(
        build().run().await.unwrap().image.id(),
        built.image.id(),
        "whether it was cached does not show"
    );
    first.push(&built.image, &name, &(std::sync::Arc::new(|_: &cooperage::Event| ()) as _)).await.unwrap();
    let asked = first.build(Context::directory(files.path())).arg("BUILDKIT_INLINE_CACHE", "1");
    assert_eq!(asked.run().await.unwrap().image.id(), built.image.id());
    let location = CacheLocation::Registry(name);
    let again = second
        .build(Context::directory(files.path()))
        .inline_cache(true)
        .cache_from(location.clone())
        .run()
        .await
        .unwrap();
    let missed: Vec<_> =
        again.steps.iter().filter(|step| !step.cached).map(|step| step.name.as_str()).collect();
    // Its layer is in no image, and it is needed to know what the last step reads.
    assert_eq!(missed, ["[other 1/1] COPY f /other"], "{:?}", again.steps);
    assert_eq!(again.image.id(), built.image.id());
    registry.shutdown().await;
}

/// The files of an image's `/out`, as text.
fn out(engine: &cooperage::Engine, image: &cooperage::Image) -> String {
    let view = engine.view(image).unwrap();
    let (_, layer) = view.find(b"out").unwrap();
    let mut text = String::new();
    let mut file = layer.open_file(engine.store().authority(), b"out").unwrap();
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_mounts_go_with_a_shared_cache_when_asked_for() {
    const LIMIT: u64 = 1 << 20;
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let locations = [
        CacheLocation::Registry(format!("{}/org/mounts:main", registry.addr()).parse().unwrap()),
        CacheLocation::Directory(directory.path().join("mounts")),
    ];
    let text = format!(
        "FROM {NAME}\nARG R\nRUN --mount=type=cache,target=/c,id=tools,uid=5,mode=0750 --mount=type=cache,target=/other \
         mkdir -p /c/d && ls -A /c > /out && cat /c/d/log >> /out; stat -c '%u %a' /c >> /out; readlink /c/l >> /out; \
         stat -c %h /c/d/log >> /out; echo $R >> /c/d/log; ln -sf d/log /c/l; ln -f /c/d/log /c/same; true\n"
    );
    for location in locations {
        let build = |engine: &cooperage::Engine, round: &str| {
            engine.build(Context::files([("Dockerfile", text.as_str())])).arg("R", round)
        };
        let stores = [(); 4].map(|()| tempfile::tempdir().unwrap());
        let first = engine(&stores[0]).await;
        if base(&first).await.is_none() {
            return;
        }
        let built =
            build(&first, "one").cache_to(location.clone()).share_cache_mounts(LIMIT).run().await.unwrap();
        assert_eq!(out(&first, &built.image), "d\n5 750\n");
        for (at, limit, expected) in [
            // Another builder begins with what the first one left: content, links, names of one file, owner and mode.
            (1, Some(LIMIT), "d\nl\nsame\none\n5 750\nd/log\n2\n"),
            // Nobody else, and nothing that is larger than is allowed.
            (2, None, "d\n5 750\n"),
            (3, Some(1), "d\n5 750\n"),
        ] {
            let other = engine(&stores[at]).await;
            base(&other).await.unwrap();
            let asked = build(&other, "two").cache_from(location.clone());
            let asked = limit.into_iter().fold(asked, cooperage::Build::share_cache_mounts);
            assert_eq!(out(&other, &asked.run().await.unwrap().image), expected, "{location:?} {limit:?}");
            // A mount that is there already is left alone.
            let again = build(&other, "three").cache_from(location.clone()).share_cache_mounts(LIMIT);
            let found = out(&other, &again.run().await.unwrap().image);
            assert!(found.contains("two\n") && (at == 1) == found.contains("one\n"), "{found}");
        }
        // What is too large is left out, and said; the cache of the steps goes all the same.
        let warned = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = warned.clone();
        let small =
            build(&first, "four").cache_to(location.clone()).share_cache_mounts(1).on_event(move |event| {
                if let cooperage::Event::Warning { text } = event {
                    seen.lock().unwrap().push(text.clone());
                }
            });
        small.run().await.unwrap();
        let warned = warned.lock().unwrap().clone();
        assert!(
            warned.iter().any(|text| text.starts_with("the cache mount /tools is not exported")),
            "{warned:?}"
        );
        let hit = engine(&stores[2]).await;
        let hit =
            build(&hit, "four").cache_from(location.clone()).share_cache_mounts(LIMIT).run().await.unwrap();
        assert!(hit.steps.iter().all(|step| step.cached));
    }
    registry.shutdown().await;
}
