//! Errors, as runc writes them: on standard error, and as a line of the log file.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use cooperage::runtime;

use crate::args::LogFormat;

/// An error with its causes and its hint.
fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    let known = error.downcast_ref::<runtime::Error>();
    if let Some(runtime::Error::Host { .. }) = known {
        text = format!("invalid configuration for this host: {text}");
    }
    match known.and_then(runtime::Error::hint) {
        Some(hint) => format!("{text} ({hint})"),
        None => text,
    }
}

/// Writes it down.
pub(crate) fn error(log: Option<&Path>, format: LogFormat, error: &(dyn Error + 'static)) {
    let text = text(error);
    eprintln!("coop-runtime: error: {text}");
    if let Some(path) = log {
        append(path, &line("error", &text, format));
    }
}

fn line(level: &str, text: &str, format: LogFormat) -> String {
    let time = rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    match format {
        LogFormat::Json => serde_json::json!({"level": level, "msg": text, "time": time}).to_string(),
        LogFormat::Text => format!("time={time:?} level={level} msg={text:?}"),
    }
}

fn append(path: &Path, line: &str) {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = opened.and_then(|mut file| writeln!(file, "{line}")) {
        eprintln!("coop-runtime: cannot write {}: {error}", path.display());
    }
}

/// What the library remarks on the way: to the log file, or without one to standard error.
pub(crate) struct Remarks {
    pub(crate) log: Option<PathBuf>,
    pub(crate) format: LogFormat,
    pub(crate) debug: bool,
}

impl Subscriber for Remarks {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= if self.debug { Level::DEBUG } else { Level::WARN }
    }

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut words = Words::default();
        event.record(&mut words);
        let line = line(level, &(words.message + &words.fields), self.format);
        match &self.log {
            Some(path) => append(path, &line),
            None => eprintln!("{line}"),
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A remark and what it is about.
#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        }
    }
}

/// Seconds after 1970 as a date (RFC 3339), by the proleptic Gregorian calendar.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day at the end.
    let day = days + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}
