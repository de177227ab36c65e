//! Dials for callers: how many may begin, which begin now, and what follows from a failure.
//!
//! `room` is how many may begin: slots, `max_dialing`, the breaker, the budget. `wanted` is how many the
//! queue wants by the dial rule. Each dial begins for a sponsor: the longest-waiting caller without a
//! dial or a failure of its own, or the warm-up with the largest target.
//!
//! A failure goes to the sponsor if it still waits (`note_failure`). The sponsor then wants no further dial
//! until the pool may try again (`revive`).

use std::time::Duration;

use crate::abort::AbortHandle;
use crate::config::{Backoff, DialRule, OnDialFailure};
use crate::runtime::moment::Moment;

use super::answers::{Overdue, Verdict, Waker};
use super::dial_rule::{LOOK_LEAST, Outlook, Pace};
use super::effects::{DialOrder, Effects, JobId};
use super::jobs::{Dial, Sponsor};
use super::outage::{BreakerTurn, Outage};
use super::spread::Spread;
use super::watcher::WarmUp;
use super::{Ledger, earlier};

/// The reason why a dial's handle is out of reach: another thread is about to call and drop it.
#[derive(Debug)]
pub(crate) struct BeingEnded;

/// The lessons of earlier dials, and when the ledger next weighs another one.
#[derive(Debug)]
pub(super) struct Dialing<F> {
    pub(super) pace: Pace,
    pub(super) outage: Outage,
    /// How the latest dial failed. `None` if none has failed since one succeeded.
    pub(super) last_failure: Option<F>,
    /// When the dial rule must be asked again, if it holds a dial back.
    pub(super) look_at: Option<Moment>,
}

