//! One plan a platform, and what they share.

use dockerfile::plan::{Op, Step};
use dockerfile::{Compiler, Dockerfile, Images, Options, Outcome, Plan};
use image_core::Platform;

use crate::compiled::base;

/// Cross-compilation as the field writes it: tools run where the build runs, results are for the target.
const TEXT: &str = "FROM --platform=$BUILDPLATFORM tonistiigi/xx AS xx
FROM --platform=$BUILDPLATFORM golang:1 AS build
COPY --from=xx / /
WORKDIR /src
COPY go.mod .
RUN go mod download
ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM
RUN xx-go build -o /app . && echo $TARGETOS $TARGETARCH$TARGETVARIANT on $BUILDPLATFORM
FROM alpine
COPY --from=build /app /app
";

fn compile(platform: &str) -> Plan {
    let file: Dockerfile = TEXT.parse().unwrap();
    let mut options = Options::new(Platform::new("linux", "amd64"));
    options.platform = Some(Platform::parse(platform).unwrap());
    options.multi_platform = true;
    let compiler = Compiler::new(&file, options);
    let mut images = Images::new();
    loop {
        match compiler.compile(&images).unwrap() {
            Outcome::Plan(plan) => return *plan,
            Outcome::NeedImages(requests) => {
                for request in requests {
                    let mut config = base(&[]);
                    config.architecture.clone_from(&request.platform.architecture);
                    config.variant.clone_from(&request.platform.variant);
                    images.insert(request, config, None);
                }
            }
            _ => unreachable!(),
        }
    }
}

/// What a step is, with all that it is made from.
fn identity(plan: &Plan, step: &Step) -> String {
    let inputs: Vec<String> = step.inputs().iter().map(|input| identity(plan, &plan.steps[*input])).collect();
    format!("{} {inputs:?}", step.definition().digest())
}

#[test]
fn what_does_not_name_the_target_is_shared() {
    let plans = ["linux/amd64", "linux/arm64", "linux/arm/v7"].map(compile);
    let shared = |index: usize| {
        let all: std::collections::BTreeSet<String> =
            plans.iter().map(|plan| identity(plan, &plan.steps[index])).collect();
        all.len() == 1
    };
    let names: Vec<&str> = plans[1].steps.iter().map(|step| step.name.as_str()).collect();
    let of = |text: &str| names.iter().position(|name| name.contains(text)).unwrap();
    for text in [
        "FROM docker.io/tonistiigi/xx",
        "FROM docker.io/library/golang",
        "WORKDIR /src",
        "RUN go mod download",
    ] {
        assert!(shared(of(text)), "{text} in {names:?}");
    }
    for text in ["RUN xx-go", "FROM docker.io/library/alpine", "COPY --from=build"] {
        assert!(!shared(of(text)), "{text} in {names:?}");
    }
    assert!(names[of("RUN xx-go")].starts_with("[linux/amd64 build "), "{names:?}");
    assert!(names[of("COPY --from=build")].starts_with("[linux/arm64 stage-2 "), "{names:?}");
}

#[test]
fn platform_arguments_are_those_of_the_plan() {
    for (platform, os, arch, variant) in [
        ("linux/arm64", "linux", "arm64", ""),
        ("linux/arm/v7", "linux", "arm", "v7"),
        ("linux/386", "linux", "386", ""),
    ] {
        let plan = compile(platform);
        let exec = plan.steps.iter().rev().find_map(|step| match &step.op {
            Op::Exec(exec) => Some(exec),
            _ => None,
        });
        let env = exec.unwrap().env.to_strings();
        for want in [
            format!("TARGETPLATFORM={platform}"),
            format!("TARGETOS={os}"),
            format!("TARGETARCH={arch}"),
            format!("TARGETVARIANT={variant}"),
            "BUILDPLATFORM=linux/amd64".to_owned(),
        ] {
            assert!(env.contains(&want), "{want} in {env:?}");
        }
        let image = plan.target_stage().unwrap().image();
        assert_eq!((image.architecture.as_str(), image.variant.as_deref().unwrap_or("")), (arch, variant));
        let bases: Vec<String> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.op {
                Op::Image(image) => Some(image.platform.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(bases.iter().filter(|base| *base == "linux/amd64").count(), 2, "{bases:?}");
        assert!(bases.contains(&platform.to_owned()), "{bases:?}");
    }
}
