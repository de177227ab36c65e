//! Connections that are laid out: the ledger gives them to the shell's places, from where they are
//! lent and given back without the ledger.
//!
//! To the ledger a connection that is laid out is in use, whether or not a caller has it. Each event
//! begins with all of them taken back (`take_from_place`). It ends with the idle ones laid out again,
//! for as long as nobody has to be served first (`may_lay_out_until`).

use crate::runtime::moment::Moment;

use super::answers::{Overdue, Waker};
use super::entry::Entry;
use super::queue::count;
use super::settle::Quiet;
use super::share::Share;
use super::{Ledger, Phase};

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// Until when connections may be lent and given back without the ledger. `None`: not at all;
    /// `Moment::LAST`: without limit.
    pub(crate) fn may_lay_out_until(&self, now: Moment) -> Option<Moment> {
        // With nothing idle for those who wait there is nothing to lay out, and no gate to shut again.
        if self.idle.is_empty() && !self.queue.is_empty() {
            return None;
        }
        if self.phase != Phase::Running
            || !self.outdated.is_empty()
            || self.live() > self.config.max_open
            || self.share.as_deref().is_some_and(Share::awaits_idle)
        {
            return None;
        }
        if self.queue.is_empty() { Some(Moment::LAST) } else { self.may_be_passed_until(now) }
    }

    /// Whether something is idle, laid out or not, and the callers in the queue may be kept from it
    /// until those who are waking up have woken.
    ///
    /// How long they have waited does not matter here: the event that kept the connection from them may
    /// have gone by an earlier reading of the clock.
    pub(crate) fn keeps_from_queue(&self, is_laid_out: bool) -> bool {
        (is_laid_out || !self.idle.is_empty()) && !self.queue.is_empty() && self.wakes.waking() > 0
    }

    /// Connections that have come to rest and are not laid out, whether or not they may be lent.
    pub(crate) fn at_rest(&self) -> u32 {
        self.idle.len() + count(self.outdated.len())
    }

    /// How many more connections may come to rest in the places.
    pub(crate) fn spare_idle(&self) -> u32 {
        self.idle_limit().saturating_sub(self.idle.len())
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epochs.current()
    }

    /// Gives up the most recently used idle connection, to be laid out. The settings allow that.
    ///
    /// A connection stays here if its loan should begin a dial for `min_idle`, or if it must be
    /// checked. The exception is a check that its caller makes itself, due to its rest alone.
    pub(crate) fn lay_out(&mut self, now: Moment) -> Option<Entry<C>> {
        let is_full = self.open_count() >= self.config.max_open;
        let kept = if is_full { 0 } else { self.config.min_idle() };
        let is_fit = |entry: &&Entry<C>| match self.checks_in_place {
            true => !self.is_doubted(entry),
            false => self.is_proven(entry, now),
        };
        self.idle.warmest().filter(|entry| self.idle.len() > kept && is_fit(entry))?;
        let mut entry = self.idle.take_warmest()?;
        self.in_use += 1;
        entry.just_dialed = false;
        self.note_end(&mut entry);
        Some(entry)
    }

    /// Takes back a connection that was laid out, and that no caller has now.
    ///
    /// Nothing is decided yet: `settle` follows with the event for which it is taken back.
    pub(crate) fn take_from_place(&mut self, entry: Entry<C>) {
        if self.is_closed() || entry.epoch != self.epochs.current() {
            // The thread that put it there had not yet seen the flush, the change or the close.
            self.outdated.push(entry);
            self.quiet = Quiet::NEVER;
            return;
        }
        self.in_use -= 1;
        self.count_loans(&entry);
        self.add_idle(entry);
    }

    /// Whether an event has dealt with everything that was taken from the places.
    pub(crate) fn has_no_outdated(&self) -> bool {
        self.outdated.is_empty()
    }
}
