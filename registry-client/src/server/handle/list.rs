//! Lists: tags, repositories, referrers, in pages.

use http::{HeaderName, StatusCode};
use image_core::Digest;
use serde_json::{Value, json};

use super::{Asked, Service, link_next};
use crate::server::answer::{Answer, Code, error, json as json_answer, member, set, with_body};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Service {
    pub(super) fn tags(&self, name: &str, asked: &Asked) -> Answer {
        let Some(tags) = self.storage.with(name, |repository| repository.tags.keys().cloned().collect())
        else {
            return error(StatusCode::NOT_FOUND, Code::NameUnknown);
        };
        let path = format!("/v2/{name}/tags/list");
        self.page(tags, asked, &path, |page| json!({ "name": name, "tags": page }))
    }

    pub(super) fn catalog(&self, asked: &Asked) -> Answer {
        self.page(self.storage.names(), asked, "/v2/_catalog", |page| json!({ "repositories": page }))
    }

    fn page(
        &self,
        mut entries: Vec<String>,
        asked: &Asked,
        path: &str,
        document: impl Fn(&[String]) -> Value,
    ) -> Answer {
        // The spec's order: case does not count, except between equals.
        let key = |text: &String| (text.to_lowercase(), text.clone());
        entries.sort_by_key(key);
        if let Some(last) = asked.query("last") {
            let last = key(&last.to_owned());
            entries.retain(|entry| key(entry) > last);
        }
        let count = match asked.query("n").map(str::parse::<usize>) {
            None => self.settings.page,
            Some(Ok(count)) => count.min(self.settings.page),
            Some(Err(_)) => return error(StatusCode::BAD_REQUEST, Code::Unsupported),
        };
        let more = entries.len() > count;
        entries.truncate(count);
        let mut answer = json_answer(StatusCode::OK, &document(&entries));
        if let Some(last) = entries.last().filter(|_| more) {
            link_next(&mut answer, path, &[("n", &count.to_string()), ("last", last)]);
        }
        answer
    }

    pub(super) fn referrers(&self, name: &str, subject: &Digest, asked: &Asked) -> Answer {
        let wanted = asked.query("artifactType").filter(|text| !text.is_empty());
        let after = asked.query("last").and_then(|text| text.parse::<Digest>().ok());
        let found = self.storage.with(name, |repository| {
            let of_subject = repository.manifests.iter().filter(|(_, manifest)| manifest.subject.as_ref() == Some(subject));
            let of_type = of_subject.filter(|(_, manifest)| wanted.is_none_or(|wanted| manifest.artifact_type.as_deref() == Some(wanted)));
            let rest = of_type.filter(|(digest, _)| after.as_ref().is_none_or(|after| *digest > after));
            rest.map(|(digest, manifest)| {
                let mut entry = json!({
                    "mediaType": manifest.media_type, "digest": digest.to_string(), "size": manifest.bytes.len(),
                });
                if let Some(artifact_type) = &manifest.artifact_type {
                    member(&mut entry, "artifactType", artifact_type.clone().into());
                }
                if !manifest.annotations.is_empty() {
                    member(&mut entry, "annotations", json!(manifest.annotations));
                }
                entry
            })
            .collect::<Vec<_>>()
        });
        let mut entries = found.unwrap_or_default();
        let more = entries.len() > self.settings.page;
        entries.truncate(self.settings.page);
        let last =
            entries.last().and_then(|entry| entry.get("digest").and_then(Value::as_str)).map(str::to_owned);
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        let mut answer = with_body(StatusCode::OK, INDEX, index.to_string().into());
        if wanted.is_some() {
            set(&mut answer, FILTERS_APPLIED, "artifactType");
        }
        if let Some(last) = last.filter(|_| more) {
            let mut query = vec![("last", last.as_str())];
            query.extend(wanted.map(|wanted| ("artifactType", wanted)));
            link_next(&mut answer, &format!("/v2/{name}/referrers/{subject}"), &query);
        }
        answer
    }
}
