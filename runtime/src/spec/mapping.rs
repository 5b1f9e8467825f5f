//! The ids of a user namespace.

use serde::{Deserialize, Serialize};

/// Which ids exist in a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserMapping {
    pub(super) uids: Vec<IdRange>,
    pub(super) gids: Vec<IdRange>,
}

/// A range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl UserMapping {
    /// One user and one group: they are 0 inside. Needs no preparation of the host.
    #[must_use]
    pub fn single(uid: u32, gid: u32) -> Self {
        let range = |outside| vec![IdRange { inside: 0, outside, count: 1 }];
        Self { uids: range(uid), gids: range(gid) }
    }

    /// Ranges of ids. As an ordinary user all but one's own id need `newuidmap` and `/etc/subuid`.
    #[must_use]
    pub fn ranges(uids: impl Into<Vec<IdRange>>, gids: impl Into<Vec<IdRange>>) -> Self {
        Self { uids: uids.into(), gids: gids.into() }
    }

    /// The ranges of users and of groups.
    pub(crate) fn into_ranges(self) -> (Vec<IdRange>, Vec<IdRange>) {
        (self.uids, self.gids)
    }

    /// Whether a group id exists inside.
    pub(super) fn has_gid(&self, id: u32) -> bool {
        self.gids.iter().any(|range| id >= range.inside && id - range.inside < range.count)
    }
}
