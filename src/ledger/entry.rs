//! `Entry`: a connection with what the ledger knows of it.

use std::time::{Duration, Instant};

/// A connection that counts in `open`, outside the ledger's own tables.
///
/// It is the permit of its slot: only the ledger makes one, and only `give_back`, `retire` and
/// `detach` end one. Whoever holds it must see to one of them even if it panics.
#[derive(Debug)]
pub(crate) struct Entry<C> {
    pub(crate) connection: C,
    /// Whether an earlier caller has had it.
    pub(crate) reused: bool,
    /// Whether it is lent as it came from its dial: if it is broken, another dial is no remedy.
    pub(crate) just_dialed: bool,
    /// When its dial ended.
    pub(super) opened_at: Instant,
    /// When it was last known to be alive: dialed, returned, or checked.
    pub(super) proven_at: Instant,
    /// The pool's generation when its dial *began*: what was begun before a flush ends with it.
    pub(super) generation: u64,
}

impl<C> Entry<C> {
    pub(super) fn new(connection: C, generation: u64, now: Instant) -> Self {
        Self {
            connection,
            reused: false,
            just_dialed: false,
            opened_at: now,
            proven_at: now,
            generation,
        }
    }

    /// How long ago its dial ended.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened_at)
    }
}
