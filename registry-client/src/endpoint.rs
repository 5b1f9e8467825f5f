//! Endpoint: the server that stands behind the host part of a reference.

use std::collections::BTreeSet;
use std::net::IpAddr;

use url::Url;

use crate::error::{Error, Result};
use crate::origin::Origin;

/// Docker Hub's registry has another name than the one that people write.
const HUB_NAMES: [&str; 2] = ["docker.io", "index.docker.io"];
const HUB_SERVER: &str = "registry-1.docker.io";

/// A server to send requests to, on behalf of a registry name.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    name: String,
    base: Url,
    origin: Origin,
}

impl Endpoint {
    fn new(name: &str, base: Url) -> Result<Self> {
        let origin = Origin::of(&base)
            .ok_or_else(|| Error::Configuration { what: format!("{name} is not a host"), source: None })?;
        Ok(Self { name: name.to_owned(), base, origin })
    }

    /// What credentials are looked up by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// `/v2/` with `segments` behind it, each escaped.
    pub(crate) fn url<'s>(&self, segments: impl IntoIterator<Item = &'s str>) -> Url {
        let mut url = self.base.clone();
        // A URL with a host always has a path to push to.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v2").extend(segments);
        }
        url
    }

    /// The address of something in a repository: `/v2/NAME/KIND/…`.
    pub(crate) fn repository_url<'s>(&self, repository: &'s str, rest: &'s [&'s str]) -> Url {
        self.url(repository.split('/').chain(rest.iter().copied()))
    }

    /// `/v2/`, where a registry says whether it wants credentials.
    pub(crate) fn root_url(&self) -> Url {
        self.url([""])
    }
}

/// Which registries are spoken to without TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    pub(crate) plain_http: BTreeSet<String>,
    pub(crate) loopback_plain_http: bool,
}

impl Hosts {
    /// The endpoint for the host part of a reference.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Endpoint> {
        let hub = HUB_NAMES.contains(&name);
        let server = if hub { HUB_SERVER } else { name };
        let scheme = if self.is_plain(name) { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{server}/")).ok();
        // Whatever is more than a host and a port has changed its meaning on the way into a URL.
        let base = base.filter(|url| url.path() == "/" && url.username().is_empty() && url.query().is_none());
        let base = base.ok_or_else(|| Error::Configuration {
            what: format!("{name:?} cannot be the host of a registry"),
            source: None,
        })?;
        Endpoint::new(if hub { "docker.io" } else { name }, base)
    }

    fn is_plain(&self, name: &str) -> bool {
        if self.plain_http.contains(name) {
            return true;
        }
        let Ok(url) = Url::parse(&format!("http://{name}/")) else { return false };
        let loopback = match url.host() {
            Some(url::Host::Domain(domain)) => domain == "localhost",
            Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
            Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
            None => false,
        };
        loopback && self.loopback_plain_http
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts { plain_http: ["plain.example:5000".to_owned()].into(), loopback_plain_http: true }
    }

    #[test]
    fn hub_has_another_server_and_keeps_its_name() {
        let endpoint = hosts().endpoint("docker.io").unwrap();
        assert_eq!(
            endpoint.repository_url("library/busybox", &["manifests", "latest"]).as_str(),
            "https://registry-1.docker.io/v2/library/busybox/manifests/latest"
        );
        assert_eq!(endpoint.name(), "docker.io");
    }

    #[test]
    fn http_only_where_it_was_asked_for() {
        for (name, base) in [
            ("ghcr.io", "https://ghcr.io/v2/"),
            ("plain.example:5000", "http://plain.example:5000/v2/"),
            ("plain.example", "https://plain.example/v2/"),
            ("localhost:5000", "http://localhost:5000/v2/"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
            ("[::1]:5000", "http://[::1]:5000/v2/"),
            ("localhost.example", "https://localhost.example/v2/"),
        ] {
            assert_eq!(hosts().endpoint(name).unwrap().root_url().as_str(), base, "{name}");
        }
        assert_eq!(
            Hosts::default().endpoint("localhost:5000").unwrap().root_url().as_str(),
            "https://localhost:5000/v2/"
        );
    }

    #[test]
    fn names_that_are_more_than_a_host() {
        for name in ["a@b", "a/b", "a?b", "", "a b"] {
            assert!(hosts().endpoint(name).is_err(), "{name:?}");
        }
    }
}
