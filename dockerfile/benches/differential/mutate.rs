//! New files from old ones.

use std::path::Path;

use serde_json::{Map, Value, json};

/// A sequence of numbers that is the same each time (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbours must not be parts of one sequence.
        let mixed = Self(seed).next();
        Self(mixed ^ 0xd1b5_4a32_d192_ed03)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// The files that new ones are made from.
pub(crate) struct Mutator {
    texts: Vec<String>,
    bases: Vec<Value>,
}

/// Lines that real files seldom have.
const LINES: &[&str] = &[
    "FROM alpine AS extra",
    "FROM scratch",
    "FROM --platform=$BUILDPLATFORM golang:1 AS xx",
    "FROM --platform=linux/arm64 busybox",
    "FROM --platform=$TARGETPLATFORM busybox AS Bar",
    "FROM extra AS more",
    "FROM ${BASE:-alpine}:${TAG-3}",
    "ARG TARGETARCH TARGETOS BUILDPLATFORM",
    "ARG VERSION=1.0 OTHER",
    "ARG EMPTY=",
    "ARG A=$VERSION B=${A:+x}",
    "ARG TARGETPLATFORM",
    "ARG HTTP_PROXY",
    "# check=skip=all",
    "# check=experimental=all",
    "# check=error=true",
    "# VERSION what it is",
    "# escape=`",
    "# syntax=docker/dockerfile:1",
    "ENV A=1 B=\"$A x\" C='$A' D=\\$A",
    "ENV legacy the rest $PATH",
    "ENV PATH=/opt/bin:$PATH",
    "ENV API_KEY=x",
    "ENV A=${A#x*} B=${PATH%%:*} C=${PATH//:/ }",
    "LABEL a=b \"c d\"='e f'",
    "LABEL legacy label text",
    "RUN <<EOF\necho $A\n  more\nEOF",
    "RUN <<-'EOF' cat > /x\n\techo $A\n\tEOF",
    "RUN <<A <<B cat\none\nA\ntwo\nB",
    "RUN <<EOF\n#!/usr/bin/env python\nprint(1)\nEOF",
    "COPY <<EOF <<\"X\" /etc/\n$A ${B:-c}\nEOF\n$A\nX",
    "ADD <<EOF /x\nEOF",
    "RUN --mount=type=cache,target=/c,id=$A,sharing=locked make",
    "RUN --mount=type=cache,target=rel,uid=1,mode=0700 make",
    "RUN --mount=type=secret,id=tok,env=TOK --mount=type=ssh make",
    "RUN --mount=type=secret,target=/s,required x",
    "RUN --mount=type=bind,from=extra,target=/b,rw --network=none x",
    "RUN --mount=from=busybox,src=/bin,dst=/b x",
    "RUN --mount=type=tmpfs,size=64m,target=/t x",
    "RUN --mount=target=. --security=insecure x",
    "RUN --network=host --mount=type=ssh,id=a,required=true,mode=0666 x",
    "RUN [\"/bin/x\", \"$A\", \"b c\"]",
    "RUN [\"a\", 1]",
    "COPY --from=extra --chown=1:2 --chmod=0644 a b /d/",
    "COPY --from=0 / /",
    "COPY --from=busybox /bin/* /b/",
    "COPY --link --parents a/./b/*.c /d",
    "COPY --exclude=*.md --exclude=$A . $A",
    "COPY --chmod=u=rwX,go=rX x y",
    "COPY [\"a b\", \"c\", \"/d e/\"]",
    "COPY $A ${B}/c ./",
    "ADD https://example.com/a.tar.gz /x/",
    "ADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 https://h/a /",
    "ADD --keep-git-dir=true https://github.com/a/b.git#main:sub /src",
    "ADD --unpack=false a.tar /x",
    "ADD --chown=$A:$B git@github.com:a/b.git /x",
    "WORKDIR rel/../dir",
    "WORKDIR /a/$B",
    "WORKDIR ..",
    "USER $A:$B",
    "USER 1000:1000",
    "EXPOSE 80 443/tcp 1000-1002/UDP $PORTS",
    "EXPOSE 127.0.0.1:80:80",
    "VOLUME /a $B",
    "VOLUME [\"/a b\", \"$A\"]",
    "CMD echo $A",
    "CMD [\"x\"]",
    "CMD []",
    "ENTRYPOINT [\"e\"]",
    "ENTRYPOINT exec e",
    "SHELL [\"/bin/bash\", \"-c\"]",
    "SHELL [\"powershell\"]",
    "STOPSIGNAL SIG$A",
    "STOPSIGNAL RTMIN+3",
    "HEALTHCHECK --interval=1m30s --retries=3 CMD curl $A",
    "HEALTHCHECK NONE",
    "HEALTHCHECK CMD [\"a\", \"b\"]",
    "MAINTAINER some one",
    "ONBUILD RUN echo $A",
    "ONBUILD COPY --from=extra a b",
    "ONBUILD ARG A=2",
    "ONBUILD ENV Z=$A",
    "ONBUILD USER me",
];

