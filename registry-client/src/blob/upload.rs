//! Upload: the bytes of one blob into one session, or into the next when the registry loses it.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use image_core::{BlobSource, Descriptor, Digest, Reference};
use tokio::sync::mpsc;
use url::Url;

use super::session::{Session, received};
use crate::auth::{Action, ScopeSet};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::engine::{Call, CallBody, unexpected};
use crate::error::{Error, Result};
use crate::event::{Direction, Event};
use crate::manifest::stated_digest;
use crate::retry::is_retryable_status;
use crate::task;
use crate::transport::{Body, Response};

/// Read from the source at once, in bytes.
const READ: usize = 256 << 10;
/// Pieces between the source and the connection.
const PIPE: usize = 4;
/// Bytes between two progress events.
const EVENT_STEP: u64 = 1 << 20;
/// Progress that makes the retry policy count from the start again, in bytes.
const PROGRESS: u64 = 256 << 10;
/// Requests that may fail for one blob, however much progress each makes.
const MAX_FAILURES: u32 = 1000;

type SharedSource = Arc<Mutex<Box<dyn BlobSource>>>;

/// One blob on its way out.
pub(super) struct Upload<'u> {
    client: &'u Client,
    repository: &'u Reference,
    descriptor: Descriptor,
    source: SharedSource,
    /// Why the source could not be read; the connection only knows that its body ended.
    read_error: Arc<Mutex<Option<io::Error>>>,
    tries: u32,
    failures: u32,
    mark: u64,
}

/// What to do after a request of the upload.
enum Step {
    Done,
    /// Send the bytes from here on, in pieces.
    Continue(u64),
    /// The session is gone.
    Restart,
}

/// What became of an upload in one request.
pub(super) enum Single {
    Stored,
    /// The registry wants the bytes in a request of their own.
    Session(Box<Session>),
    Refused,
}

/// What a registry says that it has stored must be what was meant.
pub(super) fn check_stated(response: &Response, expected: &Digest) -> Result<()> {
    match stated_digest(response)? {
        Some(actual) if actual.algorithm() == expected.algorithm() && actual != *expected => {
            Err(Error::DigestMismatch {
                request: response.line().clone(),
                expected: Box::new(*expected),
                actual: Box::new(actual),
            })
        }
        _ => Ok(()),
    }
}

impl<'u> Upload<'u> {
    pub(super) fn new(
        client: &'u Client,
        repository: &'u Reference,
        descriptor: Descriptor,
        source: SharedSource,
    ) -> Self {
        let read_error = Arc::default();
        Self { client, repository, descriptor, source, read_error, tries: 0, failures: 0, mark: 0 }
    }

    /// Sends everything in one request; when that fails, the rest in pieces, from where the registry says it is.
    pub(super) async fn run(mut self, mut session: Session) -> Result<()> {
        let mut step = self.whole(&mut session).await?;
        loop {
            step = match step {
                Step::Done => break,
                Step::Restart => {
                    session.close();
                    session =
                        self.client.open_session(self.repository, self.descriptor.digest.algorithm()).await?;
                    Step::Continue(0)
                }
                Step::Continue(from) => self.piece(&mut session, from).await?,
            };
        }
        session.close();
        let (digest, direction) = (self.descriptor.digest, Direction::Upload);
        self.client.engine().tell(&Event::Done { digest, direction });
        Ok(())
    }

    /// `PUT Location?digest=` with the whole blob.
    async fn whole(&mut self, session: &mut Session) -> Result<Step> {
        let all = 0..self.descriptor.size;
        let url = self.closing_url(session);
        match self.send(Method::PUT, url, session, all, None).await {
            Ok(response) if response.is_success() => self.stored(&response),
            // A gateway with a limit per request.
            Ok(response) if response.status() == 413 => Ok(Step::Continue(0)),
            Ok(response) => self.failed_answer(session, response).await,
            Err(error) => self.failed(session, error).await,
        }
    }

