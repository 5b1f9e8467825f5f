//! A root filesystem from what the host has, and a spec that fits who runs the tests.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use runtime::oci_spec::runtime::Mount;
use runtime::{
    ContainerId, CreateOptions, Error, Exit, Io, Network, Rootfs, Runtime, SpecBuilder, UserMapping,
};
use tempfile::TempDir;

/// A directory with a runtime's state and one or more root filesystems.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) runtime: Runtime,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// An id nobody has used.
pub(crate) fn fresh_id() -> ContainerId {
    format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why the test cannot run here; with COOPERAGE_REQUIRE_PEERS=1 that is a failure.
pub(crate) fn skipped(fact: &str) {
    println!("skipped: {fact}");
    assert!(std::env::var_os("COOPERAGE_REQUIRE_PEERS").is_none(), "required: {fact}");
}

/// A bench, or none with the reason printed when this user can run no containers.
pub(crate) fn bench() -> Option<Bench> {
    if let (false, Err(hint)) = (is_root(), &runtime::Host::probe().user_namespaces) {
        skipped(&hint.to_string());
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::builder().state_dir(dir.path().join("state")).build().unwrap();
    fill(&dir.path().join("root"));
    Some(Bench { dir, runtime })
}

/// A spec that this user can run.
pub(crate) fn spec(args: &[&str]) -> SpecBuilder {
    let builder = SpecBuilder::new()
        .args(args.iter().copied())
        .env(["PATH=/usr/local/bin:/usr/bin:/bin"])
        .network(Network::None);
    if is_root() {
        return builder;
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    builder.user_mapping(UserMapping::single(uid, gid))
}

/// A shell command's spec.
pub(crate) fn shell(script: &str) -> SpecBuilder {
    spec(&["/bin/sh", "-c", script])
}

impl Bench {
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn rootfs(&self) -> Rootfs {
        Rootfs::Path(self.root())
    }

    /// Runs a spec to its end; returns how it ended and what it wrote.
    pub(crate) fn run(&self, spec: SpecBuilder) -> Result<(Exit, String), Error> {
        self.run_in(spec, self.rootfs())
    }

    pub(crate) fn run_in(&self, spec: SpecBuilder, rootfs: Rootfs) -> Result<(Exit, String), Error> {
        self.run_with(spec, rootfs, &CreateOptions::default())
    }

    pub(crate) fn run_with(
        &self,
        spec: SpecBuilder,
        rootfs: Rootfs,
        options: &CreateOptions,
    ) -> Result<(Exit, String), Error> {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let io = Io::null().stdout(writer.try_clone().unwrap()).stderr(writer);
        let running = self.runtime.create_with(&fresh_id(), &spec.build()?, rootfs, io, options)?.start()?;
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        let exit = running.wait()?;
        running.delete()?;
        Ok((exit, output))
    }
}

/// Opens a directory as a layer.
pub(crate) fn directory(path: &Path) -> OwnedFd {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Programs the tests use inside.
const PROGRAMS: [&str; 19] = [
    "/bin/sh",
    "/bin/cat",
    "/bin/ls",
    "/bin/sleep",
    "/bin/readlink",
    "/bin/mount",
    "/bin/touch",
    "/bin/mkdir",
    "/bin/rm",
    "/usr/bin/id",
    "/usr/bin/stat",
    "/bin/mknod",
    "/bin/chown",
    "/bin/hostname",
    "/usr/bin/unshare",
    "/bin/stty",
    "/usr/bin/tty",
    "/bin/uname",
    "/usr/bin/true",
];

/// The programs as pairs of a file of the host and its place inside, and the libraries that their loader names.
fn files() -> &'static [(PathBuf, PathBuf)] {
    static FILES: OnceLock<Vec<(PathBuf, PathBuf)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let inside = |path: &Path| path.strip_prefix("/").unwrap().to_path_buf();
        let mut files = Vec::new();
        let mut libraries = BTreeSet::new();
        for program in PROGRAMS {
            let Ok(real) = fs::canonicalize(program) else { continue };
            // For tests the loader's own list will do. It is asked once: that is slower than all the copying.
            let listed = Command::new("ldd").arg(&real).output().unwrap();
            for word in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
                if word.starts_with('/') {
                    libraries.insert(PathBuf::from(word));
                }
            }
            files.push((real, inside(Path::new(program))));
        }
        files.extend(libraries.into_iter().map(|library| (library.clone(), inside(&library))));
        files
    })
}

/// Makes a root filesystem of the host's shell and some tools. All are copies, so a test may write into them.
pub(crate) fn fill(root: &Path) {
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev", "usr/bin"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for (file, inside) in files() {
        let dest = root.join(inside);
        fs::create_dir_all(dest.parent().unwrap()).unwrap();
        fs::copy(file, dest).unwrap();
    }
}

/// A mount of a Spec.
pub(crate) fn mount(dest: &str, typ: &str, source: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(dest.into())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.to_path_buf()))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}
