//! The shared records of the reference implementations, and what to do when they are not there.

use std::path::PathBuf;

/// The text of a shared file, or nothing when it is not there and nobody requires it.
///
/// # Panics
///
/// When the file is missing and `COOPERAGE_REQUIRE_PEERS` is 1.
pub(crate) fn read(path: &str) -> Option<String> {
    match std::fs::read_to_string(place(path)) {
        Ok(text) => Some(text),
        Err(_) if required() => panic!("{path} is required and not there"),
        Err(_) => {
            println!("skipped: the shared file {path} is not there");
            None
        }
    }
}

/// Where a shared file stands.
pub(crate) fn place(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path)
}

#[expect(clippy::disallowed_methods, reason = "a test asks whether its peers are required")]
fn required() -> bool {
    std::env::var("COOPERAGE_REQUIRE_PEERS").is_ok_and(|value| value == "1")
}
