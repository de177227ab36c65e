//! Upkeep: what time does to the connections at rest, and how many of them there should be.
//!
//! None of it needs a tick: a connection that has to end is not lent and not kept, whenever that is
//! noticed. `upkeep` comes so that it is noticed although nobody calls.

use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::config::Config;
use crate::moment::Moment;

use super::Ledger;
use super::Overdue;
use super::effects::{Effects, ErrandId, Task};
use super::entry::Entry;
use super::errands::Sponsor;
use super::idle::Aging;

/// The least time between two upkeeps, and between two checks of a connection at rest, however short
/// the limits.
pub(crate) const UPKEEP_LEAST: Duration = Duration::from_millis(100);

impl<C, F: Clone + From<Overdue>, W: Clone> Ledger<C, F, W> {
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

    /// When `upkeep` comes next, if that is news.
    pub(crate) fn news_of_upkeep(&mut self) -> Option<Option<Moment>> {
        let is_news = self.told_alarm != self.alarm;
        self.told_alarm = self.alarm;
        is_news.then_some(self.alarm)
    }

    /// Whether a connection may be lent without a check.
    pub(super) fn is_proven(&self, entry: &Entry<C>, now: Moment) -> bool {
        let proven_at = entry.proven_at;
        now.since(proven_at) <= self.config.check_after
            && self.doubted_at.is_none_or(|doubted_at| proven_at >= doubted_at)
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

    /// When the coldest connection will have rested for too long; `None` if it may go on.
    fn next_idled_out(&self) -> Option<Moment> {
        let coldest = self.idle.coldest().filter(|_| self.idle.len() > self.config.min_idle())?;
        coldest.idle_since.after(self.config.max_idle_time)
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
        let is_missing =
            !self.suspended && self.missing() > 0 && self.open() < self.config.max_open;
        // If it could be done by now, something else than time is in its way.
        let fill = self.next_fill().filter(|at| is_missing && *at > now);
        // An errand that hangs must not hold up what nobody waits for.
        let is_held_up = self.config.min_idle() > 0 || self.aside.keep_alives() > 0;
        let errand = self.next_errand_due().filter(|_| is_held_up);
        // What is in use may come to rest out of sight. What has to end sooner must come by here.
        let unseen = if self.in_use > 0 { now.after(self.shortest_limit()) } else { None };
        // And what is idle may be lent there, for too long.
        let is_idle = !self.idle.is_empty();
        let overlong = now.after(self.config.leak_after).filter(|_| is_idle);
        let forget = self.forgets_at().filter(|at| self.share.is_some() && *at > now);
        let due = [self.idle.due(), self.next_idled_out(), fill, errand, unseen, overlong, forget];
        let Some(due) = due.into_iter().flatten().min() else { return };
        let least = self.upkept_at.and_then(|last| last.after(UPKEEP_LEAST));
        let due = least.map_or(due, |least| due.max(least));
        if self.alarm.is_none_or(|alarm| due < alarm) {
            self.alarm = Some(due);
            effects.alarm = Some(due);
        }
    }

    fn shortest_limit(&self) -> Duration {
        let Config { max_lifetime, max_idle_time, check_idle_every, leak_after, .. } = self.config;
        max_lifetime.min(max_idle_time).min(check_idle_every).min(leak_after)
    }
}
