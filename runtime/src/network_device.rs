//! Network devices of the host that a container gets (runtime-spec `config-linux.md`, "Network Devices").
//!
//! A device is moved while the container is made, through two sockets of this process: one in the host's network
//! namespace, one in the container's. As long as the second is open that namespace exists, so when something fails
//! later the device comes back, instead of ending with the namespace as the kernel has it for most kinds.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::netlink::{self, Socket, attribute, attributes, word};
use crate::plan::Privilege;
use crate::{Errno, Error, Hint, Phase};

const FIELD: &str = "linux.netDevices";
/// Attributes of a device.
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NEW_IFINDEX: u16 = 49;
/// Attributes of an address.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
/// It has no end; and those flags that an address can be given: no detection of duplicates, home address, temporary ones
/// are made from it, no route for its prefix, joins multicast groups.
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_GIVEN: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
const SCOPE_UNIVERSE: u8 = 0;
/// Lengths of `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
/// `IFNAMSIZ`, with the zero byte.
const NAME_MAX: usize = 16;
/// How often another index is tried when the one that was free is not any more.
const TRIES: u32 = 16;
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The devices that a Spec moves, with the names that they get.
pub(crate) fn of(spec: &Spec) -> BTreeMap<String, String> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let name = |(host, device): (&String, &oci_spec::runtime::LinuxNetDevice)| {
        let inside = device.name().clone().filter(|name| !name.is_empty());
        (host.clone(), inside.unwrap_or_else(|| host.clone()))
    };
    devices.into_iter().flatten().map(name).collect()
}

/// Whether the kernel is to choose a number that makes the name unique.
fn is_template(name: &str) -> bool {
    name.contains("%d")
}

/// Refuses what can be seen to be wrong before anything is made.
pub(crate) fn check(spec: &Spec, privilege: &Privilege) -> Result<(), Error> {
    let devices = of(spec);
    if devices.is_empty() {
        return Ok(());
    }
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces.into_iter().flatten().find(|one| one.typ() == LinuxNamespaceType::Network);
    let Some(network) = network else {
        return Err(Error::spec(FIELD, "given without a network namespace of the container's own"));
    };
    if let Some(path) = network.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
        let same = |one: &std::path::Path| rustix::fs::stat(one).map(|stat| (stat.st_dev, stat.st_ino));
        if same(path).is_ok_and(|joined| same(std::path::Path::new(OWN_NAMESPACE)) == Ok(joined)) {
            return Err(Error::spec(FIELD, "given with the host's own network namespace"));
        }
    }
    let mut inside = std::collections::BTreeSet::new();
    for (host, name) in &devices {
        for name in [host, name] {
            let odd = |c: char| c.is_ascii_whitespace() || c == '/' || c == ':' || c == '\0';
            if name.is_empty()
                || name.len() >= NAME_MAX
                || matches!(&**name, "." | "..")
                || name.contains(odd)
            {
                return Err(Error::spec(FIELD, format!("{name:?} is no name of a network device")));
            }
        }
        let unknown = name.replacen("%d", "", 1).contains('%');
        if host.contains('%') || unknown {
            return Err(Error::spec(
                FIELD,
                format!("{name:?}: a name has `%d` once, to be numbered, or no `%`"),
            ));
        }
        if !is_template(name) && !inside.insert(name) {
            return Err(Error::spec(FIELD, format!("two devices are to be {name:?} in the container")));
        }
    }
    if privilege.may_administer_network() {
        return Ok(());
    }
    Err(Error::Host {
        what: format!("the privilege to move network devices ({FIELD})"),
        hint: Hint::new(
            "this process does not have CAP_NET_ADMIN and CAP_SYS_ADMIN over the host's network",
            "run as root, or leave the devices where they are",
        ),
    })
}

fn failed(call: &'static str, target: impl Into<String>, errno: impl Into<Errno>) -> Error {
    Error::host_call(Phase::Settings, call, target, errno)
}

/// A device as it was.
#[derive(Debug)]
struct Device {
    index: u32,
    up: bool,
    /// Bodies of the messages that give it its addresses, without the index; and whether they go with it.
    addresses: Vec<(Vec<u8>, bool)>,
}

/// A device that is in the container, and where it came from.
#[derive(Debug)]
struct Moved {
    name: String,
    before: Device,
    /// Its index in the container.
    index: u32,
}

