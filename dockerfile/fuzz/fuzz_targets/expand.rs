//! Expanding any word ends.
#![no_main]

libfuzzer_sys::fuzz_target!(|word: &str| {
    let variables = std::collections::BTreeMap::from([("a".to_owned(), "x/y z".to_owned())]);
    let rules = dockerfile::Expander::default();
    drop(rules.word(word, &variables));
    drop(rules.words(word, &variables));
});