/// Pieces that are put into lines.
const PIECES: &[&str] = &[
    "$A",
    "${A}",
    "${VERSION:-1}",
    "${A:?no}",
    "${A+x}",
    "${A/x/y}",
    "$TARGETARCH",
    "\"",
    "'",
    "\\",
    "\\\\",
    "`",
    "\\\n",
    "\\\n# c\n",
    "\\\n\n",
    "\n",
    " ",
    "\t",
    "\r",
    "  ",
    "#",
    "$",
    "$$",
    "{",
    "}",
    "[",
    "]",
    ",",
    "=",
    "--",
    "--from=0 ",
    "--chown=a ",
    "--link ",
    "--mount=type=cache,target=/q ",
    "<<EOF",
    "<<-X ",
    "AS b",
    ":",
    "@",
    "/",
    ".",
    "*",
    "\u{e9}",
    "\u{a0}",
    "\u{2028}",
    "\u{feff}",
    "0",
    "-",
];

const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const PLATFORMS: &[&str] = &[
    "linux/arm64",
    "linux/arm/v7",
    "linux/386",
    "windows/amd64",
    "linux/riscv64",
    "linux/amd64/v2",
    "linux/s390x",
];

const VALUES: &[&str] =
    &["", "1", "a b", "/x/y", "$A", "\"q\"", "linux/arm64", "alpine", "80", "true", "\\", "scratch"];

