//! The example of a config.json that `spec` writes: what others start from when they change a field or two.

use std::path::Path;

use cooperage::runtime::SpecBuilder;
use serde_json::{Value, json};

use crate::Outcome;
use crate::args::Spec;

/// Writes it.
pub(crate) fn write(args: &Spec) -> Outcome {
    let path = args.bundle.as_deref().unwrap_or(Path::new(".")).join("config.json");
    if path.exists() {
        return Err(format!("File {} exists. Remove it first", path.display()).into());
    }
    let text = serde_json::to_string_pretty(&template(args.rootless)?)?;
    std::fs::write(&path, text + "\n").map_err(|error| format!("{}: {error}", path.display()).into())
}

fn template(rootless: bool) -> Outcome<Value> {
    // What is hidden is what the library hides.
    let defaults = SpecBuilder::new().args(["sh"]).build()?;
    let hidden = defaults.linux().as_ref();
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let own = |id: u32| rootless.then(|| json!([{"containerID": 0, "hostID": id, "size": 1}]));
    let resources = (!rootless).then(|| json!({"devices": [{"allow": false, "access": "rwm"}]}));
    let linux = [
        ("namespaces", Some(namespaces(rootless))),
        ("uidMappings", own(uid)),
        ("gidMappings", own(gid)),
        ("resources", resources),
        ("maskedPaths", hidden.map(|linux| json!(linux.masked_paths()))),
        ("readonlyPaths", hidden.map(|linux| json!(linux.readonly_paths()))),
    ];
    let linux: serde_json::Map<String, Value> =
        linux.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    Ok(json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "coop",
        "mounts": mounts(rootless),
        "linux": linux,
    }))
}

/// As root and where there is version 1, groups are seen as the host has them: without a cgroup namespace.
fn namespaces(rootless: bool) -> Value {
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    kinds.push(if rootless { "user" } else { "network" });
    if rootless || Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        kinds.push("cgroup");
    }
    kinds.into_iter().map(|kind| json!({"type": kind})).collect()
}

fn mounts(rootless: bool) -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| {
        let source = if destination == "/dev/shm" { "shm" } else { kind };
        json!({"destination": destination, "type": kind, "source": source, "options": options})
    };
    let quiet = ["nosuid", "noexec", "nodev"];
    let pts: &[&str] = &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let pts = if rootless { pts.get(..5).unwrap_or_default() } else { pts };
    let sys = if rootless {
        let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
        json!({"destination": "/sys", "type": "none", "source": "/sys", "options": options})
    } else {
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    let mut list = vec![
        mount("/proc", "proc", &quiet),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", pts),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &quiet),
        sys,
    ];
    if !rootless {
        let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        list.push(mount("/sys/fs/cgroup", "cgroup", &options));
    }
    list.into()
}
