//! What must be true among the keys of one budget. It is exact where orders are delivered at once.

use crate::ledger::budget::BudgetAction;
use crate::runtime::moment::Moment;

use super::{Caller, Place, Pools, Want, small};

impl Pools {
    /// Since when the first caller in the queue for whom a dial may begin has waited.
    fn sponsors_since(&self, member: usize, now: Moment) -> Option<Moment> {
        let may_dial = |it: &Caller| it.dial.is_none() && it.failure.is_none() && !it.is_late(now);
        let able = self.queue(member).filter(|(_, it)| may_dial(it));
        able.min_by_key(|(_, it)| it.ticket).map(|(_, it)| it.since)
    }

    /// The slots that a member lacks, for its callers or else for a warm-up, within its limits.
    pub(super) fn want(&self, member: usize, now: Moment) -> Option<(Moment, u32)> {
        if !self.is_prompt() {
            return None;
        }
        let config = self.members[member].config;
        let dials = config.max_dialing().saturating_sub(small(self.dials_of(member).count()));
        let room = (config.max_open - self.open_count(member)).min(dials);
        let cold = self.cold(member);
        let unfailed = self.queue(member).filter(|(_, it)| it.failure.is_none()).count();
        let coming = self.counted(member) + self.stays(member) + self.idle(member).len();
        let lacking = small(unfailed.saturating_sub(coming)).min(room);
        if let Some(since) = self.sponsors_since(member, now).filter(|_| lacking > 0) {
            return Some((cold.map_or(since, |(cold, _)| cold.min(since)), lacking));
        }
        let (since, lacking) = cold?;
        (lacking.min(room) > 0).then_some((since, lacking.min(room)))
    }

    /// Since when the first warm-up that lacks a connection has waited, and how many all of them lack.
    fn cold(&self, member: usize) -> Option<(Moment, u32)> {
        let coming = self.idle(member).len() + self.busy(member) + self.counted(member);
        let limit = self.members[member].config.max_idle();
        let lacks = |target: u32| target.min(limit).saturating_sub(small(coming));
        let cold = self.warm_ups(member).filter(|(target, _)| lacks(*target) > 0);
        let since = cold.clone().map(|(_, since)| since).min()?;
        Some((since, cold.map(|(target, _)| lacks(target)).max()?))
    }

    /// The targets of a member's warm-ups, and since when they have waited.
    pub(super) fn warm_ups(&self, member: usize) -> impl Iterator<Item = (u32, Moment)> + Clone {
        self.waiting(member).filter_map(|(_, it)| match it.want {
            Want::WarmUp(target) => Some((target, it.since)),
            _ => None,
        })
    }

    /// Since when the first caller or warm-up that is not served yet has waited.
    fn waits_since(&self, member: usize) -> Option<Moment> {
        self.waiting(member).map(|(_, it)| it.since).min()
    }

    /// Members that have waited for a slot since before `since`, and for which nothing makes room.
    fn passed(&self, member: usize, since: Moment, making_room: usize) -> usize {
        let older = self.wants().filter(|(other, want)| *other != member && want.0 < since);
        let beyond = self.common.visit(|budget| budget.taken()).saturating_sub(self.bound());
        let closes = self.closes.iter().filter(|it| it.makes_room).count() + making_room;
        older.count().saturating_sub(closes.saturating_sub(beyond as usize))
    }

    /// Slots taken beyond the bound that no close under way returns.
    fn beyond(&self) -> u32 {
        let taken = self.common.visit(|budget| budget.taken());
        let making_room = self.closes.iter().filter(|it| it.makes_room).count();
        taken.saturating_sub(self.bound()).saturating_sub(small(making_room))
    }

    /// BOUNDED-BYPASS with a bound of zero: a caller who is lent a connection has waited for longer than
    /// anybody of another key who lacks a slot.
    pub(super) fn passes_nobody(&self, member: usize, since: Moment, making_room: usize) {
        let passed = self.passed(member, since, making_room);
        assert_eq!(passed, 0, "BOUNDED-BYPASS: of {member}, before others");
    }

    /// The members that wait for a slot and have none on its way, with the slots that they lack.
    fn wants(&self) -> impl Iterator<Item = (usize, (Moment, u32))> {
        let wants = self.members.iter().enumerate().filter(|(_, it)| !it.is_granted);
        wants.filter_map(|(member, it)| Some((member, it.want?)))
    }

    /// A slot goes to the caller who has waited longest for one.
    fn is_next(&self, member: usize, since: Moment) {
        if !self.is_prompt() {
            return;
        }
        let before = self.wants().find(|(other, want)| *other != member && want.0 < since);
        assert_eq!(before, None, "LATE-BINDING: {member} is not the next");
    }

    /// A caller's dial warms its key up as well.
    pub(super) fn is_next_with_warm_ups(&self, member: usize, since: Moment) {
        let cold = self.cold(member).map_or(since, |(cold, _)| cold.min(since));
        self.is_next(member, cold);
    }

