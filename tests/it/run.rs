//! RUN: what it sees, what stays.

use cooperage::{Context, Engine, Error, Event, Image, Secret};

use crate::base::{NAME, base};
use crate::{context, engine};

fn read(engine: &Engine, image: &Image, path: &str) -> Option<String> {
    let view = engine.view(image).unwrap();
    let (_, layer) = view.find(path.as_bytes())?;
    let mut text = String::new();
    let mut file = layer.open_file(engine.store().authority(), path.as_bytes()).unwrap();
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    Some(text)
}

/// The paths that the last layer has.
fn changed(engine: &Engine, image: &Image) -> Vec<String> {
    let layers = engine.store().image_layers(image.record()).unwrap();
    let entries = &layers.last().unwrap().index().entries;
    entries.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[tokio::test]
async fn mounts_are_seen_and_leave_nothing() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let text = format!(
        "FROM {NAME} AS other\nRUN mkdir -p /o/sub && echo one > /o/sub/a && echo two > /o/b && rm /o/b\nRUN echo three > /o/sub/c && chmod 600 /o/sub/c\n\
         FROM {NAME}\n\
         RUN --mount=type=bind,target=/ctx --mount=from=other,source=/o,target=/stage \
             --mount=type=bind,from=other,source=/o/sub/a,target=/one --mount=type=tmpfs,target=/memory,size=1m \
             --mount=type=secret,id=token --mount=type=secret,id=token,env=TOKEN \
             --mount=type=bind,source=dir,target=/rw,rw \
             cat /ctx/file /ctx/dir/inner /one /run/secrets/token > /seen && echo $TOKEN >> /seen && \
             cat /stage/sub/c >> /seen && ls -a /stage /ctx >> /seen && echo x > /memory/x && echo y > /rw/y && ls /rw >> /seen && \
             stat -c %a /run/secrets/token >> /seen\n"
    );
    let files = context(&[
        ("Dockerfile", &text),
        ("file", "F\n"),
        ("dir/inner", "I\n"),
        ("hidden", "H"),
        (".dockerignore", "hidden\n.dockerignore\nDockerfile\n"),
    ]);
    let built = engine
        .build(Context::directory(files.path()))
        .secret("token", Secret::new("S3CR3T\n"))
        .run()
        .await
        .unwrap();
    assert_eq!(
        read(&engine, &built.image, "seen").unwrap(),
        "F\nI\none\nS3CR3T\nS3CR3T\nthree\n/ctx:\n.\n..\ndir\nfile\n\n/stage:\n.\n..\nsub\ninner\ny\n400\n"
    );
    assert_eq!(changed(&engine, &built.image), ["seen"]);
    // The files of the context are as they were.
    assert!(!files.path().join("dir/y").exists());
    let json =
        String::from_utf8_lossy(&engine.store().read_blob(&built.image.record().config.digest).unwrap())
            .into_owned();
    assert!(!json.contains("S3CR3T"));
}

#[tokio::test]
async fn a_missing_secret_is_named_only_when_it_is_required() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let optional = context(&[(
        "Dockerfile",
        &format!("FROM {NAME}\nRUN --mount=type=secret,id=no ls -a /run > /x; test ! -e /run/secrets/no\n"),
    )]);
    engine.build(Context::directory(optional.path())).run().await.unwrap();
    let required = context(&[(
        "Dockerfile",
        &format!("FROM {NAME}\nRUN --mount=type=secret,id=no,required=true true\n"),
    )]);
    let error = engine.build(Context::directory(required.path())).run().await.unwrap_err();
    assert!(error.to_string().contains("secret no: not found"), "{error}");
}

#[tokio::test]
async fn a_cache_mount_outlives_builds_and_is_in_no_layer() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    for (round, expected) in [(1, "1\n"), (2, "1\n2\n")] {
        let text = format!(
            "FROM {NAME}\nARG R\nRUN --mount=type=cache,target=/c,id=mine,mode=0700,uid=0 echo $R >> /c/log && cat /c/log > /out\n"
        );
        let files = context(&[("Dockerfile", &text)]);
        let built =
            engine.build(Context::directory(files.path())).arg("R", round.to_string()).run().await.unwrap();
        assert_eq!(read(&engine, &built.image, "out").unwrap(), expected);
        assert_eq!(changed(&engine, &built.image), ["out"]);
    }
    // Locked: two builds at once do not see each other's half-done work.
    let text = format!(
        "FROM {NAME}\nARG R\nRUN --mount=type=cache,target=/c,id=locked,sharing=locked test ! -e /c/busy && touch /c/busy && sleep 0.2 && rm /c/busy\n"
    );
    let files = context(&[("Dockerfile", &text)]);
    let build = |round: &str| engine.build(Context::directory(files.path())).arg("R", round).run();
    let (one, two, three) = tokio::join!(build("1"), build("2"), build("3"));
    one.and(two).and(three).unwrap();
}

