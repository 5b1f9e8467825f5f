//! What once went wrong.

use dockerfile::plan::Op;
use dockerfile::{Compiler, Dockerfile, Expander, Images, Options, Outcome, Plan};
use image_core::{ImageConfig, Platform};

const BASE: &str = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:777b2c648970480f50f5b4d0af8f9a8ea798eea43dbcf40ce4a8c7118736bdcf"]},"history":[]}"#;

fn base(triggers: &[&str]) -> ImageConfig {
    let mut config: ImageConfig = serde_json::from_str(BASE).unwrap();
    config.config.on_build = triggers.iter().map(|text| (*text).to_owned()).collect();
    config
}

fn compile(text: &str, triggers: &[&str]) -> Result<Plan, dockerfile::Diagnostics> {
    let file: Dockerfile = text.parse()?;
    let compiler = Compiler::new(&file, Options::new(Platform::new("linux", "amd64")));
    let mut images = Images::new();
    loop {
        match compiler.compile(&images)? {
            Outcome::Plan(plan) => return Ok(*plan),
            Outcome::NeedImages(requests) => {
                for request in requests {
                    images.insert(request, base(triggers), None);
                }
            }
            _ => unreachable!(),
        }
    }
}

/// Found by the fuzzer: each level multiplied the text of the one inside, and only results were bounded.
#[test]
fn nested_replacements_end_at_a_bound() {
    let variables = std::collections::BTreeMap::from([("a".to_owned(), "x/y z".to_owned())]);
    let nested = (0..60).fold("x".to_owned(), |inner, _| format!("${{a//?/{inner}}}"));
    Expander::default().word(&nested, &variables).unwrap_err();
    // The results can be thrown away as often as one likes.
    let thrown = format!("${{nothing/{nested}/}}");
    Expander::default().word(&thrown, &variables).unwrap_err();
    let twelve = (0..12).fold("x".to_owned(), |inner, _| format!("${{a//?/{inner}}}"));
    let many = format!("FROM a\nENV a=xyz\n{}", format!("ENV b=${{c/{twelve}/}}\n").repeat(500));
    let errors = compile(&many, &[]).unwrap_err();
    assert!(errors.to_string().contains("2^26 steps"), "{errors}");
}

#[test]
fn sixteen_full_ranges_of_ports_fit() {
    let plan = compile(&format!("FROM a\n{}", "EXPOSE 0-65535\n".repeat(16)), &[]).unwrap();
    assert_eq!(plan.target_stage().unwrap().config.exposed_ports.len(), 65_536);
}

#[test]
fn a_trigger_that_is_a_from_is_refused() {
    compile("FROM a\nRUN x\n", &["FROM b"]).unwrap_err();
}

/// A stage that only a trigger of the base needs copies from an image, not from the context.
#[test]
fn an_image_that_only_a_trigger_needs_is_resolved() {
    let text = "FROM alpine AS b\nCOPY --from=busybox /q /q\nFROM alpine:3\n";
    let plan = compile(text, &["COPY --from=b /x /y"]).unwrap();
    let images = plan.steps.iter().filter(|step| matches!(step.op, Op::Image(_))).count();
    let contexts = plan.steps.iter().filter(|step| matches!(step.op, Op::Context(_))).count();
    assert_eq!((images, contexts), (3, 0));
}

/// What a compiler keeps between two calls is nothing that an answer could change.
#[test]
fn other_answers_give_other_plans() {
    let file: Dockerfile = "FROM a AS x\nRUN x\nFROM b\nCOPY --from=x a b\n".parse().unwrap();
    let compiler = Compiler::new(&file, Options::new(Platform::new("linux", "amd64")));
    let answers = |user: &str| {
        let mut images = Images::new();
        let Outcome::NeedImages(requests) = compiler.compile(&images).unwrap() else { panic!() };
        assert_eq!(requests.len(), 2);
        for request in requests {
            let mut config = base(&[]);
            config.config.user = user.to_owned();
            images.insert(request, config, None);
        }
        images
    };
    let (one, two) = (answers("one"), answers("two"));
    for (images, user) in [(&one, "one"), (&two, "two"), (&one, "one")] {
        let Outcome::Plan(plan) = compiler.compile(images).unwrap() else { panic!() };
        assert_eq!(plan.target_stage().unwrap().config.user, user);
        assert_eq!(plan.steps.len(), 4);
    }
}
