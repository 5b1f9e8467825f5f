//! Which addresses a server may send a client to.
//!
//! A host that the user wrote down is reached wherever it is. A host that a *server* wrote down (redirect, realm,
//! `Location`, `Link`) could be the metadata service of a cloud or something on the user's own machine, so the
//! address it resolves to is checked where the connection is made, after name resolution.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Reachable from everywhere.
    Public,
    /// RFC 1918, RFC 4193, RFC 6598.
    Private,
    /// This machine.
    Loopback,
    /// Link-local, metadata services, unspecified, multicast, broadcast: nobody serves images there.
    Special,
}

/// The set of addresses that a connection may be made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// No rule: the user named the host.
    Anywhere,
    /// Public addresses.
    Public,
    /// Public and private addresses: the registry itself is in a private network.
    Private,
    /// Those and loopback: the registry itself is on this machine.
    Loopback,
}

impl Reach {
    /// What a server at `address` may name.
    pub(crate) fn derived_from(address: IpAddr) -> Self {
        match Class::of(address) {
            Class::Public => Self::Public,
            Class::Private | Class::Special => Self::Private,
            Class::Loopback => Self::Loopback,
        }
    }

    /// The rule that refuses `address`, if one does.
    pub(crate) fn refuses(self, address: IpAddr) -> Option<&'static str> {
        if self == Self::Anywhere {
            return None;
        }
        match Class::of(address) {
            Class::Special => {
                Some("link-local, metadata, unspecified and multicast addresses serve no images")
            }
            Class::Loopback if self != Self::Loopback => {
                Some("loopback, and the registry is not on this machine")
            }
            Class::Private if self == Self::Public => {
                Some("private network, and the registry is a public one")
            }
            _ => None,
        }
    }
}

impl Class {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        match (a, b, c, d) {
            // Alibaba's metadata service sits in the shared range, Oracle's and others' in 192.0.0.0/24.
            (100, 100, 100, 200) | (192, 0, 0, _) => Self::Special,
            (0, ..) | (169, 254, ..) | (224..=255, ..) => Self::Special,
            (127, ..) => Self::Loopback,
            (10, ..) | (172, 16..=31, ..) | (192, 168, ..) | (100, 64..=127, ..) => Self::Private,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let segments = address.segments();
        if address == Ipv6Addr::LOCALHOST {
            return Self::Loopback;
        }
        if let Some(inner) = embedded_v4(segments) {
            return Self::of_v4(inner);
        }
        match segments[0] {
            0 => Self::Special,
            // The IPv6 address of the EC2 metadata service is in the unique-local range.
            0xfd00 if segments[1] == 0x0ec2 => Self::Special,
            0xfc00..=0xfdff => Self::Private,
            0xfe80..=0xfebf | 0xff00..=0xffff => Self::Special,
            0xfec0..=0xfeff => Self::Private,
            _ => Self::Public,
        }
    }
}

/// IPv4 addresses in IPv6 clothes: mapped, compatible, NAT64 and 6to4.
fn embedded_v4(s: [u16; 8]) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// The address that a URL spells out, if its host is an address.
pub(crate) fn literal(url: &Url) -> Option<SocketAddr> {
    let port = url.port_or_known_default().unwrap_or_default();
    match url.host()? {
        url::Host::Ipv4(address) => Some(SocketAddr::from((address, port))),
        url::Host::Ipv6(address) => Some(SocketAddr::from((address, port))),
        url::Host::Domain(_) => None,
    }
}

/// Name resolution that hides the addresses out of reach from the connector.
#[derive(Debug)]
pub(crate) struct Resolver {
    pub(crate) reach: Reach,
    pub(crate) fixed: std::sync::Arc<std::collections::BTreeMap<String, Vec<IpAddr>>>,
}

/// The name has addresses, but none within reach.
#[derive(Debug, thiserror::Error)]
#[error("address {address} refused: {reason}")]
pub(crate) struct OutOfReach {
    pub(crate) address: SocketAddr,
    pub(crate) reason: &'static str,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        let fixed = self.fixed.get(&name.as_str().to_ascii_lowercase()).cloned();
        Box::pin(async move {
            let found: Vec<SocketAddr> = match fixed {
                Some(addresses) => addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect(),
                None => tokio::net::lookup_host((name.as_str(), 0)).await?.collect(),
            };
            let mut refused = None;
            let mut within = Vec::with_capacity(found.len());
            for address in found {
                match reach.refuses(address.ip()) {
                    Some(reason) => refused = Some(OutOfReach { address, reason }),
                    None => within.push(address),
                }
            }
            match refused {
                Some(refused) if within.is_empty() => Err(refused.into()),
                _ => Ok(Box::new(within.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> Class {
        Class::of(text.parse().unwrap())
    }

    #[test]
    fn classes() {
        for (text, expected) in [
            ("8.8.8.8", Class::Public),
            ("2606:4700::1", Class::Public),
            ("10.1.2.3", Class::Private),
            ("172.31.0.1", Class::Private),
            ("172.32.0.1", Class::Public),
            ("192.168.1.1", Class::Private),
            ("100.64.0.1", Class::Private),
            ("fd12::1", Class::Private),
            ("127.0.0.1", Class::Loopback),
            ("127.9.9.9", Class::Loopback),
            ("::1", Class::Loopback),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::ffff:169.254.169.254", Class::Special),
            ("64:ff9b::a9fe:a9fe", Class::Special),
            ("2002:7f00:1::", Class::Loopback),
            ("169.254.169.254", Class::Special),
            ("fd00:ec2::254", Class::Special),
            ("fe80::1", Class::Special),
            ("0.0.0.0", Class::Special),
            ("::", Class::Special),
            ("224.0.0.1", Class::Special),
            ("255.255.255.255", Class::Special),
            ("ff02::1", Class::Special),
            ("100.100.100.200", Class::Special),
        ] {
            assert_eq!(class(text), expected, "{text}");
        }
    }

    #[test]
    fn a_public_registry_may_not_name_local_addresses() {
        let reach = Reach::derived_from("8.8.8.8".parse().unwrap());
        for local in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "0.0.0.0"] {
            assert!(reach.refuses(local.parse().unwrap()).is_some(), "{local}");
        }
        assert!(reach.refuses("1.1.1.1".parse().unwrap()).is_none());
    }

    #[test]
    fn a_loopback_registry_may_name_loopback_but_not_metadata() {
        let reach = Reach::derived_from("127.0.0.1".parse().unwrap());
        assert!(reach.refuses("127.0.0.1".parse().unwrap()).is_none());
        assert!(reach.refuses("169.254.169.254".parse().unwrap()).is_some());
    }
}
