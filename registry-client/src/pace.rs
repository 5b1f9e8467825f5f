//! Pace: how many requests a server gets at once, and fewer of them after it has said "too many".
//!
//! ```text
//!   limit ▲      ╱╲          ╱       one more per round of answers, half as many after a 429
//!         │    ╱    ╲      ╱         (additive increase, multiplicative decrease)
//!         │  ╱        ╲__╱
//! ```
//!
//! A request counts until its answer begins. Bodies do not: whoever reads one slowly must not hold the others up, and
//! the body of an upload may itself be the answer to another request of the same server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::origin::Origin;

/// The paces of all servers.
#[derive(Debug)]
pub(crate) struct Paces {
    most: usize,
    hosts: Mutex<BTreeMap<Origin, Arc<Pace>>>,
}

/// The pace of one server.
#[derive(Debug)]
pub(crate) struct Pace {
    most: f64,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    /// How many requests may be on their way; the whole part counts.
    limit: f64,
    flying: usize,
    /// Answers of requests that were sent before the last slow-down say nothing new.
    epoch: u64,
}

/// The right to have a request on its way.
#[derive(Debug)]
pub(crate) struct Turn {
    pace: Arc<Pace>,
    epoch: u64,
}

impl Paces {
    /// At most `most` requests per server at once.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), hosts: Mutex::default() }
    }

    pub(crate) fn of(&self, origin: &Origin) -> Arc<Pace> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pace) = hosts.get(origin) {
            return Arc::clone(pace);
        }
        #[expect(clippy::cast_precision_loss, reason = "nobody sends so many requests at once")]
        let most = self.most as f64;
        let state = Mutex::new(State { limit: most, flying: 0, epoch: 0 });
        let pace = Arc::new(Pace { most, state, freed: Notify::new() });
        hosts.insert(origin.clone(), Arc::clone(&pace));
        pace
    }
}

impl Pace {
    /// Waits until a request may be sent.
    pub(crate) async fn turn(self: &Arc<Self>) -> Turn {
        loop {
            // Registered before the look, so that what is freed in between is not missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(turn) = self.try_turn() {
                return turn;
            }
            freed.await;
        }
    }

    fn try_turn(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.lock();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and the most that a user asked for"
        )]
        let limit = state.limit as usize;
        if state.flying >= limit {
            return None;
        }
        state.flying += 1;
        Some(Turn { pace: Arc::clone(self), epoch: state.epoch })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests may be on their way now.
    #[cfg(test)]
    fn limit(&self) -> f64 {
        self.lock().limit
    }
}

impl Turn {
    /// The server answered without complaint.
    pub(crate) fn well(&self) {
        let mut state = self.pace.lock();
        if state.epoch == self.epoch && state.limit < self.pace.most {
            state.limit = (state.limit + 1.0 / state.limit).min(self.pace.most);
            drop(state);
            self.pace.freed.notify_one();
        }
    }

    /// The server said that it gets too many requests.
    pub(crate) fn too_many(&self) {
        let mut state = self.pace.lock();
        // One slow-down for all that were on their way at that time.
        if state.epoch == self.epoch {
            state.epoch += 1;
            state.limit = (state.limit / 2.0).max(1.0);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pace.lock().flying -= 1;
        self.pace.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(most: usize) -> Arc<Pace> {
        Paces::new(most).of(&Origin::of(&"https://a.example/".parse().unwrap()).unwrap())
    }

    #[test]
    fn half_after_too_many_and_slowly_up_again() {
        let pace = pace(16);
        let turns: Vec<Turn> = std::iter::from_fn(|| pace.try_turn()).collect();
        assert_eq!(turns.len(), 16);
        turns.iter().for_each(Turn::too_many);
        assert_eq!(pace.limit(), 8.0, "one slow-down, not sixteen");
        turns.iter().for_each(Turn::well);
        assert_eq!(pace.limit(), 8.0, "answers to older requests say nothing");
        drop(turns);
        for _ in 0..8 {
            pace.try_turn().unwrap().well();
        }
        assert!(pace.limit() > 8.9 && pace.limit() < 9.1, "{}", pace.limit());
        for _ in 0..1000 {
            pace.try_turn().unwrap().well();
        }
        assert_eq!(pace.limit(), 16.0);
        for _ in 0..20 {
            pace.try_turn().unwrap().too_many();
        }
        assert_eq!(pace.limit(), 1.0);
        assert!(pace.try_turn().is_some(), "never none at all");
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let pace = pace(1);
        let first = pace.turn().await;
        let waiting = tokio::spawn({
            let pace = Arc::clone(&pace);
            async move { drop(pace.turn().await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }
}
