//! Docker's default profile, from data.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// What the lines of the data are read for.
struct Facts<'a> {
    capabilities: &'a [Capability],
    /// Go's names of the architectures, which moby uses.
    arches: &'static [&'static str],
    kernel: (u32, u32),
}

/// Docker's default profile for a process that may have these capabilities, on this machine and kernel.
///
/// Everything that is not allowed fails with EPERM, but `clone3`, which fails with ENOSYS so that the C library falls
/// back to `clone`, whose flags a filter can see. Source: moby's `profiles/seccomp`.
#[must_use]
pub fn default_profile(capabilities: &[Capability]) -> LinuxSeccomp {
    let (arches, list): (&[&str], Vec<Arch>) = if cfg!(target_arch = "aarch64") {
        (&["arm64"], vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm])
    } else {
        (&["amd64"], vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32])
    };
    let facts = Facts { capabilities, arches, kernel: kernel() };
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM.cast_unsigned()))
        .set_architectures(Some(list))
        .set_flags(None)
        .set_listener_path(None)
        .set_listener_metadata(None)
        .set_syscalls(Some(entries(include_str!("default.txt"), &facts)));
    profile
}

fn entries(text: &str, facts: &Facts<'_>) -> Vec<LinuxSyscall> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.filter_map(|line| entry(line, facts)).flatten().collect()
}

/// The entries of a line; none when its conditions do not hold. The data is our own and a test reads all of it.
fn entry(line: &str, facts: &Facts<'_>) -> Option<Vec<LinuxSyscall>> {
    let mut parts = line.split(" : ");
    let (conditions, action, names) = (parts.next()?, parts.next()?, parts.next()?);
    if !conditions.split(' ').all(|condition| facts.hold(condition)) {
        return None;
    }
    let (action, errno) = match action.split_once('=') {
        Some((_, errno)) => (LinuxSeccompAction::ScmpActErrno, errno.parse::<u32>().ok()),
        None => (LinuxSeccompAction::ScmpActAllow, None),
    };
    let names: Vec<String> = names.split(' ').map(str::to_owned).collect();
    let one = |args: Option<Vec<LinuxSeccompArg>>| {
        let mut entry = LinuxSyscallBuilder::default().names(names.clone()).action(action);
        if let Some(errno) = errno {
            entry = entry.errno_ret(errno);
        }
        if let Some(args) = args {
            entry = entry.args(args);
        }
        entry.build().ok()
    };
    match parts.next() {
        None => Some(one(None).into_iter().collect()),
        Some(alternatives) => {
            let each = alternatives.split(" | ").map(|text| one(Some(vec![comparison(text)?])));
            each.collect()
        }
    }
}

fn comparison(text: &str) -> Option<LinuxSeccompArg> {
    let mut words = text.split(' ');
    let index = words.next()?.strip_prefix("arg")?.parse::<usize>().ok()?;
    let op = match words.next()? {
        "eq" => LinuxSeccompOperator::ScmpCmpEq,
        "ne" => LinuxSeccompOperator::ScmpCmpNe,
        "lt" => LinuxSeccompOperator::ScmpCmpLt,
        "le" => LinuxSeccompOperator::ScmpCmpLe,
        "gt" => LinuxSeccompOperator::ScmpCmpGt,
        "ge" => LinuxSeccompOperator::ScmpCmpGe,
        "masked_eq" => LinuxSeccompOperator::ScmpCmpMaskedEq,
        _ => return None,
    };
    let values = words.next()?;
    let (value, second) = match values.split_once('/') {
        Some((value, second)) => (value, second.parse::<u64>().ok()),
        None => (values, None),
    };
    let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value.parse::<u64>().ok()?);
    match second {
        Some(second) => arg.value_two::<u64>(second).build().ok(),
        None => arg.build().ok(),
    }
}

impl Facts<'_> {
    fn hold(&self, condition: &str) -> bool {
        let has = |name: &str| self.capabilities.iter().any(|known| known.to_string() == name);
        let is = |names: &str| names.split(',').any(|name| self.arches.contains(&name));
        match condition.split_once('=') {
            None => condition == "always",
            Some(("cap", name)) => has(name),
            Some(("nocap", name)) => !has(name),
            Some(("arch", names)) => is(names),
            Some(("noarch", names)) => !is(names),
            Some(("kernel", version)) => parse(version).is_some_and(|wanted| self.kernel >= wanted),
            Some(_) => false,
        }
    }
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(major), Ok(minor)) => Some((major, minor)),
        _ => None,
    }
}

fn kernel() -> (u32, u32) {
    parse(&rustix::system::uname().release().to_string_lossy()).unwrap_or((0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(capabilities: &[Capability]) -> Vec<String> {
        let profile = default_profile(capabilities);
        let entries = profile.syscalls().clone().unwrap();
        entries.iter().flat_map(|entry| entry.names().clone()).collect()
    }

    #[test]
    fn every_line_is_understood() {
        for line in
            include_str!("default.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (conditions, rest) = line.split_once(" : ").unwrap();
            let known = ["always", "cap", "nocap", "arch", "noarch", "kernel"];
            assert!(
                conditions.split(' ').all(|one| known.contains(&one.split('=').next().unwrap())),
                "{line}"
            );
            let facts = Facts { capabilities: &[], arches: &[], kernel: (9, 0) };
            assert!(
                entry(&format!("always : {rest}"), &facts).is_some_and(|list| !list.is_empty()),
                "{line}"
            );
        }
    }

    #[test]
    fn capabilities_open_calls() {
        assert!(!names(&[]).contains(&"mount".to_owned()));
        assert!(names(&[Capability::SysAdmin]).contains(&"mount".to_owned()));
        assert!(names(&[]).contains(&"clone3".to_owned()));
        assert!(names(&[Capability::SysTime]).contains(&"settimeofday".to_owned()));
        assert!(names(&[]).contains(&"openat".to_owned()));
        assert_eq!(names(&[]).contains(&"arch_prctl".to_owned()), cfg!(target_arch = "x86_64"));
    }
}
