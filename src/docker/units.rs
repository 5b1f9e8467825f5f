//! Sizes and ages in docker's words (go-units).

use std::time::Duration;

const UNITS: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/// `2.796MB`: four significant digits, decimal units.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    size(bytes, 4)
}

/// `2.8MB`: three significant digits, as in tables.
#[must_use]
pub fn human_size_short(bytes: u64) -> String {
    size(bytes, 3)
}

fn size(bytes: u64, digits: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut unit = UNITS.iter();
    let mut name = unit.next().unwrap_or(&"B");
    while value >= 1000.0
        && let Some(next) = unit.next()
    {
        value /= 1000.0;
        name = next;
    }
    format!("{}{name}", general(value, digits))
}

/// Go's `%.Ng` for values from 0 to 1000, its exponent included.
fn general(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let shown = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let exponent: usize = exponent.parse().unwrap_or(0);
    if exponent >= digits {
        let mantissa = if mantissa.contains('.') {
            mantissa.trim_end_matches('0').trim_end_matches('.')
        } else {
            mantissa
        };
        return format!("{mantissa}e+{exponent:02}");
    }
    let plain = format!("{value:.*}", digits - 1 - exponent);
    if plain.contains('.') { plain.trim_end_matches('0').trim_end_matches('.').to_owned() } else { plain }
}

/// `About a minute`, `3 weeks`.
#[must_use]
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded, minutes are cut: as there.
    let hours = (seconds + 1_800) / 3_600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 0..=1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1_440) => format!("{} weeks", hours / 24 / 7),
        (.., 1_440..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_in_the_transcripts() {
        for (bytes, short, long) in [
            (0, "0B", "0B"),
            (2, "2B", "2B"),
            (405_267, "405kB", "405.3kB"),
            (1_985_814, "1.99MB", "1.986MB"),
            (2_391_083, "2.39MB", "2.391MB"),
            (999_900_000, "1e+03MB", "999.9MB"),
            (4_800_000, "4.8MB", "4.8MB"),
        ] {
            assert_eq!((human_size_short(bytes).as_str(), human_size(bytes).as_str()), (short, long));
        }
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (29, "29 seconds"),
            (70, "About a minute"),
            (3_600, "About an hour"),
            (7_300, "2 hours"),
            (1_300_000, "2 weeks"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
