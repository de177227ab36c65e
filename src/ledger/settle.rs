//! The decisions: the one sequence in which every event ends.
//!
//! 1. `expire`, before the event: write off jobs that have overrun their limit, close what has aged.
//! 2. The event changes the tables.
//! 3. Connections taken from the places too late for a change are closed, judged or admitted.
//! 4. Idle connections go to other keys whose claims are older (`make_way`), then to the queue
//!    (`serve`).
//! 5. Callers whose dials have failed may want another (`revive`). Free slots become dials: for the queue
//!    and warm-ups (`begin_dials`), then for `min_idle` (`fill`).
//! 6. Callers whom neither can help are refused (`refuse_by_breaker`, `fail_hopeless`). Warm-ups and
//!    drains end once they have what they wait for.
//! 7. Surplus idle connections are closed, one is checked (`check_coldest`), and upkeep is ordered
//!    (`order_upkeep`).
//! 8. The next look at the dial rule is planned (`plan_dial_look`), the bound that BOUND asserts follows a
//!    lowered limit down, and predicates that have judged everything are given up.
//! 9. The budget gets its report, somebody is made the watcher, and the promises are asserted.
//!
//! After nearly every loan and return of a busy pool only step 4 has anything to do. `settle` notes for how
//! long that is so: see `Quiet`.

use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::Ledger;
use super::answers::{Overdue, Verdict, Waker};
use super::effects::Effects;
use super::share::Share;

/// When nothing follows from a loan or a return, except that callers in the queue are served: no job is
/// under way, no rule needs a look at each event, and upkeep comes in time.
///
/// `settle` notes it. It holds until an event of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quiet {
    /// If the clock ran back further than this, upkeep would have to come earlier.
    from: Moment,
    /// When upkeep comes; `Moment::LAST` is never.
    until: Moment,
    /// Whether those in the queue can only be served: no dial may begin for them.
    is_full: bool,
}

impl Quiet {
    pub(super) const NEVER: Self =
        Self { from: Moment::LAST, until: Moment::FIRST, is_full: false };

    /// Whether those in the queue of a quiet pool can only be served.
    #[inline]
    pub(super) fn is_full(self) -> bool {
        self.is_full
    }

