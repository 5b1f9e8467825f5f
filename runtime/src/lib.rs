//! An OCI runtime as a library, safe to embed in threaded programs.
//!
//! It runs a process in namespaces over a root filesystem, as the [OCI runtime specification] describes it. It is
//! not a daemon, knows nothing of images, and never forks the program that links it.
//!
//! ```text
//!   your program (threads, tokio, any amount of memory)
//!   ┌────────────────────────────────────────────────┐
//!   │ Spec + Rootfs + Io ──compile──▶ Plan           │   checked here; `Plan::explain` prints it
//!   └──────────────┬───────────────────────▲─────────┘
//!     posix_spawn, plan and descriptors    │ pidfd, or {phase, step, system call, target, errno}
//!   ┌──────────────▼───────────────────────┴─────────┐
//!   │ helper: one thread, no libc, a sealed memfd    │   executes the plan, step by step
//!   └──────────────┬─────────────────────────────────┘
//!                  │ clone3 with new namespaces; a child of your program, so it can be waited for
//!   ┌──────────────▼─────────────────────────────────┐
//!   │ the container's first process                  │   mounts, pivots, drops, waits for `start`, executes
//!   └────────────────────────────────────────────────┘
//! ```
//!
//! Nothing of the host process changes: not its directory, umask, limits, signal mask, threads or descriptors. All
//! mounts are made in the container's own mount namespace, so none can be left on the host.
//!
//! ```no_run
//! use runtime::{Io, Network, Rootfs, Runtime, SpecBuilder};
//!
//! let runtime = Runtime::builder().state_dir("/run/example").build()?;
//! let spec = SpecBuilder::new().args(["/bin/sh", "-c", "echo hello"]).network(Network::None).build()?;
//! let created = runtime.create(&"hello".parse()?, &spec, Rootfs::Path("/srv/root".into()), Io::inherit())?;
//! let running = created.start()?;
//! let exit = running.wait()?;
//! running.delete()?;
//! assert!(exit.success());
//! # Ok::<(), runtime::Error>(())
//! ```
//!
//! # As an ordinary user
//!
//! With [`SpecBuilder::user_mapping`] everything runs in a user namespace. One id (the caller's) needs no
//! preparation at all; ranges of ids need `newuidmap` and `/etc/subuid`. [`Host::probe`] says what a host allows.
//! Files that belong to such ids are made, read and removed by [`UserNamespace`].
//!
//! # What is not there
//!
//! Asking for one of these is an error that names it, before anything is made: Intel RDT, systemd as the manager of
//! cgroups, a root filesystem without a path in the host's mount namespace; and AppArmor or SELinux labels on a host without. Without a cgroup of its own, a container without a pid namespace of its own can leave processes
//! behind that `delete` does not find.
//!
//! # Features
//!
//! - `tokio`: `Container::wait_async`, which waits without a thread, and the trait `Executor` with a fake for tests.
//! - `testing`: failure injection, for tests.
//!
//! [OCI runtime specification]: https://github.com/opencontainers/runtime-spec
#![cfg(target_os = "linux")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cgroup;
mod child;
mod container;
mod error;
mod exec;
#[cfg(feature = "tokio")]
mod executor;
mod exit;
mod features;
mod handle;
mod hint;
mod hook;
mod host;
mod id;
mod idmap;
mod io;
mod launch;
mod netlink;
mod network_device;
mod orphan;
mod plan;
mod rootfs;
mod runtime;
pub mod seccomp;
mod signal;
mod spec;
mod state;
mod status;
mod sys;
mod user_namespace;
mod userns;
mod warning;

pub use cgroup::{BlockIoStats, CpuStats, HugetlbStats, MemoryStats, PidsStats, Stats};
pub use container::Container;
pub use error::{Errno, Error, Hint, Phase};
pub use exec::{Exec, ExecOptions};
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use executor::{Executor, FakeExecutor};
pub use exit::{Exit, ExitStatus, Usage};
pub use features::{OCI_VERSIONS, features};
pub use handle::{Created, Running};
pub use host::{CgroupSetup, Host};
pub use id::ContainerId;
pub use io::{Io, Stdio};
pub use oci_spec;
pub use plan::Plan;
pub use rootfs::Rootfs;
pub use runtime::{CreateOptions, Runtime, RuntimeBuilder};
pub use signal::Signal;
pub use spec::{IdRange, Network, SpecBuilder, UserMapping};
pub use status::Status;
pub use user_namespace::{CallId, DirectoryEntry, FileBatch, FileStat, Outcome, Slot, UserNamespace};
pub use warning::Warning;
