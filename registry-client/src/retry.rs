//! What is tried again, how often, and after what wait.

use std::time::Duration;

use crate::error::{Error, TransportFailure};

/// How stubborn the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How often a request is sent at most. Default 5.
    pub attempts: u32,
    /// Wait before the second try; each further wait is twice as long. Default 200 ms.
    pub base: Duration,
    /// Longest wait of our own choosing. Default 10 s.
    pub cap: Duration,
    /// Longest wait that a registry may ask for; if it asks for more, its answer is returned. Default 60 s.
    pub longest_asked: Duration,
    /// How often a server that could not be reached at all is tried. Default 2.
    pub connect_attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(200),
            cap: Duration::from_secs(10),
            longest_asked: Duration::from_secs(60),
            connect_attempts: 2,
        }
    }
}

impl RetryPolicy {
    /// One try and no more.
    pub fn never() -> Self {
        Self { attempts: 1, connect_attempts: 1, ..Self::default() }
    }

    /// The wait before the next try after `attempt` tries, or `None` to give up. `asked` is the registry's
    /// `Retry-After`, `dice` a number that differs from client to client.
    pub(crate) fn wait(&self, attempt: u32, asked: Option<Duration>, dice: u64) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        if let Some(asked) = asked {
            return (asked <= self.longest_asked).then_some(asked);
        }
        let doubled = self.base.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(self.cap);
        // Between half and whole: many clients that were cut at once must not come back at once.
        let micros = u64::try_from(doubled.as_micros()).unwrap_or(u64::MAX);
        Some(Duration::from_micros(micros / 2 + dice % (micros / 2 + 1)))
    }

    /// Whether `error` is worth another try, and after how long.
    pub(crate) fn after_error(&self, error: &Error, attempt: u32, dice: u64) -> Option<Duration> {
        if !error.is_retryable() {
            return None;
        }
        let unreachable = |failure: TransportFailure| {
            matches!(failure, TransportFailure::Resolve | TransportFailure::Connect)
        };
        if let Error::Transport { failure, .. } = error
            && unreachable(*failure)
            && attempt >= self.connect_attempts
        {
            return None;
        }
        self.wait(attempt, error.answer().and_then(|answer| answer.retry_after), dice)
    }
}

/// Whether an answer with this status is worth another try.
pub(crate) fn is_retryable_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_then_end() {
        let policy = RetryPolicy { attempts: 12, ..RetryPolicy::default() };
        let mut last = Duration::ZERO;
        for attempt in 1..12 {
            let longest = policy.wait(attempt, None, u64::MAX).unwrap();
            assert!(longest <= policy.cap);
            assert!(policy.wait(attempt, None, 0).unwrap() >= last / 4);
            last = longest;
        }
        assert_eq!(policy.wait(12, None, 0), None);
    }

    #[test]
    fn what_the_registry_asks_for_is_what_it_gets() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wait(1, Some(Duration::from_secs(7)), 3), Some(Duration::from_secs(7)));
        assert_eq!(policy.wait(1, Some(Duration::from_secs(3600)), 3), None);
    }
}
