//! What happens during a transfer, as it happens.

use std::time::Duration;

use image_core::Digest;

use crate::error::RequestLine;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the registry.
    Download,
    /// To the registry.
    Upload,
}

/// One step of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A blob will be transferred once it is its turn.
    Queued {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// The registry has the blob already.
    Exists {
        /// The blob.
        digest: Digest,
    },
    /// The registry took the blob from another of its repositories.
    Mounted {
        /// The blob.
        digest: Digest,
        /// The repository that it was taken from.
        from: String,
    },
    /// Bytes have passed.
    Bytes {
        /// The blob.
        digest: Digest,
        /// Which way.
        direction: Direction,
        /// How many so far, in bytes; goes back when an upload starts again.
        done: u64,
        /// How many there are, in bytes.
        total: u64,
    },
    /// A transfer goes on where it was cut.
    Resumed {
        /// The blob.
        digest: Digest,
        /// Which way.
        direction: Direction,
        /// From which byte on.
        offset: u64,
    },
    /// A blob is where it should be, and verified.
    Done {
        /// The blob.
        digest: Digest,
        /// Which way.
        direction: Direction,
    },
    /// A manifest has been stored under its tag or digest.
    ManifestPushed {
        /// The manifest.
        digest: Digest,
    },
    /// A request will be sent again.
    Retry {
        /// The request.
        request: RequestLine,
        /// How many times it has been sent.
        attempt: u32,
        /// How long to wait before.
        wait: Duration,
        /// What went wrong.
        reason: String,
    },
    /// A mirror did not give what was asked for; the next server is asked.
    MirrorPassedOver {
        /// The mirror.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// The registry has something to say to the user (`Warning: 299`); told once per text.
    Warning {
        /// The registry.
        host: String,
        /// Its words.
        text: String,
    },
    /// How much the registry will still give to this client.
    RateLimit {
        /// The registry.
        host: String,
        /// What is left of the current window.
        remaining: u64,
        /// What a whole window has, when it says so.
        limit: Option<u64>,
    },
}

/// Takes events. It is called on the tasks that transfer: quick work only.
pub trait EventSink: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> EventSink for F {
    fn event(&self, event: &Event) {
        self(event);
    }
}
