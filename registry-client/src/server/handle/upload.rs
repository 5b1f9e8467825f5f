//! Uploads: opened by POST, filled by PATCH, closed by PUT.

use std::sync::Arc;

use futures_util::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderName, StatusCode};
use image_core::{Algorithm, Digest};

use super::{Asked, CONTENT_DIGEST, Service};
use crate::server::answer::{Answer, Code, empty, error, internal, set};
use crate::server::storage::Upload;
use crate::server::token::random;
use crate::task;

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

impl Service {
    pub(super) async fn start_upload(&self, name: &str, asked: Asked) -> Answer {
        if let Some(mount) = asked.query("mount") {
            let Ok(digest) = mount.parse::<Digest>() else {
                return error(StatusCode::BAD_REQUEST, Code::DigestInvalid);
            };
            let may = |other: &str| self.access.may_pull(other, &asked.headers);
            match self.storage.mount(name, asked.query("from"), &digest, may) {
                Ok(true) => return created(name, &digest),
                Ok(false) => {}
                Err(error) => return internal(&error),
            }
        }
        let algorithm =
            match asked.query("digest-algorithm").or(asked.query("digest").and_then(|d| d.split(':').next()))
            {
                None | Some("sha256") => Algorithm::Sha256,
                Some("sha512") => Algorithm::Sha512,
                Some("sha384") => Algorithm::Sha384,
                Some(_) => return error(StatusCode::BAD_REQUEST, Code::DigestInvalid),
            };
        let Some(id) = random() else { return error(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown) };
        let upload = match self.storage.open_upload(name, &id, algorithm) {
            Ok(Some(upload)) => upload,
            Ok(None) => return error(StatusCode::TOO_MANY_REQUESTS, Code::Denied),
            Err(error) => return internal(&error),
        };
        if asked.query("digest").is_some() {
            return self.close(name, &id, &upload, asked).await;
        }
        self.progress(StatusCode::ACCEPTED, name, &id, &upload)
    }

    fn progress(&self, status: StatusCode, name: &str, id: &str, upload: &Upload) -> Answer {
        let mut answer = empty(status);
        set(&mut answer, LOCATION, &format!("/v2/{name}/blobs/uploads/{id}"));
        set(&mut answer, RANGE, &format!("0-{}", upload.size().saturating_sub(1)));
        set(&mut answer, UPLOAD_UUID, id);
        if let Some(least) = self.settings.min_chunk {
            set(&mut answer, CHUNK_MIN_LENGTH, &least.to_string());
        }
        answer
    }

    pub(super) fn upload_status(&self, name: &str, id: &str) -> Answer {
        match self.storage.upload(name, id) {
            Some(upload) => self.progress(StatusCode::NO_CONTENT, name, id, &upload),
            None => error(StatusCode::NOT_FOUND, Code::BlobUploadUnknown),
        }
    }

    pub(super) fn cancel_upload(&self, name: &str, id: &str) -> Answer {
        if self.storage.upload(name, id).is_none() {
            return error(StatusCode::NOT_FOUND, Code::BlobUploadUnknown);
        }
        self.storage.forget_upload(id);
        empty(StatusCode::NO_CONTENT)
    }

    pub(super) async fn patch_upload(&self, name: &str, id: &str, asked: Asked) -> Answer {
        let Some(upload) = self.storage.upload(name, id) else {
            return error(StatusCode::NOT_FOUND, Code::BlobUploadUnknown);
        };
        let _turn = upload.turn.lock().await;
        let before = upload.size();
        match self.receive(name, id, &upload, asked).await {
            Ok(()) => {
                // Only the next piece shows whether a short one was the last. A cut is not the client's choice.
                if self.settings.min_chunk.is_some_and(|least| upload.size() - before < least) {
                    upload.end();
                }
                self.progress(StatusCode::ACCEPTED, name, id, &upload)
            }
            Err(answer) => *answer,
        }
    }

    pub(super) async fn finish_upload(&self, name: &str, id: &str, asked: Asked) -> Answer {
        let Some(upload) = self.storage.upload(name, id) else {
            return error(StatusCode::NOT_FOUND, Code::BlobUploadUnknown);
        };
        self.close(name, id, &upload, asked).await
    }

    async fn close(&self, name: &str, id: &str, upload: &Arc<Upload>, asked: Asked) -> Answer {
        let Some(Ok(expected)) = asked.query("digest").map(str::parse::<Digest>) else {
            return error(StatusCode::BAD_REQUEST, Code::DigestInvalid);
        };
        let _turn = upload.turn.lock().await;
        if let Err(answer) = self.receive(name, id, upload, asked).await {
            return *answer;
        }
        let hashed = Arc::clone(upload);
        match task::blocking("hashing an upload", move || hashed.digest(expected.algorithm())).await {
            Ok(Ok(actual)) if actual == expected => {}
            Ok(Ok(_)) => {
                // What is there is not what was meant: nothing can be added to make it so.
                self.storage.forget_upload(id);
                return error(StatusCode::BAD_REQUEST, Code::DigestInvalid);
            }
            Ok(Err(error)) => return internal(&error),
            Err(error) => return internal(&error),
        }
        if let Err(error) = self.storage.keep_upload(upload, &expected) {
            return internal(&error);
        }
        self.storage.forget_upload(id);
        created(name, &expected)
    }

    /// Appends the body, if it is the piece that comes next. What has come before a cut stays.
    async fn receive(
        &self,
        name: &str,
        id: &str,
        upload: &Arc<Upload>,
        asked: Asked,
    ) -> Result<(), Box<Answer>> {
        let size = upload.size();
        let length = asked.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if let Some(text) = asked.header(CONTENT_RANGE) {
            let span = text
                .trim()
                .strip_prefix("bytes ")
                .unwrap_or(text.trim())
                .split('/')
                .next()
                .unwrap_or_default();
            let span = span
                .split_once('-')
                .and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
            let Some((first, last)) = span else {
                return Err(Box::new(error(StatusCode::BAD_REQUEST, Code::BlobUploadInvalid)));
            };
            let matching = last >= first && length.is_none_or(|length| length == last - first + 1);
            if first != size || !matching {
                let answer = self.progress(StatusCode::RANGE_NOT_SATISFIABLE, name, id, upload);
                return Err(Box::new(answer));
            }
        }
        let mut body = asked.body.into_data_stream();
        while let Some(chunk) = body.next().await {
            let Ok(chunk) = chunk else {
                return Err(Box::new(error(StatusCode::BAD_REQUEST, Code::SizeInvalid)));
            };
            if !chunk.is_empty() && upload.has_ended() {
                return Err(Box::new(error(StatusCode::BAD_REQUEST, Code::SizeInvalid)));
            }
            let into = Arc::clone(upload);
            match task::blocking("writing an upload", move || into.append(&chunk)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Box::new(internal(&error))),
                Err(error) => return Err(Box::new(internal(&error))),
            }
        }
        Ok(())
    }
}

fn created(name: &str, digest: &Digest) -> Answer {
    let mut answer = empty(StatusCode::CREATED);
    set(&mut answer, LOCATION, &format!("/v2/{name}/blobs/{digest}"));
    set(&mut answer, CONTENT_DIGEST, &digest.to_string());
    answer
}
