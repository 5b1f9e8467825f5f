//! How a build is shown: a block for each step, lines that stay and lines that move, or a JSON object for each event.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use cooperage::{Event, Stream};
use serde_json::{Value, json};

/// How often the lines that move are drawn anew.
const TICK: Duration = Duration::from_millis(200);
/// Lines of output below a step that runs.
const TAIL: usize = 4;
/// Columns of a line that moves: one that wraps could not be taken back.
const COLUMNS: usize = 79;

/// What `--progress` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// tty on a terminal, else plain.
    #[default]
    Auto,
    /// The steps that run stay at the bottom.
    Tty,
    /// A block for each step.
    Plain,
    /// A JSON object a line for each event.
    #[value(alias = "rawjson")]
    Json,
    /// Nothing.
    Quiet,
}

/// Shows events; dropped, it leaves the terminal as it should be.
pub(crate) struct Renderer {
    kind: Progress,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    /// The step that was written about last, and the highest number so far.
    last: usize,
    highest: usize,
    running: BTreeMap<usize, Running>,
    /// Lines on the terminal that will be drawn anew.
    drawn: usize,
}

struct Running {
    name: String,
    began: Instant,
    tail: Vec<String>,
}

impl Renderer {
    pub(crate) fn new(progress: Progress) -> Arc<Self> {
        let kind = match progress {
            Progress::Auto if std::io::stderr().is_terminal() => Progress::Tty,
            Progress::Auto => Progress::Plain,
            other => other,
        };
        let renderer = Arc::new(Self { kind, state: Arc::default(), ended: Arc::default() });
        if kind == Progress::Tty {
            let (state, ended) = (renderer.state.clone(), renderer.ended.clone());
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    std::thread::sleep(TICK);
                    lock(&state).draw(&[], ended.load(Ordering::Relaxed));
                }
            });
        }
        renderer
    }

    pub(crate) fn event(&self, event: &Event) {
        let mut state = lock(&self.state);
        state.highest = state.highest.max(number(event));
        match self.kind {
            Progress::Tty => state.terminal(event),
            Progress::Json => eprintln!("{}", object(event)),
            Progress::Quiet => {}
            Progress::Auto | Progress::Plain => state.plain(event),
        }
    }

    /// The end of a build that made `image`, with its names.
    pub(crate) fn finished(&self, image: &str, names: &[String], took: Duration) {
        self.stop();
        let number = lock(&self.state).highest + 1;
        match self.kind {
            Progress::Quiet => {}
            Progress::Json => {
                eprintln!("{}", json!({"event": "image", "image": image, "names": names}));
            }
            Progress::Tty => {
                eprintln!("=> {:>5.1}s exporting to image\n=> writing image {image}", took.as_secs_f64());
                for name in names {
                    eprintln!("=> naming to {name}");
                }
            }
            Progress::Auto | Progress::Plain => {
                eprintln!("\n#{number} exporting to image\n#{number} exporting layers done");
                eprintln!("#{number} writing image {image} done");
                for name in names {
                    eprintln!("#{number} naming to {name} done");
                }
                eprintln!("#{number} DONE {:.1}s", took.as_secs_f64());
            }
        }
    }

    /// Nothing moves any more.
    pub(crate) fn stop(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) && self.kind == Progress::Tty {
            lock(&self.state).draw(&[], true);
        }
    }
}

impl Drop for Renderer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(event: &Event) -> usize {
    match event {
        Event::StepStarted { number, .. } | Event::Output { number, .. } | Event::StepDone { number, .. } => {
            *number
        }
        _ => 0,
    }
}

impl State {
    /// As `docker build --progress plain` does.
    fn plain(&mut self, event: &Event) {
        let number = number(event);
        if number != self.last && self.last != 0 {
            eprintln!();
        }
        self.last = number;
        eprintln!("{event}");
    }

    fn terminal(&mut self, event: &Event) {
        match event {
            Event::StepStarted { number, name } => {
                let running = Running { name: name.clone(), began: Instant::now(), tail: Vec::new() };
                self.running.insert(*number, running);
                self.draw(&[], false);
            }
            Event::Output { number, bytes, .. } => {
                if let Some(running) = self.running.get_mut(number) {
                    let text = String::from_utf8_lossy(bytes);
                    running.tail.extend(text.lines().map(str::to_owned));
                    let old = running.tail.len().saturating_sub(TAIL);
                    running.tail.drain(..old);
                }
            }
            Event::StepDone { number, cached, cause, took } => {
                let name = self.running.remove(number).map(|running| running.name).unwrap_or_default();
                let end = if *cached { "CACHED ".to_owned() } else { String::new() };
                let mut lines = vec![format!("=> {:>5.1}s {end}{name}", took.as_secs_f64())];
                lines.extend(cause.iter().map(|cause| format!("   because {cause}")));
                self.draw(&lines, false);
            }
            other => self.draw(&[other.to_string()], false),
        }
    }

    /// Takes back what moves, writes `lines`, and draws what moves below them.
    fn draw(&mut self, lines: &[String], ended: bool) {
        let mut text = String::new();
        if self.drawn > 0 {
            text = format!("\x1b[{}A\x1b[J", self.drawn);
        }
        for line in lines {
            text.extend(line.chars().map(plain));
            text.push('\n');
        }
        self.drawn = 0;
        for running in self.running.values().filter(|_| !ended) {
            let head = format!("=> {:>5.1}s {}", running.began.elapsed().as_secs_f64(), running.name);
            for line in std::iter::once(head).chain(running.tail.iter().map(|line| format!("   # {line}"))) {
                text.extend(line.chars().map(plain).take(COLUMNS));
                text.push('\n');
                self.drawn += 1;
            }
        }
        // A terminal that is gone is no reason to end a build.
        drop(std::io::stderr().write_all(text.as_bytes()));
    }
}

/// What a Dockerfile or a process says may not move the cursor.
fn plain(one: char) -> char {
    if one.is_control() { ' ' } else { one }
}

/// An event for programs to read.
fn object(event: &Event) -> Value {
    match event {
        Event::StepStarted { number, name } => json!({"event": "step-started", "step": number, "name": name}),
        Event::Output { number, stream, bytes } => {
            let stream = if *stream == Stream::Stdout { "stdout" } else { "stderr" };
            let text = String::from_utf8_lossy(bytes);
            json!({"event": "output", "step": number, "stream": stream, "text": text})
        }
        Event::StepDone { number, cached, cause, took } => json!({
            "event": "step-done", "step": number, "cached": cached, "cause": cause,
            "millis": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }),
        Event::Warning { text } => json!({"event": "warning", "text": text}),
        Event::PullStarted { name } => json!({"event": "pull-started", "name": name}),
        Event::Pull { digest, status } => {
            json!({"event": "pull", "digest": digest.to_string(), "status": status})
        }
        Event::Push { digest, status } => {
            json!({"event": "push", "digest": digest.to_string(), "status": status})
        }
        other => json!({"event": "other", "text": other.to_string()}),
    }
}
