//! What all builds of an engine may take together.

use cooperage::{Bounds, Build, Context, Engine, EngineOptions, Error, Event, Governor};

use crate::base::{NAME, base, skipped};
use crate::context;

async fn governed(dir: &tempfile::TempDir, bounds: Bounds) -> Engine {
    Engine::open(EngineOptions::rooted_at(dir.path()).governor(Governor::new(bounds))).await.unwrap()
}

/// A build of three steps that do not need one another, and that no other build has.
fn three(engine: &Engine, round: &str) -> Build {
    let text = format!(
        "FROM {NAME} AS a\nRUN echo a{round} > /a\nFROM {NAME} AS b\nRUN echo b{round} > /b\n\
         FROM {NAME}\nCOPY f /f\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    );
    engine.build(Context::files([("Dockerfile", text.as_str()), ("f", round)])).parallel(8)
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_share_the_slots_of_their_engine() {
    for slots in [1, 2] {
        let store = tempfile::tempdir().unwrap();
        let engine = governed(&store, Bounds::default().steps(slots)).await;
        if base(&engine).await.is_none() {
            return;
        }
        let (one, two, last) =
            tokio::join!(three(&engine, "1").run(), three(&engine, "2").run(), three(&engine, "3").run());
        one.and(two).and(last).unwrap();
        let governed = engine.governor().governed();
        assert!((1..=slots).contains(&governed.most_steps), "{governed:?}");
        assert_eq!((governed.steps, governed.waiting), (0, 0));
        // What is known needs no slot: nobody was at work since.
        let engine = governed_again(&store).await;
        assert!(three(&engine, "1").run().await.unwrap().steps.iter().all(|step| step.cached));
        assert_eq!(engine.governor().governed().most_steps, 0);
    }
}

async fn governed_again(store: &tempfile::TempDir) -> Engine {
    governed(store, Bounds::default().steps(1).keep_free(u64::MAX)).await
}

/// Two RUNs that end only when both are at work.
/// What the counter says, seen from the steps: each finds that no other is at work.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_slot_lets_one_step_work_at_a_time() {
    let store = tempfile::tempdir().unwrap();
    let engine = governed(&store, Bounds::default().steps(1)).await;
    if base(&engine).await.is_none() {
        return;
    }
    let build = |round: &str| {
        let alone = |stage: &str| {
            format!(
                "FROM {NAME} AS {stage}\nRUN --mount=type=cache,target=/c,id=alone mkdir /c/busy && sleep 0.1 && rm -r /c/busy && echo {round} > /{stage}\n"
            )
        };
        let text =
            format!("{}{}FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n", alone("a"), alone("b"));
        engine.build(Context::files([("Dockerfile", text)])).parallel(8).run()
    };
    let (one, two) = tokio::join!(build("1"), build("2"));
    one.and(two).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_as_there_are_slots_are_at_work_at_once() {
    let store = tempfile::tempdir().unwrap();
    let engine = governed(&store, Bounds::default().steps(2)).await;
    if base(&engine).await.is_none() {
        return;
    }
    let meet = |own: &str, other: &str| {
        let text = format!(
            "FROM {NAME}\nRUN --mount=type=cache,target=/c,id=meet touch /c/{own}; while ! test -e /c/{other}; do sleep 0.05; done\n"
        );
        engine.build(Context::files([("Dockerfile", text)])).run()
    };
    let (one, two) = tokio::join!(meet("one", "two"), meet("two", "one"));
    one.and(two).unwrap();
    assert_eq!(engine.governor().governed().most_steps, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_gives_its_slot_back() {
    let store = tempfile::tempdir().unwrap();
    let engine = governed(&store, Bounds::default().steps(1)).await;
    if base(&engine).await.is_none() {
        return;
    }
    let (started, mut at_work) = tokio::sync::mpsc::unbounded_channel();
    let text = format!("FROM {NAME}\nRUN echo in; sleep 1000\n");
    let endless = engine.build(Context::files([("Dockerfile", text)])).on_event(move |event| {
        if matches!(event, Event::Output { .. }) {
            _ = started.send(());
        }
    });
    let endless = tokio::spawn(endless.run());
    at_work.recv().await.unwrap();
    let other = tokio::spawn(three(&engine, "1").run());
    while engine.governor().governed().waiting == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(engine.governor().governed().steps, 1);
    assert!(!other.is_finished());
    endless.abort();
    assert!(endless.await.unwrap_err().is_cancelled());
    other.await.unwrap().unwrap();
    assert_eq!(engine.governor().governed().most_steps, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_runs_adds_up_to_the_bound_at_most() {
    const MIB: u64 = 1 << 20;
    let store = tempfile::tempdir().unwrap();
    let engine = governed(&store, Bounds::default().memory(100 * MIB)).await;
    if base(&engine).await.is_none() {
        return;
    }
    let limits = |bytes| {
        let mut limits = cooperage::Limits::default();
        limits.memory = Some(bytes);
        limits
    };
    let error = three(&engine, "0").limits(limits(101 * MIB)).run().await.unwrap_err();
    let Error::MemoryBudget { limit, budget, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*limit, *budget), (101 * MIB, 100 * MIB));
    assert!(error.hint().is_some_and(|hint| hint.contains("smaller limit")));
    let build = |round| three(&engine, round).limits(limits(60 * MIB)).run();
    let (one, two) = tokio::join!(build("1"), build("2"));
    if let Err(Error::Runtime(error)) = &one {
        skipped(&format!("no limit of memory: {error}"));
        return;
    }
    one.and(two).unwrap();
    assert_eq!(
        (engine.governor().governed().most_memory, engine.governor().governed().memory),
        (60 * MIB, 0)
    );
}

/// The names in a directory of the store.
fn names(engine: &Engine, place: &str) -> Vec<String> {
    let entries = std::fs::read_dir(engine.store().path().join(place)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_needs_what_is_kept_free_is_refused_before_it_writes() {
    let store = tempfile::tempdir().unwrap();
    let engine = governed(&store, Bounds::default().keep_free(u64::MAX)).await;
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "f")]);
    let error = engine.build(Context::directory(files.path())).run().await.unwrap_err();
    let Error::DiskReserve { needed: 4096, reserve: u64::MAX, what, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(what.contains("COPY f /f"), "{what}");
    assert!(error.hint().is_some_and(|hint| hint.contains("make room")));
    // A context that has to be written down first, and a base image that has to be pulled, too.
    let error = engine.build(Context::tar(std::io::empty())).run().await.unwrap_err();
    assert!(matches!(&error, Error::DiskReserve { what, .. } if what == "the context"), "{error:?}");
    let text = "FROM 127.0.0.1:1/no/such\n";
    let error = engine.build(Context::files([("Dockerfile", text)])).run().await.unwrap_err();
    assert!(matches!(&error, Error::DiskReserve { what, .. } if what.starts_with("FROM ")), "{error:?}");
    for place in ["layers", "blobs", "images", "ingest", "cache/records"] {
        assert_eq!(names(&engine, place), [""; 0], "{place}");
    }
}

/// A file system of its own, so that nobody else's files count.
fn memory_disk() -> Option<tempfile::TempDir> {
    let stat = rustix::fs::statvfs("/dev/shm").ok().filter(|stat| stat.f_bavail * stat.f_frsize > 256 << 20);
    let made = stat.and_then(|_| tempfile::tempdir_in("/dev/shm").ok());
    if made.is_none() {
        skipped("no 256 MiB in /dev/shm");
    }
    made
}

fn free(path: &std::path::Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_step_writes_is_held_against_what_is_free() {
    let Some(store) = memory_disk() else { return };
    const MIB: u64 = 1 << 20;
    let bounds = Bounds::default().keep_free(free(store.path()) - 96 * MIB);
    let engine = governed(&store, bounds).await;
    let build = |name: &str, size: u64| {
        let files = context(&[("Dockerfile", &format!("FROM scratch\nCOPY f /{name}\n"))]);
        std::fs::File::create(files.path().join("f")).unwrap().set_len(size).unwrap();
        let build = engine.build(Context::directory(files.path())).run();
        async move { build.await.map(|_| drop(files)) }
    };
    let error = build("large", 192 * MIB).await.unwrap_err();
    assert!(matches!(error, Error::DiskReserve { needed, .. } if needed == 192 * MIB), "{error:?}");
    assert_eq!(names(&engine, "layers"), [""; 0]);
    build("small", MIB).await.unwrap();
    assert_eq!((names(&engine, "layers").len(), engine.governor().governed().disk), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_eats_what_is_kept_free_is_ended() {
    let Some(store) = memory_disk() else { return };
    // The base image first, which is no part of it.
    let roomy = governed(&store, Bounds::default()).await;
    if base(&roomy).await.is_none() {
        return;
    }
    let engine = governed(&store, Bounds::default().keep_free(free(store.path()) - (64 << 20))).await;
    let text = format!("FROM {NAME}\nRUN while true; do cat /bin/sh >> /big; done\n");
    let error = engine.build(Context::files([("Dockerfile", text)])).run().await.unwrap_err();
    assert!(matches!(&error, Error::DiskReserve { what, .. } if what.contains("RUN while")), "{error:?}");
    assert_eq!(engine.governor().governed().steps, 0);
}