impl Mutator {
    pub(crate) fn new(shared: &Path) -> Self {
        let mut texts = Vec::new();
        let mut bases: Vec<Value> = Vec::new();
        for line in read(&shared.join("expected.jsonl")).lines() {
            let record: Value = serde_json::from_str(line).unwrap_or_default();
            let file = shared.join("files").join(record["file"].as_str().unwrap_or(""));
            texts.push(String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned());
        }
        for line in read(&shared.join("cases.jsonl")).lines() {
            let record: Value = serde_json::from_str(line).unwrap_or_default();
            // Every second text is a small one, which reaches more of the language.
            texts.push(record["dockerfile"].as_str().unwrap_or("").to_owned());
            if !record["base_config"].is_null() && !bases.contains(&record["base_config"]) {
                bases.push(record["base_config"].clone());
            }
        }
        Self { texts, bases }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// A file that nobody wrote, with what a build of it may be given.
    pub(crate) fn request(&self, random: &mut Random) -> Value {
        let mut text = self.text(random);
        for _ in 0..random.below(4) {
            text = self.change(&text, random);
        }
        let mut request = Map::new();
        let words: Vec<&str> = text
            .split(|ch: char| !ch.is_alphanumeric() && ch != '_')
            .filter(|word| !word.is_empty())
            .collect();
        let mut args = Map::new();
        if random.one_in(2) {
            for _ in 0..random.below(4) {
                let name = if words.is_empty() || random.one_in(3) {
                    random.of(&["A", "VERSION", "TARGETARCH", "HTTP_PROXY", "BASE", "BUILDPLATFORM"])
                } else {
                    random.of(&words)
                };
                // What a stage's time is, is not for the compiler to find out.
                if name != "SOURCE_DATE_EPOCH" {
                    args.insert(name.to_owned(), Value::from(random.of(VALUES)));
                }
            }
        }
        if random.one_in(4) {
            let target = if words.is_empty() || random.one_in(3) {
                random.of(&["extra", "b", "xx", "0", "more"])
            } else {
                stage(&text, random)
            };
            request.insert("target".into(), Value::from(target));
        }
        if random.one_in(4) {
            request.insert("platform".into(), Value::from(random.of(PLATFORMS)));
        }
        if random.one_in(3) && !self.bases.is_empty() {
            request.insert("base_config".into(), self.bases[random.below(self.bases.len())].clone());
        }
        request.insert("dockerfile".into(), json!(text.replace("SOURCE_DATE_EPOCH", "EPOCH")));
        if !args.is_empty() {
            request.insert("build_args".into(), Value::Object(args));
        }
        Value::Object(request)
    }

    fn text(&self, random: &mut Random) -> String {
        self.texts[random.below(self.texts.len())].clone()
    }

    fn change(&self, text: &str, random: &mut Random) -> String {
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        if lines.is_empty() {
            return self.text(random);
        }
        let at = random.below(lines.len());
        match random.below(18) {
            14 => lines.insert(at, format!("{}\n", named(text, random))),
            15 => {
                // A stage of another file, or the same file again.
                let other = if random.one_in(3) { text.to_owned() } else { self.text(random) };
                let from = other.find("\nFROM").map_or(0, |at| at + 1);
                lines.push(format!("\n{}", other.get(from..).unwrap_or("")));
            }
            16 => {
                // What is built on another stage instead of an image.
                let name = stage(text, random).to_owned();
                let froms: Vec<usize> =
                    (0..lines.len()).filter(|at| lines[*at].starts_with("FROM ")).collect();
                if let Some(at) = froms.get(random.below(froms.len())) {
                    lines[*at] = format!("FROM {name}\n");
                }
            }
            17 => {
                let line = &lines[at];
                let name = variable(text, random);
                let form = random.of(&[
                    "$N", "${N}", "${N:-x}", "${N:+y}", "\"$N\"", "'$N'", "\\$N", "${N%%.*}", "${N/a/b}",
                ]);
                lines[at] = format!("{} {}\n", line.trim_end(), form.replace('N', name));
            }
            0 => {
                lines.remove(at);
            }
            1 => {
                let other = random.below(lines.len());
                lines.swap(at, other);
            }
            2 => lines.insert(at, lines[random.below(lines.len())].clone()),
            3..=5 => lines.insert(at, format!("{}\n", random.of(LINES))),
            6 => {
                let other = self.text(random);
                let all: Vec<&str> = other.split_inclusive('\n').collect();
                if !all.is_empty() {
                    let from = random.below(all.len());
                    lines.insert(at, all.iter().skip(from).take(1 + random.below(8)).copied().collect());
                }
            }
            7 | 8 => {
                let line = &mut lines[at];
                let place = place(line, random);
                line.insert_str(place, random.of(PIECES));
            }
            9 => {
                let line = &mut lines[at];
                let place = place(line, random);
                if let Some(ch) = line.get(place..).and_then(|tail| tail.chars().next()) {
                    line.replace_range(place..place + ch.len_utf8(), "");
                }
            }
            10 => {
                lines[at] = word(&lines[at], random, |old, random| match random.below(4) {
                    0 => old.to_lowercase(),
                    1 => format!("\"{old}\""),
                    2 => format!("'{old}'"),
                    _ => random.of(PIECES).to_owned(),
                });
            }
            11 => {
                let line = &lines[at];
                let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
                lines[at] = match random.below(5) {
                    0 => format!("ONBUILD {line}"),
                    1 => format!("{} {rest}", random.of(KEYWORDS)),
                    2 => format!("{} {rest}", first.to_lowercase()),
                    3 => format!("  {line}"),
                    _ => format!(
                        "{first} {} {rest}",
                        random.of(&[
                            "--link",
                            "--from=extra",
                            "--chown=1",
                            "--chmod=755",
                            "--mount=type=ssh",
                            "--platform=$BUILDPLATFORM",
                            "--network=none",
                            "--exclude=x",
                            "--parents",
                            "--interval=1s",
                            "--unpack",
                            "--",
                            "--x",
                            "--link=false",
                        ])
                    ),
                };
            }
            12 => {
                let first = lines.remove(at);
                lines.insert(0, first);
            }
            _ => {
                // Where a line ends, and how.
                let line = lines[at].trim_end_matches(['\r', '\n']).to_owned();
                lines[at] = match random.below(4) {
                    0 => format!("{line}\r\n"),
                    1 => format!("{line} \\\n"),
                    2 => format!("{line}\\ \t\n"),
                    _ => line,
                };
            }
        }
        lines.concat()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Where a character begins.
fn place(line: &str, random: &mut Random) -> usize {
    let mut place = random.below(line.len() + 1);
    while !line.is_char_boundary(place) {
        place -= 1;
    }
    place
}

/// The name of a stage, or what stands where one would.
fn stage<'a>(text: &'a str, random: &mut Random) -> &'a str {
    let names: Vec<&str> = text
        .lines()
        .filter(|line| line.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from")))
        .filter_map(|line| line.split_ascii_whitespace().last())
        .collect();
    if names.is_empty() { "none" } else { random.of(&names) }
}

/// The name of a variable of the text.
fn variable<'a>(text: &'a str, random: &mut Random) -> &'a str {
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ARG ").or_else(|| line.strip_prefix("ENV ")))
        .filter_map(|rest| rest.split(['=', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() { "PATH" } else { random.of(&names) }
}

/// A line that uses the names of the text.
fn named(text: &str, random: &mut Random) -> String {
    let line = random.of(&[
        "FROM S",
        "FROM S AS again",
        "FROM --platform=$N S AS q",
        "COPY --from=S /a /b",
        "COPY --from=S --link /a $N",
        "COPY --link --chown=$N . .",
        "RUN --mount=type=bind,from=S,target=/m x",
        "RUN --mount=type=cache,target=/m/$N,from=S,source=/a x",
        "ONBUILD COPY --from=S a b",
        "ONBUILD RUN --mount=from=S,target=/x echo $N",
        "ARG N",
        "ARG N=1",
        "ENV N=$N:x N2=$N",
        "ENV N $N x",
        "LABEL a=$N \"b $N\"='$N'",
        "WORKDIR $N",
        "USER ${N:-u}",
        "EXPOSE $N 80",
        "RUN echo $N",
        "RUN <<EOF\n$N\nEOF",
        "COPY <<EOF /x$N\n$N ${N:-$N}\nEOF",
        "ADD $N /",
        "VOLUME $N /v",
        "CMD [\"$N\"]",
    ]);
    let (stage, variable) = (stage(text, random), variable(text, random));
    let mut out = String::new();
    for (at, ch) in line.char_indices() {
        let alone = !line.get(..at).is_some_and(|head| head.ends_with(|ch: char| ch.is_ascii_alphabetic()))
            && !line.get(at + 1..).is_some_and(|tail| tail.starts_with(|ch: char| ch.is_ascii_alphabetic()));
        match ch {
            'S' if alone => out.push_str(stage),
            'N' if alone => out.push_str(variable),
            ch => out.push(ch),
        }
    }
    out
}

/// A line with one of its words changed.
fn word(line: &str, random: &mut Random, change: impl Fn(&str, &mut Random) -> String) -> String {
    let words: Vec<&str> = line.split_inclusive(' ').collect();
    let which = random.below(words.len());
    let mut out = String::new();
    for (index, word) in words.iter().enumerate() {
        if index == which {
            let bare = word.trim_end();
            out.push_str(&change(bare, random));
            out.push_str(word.get(bare.len()..).unwrap_or(""));
        } else {
            out.push_str(word);
        }
    }
    out
}