/// The devices that were moved. They come back when this is dropped, unless they are [left](Self::leave) there.
#[derive(Debug)]
pub(crate) struct Move {
    host: Socket,
    host_namespace: File,
    container: Socket,
    container_namespace: File,
    moved: Vec<Moved>,
}

impl Move {
    /// Moves all of them from the network namespace of this thread to another.
    pub(crate) fn all(devices: &BTreeMap<String, String>, namespace: File) -> Result<Self, Error> {
        let open =
            |error: std::io::Error| failed("socket", "the container's network namespace", Errno::of(&error));
        let host_namespace =
            File::open(OWN_NAMESPACE).map_err(|error| failed("open", OWN_NAMESPACE, Errno::of(&error)))?;
        let host = Socket::open().map_err(|errno| failed("socket", "the host's network namespace", errno))?;
        let container = Socket::open_in(namespace.as_fd()).map_err(open)?;
        let mut all =
            Self { host, host_namespace, container, container_namespace: namespace, moved: Vec::new() };
        // All is looked at before the first one goes.
        let mut found = Vec::new();
        for (host, inside) in devices {
            found.push((host, inside, all.look(host)?));
            if !is_template(inside) && find(&all.container, inside).is_ok() {
                return Err(taken(host, inside));
            }
        }
        for (host, inside, device) in found {
            all.one(host, inside, device)?;
        }
        Ok(all)
    }

    /// Leaves them there: from now on they are the container's.
    pub(crate) fn leave(mut self) {
        self.moved.clear();
    }

    /// Looks at a device of the host.
    fn look(&self, name: &str) -> Result<Device, Error> {
        let what = || format!("network device {name} of the host");
        let (index, up) = find(&self.host, name).map_err(|errno| failed("RTM_GETLINK", what(), errno))?;
        let mut body = vec![0; ADDRESS];
        body.splice(4..8, index.to_ne_bytes());
        let all = self.host.ask(netlink::RTM_GETADDR, netlink::DUMP, &body);
        let all = all.map_err(|errno| failed("RTM_GETADDR", what(), errno))?;
        let addresses =
            all.iter().filter(|body| word(body, 4) == Some(index)).filter_map(|body| address(body));
        Ok(Device { index, up, addresses: addresses.collect() })
    }

    fn one(&mut self, host: &str, inside: &str, device: Device) -> Result<(), Error> {
        let what = format!("network device {host} to the container, as {inside}");
        let index = self.send(host, inside, device, &what)?;
        let Some(Moved { before, .. }) = self.moved.last() else { return Ok(()) };
        for (address, _) in before.addresses.iter().filter(|(_, goes)| *goes) {
            add(&self.container, index, address)
                .map_err(|errno| failed("RTM_NEWADDR", format!("an address of {inside}"), errno))?;
        }
        set_up(&self.container, index).map_err(|errno| failed("RTM_NEWLINK", format!("{inside}, up"), errno))
    }

    /// Moves a device; returns its index there, which is chosen here so that it is known when its name is not.
    fn send(&mut self, host: &str, inside: &str, device: Device, what: &str) -> Result<u32, Error> {
        let from = device.index;
        let mut index = from;
        let mut tries = 0;
        let refused = loop {
            let sent = shift(&self.host, from, inside, &self.container_namespace, index);
            match sent {
                Ok(()) => break None,
                Err(rustix::io::Errno::BUSY) if tries < TRIES => {
                    tries += 1;
                    index = unused(&self.container).map_err(|errno| failed("RTM_GETLINK", what, errno))?;
                }
                Err(errno) => break Some(errno),
            }
        };
        // The kernel renames after it has moved: what it refuses then is there already.
        if refused.is_none() || get(&self.host, from, None).is_err() {
            self.moved.push(Moved { name: host.to_owned(), before: device, index });
        }
        match refused {
            None => Ok(index),
            Some(rustix::io::Errno::EXIST) => Err(taken(host, inside)),
            Some(errno) => Err(failed("RTM_NEWLINK", what, errno).with_hint(Hint::new(
                "a device that belongs to its namespace, as lo does, cannot be moved; nor can any into a namespace \
                 that another user namespace owns, without rights over both",
                "leave the device where it is, or let this runtime make the network namespace",
            ))),
        }
    }

