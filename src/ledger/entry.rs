//! `Entry`: a connection with what the ledger knows of it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Stamp;
use super::roster::{LINES, Page, Record};

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
    /// Whether it is lent as it came from its dial: if it is broken, another dial is no remedy.
    pub(crate) just_dialed: bool,
    /// The pool's generation when its dial *began*: what was begun under an older one ends with it.
    pub(crate) generation: u32,
    /// Since when it rests out of the ledger's sight, by a clock that the ledger does not read.
    pub(crate) rests_since: u64,
    /// When it was last known to be alive: dialed, returned, or checked.
    pub(super) proven_at: Stamp,
    /// Where its record is. Two fields and no type of their own, which would be padded.
    page: Arc<Page>,
    line: u8,
}

// With a connection of one word it fills one line.
const _: () = assert!(size_of::<Body<u64>>() <= 64);

impl<C> Entry<C> {
    pub(super) fn new(
        connection: C,
        generation: u32,
        opened_at: Stamp,
        (page, line): (Arc<Page>, u8),
    ) -> Self {
        Self(Box::new(Body {
            connection,
            just_dialed: false,
            generation,
            rests_since: 0,
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

    /// What others may know of it.
    #[inline]
    pub(crate) fn record(&self) -> &Record {
        // Within bounds as it is; so said, nothing need be checked.
        &self.0.page[usize::from(self.0.line) % LINES]
    }

    /// How long ago its dial ended, by the start of the ledger.
    pub(crate) fn age(&self, start: Instant, now: Instant) -> Duration {
        now.saturating_duration_since(self.record().opened_at().at(start))
    }

    /// Whether an earlier caller has had it.
    pub(crate) fn is_reused(&self) -> bool {
        self.record().loans() > 1
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
