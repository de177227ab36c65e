//! `Entry`: a connection with what the ledger knows of it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use crate::moment::{Moment, TICK_MOST};

use super::roster::{LINES, Page, Record};
use super::spread::Share;

/// A connection that counts in `open`, outside the ledger's own tables.
///
/// It is the permit of its slot: only the ledger makes one, and only `give_back`, `retire`,
/// `detach` and their like end one. Whoever holds it must see to one of them even if it panics.
/// Behind a box, so that it moves between threads as one word.
#[derive(Debug)]
pub(crate) struct Entry<C>(Box<Body<C>>);

/// Whoever has the entry reads and writes it, alone: the ledger under its lock, a borrower outside.
///
/// Two entries never share a cache line: different threads write to them at the same time.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Body<C> {
    pub(crate) connection: C,
    /// Whether it is lent as it came from its dial: if it is broken, another dial is no remedy.
    pub(crate) just_dialed: bool,
    /// Whether it is lent to a caller who has to check it first.
    pub(crate) must_check: bool,
    /// The epoch in which the ledger last let it pass; at first that in which its dial *began*.
    pub(crate) epoch: u32,
    /// When it has to end, as far as is known out of the ledger's sight: at `Moment::FIRST`, the
    /// ledger must be asked. Written under the ledger's lock, read by whoever has the entry.
    pub(crate) expires: Moment,
    /// Whether its end is near: noted while it is idle.
    pub(super) is_leaving: bool,
    /// By what part of the jitters it acts early.
    pub(super) share: Share,
    /// When it last came to rest after a dial or a loan. A check is neither. A return out of the
    /// ledger's sight writes it by the coarse clock, rather too early than after a doubt.
    pub(super) idle_since: Moment,
    /// When it was last known to be alive: dialed, returned, or checked.
    pub(super) proven_at: Moment,
    /// Where its record is. Two fields and no type of their own, which would be padded.
    page: Arc<Page>,
    line: u8,
}

// With a connection of one word it fills one line.
const _: () = assert!(size_of::<Body<u64>>() <= 64);

impl<C> Entry<C> {
    pub(super) fn new(
        connection: C,
        epoch: u32,
        share: Share,
        (page, line): (Arc<Page>, u8),
    ) -> Self {
        let opened_at = page[usize::from(line)].opened_at();
        Self(Box::new(Body {
            connection,
            just_dialed: false,
            must_check: false,
            epoch,
            expires: Moment::FIRST,
            is_leaving: false,
            share,
            idle_since: opened_at,
            proven_at: opened_at,
            page,
            line,
        }))
    }

    /// The connection, and where its record is.
    pub(super) fn into_parts(self) -> (C, Arc<Page>, u8) {
        let body = *self.0;
        (body.connection, body.page, body.line)
    }

    /// The connection alone, of which the ledger is not told: it is another process's.
    pub(crate) fn into_connection(self) -> C {
        self.0.connection
    }

    /// What others may know of it.
    #[inline]
    pub(crate) fn record(&self) -> &Record {
        // Within bounds as it is; so said, nothing need be checked.
        &self.0.page[usize::from(self.0.line) % LINES]
    }

    /// Whether an earlier caller has had it.
    pub(crate) fn is_reused(&self) -> bool {
        self.record().loans() > 1
    }

    /// Notes when it has to end: out of the ledger's sight by a coarse reading, which is late.
    pub(super) fn date(&mut self, end: Moment) {
        let is_endless = end == Moment::LAST;
        self.0.expires = if is_endless { end } else { end.before(TICK_MOST).unwrap_or(end) };
    }

    /// When it has to end, if that is noted; `Moment::LAST` is never.
    #[inline]
    pub(super) fn known_end(&self) -> Option<Moment> {
        let expires = self.0.expires;
        (expires != Moment::FIRST).then(|| expires.after_nanos(TICK_MOST.as_nanos() as u64))
    }

    /// When its dial ended.
    pub(super) fn opened_at(&self) -> Moment {
        self.record().opened_at()
    }

    pub(crate) fn idle_since(&self) -> Moment {
        self.0.idle_since
    }

    /// A loan has ended, and the connection is sound.
    #[inline]
    pub(crate) fn come_to_rest(&mut self, now: Moment) {
        (self.idle_since, self.proven_at) = (now, now);
    }

    /// It is alive at that moment.
    pub(crate) fn prove(&mut self, now: Moment) {
        self.proven_at = now;
    }

    /// Tells it from every other entry for as long as it exists: it stays where it is on the heap.
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref::<Body<C>>(&self.0).addr()
    }

    /// How long ago its dial ended.
    pub(crate) fn age(&self, now: Moment) -> Duration {
        now.since(self.opened_at())
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
