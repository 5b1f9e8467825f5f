//! What holds for every input.

use std::collections::BTreeMap;

use dockerfile::{Compiler, Dockerfile, Expander, Ignore, Images, Options, Outcome};
use image_core::{ImageConfig, Platform};
use proptest::prelude::*;

/// Parses and, when that works, compiles; nothing may panic.
fn run(text: &[u8]) {
    let Ok(file) = Dockerfile::parse(text) else { return };
    assert_eq!(file.source().bytes(), text);
    let mut at = 0;
    let mut printed = Vec::new();
    for item in file.items() {
        assert_eq!(item.span.start, at);
        at = item.span.end;
        printed.extend_from_slice(file.source().bytes_of(item.span));
    }
    assert_eq!(printed, text);
    assert_eq!(Dockerfile::parse(&printed).unwrap(), file);
    let compiler = Compiler::new(&file, Options::new(Platform::new("linux", "amd64")));
    let mut images = Images::new();
    while let Ok(Outcome::NeedImages(requests)) = compiler.compile(&images) {
        for request in requests {
            let config = ImageConfig::empty(&request.platform);
            images.insert(request, config, None);
        }
    }
    if let Ok(Outcome::Plan(plan)) = compiler.compile(&images) {
        for step in &plan.steps {
            assert!(step.inputs().iter().all(|input| *input < step.index));
            step.definition().digest();
        }
        plan.to_dot();
    }
}

fn lines() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "FROM a",
        "FROM scratch AS x",
        "FROM x",
        "ARG A=1",
        "ENV B=$A c='d e'",
        "RUN <<EOF",
        "EOF",
        "RUN echo \\",
        "",
        "# c",
        "COPY --from=x a b",
        "COPY --from=0 . .",
        "WORKDIR ${B:-/w}",
        "ONBUILD RUN x",
        "EXPOSE 1-3/udp",
        "LABEL a b",
        "CMD [\"a\"]",
        "ENTRYPOINT x",
        "USER $U",
        "RUN --mount=type=cache,target=/c y",
        "# escape=`",
        "\u{feff}",
        "HEALTHCHECK NONE",
        "ADD https://h/x.git#r:d /",
        "SHELL [\"s\"]",
        "VOLUME /v",
        "STOPSIGNAL 9",
        "${A#*/}",
        "RUN [\"x\", \"$\"]",
    ]);
    prop::collection::vec(word, 0..30).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(text in prop::collection::vec(any::<u8>(), 0..400)) {
        run(&text);
    }

    #[test]
    fn any_lines(text in lines()) {
        run(text.as_bytes());
        run(format!("FROM base\n{text}").as_bytes());
    }

    #[test]
    fn any_word(word in "[$a-z{}:#%/*?'\"\\\\ <-]{0,30}") {
        let variables: BTreeMap<String, String> = [("a".to_owned(), "x/y z".to_owned())].into();
        let rules = Expander::default();
        drop((rules.word(&word, &variables), rules.words(&word, &variables)));
    }

    #[test]
    fn any_ignore_file(text in "[a-c*?!/.\\[\\]^\\\\\n-]{0,40}", path in "[a-c/.]{0,20}") {
        if let Ok(ignore) = Ignore::parse(&text) {
            ignore.matches(&path);
        }
    }
}

/// Not a timing test: inputs that would take minutes if anything were quadratic end at once, or at a bound.
#[test]
fn hostile_texts_end() {
    let many = |line: &str, len: usize| line.repeat(len / line.len());
    let mib = 1 << 20;
    for text in [
        many("RUN x\n", mib),
        format!("FROM a\n{}", many("ENV a=b\nRUN c\n", mib)),
        format!("FROM a\n{}", many("ARG A\n", mib / 2) + &many("RUN x\n", mib / 2)),
        format!("FROM a\nENV a=x\n{}", many("ENV a=$a$a\n", mib)),
        format!("FROM a\nRUN {}", many("x \\\n", mib)),
        format!("FROM a\nENV v={}\n", many("${a:-\\\n", mib)),
        format!("FROM a\nENV v=aaaa\nENV w={}\n", many("${v//a*b/}\\\n", mib)),
        format!("FROM a\n{}", many("COPY <<A b\nA\n", mib)),
        format!("FROM a AS x\n{}", many("FROM x AS x\n", mib)),
        format!("FROM a\nCMD {}", many("[\\\n", mib)),
        format!("# escape=`\n{}", many("# a\n", mib)),
    ] {
        run(text.as_bytes());
    }
}