#[tokio::test]
async fn a_link_in_a_cache_leads_nowhere() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let plant = context(&[(
        "Dockerfile",
        &format!("FROM {NAME}\nRUN --mount=type=cache,target=/c,id=evil ln -s / /c/out\n"),
    )]);
    engine.build(Context::directory(plant.path())).run().await.unwrap();
    let follow = context(&[(
        "Dockerfile",
        &format!("FROM {NAME}\nRUN --mount=type=cache,target=/c,id=evil,source=/out ls /c > /x\n"),
    )]);
    assert!(engine.build(Context::directory(follow.path())).run().await.is_err());
}

#[tokio::test]
async fn a_heredoc_with_an_interpreter_is_a_script() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let text = format!(
        "FROM {NAME}\nRUN <<EOF\n#!/bin/sh\necho \"$0\" > /name\nA=b\necho $A > /value\nEOF\nRUN <<E\necho two > /two\nE\n"
    );
    let files = context(&[("Dockerfile", &text)]);
    let built = engine.build(Context::directory(files.path())).run().await.unwrap();
    assert_eq!(read(&engine, &built.image, "value").unwrap(), "b\n");
    assert_eq!(read(&engine, &built.image, "two").unwrap(), "two\n");
    assert_eq!(changed(&engine, &built.image), ["two"]);
}

#[tokio::test]
async fn independent_stages_run_at_once_and_give_what_one_at_a_time_gives() {
    let text = format!(
        "FROM {NAME} AS a\nRUN sleep 0.3 && echo a > /a\nFROM {NAME} AS b\nRUN sleep 0.3 && echo b > /b\nFROM {NAME} AS c\nRUN sleep 0.3 && echo c > /c\n\
         FROM {NAME}\nCOPY --from=a /a /\nCOPY --from=b /b /\nCOPY --from=c /c /\n"
    );
    let files = context(&[("Dockerfile", &text)]);
    let mut ids = Vec::new();
    for jobs in [1, 8] {
        let store = tempfile::tempdir().unwrap();
        let engine = engine(&store).await;
        if base(&engine).await.is_none() {
            return;
        }
        // How many of the three run at the same moment.
        let state = std::sync::Arc::new(std::sync::Mutex::new((0usize, 0usize)));
        let seen = state.clone();
        let built = engine
            .build(Context::directory(files.path()))
            .parallel(jobs)
            .on_event(move |event| {
                let mut state = seen.lock().unwrap();
                match event {
                    Event::StepStarted { name, .. } if name.contains("sleep") => state.0 += 1,
                    Event::StepDone { .. } => state.0 = state.0.saturating_sub(1),
                    _ => {}
                }
                state.1 = state.1.max(state.0);
            })
            .run()
            .await
            .unwrap();
        assert_eq!(state.lock().unwrap().1, 3);
        ids.push(built.image.id());
    }
    assert_eq!(ids[0], ids[1]);
}

/// zip writes it down, and an image with such a file would be another one each time.
#[tokio::test]
async fn regression_of_access_times_a_step_sees_nothing_of_when_the_build_was() {
    let text = format!(
        "FROM {NAME}\nCOPY d /d\nRUN echo x > /x && cat /d/f\nRUN cat /d/f /x && stat -c '%n %x' /d /d/f /x > /times\n"
    );
    let files = context(&[("Dockerfile", &text), ("d/f", "f")]);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let store = tempfile::tempdir().unwrap();
        let engine = engine(&store).await;
        if base(&engine).await.is_none() {
            return;
        }
        let built = engine.build(Context::directory(files.path())).run().await.unwrap();
        seen.push((read(&engine, &built.image, "times").unwrap(), built.image.id()));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn concurrent_identical_builds_do_the_work_once() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let text = format!(
        "FROM {NAME}\nRUN --mount=type=cache,target=/c,id=count echo x >> /c/count && sleep 0.2\nRUN --mount=type=cache,target=/c,id=count cat /c/count > /made\n"
    );
    let files = context(&[("Dockerfile", &text)]);
    let build = || engine.build(Context::directory(files.path())).run();
    let (one, two, three) = tokio::join!(build(), build(), build());
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    assert_eq!(read(&engine, &one.image, "made").unwrap(), "x\n");
    assert_eq!(one.image.id(), two.image.id());
    assert_eq!(one.image.id(), three.image.id());
}

#[tokio::test]
async fn a_failed_step_says_what_it_wrote() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let files = context(&[("Dockerfile", &format!("FROM {NAME}\nRUN echo fine\nRUN echo boom; exit 3\n"))]);
    match engine.build(Context::directory(files.path())).run().await.unwrap_err() {
        Error::StepFailed { exit_code, log, line, .. } => {
            assert_eq!((exit_code, log.as_str(), line), (3, "boom\n", 3));
        }
        other => panic!("{other}"),
    }
    // What was done before it is not done again.
    let files = context(&[("Dockerfile", &format!("FROM {NAME}\nRUN echo fine\nRUN echo well\n"))]);
    let built = engine.build(Context::directory(files.path())).run().await.unwrap();
    assert!(built.steps[0].cached, "{:?}", built.steps);
}