    /// One `PATCH`, or the `PUT` that closes the session when everything is there.
    async fn piece(&mut self, session: &mut Session, from: u64) -> Result<Step> {
        let size = self.descriptor.size;
        if from >= size {
            let url = self.closing_url(session);
            return match self.send(Method::PUT, url, session, size..size, None).await {
                Ok(response) if response.is_success() => self.stored(&response),
                Ok(response) => self.failed_answer(session, response).await,
                Err(error) => self.failed(session, error).await,
            };
        }
        let length = self.client.upload().chunk.max(session.min_chunk());
        let to = from.saturating_add(length).min(size);
        let url = session.url().clone();
        match self.send(Method::PATCH, url, session, from..to, Some(from..to)).await {
            Ok(response) if response.is_success() => {
                session.moved(&response)?;
                // The registry may have taken less than it was given.
                let reached =
                    if response.header(http::header::RANGE).is_some() { received(&response) } else { to };
                if reached < from || reached > to {
                    let what = format!("has {reached} bytes after it was given {from} to {to}");
                    return Err(Error::Protocol { request: response.line().clone(), what });
                }
                if reached == from {
                    let what = "takes no bytes of a piece".to_owned();
                    return Err(Error::Protocol { request: response.line().clone(), what });
                }
                Ok(Step::Continue(reached))
            }
            Ok(response) => self.failed_answer(session, response).await,
            Err(error) => self.failed(session, error).await,
        }
    }

    /// Everything with the request that opens the upload (distribution-spec, "Single POST").
    pub(super) async fn single(&self, endpoint: &Endpoint) -> Result<Single> {
        let path = self.repository.path();
        let mut url = endpoint.repository_url(path, &["blobs", "uploads", ""]);
        url.query_pairs_mut().append_pair("digest", &self.descriptor.digest.to_string());
        let scopes = ScopeSet::repository(path, &[Action::Pull, Action::Push]);
        let make = || self.body(0..self.descriptor.size);
        let empty = self.descriptor.size == 0;
        let body = if empty { CallBody::Bytes(Bytes::new()) } else { CallBody::Stream(&make) };
        let mut call = Call::new(Method::POST, url, endpoint).scopes(path, scopes).body(body);
        call = call.header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        call.retry = false;
        let response = match self.client.engine().call(call).await {
            Ok(response) => response,
            // The other way has its own retries.
            Err(error) if error.is_retryable() => return Ok(Single::Refused),
            Err(error) => return Err(error),
        };
        match response.status() {
            201 => {
                check_stated(&response, &self.descriptor.digest)?;
                let (digest, direction) = (self.descriptor.digest, Direction::Upload);
                self.client.engine().tell(&Event::Done { digest, direction });
                Ok(Single::Stored)
            }
            202 => {
                let opened =
                    Session::from_response(self.client, self.repository, endpoint.clone(), &response)?;
                Ok(Single::Session(Box::new(opened)))
            }
            status if is_retryable_status(status) || matches!(status, 400 | 404 | 405 | 411 | 413) => {
                Ok(Single::Refused)
            }
            _ => Err(unexpected(response).await),
        }
    }

    fn stored(&self, response: &Response) -> Result<Step> {
        check_stated(response, &self.descriptor.digest)?;
        Ok(Step::Done)
    }

    async fn failed_answer(&mut self, session: &mut Session, response: Response) -> Result<Step> {
        match response.status() {
            404 => {
                let error = response.into_error().await;
                self.count(error).await?;
                session.close();
                Ok(Step::Restart)
            }
            // The registry is at another byte than we are: it says at which.
            416 => {
                let error = response.into_error().await;
                self.count(error).await?;
                self.ask(session).await
            }
            status if is_retryable_status(status) => {
                let error = response.into_error().await;
                self.failed(session, error).await
            }
            _ => Err(unexpected(response).await),
        }
    }

