//! The decisions: what follows from an event, whatever it was.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::close_reason::CloseReason;
use crate::config::{DialRule, OnDialFailure};
use crate::moment::Moment;

use super::dial_rule::{LOOK_LEAST, Outlook};
use super::effects::{AsideOrder, CloseOrder, DialOrder, Effects, ErrandId, Task, Ticket};
use super::entry::Entry;
use super::errands::{Aside, Closings, Dial, Dials, Sponsor};
use super::queue::Waiter;
use super::roster::Tally;
use super::share::{AtRest, Share};
use super::upkeep::UPKEEP_LEAST;
use super::{Ledger, Overdue, Sleeper, Verdict, Waker, WarmUp, Watch};

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// Runs an event that may free something: whatever it was, it ends in `settle`.
    pub(super) fn settled(
        &mut self,
        now: Moment,
        event: impl FnOnce(&mut Self, &mut Effects<C, F, W>),
    ) -> Effects<C, F, W> {
        let mut effects = Effects::none();
        if self.is_under_way() || self.has_aged(now) {
            self.expire(now, &mut effects);
        }
        event(self, &mut effects);
        if !self.is_plain(now) || !self.serve_plainly(now, &mut effects) {
            self.settle(now, &mut effects);
        } else if cfg!(debug_assertions) {
            let mut nothing = Effects::none();
            self.settle(now, &mut nothing);
            debug_assert!(nothing.is_empty(), "nothing else follows from an event on a plain pool");
        }
        effects
    }

    /// Whether something happens outside the lock that will be told.
    pub(super) fn is_under_way(&self) -> bool {
        self.dials.len() > 0 || !self.aside.is_empty() || self.closings.len() > 0
    }

    /// Whether nothing follows from an event but that callers in the queue are served: nothing is under
    /// way, all limits are kept, and upkeep comes in time. So it is with nearly every loan and return.
    fn is_plain(&self, now: Moment) -> bool {
        !(self.closed
            || self.config.min_idle > 0
            || self.idle.len() > self.config.max_idle()
            || self.is_under_way()
            || !self.outdated.is_empty()
            || self.ceiling != self.config.max_open
            || self.warm_ups.len() + self.drains.len() > 0
            || self.replaces_at.is_some()
            || self.idle.is_due(now)
            || self.judgements.are_begun()
            || !self.outage.is_over()
            || !self.is_upkeep_in_time(now))
            && self.share.as_ref().is_none_or(|share| {
                share.is_quiet(self.open(), self.idle.coldest().map(|entry| entry.idle_since))
            })
    }

    /// Serves the callers in the queue of a plain pool, if there are any. Says whether that was all that
    /// there was to do.
    fn serve_plainly(&mut self, now: Moment, effects: &mut Effects<C, F, W>) -> bool {
        if self.queue.is_empty() && !self.has_waiting {
            return true;
        }
        let may_dial = self.open() < self.config.max_open || self.dial_look.is_some();
        if may_dial || self.suspended || self.queue.any_failed() {
            return false;
        }
        self.note_pace(now);
        self.serve(now, effects);
        self.note_waiting();
        !self.is_under_way()
    }

    /// Notes whether somebody waits still. If not, the paces of loans and returns are forgotten.
    fn note_waiting(&mut self) {
        self.has_waiting = !self.queue.is_empty();
        if !self.has_waiting {
            self.bypass.rest();
            self.pace.rest();
        }
    }

    /// Sees to it that somebody looks when the next thing is due: the last of those who sleep, being
    /// likely to stay longest, is woken if nobody wakes by then, and so sets its alarm anew.
    fn keep_watch(&mut self, effects: &mut Effects<C, F, W>) {
        if self.next_due().is_none_or(|due| self.is_watched(due)) {
            return;
        }
        let warm_ups = self.warm_ups.iter().map(|(ticket, warm_up)| (ticket, &warm_up.sleeper));
        let others = warm_ups.chain(&self.drains).filter(|(_, sleeper)| sleeper.is_asleep);
        let others = others.map(|(ticket, sleeper)| (*ticket, &sleeper.waker));
        if let Some((by, waker)) = self.queue.last_asleep().or_else(|| others.last()) {
            waker.call();
            effects.wake(waker.clone());
            // It looks at once, and says then when it wakes next.
            self.watch = Some(Watch { by: by.number, until: Moment::FIRST });
        }
    }

    /// Whether somebody wakes by then to look.
    pub(super) fn is_watched(&self, due: Moment) -> bool {
        self.watch.is_some_and(|watch| watch.until <= due)
    }

    /// The holder of `ticket` sleeps no longer.
    pub(super) fn end_watch(&mut self, ticket: Ticket) {
        self.watch.take_if(|watch| watch.by == ticket.number);
    }

    /// Notes how fast connections are lent, as long as anyone waits for one.
    fn note_pace(&mut self, now: Moment) {
        if !self.queue.is_empty() {
            self.bypass.note(self.totals.lent_total, now);
        }
    }

    /// Gives what is free to those who wait, longest first, and begins the dials that they want.
    /// Every event that can free anything ends here: that is why no waiter is ever stranded.
    pub(super) fn settle(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if let Some(share) = &mut self.share {
            share.begin();
        }
        while let Some(entry) = self.outdated.pop() {
            self.receive(&entry);
            self.shelve(entry, now, effects);
        }
        if !self.closed {
            self.make_way(now, effects);
            if !self.suspended {
                self.note_pace(now);
                self.serve(now, effects);
                self.revive(now, effects);
                self.begin_dials(now, effects);
                self.fill(now, effects);
                self.refuse(now, effects);
                self.fail_hopeless(now, effects);
            }
            self.plan_dial_look(now);
            self.finish_warm_ups(effects);
            while self.idle.len() > self.may_rest() {
                let surplus = self.idle.take_surplus().expect("more are idle than max_idle");
                self.begin_close(surplus, CloseReason::Surplus, now, effects);
            }
            self.check_coldest(now, effects);
            self.set_alarm(now, effects);
        } else if self.open() == 0 {
            for (ticket, sleeper) in std::mem::take(&mut self.drains) {
                self.tell(ticket, sleeper, Verdict::Drained, effects);
            }
        }
        if self.ceiling > self.config.max_open {
            self.ceiling = self.config.max_open.max(self.ceiling.min(self.open()));
        }
        if let Some(judged) = self.judgements.take_done() {
            effects.work().judged = Some(judged);
        }
        self.settle_share(now, effects);
        self.keep_watch(effects);
        self.note_waiting();
        self.shed();
        self.audit(now);
    }

    /// How many connections may rest. While callers queue, idle connections that are open to newcomers
    /// are not surplus.
    fn may_rest(&self) -> u32 {
        self.config.max_idle().max(self.queue.len())
    }

    /// How many more may come to rest out of sight.
    pub(crate) fn spare_rest(&self) -> u32 {
        self.may_rest().saturating_sub(self.idle.len())
    }

    /// Frees the memory of tables that are empty, as most are most of the time: a pool at rest would
    /// weigh half as much again, and of a keyed pool's there may be thousands.
    fn shed(&mut self) {
        if self.queue.is_empty() && !self.is_under_way() && self.warm_ups.is_empty() {
            self.queue.shed();
            self.warm_ups = BTreeMap::new();
            (self.dials, self.aside) = (Dials::default(), Aside::default());
            self.closings = Closings::default();
        }
    }

    /// Writes off what has overrun its time limit.
    pub(super) fn expire(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        while let Some((id, sponsor)) = self.dials.write_off_overdue(now) {
            let failure = F::from(Overdue { limit: self.config.dial_timeout });
            self.note_failure(sponsor, id, failure, false, now, effects);
        }
        while let Some((id, task)) = self.aside.write_off_overdue(now) {
            // The connection is still out, but nobody shall have it: it is closed when it is back.
            self.note_end(task, now);
            self.totals.check_failed_total += u64::from(task.is_check());
            self.note_closing(id, now);
        }
        self.replaces_at.take_if(|at| *at <= now);
        self.retire_aged(now, effects);
        while let Some(id) = self.closings.pop_overdue(now) {
            self.totals.close_timeouts_total += 1;
            self.note_closed(id);
        }
    }

    /// Closes what has come to rest for callers of other keys who lack a slot, if they have waited for
    /// the bound of BOUNDED-BYPASS and since before all who wait here.
    fn make_way(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if !self.share.as_ref().is_some_and(Share::is_awaited) || self.idle.is_empty() {
            return;
        }
        let bound = self.bypass.bound(self.config.bypass, self.queue.len());
        let (own, due) = (self.waits_since(), now.before(Duration::from_nanos(bound)));
        let is_due = |since| Some(since) <= due && own.is_none_or(|own| since < own);
        while !self.idle.is_empty() {
            let open = self.open();
            let Some(share) = self.share.as_mut().filter(|share| share.is_awaited()) else {
                return;
            };
            if !share.owes(open, is_due) {
                return;
            }
            let entry = self.idle.take_coldest().expect("something is idle");
            self.begin_close(entry, CloseReason::Evicted, now, effects);
            let close = effects.work().closes.last().expect("a close has just been ordered").id;
            self.share.as_mut().expect("it has just been asked").yielded(close);
        }
    }

    /// Since when the first of all who wait here does, callers and warm-ups.
    fn waits_since(&self) -> Option<Moment> {
        let warm_up = self.warm_ups.values().next().map(|warm_up| warm_up.since);
        self.queue.front_since().into_iter().chain(warm_up).min()
    }

    /// Lends idle connections to those who have waited longest; sets stale ones aside for a check.
    pub(super) fn serve(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        while let Some((ticket, expired)) = self.queue.front(now) {
            if expired {
                // Not woken: its own clock does that.
                let waiter = self.queue.remove(ticket).expect("the front is in the queue");
                let waker = waiter.waker.clone();
                self.end_watch(ticket);
                waker.tell(self.time_out(waiter, now), false);
            } else if self.may_be_passed(now) {
                return;
            } else if let Some(entry) = self.take_fresh(now) {
                let waiter = self.queue.remove(ticket).expect("the front is in the queue");
                self.dismiss(ticket, waiter, Verdict::Granted(entry), now, effects);
            } else if self.aside.checks() < self.queue.len() && !self.idle.is_empty() {
                // Whatever dials are under way: a check is quick, and one of them may hang.
                let stale = self.idle.take_warmest().expect("something is idle");
                self.set_aside(Task::Check, stale, now, effects);
            } else {
                return;
            }
        }
    }

    /// Whether newcomers may be served before the queue.
    pub(super) fn may_be_passed(&self, now: Moment) -> bool {
        self.may_be_passed_for(now).is_some()
    }

    /// For how long newcomers may be served before the queue: while a connection is on its way to a
    /// caller who is waking up, until the first of the others has waited for the bound.
    ///
    /// A caller who was awake when it was given a connection does not count: it may be in user code,
    /// for as long as that takes.
    ///
    /// To hand every connection over costs a change of threads each, during which it is of no use
    /// to anyone. One at a time is handed over while the waits are short, and all of them once a
    /// wait is long: so no wait is.
    pub(super) fn may_be_passed_for(&self, now: Moment) -> Option<Duration> {
        if self.waking() == 0 {
            return None;
        }
        let waited = now.nanos_since(self.queue.front_since()?);
        let bound = self.bypass.bound(self.config.bypass, self.queue.len());
        (waited < bound).then(|| Duration::from_nanos(bound - waited))
    }

    /// Lets callers whose dials have failed, or who were refused one, dial again: all of them once a
    /// dial has succeeded, and one at a time, after a pause, until then.
    pub(super) fn revive(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if !self.queue.any_failed() {
            return;
        }
        let may_dial_again = self.backoff().is_some() || self.config.breaker().is_some();
        if may_dial_again && self.outage.is_over() {
            while self.queue.any_failed() {
                effects.spend(self.queue.revive_first());
            }
        } else if self.next_retry().is_some_and(|at| at <= now) {
            effects.spend(self.queue.revive_first());
        }
    }

    /// Has the latest failure stand for a dial of their own for those who need one, while the
    /// breaker is open and no probe is due.
    pub(super) fn refuse(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if self.outage.is_over() || !self.is_broken_off() || self.probes(now) > 0 {
            return;
        }
        let Some(failure) = self.last_failure.clone() else { return };
        while self.queue.refuse_first(&failure) {}
        if self.dials.counted_on() == 0 {
            for (ticket, warm_up) in std::mem::take(&mut self.warm_ups) {
                self.tell(ticket, warm_up.sleeper, Verdict::Failed(failure.clone()), effects);
            }
        }
        effects.spend(Some(failure));
    }

    /// Turns away those whose dial has failed and whom no return can serve, as nothing is in use.
    ///
    /// Connections in use count here and other dials do not, or one refusal would wait for the end
    /// of another's black hole.
    pub(super) fn fail_hopeless(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if !self.queue.any_failed() {
            return;
        }
        let awaits_return = self.config.on_dial_failure != OnDialFailure::Fail && self.busy() > 0;
        if awaits_return || self.backoff().is_some() {
            return;
        }
        while let Some((ticket, waiter)) = self.queue.pop_failed() {
            self.count_wait(&waiter, now);
            let is_asleep = waiter.is_asleep;
            let (waker, failure) = waiter.into_parts();
            let failure = failure.expect("a caller among the failed has a failure");
            self.tell(ticket, Sleeper { waker, is_asleep }, Verdict::Failed(failure), effects);
        }
    }

    /// Reserves a slot for each dial that is wanted and that the limits allow.
    pub(super) fn begin_dials(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if self.queue.is_empty() && self.warm_ups.is_empty() {
            return;
        }
        let room = self.room(now);
        let wanted = if room == 0 { 0 } else { self.wanted(now).min(room) };
        for begun in 0..wanted {
            let Some((sponsor, since)) = self.queue.sponsor(now) else { break };
            // A caller's dial warms the pool up as well.
            let since = self.lacking_since().map_or(since, |warm_up| warm_up.min(since));
            if !self.take_slot(since, wanted - begun) {
                break;
            }
            let id = self.begin_dial(Sponsor::Caller(sponsor), now, effects);
            self.queue.begin_dial(sponsor, id);
        }
        if self.warm_ups.is_empty() || self.replaces_at.is_some() {
            return;
        }
        let Some((&sponsor, warm_up)) = self.warm_ups.iter().max_by_key(|(_, it)| it.target) else {
            return;
        };
        let wanted = warm_up.target.min(self.config.max_idle()).saturating_sub(self.counted_on());
        let wanted = wanted.min(self.room(now));
        for begun in 0..wanted {
            let Some(since) = self.lacking_since() else { break };
            if !self.take_slot(since, wanted - begun) {
                break;
            }
            self.begin_dial(Sponsor::Caller(sponsor), now, effects);
        }
    }

    /// What is open or counted on to be.
    fn counted_on(&self) -> u32 {
        self.live() - self.dials.len() + self.dials.counted_on()
    }

    /// Since when the first warm-up waits that lacks a connection.
    fn lacking_since(&self) -> Option<Moment> {
        let counted_on = self.counted_on();
        let lacks = |it: &&WarmUp<W>| it.target.min(self.config.max_idle()) > counted_on;
        self.warm_ups.values().find(lacks).map(|warm_up| warm_up.since)
    }

    /// The dials that the callers in the queue want.
    pub(super) fn wanted(&mut self, now: Moment) -> u32 {
        if self.queue.is_empty() {
            return 0;
        }
        let hold_off = self.hold_off().unwrap_or_default();
        let outlook = Outlook {
            first_since: self.queue.front_since(),
            unmet: self.queue.unmet(),
            ripe: now.before(hold_off).map_or(0, |before| self.queue.ripe(before)),
            coming: self.coming(),
            dialing: self.dials.counted_on(),
            busy: self.busy(),
        };
        self.pace.wanted(self.config.dial_rule, outlook, now)
    }

    /// How long callers in the queue give connections in use to come back; `None`: not at all.
    fn hold_off(&self) -> Option<Duration> {
        self.pace.hold_off(self.queue.front_since())
    }

    /// Notes when to look again if the rule holds back a dial for which there is room. Nobody needs to
    /// while every slot is taken.
    fn plan_dial_look(&mut self, now: Moment) {
        let is_held_back = self.config.dial_rule != DialRule::Eager
            && !self.suspended
            && self.coming() < self.queue.unmet()
            && self.room(now) > 0
            && self.busy() > 0
            && self.hold_off().is_some();
        if !is_held_back {
            self.dial_look = None;
        } else if self.dial_look.is_none_or(|at| at <= now) {
            self.dial_look = self.next_dial_look(now);
        }
    }

    /// When the dial rule must look again.
    pub(super) fn next_dial_look(&self, now: Moment) -> Option<Moment> {
        let hold_off = self.hold_off()?;
        let ripens = self.queue.unripe_since().and_then(|since| since.after(hold_off));
        let again = now.after(hold_off.max(LOOK_LEAST));
        if self.queue.has_ripe() { again.into_iter().chain(ripens).min() } else { ripens }
    }

    pub(super) fn note_return(&mut self, now: Moment) {
        if !self.queue.is_empty() {
            self.pace.note_return(now);
        }
    }

    /// Takes a slot of the budget for a dial that somebody has wanted since then, if this ledger
    /// shares one. If there is none, it is asked for all that are `wanted`.
    fn take_slot(&mut self, since: Moment, wanted: u32) -> bool {
        let open = self.open();
        self.share.as_mut().is_none_or(|share| share.take(since, wanted, open))
    }

    /// Gives the budget back what is not needed, and tells it what could be.
    fn settle_share(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if self.share.is_none() {
            return;
        }
        let (open, is_any_live) = (self.open(), self.live() > 0);
        let coldest = self.coldest_unwanted().map(|entry| entry.idle_since);
        let rest = AtRest { coldest, is_any_live };
        let is_anyone_waiting = !self.queue.is_empty() || !self.warm_ups.is_empty();
        let is_vacant = self.is_vacant(now);
        let Some(share) = &mut self.share else { return };
        if is_anyone_waiting {
            share.note_wait();
        }
        let mut orders = Vec::new();
        share.settle(open, rest, now, &mut orders);
        if is_vacant || !orders.is_empty() {
            let work = effects.work();
            (work.orders, work.is_vacant) = (orders, is_vacant);
        }
    }

    /// The idle connection that has rested longest, if nobody here waits for it: neither a caller,
    /// nor a warm-up, which would dial for what was closed to make room for its dials.
    pub(super) fn coldest_unwanted(&self) -> Option<&Entry<C>> {
        let is_unwanted = self.queue.is_empty() && self.warm_ups.is_empty();
        self.idle.coldest().filter(|_| is_unwanted)
    }

    pub(super) fn note_closed(&mut self, id: ErrandId) {
        if let Some(share) = &mut self.share {
            share.closed(id);
        }
    }

    pub(super) fn begin_dial(
        &mut self,
        sponsor: Sponsor,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) -> ErrandId {
        let id = ErrandId(self.fresh_id());
        let deadline = now.after(self.config.dial_timeout);
        self.dials.begin(id, Dial { sponsor, epoch: self.epoch, began: now, deadline });
        self.totals.dials_total += 1;
        let sponsor = match sponsor {
            Sponsor::Caller(ticket) => {
                let of_warm_up = || self.warm_ups.get(&ticket).map(|it| &it.sleeper.waker);
                self.queue.waker(ticket).or_else(of_warm_up).cloned()
            }
            Sponsor::Pool | Sponsor::Nobody => None,
        };
        effects.work().dials.push(DialOrder { id, deadline, sponsor });
        id
    }

    /// A dial's failure is its sponsor's, if that one still waits; the pool remembers the latest.
    pub(super) fn note_failure(
        &mut self,
        sponsor: Sponsor,
        dial: ErrandId,
        failure: F,
        is_permanent: bool,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        effects.spend(self.last_failure.replace(failure.clone()));
        if sponsor != Sponsor::Nobody {
            self.outage.note_failure(is_permanent, now);
        }
        let Sponsor::Caller(sponsor) = sponsor else {
            effects.spend(Some(failure));
            return;
        };
        if let Some(warm_up) = self.warm_ups.remove(&sponsor) {
            self.tell(sponsor, warm_up.sleeper, Verdict::Failed(failure), effects);
        } else {
            effects.spend(self.queue.fail(sponsor, dial, failure));
        }
    }

    pub(super) fn finish_warm_ups(&mut self, effects: &mut Effects<C, F, W>) {
        if self.warm_ups.is_empty() {
            return;
        }
        let open = self.idle.len() + self.busy();
        let limit = self.config.max_idle();
        let reached = |warm_up: &WarmUp<W>| warm_up.target.min(limit) <= open;
        while let Some(ticket) = self.warm_ups.iter().find(|(_, w)| reached(w)).map(|(t, _)| *t) {
            let warm_up = self.warm_ups.remove(&ticket).expect("a warm-up just found");
            self.tell(ticket, warm_up.sleeper, Verdict::Warm, effects);
        }
    }

    /// Takes a caller out of the queue with what has become of its wait.
    pub(super) fn dismiss(
        &mut self,
        ticket: Ticket,
        waiter: Waiter<F, W>,
        verdict: Verdict<C, F>,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        self.count_wait(&waiter, now);
        let is_asleep = waiter.is_asleep;
        let (waker, failure) = waiter.into_parts();
        effects.spend(failure);
        self.tell(ticket, Sleeper { waker, is_asleep }, verdict, effects);
    }

    /// Lays a verdict before whoever waits for it, and has it woken.
    pub(super) fn tell(
        &mut self,
        ticket: Ticket,
        sleeper: Sleeper<W>,
        verdict: Verdict<C, F>,
        effects: &mut Effects<C, F, W>,
    ) {
        let Sleeper { waker, is_asleep } = sleeper;
        let is_waking = is_asleep && matches!(verdict, Verdict::Granted(_));
        self.handed += u64::from(is_waking);
        self.end_watch(ticket);
        waker.tell(verdict, is_waking);
        effects.wake(waker);
    }

    /// What becomes of a caller, out of the queue already, whose deadline has passed.
    pub(super) fn time_out(&mut self, waiter: Waiter<F, W>, now: Moment) -> Verdict<C, F> {
        self.count_wait(&waiter, now);
        self.totals.timed_out_total += 1;
        self.lateness(waiter.into_parts().1)
    }

    /// Why a caller gets nothing whose deadline has passed: with its own dial error, or else the
    /// pool's latest.
    pub(super) fn lateness(&self, failure: Option<F>) -> Verdict<C, F> {
        let failure = failure.or_else(|| self.last_failure.clone());
        if self.suspended { Verdict::Suspended(failure) } else { Verdict::Late(failure) }
    }

    pub(super) fn count_wait(&mut self, waiter: &Waiter<F, W>, now: Moment) {
        self.totals.wait_time_total += now.since(waiter.joined);
    }

    /// Lends the most recently used idle connection to a caller who is there to check it, if it needs
    /// that.
    pub(super) fn take_for_caller(&mut self, now: Moment) -> Option<Entry<C>> {
        if let Some(entry) = self.take_fresh(now) {
            return Some(entry);
        }
        let stale = if self.checks_in_place { self.idle.take_warmest() } else { None };
        let mut entry = self.lend(stale?, now);
        entry.must_check = true;
        Some(entry)
    }

    /// Lends the most recently used idle connection, if it needs no check.
    pub(super) fn take_fresh(&mut self, now: Moment) -> Option<Entry<C>> {
        self.idle.warmest().filter(|entry| self.is_proven(entry, now))?;
        let entry = self.idle.take_warmest()?;
        Some(self.lend(entry, now))
    }

    pub(super) fn lend(&mut self, mut entry: Entry<C>, now: Moment) -> Entry<C> {
        self.in_use += 1;
        entry.just_dialed = entry.record().loans() == 0 && entry.opened_at() == now;
        entry.must_check = false;
        entry.record().count_loan();
        self.count_loans(&entry);
        self.date(&mut entry);
        entry
    }

    /// Has a connection in use come back from whoever had it.
    pub(super) fn receive(&mut self, entry: &Entry<C>) {
        self.in_use -= 1;
        entry.record().let_go();
        self.count_loans(entry);
    }

    /// Counts what has become of a connection out of sight.
    pub(super) fn count_loans(&mut self, entry: &Entry<C>) {
        let Tally { lent, reused } = entry.record().count();
        self.totals.lent_total += lent;
        self.totals.reused_total += reused;
    }

    /// Puts a connection where `serve` finds it, or closes it if it may not be lent again, or has it
    /// judged if somebody has yet to say so.
    pub(super) fn shelve(&mut self, entry: Entry<C>, now: Moment, effects: &mut Effects<C, F, W>) {
        let is_surplus = self.live() >= self.config.max_open;
        let surplus = is_surplus.then_some(CloseReason::Surplus);
        // Limits may have changed since its end was noted.
        let known_end = entry.known_end().filter(|_| entry.epoch == self.epoch);
        let end = known_end.unwrap_or_else(|| self.aging.ends_at(&entry));
        let expired = (end <= now).then_some(CloseReason::Expired);
        if let Some(reason) = self.unfitness(&entry).or(expired).or(surplus) {
            self.begin_close(entry, reason, now, effects);
        } else if self.judgements.are_due(entry.epoch) {
            let task = Task::Judge { since: entry.epoch, until: self.epoch };
            self.set_aside(task, entry, now, effects);
        } else {
            self.rest(entry);
        }
    }

    /// Why a connection may not be lent again, sound as it may be.
    fn unfitness(&self, entry: &Entry<C>) -> Option<CloseReason> {
        if self.closed {
            Some(CloseReason::PoolClosed)
        } else {
            (entry.epoch < self.flushed).then_some(CloseReason::Flushed)
        }
    }

    /// Adds a connection to the idle ones, in the order in which they came to rest.
    pub(super) fn rest(&mut self, mut entry: Entry<C>) {
        if entry.epoch != self.epoch {
            // Limits may have changed since its end was reckoned.
            (entry.epoch, entry.expires) = (self.epoch, Moment::FIRST);
        }
        self.date(&mut entry);
        self.idle.insert(entry, &self.aging);
    }

    /// Has everything that is out pass the ledger when it comes back.
    pub(super) fn begin_epoch(&mut self) {
        self.epoch += 1;
        for entry in self.idle.iter_mut() {
            entry.epoch = self.epoch;
        }
    }

    pub(super) fn set_aside(
        &mut self,
        task: Task,
        entry: Entry<C>,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        let id = ErrandId(self.fresh_id());
        let deadline = now.after(self.config.check_timeout);
        self.aside.begin(id, task, deadline);
        effects.work().asides.push(AsideOrder { id, task, entry, deadline });
    }

    pub(super) fn begin_close(
        &mut self,
        entry: Entry<C>,
        reason: CloseReason,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        if reason.casts_doubt() {
            // What has rested since before may be broken as well: it is checked before it is lent.
            self.doubted_at = Some(now);
        }
        let has_aged = matches!(reason, CloseReason::Expired | CloseReason::IdleTooLong);
        if has_aged && entry.age(now) < UPKEEP_LEAST {
            self.replaces_at = now.after(UPKEEP_LEAST);
        }
        let id = ErrandId(self.fresh_id());
        self.judgements.pass(entry.epoch, self.epoch);
        self.note_closing(id, now);
        self.totals.count_retired(reason);
        self.order_close(id, entry, reason, now, effects);
    }

    /// Has a connection closed that holds its slot among the closing ones already.
    pub(super) fn order_close(
        &mut self,
        id: ErrandId,
        entry: Entry<C>,
        reason: CloseReason,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        let age = entry.age(now);
        let (connection, handle) = self.part_with(entry);
        effects.work().closes.push(CloseOrder { id, connection, handle, reason, age });
    }

    /// The connection, which is to be closed or detached, and its handle, which is to go first.
    pub(super) fn part_with(&mut self, entry: Entry<C>) -> (C, Option<AbortHandle>) {
        let handle = self.handles.remove(&entry.address());
        let (connection, page, line) = entry.into_parts();
        self.roster.strike(&page, line);
        (connection, handle)
    }

    pub(super) fn note_closing(&mut self, id: ErrandId, now: Moment) {
        self.totals.retired_total += 1;
        self.closings.begin(id, now.after(self.config.close_timeout));
    }

    pub(super) fn close_idle(
        &mut self,
        reason: CloseReason,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        while let Some(entry) = self.idle.take_coldest() {
            self.begin_close(entry, reason, now, effects);
        }
    }
}
