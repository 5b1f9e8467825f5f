//! Runs one process over a snapshot: what RUN steps and containers have in common.
//!
//! `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname` are mounted from files of our own. Their mount points, and
//! those of `/proc`, `/sys` and `/dev`, come from a *stub layer* below all others: nothing has to be made in the
//! snapshot, so nothing of it can end up in a layer.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layer_store::{Mount, Upper};
use runtime::{ContainerId, CreateOptions, Io, Network, Rootfs, SpecBuilder};
use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::event::Stream;
use crate::task::blocking;
use crate::user::User;

const CHUNK: usize = 32 << 10;
const STUBS: &str = "stubs";
const STUB_DIRECTORIES: [&str; 4] = ["proc", "sys", "dev", "etc"];
const STUB_FILES: [&str; 3] = ["etc/resolv.conf", "etc/hosts", "etc/hostname"];
/// Set for every process whose environment does not say otherwise.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much a process may use. What is not said is not limited. Making cgroups takes root, or delegation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Memory, in bytes; as much swap again.
    pub memory: Option<u64>,
    /// Processor time, in thousandths of one processor.
    pub cpu: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl Limits {
    fn apply(self, mut builder: SpecBuilder) -> SpecBuilder {
        if let Some(bytes) = self.memory {
            builder = builder.memory_limit(bytes);
        }
        if let Some(thousandths) = self.cpu {
            builder = builder.cpu_limit(thousandths);
        }
        match self.pids {
            Some(count) => builder.pids_limit(count),
            None => builder,
        }
    }
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: User,
    pub(crate) hostname: String,
    pub(crate) hosts: Vec<(String, std::net::IpAddr)>,
    pub(crate) network: Network,
    pub(crate) limits: Limits,
    pub(crate) places: Vec<Place>,
    /// Size of `/dev/shm` in bytes.
    pub(crate) shm_size: Option<u64>,
    /// Limits of the process: kind, soft, hard.
    pub(crate) rlimits: Vec<(runtime::oci_spec::runtime::PosixRlimitType, u64, u64)>,
    /// All capabilities that there are to give, no seccomp filter, nothing hidden.
    pub(crate) privileged: bool,
}

/// Something that is mounted below the root.
#[derive(Debug)]
pub(crate) struct Place {
    /// Absolute path in the container.
    pub(crate) target: String,
    pub(crate) show: Show,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum Show {
    /// Memory of at most this many bytes.
    Memory { size: Option<u64> },
    /// A file or socket of the host.
    File { path: PathBuf, read_only: bool },
    /// A directory of the host.
    Directory { directory: OwnedFd, read_only: bool },
    /// Directories over one another, topmost first, with one that takes writes and one to work in.
    Overlay { lower: Vec<OwnedFd>, upper: Option<(OwnedFd, OwnedFd)> },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Makes the stub layer and removes what processes that are gone have left.
pub(crate) fn prepare_stubs(state: &Path) -> Result<()> {
    let stubs = state.join(STUBS);
    for directory in STUB_DIRECTORIES {
        let path = stubs.join(directory);
        std::fs::create_dir_all(&path).map_err(io(&path))?;
    }
    for file in STUB_FILES {
        let path = stubs.join(file);
        if !path.exists() {
            std::fs::write(&path, b"").map_err(io(&path))?;
        }
    }
    // The same times everywhere: what a step copies up from here must not tell when the engine was set up.
    let times =
        std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH).set_accessed(std::time::UNIX_EPOCH);
    for path in ["etc/resolv.conf", "etc/hosts", "etc/hostname", "etc", "proc", "sys", "dev", ""] {
        let path = stubs.join(path);
        std::fs::File::open(&path).and_then(|file| file.set_times(times)).map_err(io(&path))?;
    }
    Ok(())
}

/// The files that are mounted into one process; removed when it is dropped.
struct Provided {
    directory: PathBuf,
}

impl Provided {
    fn make(state: &Path, id: &str, request: &Request) -> Result<Self> {
        let directory = state.join("process").join(id);
        std::fs::create_dir_all(&directory).map_err(io(&directory))?;
        let provided = Self { directory };
        // A host without the file has no name servers: the process gets an empty one.
        let resolv = std::fs::read("/etc/resolv.conf").unwrap_or_default();
        let name = &request.hostname;
        let mut hosts = format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        for (name, address) in &request.hosts {
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
        for (file, bytes) in [
            ("resolv.conf", resolv),
            ("hosts", hosts.into_bytes()),
            ("hostname", format!("{name}\n").into_bytes()),
        ] {
            let path = provided.directory.join(file);
            std::fs::write(&path, bytes).map_err(io(&path))?;
        }
        Ok(provided)
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::debug!(%error, "files of a process stay behind");
        }
    }
}

/// A pipe: our end to read without blocking, and the process's end.
fn pipe() -> Result<(Receiver, OwnedFd)> {
    let fail = |source: std::io::Error| Error::Io { path: "a pipe".into(), source };
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| fail(errno.into()))?;
    Ok((Receiver::from_owned_fd(read).map_err(fail)?, write))
}

async fn drain(mut from: Receiver, stream: Stream, sink: &(dyn Fn(Stream, &[u8]) + Sync)) {
    let mut buffer = vec![0; CHUNK];
    // A read error on a pipe of our own can only mean that the other side is gone.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        sink(stream, buffer.get(..count).unwrap_or_default());
    }
}

