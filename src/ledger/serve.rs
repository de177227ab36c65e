//! Serving the queue: who gets an idle connection, and who is refused.

use std::collections::BTreeMap;

use crate::config::{IdleOrder, OnDialFailure};
use crate::runtime::moment::Moment;

use super::Ledger;
use super::answers::{Overdue, Verdict, Waker};
use super::effects::{Effects, Purpose, Ticket};
use super::entry::Entry;
use super::queue::Waiter;

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// Lends idle connections to those who have waited longest, and sends stale ones to be checked.
    pub(super) fn serve(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        while let Some((ticket, expired)) = self.queue.front(now) {
            if expired {
                // Nobody wakes it: its own wait ends at the deadline.
                let waiter = self.queue.remove(ticket).expect("the front is in the queue");
                let waker = waiter.sleeper.waker.clone();
                self.wakes.dismiss_watcher(ticket);
                waker.set_verdict(self.time_out(waiter, now), false);
            } else if self.idle.is_empty() || self.may_be_passed_until(now).is_some() {
                return;
            } else if let Some(entry) = self.take_fresh(now) {
                let waiter = self.queue.remove(ticket).expect("the front is in the queue");
                self.end_wait(ticket, waiter, Verdict::Granted(entry), now, effects);
            } else if self.jobs.at_dialer.checks() < self.queue.len() {
                // Dials under way do not count here: a check is quick, and a dial may hang.
                let stale = self.take_next().expect("something is idle");
                self.send_to_dialer(Purpose::Check, stale, now, effects);
            } else {
                return;
            }
        }
    }

    /// Until when newcomers may be served before the queue: while a connection is on its way to a
    /// caller who is waking up, until the first of the others has waited for the bound.
    ///
    /// A caller who was awake when it was given a connection does not count as waking up. It may be in
    /// user code, for as long as that takes.
    ///
    /// To hand a connection over costs a change of threads, during which it is of no use to anyone.
    /// While the waits are short, one connection at a time is handed over; once a wait is long, all of
    /// them are. So no wait becomes much longer than the bound.
    pub(super) fn may_be_passed_until(&self, now: Moment) -> Option<Moment> {
        if self.wakes.waking() == 0 {
            return None;
        }
        let bound = self.bypass.bound(self.config.bypass, self.queue.len());
        // `min`: the clock may have run back since the first of them came.
        let until = self.queue.front_since()?.min(now).after_nanos(bound);
        (now < until).then_some(until)
    }

    /// Measures how fast connections are lent, as long as anyone waits for one.
    pub(super) fn count_loans_while_waiting(&mut self, now: Moment) {
        if !self.queue.is_empty() {
            self.bypass.note_loans(self.totals.lent_total, now);
        }
    }

    /// Lends the next idle connection to a caller who is awake, and so can check it if that is needed.
    pub(super) fn take_for_caller(&mut self, now: Moment) -> Option<Entry<C>> {
        if let Some(entry) = self.take_fresh(now) {
            return Some(entry);
        }
        let stale = if self.checks_in_place { self.take_next() } else { None };
        let mut entry = self.lend(stale?, now);
        entry.must_check = true;
        Some(entry)
    }

    /// Lends the next idle connection, unless it must be checked.
    fn take_fresh(&mut self, now: Moment) -> Option<Entry<C>> {
        let next = match self.config.idle_order {
            IdleOrder::Lifo => self.idle.warmest(),
            IdleOrder::Fifo => self.idle.coldest(),
        };
        next.filter(|entry| self.is_proven(entry, now))?;
        let entry = self.take_next()?;
        Some(self.lend(entry, now))
    }

    /// Takes the idle connection that is to be lent next.
    pub(super) fn take_next(&mut self) -> Option<Entry<C>> {
        match self.config.idle_order {
            IdleOrder::Lifo => self.idle.take_warmest(),
            IdleOrder::Fifo => self.idle.take_coldest(),
        }
    }

    /// Refuses those who need a dial while the breaker is open and no probe is due: the latest failure
    /// counts as the failure of a dial of their own.
    pub(super) fn refuse_by_breaker(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if self.dialing.outage.is_over() || !self.is_breaker_open() || self.probes(now) > 0 {
            return;
        }
        let refuses_warm_ups =
            self.jobs.dials.counted_on() == 0 && !self.others.warm_ups.is_empty();
        if !self.queue.any_unsponsored() && !refuses_warm_ups {
            // Without this, every event would leave a failure to drop. A caller who looks because something
            // is due would never sleep: it sleeps once its look has no effect.
            return;
        }
        let Some(failure) = self.dialing.last_failure.clone() else { return };
        while self.queue.refuse_first(&failure) {}
        if refuses_warm_ups {
            for (ticket, warm_up) in std::mem::take(&mut self.others.warm_ups) {
                self.notify(ticket, warm_up.sleeper, Verdict::Failed(failure.clone()), effects);
            }
        }
        effects.discard(Some(failure));
    }

    /// Refuses those whose dial has failed and whom no return can serve, as nothing is in use. Says whether
    /// there are any.
    ///
    /// Other dials do not count here: a refusal known now would otherwise wait until another dial has
    /// timed out.
    pub(super) fn fail_hopeless(&mut self, now: Moment, effects: &mut Effects<C, F, W>) -> bool {
        let awaits_return = self.config.on_dial_failure != OnDialFailure::Fail && self.busy() > 0;
        if !self.queue.any_failed() || awaits_return || self.backoff().is_some() {
            return false;
        }
        while let Some((ticket, waiter)) = self.queue.pop_failed() {
            self.count_wait(&waiter, now);
            let (sleeper, failure) = waiter.into_parts();
            let failure = failure.expect("a caller among the failed has a failure");
            self.notify(ticket, sleeper, Verdict::Failed(failure), effects);
        }
        true
    }

    /// Tells the warm-ups whose target is reached.
    pub(super) fn finish_warm_ups(&mut self, effects: &mut Effects<C, F, W>) {
        if self.others.warm_ups.is_empty() {
            return;
        }
        let open = self.idle.len() + self.busy();
        let warm_ups = std::mem::take(&mut self.others.warm_ups).into_iter();
        let (warm, cold): (BTreeMap<_, _>, _) =
            warm_ups.partition(|(_, warm_up)| self.target_of(warm_up) <= open);
        self.others.warm_ups = cold;
        for (ticket, warm_up) in warm {
            self.notify(ticket, warm_up.sleeper, Verdict::Warm, effects);
        }
    }

    /// Ends the wait of a caller, out of the queue already, with a verdict.
    pub(super) fn end_wait(
        &mut self,
        ticket: Ticket,
        waiter: Waiter<F, W>,
        verdict: Verdict<C, F>,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        self.count_wait(&waiter, now);
        let (sleeper, failure) = waiter.into_parts();
        effects.discard(failure);
        self.notify(ticket, sleeper, verdict, effects);
    }

    /// The verdict for a caller, out of the queue already, whose deadline has passed.
    pub(super) fn time_out(&mut self, waiter: Waiter<F, W>, now: Moment) -> Verdict<C, F> {
        self.count_wait(&waiter, now);
        self.totals.timed_out_total += 1;
        self.lateness(waiter.into_parts().1)
    }

    /// The verdict when a deadline has passed, with the failure of the caller's own dial, or else the
    /// pool's latest.
    pub(super) fn lateness(&self, failure: Option<F>) -> Verdict<C, F> {
        let failure = failure.or_else(|| self.dialing.last_failure.clone());
        if self.is_suspended() { Verdict::Suspended(failure) } else { Verdict::Late(failure) }
    }

    fn count_wait(&mut self, waiter: &Waiter<F, W>, now: Moment) {
        self.totals.wait_time_total += now.since(waiter.joined);
    }
}
