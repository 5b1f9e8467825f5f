//! Files that programs make say what was asked for, and instructions written anew say what they said.

use dockerfile::instruction::{Command, From, Health, Kind, Run, Transfer};
use dockerfile::plan::{Network, Op, Security};
use dockerfile::{Builder, Compiler, Dockerfile, Images, Options, Outcome, Word};
use image_core::{ImageConfig, Platform};
use proptest::prelude::*;

use crate::data;

fn compile(file: &Dockerfile) -> dockerfile::Plan {
    let compiler = Compiler::new(file, Options::new(Platform::new("linux", "amd64")));
    let mut images = Images::new();
    loop {
        match compiler.compile(&images).unwrap() {
            Outcome::Plan(plan) => return *plan,
            Outcome::NeedImages(requests) => {
                for request in requests {
                    let config = ImageConfig::empty(&request.platform);
                    images.insert(request, config, None);
                }
            }
            _ => unreachable!(),
        }
    }
}

#[test]
fn everything_can_be_made() {
    let file = Builder::new()
        .arg("VERSION", Some("3.20".into()))
        .from(From::image("alpine:$VERSION").named("Build").platform("linux/amd64").described("compiles"))
        .arg("MODE", None)
        .env("A", "x y")
        .env("B", "$A \"q\" \\")
        .env("C", Word::literal("$A"))
        .env("D", Word::written("'$A'"))
        .run("make")
        .run(Run::exec(["make", "a b"]).network(Network::None).security(Security::Insecure))
        .run(Run::shell("x").mount("type=cache,target=/c").mount("type=secret,id=s,env=S"))
        .script(Run::default().mount("type=tmpfs,target=/t"), "#!/bin/sh\nEOF\necho a  b\n")
        .from(From::image("scratch"))
        .copy(
            Transfer::new(["/out/*", "/with blank"], "/app/")
                .from("build")
                .chmod("u+x")
                .chown("1:2")
                .link()
                .parents()
                .exclude("*.md"),
        )
        .copy(Transfer::to("/etc/").inline("conf", "a=$b\n"))
        .add(Transfer::new(["https://example.com/a.tgz"], "/"))
        .workdir("/w x")
        .user("me:us")
        .expose("90/udp")
        .volume("/a b")
        .shell(["/bin/bash", "-c"])
        .healthcheck(Health::check("test -f /x"))
        .stop_signal("SIGTERM")
        .onbuild(&Kind::Run(Box::new(Run::shell("later"))))
        .label("price", Word::literal("$5"))
        .entrypoint(["/app"])
        .cmd("serve $A")
        .finish()
        .unwrap();
    assert_eq!(file.to_string().parse::<Dockerfile>().unwrap(), file);
    let plan = compile(&file);
    let stage = plan.target_stage().unwrap();
    assert_eq!(stage.config.working_dir, "/w x");
    assert_eq!(stage.config.labels["price"], "$5");
    assert_eq!(stage.config.volumes.iter().next().unwrap(), "/a b");
    assert_eq!(stage.config.on_build, ["RUN later"]);
    let execs: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.op {
            Op::Exec(exec) => Some(exec),
            _ => None,
        })
        .collect();
    assert_eq!(execs.len(), 4);
    let value = |name: &str| execs[0].env.get(name).unwrap().value.to_string();
    assert_eq!([value("A"), value("B"), value("C"), value("D")], ["x y", "x y \"q\" \\", "$A", "$A"]);
    assert_eq!(execs[3].args, ["/bin/sh", "-c", "/dev/pipes/EOF_"]);
}

#[test]
fn what_cannot_be_said_is_refused() {
    let stage = || Builder::new().from(From::image("a"));
    for builder in [
        stage().run("two\nlines"),
        stage().run(" --flag"),
        stage().run("ends \\"),
        stage().run("[\"x\"]"),
        stage().workdir("/a\n/b"),
        stage().env("a b", "c"),
        stage().user(""),
        stage().instruction(Kind::Cmd(Command::Shell("a <<\nb".to_owned()))),
        Builder::new().run("x"),
        Builder::new(),
    ] {
        builder.finish().unwrap_err();
    }
}

fn words() -> impl Strategy<Value = String> {
    "[ -~é\n\t]{0,12}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_survive(text in "[ -~é]{0,20}", name in "[A-Z_]{1,5}") {
        let file = Builder::new()
            .from(From::image("a"))
            .env(&name, Word::literal(&text))
            .label("l", Word::literal(&text))
            .run("x")
            .finish()
            .unwrap();
        let plan = compile(&file);
        let stage = plan.target_stage().unwrap();
        prop_assert_eq!(&stage.config.labels["l"], &text);
        prop_assert!(stage.config.env.contains(&format!("{name}={text}")), "{:?}", stage.config.env);
    }

    #[test]
    fn files_are_read_as_they_were_made(
        shell in words(), exec in prop::collection::vec(words(), 1..3), source in words(), dest in words(),
        flag in words(), script in words(), dir in words(),
    ) {
        let run = Run::exec(exec);
        let copy = Transfer::new([source], dest);
        for builder in [
            Builder::new().from(From::image("a")).run(Run::shell(shell).mount(&flag)),
            Builder::new().from(From::image("a")).run(run),
            Builder::new().from(From::image("a")).copy(copy.clone().chown(&flag)),
            Builder::new().from(From::image("a")).copy(copy.inline("f", &script)),
            Builder::new().from(From::image("a")).script(Run::default(), &script),
            Builder::new().from(From::image("a")).workdir(&dir).cmd(["a", "b"]),
        ] {
            // Refused, or what was asked for; never something else, and never a panic.
            if let Ok(file) = builder.finish() {
                prop_assert_eq!(file.to_string().parse::<Dockerfile>().unwrap(), file);
            }
        }
    }

    #[test]
    fn exec_form_holds_anything(exec in prop::collection::vec("[ -~é\n\t\\\\\"]{0,12}", 1..4)) {
        let file = Builder::new().from(From::image("a")).run(Run::exec(exec.clone())).finish().unwrap();
        prop_assert_eq!(&file.instructions()[1].kind, &Kind::Run(Box::new(Run::exec(exec))));
    }
}

/// Every instruction of the shared files, taken out of its text and put into a new one, is the same.
#[test]
fn real_instructions_are_written_anew() {
    let Some(records) = data::read("dockerfiles/expected.jsonl") else { return };
    let (mut all, mut same, mut wrong) = (0, 0, Vec::new());
    for line in records.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let text =
            std::fs::read(data::place("dockerfiles/files").join(record["file"].as_str().unwrap())).unwrap();
        let Ok(file) = Dockerfile::parse(&text) else { continue };
        if file.escape() != '\\' {
            continue;
        }
        let mut builder = Builder::new();
        // Bodies of RUN's heredocs are no part of the typed value.
        let plain = |one: &&dockerfile::Instruction| {
            one.heredocs.is_empty() || matches!(one.kind, Kind::Copy(_) | Kind::Add(_))
        };
        for one in file.instructions().iter().filter(plain) {
            builder = builder.instruction(one.kind.clone());
            all += 1;
        }
        match builder.finish() {
            Ok(made) => same += made.instructions().len(),
            Err(errors) => wrong.push(format!("{}: {errors}", record["file"])),
        }
    }
    println!("instructions written anew: {same} of {all}");
    assert!(wrong.is_empty(), "{} files, first: {}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
}