/// Runs `request` over `upper` and gives its exit code, or 128 plus the signal.
///
/// Dropping the future kills the process with everything in its namespace.
pub(crate) async fn run(
    engine: &Engine,
    id: &str,
    upper: &Upper,
    mut request: Request,
    stdin: bool,
    sink: &(dyn Fn(Stream, &[u8]) + Sync),
) -> Result<i32> {
    let provided = Provided::make(engine.state(), id, &request)?;
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let rootfs = rootfs(engine, upper, &request)?;
    let mut options = CreateOptions::default().kill_on_drop(true);
    let mut mounts = Vec::new();
    for place in std::mem::take(&mut request.places) {
        let target = place.target;
        match place.show {
            Show::Directory { directory, read_only } => {
                options = options.tree(target, Rootfs::Fd(directory), read_only);
            }
            Show::Overlay { lower, upper } => {
                let read_only = upper.is_none();
                let (upper, work) = upper.unzip();
                options = options.tree(target, Rootfs::Overlay { lower, upper, work }, read_only);
            }
            show => mounts.push((target, show)),
        }
    }
    let spec = spec(engine, &provided, request, mounts)?;
    let name: ContainerId = id.parse().map_err(Error::from)?;
    let runtime = engine.runtime().clone();
    let running = blocking(move || {
        let mut io = Io::null().stdout(stdout_end).stderr(stderr_end);
        if stdin {
            io = io.stdin(runtime::Stdio::Inherit);
        }
        let created = runtime.create_with(&name, &spec, rootfs, io, &options)?;
        Ok(created.start()?)
    })
    .await?;
    let (exit, (), ()) = tokio::join!(
        running.wait_async(),
        drain(stdout, Stream::Stdout, sink),
        drain(stderr, Stream::Stderr, sink)
    );
    let code = exit?.code();
    blocking(move || Ok(running.delete()?)).await?;
    drop(provided);
    Ok(code)
}

fn rootfs(engine: &Engine, upper: &Upper, request: &Request) -> Result<Rootfs> {
    match upper.mount()? {
        Mount::Overlay { mut lower, upper } => {
            let stubs = engine.state().join(STUBS);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let stub =
                rustix::fs::open(&stubs, flags, Mode::empty()).map_err(|errno| io(&stubs)(errno.into()))?;
            lower.push(stub);
            let (upper, work) = upper.unzip();
            Ok(Rootfs::Overlay { lower, upper, work })
        }
        Mount::Bind { directory, read_only: false } => {
            let own = STUB_DIRECTORIES.map(|path| (path.as_bytes().to_vec(), true)).into_iter();
            let files = STUB_FILES.map(|path| (path.as_bytes().to_vec(), false));
            let asked = request.places.iter().map(|place| {
                let target = place.target.trim_start_matches('/').trim_end_matches('/');
                (target.as_bytes().to_vec(), !matches!(place.show, Show::File { .. }))
            });
            upper.mount_points(&own.chain(files).chain(asked).collect::<Vec<_>>())?;
            Ok(Rootfs::Fd(directory))
        }
        _ => Err(Error::unsupported("this kind of snapshot")),
    }
}

fn spec(
    engine: &Engine,
    provided: &Provided,
    request: Request,
    mounts: Vec<(String, Show)>,
) -> Result<runtime::oci_spec::runtime::Spec> {
    let mut env = request.env;
    let has = |env: &[String], name: &str| env.iter().any(|entry| entry.split('=').next() == Some(name));
    if !has(&env, "PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    if !has(&env, "HOME") {
        let home = request
            .user
            .home
            .clone()
            .unwrap_or_else(|| if request.user.uid == 0 { "/root".to_owned() } else { "/".to_owned() });
        env.push(format!("HOME={home}"));
    }
    let mut builder = SpecBuilder::new()
        .args(request.argv)
        .env(env)
        .cwd(if request.cwd.is_empty() { "/".to_owned() } else { request.cwd })
        .user(request.user.uid, request.user.gid, &request.user.groups)
        .hostname(request.hostname)
        .privileged(request.privileged)
        .network(request.network);
    builder = request.limits.apply(builder);
    for file in ["resolv.conf", "hosts", "hostname"] {
        builder = builder.mount_bind(provided.directory.join(file), Path::new("/etc").join(file), false);
    }
    if let Some(size) = request.shm_size {
        builder = builder
            .mount_tmpfs("/dev/shm", ["noexec".to_owned(), "mode=1777".to_owned(), format!("size={size}")]);
    }
    for (kind, soft, hard) in request.rlimits {
        builder = builder.rlimit(kind, soft, hard);
    }
    for (target, show) in mounts {
        builder = match show {
            Show::Memory { size } => {
                let size = size.map(|size| format!("size={size}"));
                builder.mount_tmpfs(target, ["mode=1777".to_owned()].into_iter().chain(size))
            }
            Show::File { path, read_only } => builder.mount_bind(path, target, read_only),
            // Those became trees.
            Show::Directory { .. } | Show::Overlay { .. } => builder,
        };
    }
    if let Some(mapping) = engine.mapping() {
        builder = builder.user_mapping(mapping.clone());
    }
    Ok(builder.build()?)
}

/// An id for a process that nobody names.
pub(crate) fn fresh_id(prefix: &str, upper: &Upper) -> String {
    // The inode of the snapshot's directory is unique while it is there, and so is this process.
    let inode = rustix::fs::fstat(upper.as_fd()).map_or(0, |stat| stat.st_ino);
    format!("{prefix}-{}-{inode}", std::process::id())
}
