//! Routes: repository names have slashes in them, so the path is read from its end.

use image_core::Digest;

/// Longest repository name.
const MAX_NAME: usize = 255;

/// What a path is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`
    Root,
    /// `/token`
    Token,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest { name: String, reference: ManifestKey },
    /// `/v2/NAME/blobs/DIGEST`
    Blob { name: String, digest: Digest },
    /// `/v2/NAME/blobs/uploads/`
    Uploads { name: String },
    /// `/v2/NAME/blobs/uploads/ID`
    Upload { name: String, id: String },
    /// `/v2/NAME/tags/list`
    Tags { name: String },
    /// `/v2/NAME/referrers/DIGEST`
    Referrers { name: String, digest: Digest },
}

/// How a manifest is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ManifestKey {
    Tag(String),
    Digest(Digest),
}

/// Why a path has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    Unknown,
    Name,
    Digest,
    Tag,
}

impl Route {
    pub(super) fn parse(path: &str) -> Result<Self, NoRoute> {
        let path = decode(path).ok_or(NoRoute::Unknown)?;
        if path == "/token" {
            return Ok(Self::Token);
        }
        let rest = path.strip_prefix("/v2").ok_or(NoRoute::Unknown)?;
        if rest.is_empty() || rest == "/" {
            return Ok(Self::Root);
        }
        let rest = rest.strip_prefix('/').ok_or(NoRoute::Unknown)?;
        if rest == "_catalog" {
            return Ok(Self::Catalog);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(Self::Tags { name: checked(name)? });
        }
        if let Some((name, id)) = rest.rsplit_once("/blobs/uploads/") {
            let name = checked(name)?;
            if id.contains('/') {
                return Err(NoRoute::Unknown);
            }
            return Ok(if id.is_empty() {
                Self::Uploads { name }
            } else {
                Self::Upload { name, id: id.to_owned() }
            });
        }
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            return Ok(Self::Uploads { name: checked(name)? });
        }
        let (head, last) = rest.rsplit_once('/').ok_or(NoRoute::Unknown)?;
        let (name, kind) = head.rsplit_once('/').ok_or(NoRoute::Unknown)?;
        let digest = || last.parse::<Digest>().map_err(|_| NoRoute::Digest);
        match kind {
            "manifests" => {
                let name = checked(name)?;
                let reference = if last.contains(':') {
                    ManifestKey::Digest(digest()?)
                } else if is_tag(last) {
                    ManifestKey::Tag(last.to_owned())
                } else {
                    return Err(NoRoute::Tag);
                };
                Ok(Self::Manifest { name, reference })
            }
            "blobs" => Ok(Self::Blob { name: checked(name)?, digest: digest()? }),
            "referrers" => Ok(Self::Referrers { name: checked(name)?, digest: digest()? }),
            _ => Err(NoRoute::Unknown),
        }
    }

    /// The repository that it is about.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Root | Self::Token | Self::Catalog => None,
            Self::Manifest { name, .. }
            | Self::Blob { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => Some(name),
        }
    }
}

fn checked(name: &str) -> Result<String, NoRoute> {
    if is_name(name) { Ok(name.to_owned()) } else { Err(NoRoute::Name) }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/…)*` of the distribution spec.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('/').all(is_component)
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    if !ends.is_some_and(|(first, last)| alphanumeric(*first) && alphanumeric(*last)) {
        return false;
    }
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    separators
        .filter(|part| !part.is_empty())
        .all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-'))
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` of the distribution spec.
pub(super) fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|first| word(*first))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

/// Percent decoding of a path.
pub(super) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_the_words_of_the_routes_in_them() {
        let hex = "a".repeat(64);
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        for (path, route) in [
            ("/v2/", Route::Root),
            ("/v2/_catalog", Route::Catalog),
            (
                "/v2/a/manifests/b/manifests/v1",
                Route::Manifest {
                    name: "a/manifests/b".to_owned(),
                    reference: ManifestKey::Tag("v1".to_owned()),
                },
            ),
            ("/v2/blobs/uploads/tags/list", Route::Tags { name: "blobs/uploads".to_owned() }),
            ("/v2/a/b/blobs/uploads/", Route::Uploads { name: "a/b".to_owned() }),
            ("/v2/a/blobs/uploads/x1", Route::Upload { name: "a".to_owned(), id: "x1".to_owned() }),
        ] {
            assert_eq!(Route::parse(path), Ok(route), "{path}");
        }
        let escaped = format!("/v2/a/blobs/sha256%3A{hex}");
        assert_eq!(Route::parse(&escaped), Ok(Route::Blob { name: "a".to_owned(), digest }));
    }

    #[test]
    fn what_is_no_route() {
        for (path, reason) in [
            ("/", NoRoute::Unknown),
            ("/v1/", NoRoute::Unknown),
            ("/v2/a", NoRoute::Unknown),
            ("/v2/A/tags/list", NoRoute::Name),
            ("/v2/../x/tags/list", NoRoute::Name),
            ("/v2/a/blobs/sha256:zz", NoRoute::Digest),
            ("/v2/a/manifests/.x", NoRoute::Tag),
        ] {
            assert_eq!(Route::parse(path), Err(reason), "{path}");
        }
    }

    #[test]
    fn components() {
        for good in ["a", "a0", "a.b", "a_b", "a__b", "a-b", "a---b", "0"] {
            assert!(is_name(good), "{good}");
        }
        for bad in
            ["", "A", "-a", "a-", "a..b", "a___b", "a._b", "a/", "/a", "a//b", ".", "..", "_layout", "é"]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
