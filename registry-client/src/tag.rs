//! Lists: the tags of a repository and the repositories of a registry, page by page.

use std::collections::BTreeSet;

use http::Method;
use http::header::LINK;
use image_core::Reference;
use serde::Deserialize;
use url::Url;

use crate::auth::{Action, ScopeSet};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::engine::{Call, unexpected};
use crate::error::{Error, Result};
use crate::origin::Origin;
use crate::transport::Response;

/// Longest page, in bytes.
pub(crate) const MAX_PAGE: u64 = 4 << 20;
/// All pages of one list together, in bytes: entries can be as long as a page.
pub(crate) const MAX_LIST: u64 = 128 << 20;
/// Pages of one list.
const MAX_PAGES: usize = 10_000;
/// Entries of one list.
const MAX_ENTRIES: usize = 1_000_000;

#[derive(Deserialize)]
struct TagPage {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct CatalogPage {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

impl Client {
    /// All tags of a repository, in the registry's order.
    ///
    /// # Errors
    /// [`Error::Status`] with `NAME_UNKNOWN`; [`Error::TargetRefused`] when the next page is at another server.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn tags(&self, repository: &Reference) -> Result<Vec<String>> {
        let endpoint = self.endpoint(repository).await?;
        let url = endpoint.repository_url(repository.path(), &["tags", "list"]);
        let scopes = ScopeSet::repository(repository.path(), &[Action::Pull]);
        self.pages(&endpoint, Some(repository.path()), scopes, url, |body| {
            serde_json::from_slice::<TagPage>(body).map(|page| page.tags.unwrap_or_default())
        })
        .await
    }

    /// The repositories of a registry, where it tells them.
    ///
    /// # Errors
    /// As [`Client::tags`]; many registries refuse.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn catalog(&self, host: &str) -> Result<Vec<String>> {
        let endpoint = self.endpoint_of_host(host).await?;
        let url = endpoint.url(["_catalog"]);
        self.pages(&endpoint, None, ScopeSet::catalog(), url, |body| {
            serde_json::from_slice::<CatalogPage>(body).map(|page| page.repositories.unwrap_or_default())
        })
        .await
    }

    async fn pages(
        &self,
        endpoint: &Endpoint,
        repository: Option<&str>,
        scopes: ScopeSet,
        first: Url,
        parse: impl Fn(&[u8]) -> serde_json::Result<Vec<String>>,
    ) -> Result<Vec<String>> {
        let mut entries = Vec::new();
        let mut seen = BTreeSet::new();
        let mut size = 0;
        let mut next = Some(first);
        while let Some(url) = next {
            let mut call = Call::new(Method::GET, url.clone(), endpoint);
            call.repository = repository;
            call.scopes = scopes.clone();
            let response = self.engine().call(call).await?;
            if response.status() != 200 {
                return Err(unexpected(response).await);
            }
            let line = response.line().clone();
            let protocol = |what: &str| Error::Protocol { request: line.clone(), what: what.to_owned() };
            seen.insert(url.to_string());
            next = next_page(&response)?;
            if next.as_ref().is_some_and(|next| seen.contains(next.as_str())) {
                return Err(protocol("the next page is one that was there before"));
            }
            let body = response.bytes(MAX_PAGE).await?;
            size += body.len() as u64;
            let page = parse(&body).map_err(|_| protocol("the page is not the JSON of the spec"))?;
            entries.extend(page);
            if seen.len() > MAX_PAGES || entries.len() > MAX_ENTRIES || size > MAX_LIST {
                return Err(protocol("the list has no end"));
            }
        }
        Ok(entries)
    }
}

/// The address in `Link: </v2/…?last=x>; rel="next"`, which must be of the same origin (RFC 8288).
pub(crate) fn next_page(response: &Response) -> Result<Option<Url>> {
    let links = response.headers().get_all(LINK);
    let Some(text) = links.iter().filter_map(|value| value.to_str().ok()).find_map(next_target) else {
        return Ok(None);
    };
    let request = response.line().clone();
    let url = response
        .url()
        .join(text)
        .map_err(|_| Error::Protocol { request: request.clone(), what: "Link is not a URL".to_owned() })?;
    if Origin::of(&url) != Origin::of(response.url()) {
        let target = crate::error::redacted(&url);
        return Err(Error::TargetRefused { request, target, reason: "the next page is at another server" });
    }
    Ok(Some(url))
}

fn next_target(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let start = rest.find('<')?;
        let (target, after) = rest.get(start + 1..)?.split_once('>')?;
        // Parameters go on to the next link.
        let params = after.split('<').next().unwrap_or_default();
        let is_next = params.split([';', ',']).any(|param| {
            let Some((name, value)) = param.split_once('=') else { return false };
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        assert_eq!(
            next_target("</v2/a/tags/list?last=b&n=2>; rel=\"next\""),
            Some("/v2/a/tags/list?last=b&n=2")
        );
        assert_eq!(next_target("<x>; rel=next"), Some("x"));
        assert_eq!(next_target("<a>; rel=\"prev\", <b>; title=\"t\"; rel=\"next\""), Some("b"));
        assert_eq!(next_target("<a>; rel=\"prev\""), None);
        assert_eq!(next_target("<a"), None);
        assert_eq!(next_target(""), None);
    }
}