    pub(super) fn is_granted_to_the_next(&self, member: usize) {
        if self.is_prompt() {
            let (since, _) = self.members[member].want.expect("KEY-05: granted for nothing");
            self.is_next(member, since);
        }
    }

    /// Whether a member's connections at rest may be closed for others: nobody of its own waits.
    fn is_evictable(&self, member: usize) -> bool {
        self.members[member].ledger.is_some() && self.waiting(member).next().is_none()
    }

    pub(super) fn may_be_evicted(&mut self, member: usize, connection: u32) {
        self.evicted += 1;
        let evicted = self.connections[&connection];
        assert_eq!(evicted.place, Place::AtRest, "KEY-07: {connection} is in use");
        if !self.is_prompt() {
            return;
        }
        if !self.is_evictable(member) {
            // Then somebody of its own has waited for longer than all others.
            // Or more is open than may be.
            let since = self.waits_since(member).expect("else it is evictable");
            let is_due = self.passed(member, since, 0) > 0 || self.beyond() > 0;
            assert!(is_due, "KEY-07: {connection} is another's");
            return;
        }
        let at_rest = self.connections.values().filter(|it| it.place == Place::AtRest);
        let coldest = at_rest.filter(|it| self.is_evictable(it.member)).map(|it| it.idle_since);
        assert_eq!(coldest.min(), Some(evicted.idle_since), "KEY-08: {connection} is not coldest");
        assert!(self.needed() > 0, "{connection} is closed for nobody");
    }

    /// How many idle connections must be closed: one for each slot that is lacking or beyond a lowered
    /// bound, less those being closed for that; or else the surplus beyond `max_idle`.
    fn needed(&self) -> i64 {
        let lacking: u32 = self.wants().map(|(_, (_, slots))| slots).sum();
        let beyond = self.common.visit(|budget| budget.taken()).saturating_sub(self.bound());
        let making_room = self.closes.iter().filter(|it| it.makes_room).count();
        let at_rest = self.connections.values().filter(|it| it.place == Place::AtRest).count();
        let surplus = self.setting.max_idle_total.map(|most| at_rest as i64 - i64::from(most));
        let slots = i64::from(lacking) + i64::from(beyond) - making_room as i64;
        surplus.map_or(slots, |surplus| surplus.max(slots))
    }

    /// KEY-04: once all orders are delivered, nothing is idle that somebody lacks.
    pub(super) fn nobody_stalls_beside_idle_connections(&self) {
        let is_at_rest = |member: &usize| {
            let Some(ledger) = &self.members[*member].ledger else { return false };
            let unseen = self.members[*member].places.as_ref().map_or(0, |it| it.at_rest.len());
            ledger.stats(self.now).idle > 0 || unseen > 0
        };
        let resting: Vec<_> = (0..self.members.len())
            .filter(|member| self.is_evictable(*member))
            .filter(is_at_rest)
            .collect();
        if self.is_prompt() {
            let needed = self.needed();
            assert!(needed <= 0 || resting.is_empty(), "KEY-04: {needed}, beside {resting:?}");
        }
        let is_making_room = self.closes.iter().any(|it| it.makes_room);
        let stalled = self.common.visit(|budget| budget.stalled());
        assert!(stalled == 0 || is_making_room || resting.is_empty(), "KEY-04: beside {resting:?}");
    }

    pub(super) fn agree(&mut self) {
        if self.setting.is_alone() {
            return;
        }
        let (mut open, mut stalled) = (0, 0);
        for member in &self.members {
            let Some(ledger) = &member.ledger else { continue };
            let stats = ledger.stats(self.now);
            open += stats.open();
            stalled += usize::from(stats.stalled && !member.is_granted);
            if self.is_prompt() {
                assert_eq!(stats.stalled, member.want.is_some(), "NO-STRANDED-WAITER: {stats}");
            }
        }
        let grants = self.orders.iter().filter(|order| order.action == BudgetAction::Grant).count();
        let bound = self.bound();
        self.common.visit(|budget| {
            assert_eq!(budget.taken(), open + small(grants), "NO-LOST-SLOT");
            // By a clock that is behind the lease lasts a little longer.
            let most = self.allowance.max(bound);
            assert!(budget.taken() <= most, "BOUND: {} taken of {most}", budget.taken());
            // A member with a slot on its way may claim no further one.
            let has_asked = budget.stalled();
            let are_coming = grants > 0 && has_asked <= stalled;
            assert!(has_asked == stalled || are_coming, "who is stalled has asked");
            let is_full = budget.taken() >= bound.min(budget.max_open());
            assert!(has_asked == 0 || is_full, "NO-STRANDED-WAITER: a slot is free");
            self.allowance = bound.max(budget.taken());
            assert_eq!(budget.evicted_total(), u64::from(self.evicted));
        });
    }
}
