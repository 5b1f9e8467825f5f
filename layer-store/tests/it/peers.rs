//! Programs that are not ours and that a test compares with.

/// The program is on the path.
pub(crate) fn there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// `None`, said aloud, when one of `names` is missing; a failure when peers are required.
pub(crate) fn need(names: &[&str]) -> Option<()> {
    for name in names {
        if !there(name) {
            return skip(&format!("{name} is not installed"));
        }
    }
    Some(())
}

/// Says why a test does not run.
pub(crate) fn skip(fact: &str) -> Option<()> {
    assert!(std::env::var_os("COOPERAGE_REQUIRE_PEERS").is_none(), "peers are required, but {fact}");
    eprintln!("skipped: {fact}");
    None
}

/// This process is root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