    async fn failed(&mut self, session: &mut Session, error: Error) -> Result<Step> {
        if let Some(source) = self.read_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Error::BlobRead { digest: self.descriptor.digest, source });
        }
        if !error.is_retryable() {
            return Err(error);
        }
        self.count(error).await?;
        self.ask(session).await
    }

    /// Waits as the policy says, or gives up with `error`.
    async fn count(&mut self, error: Error) -> Result<()> {
        self.tries += 1;
        self.failures += 1;
        let engine = self.client.engine();
        let asked = error.answer().and_then(|answer| answer.retry_after);
        let wait = engine.retry.wait(self.tries, asked, engine.dice());
        let (Some(wait), Some(request)) = (wait.filter(|_| self.failures <= MAX_FAILURES), error.request())
        else {
            return Err(error);
        };
        engine.wait(request.clone(), self.tries, wait, error.to_string()).await;
        Ok(())
    }

    /// Where the registry is.
    async fn ask(&mut self, session: &mut Session) -> Result<Step> {
        let Some(offset) = session.received().await? else {
            // Either lost, or the request whose answer was cut did close it.
            let push = [Action::Pull, Action::Push];
            let there = self.client.blob_exists_with(self.repository, &self.descriptor, &push).await?;
            return Ok(if there { Step::Done } else { Step::Restart });
        };
        let offset = offset.min(self.descriptor.size);
        if offset >= self.mark + PROGRESS {
            self.tries = 0;
            self.mark = offset;
        }
        let (digest, direction) = (self.descriptor.digest, Direction::Upload);
        self.client.engine().tell(&Event::Resumed { digest, direction, offset });
        Ok(Step::Continue(offset))
    }

    fn closing_url(&self, session: &Session) -> Url {
        let mut url = session.url().clone();
        url.query_pairs_mut().append_pair("digest", &self.descriptor.digest.to_string());
        url
    }

    async fn send(
        &self,
        method: Method,
        url: Url,
        session: &Session,
        range: Range<u64>,
        content_range: Option<Range<u64>>,
    ) -> Result<Response> {
        let endpoint = session.endpoint();
        let path = self.repository.path();
        let scopes = ScopeSet::repository(path, &[Action::Pull, Action::Push]);
        let empty = range.is_empty();
        let make = || self.body(range.clone());
        let body = if empty { CallBody::Bytes(Bytes::new()) } else { CallBody::Stream(&make) };
        let mut call = Call::new(method, url, endpoint).scopes(path, scopes).body(body);
        call.reach = session.reach();
        call.retry = false;
        if empty {
            call = call.header(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        call = call.header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Some(range) = content_range
            && let Ok(value) =
                HeaderValue::try_from(format!("{}-{}", range.start, range.end.saturating_sub(1)))
        {
            call = call.header(CONTENT_RANGE, value);
        }
        self.client.engine().call(call).await
    }

    /// The bytes of `range` as a body. They are read on a thread that may block, which ends when the body does.
    fn body(&self, range: Range<u64>) -> Body {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIPE);
        let (source, read_error) = (Arc::clone(&self.source), Arc::clone(&self.read_error));
        let length = range.end - range.start;
        let start = range.start;
        task::spawn_blocking(move || {
            let opened = source.lock().unwrap_or_else(PoisonError::into_inner).open_range(range);
            let outcome = opened.and_then(|reader| pump(reader, length, &sender));
            if let Err(error) = outcome {
                let told = io::Error::new(error.kind(), error.to_string());
                *read_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                // Nobody may be listening any more.
                drop(sender.blocking_send(Err(told)));
            }
        });
        let (client, digest, total) = (self.client.clone(), self.descriptor.digest, self.descriptor.size);
        let mut done = start;
        let mut told = start;
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|item| (item, receiver))
        });
        let stream = stream.inspect(move |item| {
            done += item.as_ref().map_or(0, |chunk| chunk.len() as u64);
            if done - told >= EVENT_STEP || done == total {
                told = done;
                client.engine().tell(&Event::Bytes { digest, direction: Direction::Upload, done, total });
            }
        });
        Body::stream(stream.boxed(), Some(length))
    }
}

/// Reads exactly `length` bytes into the channel; ends quietly when nobody takes them any more.
fn pump(
    mut reader: Box<dyn Read + Send>,
    length: u64,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(READ).min(READ);
        let mut chunk = vec![0; want];
        let mut filled = 0;
        while filled < want {
            match reader.read(chunk.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => {
                    let what = "the blob is shorter than its descriptor says";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        left -= want as u64;
        if sender.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
