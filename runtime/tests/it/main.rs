//! Real containers, as root and as an ordinary user.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that meets the unexpected should stop, and says what it skips"
)]

mod agent;
mod basic;
mod capability;
mod cgroup;
mod exec;
mod failure;
mod hostile;
mod linux;
mod mount;
mod network_device;
mod overlay;
mod provoked;
mod recover;
mod seccomp;
mod support;
mod swap;
mod threads;
mod user_namespace;
