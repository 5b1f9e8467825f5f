//! What checks say: every error, every finding, in BuildKit's form and drawn.

use dockerfile::lint::{self, Checked, Report};
use dockerfile::{Dockerfile, Images, Source};
use serde_json::{Value, json};

use crate::compiled::{base, options, with};

fn check(text: &str) -> Report {
    let mut images = Images::new();
    loop {
        match lint::check(text.as_bytes(), &options(), &images) {
            Checked::Report(report) => return report,
            Checked::NeedImages(requests) => {
                for request in requests {
                    images.insert(request, base(&[]), None);
                }
            }
            _ => unreachable!(),
        }
    }
}

fn rules(warnings: &[lint::Warning]) -> Vec<(&str, u32)> {
    warnings.iter().map(|warning| (warning.rule, warning.lines.first)).collect()
}

#[test]
fn a_file_that_does_not_parse_keeps_its_findings() {
    let text = "from scratch as Base\nRUM x\nMAINTAINER me\nCOPY a\nFROM scratch AS base\n";
    let errors = text.parse::<Dockerfile>().unwrap_err();
    assert_eq!(errors.iter().map(|error| error.lines.first).collect::<Vec<_>>(), [2, 4]);
    let found = rules(errors.warnings());
    for rule in [
        ("StageNameCasing", 1),
        ("MaintainerDeprecated", 3),
        ("DuplicateStageName", 5),
        ("ConsistentInstructionCasing", 1),
    ] {
        assert!(found.contains(&rule), "{rule:?} in {found:?}");
    }
}

#[test]
fn a_file_that_does_not_compile_keeps_its_findings() {
    let text = "FROM scratch\nWORKDIR a\nEXPOSE 99999\nCMD a\nCMD b\nUSER ${x:?}\nVOLUME $none\n";
    let errors = with(text, options(), &[]).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.lines.first).collect::<Vec<_>>(), [3, 6, 7]);
    assert_eq!(
        rules(errors.warnings()),
        [
            ("WorkdirRelativePath", 2),
            ("JSONArgsRecommended", 4),
            ("MultipleInstructionsDisallowed", 4),
            ("JSONArgsRecommended", 5),
            ("UndefinedVar", 7),
        ]
    );
}

/// Errors that need no image are said before any is asked for, those behind them too; nothing is guessed.
#[test]
fn errors_before_images_bring_the_rest_along() {
    let text = "ARG V\nFROM $V\nFROM alpine AS b\nEXPOSE 99999\nEXPOSE $PORT\nUSER ${U:?}\nENV A=$U\nVOLUME $A\n\
                STOPSIGNAL nothing\nCOPY --from=$V x y\nWORKDIR $A\nENTRYPOINT x\nENTRYPOINT y\nENV API_KEY=1\n";
    let errors = with(text, options(), &[]).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.lines.first).collect::<Vec<_>>(), [2, 10, 4, 9]);
    let found = rules(errors.warnings());
    assert!(found.contains(&("MultipleInstructionsDisallowed", 12)), "{found:?}");
    assert!(found.contains(&("SecretsUsedInArgOrEnv", 14)), "{found:?}");
    assert!(
        !found.iter().any(|(rule, _)| matches!(*rule, "UndefinedVar" | "WorkdirRelativePath")),
        "{found:?}"
    );
}

