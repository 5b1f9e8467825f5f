//! Any file that parses compiles or is refused; every file is checked; everything that can be asked of a plan is answered.
#![no_main]

use dockerfile::lint::{self, Checked};
use dockerfile::{Compiler, Dockerfile, Images, Options, Outcome, Source, record};
use image_core::{ImageConfig, Platform};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut options = Options::new(Platform::new("linux", "amd64"));
    options.outline = true;
    options.build_args.insert("A".to_owned(), "x y".to_owned());
    let source = Source::new(data);
    let mut images = Images::new();
    let report = loop {
        match lint::check(data, &options, &images) {
            Checked::NeedImages(requests) => answer(&mut images, requests),
            Checked::Report(report) => break report,
            _ => return,
        }
    };
    report.to_json("Dockerfile", &source);
    report.render("Dockerfile", &source, true);
    let Ok(file) = Dockerfile::parse(data) else {
        assert!(!report.errors.is_empty(), "what does not parse has an error");
        return;
    };
    let compiler = Compiler::new(&file, options);
    loop {
        match compiler.compile(&images) {
            Ok(Outcome::NeedImages(requests)) => answer(&mut images, requests),
            Ok(Outcome::Plan(plan)) => {
                record::json(&file, &plan, None);
                plan.to_dot();
                for step in &plan.steps {
                    assert!(step.inputs().iter().all(|input| *input < step.index));
                    step.definition().digest();
                }
                plan.outline.unwrap_or_default().to_json(&source);
                return;
            }
            _ => {
                // A check looks at more stages than a build.
                assert!(!report.errors.is_empty(), "what does not compile has an error");
                return;
            }
        }
    }
});

fn answer(images: &mut Images, requests: Vec<dockerfile::ImageRequest>) {
    for request in requests {
        let mut config = ImageConfig::empty(&request.platform);
        if request.reference.canonical().contains("trigger") {
            config.config.on_build = vec!["COPY --from=trigger a b".to_owned(), "RUN $A".to_owned()];
        }
        images.insert(request, config, None);
    }
}
