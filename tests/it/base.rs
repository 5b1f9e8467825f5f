//! A base image of the host's shell and tools, for builds with RUN.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cooperage::{Context, Engine, Image, runtime};

const PROGRAMS: [&str; 20] = [
    "/bin/sh",
    "/bin/cat",
    "/bin/ls",
    "/bin/rm",
    "/bin/mkdir",
    "/bin/touch",
    "/bin/chmod",
    "/bin/ln",
    "/bin/mv",
    "/bin/cp",
    "/bin/sleep",
    "/bin/readlink",
    "/usr/bin/id",
    "/usr/bin/stat",
    "/usr/bin/find",
    "/usr/bin/sort",
    "/usr/bin/test",
    "/usr/bin/mkfifo",
    "/bin/grep",
    "/bin/chown",
];

/// The name that the base image gets.
pub(crate) const NAME: &str = "example.com/base:latest";

/// Why no container can be run here; none when one can.
pub(crate) fn missing() -> Option<String> {
    let host = runtime::Host::probe();
    let root = rustix_is_root();
    let namespaces = if root { Ok(()) } else { host.user_namespaces };
    namespaces.and(host.overlay).err().map(|hint| hint.to_string())
}

fn rustix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0)
}

/// Says that a test cannot run here; with COOPERAGE_REQUIRE_PEERS=1 that is a failure.
pub(crate) fn skipped(fact: &str) {
    println!("skipped: {fact}");
    assert!(std::env::var_os("COOPERAGE_REQUIRE_PEERS").is_none(), "required: {fact}");
}

/// Puts the base image into the engine's store; none, with the reason printed, when it could not be run.
pub(crate) async fn base(engine: &Engine) -> Option<Image> {
    if let Some(fact) = missing() {
        skipped(&fact);
        return None;
    }
    let files = tempfile::tempdir().unwrap();
    fill(&files.path().join("root"));
    std::fs::write(files.path().join("Dockerfile"), "FROM scratch\nCOPY root /\nENV PATH=/usr/bin:/bin\n")
        .unwrap();
    // Under a short name too, as the Dockerfile of an ordinary user has it.
    let build = engine.build(Context::directory(files.path())).tag(NAME.parse().unwrap());
    Some(build.tag("base".parse().unwrap()).run().await.unwrap().image)
}

fn fill(root: &Path) {
    for dir in ["bin", "etc", "tmp", "usr/bin", "root"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nwheel:x:10:app\napp:x:1001:\n").unwrap();
    std::fs::create_dir_all(root.join("usr/share/x")).unwrap();
    for name in ["one", "two"] {
        std::fs::write(root.join("usr/share/x").join(name), name).unwrap();
    }
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let Ok(real) = std::fs::canonicalize(program) else { continue };
        std::fs::copy(&real, root.join(program.trim_start_matches('/'))).unwrap();
        // For tests the loader's own list will do.
        let listed = Command::new("ldd").arg(&real).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        libraries.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    for library in libraries {
        let dest = root.join(library.strip_prefix("/").unwrap());
        std::fs::create_dir_all(dest.parent().unwrap()).unwrap();
        std::fs::copy(&library, dest).unwrap();
    }
}
