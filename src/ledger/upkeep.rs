//! Upkeep: what time does to the connections at rest, and how many of them there should be.
//!
//! None of it needs a tick: a connection that has to end is not lent and not kept, whenever that is
//! noticed. `upkeep` comes so that it is noticed although nobody calls.

use std::time::{Duration, Instant};

use crate::config::moment;
use crate::event::CloseReason;

use super::Ledger;
use super::Overdue;
use super::effects::{Effects, Task};
use super::entry::Entry;
use super::errands::Sponsor;
use super::idle::Aging;

/// The least time between two upkeeps, however short the limits.
const UPKEEP_LEAST: Duration = Duration::from_millis(100);

impl<C, F: Clone + From<Overdue>, W: Clone> Ledger<C, F, W> {
    /// The time has come that an effect's `alarm` named.
    pub(crate) fn upkeep(&mut self, now: Instant) -> Effects<C, F, W> {
        self.alarm = None;
        self.upkept_at = Some(now);
        self.settled(now, |_, _| {})
    }

    /// A connection was found broken: those that have rested since before now may be as well.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubted_at = Some(now);
    }

    /// Whether a connection may be lent without a check.
    pub(super) fn is_proven(&self, entry: &Entry<C>, now: Instant) -> bool {
        let unproven_for = now.saturating_duration_since(entry.proven_at);
        unproven_for <= self.config.check_after
            && self.doubted_at.is_none_or(|doubted_at| entry.proven_at > doubted_at)
    }

    pub(super) fn aging(&self) -> Aging {
        Aging::new(&self.config, self.pace.dial_time())
    }

    /// Closes what has rested too long or lived too long.
    pub(super) fn retire_aged(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        let aging = self.aging();
        while let Some(entry) = self.idle.take_ended(&aging, now) {
            self.begin_close(entry.into_connection(), CloseReason::Expired, now, effects);
        }
        while self.next_idled_out().is_some_and(|at| at <= now) {
            let coldest = self.idle.take_coldest().expect("something has idled out");
            self.begin_close(coldest.into_connection(), CloseReason::IdleTooLong, now, effects);
        }
    }

    /// When the coldest connection will have rested for too long; `None` if it may go on.
    fn next_idled_out(&self) -> Option<Instant> {
        let coldest = self.idle.coldest().filter(|_| self.idle.len() > self.config.min_idle())?;
        moment(coldest.idle_since, self.config.max_idle_time)
    }

    /// Dials for `min_idle`, which counts what is on its way to rest and not what is about to end.
    pub(super) fn fill(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        if self.next_fill().is_some_and(|at| at <= now) {
            for _ in 0..self.missing().min(self.room(now)) {
                self.begin_dial(Sponsor::Pool, now, effects);
            }
        }
    }

    /// Connections that `min_idle` lacks.
    fn missing(&self) -> u32 {
        let coming = self.idle.staying() + self.dials.counted_on() + self.aside.len();
        let resting = coming.saturating_sub(self.queue.len());
        self.config.min_idle().saturating_sub(resting)
    }

    /// When that may be made good; perhaps it is past.
    fn next_fill(&self) -> Option<Instant> {
        todo!()
    }

    /// Begins the check of a connection that has proved nothing for long. One at a time: what is
    /// being checked is nobody's.
    pub(super) fn check_coldest(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        let aging = self.aging();
        let may_check = self.background_check.is_none();
        if let Some(entry) = self.idle.take_unchecked(&aging, may_check, now) {
            self.background_check = Some(self.set_aside(Task::Check, entry, now, effects));
        }
    }

    /// Orders the next `upkeep`, if it must come sooner than was ordered before.
    pub(super) fn set_alarm(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        todo!()
    }
}
