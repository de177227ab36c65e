//! Upkeep: what time does to the connections at rest, and how many of them there should be.
//!
//! None of it needs a tick: a connection that has to end is not lent and not kept, whenever that is
//! noticed. `upkeep` comes so that it is noticed although nobody calls.

use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::moment::Moment;

use super::effects::{Effects, ErrandId, Task};
use super::entry::Entry;
use super::errands::Sponsor;
use super::idle::Aging;
use super::{Ledger, Overdue, Waker, earlier};

/// The least time between two upkeeps, and between two checks of a connection at rest, however short
/// the limits.
pub(crate) const UPKEEP_LEAST: Duration = Duration::from_millis(100);

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// The time has come that an effect's `alarm` named.
    pub(crate) fn upkeep(&mut self, now: Moment) -> Effects<C, F, W> {
        self.alarm = None;
        self.upkept_at = Some(now);
        self.settled(now, |_, _| {})
    }

    /// Nobody has taken the order for `upkeep`: it is given again at the next event.
    pub(crate) fn alarm_refused(&mut self) {
        self.alarm = None;
    }

    /// When `upkeep` comes next.
    pub(crate) fn alarm(&self) -> Option<Moment> {
        self.alarm
    }

    /// Whether a connection may be lent without a check.
    pub(super) fn is_proven(&self, entry: &Entry<C>, now: Moment) -> bool {
        now.nanos_since(entry.proven_at) <= self.aging.check_after && !self.is_doubted(entry)
    }

    /// Whether another connection has proved broken since this one was last known to be alive.
    pub(super) fn is_doubted(&self, entry: &Entry<C>) -> bool {
        self.doubted_at.is_some_and(|doubted_at| entry.proven_at < doubted_at)
    }

    /// A limit of age has changed, or the time that a dial takes.
    pub(super) fn renew_aging(&mut self) {
        self.aging = Aging::new(&self.config, self.pace.dial_time());
    }

    /// Closes what has rested too long or lived too long.
    pub(super) fn retire_aged(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        while let Some(entry) = self.idle.take_ended(&self.aging, now) {
            self.begin_close(entry, CloseReason::Expired, now, effects);
        }
        while self.next_idled_out().is_some_and(|at| at <= now) {
            let coldest = self.idle.take_coldest().expect("something has idled out");
            self.begin_close(coldest, CloseReason::IdleTooLong, now, effects);
        }
    }

    /// Whether time has done something to what rests.
    pub(super) fn has_aged(&self, now: Moment) -> bool {
        self.replaces_at.is_some()
            || self.idle.is_due(now)
            || self.next_idled_out().is_some_and(|at| at <= now)
    }

    /// Whether upkeep comes no later than a return, a loan or anything at rest calls for. It does if it
    /// was ordered once: what is in use and comes to rest called for it before as well.
    pub(super) fn is_upkeep_in_time(&self, now: Moment) -> bool {
        match self.alarm {
            // If the clock has run back, so does what is in use call for it earlier.
            Some(alarm) => {
                alarm <= now.after_nanos(self.aging.shortest)
                    && self.idle.is_quiet_until(alarm)
                    && self.next_idled_out().is_none_or(|at| alarm <= at)
            }
            None => self.idle.due().is_none() && self.aging.shortest == u64::MAX,
        }
    }

    /// When the coldest connection will have rested for too long; `None` if it may go on.
    fn next_idled_out(&self) -> Option<Moment> {
        let coldest = self.idle.coldest().filter(|_| self.idle.len() > self.config.min_idle())?;
        let at = coldest.idle_since.after_nanos(self.aging.max_idle_time);
        (at < Moment::LAST).then_some(at)
    }

    /// Dials for `min_idle`, which counts what is on its way to rest and not what is about to end.
    pub(super) fn fill(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        let missing = self.missing();
        if missing == 0 || self.next_fill().is_some_and(|at| at > now) {
            return;
        }
        // While dials fail, one at a time tries.
        let tries =
            if self.outage.is_over() { u32::MAX } else { 1 - self.dials.counted_on().min(1) };
        for _ in 0..missing.min(self.room(now)).min(tries) {
            self.begin_dial(Sponsor::Pool, now, effects);
        }
    }

    /// Connections that `min_idle` lacks.
    fn missing(&self) -> u32 {
        if self.config.min_idle == 0 {
            return 0;
        }
        let coming = self.idle.staying() + self.dials.counted_on() + self.aside.len();
        let resting = coming.saturating_sub(self.queue.len());
        self.config.min_idle().saturating_sub(resting)
    }

    /// When that may be made good; `None` is at once.
    fn next_fill(&self) -> Option<Moment> {
        let probe = self.config.breaker().and_then(|breaker| self.outage.next_probe(breaker));
        self.outage.next_refill().max(probe).max(self.replaces_at)
    }

    /// Begins the check of a connection that has proved nothing for long. One at a time: nobody can
    /// take what is being checked.
    pub(super) fn check_coldest(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        let may_check = self.aside.keep_alives() == 0;
        if let Some(entry) = self.idle.take_unchecked(&self.aging, may_check, now) {
            self.set_aside(Task::KeepAlive, entry, now, effects);
        }
    }

    /// A connection set aside is back. `Err` says why it is retired already.
    pub(super) fn end_aside(&mut self, id: ErrandId, now: Moment) -> Result<Task, CloseReason> {
        self.aside.end(id).inspect(|task| self.note_end(*task, now))
    }

    /// A check has ended: the next one's turn may have come.
    pub(super) fn note_end(&mut self, task: Task, now: Moment) {
        if task == Task::KeepAlive {
            self.idle.look_again(now);
        }
    }

    /// Orders the next `upkeep`, if it must come sooner than was ordered before.
    pub(super) fn set_alarm(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        let is_plain = self.config.min_idle == 0 && self.share.is_none();
        if is_plain && self.aside.keep_alives() == 0 && self.is_upkeep_in_time(now) {
            return;
        }
        let mut due = self.idle.due();
        let mut or = |other: Option<Moment>| due = earlier(due, other);
        or(self.next_idled_out());
        let is_missing = self.missing() > 0;
        if is_missing && !self.suspended && self.open() < self.config.max_open {
            // If it could be done by now, something else than time is in its way.
            or(self.next_fill().filter(|at| *at > now));
        }
        if self.config.min_idle > 0 || self.aside.keep_alives() > 0 {
            // An errand that hangs must not hold up what nobody waits for.
            or(self.next_errand_due());
        }
        if self.in_use > 0 {
            // It may come to rest out of sight. What has to end sooner must come by here.
            or(Some(now.after_nanos(self.aging.shortest)).filter(|at| *at < Moment::LAST));
        }
        if !self.idle.is_empty() {
            // It may be lent out of sight, for too long.
            or(now.after(self.config.leak_after));
        }
        if self.share.is_some() {
            or(self.forgets_at().filter(|at| *at > now));
        }
        let Some(due) = due else { return };
        let least = self.upkept_at.and_then(|last| last.after(UPKEEP_LEAST));
        let due = least.map_or(due, |least| due.max(least));
        if self.alarm.is_none_or(|alarm| due < alarm) {
            self.alarm = Some(due);
            effects.work().alarm = Some(due);
        }
    }
}
