//! Ten times as much hostile text may take twelve times as long, not more.
//!
//! Prints a ratio for every shape: the time for 10 MiB over that for 1 MiB, in processor time, the medians of five
//! runs each, in turn. Work that grows faster than the text would show as 100. The larger text does not fit into a
//! processor's cache, which costs shapes that do little but copy; what takes less than a millisecond a MiB is left out.
//!
//! `scaling once SHAPE MIB` does one shape once, for a program that counts instructions.
#![expect(clippy::print_stdout, reason = "a bench says what it measured")]

use dockerfile::{Compiler, DirState, Dockerfile, Expander, Ignore, Images, Options, Outcome};
use image_core::{ImageConfig, Platform};

/// Keeps its pages between runs, so that a figure says what the work costs and not what the kernel's pages do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: usize = 1 << 20;

/// How often each size is measured.
const RUNS: usize = 5;

/// How often the small text is done in one measurement.
const FEW: u32 = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let only = match arguments.as_slice() {
        [once, name, mib] if once == "once" => Some((name.clone(), mib.parse().unwrap_or(1))),
        _ => None,
    };
    let mut worst: (f64, &str) = (0.0, "");
    let mut report = |name: &'static str, work: &dyn Fn(usize)| {
        if let Some((wanted, mib)) = &only {
            if wanted == name {
                work(mib * MIB);
            }
            return;
        }
        let (mut one, mut ten) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            one.push(timed(&|| (0..FEW).for_each(|_| work(MIB))));
            ten.push(timed(&|| work(10 * MIB)));
        }
        let (one, ten) = (median(one) / f64::from(FEW), median(ten));
        let ratio = ten / one;
        println!("{name}: 1 MiB {:.1} ms, 10 MiB {:.1} ms, ratio {ratio:.1}", one * 1e3, ten * 1e3);
        // What ends at a bound takes no time, and has no ratio.
        if one > 0.001 && ratio > worst.0 {
            worst = (ratio, name);
        }
    };
    for (name, head, unit, tail) in SHAPES {
        report(name, &|len| compile(&format!("{head}{}{tail}", unit.repeat(len / unit.len()))));
    }
    report("stages that are each other's base", &|len| {
        let mut text = "FROM a AS s0\n".to_owned();
        let mut stage = 0;
        while text.len() < len {
            text.push_str(&format!("FROM s{stage} AS s{}\nRUN x{}\n", stage + 1, "y".repeat(300)));
            stage += 1;
        }
        compile(&text);
    });
    report("variables, each with its own name", &|len| {
        let mut text = "FROM a\n".to_owned();
        let mut at = 0;
        while text.len() < len {
            text.push_str(&format!("ENV V{at}={}$V{} W=$U{at}\n", "z".repeat(300), at / 2));
            at += 1;
        }
        compile(&text);
    });
    report("ARGs, each with its own name, and RUN", &|len| {
        let mut text = "FROM a\n".to_owned();
        let mut at = 0;
        while text.len() < len {
            text.push_str(&format!("ARG V{at}={}\n", "z".repeat(600)));
            at += 1;
        }
        compile(&(text + "RUN x\n"));
    });
    report("a word of nested quotes", &|len| {
        drop(Expander::default().word(&"\"'$a'\" ".repeat(len / 8), &()));
    });
    report("words", &|len| drop(Expander::default().words(&"a 'b' \"c\" ".repeat(len / 10), &())));
    report("ignore patterns", &|len| {
        // A file of patterns; the paths that it is asked for do not grow.
        let line = "a/**/b*c/**/d\n!x/**/*.y\n";
        let Ok(ignore) = Ignore::parse(&line.repeat(len / line.len())) else { return };
        ignore.matches("a/x/bcc/q/w/e");
    });
    report("a path of many parts", &|len| {
        let Ok(ignore) = Ignore::parse("**/b/**/c\n!**/d/**\n*x*y*z\n") else { return };
        let mut state = DirState::default();
        // Paths are bounded by the kernel; many of them are not.
        for at in 0..len / 64 {
            state = ignore
                .enter(
                    &DirState::default(),
                    &format!("a/b/{at}/xxxxxxxxxxxxxxxxxxxxxxyyyyyyyyyyyyyyyyyyyyz/w"),
                )
                .state;
        }
        drop(state);
    });
    if only.is_some() {
        return;
    }
    println!("scaling: {:.1} times at most for ten times the text ({})", worst.0, worst.1);
    walk();
}

