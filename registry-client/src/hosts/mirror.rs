//! A server that is asked in the place of another.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::HostsError;
use crate::transport::TlsSettings;

/// What a mirror is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MirrorUse {
    /// Whatever is pulled.
    #[default]
    All,
    /// What is named by its digest, which every blob is: a mirror that is behind cannot then serve an old tag.
    DigestOnly,
    /// What is pulled by a tag, with its blobs.
    TagOnly,
    /// What a tag means, and nothing else.
    ResolveOnly,
}

/// What a request on behalf of a reference is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A manifest, by the digest of the reference or else by its tag.
    Manifest,
    /// A blob of what the reference means.
    Blob,
}

impl MirrorUse {
    pub(crate) fn covers(self, by_digest: bool, asked: Asked) -> bool {
        match (self, asked) {
            (Self::All, _) | (Self::DigestOnly, Asked::Blob) => true,
            (Self::DigestOnly, Asked::Manifest) => by_digest,
            (Self::TagOnly, _) | (Self::ResolveOnly, Asked::Manifest) => !by_digest,
            (Self::ResolveOnly, Asked::Blob) => false,
        }
    }
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// As the client's settings say for that host.
    Default,
    /// https.
    Https,
    /// http, because the address says so.
    Http,
    /// https if somebody answers there, with any certificate, else http: what `insecure` means in registries.conf.
    Insecure,
}

/// A server that is asked in the place of another.
///
/// ```
/// use registry_client::hosts::{Mirror, MirrorUse};
///
/// // Repository `library/x` is asked for as `hub/library/x`, as with registries.conf.
/// let cache = Mirror::at("mirror.example:5000/hub")?.used_for(MirrorUse::DigestOnly);
/// // The API is below a path, as with containerd's hosts.toml.
/// let proxy = Mirror::url("https://harbor.example/v2/proxy")?.override_path(true);
/// # let _ = (cache, proxy);
/// # Ok::<(), registry_client::hosts::HostsError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Mirror {
    pub(crate) scheme: Scheme,
    /// `host` or `host:port`: what credentials are looked up by.
    pub(crate) authority: String,
    /// In front of the repository's name.
    pub(crate) repository: Option<String>,
    /// In front of `/v2/`, or instead of it.
    pub(crate) path: Vec<String>,
    pub(crate) override_path: bool,
    pub(crate) usage: MirrorUse,
    pub(crate) namespace: bool,
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) headers: HeaderMap,
}

impl Mirror {
    /// At a place that is written like the beginning of a reference: `host[:port][/repository…]`.
    ///
    /// # Errors
    /// [`HostsError::Address`] when it is no such thing.
    pub fn at(location: &str) -> Result<Self, HostsError> {
        let wrong = |what| HostsError::Address { address: location.to_owned(), what };
        let trimmed = location.trim_end_matches('/');
        if trimmed.contains("://") {
            return Err(wrong("a scheme has no place in it"));
        }
        let (authority, repository) = match trimmed.split_once('/') {
            Some((authority, repository)) => (authority, Some(repository.to_owned())),
            None => (trimmed, None),
        };
        check_authority(authority).map_err(wrong)?;
        if repository.iter().flat_map(|text| text.split('/')).any(|part| matches!(part, "" | "." | "..")) {
            return Err(wrong("the path is not the beginning of a repository's name"));
        }
        Ok(Self { repository, ..Self::new(Scheme::Default, authority.to_owned()) })
    }

