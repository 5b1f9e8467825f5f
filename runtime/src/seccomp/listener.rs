//! Handing a seccomp listener to the agent that the Spec names.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use oci_spec::runtime::{LinuxSeccomp, State};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Serialize;

use crate::{Errno, Error, Phase};

/// `ContainerProcessState` of runtime-spec's `config-linux.md`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a State,
}

/// Connects to the agent's socket and sends the state with the listener. `pid` is the process that has the filter.
pub(crate) fn hand_over(
    profile: Option<&LinuxSeccomp>,
    state: &State,
    pid: i32,
    listener: &OwnedFd,
) -> Result<(), Error> {
    let Some(path) = profile.and_then(|profile| profile.listener_path().as_ref()) else {
        return Err(Error::Protocol { what: "a listener that nobody asked for".to_owned() });
    };
    let failed = |syscall, error: std::io::Error| {
        Error::host_call(Phase::Seccomp, syscall, path.display().to_string(), Errno::of(&error))
    };
    let message = ContainerProcessState {
        oci_version: state.version(),
        fds: ["seccompFd"],
        pid,
        metadata: profile.and_then(|profile| profile.listener_metadata().as_deref()),
        state,
    };
    let text = serde_json::to_vec(&message).map_err(|error| failed("serialize", error.into()))?;
    let socket = UnixStream::connect(path).map_err(|error| failed("connect", error))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [listener.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(failed("sendmsg", std::io::Error::from_raw_os_error(libc::E2BIG)));
    }
    let sent = rustix::net::sendmsg(&socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)
        .map_err(|errno| failed("sendmsg", errno.into()))?;
    // A stream may take less at once; the descriptor has gone with the first byte.
    std::io::Write::write_all(&mut &socket, text.get(sent..).unwrap_or_default())
        .map_err(|error| failed("write", error))
}
