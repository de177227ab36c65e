//! The decisions: what follows from an event, whatever it was.

use std::time::{Duration, Instant};

use crate::config::{DialRule, moment};

use super::dial_rule::Outlook;
use super::effects::{AsideOrder, CloseOrder, DialOrder, Effects, ErrandId, Task, Ticket};
use super::entry::Entry;
use super::errands::Dial;
use super::queue::{Waiter, count};
use super::{Ledger, Overdue, Verdict};

impl<C, F: Clone + From<Overdue>, W: Clone> Ledger<C, F, W> {
    /// Runs an event that may free something: whatever it was, it ends in `settle`.
    pub(super) fn settled(
        &mut self,
        now: Instant,
        event: impl FnOnce(&mut Self, &mut Effects<C, F, W>),
    ) -> Effects<C, F, W> {
        let mut effects = Effects::none();
        self.expire(now, &mut effects);
        event(self, &mut effects);
        self.settle(now, &mut effects);
        effects
    }

    /// Sees to it that somebody looks when the next errand is due: whoever has slept longest is woken
    /// if it would sleep beyond that, and so sets its alarm anew.
    pub(super) fn keep_watch(&mut self, effects: &mut Effects<C, F, W>) {
        let Some(due) = self.next_due() else { return };
        let Some(longest) = self.asleep.first_entry() else { return };
        if longest.get().0.is_none_or(|until| until > due) {
            let (_, waker) = longest.remove();
            effects.wake.push(waker);
        }
    }

    /// Gives what is free to those who wait, longest first, and begins the dials that they want.
    /// Every event that can free anything ends here: that is why no waiter is ever stranded.
    pub(super) fn settle(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        for entry in std::mem::take(&mut self.unfit) {
            self.in_use -= 1;
            self.begin_close(entry, now, effects);
        }
        if !self.closed {
            self.serve(now, effects);
            self.fail_hopeless(now, effects);
            self.begin_dials(now, effects);
            self.appoint_looker(effects);
            self.finish_warm_ups(effects);
            while count(self.idle.len()) > self.config.max_idle() {
                let coldest = self.idle.pop_front().expect("more are idle than max_idle");
                self.begin_close(coldest, now, effects);
            }
        } else if self.open() == 0 {
            for (ticket, waker) in std::mem::take(&mut self.drains) {
                self.tell(ticket, waker, Verdict::Drained, effects);
            }
        }
        self.ceiling = self.config.max_open.max(self.ceiling.min(self.open()));
        self.keep_watch(effects);
        self.audit(now);
    }

    /// Writes off what has overrun its time limit.
    pub(super) fn expire(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        while let Some((id, sponsor)) = self.dials.write_off_overdue(now) {
            let failure = F::from(Overdue { limit: self.config.dial_timeout });
            self.note_failure(Some(sponsor), id, failure, effects);
        }
        while let Some((id, task)) = self.aside.pop_overdue(now) {
            // The connection is still out, but nobody shall have it: it is closed when it is back.
            self.totals.check_failed_total += u64::from(task == Task::Check);
            self.note_closing(id, now);
        }
        while self.closings.pop_overdue(now) {
            self.totals.close_timeouts_total += 1;
        }
    }

    /// Lends idle connections to those who have waited longest; sets stale ones aside for a check.
    pub(super) fn serve(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        while let Some((ticket, expired)) = self.queue.front(now) {
            if expired {
                // Not woken: its own clock does that.
                let mut waiter = self.queue.remove(ticket).expect("the front is in the queue");
                let failure = waiter.failure.take().or_else(|| self.last_failure.clone());
                self.count_wait(&waiter, now);
                self.totals.timed_out_total += 1;
                self.asleep.remove(&ticket);
                self.served.insert(ticket, Verdict::Late(failure));
            } else if self.may_be_passed(now) {
                return;
            } else if let Some(entry) = self.take_fresh(now) {
                let waiter = self.queue.remove(ticket).expect("the front is in the queue");
                self.granted += 1;
                self.dismiss(ticket, waiter, Verdict::Granted(entry), now, effects);
            } else if self.aside.checks() < self.queue.len() && !self.idle.is_empty() {
                // Whatever dials are under way: a check is quick, and one of them may hang.
                let stale = self.idle.pop_back().expect("something is idle");
                self.set_aside(Task::Check, stale, now, effects);
            } else {
                return;
            }
        }
    }

    /// Whether newcomers may be served before the queue.
    pub(super) fn may_be_passed(&self, now: Instant) -> bool {
        self.may_be_passed_for(now).is_some()
    }

