//! What once went wrong.

use dockerfile::plan::Op;
use dockerfile::{Compiler, Dockerfile, Expander, Images, Options, Outcome, Plan};
use image_core::Platform;

use crate::compiled::{base, options, with};

fn compile(text: &str, triggers: &[&str]) -> Result<Plan, dockerfile::Diagnostics> {
    with(text, options(), triggers)
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

/// `--link` copies to an empty tree: twice the same copy is one operation, whatever is below.
#[test]
fn linked_copies_do_not_depend_on_what_is_below() {
    let count = |text: &str| {
        let file: Dockerfile = text.parse().unwrap();
        let record = dockerfile::record::json(&file, &compile(text, &[]).unwrap(), None);
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        record["files"].as_array().unwrap().len()
    };
    assert_eq!(count("FROM a\nCOPY --link x .\nCOPY --link x .\n"), 1);
    assert_eq!(count("FROM a\nCOPY --link x .\nCOPY y z\nCOPY --link x .\nCOPY y z\n"), 3);
    assert_eq!(count("FROM a\nCOPY --link --chmod=1 x .\nCOPY --link --chmod=1 x .\n"), 2);
}

/// What is no URL to Go is a file to BuildKit, with a name that nobody gave it.
#[test]
fn what_go_does_not_parse_is_no_repository() {
    let plan = compile("FROM a\nADD https://github.[com/a/b.git#v:sub /x\n", &[]).unwrap();
    let Some(Op::Http(http)) = plan.steps.iter().map(|step| &step.op).find(|op| matches!(op, Op::Http(_)))
    else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(http.filename, "__unnamed__");
}

#[test]
fn an_operating_system_has_no_dots() {
    compile("FROM --platform=mcr.microsoft.com/dotnet/deps a\n", &[]).unwrap_err();
    compile("FROM --platform=linux/arm64(1) a\n", &[]).unwrap_err();
    compile("FROM --platform=linux/arm/v7 a\n", &[]).unwrap();
}

/// Findings are errors of a build only.
#[test]
fn an_outline_is_no_build() {
    let text = "# check=error=true\nFROM alpine as x\n";
    compile(text, &[]).unwrap_err();
    let mut asked = options();
    asked.outline = true;
    assert_eq!(with(text, asked, &[]).unwrap().outline.unwrap().name.as_deref(), Some("x"));
}
