//! Builds the helper program that the crate embeds: a static, `no_std` program without libc, made by the same
//! compiler for the same target, so that no other target has to be installed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 10] = [
    "copy.rs",
    "main.rs",
    "make.rs",
    "memory.rs",
    "resident.rs",
    "serve.rs",
    "signal.rs",
    "step.rs",
    "syscall.rs",
    "wire.rs",
];

fn main() -> Result<(), String> {
    let folder = Path::new("helper");
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo::rerun-if-changed=helper/{source}");
    }
    let variable = |name: &str| env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"));
    let out = PathBuf::from(variable("OUT_DIR")?).join("helper");
    let target = variable("TARGET")?.to_string_lossy().into_owned();
    let supported =
        target.contains("linux") && (target.starts_with("x86_64") || target.starts_with("aarch64"));
    // Without a helper the crate builds, and says at run time what is missing: documentation is made anywhere.
    if !supported || env::var_os("DOCS_RS").is_some() {
        return std::fs::write(&out, []).map_err(|error| format!("cannot write {}: {error}", out.display()));
    }
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.args(["--edition", "2024", "--crate-name", "helper", "--crate-type", "bin", "--target", &target]);
    for option in [
        "panic=abort",
        "opt-level=s",
        "debuginfo=0",
        "strip=symbols",
        "overflow-checks=off",
        "relocation-model=static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-z,noexecstack",
    ] {
        rustc.args(["-C", option]);
    }
    if target.contains("musl") {
        // Otherwise the start files that come with the target are linked, nostartfiles or not.
        rustc.args(["-C", "link-self-contained=no"]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let output = rustc.arg("-o").arg(&out).arg(folder.join("main.rs")).output();
    let output = output.map_err(|error| format!("cannot run the compiler for the helper: {error}"))?;
    if !output.status.success() {
        return Err(format!("the helper does not build:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(())
}