    /// For how long newcomers may be served before the queue: while a connection is on its way to a
    /// caller who has not woken yet, until the first of the others has waited for `bypass`.
    ///
    /// To hand every connection over costs a change of threads each, during which it is of no use
    /// to anyone. One at a time is handed over while the waits are short, and all of them once a
    /// wait is long: so no wait is.
    pub(super) fn may_be_passed_for(&self, now: Instant) -> Option<Duration> {
        if self.granted == 0 {
            return None;
        }
        let waited = now.saturating_duration_since(self.queue.front_since()?);
        self.config.bypass.checked_sub(waited).filter(|left| !left.is_zero())
    }

    /// Turns away those whose dial has failed and whom no return can serve, as nothing is in use.
    ///
    /// Connections in use count here and other dials do not, or one refusal would wait for the end
    /// of another's black hole.
    pub(super) fn fail_hopeless(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        if self.busy() > 0 {
            return;
        }
        while let Some((ticket, mut waiter)) = self.queue.pop_failed() {
            let failure = waiter.failure.take().expect("a caller among the failed has a failure");
            self.dismiss(ticket, waiter, Verdict::Failed(failure), now, effects);
        }
    }

    /// Reserves a slot for each dial that is wanted and that the limits allow.
    pub(super) fn begin_dials(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        for _ in 0..self.wanted(now).min(self.room()) {
            let Some(sponsor) = self.queue.sponsor(now) else { break };
            let id = self.begin_dial(sponsor, now, effects);
            self.queue.begin_dial(sponsor, id);
        }
        let Some((&sponsor, &(target, _))) =
            self.warm_ups.iter().max_by_key(|(_, (target, _))| *target)
        else {
            return;
        };
        let live = self.live() - self.dials.len() + self.dials.counted_on();
        let wanted = target.min(self.config.max_idle()).saturating_sub(live);
        for _ in 0..wanted.min(self.room()) {
            self.begin_dial(sponsor, now, effects);
        }
    }

    /// The dials that the callers in the queue want.
    pub(super) fn wanted(&mut self, now: Instant) -> u32 {
        if self.queue.is_empty() {
            self.pace.rest();
            return 0;
        }
        let hold_off = self.pace.hold_off().unwrap_or_default();
        let outlook = Outlook {
            unmet: self.queue.unmet(),
            ripe: now.checked_sub(hold_off).map_or(0, |before| self.queue.ripe(before)),
            coming: self.coming(),
            busy: self.busy(),
        };
        self.pace.wanted(self.config.dial_rule, outlook, now)
    }

    /// Sees to it that somebody looks again if the rule holds back a dial for which there is room.
    ///
    /// The last in the queue does it, being the one who is likely to stay longest; nobody needs to
    /// while every slot is taken.
    pub(super) fn appoint_looker(&mut self, effects: &mut Effects<C, F, W>) {
        let is_held_back = self.config.dial_rule != DialRule::Eager
            && self.room() > 0
            && self.busy() > 0
            && self.coming() < self.queue.unmet()
            && self.pace.hold_off().is_some();
        if !is_held_back {
            self.looker = None;
        } else if !self.looker.is_some_and(|looker| self.queue.contains(looker)) {
            let last = self.queue.last_unsponsored();
            self.looker = last.map(|(ticket, _)| ticket);
            effects.wake.extend(last.map(|(_, waker)| waker.clone()));
        }
    }

    /// When the dial rule must look again.
    pub(super) fn next_dial_look(&self, now: Instant) -> Option<Instant> {
        let hold_off = self.pace.hold_off()?;
        let ripens = self.queue.unripe_since().and_then(|since| since.checked_add(hold_off));
        let again = self.pace.next_look(now);
        if self.queue.has_ripe() { again.into_iter().chain(ripens).min() } else { ripens }
    }

    pub(super) fn note_return(&mut self, now: Instant) {
        if !self.queue.is_empty() {
            self.pace.note_return(now);
        }
    }

    pub(super) fn begin_dial(
        &mut self,
        sponsor: Ticket,
        now: Instant,
        effects: &mut Effects<C, F, W>,
    ) -> ErrandId {
        let id = ErrandId(self.fresh_id());
        let deadline = moment(now, self.config.dial_timeout);
        let sponsor = Some(sponsor);
        self.dials.begin(id, Dial { sponsor, generation: self.generation, began: now, deadline });
        self.totals.dials_total += 1;
        effects.dials.push(DialOrder { id, deadline });
        id
    }