    /// At a URL: `http[s]://host[:port][/path]`. The API is at `/v2/` below it; a path that ends in `/v2` is meant to
    /// be the API itself.
    ///
    /// # Errors
    /// [`HostsError::Address`] when it is no such URL.
    pub fn url(url: &str) -> Result<Self, HostsError> {
        let wrong = |what| HostsError::Address { address: url.to_owned(), what };
        let parsed = Url::parse(url).map_err(|_| wrong("not a URL"))?;
        let scheme = match parsed.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err(wrong("neither http nor https")),
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(wrong("user information has no place in it"));
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(wrong("a query has no place in it"));
        }
        let host = parsed.host_str().ok_or_else(|| wrong("no host"))?;
        let authority = match parsed.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let parts = parsed.path().split('/').filter(|part| !part.is_empty());
        Ok(Self { path: parts.map(str::to_owned).collect(), ..Self::new(scheme, authority) })
    }

    fn new(scheme: Scheme, authority: String) -> Self {
        Self {
            scheme,
            authority,
            repository: None,
            path: Vec::new(),
            override_path: false,
            usage: MirrorUse::All,
            namespace: false,
            tls: None,
            headers: HeaderMap::new(),
        }
    }

    /// What it is asked for. Default: whatever is pulled.
    pub fn used_for(mut self, usage: MirrorUse) -> Self {
        self.usage = usage;
        self
    }

    /// Takes any certificate, and speaks http where nobody speaks https: what `insecure` means in registries.conf.
    /// What is sent can then be read and changed on the way, but not what is pulled by digest.
    pub fn insecure(mut self, yes: bool) -> Self {
        if yes {
            self.scheme = Scheme::Insecure;
        }
        self
    }

    /// Speaks http, without TLS.
    pub fn plain_http(mut self, yes: bool) -> Self {
        if yes {
            self.scheme = Scheme::Http;
        }
        self
    }

    /// TLS settings for this server in this role.
    pub fn tls(mut self, settings: TlsSettings) -> Self {
        self.tls = Some(settings);
        self
    }

    /// The path of [`Mirror::url`] is where the API is; no `/v2` is added.
    pub fn override_path(mut self, yes: bool) -> Self {
        self.override_path = yes;
        self
    }

    /// Tells the server which registry is meant, with the query parameter `ns` (distribution-spec, "Registry
    /// Proxying"): for caches of several registries. It is never sent to the registry itself.
    pub fn namespace(mut self, yes: bool) -> Self {
        self.namespace = yes;
        self
    }

    /// A header for every request to this server. `Authorization` is not taken: credentials come from their source.
    ///
    /// # Errors
    /// [`HostsError::Address`] when it cannot be a header.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, HostsError> {
        let wrong = |what| HostsError::Address { address: self.authority.clone(), what };
        let name = HeaderName::try_from(name).map_err(|_| wrong("a header has a name that cannot be one"))?;
        if matches!(name.as_str(), "authorization" | "host" | "content-length" | "transfer-encoding") {
            return Err(wrong("a header that is not for settings to give"));
        }
        let mut value =
            HeaderValue::try_from(value).map_err(|_| wrong("a header has a value that cannot be one"))?;
        // Some caches are opened by a secret header.
        value.set_sensitive(true);
        self.headers.append(name, value);
        Ok(self)
    }
}

/// `host`, `host:port`, `[v6]:port`, and nothing else that a URL could take for more.
fn check_authority(authority: &str) -> Result<(), &'static str> {
    let url = Url::parse(&format!("https://{authority}/")).map_err(|_| "no host")?;
    let plain = url.path() == "/" && url.username().is_empty() && url.query().is_none();
    if plain && !authority.contains(['\\', '?', '#', '@', '/']) { Ok(()) } else { Err("more than a host") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["a.example", "a.example:5000", "[::1]:5000", "localhost/hub/", "a.example/x/y"] {
            assert!(Mirror::at(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "https://a.example", "a@b", "a.example/../x", "a.example//x", "a?b", "a b"] {
            assert!(Mirror::at(bad).is_err(), "{bad}");
        }
        for bad in ["a.example", "ftp://a", "https://u:p@a/", "https://a/?x", "https://"] {
            assert!(Mirror::url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_credentials_in_headers() {
        let mirror = || Mirror::at("a.example").unwrap();
        assert!(mirror().header("Authorization", "Basic x").is_err());
        let mirror = mirror().header("X-Key", "canary-11").unwrap();
        assert!(!format!("{mirror:?}").contains("canary"));
    }
}
