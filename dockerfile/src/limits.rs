//! The bounds that keep hostile input from costing more than it weighs.
//!
//! BuildKit has the first of these; the others are ours. No real file comes near them, and each
//! ends in a typed error that names the bound.

/// Longest physical line in bytes, without its line feed. BuildKit's scanner has the same bound.
pub const MAX_LINE: usize = 65_535;

/// Largest source in bytes.
pub const MAX_SOURCE: usize = 64 << 20;

/// Most instructions in one file.
pub const MAX_INSTRUCTIONS: usize = 32_768;

/// Longest result of expanding one word, in bytes.
pub const MAX_EXPANSION: usize = 16 << 20;

/// All text that one compilation may produce (expansions, history, ports), in bytes.
pub const MAX_PLAN_TEXT: usize = 256 << 20;

/// Deepest nesting of `${a:-${b:-…}}`.
pub const MAX_EXPANSION_DEPTH: usize = 128;

/// What all expansions of one compilation may cost together: bytes made and characters that patterns look at.
pub const MAX_EXPANSION_WORK: usize = 1 << 26;

/// Deepest nesting of a JSON value in exec form.
pub const MAX_JSON_DEPTH: usize = 10_000;

/// Most names among which a spelling suggestion is sought.
pub const MAX_SUGGESTIONS: usize = 512;

/// Most diagnostics that are collected from one file before parsing stops.
pub const MAX_DIAGNOSTICS: usize = 64;

/// Most rounds in which triggers of base images may ask for further images.
pub const MAX_ONBUILD_ROUNDS: usize = 32;
