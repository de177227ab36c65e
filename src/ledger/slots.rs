//! The slots that a key's ledger takes from the budget of its keyed pool, and the events that the
//! budget causes. A pool by itself has no budget; all this is skipped there.
//!
//! The ledger decides which connection goes. Its [`Share`] keeps account of the slots and reports to
//! the budget, once at the end of each event (`report_to_budget`).

use std::time::Duration;

use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::Ledger;
use super::answers::{Overdue, Waker};
use super::effects::{Effects, JobId};
use super::entry::Entry;
use super::share::Share;

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// The budget has granted a slot.
    pub(crate) fn slot_granted(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| {
            ledger.share.as_mut().expect("what is granted was asked for").note_grant();
        })
    }

    /// The budget orders this ledger to close its coldest connections for other keys: at most `most`,
    /// and only those that have rested since `bar` or longer.
    pub(crate) fn evict(
        &mut self,
        most: u32,
        bar: Option<Moment>,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let rests_long = |since: Moment| bar.is_none_or(|bar| since <= bar);
            let mut evicted = 0;
            while evicted < most {
                let coldest = ledger.coldest_unwanted().map(|entry| entry.idle_since);
                if !coldest.is_some_and(rests_long) {
                    break;
                }
                ledger.evict_coldest(now, effects);
                evicted += 1;
            }
            let share = ledger.share.as_mut().expect("only a member is ordered to evict");
            share.note_evictions(most, evicted);
        })
    }

    /// Closes the ledger for good if nothing is left in it; says whether nothing is. Callers who come
    /// later are refused, and must look for another ledger of the key.
    pub(crate) fn close_if_vacant(&mut self, now: Moment) -> (bool, Effects<C, F, W>) {
        if !self.is_vacant(now) {
            return (false, self.tick(now));
        }
        (true, if self.is_closed() { Effects::none() } else { self.close(now) })
    }

    /// Whether nothing is open and nobody waits or has something to collect.
    fn is_vacant(&self, now: Moment) -> bool {
        self.open_count() == 0
            && self.queue.is_empty()
            && self.others.is_empty()
            && (self.is_closed()
                || self.config.min_idle() == 0
                    && self.forgets_outage_at().is_none_or(|at| at <= now))
    }

    /// When the ledger may forget that dials have failed; `None`: it may now.
    pub(super) fn forgets_outage_at(&self) -> Option<Moment> {
        self.dialing.outage.forgotten_at(self.config.breaker()?)
    }

    /// The connections closed for other keys since this was last asked. The shell has stopped counting
    /// them as idle.
    pub(crate) fn take_evicting(&mut self) -> u32 {
        self.share.as_deref_mut().map_or(0, Share::take_evicting)
    }

    /// Whether a dial is wanted for which the budget has no slot yet.
    pub(super) fn is_stalled(&self) -> bool {
        self.share.as_deref().and_then(Share::lack).is_some()
    }

    /// Takes a slot of the budget for a dial, for a caller who has waited since `since`. If there is none,
    /// the share asks for `wanted` slots. Without a budget the answer is always yes.
    pub(super) fn take_slot(&mut self, since: Moment, wanted: u32, now: Moment) -> bool {
        let open = self.open_count();
        self.share.as_mut().is_none_or(|share| share.take_slot(since, wanted, open, now))
    }

    /// Takes a slot for a dial for `min_idle`, with `wanted` such dials still to begin.
    pub(super) fn take_slot_for_rest(&mut self, wanted: u32, now: Moment) -> bool {
        let open = self.open_count();
        match self.share.as_deref_mut().filter(|share| share.has_rivals) {
            Some(share) => share.take_spare_slot(open, now),
            None => self.take_slot(now, wanted, now),
        }
    }

    /// A close has ended, or has taken too long: its slot is free, if it was not before.
    pub(super) fn end_close(&mut self, id: JobId) {
        self.jobs.closings.end(id);
        self.share.iter_mut().for_each(|share| share.note_close_ended(id));
    }

    /// Closes idle connections if the bound was lowered below what is open, and for callers of other keys
    /// who lack a slot, if these have waited for the bound of BOUNDED-BYPASS and since before everybody who
    /// waits here.
    pub(super) fn make_way(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if !self.share.as_deref().is_some_and(Share::awaits_idle) || self.idle.is_empty() {
            return;
        }
        let bound = self.bypass.bound(self.config.bypass, self.queue.len());
        let (own, due) = (self.waits_since(), now.before(Duration::from_nanos(bound)));
        let is_due = |since| Some(since) <= due && own.is_none_or(|own| since < own);
        while !self.idle.is_empty() {
            let open = self.open_count();
            let Some(share) = self.share.as_mut().filter(|share| share.awaits_idle()) else {
                return;
            };
            if !share.must_yield(open, now, is_due) {
                return;
            }
            self.evict_coldest(now, effects);
        }
    }

    /// Closes the coldest connection to make room for others.
    fn evict_coldest(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        let entry = self.idle.take_coldest().expect("something is idle");
        let close = self.begin_close(entry, CloseReason::Evicted, now, effects);
        self.share.as_mut().expect("only a member makes room for others").note_making_room(close);
    }

    /// Since when the first of all callers and warm-ups here has waited.
    fn waits_since(&self) -> Option<Moment> {
        let warm_up = self.others.warm_ups.values().next().map(|warm_up| warm_up.since);
        self.queue.front_since().into_iter().chain(warm_up).min()
    }

    /// Ends an event towards the budget: returns the slots that are not needed, and reports what has
    /// changed. The budget's orders to other keys go into the effects.
    pub(super) fn report_to_budget(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        if self.share.is_none() {
            return;
        }
        let (open, is_any_live) = (self.open_count(), self.live() > 0);
        let coldest = self.coldest_unwanted().map(|entry| entry.idle_since);
        let is_anyone_waiting = !self.queue.is_empty() || !self.others.warm_ups.is_empty();
        let is_vacant = self.is_vacant(now);
        let Some(share) = &mut self.share else { return };
        if is_anyone_waiting {
            share.keep_lack();
        }
        let mut orders = Vec::new();
        share.report_to_budget(open, coldest, is_any_live, now, &mut orders);
        if is_vacant || !orders.is_empty() {
            let rare = effects.rare();
            rare.budget_orders.extend(orders);
            rare.is_vacant = is_vacant;
        }
    }

    /// The connection that has been idle longest, if nobody here waits. A caller would take it, and a
    /// warm-up would dial again for what was closed.
    fn coldest_unwanted(&self) -> Option<&Entry<C>> {
        let is_unwanted = self.queue.is_empty() && self.others.warm_ups.is_empty();
        self.idle.coldest().filter(|_| is_unwanted)
    }
}