/// Behind a line that cannot be read no variable is known not to be set.
#[test]
fn checks_look_behind_what_the_parser_refuses() {
    let report =
        check("FROM scratch\nEVN A=80\nEXPOSE $A\nEXPOSE 80/TCP 0/x\nFROM nowhere AS b\nWORKDIR c\n");
    assert_eq!(report.errors.iter().map(|error| error.lines.first).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(rules(&report.warnings), [("WorkdirRelativePath", 6)]);
    // Without its FROM nobody knows whose instructions these are.
    let report = check("FROM a b c d\nWORKDIR c\nCOPY --from=3 a b\n");
    assert_eq!(report.errors.len(), 1);
}

#[test]
fn checks_have_the_form_of_buildkit() {
    let text = "FROM scratch AS Out\nRUN \\\n  <<EOF\n$x\nEOF\nEXPOSE ${A}/TCP\n";
    let report: Value =
        serde_json::from_str(&check(text).to_json("Dockerfile", &Source::new(text.as_bytes()))).unwrap();
    let at = |line: u32| json!({"start": {"line": line}, "end": {"line": line}});
    assert_eq!(
        report["warnings"],
        json!([
            {
                "ruleName": "StageNameCasing",
                "description": "Stage names should be lowercase",
                "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
                "detail": "Stage name 'Out' should be lowercase",
                "location": {"ranges": [at(1)]},
            },
        ])
    );
    assert_eq!(report["sources"][0]["filename"], "Dockerfile");
    assert_eq!(report["sources"][0]["language"], "Dockerfile");
    assert!(report["sources"][0]["data"].as_str().unwrap().starts_with("RlJPTSBzY3JhdGNo"));
    assert_eq!(report["buildError"]["location"], json!({"ranges": [at(6)]}));
    assert!(report["buildError"]["message"].as_str().unwrap().contains("no port specified"), "{report}");
    let lines = json!({"ranges": [at(2), at(3), at(4), at(5)]});
    let text = format!("FROM scratch\n{}RUM x\n", "run \\\n <<A\nx\nA\n");
    let report: Value =
        serde_json::from_str(&check(&text).to_json("f", &Source::new(text.as_bytes()))).unwrap();
    assert_eq!(report["warnings"][0]["location"], lines);
    assert_eq!(report["buildError"]["message"], "unknown instruction: RUM");
    assert!(check("FROM scratch\nCOPY a b\n").is_clean());
}

#[test]
fn errors_and_findings_are_drawn() {
    let text = "FROM scratch\n\tRUM make\nCOPY \\\n  a\nMAINTAINER é\n";
    let (report, source) = (check(text), Source::new(text.as_bytes()));
    assert_eq!(
        report.render("Dockerfile", &source, false),
        "error: unknown instruction: RUM
  --> Dockerfile:2:2
   |
 2 |  RUM make
   |  ^^^
   = hint: did you mean RUN?

error: COPY requires at least two arguments, but only one was provided. Destination could not be determined
  --> Dockerfile:3:1
   |
 3 | COPY \\
   | ^^^^^^
 4 |   a

warning: MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label
  --> Dockerfile:5:1
   |
 5 | MAINTAINER é
   = see: https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
"
    );
    let colored = report.errors[0].render("f", &source, true);
    assert_eq!(
        colored,
        "\u{1b}[31;1merror\u{1b}[0m\u{1b}[1m: unknown instruction: RUM\u{1b}[0m
\u{1b}[34;1m  -->\u{1b}[0m f:2:2
\u{1b}[34;1m   |\u{1b}[0m
\u{1b}[34;1m 2 |\u{1b}[0m  RUM make
\u{1b}[34;1m   |\u{1b}[0m  \u{1b}[31;1m^^^\u{1b}[0m
\u{1b}[34;1m   =\u{1b}[0m \u{1b}[1mhint\u{1b}[0m: did you mean RUN?
"
    );
    let long = format!("FROM scratch\nRUN{}\nRUM {}\n", " \\\n x".repeat(20), "é\u{7}".repeat(200));
    let drawn = check(&long).render("f", &Source::new(long.as_bytes()), false);
    assert!(drawn.lines().all(|line| line.chars().count() < 180), "{drawn}");
    let error = with("FROM a\nCOPY --from=9 a b\n", options(), &[]).unwrap_err();
    assert!(error.render("f", &Source::new(b"FROM a\nCOPY --from=9 a b\n"), false).contains("--> f:2:1"));
}
