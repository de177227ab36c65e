//! `Entry`: a connection with what the ledger knows of it.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use super::spread::Share;

/// A connection that counts in `open`, outside the ledger's own tables.
///
/// It is the permit of its slot: only the ledger makes one, and only `give_back`, `retire`,
/// `detach` and their like end one. Whoever holds it must see to one of them even if it panics.
/// Behind a box, so that it moves between threads as one word.
#[derive(Debug)]
pub(crate) struct Entry<C>(Box<Body<C>>);

/// Two entries never share a cache line: different threads write to them at the same time.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Body<C> {
    pub(crate) connection: C,
    /// Whether an earlier caller has had it.
    pub(crate) reused: bool,
    /// Whether it is lent as it came from its dial: if it is broken, another dial is no remedy.
    pub(crate) just_dialed: bool,
    /// The epoch in which the ledger last let it pass; at first that in which its dial *began*.
    pub(crate) epoch: u32,
    pub(crate) unseen: Unseen,
    /// When it has to end, by the same clock as `unseen`; 0 is not known out of the ledger's sight,
    /// which must be asked.
    pub(crate) expires: u64,
    /// Whether nobody had had it when it was laid out: then its first unseen loan was no reuse.
    pub(super) was_fresh: bool,
    /// Whether its end is near: noted while it is idle.
    pub(super) is_leaving: bool,
    /// By what part of the jitters it acts early.
    pub(super) share: Share,
    /// When its dial ended.
    pub(super) opened_at: Instant,
    /// When it last came to rest after a dial or a loan. A check is neither.
    pub(super) idle_since: Instant,
    /// When it was last known to be alive: dialed, returned, or checked.
    pub(super) proven_at: Instant,
}

// With a connection of one word it fills two lines.
const _: () = assert!(size_of::<Body<u64>>() <= 128);

/// What has become of a connection out of the ledger's sight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unseen {
    /// How often it was lent, and is not counted yet.
    pub(crate) lent: u64,
    /// Since when it rests there or is lent, by a clock that the ledger does not read.
    pub(crate) since: u64,
}

impl<C> Entry<C> {
    pub(super) fn new(connection: C, epoch: u32, share: Share, now: Instant) -> Self {
        Self(Box::new(Body {
            connection,
            reused: false,
            just_dialed: false,
            epoch,
            unseen: Unseen::default(),
            expires: 0,
            was_fresh: false,
            is_leaving: false,
            share,
            opened_at: now,
            idle_since: now,
            proven_at: now,
        }))
    }

    pub(super) fn into_connection(self) -> C {
        self.0.connection
    }

    /// Tells it from every other entry for as long as it exists: it stays where it is on the heap.
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref::<Body<C>>(&self.0).addr()
    }

    /// How long ago its dial ended.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened_at)
    }
}

impl<C> Deref for Entry<C> {
    type Target = Body<C>;

    fn deref(&self) -> &Body<C> {
        &self.0
    }
}

impl<C> DerefMut for Entry<C> {
    fn deref_mut(&mut self) -> &mut Body<C> {
        &mut self.0
    }
}