    /// Brings a device back as it was. What was said about it elsewhere, such as routes, is gone.
    fn bring_back(&self, moved: &Moved) -> rustix::io::Result<()> {
        let mut index = moved.before.index;
        if get(&self.host, index, None).is_ok() {
            index = unused(&self.host)?;
        }
        shift(&self.container, moved.index, &moved.name, &self.host_namespace, index)?;
        for (address, _) in &moved.before.addresses {
            match add(&self.host, index, address) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        if moved.before.up { set_up(&self.host, index) } else { Ok(()) }
    }
}

impl Drop for Move {
    fn drop(&mut self) {
        for moved in self.moved.iter().rev() {
            if let Err(errno) = self.bring_back(moved) {
                tracing::warn!(device = %moved.name, error = %errno, "a network device did not come back");
            }
        }
    }
}

fn taken(host: &str, inside: &str) -> Error {
    let what = format!("network device {host} to the container, as {inside}");
    failed("RTM_NEWLINK", what, rustix::io::Errno::EXIST).with_hint(Hint::new(
        "the container's network namespace has a device of this name",
        "give the device another name there, or one that ends in %d, which the kernel numbers",
    ))
}

fn text(name: &str) -> Vec<u8> {
    CString::new(name).unwrap_or_default().into_bytes_with_nul()
}

/// Asks for a device by its index, or by its name.
fn get(socket: &Socket, index: u32, name: Option<&str>) -> rustix::io::Result<(u32, bool)> {
    let mut body = link(index, 0);
    if let Some(name) = name {
        attribute(&mut body, IFLA_IFNAME, &text(name));
    }
    let answer = socket.ask(netlink::RTM_GETLINK, 0, &body)?;
    let found = answer.first().and_then(|body| Some((word(body, 4)?, word(body, 8)? & IFF_UP != 0)));
    found.ok_or(rustix::io::Errno::NODEV)
}

fn find(socket: &Socket, name: &str) -> rustix::io::Result<(u32, bool)> {
    get(socket, 0, Some(name))
}

/// An index that no device has now.
fn unused(socket: &Socket) -> rustix::io::Result<u32> {
    let all = socket.ask(netlink::RTM_GETLINK, netlink::DUMP, &link(0, 0))?;
    Ok(all.iter().filter_map(|body| word(body, 4)).max().unwrap_or(0).saturating_add(1))
}

const IFF_UP: u32 = 1;

/// `struct ifinfomsg`, with flags to set.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; LINK];
    body.splice(4..8, index.to_ne_bytes());
    body.splice(8..12, flags.to_ne_bytes());
    body.splice(12..16, flags.to_ne_bytes());
    body
}

/// Moves and renames at once.
fn shift(from: &Socket, index: u32, name: &str, to: &File, new_index: u32) -> rustix::io::Result<()> {
    let mut body = link(index, 0);
    attribute(&mut body, IFLA_IFNAME, &text(name));
    attribute(&mut body, IFLA_NET_NS_FD, &to.as_raw_fd().to_ne_bytes());
    attribute(&mut body, IFLA_NEW_IFINDEX, &new_index.to_ne_bytes());
    from.ask(netlink::RTM_NEWLINK, 0, &body).map(drop)
}

fn set_up(socket: &Socket, index: u32) -> rustix::io::Result<()> {
    socket.ask(netlink::RTM_NEWLINK, 0, &link(index, IFF_UP)).map(drop)
}

/// What gives a device the address of this answer, unless it has an end; and whether it goes with the device: those of
/// global scope do.
fn address(body: &[u8]) -> Option<(Vec<u8>, bool)> {
    let head = body.get(..ADDRESS)?;
    let found = attributes(body, ADDRESS);
    let flags = found.iter().find(|(kind, _)| *kind == IFA_FLAGS).and_then(|(_, value)| word(value, 0));
    let flags = flags.unwrap_or_else(|| head.get(2).copied().map_or(0, u32::from));
    if flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let mut new = head.to_vec();
    new.splice(2..3, [0]);
    for (kind, value) in found {
        if matches!(kind, IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST | IFA_RT_PRIORITY) {
            attribute(&mut new, kind, value);
        }
    }
    attribute(&mut new, IFA_FLAGS, &(flags & IFA_F_GIVEN).to_ne_bytes());
    Some((new, head.get(3) == Some(&SCOPE_UNIVERSE)))
}

fn add(socket: &Socket, index: u32, address: &[u8]) -> rustix::io::Result<()> {
    let mut body = address.to_vec();
    if let Some(place) = body.get_mut(4..8) {
        place.copy_from_slice(&index.to_ne_bytes());
    }
    socket.ask(netlink::RTM_NEWADDR, netlink::CREATE | netlink::EXCLUSIVE, &body).map(drop)
}
