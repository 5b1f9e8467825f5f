//! Endpoint: the server that stands behind the host part of a reference.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use image_core::Reference;
use url::Url;

use crate::error::{Error, Result};
use crate::hosts::{Asked, HostRule, HostRules, Mirror, Scheme};
use crate::origin::Origin;
use crate::transport::Home;

/// Docker Hub's registry has another name than the one that people write.
const HUB_NAMES: [&str; 2] = ["docker.io", "index.docker.io"];
const HUB_SERVER: &str = "registry-1.docker.io";

/// A server to send requests to, on behalf of a registry name.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    name: String,
    base: Url,
    /// Whether `/v2` stands before everything.
    versioned: bool,
    home: Arc<Home>,
    /// The registry that is meant, for a server that stands in for several.
    namespace: Option<String>,
    /// Whether http will do where nobody speaks https.
    insecure: bool,
}

/// One of the servers that a pull may ask.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) endpoint: Endpoint,
    /// The repository's name there.
    pub(crate) repository: String,
    /// Nobody else is left to ask.
    pub(crate) last: bool,
}

/// A repository at a server.
pub(crate) type Place = (Origin, String);

impl Source {
    /// Which repository of which server it is.
    pub(crate) fn place(&self) -> Place {
        (self.endpoint.origin().clone(), self.repository.clone())
    }

    /// The address of something in the repository.
    pub(crate) fn url(&self, rest: &[&str]) -> Url {
        let mut url = self.endpoint.repository_url(&self.repository, rest);
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }
}

impl Endpoint {
    fn new(name: &str, base: Url) -> Result<Self> {
        let origin = Origin::of(&base)
            .ok_or_else(|| Error::Configuration { what: format!("{name} is not a host"), source: None })?;
        let home = Arc::new(Home { origin, headers: HeaderMap::new(), tls: None });
        Ok(Self { name: name.to_owned(), base, versioned: true, home, namespace: None, insecure: false })
    }

    /// What credentials are looked up by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.home.origin
    }

    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Whether which of https and http it is has still to be found out.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.insecure && self.home.origin.is_https()
    }

    /// The same server, over http.
    pub(crate) fn over_http(mut self) -> Self {
        self.insecure = false;
        // http and https are both schemes of URLs with a host, so this cannot fail.
        if self.base.set_scheme("http").is_ok()
            && let Some(origin) = Origin::of(&self.base)
        {
            self.home = Arc::new(Home { origin, ..Home::clone(&self.home) });
        }
        self
    }

    /// `/v2/` with `segments` behind it, each escaped.
    pub(crate) fn url<'s>(&self, segments: impl IntoIterator<Item = &'s str>) -> Url {
        let mut url = self.base.clone();
        // A URL with a host always has a path to push to.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(self.versioned.then_some("v2")).extend(segments);
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

/// Which servers stand behind which names, and which of them are spoken to without TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    pub(crate) plain_http: BTreeSet<String>,
    pub(crate) loopback_plain_http: bool,
    pub(crate) rules: HostRules,
}

impl Hosts {
    /// The server of a registry, for everything that is not asked of mirrors. Reference may be a bare host.
    pub(crate) fn endpoint(&self, host: &str, whole: &str) -> Result<Endpoint> {
        let Some((rule, _)) = self.rules.find(whole) else { return self.plain_endpoint(host) };
        if rule.is_blocked() {
            return Err(Error::Blocked { name: whole.to_owned() });
        }
        if let Some(server) = rule.own_server() {
            let mut endpoint = self.mirror_endpoint(server, rule, host)?;
            // Whoever logs in to a registry does so by its name, wherever it is.
            endpoint.name = hub_or(host).to_owned();
            endpoint.namespace = None;
            return Ok(endpoint);
        }
        let mut endpoint = self.plain_endpoint(host)?;
        if rule.is_insecure() {
            endpoint.insecure = true;
            endpoint.home = Arc::new(Home { tls: Some(rule.insecure_key()), ..Home::clone(&endpoint.home) });
        }
        Ok(endpoint)
    }

