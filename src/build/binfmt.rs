//! Emulators that the kernel starts by itself: binfmt_misc.

use std::path::Path;

use image_core::Platform;

const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Whether the kernel starts programs of this processor by an emulator.
pub(super) fn emulates(platform: &Platform) -> bool {
    let Some(machine) = machine(&platform.architecture) else { return false };
    let Ok(entries) = std::fs::read_dir(REGISTERED) else { return false };
    entries.flatten().any(|entry| is_for(&entry.path(), machine))
}

fn is_for(register: &Path, machine: u16) -> bool {
    std::fs::read_to_string(register).is_ok_and(|text| says(&text, machine))
}

/// Whether a register (`enabled`, …, `magic 7f454c46…`) takes ELF programs of this machine.
fn says(text: &str, machine: u16) -> bool {
    let Some(magic) = text.lines().find_map(|line| line.strip_prefix("magic ")) else { return false };
    let byte = |at: usize| magic.get(at * 2..at * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let (Some(order), Some(first), Some(second)) = (byte(5), byte(18), byte(19)) else { return false };
    // `EI_DATA` 2 is big-endian.
    let bytes = [first, second];
    let found = if order == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
    text.starts_with("enabled") && magic.starts_with("7f454c46") && found == machine
}

/// `e_machine` of the ELF format for a processor by its name in images.
fn machine(architecture: &str) -> Option<u16> {
    Some(match architecture {
        "386" => 3,
        "mips" | "mipsle" | "mips64" | "mips64le" => 8,
        "ppc64" | "ppc64le" => 21,
        "s390x" => 22,
        "arm" => 40,
        "amd64" => 62,
        "arm64" => 183,
        "riscv64" => 243,
        "loong64" => 258,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_says_for_which_processor_it_is() {
        let arm64 = "enabled\ninterpreter /x\nflags: POCF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\n";
        let s390x =
            "enabled\ninterpreter /x\nflags: \noffset 0\nmagic 7f454c4602020100000000000000000000020016\n";
        assert!(says(arm64, 183) && !says(arm64, 22) && says(s390x, 22) && !says(s390x, 183));
        assert!(!says(&arm64.replace("enabled", "disabled"), 183));
        for other in ["", "enabled\nextension .py\n", "enabled\nmagic 7f\n", "enabled\nmagic zz454c46\n"] {
            assert!(!says(other, 183), "{other}");
        }
    }
}
