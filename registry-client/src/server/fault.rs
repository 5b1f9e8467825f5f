//! Faults: a registry that misbehaves where it is told to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderName, Method, StatusCode, Uri};

use super::answer::{Answer, Code, error, set, with_body};
use super::connection::Connection;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Answers with this status instead.
    Status(u16),
    /// Answers with this status and these headers instead.
    Answer(u16, Vec<(String, String)>),
    /// Answers with this status and this JSON instead.
    Json(u16, String),
    /// Waits before it answers.
    Delay(Duration),
    /// Ends the connection after this many bytes of the answer's body.
    CutResponse(u64),
    /// Ends the connection after this many bytes of the request's body.
    CutRequest(u64),
    /// Sends the client somewhere else with this status.
    Redirect(u16, String),
    /// Sets a header of the answer.
    Header(String, String),
    /// Takes a header from the answer.
    NoHeader(String),
    /// Answers with other bytes of the same length: a lie.
    Corrupt,
}

/// One rule: which requests, how many, and what happens to them.
#[derive(Clone, Debug)]
#[must_use]
pub struct Fault {
    method: Option<String>,
    path: String,
    after: u32,
    times: Option<u32>,
    /// Requests per second that pass.
    budget: Option<u32>,
    /// The current second, and what has passed in it.
    window: Option<(Instant, u32)>,
    action: Action,
}

impl Fault {
    /// For every request.
    pub fn new(action: Action) -> Self {
        Self { method: None, path: String::new(), after: 0, times: None, budget: None, window: None, action }
    }

    /// Only for this method.
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only when the path contains this text.
    pub fn path(mut self, part: &str) -> Self {
        part.clone_into(&mut self.path);
        self
    }

    /// Lets so many matching requests pass first.
    pub fn after(mut self, count: u32) -> Self {
        self.after = count;
        self
    }

    /// Lets so many matching requests pass in each second, and happens to the others: a rate limit.
    pub fn beyond(mut self, per_second: u32) -> Self {
        self.budget = Some(per_second);
        self
    }

    /// Happens so many times, then no more.
    pub fn times(mut self, count: u32) -> Self {
        self.times = Some(count);
        self
    }
}

impl Fault {
    fn is_within_budget(&mut self) -> bool {
        let Some(budget) = self.budget else { return false };
        let now = Instant::now();
        let (start, passed) = match self.window {
            Some((start, passed)) if now.duration_since(start) < Duration::from_secs(1) => (start, passed),
            _ => (now, 0),
        };
        self.window = Some((start, passed + 1));
        passed < budget
    }
}

/// The rules of a registry; the first that matches is the one.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    pub(super) fn add(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn matching(&self, method: &Method, uri: &Uri) -> Option<Action> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in faults.iter_mut() {
            let matches = fault.method.as_deref().is_none_or(|wanted| wanted == method.as_str())
                && uri.path().contains(&fault.path);
            if !matches || fault.times == Some(0) {
                continue;
            }
            if fault.is_within_budget() {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            if let Some(times) = fault.times.as_mut() {
                *times -= 1;
            }
            return Some(fault.action.clone());
        }
        None
    }
}

impl Action {
    /// The answer, for faults that need no handler.
    pub(super) async fn before(&self, connection: &Connection) -> Option<Answer> {
        match self {
            Self::Delay(time) => {
                tokio::time::sleep(*time).await;
                None
            }
            Self::Status(status) => Some(Self::plain(*status)),
            Self::Answer(status, headers) => {
                let mut answer = Self::plain(*status);
                for (name, value) in headers {
                    if let Ok(name) = HeaderName::try_from(name.as_str()) {
                        set(&mut answer, name, value);
                    }
                }
                Some(answer)
            }
            Self::Json(status, text) => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Some(with_body(status, "application/json", text.clone().into()))
            }
            Self::Redirect(status, target) => {
                let mut answer = Self::plain(*status);
                set(&mut answer, http::header::LOCATION, target);
                Some(answer)
            }
            Self::CutRequest(0) => {
                connection.cut();
                Some(Self::plain(500))
            }
            _ => None,
        }
    }

    fn plain(status: u16) -> Answer {
        error(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Code::Unknown)
    }

    pub(super) fn request_body(&self, body: Body, connection: &Connection) -> Body {
        let Self::CutRequest(limit) = self else { return body };
        let connection = connection.clone();
        Body::from_stream(cut_after(body, *limit, move || connection.cut()))
    }

    pub(super) fn after(&self, mut answer: Answer, connection: &Connection) -> Answer {
        match self {
            Self::Header(name, value) => {
                if let Ok(name) = HeaderName::try_from(name.as_str()) {
                    set(&mut answer, name, value);
                }
                answer
            }
            Self::NoHeader(name) => {
                answer.headers_mut().remove(name.as_str());
                answer
            }
            Self::CutResponse(limit) => {
                let connection = connection.clone();
                answer.map(|body| Body::from_stream(cut_after(body, *limit, move || connection.cut())))
            }
            Self::Corrupt => answer.map(|body| {
                Body::from_stream(body.into_data_stream().map(|chunk| {
                    chunk.map(|chunk| Bytes::from(chunk.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()))
                }))
            }),
            _ => answer,
        }
    }
}

/// Passes `limit` bytes, then calls `cut` and fails.
fn cut_after(
    body: Body,
    limit: u64,
    cut: impl Fn() + Send + 'static,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let state = (body.into_data_stream(), limit, cut, false);
    futures_util::stream::unfold(state, |(mut body, left, cut, ended)| async move {
        if ended {
            return None;
        }
        if left == 0 {
            // What was passed on should leave first.
            tokio::task::yield_now().await;
            cut();
            let error = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
            return Some((Err(error), (body, 0, cut, true)));
        }
        match body.next().await? {
            Ok(chunk) => {
                let take = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                Some((Ok(chunk.slice(..take)), (body, left - take as u64, cut, false)))
            }
            Err(error) => Some((Err(std::io::Error::other(error)), (body, left, cut, true))),
        }
    })
}
