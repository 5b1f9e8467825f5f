//! What a process changes is the same layer whichever driver gave it its root.

use std::sync::Arc;

use cooperage::store::{CopyDriver, OverlayDriver, Snapshotter};
use cooperage::{Context, Engine, EngineOptions, Secret};

use crate::base::{NAME, base};
use crate::context;

async fn over(dir: &tempfile::TempDir, driver: Arc<dyn Snapshotter>) -> Engine {
    let mut options = EngineOptions::rooted_at(dir.path());
    options.snapshotter = Some(driver);
    Engine::open(options).await.unwrap()
}

#[tokio::test]
async fn builds_and_containers_run_over_either_driver() {
    let text = format!(
        "FROM {NAME}\nRUN mkdir -p /a/b && echo one > /a/b/one && echo two > /a/two && ln /a/two /a/name && ln -s two /a/link\n\
         RUN --mount=type=secret,id=token,target=/a/secret --mount=type=tmpfs,target=/scratch \
             rm -r /a/b && mkdir /a/b && echo new > /a/b/new && echo more >> /a/two && chmod 700 /a && cat /a/secret /etc/hostname > /dev/null && touch /scratch/x\n\
         RUN rm /a/link && mkdir /a/link && echo deep > /a/link/deep && mv /a/two /two\n\
         CMD [\"/bin/sh\", \"-c\", \"cat /two /a/name /a/b/new && echo gone > /a/b/new && test ! -e /a/b/one\"]\n"
    );
    let files = context(&[("Dockerfile", &text)]);
    for driver in [Arc::new(OverlayDriver) as Arc<dyn Snapshotter>, Arc::new(CopyDriver)] {
        let store = tempfile::tempdir().unwrap();
        let name = driver.name();
        let engine = over(&store, driver).await;
        if base(&engine).await.is_none() {
            return;
        }
        let build = engine.build(Context::directory(files.path())).secret("token", Secret::new("S3CR3T\n"));
        let built = build.run().await.unwrap();
        let ended = engine.container(&built.image).run().await.unwrap();
        assert_eq!(ended.code, 0, "{name}");
        let upper = engine.store().container_upper(&ended.id).unwrap();
        assert_eq!(upper.driver().name(), name);
        let wrote: Vec<_> = upper.changes().unwrap().entries.into_keys().collect();
        assert_eq!(wrote.last().unwrap(), b"a/b/new", "{name}");
        let found = engine.store().check().unwrap();
        assert!(found.is_sound(), "{name}: {found:?}");
    }
}