/// Name, beginning, what is repeated, end.
const SHAPES: &[(&str, &str, &str, &str)] = &[
    ("a huge line", "FROM a\nRUN ", "x", "\n"),
    ("many long lines", "FROM a\n", LONG_RUN, ""),
    ("continuation lines", "FROM a\nRUN ", "x \\\n", "y\n"),
    ("continuation lines with comments", "FROM a\nRUN ", "x \\\n# c\n\n", "y\n"),
    ("one ENV of continued pairs", "FROM a\nENV ", "a=$a \\\n", "b=c\n"),
    ("quotes in a continued ENV", "FROM a\nENV v=", "\"'\\\n", "\n"),
    ("nested braces", "FROM a\nENV v=", "${a:-\\\n", "\n"),
    ("replacements", "FROM a\nENV v=aaaa\nENV w=", "${v//a*b/}\\\n", "\n"),
    (
        "heredocs",
        "FROM a\n",
        "COPY <<A b\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nA\n",
        "",
    ),
    ("one heredoc that does not end", "FROM a\nRUN <<A\n", "x\n", ""),
    ("many heads of heredocs", "FROM a\nRUN ", "<<A \\\n", "\n"),
    ("JSON that does not end", "FROM a\nCMD ", "[\\\n", "\n"),
    ("a JSON array", "FROM a\nCMD [", "\"a\",\\\n", "\"b\"]\n"),
    ("comments", "FROM a\n", "# a comment\n", "RUN x\n"),
    ("directives", "", "# a=b\n", "FROM a\n"),
    ("blank lines", "FROM a\n", " \n", "RUN x\n"),
    ("short instructions", "FROM a\n", "RUN x\n", ""),
    ("labels", "FROM a\nLABEL ", "a=b \\\n", "c=d\n"),
    ("sources of one COPY", "FROM a\nCOPY ", "a \\\n", "/\n"),
    ("flags", "FROM a\nCOPY ", "--exclude=a \\\n", "b c\n"),
    ("mounts", "FROM a\nRUN ", "--mount=target=/a \\\n", "x\n"),
    ("bytes that are no text", "FROM a\nRUN ", "\u{fffd}\\\n", "\n"),
    ("spaces", "FROM a\nRUN x", " \\\n", "y\n"),
    ("unknown instructions", "FROM a\n", "RNU xxxxxxxxxxxxxxxxxxxxx\n", ""),
];

const LONG_RUN: &str = "RUN echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx$A\n";

fn timed(work: &dyn Fn()) -> f64 {
    let start = processor();
    work();
    processor() - start
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Seconds that this thread has had of a processor.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn compile(text: &str) {
    let Ok(file) = Dockerfile::parse(text.as_bytes()) else { return };
    let compiler = Compiler::new(&file, Options::new(Platform::new("linux", "amd64")));
    let mut images = Images::new();
    while let Ok(Outcome::NeedImages(requests)) = compiler.compile(&images) {
        for request in requests {
            let config = ImageConfig::empty(&request.platform);
            images.insert(request, config, None);
        }
    }
}

/// A context of 100,000 files, most of them in directories that are ignored.
fn walk() {
    let Ok(ignore) = Ignore::parse("node_modules\n**/target\n*.log\n**/*.tmp\n.git\n!keep.log\n") else {
        return;
    };
    let files: Vec<String> = (0..100_000)
        .map(|at| match at % 4 {
            0 => format!("node_modules/p{}/lib/f{at}.js", at % 1000),
            1 => format!("src/m{}/target/f{at}.o", at % 1000),
            2 => format!(".git/objects/{:02x}/f{at}", at % 256),
            _ => format!("src/m{}/f{at}.rs", at % 1000),
        })
        .collect();
    let each = timed(&|| assert_eq!(files.iter().filter(|path| !ignore.matches(path)).count(), 25_000));
    let asked = std::cell::Cell::new(0);
    let pruned = timed(&|| {
        asked.set(0);
        let mut known = std::collections::BTreeMap::new();
        let kept = files.iter().filter(|path| visit(&ignore, path, &mut known, &asked)).count();
        assert_eq!(kept, 25_000);
    });
    println!("ignore: 100000 paths asked one by one in {:.1} ms", each * 1e3);
    println!("ignore: walked with pruning in {:.1} ms, {} entries asked", pruned * 1e3, asked.get());
}

/// As a walker does it: no entry of a directory that is pruned is asked for.
fn visit<'a>(
    ignore: &Ignore,
    path: &'a str,
    known: &mut std::collections::BTreeMap<&'a str, dockerfile::Verdict>,
    asked: &std::cell::Cell<usize>,
) -> bool {
    let mut state = DirState::default();
    for (end, _) in path.match_indices('/') {
        let Some(dir) = path.get(..end) else { return false };
        let verdict = known.entry(dir).or_insert_with(|| {
            asked.set(asked.get() + 1);
            ignore.enter(&state, dir)
        });
        if verdict.prune {
            return false;
        }
        state = verdict.state.clone();
    }
    asked.set(asked.get() + 1);
    !ignore.enter(&state, path).ignored
}
