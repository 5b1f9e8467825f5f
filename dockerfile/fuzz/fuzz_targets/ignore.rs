//! Any ignore file answers for any path.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    if let Ok(ignore) = dockerfile::Ignore::parse(input.0) {
        ignore.matches(input.1);
        ignore.enter(&dockerfile::DirState::default(), input.1);
    }
});
