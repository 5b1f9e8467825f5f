//! Parsing any bytes ends, and printing gives them back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(file) = dockerfile::Dockerfile::parse(data) {
        assert_eq!(file.source().bytes(), data);
        let printed: Vec<u8> =
            file.items().flat_map(|item| file.source().bytes_of(item.span)).copied().collect();
        assert_eq!(printed, data);
    }
});
