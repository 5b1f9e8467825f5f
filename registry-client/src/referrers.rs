//! Referrers: what refers to a manifest, from the API or, where a registry has none, from the tag that stands for it.

use std::collections::BTreeSet;

use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use image_core::{AnyManifest, Descriptor, Digest, Document, Index, MediaType, Reference};

use crate::auth::{Action, ScopeSet};
use crate::client::Client;
use crate::engine::{Call, unexpected};
use crate::error::{Error, RequestLine, Result};
use crate::manifest::Condition;
use crate::tag::{MAX_LIST, MAX_PAGE, next_page};
use crate::transport::Response;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Pages of one list.
const MAX_PAGES: usize = 1000;
/// Entries of one list.
const MAX_REFERRERS: usize = 100_000;
/// How often a change of a list is tried when others change it at the same time.
const CHANGES: u32 = 10;
/// Parts of the referrers tag, in characters: the tag grammar allows 128 in all.
const TAG_PARTS: (usize, usize) = (32, 64);

impl Client {
    /// Descriptors of the manifests whose subject is `subject`, of one artifact type if one is given.
    ///
    /// Only a registry that says that it does not know means "none": a refusal or a failure is an error, because what
    /// is not found here may be a signature that somebody relies on.
    ///
    /// # Errors
    /// [`Error`]
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let endpoint = self.endpoint(repository).await?;
        let digest = subject.to_string();
        let segments = ["referrers", digest.as_str()];
        let mut url = endpoint.repository_url(repository.path(), &segments);
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut filtered = true;
        let mut size = 0;
        let mut next = Some(url);
        while let Some(url) = next {
            let scopes = ScopeSet::repository(repository.path(), &[Action::Pull]);
            let call = Call::new(Method::GET, url.clone(), &endpoint)
                .scopes(repository.path(), scopes)
                .header(ACCEPT, HeaderValue::from_static("application/vnd.oci.image.index.v1+json"));
            let response = self.engine().call(call).await?;
            if seen.is_empty()
                && (response.status() == 404 || !is_index(&response))
                && response.status() < 429
            {
                if !matches!(response.status(), 200 | 400 | 404 | 405) {
                    return Err(unexpected(response).await);
                }
                return self.tagged_referrers(repository, subject, artifact_type).await;
            }
            if response.status() != 200 {
                return Err(unexpected(response).await);
            }
            let line = response.line().clone();
            let protocol = |what: &str| Error::Protocol { request: line.clone(), what: what.to_owned() };
            seen.insert(url.to_string());
            filtered &= response
                .header(FILTERS_APPLIED)
                .is_some_and(|text| text.split(',').any(|filter| filter.trim() == "artifactType"));
            next = next_page(&response)?;
            if next.as_ref().is_some_and(|next| seen.contains(next.as_str())) || seen.len() > MAX_PAGES {
                return Err(protocol("the list of referrers has no end"));
            }
            let body = response.bytes(MAX_PAGE).await?;
            size += body.len() as u64;
            let parsed = AnyManifest::parse(body.to_vec(), Some(&MediaType::OciIndex));
            match parsed
                .map_err(|source| Error::Manifest { request: line.clone(), source: Box::new(source) })?
            {
                AnyManifest::Index(index) => found.extend(index.into_parts().0.manifests),
                _ => return Err(protocol("the referrers are not an index")),
            }
            if found.len() > MAX_REFERRERS || size > MAX_LIST {
                return Err(protocol("the list of referrers has no end"));
            }
        }
        Ok(of_type(found, artifact_type.filter(|_| !filtered)))
    }

    async fn tagged_referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        match self.referrers_index(repository, subject).await {
            Ok((_, index, _)) => {
                Ok(index.map_or_else(Vec::new, |index| of_type(index.manifests, artifact_type)))
            }
            // Something else under that tag means that nobody has kept a list (distribution-spec, "Listing Referrers").
            Err(Error::Unsupported { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Keeps the list under the referrers tag for a registry that has no referrers API (distribution-spec, "Pushing
    /// Manifests with Subject"). One client does this one at a time; a registry that knows conditional requests keeps
    /// several clients apart, with another registry the later one of two at the same moment wins.
    pub(crate) async fn list_referrer(
        &self,
        repository: &Reference,
        subject: &Digest,
        referrer: Descriptor,
    ) -> Result<()> {
        self.change_referrers(repository, subject, |referrers| {
            let new = !referrers.iter().any(|entry| entry.digest == referrer.digest);
            if new {
                referrers.push(referrer.clone());
            }
            new
        })
        .await
    }

    /// Takes a deleted referrer from that list (distribution-spec, "Deleting Manifests").
    pub(crate) async fn unlist_referrer(
        &self,
        repository: &Reference,
        subject: &Digest,
        referrer: &Digest,
    ) -> Result<()> {
        self.change_referrers(repository, subject, |referrers| {
            let before = referrers.len();
            referrers.retain(|entry| entry.digest != *referrer);
            referrers.len() != before
        })
        .await
    }

    async fn change_referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
        change: impl Fn(&mut Vec<Descriptor>) -> bool,
    ) -> Result<()> {
        let _turn = self.referrers_turn().await;
        for attempt in 1..=CHANGES {
            let (tag, index, condition) = self.referrers_index(repository, subject).await?;
            let mut index = index.unwrap_or_else(|| Index::oci(Vec::new()));
            if !change(&mut index.manifests) {
                return Ok(());
            }
            let request = RequestLine::new(&Method::PUT, &self.endpoint(repository).await?.root_url());
            let document = Document::from_value(index)
                .map_err(|source| Error::Manifest { request, source: Box::new(source) })?;
            let (_, bytes) = document.into_parts();
            match self.put_manifest(&tag, &MediaType::OciIndex, bytes.into(), condition).await {
                // Somebody else has changed the list since: once more, with theirs.
                Err(Error::Status { answer, .. }) if answer.status == 412 && attempt < CHANGES => {}
                outcome => return outcome.map(drop),
            }
        }
        Ok(())
    }

    /// Deletes the list under the referrers tag of `subject`, for instance because the subject is gone; `false` if
    /// there was none. A tag under which something else than a list stands is left alone.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the tag has something else, or the registry does not delete tags.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the list or not.
    pub async fn delete_referrers_tag(&self, repository: &Reference, subject: &Digest) -> Result<bool> {
        let _turn = self.referrers_turn().await;
        let (tag, index, _) = self.referrers_index(repository, subject).await?;
        if index.is_none() {
            return Ok(false);
        }
        self.delete_name(&tag).await
    }

    /// Whether the registry answers questions for referrers itself.
    pub(crate) async fn has_referrers_api(&self, repository: &Reference, subject: &Digest) -> Result<bool> {
        let endpoint = self.endpoint(repository).await?;
        let digest = subject.to_string();
        let url = endpoint.repository_url(repository.path(), &["referrers", digest.as_str()]);
        let scopes = ScopeSet::repository(repository.path(), &[Action::Pull]);
        let call = Call::new(Method::GET, url, &endpoint).scopes(repository.path(), scopes);
        let response = self.engine().call(call).await?;
        match response.status() {
            200 => Ok(is_index(&response)),
            400 | 404 | 405 => Ok(false),
            _ => Err(unexpected(response).await),
        }
    }

    /// The referrers tag of a subject, and the index under it if there is one.
    async fn referrers_index(
        &self,
        repository: &Reference,
        subject: &Digest,
    ) -> Result<(Reference, Option<Index>, Condition)> {
        let tag = referrers_tag(subject);
        let reference = repository.at_tag(&tag).map_err(|_| Error::Reference {
            reference: repository.to_string(),
            what: "no tag for the referrers of this digest",
        })?;
        let fetched = match self.manifest_at_origin(&reference).await {
            Ok(fetched) => fetched,
            Err(error) if error.is_not_found() => return Ok((reference, None, Condition::Absent)),
            Err(error) => return Err(error),
        };
        let condition = fetched.etag.clone().map_or(Condition::None, Condition::Unchanged);
        match fetched.parse() {
            Ok(AnyManifest::Index(index)) => Ok((reference, Some(index.into_parts().0), condition)),
            // Somebody's image happens to have that tag.
            _ => Err(Error::Unsupported { what: format!("a referrers tag {tag} that is not an index") }),
        }
    }
}

fn is_index(response: &Response) -> bool {
    response.header(CONTENT_TYPE).map(MediaType::parse) == Some(MediaType::OciIndex)
}

fn of_type(found: Vec<Descriptor>, wanted: Option<&str>) -> Vec<Descriptor> {
    let matches = |descriptor: &Descriptor| {
        wanted.is_none_or(|wanted| descriptor.artifact_type.as_deref() == Some(wanted))
    };
    found.into_iter().filter(matches).collect()
}

/// `sha256-HEX`, both parts cut to what a tag can hold (distribution-spec, "Referrers Tag Schema").
fn referrers_tag(subject: &Digest) -> String {
    let (algorithm, hex) = (subject.algorithm().name(), subject.hex());
    let cut = |text: &str, length: usize| text.chars().take(length).collect::<String>();
    format!("{}-{}", cut(algorithm, TAG_PARTS.0), cut(&hex, TAG_PARTS.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_for_long_digests_are_cut() {
        let digest = Digest::of(image_core::Algorithm::Sha512, b"x");
        assert_eq!(referrers_tag(&digest).len(), "sha512-".len() + 64);
        assert_eq!(referrers_tag(&Digest::sha256(b"x")), format!("sha256-{}", Digest::sha256(b"x").hex()));
    }
}