    /// A dial's failure is its sponsor's, if that one still waits; the pool remembers the latest.
    pub(super) fn note_failure(
        &mut self,
        sponsor: Option<Ticket>,
        dial: ErrandId,
        failure: F,
        effects: &mut Effects<C, F, W>,
    ) {
        effects.spent.extend(self.last_failure.replace(failure.clone()));
        let Some(sponsor) = sponsor else {
            effects.spent.push(failure);
            return;
        };
        if let Some((_, waker)) = self.warm_ups.remove(&sponsor) {
            self.tell(sponsor, waker, Verdict::Failed(failure), effects);
        } else {
            effects.spent.extend(self.queue.fail(sponsor, dial, failure));
        }
    }

    pub(super) fn finish_warm_ups(&mut self, effects: &mut Effects<C, F, W>) {
        let open = count(self.idle.len()) + self.busy();
        let limit = self.config.max_idle();
        let reached = |(target, _): &(u32, W)| (*target).min(limit) <= open;
        while let Some(ticket) = self.warm_ups.iter().find(|(_, w)| reached(w)).map(|(t, _)| *t) {
            let (_, waker) = self.warm_ups.remove(&ticket).expect("a warm-up just found");
            self.tell(ticket, waker, Verdict::Warm, effects);
        }
    }

    /// Takes a caller out of the queue with what has become of its wait.
    pub(super) fn dismiss(
        &mut self,
        ticket: Ticket,
        waiter: Waiter<F, W>,
        verdict: Verdict<C, F>,
        now: Instant,
        effects: &mut Effects<C, F, W>,
    ) {
        self.count_wait(&waiter, now);
        effects.spent.extend(waiter.failure);
        self.tell(ticket, waiter.waker, verdict, effects);
    }

    /// Lays a verdict out for whoever waits for it, and has it woken.
    pub(super) fn tell(
        &mut self,
        ticket: Ticket,
        waker: W,
        verdict: Verdict<C, F>,
        effects: &mut Effects<C, F, W>,
    ) {
        self.asleep.remove(&ticket);
        self.served.insert(ticket, verdict);
        effects.wake.push(waker);
    }

    pub(super) fn count_wait(&mut self, waiter: &Waiter<F, W>, now: Instant) {
        self.totals.wait_time_total += now.saturating_duration_since(waiter.since);
    }

    /// Lends the most recently used idle connection, if it needs no check.
    pub(super) fn take_fresh(&mut self, now: Instant) -> Option<Entry<C>> {
        let idle_for = now.saturating_duration_since(self.proven_at(self.idle.back()?));
        if idle_for > self.config.check_after {
            return None;
        }
        let entry = self.idle.pop_back()?;
        Some(self.lend(entry, now))
    }

    pub(super) fn lend(&mut self, mut entry: Entry<C>, now: Instant) -> Entry<C> {
        self.in_use += 1;
        let record = entry.record();
        let just_dialed = record.loans() == 0 && record.opened_at() == self.stamp(now);
        record.count_loan();
        entry.just_dialed = just_dialed;
        entry
    }

    /// Has a connection come back from whoever had it.
    pub(super) fn receive(&mut self, entry: &Entry<C>) {
        self.in_use -= 1;
        entry.record().let_go();
    }

    /// Takes a connection off the roster, for good.
    pub(super) fn strike(&mut self, entry: Entry<C>) -> C {
        let (connection, page, line) = entry.into_parts();
        self.roster.strike(&page, line);
        connection
    }

    /// Puts a connection where `serve` finds it, or closes it if it may not be lent again.
    pub(super) fn shelve(&mut self, entry: Entry<C>, now: Instant, effects: &mut Effects<C, F, W>) {
        let surplus = self.live() >= self.config.max_open;
        if self.closed || surplus || entry.generation != self.generation {
            self.begin_close(entry, now, effects);
        } else {
            self.idle.push_back(entry);
        }
    }

    pub(super) fn set_aside(
        &mut self,
        task: Task,
        entry: Entry<C>,
        now: Instant,
        effects: &mut Effects<C, F, W>,
    ) {
        let id = ErrandId(self.fresh_id());
        let deadline = moment(now, self.config.check_timeout);
        self.aside.begin(id, task, deadline);
        effects.asides.push(AsideOrder { id, task, entry, deadline });
    }

    pub(super) fn begin_close(
        &mut self,
        entry: Entry<C>,
        now: Instant,
        effects: &mut Effects<C, F, W>,
    ) {
        let id = ErrandId(self.fresh_id());
        let connection = self.strike(entry);
        self.note_closing(id, now);
        effects.closes.push(CloseOrder { id, connection });
    }

    pub(super) fn note_closing(&mut self, id: ErrandId, now: Instant) {
        self.totals.retired_total += 1;
        self.closings.begin(id, moment(now, self.config.close_timeout));
    }

    pub(super) fn close_idle(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        while let Some(entry) = self.idle.pop_front() {
            self.begin_close(entry, now, effects);
        }
    }
}