    /// The servers that are asked when `reference` is pulled, in order.
    pub(crate) fn sources(&self, reference: &Reference, asked: Asked) -> Result<Vec<Source>> {
        let whole = reference.canonical();
        let own = || -> Result<Source> {
            let endpoint = self.endpoint(reference.domain(), &whole)?;
            Ok(Source { endpoint, repository: reference.path().to_owned(), last: true })
        };
        let Some((rule, matched)) = self.rules.find(&whole) else { return Ok(vec![own()?]) };
        if rule.is_blocked() {
            return Err(Error::Blocked { name: whole });
        }
        let mut sources = Vec::new();
        for (server, repository) in rule.pulls(reference, asked, matched) {
            sources.push(match server {
                Some(server) => {
                    let endpoint = self.mirror_endpoint(server, rule, reference.domain())?;
                    Source { endpoint, repository, last: false }
                }
                None => {
                    let mut own = own()?;
                    // A server of another name may stand for several registries.
                    let told = rule.own_server().is_some_and(|server| server.namespace);
                    own.endpoint.namespace = told.then(|| reference.domain().to_owned());
                    own
                }
            });
        }
        if sources.is_empty() {
            sources.push(own()?);
        }
        if let Some(source) = sources.last_mut() {
            source.last = true;
        }
        Ok(sources)
    }

    fn mirror_endpoint(&self, server: &Mirror, rule: &HostRule, registry: &str) -> Result<Endpoint> {
        let mut endpoint = self.plain_endpoint(&server.authority)?;
        let scheme = match server.scheme {
            Scheme::Default => None,
            Scheme::Https => Some("https"),
            Scheme::Http => Some("http"),
            Scheme::Insecure => {
                endpoint.insecure = true;
                Some("https")
            }
        };
        if let Some(scheme) = scheme {
            endpoint.base = url_of(scheme, server_of(&server.authority), &server.authority)?;
        }
        let ends_in_version = server.path.last().is_some_and(|part| part == "v2");
        endpoint.versioned = !server.override_path && !ends_in_version;
        if let Ok(mut path) = endpoint.base.path_segments_mut() {
            path.pop_if_empty().extend(&server.path);
        }
        let origin = Origin::of(&endpoint.base).unwrap_or_else(|| endpoint.home.origin.clone());
        let own_tls = server.tls.is_some() || server.scheme == Scheme::Insecure;
        let tls = own_tls.then(|| rule.tls_key(server));
        endpoint.home = Arc::new(Home { origin, headers: server.headers.clone(), tls });
        endpoint.namespace = server.namespace.then(|| registry.to_owned());
        Ok(endpoint)
    }

    /// The endpoint for the host part of a reference, without any rule.
    fn plain_endpoint(&self, name: &str) -> Result<Endpoint> {
        let scheme = if self.is_plain(name) { "http" } else { "https" };
        Endpoint::new(hub_or(name), url_of(scheme, server_of(name), name)?)
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

fn hub_or(name: &str) -> &str {
    if HUB_NAMES.contains(&name) { "docker.io" } else { name }
}

fn server_of(name: &str) -> &str {
    if HUB_NAMES.contains(&name) { HUB_SERVER } else { name }
}

fn url_of(scheme: &str, server: &str, name: &str) -> Result<Url> {
    let base = Url::parse(&format!("{scheme}://{server}/")).ok();
    // Whatever is more than a host and a port has changed its meaning on the way into a URL.
    let base = base.filter(|url| url.path() == "/" && url.username().is_empty() && url.query().is_none());
    base.ok_or_else(|| Error::Configuration {
        what: format!("{name:?} cannot be the host of a registry"),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts {
            plain_http: ["plain.example:5000".to_owned()].into(),
            loopback_plain_http: true,
            rules: HostRules::new(),
        }
    }

    #[test]
    fn hub_has_another_server_and_keeps_its_name() {
        let endpoint = hosts().plain_endpoint("docker.io").unwrap();
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
            assert_eq!(hosts().plain_endpoint(name).unwrap().root_url().as_str(), base, "{name}");
        }
        assert_eq!(
            Hosts::default().plain_endpoint("localhost:5000").unwrap().root_url().as_str(),
            "https://localhost:5000/v2/"
        );
    }

    #[test]
    fn names_that_are_more_than_a_host() {
        for name in ["a@b", "a/b", "a?b", "", "a b"] {
            assert!(hosts().plain_endpoint(name).is_err(), "{name:?}");
        }
    }
}
