//! The host's side of the kernel where no safe wrapper exists: the only unsafe code that runs in this process.

mod bpf;
mod mount;
mod process;
mod spawn;
#[cfg(feature = "tokio")]
mod watch;

pub(crate) use bpf::attach_device_program;
pub(crate) use mount::map_ids;
pub(crate) use process::{Reaped, exit_info, reap, send_signal};
pub(crate) use spawn::spawn;
#[cfg(feature = "tokio")]
pub(crate) use watch::watch;
