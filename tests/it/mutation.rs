//! One thing is changed, and the build is done again: was it a hit or a miss, and is the cause named?

use std::os::unix::fs::PermissionsExt;

use cooperage::{Build, Cause, Context, Engine, FileChange, NamedContext, Secret};

use crate::base::{NAME, base};
use crate::{context, engine};

const FILE: &str = "FROM BASE AS made\nARG UNUSED=1\nRUN echo from-stage > /made\n\
FROM BASE\nARG USED=1\nENV VAR=one\nLABEL l=1\nCOPY src /src/\nCOPY --chmod=0600 masked /masked\nCOPY --from=made /made /made\n\
RUN --mount=type=secret,id=plain --mount=type=secret,id=counted --mount=type=bind,source=bound,target=/b echo $USED > /ran\nWORKDIR /w\nCMD [\"a\"]\n";

struct World {
    files: tempfile::TempDir,
    args: Vec<(&'static str, &'static str)>,
    secrets: (&'static str, &'static str),
    platform_label: Option<&'static str>,
    base: Option<NamedContext>,
    epoch: Option<i64>,
    host: bool,
    no_cache: bool,
    target: Option<&'static str>,
}

impl World {
    fn new() -> Self {
        let files = context(&[
            ("Dockerfile", FILE.replace("BASE", NAME).as_str()),
            ("src/a", "a"),
            ("src/b", "b"),
            ("src/ignored.log", "1"),
            ("masked", "m"),
            ("bound/x", "x"),
            ("unread", "u"),
            (".dockerignore", "**/*.log\n"),
        ]);
        for file in ["src/a", "src/b", "masked", "bound/x"] {
            std::fs::set_permissions(files.path().join(file), std::fs::Permissions::from_mode(0o644))
                .unwrap();
        }
        Self {
            files,
            args: Vec::new(),
            secrets: ("p", "c"),
            platform_label: None,
            base: None,
            epoch: None,
            host: false,
            no_cache: false,
            target: None,
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.files.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn edit(&self, old: &str, new: &str) {
        let path = self.files.path().join("Dockerfile");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{old}");
        std::fs::write(path, text.replacen(old, new, 1)).unwrap();
    }

    fn build(&self, engine: &Engine) -> Build {
        let mut build = engine
            .build(Context::directory(self.files.path()))
            .tag("example.com/mutated:v1".parse().unwrap())
            .secret("plain", Secret::new(self.secrets.0))
            .secret("counted", Secret::new(self.secrets.1).counts(true))
            .no_cache(self.no_cache);
        for (name, value) in &self.args {
            build = build.arg(*name, *value);
        }
        if let Some(label) = self.platform_label {
            build = build.label("l", label);
        }
        if let Some(base) = &self.base {
            build = build.context(NAME, base.clone());
        }
        if let Some(epoch) = self.epoch {
            let at = cooperage::image::Timestamp::from_seconds(epoch);
            build = build.timestamps(cooperage::Timestamps::Fixed(at));
        }
        if self.host {
            build = build.add_host("else.where", "127.0.0.9".parse().unwrap());
        }
        if let Some(target) = self.target {
            build = build.target(target);
        }
        build
    }
}

/// The first step that was done again, and why.
type Miss = Option<(&'static str, Cause)>;

fn file(path: &str, change: FileChange) -> Cause {
    Cause::File { path: path.to_owned(), change }
}

fn valued(name: &str, before: &str, after: &str, mentioned: bool) -> Cause {
    let (before, after) = (Some(before.to_owned()), Some(after.to_owned()));
    Cause::Arg { name: name.to_owned(), before, after, mentioned }
}

#[expect(clippy::type_complexity, reason = "a table of changes")]
fn table() -> Vec<(&'static str, Box<dyn Fn(&mut World)>, Miss)> {
    let copy = "COPY src /src/";
    let run = "RUN --mount";
    let env = |before: &str, after: &str| Cause::Env {
        name: "VAR".to_owned(),
        before: Some(before.to_owned()),
        after: Some(after.to_owned()),
    };
    vec![
        ("nothing", Box::new(|_| ()), None),
        ("content", Box::new(|w| w.write("src/a", "A")), Some((copy, file("src/a", FileChange::Content)))),
        ("a new file", Box::new(|w| w.write("src/c", "c")), Some((copy, file("src/c", FileChange::Added)))),
        (
            "a file less",
            Box::new(|w| std::fs::remove_file(w.files.path().join("src/b")).unwrap()),
            Some((copy, file("src/b", FileChange::Removed))),
        ),
        (
            "a rename",
            Box::new(|w| {
                std::fs::rename(w.files.path().join("src/b"), w.files.path().join("src/z")).unwrap();
            }),
            Some((copy, file("src/z", FileChange::Added))),
        ),
        (
            "contents swapped",
            Box::new(|w| {
                w.write("src/a", "b");
                w.write("src/b", "a");
            }),
            Some((copy, file("src/a", FileChange::Content))),
        ),
        (
            "same size and mtime, other content",
            Box::new(|w| {
                let path = w.files.path().join("src/a");
                let time = std::fs::metadata(&path).unwrap().modified().unwrap();
                std::fs::write(&path, "Z").unwrap();
                std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
            }),
            Some((copy, file("src/a", FileChange::Content))),
        ),
        (
            "mode",
            Box::new(|w| {
                let path = w.files.path().join("src/a");
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }),
            Some((copy, file("src/a", FileChange::Mode))),
        ),
        (
            "a mode that --chmod hides",
            Box::new(|w| {
                let path = w.files.path().join("masked");
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }),
            None,
        ),
        (
            "mtime only",
            Box::new(|w| {
                let file = std::fs::File::open(w.files.path().join("src/a")).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }),
            None,
        ),
        ("an ignored file", Box::new(|w| w.write("src/ignored.log", "2")), None),
        ("a file that nobody reads", Box::new(|w| w.write("unread", "U")), None),
        (
            "a file of a bind mount",
            Box::new(|w| w.write("bound/x", "y")),
            Some((run, file("x", FileChange::Content))),
        ),
        (
            "an ARG that the command mentions",
            Box::new(|w| w.args.push(("USED", "2"))),
            Some((run, valued("USED", "1", "2", true))),
        ),
        (
            "an ARG that no command mentions",
            Box::new(|w| w.args.push(("UNUSED", "2"))),
            // The other stage begins with what that step made, and it made the same.
            Some(("RUN echo from-stage", valued("UNUSED", "1", "2", false))),
        ),
        (
            "an ARG that is not declared",
            Box::new(|w| w.args.push(("http_proxy", "http://127.0.0.1:1"))),
            None,
        ),
        ("ENV", Box::new(|w| w.edit("VAR=one", "VAR=two")), Some((run, env("one", "two")))),
        ("LABEL", Box::new(|w| w.edit("LABEL l=1", "LABEL l=2")), None),
        ("a new LABEL", Box::new(|w| w.edit("LABEL l=1", "LABEL l=1\nLABEL m=2")), None),
        ("a label of the caller", Box::new(|w| w.platform_label = Some("3")), None),
        ("CMD", Box::new(|w| w.edit("CMD [\"a\"]", "CMD [\"b\"]")), None),
        (
            "the command",
            Box::new(|w| w.edit("echo $USED > /ran", "echo $USED > /other")),
            Some((run, Cause::Command)),
        ),
        (
            "the command of another stage, same output",
            Box::new(|w| w.edit("RUN echo from-stage", "RUN : ; echo from-stage")),
            Some(("RUN : ; echo from-stage", Cause::Command)),
        ),
        ("a comment", Box::new(|w| w.edit("WORKDIR", "# a comment\nWORKDIR")), None),
        ("a secret", Box::new(|w| w.secrets.0 = "P"), None),
        (
            "a secret that counts",
            Box::new(|w| w.secrets.1 = "C"),
            Some((run, Cause::Secret { id: "counted".to_owned() })),
        ),
        (
            "the destination",
            Box::new(|w| w.edit("COPY src /src/", "COPY src /dst/")),
            Some(("COPY src /dst/", Cause::Instruction { part: "copy.0.dest".to_owned() })),
        ),
        (
            "--chown",
            Box::new(|w| w.edit("COPY src", "COPY --chown=1:1 src")),
            Some(("COPY --chown=1:1 src", Cause::Instruction { part: "copy.0.user".to_owned() })),
        ),
        (
            "WORKDIR",
            Box::new(|w| w.edit("WORKDIR /w", "WORKDIR /v")),
            Some(("WORKDIR /v", Cause::Instruction { part: "mkdir.0.path".to_owned() })),
        ),
        (
            "the base image",
            Box::new(|w| w.base = Some(NamedContext::Image("example.com/other:v1".parse().unwrap()))),
            Some(("RUN echo from-stage", Cause::Base { reference: "example.com/other:v1".to_owned() })),
        ),
        ("an extra host", Box::new(|w| w.host = true), None),
        (
            "the epoch",
            Box::new(|w| w.epoch = Some(1_700_000_000)),
            Some(("RUN echo from-stage", Cause::Time)),
        ),
        ("no cache", Box::new(|w| w.no_cache = true), Some(("RUN echo from-stage", Cause::NoCache))),
    ]
}

#[tokio::test]
async fn every_miss_names_its_cause() {
    let mut wrong = Vec::new();
    let rows = table();
    let count = rows.len();
    for (name, change, expected) in rows {
        let store = tempfile::tempdir().unwrap();
        let engine = engine(&store).await;
        if base(&engine).await.is_none() {
            return;
        }
        let other = context(&[("Dockerfile", &format!("FROM {NAME}\nRUN echo other > /other-base\n"))]);
        engine
            .build(Context::directory(other.path()))
            .tag("example.com/other:v1".parse().unwrap())
            .run()
            .await
            .unwrap();
        let mut world = World::new();
        world.build(&engine).run().await.unwrap();
        change(&mut world);
        let built = world.build(&engine).run().await.unwrap();
        let missed = built.steps.iter().find(|step| !step.cached);
        let right = match (&expected, missed) {
            (None, None) => true,
            (Some((step, cause)), Some(missed)) => {
                missed.name.contains(step) && missed.cause.as_ref() == Some(cause)
            }
            _ => false,
        };
        if !right {
            wrong.push(format!("{name}: expected {expected:?}, found {missed:?}"));
        }
        // A stage whose output did not change gives hits to those who copy from it.
        if name.contains("same output") || name.contains("no command mentions") {
            let misses = built.steps.iter().filter(|step| !step.cached).count();
            if misses != 1 {
                wrong.push(format!("{name}: {misses} misses"));
            }
        }
    }
    println!("mutations: {} of {count} right", count - wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
