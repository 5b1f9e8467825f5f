//! Origin: scheme, host and port, the unit that credentials belong to.

use std::fmt;

use url::Url;

/// Scheme, host and port of a server. Credentials are bound to exactly one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of `url`; `None` unless it is http or https with a host.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let scheme = url.scheme();
        if scheme != "http" && scheme != "https" {
            return None;
        }
        Some(Self {
            scheme: scheme.to_owned(),
            host: url.host_str()?.trim_end_matches('.').to_ascii_lowercase(),
            port: url.port_or_known_default()?,
        })
    }

    pub(crate) fn is_https(&self) -> bool {
        self.scheme == "https"
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Option<Origin> {
        Origin::of(&text.parse().unwrap())
    }

    #[test]
    fn default_port_and_case_do_not_make_another_origin() {
        assert_eq!(origin("https://Example.COM/v2/"), origin("https://example.com:443/other?x"));
        assert_eq!(origin("https://example.com./"), origin("https://example.com/"));
    }

    #[test]
    fn scheme_port_and_subdomain_do() {
        let home = origin("https://example.com/");
        for other in ["http://example.com/", "https://example.com:8443/", "https://a.example.com/"] {
            assert_ne!(home, origin(other), "{other}");
        }
    }

    #[test]
    fn only_http_has_an_origin() {
        assert_eq!(origin("file:///etc/passwd"), None);
        assert_eq!(origin("ftp://example.com/"), None);
    }
}
