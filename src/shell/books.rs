//! The ledger, locked: what rests in the places is swept into it before an event, and no sooner.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::dialer::Dialer;
use crate::moment::Moment;
use crate::stats::Stats;
use crate::sync::{Bell, MutexGuard, Wake, now};

use super::account::{Account, Asking, refused};
use super::knobs::is_timed;
use super::{Answer, Books, Refusal, Refused, Shell, Ticket};

impl<D: Dialer> Shell<D> {
    /// Locks the ledger.
    pub(super) fn books(&self) -> OpenBooks<'_, D> {
        let locked = self.locked.lock();
        OpenBooks { shell: self, locked, now: now(), at_rest: None }
    }

    /// Tells the ledger of one event. `None` if the books are those of a parent process: then what the
    /// event brings along is left as it is.
    pub(super) fn told<T>(&self, event: impl FnOnce(&mut Books<D>, Moment) -> T) -> Option<T> {
        if self.is_inherited() {
            std::mem::forget(event);
            return None;
        }
        Some(self.books().tell(event))
    }
}

/// What the lock of a pool protects.
pub(super) struct Locked<D: Dialer> {
    pub(super) ledger: Books<D>,
    pub(super) asking: Asking,
}

/// The pool's numbers as they were when the lock was last freed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) stats: Stats,
    /// Whether connections have been in the places since: to the ledger they are in use.
    pub(super) is_laid_out: bool,
}

/// The ledger, locked. Before the first event the connections in the places are swept into it, and
/// on unlocking they are laid out again if nobody has to be served first.
///
/// A sweep may bring in a connection that has to be closed or that a waiting caller needs, and only
/// an event sees to that. So nothing but `tell` sweeps, and who merely reads leaves the places alone.
pub(super) struct OpenBooks<'a, D: Dialer> {
    shell: &'a Shell<D>,
    locked: MutexGuard<'a, Locked<D>>,
    /// When the lock was taken: the time of the events under it.
    pub(super) now: Moment,
    /// How many rested when they were swept in; `None` before that.
    at_rest: Option<u32>,
}

impl<D: Dialer> OpenBooks<'_, D> {
    /// Notes that the order for upkeep was not taken.
    pub(super) fn alarm_refused(&mut self) {
        self.locked.ledger.alarm_refused();
    }

    /// Counts a panic of user code.
    pub(super) fn note_panic(&mut self) {
        self.locked.ledger.note_panic();
    }

    /// Tells the ledger of an event, which ends in `settle` if the sweep has brought anything in.
    pub(super) fn tell<T>(&mut self, event: impl FnOnce(&mut Books<D>, Moment) -> T) -> T {
        if self.at_rest.is_none() {
            self.sweep();
        }
        event(&mut self.locked.ledger, self.now)
    }

    /// Takes out what has come to the holder of `ticket`, or ends its wait if it is late. Whoever has
    /// a verdict must tell an event next: others may be served by it.
    pub(super) fn verdict(&mut self, ticket: Ticket, is_late: bool) -> Option<Answer<D>> {
        // Collect first: a grant already made outranks the deadline.
        let verdict = self.locked.ledger.collect(ticket);
        let verdict =
            verdict.or_else(|| is_late.then(|| self.locked.ledger.leave(ticket, self.now)));
        if verdict.is_some() {
            self.locked.asking.leave();
        }
        verdict
    }

    /// What this thread, which is turned away, is told of the pool.
    pub(super) fn account(&mut self) -> Account {
        let Locked { ledger, asking } = &mut *self.locked;
        Account::of(self.shell.name(), ledger, asking, self.now)
    }

    /// The same, at the end of a wait.
    pub(super) fn account_after_wait(&mut self) -> Account {
        let Locked { ledger, asking } = &mut *self.locked;
        Account::after_wait(self.shell.name(), ledger, asking, self.now)
    }

    /// Why this thread was not even queued.
    pub(super) fn refused(&mut self, refusal: Refusal, start: Moment) -> Refused<D> {
        let Locked { ledger, asking } = &mut *self.locked;
        refused(self.shell.name(), ledger, asking, refusal, start)
    }

    /// This thread begins to wait, until it has a verdict.
    pub(super) fn join(&mut self) {
        self.locked.asking.join();
    }

    /// Unlocks for the sleep of a caller, until it is rung or must look for itself. Says how it woke,
    /// and whether its own deadline has passed.
    pub(super) fn sleep(
        &mut self,
        ticket: Ticket,
        deadline: Option<Moment>,
        bell: &Arc<Bell>,
    ) -> (Wake, bool) {
        let until = self.locked.ledger.sleep(ticket, deadline, self.now, Arc::clone(bell));
        self.put_away();
        let wake = bell.wait(&mut self.locked, until);
        self.now = now();
        (wake, wake == Wake::Late && until == deadline)
    }

    fn sweep(&mut self) {
        let ledger = &mut self.locked.ledger;
        self.shell.places.sweep(|entry| ledger.take_in(entry));
        self.at_rest = Some(self.locked.ledger.at_rest());
    }

    /// Before unlocking, after an event: what may rest within reach of all is laid out, and the
    /// numbers are noted.
    fn put_away(&mut self) {
        let Some(at_rest) = self.at_rest.take() else { return };
        debug_assert!(self.locked.ledger.is_settled(), "an event has seen to what was swept in");
        // What is closed to make room counts no more as at rest since that was said.
        let condemned = i64::from(self.locked.ledger.take_condemned());
        let left = i64::from(self.locked.ledger.at_rest());
        self.shell.count_idle(left + condemned - i64::from(at_rest));
        let now = self.now;
        if let Some(upkeep) = self.locked.ledger.news_of_upkeep() {
            self.shell.knobs.set_next_upkeep(upkeep);
        }
        let ease = self.locked.ledger.ease(now).filter(|_| is_timed(self.locked.ledger.config()));
        if let Some(ease) = ease {
            self.lay_out(ease);
        }
        let (stats, is_laid_out) = (self.locked.ledger.stats_seen(now), ease.is_some());
        self.shell.reading.set(Reading { stats, is_laid_out });
    }

    fn lay_out(&mut self, ease: Duration) {
        let now = self.now;
        let (epoch, until) = (self.locked.ledger.epoch(), now.after(ease));
        self.shell.places.grow(self.locked.ledger.live(), self.locked.ledger.config().max_idle());
        let spare = self.locked.ledger.spare_rest();
        let mut found = Vec::new();
        let lay_out = || self.locked.ledger.lay_out(now);
        self.shell.places.open(epoch, until, spare, lay_out, |entry| found.push(entry));
        for entry in found {
            self.locked.ledger.take_in(entry);
        }
    }
}

impl<D: Dialer> Deref for OpenBooks<'_, D> {
    type Target = Books<D>;

    fn deref(&self) -> &Books<D> {
        &self.locked.ledger
    }
}

impl<D: Dialer> Drop for OpenBooks<'_, D> {
    fn drop(&mut self) {
        self.put_away();
    }
}
