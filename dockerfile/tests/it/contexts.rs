//! Named contexts come out as typed sources.

use dockerfile::plan::{Base, Op};
use dockerfile::{Compiler, Dockerfile, Images, NamedContext, Options, Outcome, Plan};
use image_core::Platform;

use crate::compiled::base;

fn compile(text: &str, contexts: &[(&str, &str)]) -> (Plan, Vec<Option<String>>) {
    let file: Dockerfile = text.parse().unwrap();
    let mut options = Options::new(Platform::new("linux", "amd64"));
    for (name, context) in contexts {
        options.contexts.insert((*name).to_owned(), context.parse::<NamedContext>().unwrap());
    }
    let compiler = Compiler::new(&file, options);
    let (mut images, mut layouts) = (Images::new(), Vec::new());
    loop {
        match compiler.compile(&images).unwrap() {
            Outcome::Plan(plan) => return (*plan, layouts),
            Outcome::NeedImages(requests) => {
                for request in requests {
                    layouts.push(request.layout.clone());
                    let mut config = base(&["RUN triggered"]);
                    config.config.user = "from-config".to_owned();
                    images.insert(request, config, None);
                }
            }
            _ => unreachable!(),
        }
    }
}

#[test]
fn a_layout_is_a_source_with_a_config() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let (plan, layouts) = compile("FROM app\nRUN x\n", &[("app", &format!("oci-layout://dir@{digest}"))]);
    assert_eq!(layouts, [Some("dir".to_owned())]);
    let Op::Layout(layout) = &plan.steps[0].op else { panic!("{:?}", plan.steps[0]) };
    assert_eq!(layout.store, "dir");
    assert_eq!(layout.reference.canonical(), format!("docker.io/library/app@{digest}"));
    assert_eq!(plan.target_stage().unwrap().config.user, "from-config");
    assert!(matches!(plan.target_stage().unwrap().base, Base::Image { step: Some(0), .. }));
    // The triggers of its config run, as those of any image.
    assert!(plan.steps[1].onbuild && plan.steps[1].name.ends_with("ONBUILD RUN triggered"));
    assert!(plan.steps[0].definition().components.iter().any(|part| part.name == "reference"));
    assert_eq!((plan.steps[0].span.start, plan.steps[0].lines.first), (0, 1));
}

#[test]
fn a_url_is_one_file_and_a_repository_a_checkout() {
    let text = "FROM scratch\nCOPY --from=file /context /a\nRUN --mount=from=repo,target=/r x\n";
    let contexts = [("file", "https://example.com/x.tar"), ("repo", "https://example.com/r.git#main:sub")];
    let (plan, layouts) = compile(text, &contexts);
    assert!(layouts.is_empty());
    let Some(Op::Http(http)) = plan.steps.iter().map(|step| &step.op).find(|op| matches!(op, Op::Http(_)))
    else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!((http.url.as_str(), http.filename.as_str()), ("https://example.com/x.tar", "context"));
    let Some(Op::Git(git)) = plan.steps.iter().map(|step| &step.op).find(|op| matches!(op, Op::Git(_)))
    else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!((git.reference.as_str(), git.subdir.as_str()), ("main", "sub"));
}

#[test]
fn a_context_stands_for_an_image_or_a_whole_stage() {
    let text = "FROM alpine AS build\nRUN x\nFROM build\nCOPY --from=busybox a b\n";
    let (plan, _) = compile(text, &[("build", "local:d"), ("busybox", "docker-image://alpine:3")]);
    assert!(matches!(&plan.steps[0].op, Op::Context(context) if context.name.as_deref() == Some("build")));
    assert!(!plan.steps.iter().any(|step| matches!(step.op, Op::Exec(_))), "{:?}", plan.steps);
    let references: Vec<String> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.op {
            Op::Image(image) => Some(image.reference.canonical()),
            _ => None,
        })
        .collect();
    assert_eq!(references, ["docker.io/library/alpine:3"]);
    let (plan, _) = compile("FROM app\nCOPY a b\n", &[("app", "docker-image://scratch")]);
    assert!(matches!(plan.target_stage().unwrap().base, Base::Scratch));
}
