//! `Entry`: a connection with what the ledger knows of it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::moment::{Moment, TICK_MOST};

use super::roster::{LINES, LoanRecord, Page};
use super::spread::Fraction;

/// A connection together with the right to its slot.
///
/// Only the ledger makes one, and only an event such as `give_back`, `retire` or `detach` ends one.
/// The holder must report one of these even if it panics. The content is boxed, so that an entry
/// moves between threads as one word.
#[derive(Debug)]
pub(crate) struct Entry<C>(Box<Body<C>>);

/// The content of an entry. Only the holder of the entry reads and writes it: the ledger under its
/// lock, a place, or a borrower.
///
/// Aligned to a cache line, as different threads write to different entries at the same time.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Body<C> {
    pub(crate) connection: C,
    /// Whether it is lent straight from its dial. If it is broken then, another dial would not help.
    /// Written by the ledger, read by the borrower.
    pub(crate) just_dialed: bool,
    /// Whether the borrower has to check it first. Written by the ledger, read by the borrower.
    pub(crate) must_check: bool,
    /// The epoch in which the ledger last let it pass; at first the epoch in which its dial *began*.
    /// Written by the ledger, compared with the gate's epoch by a thread that returns it to a place.
    pub(crate) epoch: u32,
    /// When it has to end, by a coarse clock; `Moment::FIRST`: only the ledger can tell. Written by the
    /// ledger, read by borrowers and places.
    pub(crate) expires: Moment,
    /// Whether its end is near, so that a successor may be dialed. Meaningful while it is idle.
    pub(super) is_leaving: bool,
    /// The part of each jitter by which it ends, or is checked, early.
    pub(super) fraction: Fraction,
    /// When it last came to rest after a dial or a loan; a check does not count. A return to a place
    /// writes it by the coarse clock, which is never ahead: so a rest from before a doubt never seems
    /// to have begun after it.
    pub(super) idle_since: Moment,
    /// When it was last known to be alive: dialed, returned, or checked.
    pub(super) proven_at: Moment,
    /// Its record is `page[line]`. A type for the two would be padded.
    page: Arc<Page>,
    line: u8,
}

// With a connection of one word it fills one cache line.
const _: () = assert!(size_of::<Body<u64>>() <= 64);

impl<C> Entry<C> {
    pub(super) fn new(
        connection: C,
        epoch: u32,
        fraction: Fraction,
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
            fraction,
            idle_since: opened_at,
            proven_at: opened_at,
            page,
            line,
        }))
    }

    /// The connection, with the page and line of its record.
    pub(super) fn into_parts(self) -> (C, Arc<Page>, u8) {
        let body = *self.0;
        (body.connection, body.page, body.line)
    }

    /// The connection alone. The ledger must not learn of it: it is a copy of another process's.
    pub(crate) fn into_connection(self) -> C {
        self.0.connection
    }

    #[inline]
    pub(crate) fn record(&self) -> &LoanRecord {
        // The remainder changes nothing, and spares the bounds check.
        &self.0.page[usize::from(self.0.line) % LINES]
    }

    /// Whether it was lent before its latest loan.
    pub(crate) fn is_reused(&self) -> bool {
        self.record().loans() > 1
    }

    /// The ledger has passed it in `epoch`. If the epoch is a new one, its known end is forgotten: the
    /// limits may have changed since.
    pub(super) fn pass(&mut self, epoch: u32) {
        if self.epoch != epoch {
            (self.epoch, self.expires) = (epoch, Moment::FIRST);
        }
    }

    /// Notes when it has to end. Outside the ledger that is compared with a coarse clock, which may be
    /// late by `TICK_MOST`.
    pub(super) fn set_end(&mut self, end: Moment) {
        let is_endless = end == Moment::LAST;
        self.0.expires = if is_endless { end } else { end.before(TICK_MOST).unwrap_or(end) };
    }

    /// When it has to end; `Moment::LAST` is never, `None` is not known.
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
