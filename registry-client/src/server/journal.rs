//! Journal: what a registry was asked, in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;

/// Requests remembered; later ones are only counted.
const MAX_ENTRIES: usize = 100_000;

/// Requests in the order in which their headers arrived.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: Arc<Mutex<Vec<Arc<Record>>>>,
    count: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(super) struct Record {
    method: String,
    path: String,
    query: Option<String>,
    peer: SocketAddr,
    authorization: Option<String>,
    headers: BTreeMap<String, String>,
    status: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
}

/// One request, as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalEntry {
    /// The method, in capitals.
    pub method: String,
    /// The path, as it was sent.
    pub path: String,
    /// What stood behind the `?`.
    pub query: Option<String>,
    /// Who asked.
    pub peer: SocketAddr,
    /// The scheme of the `Authorization` header (`Basic`, `Bearer`), never its content.
    pub authorization: Option<String>,
    /// The other headers, with lower-case names.
    pub headers: BTreeMap<String, String>,
    /// The status that it was answered with; 0 when it has not been.
    pub status: u16,
    /// Bytes of body that came.
    pub received: u64,
    /// Bytes of body that went.
    pub sent: u64,
}

impl Journal {
    /// The entries so far.
    pub fn entries(&self) -> Vec<JournalEntry> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|record| record.entry()).collect()
    }

    /// How many requests there were.
    pub fn len(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the entries so far.
    pub fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.count.store(0, Ordering::Relaxed);
    }

    pub(super) fn begin(
        &self,
        method: &http::Method,
        uri: &http::Uri,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Arc<Record> {
        let scheme = headers.get(http::header::AUTHORIZATION).map(|value| {
            let text = value.to_str().unwrap_or_default();
            text.split(' ').next().unwrap_or_default().to_owned()
        });
        let plain = headers
            .iter()
            .filter(|(name, _)| *name != http::header::AUTHORIZATION)
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let record = Arc::new(Record {
            method: method.to_string(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            peer,
            authorization: scheme,
            headers: plain.collect(),
            status: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < MAX_ENTRIES {
            entries.push(Arc::clone(&record));
        }
        record
    }
}

impl Record {
    pub(super) fn answered(&self, status: u16) {
        self.status.store(u64::from(status), Ordering::Relaxed);
    }

    fn entry(&self) -> JournalEntry {
        JournalEntry {
            method: self.method.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            peer: self.peer,
            authorization: self.authorization.clone(),
            headers: self.headers.clone(),
            status: u16::try_from(self.status.load(Ordering::Relaxed)).unwrap_or(0),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}
