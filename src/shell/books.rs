//! The ledger, locked, with everything that rests in the places in it.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::dialer::Dialer;
use crate::ledger::CloseOrder;
use crate::moment::Moment;
use crate::stats::Stats;
use crate::sync::{Bell, CoarseInstant, MutexGuard, Wake, now};

use super::knobs::is_timed;
use super::{Books, Connection, Lent, Orders, Shell};

impl<D: Dialer> Shell<D> {
    /// Locks the ledger, with everything that rests in the places taken in.
    pub(super) fn books(&self) -> OpenBooks<'_, D> {
        let ledger = self.ledger.lock();
        let mut books = OpenBooks { shell: self, ledger, now: now(), at_rest: 0 };
        books.take_in();
        books
    }

    /// Tells the ledger of an event, and when it takes place. `None` if the books are those of a
    /// parent process: then what the event brings along is left as it is.
    pub(super) fn told<T>(&self, event: impl FnOnce(&mut Books<D>, Moment) -> T) -> Option<T> {
        if self.is_inherited() {
            std::mem::forget(event);
            return None;
        }
        let mut books = self.books();
        let now = books.now;
        Some(event(&mut books, now))
    }
}

/// The pool's numbers as they were when the lock was last freed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) stats: Stats,
    /// Whether connections have been in the places since: to the ledger they are in use.
    pub(super) is_laid_out: bool,
}

/// The ledger, locked. What rests in the places is in it, and is laid out again on unlocking if
/// nobody has to be served first.
pub(super) struct OpenBooks<'a, D: Dialer> {
    shell: &'a Shell<D>,
    ledger: MutexGuard<'a, Books<D>>,
    /// When that was, and no event before.
    pub(super) now: Moment,
    /// What rested when the lock was taken.
    at_rest: u32,
}

impl<D: Dialer> OpenBooks<'_, D> {
    /// Unlocks for the time of a wait.
    pub(super) fn wait(&mut self, bell: &Bell, until: Option<Moment>) -> Wake {
        self.put_away();
        let wake = bell.wait(&mut self.ledger, until);
        self.now = now();
        self.take_in();
        wake
    }

    /// What is closed by order does not count as at rest since it was ordered.
    pub(super) fn note_condemned(&mut self, effects: &Orders<D>) {
        let is_evicted = |close: &&CloseOrder<Connection<D>>| close.reason == CloseReason::Evicted;
        self.at_rest -= effects.closes.iter().filter(is_evicted).count() as u32;
    }

    fn take_in(&mut self) {
        let (ledger, now) = (&mut self.ledger, self.now);
        self.shell.places.sweep(|entry| take_in::<D>(ledger, entry, now));
        self.at_rest = self.ledger.at_rest();
    }

    /// Before unlocking: what may rest within reach of all is laid out, and the numbers are noted.
    fn put_away(&mut self) {
        self.shell.count_idle(i64::from(self.ledger.at_rest()) - i64::from(self.at_rest));
        let now = self.now;
        if let Some(upkeep) = self.ledger.news_of_upkeep() {
            let coarse = |at: Moment| CoarseInstant::now().after(at.since(now));
            self.shell.knobs.set_next_upkeep(upkeep.map(coarse));
        }
        let ease = self.ledger.ease(now).filter(|_| is_timed(self.ledger.config()));
        if let Some(ease) = ease {
            self.lay_out(ease);
        }
        let (stats, is_laid_out) = (self.ledger.stats_seen(now), ease.is_some());
        self.shell.reading.set(Reading { stats, is_laid_out });
    }

    fn lay_out(&mut self, ease: Duration) {
        let (now, coarse) = (self.now, CoarseInstant::now());
        let (epoch, until) = (self.ledger.epoch(), now.after(ease));
        self.shell.places.grow(self.ledger.live(), self.ledger.config().max_idle());
        let mut found = Vec::new();
        let lay_out = || {
            let (mut entry, rested) = self.ledger.lay_out(now)?;
            entry.rests_since = coarse.before(rested).0;
            date::<D>(&self.ledger, &mut entry, now, coarse);
            Some(entry)
        };
        self.shell.places.open(epoch, until, lay_out, |entry| found.push(entry));
        for entry in found {
            take_in::<D>(&mut self.ledger, entry, now);
        }
    }
}

/// Has the ledger take in what rested in a place.
fn take_in<D: Dialer>(ledger: &mut Books<D>, entry: Lent<D>, now: Moment) {
    let rested = CoarseInstant::now().since(CoarseInstant(entry.rests_since));
    ledger.take_in(entry, rested, now);
}

impl<D: Dialer> Deref for OpenBooks<'_, D> {
    type Target = Books<D>;

    fn deref(&self) -> &Books<D> {
        &self.ledger
    }
}

impl<D: Dialer> DerefMut for OpenBooks<'_, D> {
    fn deref_mut(&mut self) -> &mut Books<D> {
        &mut self.ledger
    }
}

impl<D: Dialer> Drop for OpenBooks<'_, D> {
    fn drop(&mut self) {
        self.put_away();
    }
}

/// Writes on a connection when it has to end, by the coarse clock, for those who do not ask the ledger.
pub(super) fn date<D: Dialer>(
    ledger: &Books<D>,
    entry: &mut Lent<D>,
    now: Moment,
    coarse: CoarseInstant,
) {
    if entry.expires == 0 {
        let left = ledger.life_left(entry, now);
        entry.expires = left.map_or(u64::MAX, |left| coarse.after(left).0);
    }
}
