//! Handling: from a request to an answer.

mod blob;
mod list;
mod manifest;
mod upload;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use futures_util::StreamExt;
use http::{HeaderName, Method, Request, StatusCode};
use url::form_urlencoded;

pub(super) use manifest::describe;

use super::Settings;
use super::access::Access;
use super::answer::{Answer, Code, append, empty, error, set, with_body};
use super::connection::Connection;
use super::journal::{Journal, Record};
use super::route::{ManifestKey, NoRoute, Route};
use super::storage::Storage;

const DOCKER_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Longest form that the token server reads, in bytes.
const MAX_FORM: usize = 64 << 10;

/// A registry with everything that its handlers need.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) storage: Storage,
    pub(super) access: Access,
    pub(super) settings: Settings,
    pub(super) journal: Journal,
    #[cfg(feature = "testing")]
    pub(super) faults: super::fault::Faults,
}

/// A request taken apart.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Body,
}

impl Asked {
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

pub(super) async fn serve(
    State(service): State<Arc<Service>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request<Body>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let record = service.journal.begin(&parts.method, &parts.uri, &parts.headers, connection.peer);
    #[cfg(feature = "testing")]
    let fault = service.faults.matching(&parts.method, &parts.uri);
    #[cfg(feature = "testing")]
    if let Some(fault) = &fault
        && let Some(answer) = fault.before(&connection).await
    {
        record.answered(answer.status().as_u16());
        return answer;
    }
    let counted = Arc::clone(&record);
    let body = Body::from_stream(body.into_data_stream().inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            counted.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    }));
    #[cfg(feature = "testing")]
    let body = match &fault {
        Some(fault) => fault.request_body(body, &connection),
        None => body,
    };
    let is_head = parts.method == Method::HEAD;
    let query_text = parts.uri.query().unwrap_or_default();
    let query = form_urlencoded::parse(query_text.as_bytes()).into_owned().collect();
    let asked = Asked { method: parts.method, query, headers: parts.headers, body };
    let mut answer = service.answer(parts.uri.path(), query_text, asked).await;
    set(&mut answer, DOCKER_VERSION, "registry/2.0");
    #[cfg(feature = "testing")]
    let answer = match &fault {
        Some(fault) => fault.after(answer, &connection),
        None => answer,
    };
    record.answered(answer.status().as_u16());
    if is_head { without_body(answer) } else { counted_body(answer, record) }
}

/// HEAD has the headers of GET, the length among them, and nothing more.
fn without_body(answer: Answer) -> Answer {
    let (parts, _) = answer.into_parts();
    Answer::from_parts(parts, Body::empty())
}

fn counted_body(answer: Answer, record: Arc<Record>) -> Answer {
    let (parts, body) = answer.into_parts();
    let stream = body.into_data_stream().inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            record.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    let bodiless = parts.status == StatusCode::NO_CONTENT;
    Answer::from_parts(parts, if bodiless { Body::empty() } else { Body::from_stream(stream) })
}

impl Service {
    async fn answer(self: &Arc<Self>, path: &str, query: &str, asked: Asked) -> Answer {
        let route = match Route::parse(path) {
            Ok(route) => route,
            Err(NoRoute::Unknown) => return error(StatusCode::NOT_FOUND, Code::Unsupported),
            Err(NoRoute::Name) => return error(StatusCode::BAD_REQUEST, Code::NameInvalid),
            Err(NoRoute::Digest) => return error(StatusCode::BAD_REQUEST, Code::DigestInvalid),
            Err(NoRoute::Tag) => return error(StatusCode::BAD_REQUEST, Code::TagInvalid),
        };
        let from = match &route {
            Route::Uploads { .. } => asked.query("mount").and(asked.query("from")),
            _ => None,
        };
        if let Err(refused) = self.access.check(&asked.method, &route, from, &asked.headers) {
            return refused;
        }
        let reads = matches!(asked.method, Method::GET | Method::HEAD);
        match (route, asked.method.as_str()) {
            (Route::Root, "GET" | "HEAD") => {
                with_body(StatusCode::OK, "application/json", bytes::Bytes::from_static(b"{}"))
            }
            (Route::Token, "GET" | "POST") => self.token(query, asked).await,
            (Route::Catalog, "GET" | "HEAD") => self.catalog(&asked),
            (Route::Tags { name }, "GET" | "HEAD") => self.tags(&name, &asked),
            (Route::Referrers { name, digest }, "GET" | "HEAD") if self.settings.referrers => {
                self.referrers(&name, &digest, &asked)
            }
            (Route::Referrers { .. }, _) if reads => error(StatusCode::NOT_FOUND, Code::Unsupported),
            (Route::Manifest { name, reference }, "GET" | "HEAD") => self.manifest(&name, &reference),
            (Route::Manifest { name, reference }, "PUT") => self.put_manifest(&name, reference, asked).await,
            (Route::Manifest { name, reference }, "DELETE") if self.settings.deletes => {
                self.delete_manifest(&name, &reference)
            }
            (Route::Blob { name, digest }, "GET" | "HEAD") => self.blob(&name, &digest, &asked),
            (Route::Blob { name, digest }, "DELETE") if self.settings.deletes => {
                self.delete_blob(&name, &digest)
            }
            (Route::Uploads { name }, "POST") => self.start_upload(&name, asked).await,
            (Route::Upload { name, id }, "PATCH") => self.patch_upload(&name, &id, asked).await,
            (Route::Upload { name, id }, "PUT") => self.finish_upload(&name, &id, asked).await,
            (Route::Upload { name, id }, "GET" | "HEAD") => self.upload_status(&name, &id),
            (Route::Upload { name, id }, "DELETE") => self.cancel_upload(&name, &id),
            _ => error(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported),
        }
    }

    async fn token(&self, query: &str, asked: Asked) -> Answer {
        let Access::Bearer(server) = &self.access else { return empty(StatusCode::NOT_FOUND) };
        match axum::body::to_bytes(asked.body, MAX_FORM).await {
            Ok(body) => server.answer(&asked.method, query, &asked.headers, &body),
            Err(_) => error(StatusCode::BAD_REQUEST, Code::Unknown),
        }
    }
}

/// Adds `Link` for the page after `last`.
pub(super) fn link_next(answer: &mut Answer, path: &str, query: &[(&str, &str)]) {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    append(answer, http::header::LINK, &format!("<{path}?{query}>; rel=\"next\""));
}

impl std::fmt::Display for ManifestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}