    #[inline]
    fn is_now(self, now: Moment) -> bool {
        self.from <= now && now < self.until
    }
}

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// Runs an event that has no answer: see `event`.
    pub(super) fn settled(
        &mut self,
        now: Moment,
        event: impl FnOnce(&mut Self, &mut Effects<C, F, W>),
    ) -> Effects<C, F, W> {
        self.event(now, event).1
    }

    /// Runs an event and the decisions that follow from it. Every event that may free something must
    /// go this way, so that no waiter is ever stranded.
    pub(super) fn event<T>(
        &mut self,
        now: Moment,
        event: impl FnOnce(&mut Self, &mut Effects<C, F, W>) -> T,
    ) -> (T, Effects<C, F, W>) {
        self.quiet = Quiet::NEVER;
        self.routine(now, event)
    }

    /// The same for an event that ends no job and changes no setting, such as a loan or a return.
    pub(super) fn routine<T>(
        &mut self,
        now: Moment,
        event: impl FnOnce(&mut Self, &mut Effects<C, F, W>) -> T,
    ) -> (T, Effects<C, F, W>) {
        let mut effects = Effects::none();
        if !self.quiet.is_now(now) {
            self.expire(now, &mut effects);
        }
        let answer = event(self, &mut effects);
        // An event that begins a job has a rare effect.
        let is_quiet = self.quiet.is_now(now)
            && effects.rare.is_none()
            && self.has_nothing_to_report()
            && self.serve_quietly(now, &mut effects);
        if !is_quiet {
            self.settle(now, &mut effects);
        } else if cfg!(debug_assertions) {
            let (quiet, stats) = (self.quiet, self.stats_seen(now));
            debug_assert_eq!(self.had_waiting, !self.queue.is_empty(), "its rates are up to date");
            let mut nothing = Effects::none();
            self.settle(now, &mut nothing);
            let is_as_before = self.quiet == quiet && self.stats_seen(now) == stats;
            debug_assert!(
                nothing.is_empty() && is_as_before,
                "nothing else follows from an event on a quiet pool"
            );
        }
        (answer, effects)
    }

    /// Whether the budget need not hear of what an event has changed.
    fn has_nothing_to_report(&self) -> bool {
        self.share.as_ref().is_none_or(|share| {
            let coldest = self.idle.coldest().map(|entry| entry.idle_since);
            share.has_nothing_to_report(self.open_count(), coldest)
        })
    }

    /// A connection has come to rest: upkeep may have to come earlier, or one too many may rest.
    pub(super) fn note_rest(&mut self) {
        if !self.is_idle_quiet_until(self.quiet.until) {
            self.quiet = Quiet::NEVER;
        }
    }

    /// Whether none of the idle connections is to be closed or checked before `at`.
    fn is_idle_quiet_until(&self, at: Moment) -> bool {
        self.idle.is_quiet_until(at)
            && self.idle.len() <= self.config.max_idle()
            && self.next_idled_out().is_none_or(|idled_out| at <= idled_out)
    }

    /// Notes until when nothing but service follows from loans and returns.
    fn note_quiet(&mut self) {
        let Some((from, until)) = self.upkeep_span() else { return };
        let needs_settling = self.is_closed()
            || self.config.min_idle > 0 && self.open_count() < self.config.max_open
            || self.jobs.is_any()
            || self.ceiling != self.config.max_open
            || !self.others.is_empty()
            || self.upkeep.replaces_at.is_some()
            || self.epochs.is_judging()
            || !self.dialing.outage.is_over()
            || !self.is_idle_quiet_until(until);
        let may_dial = self.open_count() < self.config.max_open || self.dialing.look_at.is_some();
        let is_full = !may_dial && !self.is_suspended() && !self.queue.any_failed();
        self.quiet = if needs_settling { Quiet::NEVER } else { Quiet { from, until, is_full } };
    }

    /// Serves the queue of a quiet pool. Says whether nothing else follows.
    fn serve_quietly(&mut self, now: Moment, effects: &mut Effects<C, F, W>) -> bool {
        if self.queue.is_empty() && !self.had_waiting {
            return true;
        }
        if !self.quiet.is_full {
            return false;
        }
        self.count_loans_while_waiting(now);
        if !self.idle.is_empty() || self.queue.front(now).is_some_and(|(_, expired)| expired) {
            self.serve(now, effects);
        }
        self.note_waiting();
        effects.rare.is_none()
    }

    /// Runs the decisions once more under the same lock. Since the event that had these effects, a caller may
    /// have woken up, and connections have been swept in.
    pub(crate) fn settle_again(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        self.expire(now, effects);
        self.settle(now, effects);
    }

    /// Gives what is free to those who wait, longest first, and begins the dials that they need.
    fn settle(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        self.quiet = Quiet::NEVER;
        if let Some(share) = &mut self.share {
            share.forget_shortage();
        }
        while let Some(entry) = self.outdated.pop() {
            self.end_loan(&entry);
            self.admit(entry, now, effects);
        }
        if !self.is_closed() {
            self.make_way(now, effects);
            if !self.is_suspended() {
                self.count_loans_while_waiting(now);
                self.serve(now, effects);
                self.revive(now, effects);
                self.begin_dials(now, effects);
                self.fill(now, effects);
                self.refuse_by_breaker(now, effects);
                if self.fail_hopeless(now, effects) {
                    // Another is the first in the queue now. It may have waited for longer, for the pool that
                    // its key had before, and so be passed by nobody and have the older claim to a slot.
                    self.serve(now, effects);
                    self.begin_dials(now, effects);
                }
            }
            self.finish_warm_ups(effects);
            while self.idle.len() > self.idle_limit() {
                let surplus = self.idle.take_surplus().expect("more are idle than max_idle");
                self.begin_close(surplus, CloseReason::Surplus, now, effects);
            }
            self.check_coldest(now, effects);
        } else if self.open_count() == 0 {
            for (ticket, sleeper) in std::mem::take(&mut self.others.drains) {
                self.notify(ticket, sleeper, Verdict::Drained, effects);
            }
        }
        self.order_upkeep(now, effects);
        self.plan_dial_look(now);
        self.ceiling = self.config.max_open.max(self.ceiling.min(self.open_count()));
        if let Some(judged) = self.epochs.take_judged() {
            effects.rare().judged = Some(judged);
        }
        self.report_to_budget(now, effects);
        self.appoint_watcher(effects);
        self.note_waiting();
        self.shrink();
        self.note_quiet();
        self.audit(now);
    }

    /// Notes whether somebody still waits. If nobody does, the rates of loans and returns are
    /// forgotten.
    fn note_waiting(&mut self) {
        self.had_waiting = !self.queue.is_empty();
        if !self.had_waiting {
            self.bypass.forget();
            self.dialing.pace.forget_returns();
        }
    }

    /// How many connections may be idle. While callers queue, idle connections that newcomers may take
    /// are not surplus.
    pub(super) fn idle_limit(&self) -> u32 {
        self.config.max_idle().max(self.queue.len())
    }

    /// Frees the memory of empty tables. Most are empty most of the time: they would make a pool at
    /// rest half as large again, and a keyed pool may have thousands of them.
    fn shrink(&mut self) {
        if self.queue.is_empty() && !self.jobs.is_any() && self.others.warm_ups.is_empty() {
            self.queue.shrink();
            self.others.warm_ups.clear();
            self.jobs = Default::default();
        }
    }

    /// Writes off jobs that have overrun their time limit, and closes what has aged.
    fn expire(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        // Else the tables would be allocated, to find nothing in them.
        if self.jobs.is_any() {
            self.write_off_overdue(now, effects);
        }
        self.upkeep.replaces_at.take_if(|at| *at <= now);
        self.retire_aged(now, effects);
    }

    fn write_off_overdue(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        while let Some((id, sponsor, overrun)) = self.jobs.dials.write_off_overdue(now) {
            self.note_failure(sponsor, id, F::from(overrun), false, now, effects);
        }
        while let Some((id, purpose)) = self.jobs.at_dialer.write_off_overdue(now) {
            // The connection is still out. Nobody may have it any more: it is closed when it is back.
            self.note_check_ended(purpose, now);
            self.totals.check_failed_total += u64::from(purpose.is_check());
            self.note_closing(id, CloseReason::Late, now);
        }
        while let Some(id) = self.jobs.closings.pop_overdue(now) {
            self.totals.close_timeouts_total += 1;
            self.note_close_ended(id);
        }
    }

    /// Asserts the promises, by name.
    fn audit(&self, now: Moment) {
        debug_assert!(self.open_count() <= self.ceiling, "BOUND");
        let held = self.share.as_deref().map(Share::held);
        debug_assert!(held.is_none_or(|held| held == self.open_count()), "BOUND: of all keys");
        debug_assert!(
            self.wakes.woken <= self.wakes.handed,
            "more woke than were handed something"
        );
        if self.is_closed() {
            debug_assert!(self.idle.is_empty() && self.queue.is_empty(), "closed and at rest");
        } else if !self.queue.is_empty() && !self.is_suspended() {
            debug_assert!(
                self.idle.is_empty()
                    || self.jobs.at_dialer.checks() >= self.queue.len()
                    || self.may_be_passed(now),
                "NO-STRANDED-WAITER: idle"
            );
            debug_assert!(
                self.room(now) == 0
                    || self.coming() >= self.queue.unfailed()
                    || self.dialing.look_at.is_some()
                    || self.queue.sponsor(now).is_none(),
                "NO-STRANDED-WAITER: slot"
            );
            let may_retry = self.backoff().is_some();
            debug_assert!(self.busy() > 0 || may_retry || !self.queue.any_failed(), "REASON");
        }
    }
}