impl<F> Dialing<F> {
    pub(super) fn new(spread: Spread) -> Self {
        Self {
            pace: Pace::default(),
            outage: Outage::new(spread),
            last_failure: None,
            look_at: None,
        }
    }
}

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// How many dials may begin now.
    pub(super) fn room(&self, now: Moment) -> u32 {
        let slots = self.config.max_open.saturating_sub(self.open_count());
        if slots == 0 || self.is_stalled() {
            return 0;
        }
        let dials = self.config.max_dialing().saturating_sub(self.jobs.dials.len());
        slots.min(dials).min(self.probes(now))
    }

    /// How many dials the breaker lets begin now.
    pub(super) fn probes(&self, now: Moment) -> u32 {
        match self.config.breaker() {
            Some(breaker) if !self.dialing.outage.is_over() => {
                let next = self.dialing.outage.next_probe(breaker);
                let is_due = next.is_none_or(|next| next <= now);
                u32::from(is_due && self.jobs.dials.counted_on() == 0)
            }
            _ => u32::MAX,
        }
    }

    /// Whether callers who need a dial are refused.
    pub(super) fn is_breaker_open(&self) -> bool {
        self.dialing.outage.has_opened(self.config.breaker())
    }

    /// A dial has ended, or the settings have changed: the breaker may have opened or closed.
    pub(super) fn note_breaker(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if let Some(turn) = self.dialing.outage.turn(self.config.breaker(), now) {
            let has_opened = matches!(turn, BreakerTurn::Opened { .. });
            self.totals.breaker_opened_total += u64::from(has_opened);
            effects.rare().breaker.push(turn);
        }
    }

    /// Begins the dials that callers and warm-ups want and that the limits allow.
    pub(super) fn begin_dials(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if self.queue.is_empty() && self.others.warm_ups.is_empty() {
            return;
        }
        let room = self.room(now);
        let wanted = if room == 0 { 0 } else { self.wanted(now).min(room) };
        for begun in 0..wanted {
            let Some((sponsor, since)) = self.queue.sponsor(now) else { break };
            // A caller's dial warms the pool up as well.
            let since = self.lacking_since().map_or(since, |warm_up| warm_up.min(since));
            if !self.take_slot(since, wanted - begun, now) {
                break;
            }
            let id = self.begin_dial(Sponsor::Caller(sponsor), now, effects);
            self.queue.begin_dial(sponsor, id);
        }
        if self.upkeep.replaces_at.is_some() {
            return;
        }
        let largest = self.others.warm_ups.iter().max_by_key(|(_, it)| it.target);
        let Some((&sponsor, warm_up)) = largest else { return };
        let wanted = self.target_of(warm_up).saturating_sub(self.open_or_coming());
        let wanted = wanted.min(self.room(now));
        for begun in 0..wanted {
            let Some(since) = self.lacking_since() else { break };
            if !self.take_slot(since, wanted - begun, now) {
                break;
            }
            self.begin_dial(Sponsor::Caller(sponsor), now, effects);
        }
    }

    /// How many connections a warm-up waits for: no more than may be idle.
    pub(super) fn target_of(&self, warm_up: &WarmUp<W>) -> u32 {
        warm_up.target.min(self.config.max_idle())
    }

    /// Open connections, and dials that can be counted on.
    fn open_or_coming(&self) -> u32 {
        self.idle.len() + self.busy() + self.jobs.dials.counted_on()
    }

    /// Since when the first of the warm-ups that lack a connection has waited.
    fn lacking_since(&self) -> Option<Moment> {
        let there = self.open_or_coming();
        let lacks = |warm_up: &&WarmUp<W>| self.target_of(warm_up) > there;
        self.others.warm_ups.values().find(lacks).map(|warm_up| warm_up.since)
    }

    /// How many dials the callers in the queue want.
    fn wanted(&mut self, now: Moment) -> u32 {
        if self.queue.is_empty() {
            return 0;
        }
        let hold_off = self.hold_off().unwrap_or_default();
        let outlook = Outlook {
            first_since: self.queue.front_since(),
            unfailed: self.queue.unfailed(),
            ripe: now.before(hold_off).map_or(0, |before| self.queue.count_ripe(before)),
            coming: self.coming(),
            dialing: self.jobs.dials.counted_on(),
            busy: self.busy(),
        };
        self.dialing.pace.wanted(self.config.dial_rule, outlook, now)
    }

    /// How long callers in the queue wait for connections in use before a dial begins for them. `None`:
    /// not at all.
    fn hold_off(&self) -> Option<Duration> {
        self.dialing.pace.hold_off(self.queue.front_since())
    }

    /// Notes when the dial rule must be asked again, if it holds back a dial for which there is room.
    pub(super) fn plan_dial_look(&mut self, now: Moment) {
        let may_hold_back = self.config.dial_rule != DialRule::Eager
            && !self.is_suspended()
            && self.coming() < self.queue.unfailed()
            && self.room(now) > 0
            && self.busy() > 0;
        let Some(hold_off) = may_hold_back.then(|| self.hold_off()).flatten() else {
            self.dialing.look_at = None;
            return;
        };
        if self.dialing.look_at.is_none_or(|at| at <= now) {
            let ripens = self.queue.unripe_since().and_then(|since| since.after(hold_off));
            self.dialing.look_at = ripens.or_else(|| now.after(hold_off.max(LOOK_LEAST)));
        }
    }

    /// A connection has come back. The dial rule counts these while anyone waits.
    pub(super) fn note_return(&mut self, now: Moment) {
        if !self.queue.is_empty() {
            self.dialing.pace.note_return(now);
        }
    }

    pub(super) fn begin_dial(
        &mut self,
        sponsor: Sponsor,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) -> JobId {
        let id = JobId(self.fresh_id());
        let limit = now.after(self.config.dial_timeout);
        let deadline = earlier(limit, self.lease.end());
        let overrun = if deadline == limit {
            Overdue::Limit(self.config.dial_timeout)
        } else {
            Overdue::Lease
        };
        let dial = Dial {
            sponsor,
            epoch: self.epochs.current(),
            began: now,
            deadline,
            overrun,
            handle: None,
            is_being_ended: false,
        };
        self.jobs.dials.begin(id, dial);
        self.totals.dials_total += 1;
        let sponsor = match sponsor {
            Sponsor::Caller(ticket) => {
                let of_warm_up = || self.others.warm_ups.get(&ticket).map(|it| &it.sleeper.waker);
                self.queue.waker(ticket).or_else(of_warm_up).cloned()
            }
            Sponsor::Pool | Sponsor::Nobody => None,
        };
        effects.rare().dials.push(DialOrder { id, deadline, sponsor });
        id
    }

    /// Whether nobody wants the connection of that dial any more: it would be closed at once.
    pub(crate) fn is_dial_cancelled(&self, id: JobId) -> bool {
        self.jobs.dials.get(id).is_some_and(|dial| self.unfitness(dial.epoch).is_some())
    }

    /// Keeps the handle that ends that dial early, and returns the one that it replaces. `Err`: nobody wants
    /// the connection of that dial any more, and the handle is to be called.
    pub(crate) fn keep_dial_handle(
        &mut self,
        id: JobId,
        handle: AbortHandle,
    ) -> Result<Option<AbortHandle>, AbortHandle> {
        if self.is_dial_cancelled(id) {
            return Err(handle);
        }
        let dial = self.jobs.dials.get_mut(id).expect("a context ends before its dial");
        Ok(dial.handle.replace(handle))
    }

    /// That dial is about to be reported as ended, or is repeated. `Err`: not yet, as a thread has its
    /// handle, which may hold a socket.
    pub(crate) fn take_dial_handle(
        &mut self,
        id: JobId,
    ) -> Result<Option<AbortHandle>, BeingEnded> {
        match self.jobs.dials.get_mut(id) {
            Some(Dial { is_being_ended: true, .. }) => Err(BeingEnded),
            dial => Ok(dial.and_then(|dial| dial.handle.take())),
        }
    }

    /// The dials whose connections nobody wants any more, and what ends them. Each handle is to be called
    /// and dropped, and then reported by `dial_aborted`.
    pub(crate) fn take_cancelled_dials(&mut self) -> Vec<(JobId, AbortHandle)> {
        if self.jobs.dials.len() == 0 {
            // Else a closed pool would keep tables, allocated to find nothing in them.
            return Vec::new();
        }
        let (closed, epochs) = (self.is_closed(), &self.epochs);
        let dials = self.jobs.dials.iter_mut();
        let cancelled =
            dials.filter(|(_, dial)| closed || epochs.why_flushed(dial.epoch).is_some());
        let taken = cancelled.filter_map(|(id, dial)| {
            let handle = dial.handle.take()?;
            dial.is_being_ended = true;
            Some((id, handle))
        });
        taken.collect()
    }

    /// The handle of a cancelled dial has been called and dropped.
    pub(crate) fn dial_aborted(&mut self, id: JobId) {
        let dial = self.jobs.dials.get_mut(id).expect("it waits for this");
        dial.is_being_ended = false;
    }

    /// A dial has failed, or was written off. Its sponsor gets the failure if it still waits, and the
    /// pool remembers the latest one.
    pub(super) fn note_failure(
        &mut self,
        sponsor: Sponsor,
        dial: JobId,
        failure: F,
        is_permanent: bool,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        effects.discard(self.dialing.last_failure.replace(failure.clone()));
        // A dial that was written off has counted as a failure then.
        if sponsor != Sponsor::Nobody {
            self.dialing.outage.note_failure(is_permanent, now);
            self.note_breaker(now, effects);
        }
        let Sponsor::Caller(sponsor) = sponsor else {
            effects.discard(Some(failure));
            return;
        };
        if let Some(warm_up) = self.others.warm_ups.remove(&sponsor) {
            self.notify(sponsor, warm_up.sleeper, Verdict::Failed(failure), effects);
        } else {
            effects.discard(self.queue.fail(sponsor, dial, failure));
        }
    }

    /// Lets callers dial again whose dials have failed or who were refused one: all of them once a dial
    /// has succeeded, and until then one at a time, after a pause.
    pub(super) fn revive(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if !self.queue.any_failed() {
            return;
        }
        let may_dial_again = self.backoff().is_some() || self.config.breaker().is_some();
        if may_dial_again && self.dialing.outage.is_over() {
            while self.queue.any_failed() {
                effects.discard(self.queue.revive_first());
            }
        } else if self.retry_due().is_some_and(|at| at <= now) {
            effects.discard(self.queue.revive_first());
        }
    }

    /// When one of the callers whose dial has failed, or who were refused one, may dial again, if that is
    /// what they wait for; `None` is never.
    pub(super) fn retry_due(&self) -> Option<Moment> {
        let others_dial = self.queue.any_unsponsored() || self.jobs.dials.counted_on() > 0;
        if others_dial || self.is_suspended() {
            return None;
        }
        let outage = &self.dialing.outage;
        match self.config.breaker().filter(|_| self.is_breaker_open()) {
            None => outage.next_retry(self.backoff()?),
            Some(_) if outage.is_permanent() || self.open_count() >= self.config.max_open => None,
            // Nobody else may come to probe, and nothing may come back.
            Some(breaker) => outage.next_probe(breaker),
        }
    }

    /// The pauses after which callers whose dials have failed may dial again. `None`: they may not.
    pub(super) fn backoff(&self) -> Option<Backoff> {
        match self.config.on_dial_failure {
            OnDialFailure::Retry(backoff) if !self.is_breaker_open() => Some(backoff),
            _ => None,
        }
    }
}
