//! Events that concern a pool as a whole, or all pools under the budget.

use std::time::Duration;

use crate::config::Config;
use crate::ledger::budget::{Allowance, BudgetAction, BudgetOrder};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::lease::Lease;
use crate::runtime::moment::Moment;

use super::Place;
use super::{PoolLedger, Pools, State, choose, small};

impl Pools {
    pub(crate) fn tick(&mut self, key: usize) {
        if let Some(member) = self.current[key] {
            self.event(member, PoolLedger::tick);
        }
    }

    /// Upkeep comes, at the time of the alarm or at another.
    pub(crate) fn upkeep(&mut self, key: usize) {
        if let Some(member) = self.current[key] {
            self.upkeep_of(member);
        }
    }

    pub(super) fn upkeep_of(&mut self, member: usize) {
        let now = self.open(member);
        let it = &mut self.members[member];
        (it.alarm, it.upkept_at) = (None, Some(now));
        self.carry_out(member, now, PoolLedger::upkeep);
    }

    pub(crate) fn flush(&mut self, key: usize) {
        let Some(member) = self.current[key] else { return };
        let now = self.open(member);
        self.write_off(member, CloseReason::Flushed, now);
        self.carry_out(member, now, PoolLedger::flush);
    }

    /// Closes what is idle, apart from as many as callers wait for.
    pub(crate) fn close_idle(&mut self, key: usize) {
        let Some(member) = self.current[key] else { return };
        let now = self.open(member);
        let waiting = self.queue(member).count();
        self.cause = Some((None, CloseReason::ClosedIdle));
        let effects = self.ledger(member).close_idle(now);
        self.note(member, now, effects);
        let left = self.idle(member).len();
        assert!(left <= waiting, "SHUT-16: {left} are left, {waiting} wait");
    }

    /// A predicate is to judge everything that is open or being dialed.
    pub(crate) fn retire_where(&mut self, key: usize) {
        let Some(member) = self.current[key] else { return };
        let now = self.open(member);
        let (epoch, effects) = self.ledger(member).retire_where(now);
        let predicates = &mut self.members[member].predicates;
        assert!(predicates.last() < Some(&epoch), "each predicate has its own epoch");
        predicates.push(epoch);
        self.note(member, now, effects);
    }

    /// How many of a member's predicates have judged what was judged up to that epoch.
    pub(super) fn predicates_by(&self, member: usize, epoch: u32) -> usize {
        self.members[member].predicates.partition_point(|its| *its <= epoch)
    }

    pub(crate) fn suspend(&mut self, key: usize, is_suspended: bool) {
        let Some(member) = self.current[key] else { return };
        let now = self.open(member);
        let it = &mut self.members[member];
        it.is_suspended = is_suspended && !it.is_closed;
        self.carry_out(member, now, |ledger, now| ledger.set_suspended(is_suspended, now));
    }

    pub(crate) fn reconfigure(&mut self, key: usize, change: impl FnOnce(&mut Config, &[Config])) {
        let Some(member) = self.current[key] else { return };
        let now = self.open(member);
        let open = self.open_count(member);
        let it = &mut self.members[member];
        change(&mut it.config, &self.setting.others);
        let config = it.config;
        it.allowance = open.max(config.max_open);
        self.note_breaker(member, now);
        self.carry_out(member, now, |ledger, now| ledger.reconfigure(config, now));
    }

    /// The quota allows so many slots from now on, for so long.
    pub(crate) fn allow(&mut self, slots: u32, lasts: Option<Duration>) {
        // A lease that ends closes what was to make room, so Pools could not tell who is next.
        let lasts = lasts.filter(|_| !self.is_prompt());
        let number = self.lease.number + u64::from(self.lease.until <= self.now);
        let is_another = number != self.lease.number;
        let until = lasts.and_then(|lasts| self.now.after(lasts)).unwrap_or(Moment::LAST);
        let before = std::mem::replace(&mut self.lease, Lease { number, until });
        self.quota = slots;
        let taken = self.common.visit(|budget| budget.taken());
        self.allowance = self.bound().max(taken);
        let orders = self.common.allow(Allowance { slots, until }, self.now);
        self.send(orders);
        self.agree();
        // As in the shell, the lease reaches one member after the other.
        for member in 0..self.members.len() {
            if self.members[member].ledger.is_some() && before != self.lease {
                self.behind = Duration::ZERO;
                let now = self.open(member);
                if is_another {
                    self.write_off(member, CloseReason::LeaseEnded, now);
                }
                let lease = self.lease;
                self.carry_out(member, now, |ledger, now| ledger.set_lease(lease, now));
            }
        }
    }

    /// The most slots that may be taken now.
    pub(super) fn bound(&self) -> u32 {
        let allowed = if self.lease.until <= self.clock() { 0 } else { self.quota };
        self.max_open_total.min(allowed)
    }

    pub(crate) fn resize(&mut self, max_open_total: u32) {
        let taken = self.common.visit(|budget| budget.taken());
        self.max_open_total = max_open_total;
        self.allowance = self.bound().max(taken);
        let orders = self.common.resize(max_open_total, self.now);
        self.send(orders);
        self.agree();
    }

    /// Says whether more rests than may, of all keys.
    pub(super) fn trim(&mut self) -> bool {
        let Some(max_idle) = self.setting.max_idle_total else { return false };
        let at_rest = self.connections.values().filter(|it| it.place == Place::AtRest).count();
        let orders = self.common.trim(small(at_rest), max_idle, self.now);
        let is_trimmed = !orders.is_empty();
        self.orders.extend(orders);
        is_trimmed
    }

    /// The whole pool is closed.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        for member in 0..self.members.len() {
            if self.members[member].ledger.is_some() {
                self.close_member(member);
            }
        }
    }

    pub(super) fn close_member(&mut self, member: usize) {
        let now = self.open(member);
        self.note_closed(member);
        self.carry_out(member, now, PoolLedger::close);
    }

    fn note_closed(&mut self, member: usize) {
        let it = &mut self.members[member];
        (it.is_closed, it.is_suspended) = (true, false);
        it.outage.last_failure = None;
    }

    /// An order reaches its member.
    pub(crate) fn deliver(&mut self, pick: usize) {
        let Some(at) = choose(self.orders.len(), pick) else { return };
        let BudgetOrder { to, action } = self.orders.swap_remove(at);
        let member = to.0 as usize;
        if self.members[member].ledger.is_none() {
            let orders = self.common.take_back(BudgetOrder { to, action }, self.now);
            self.send(orders);
            return self.agree();
        }
        self.event(member, |ledger, now| match action {
            BudgetAction::Grant => ledger.slot_granted(now),
            BudgetAction::Evict { most, bar } => ledger.evict(most, bar, now),
        });
    }

    /// Somebody learns that nothing is left of a member.
    pub(crate) fn close_if_vacant(&mut self, pick: usize) {
        let Some(at) = choose(self.vacant.len(), pick) else { return };
        let member = self.vacant.swap_remove(at);
        if self.members[member].ledger.is_none() {
            return;
        }
        let now = self.open(member);
        let (is_vacant, effects) = self.ledger(member).close_if_vacant(now);
        if !is_vacant {
            return self.note(member, now, effects);
        }
        for current in self.current.iter_mut().filter(|it| **it == Some(member)) {
            *current = None;
        }
        let mut its = self.callers.iter().filter(|it| it.member == member);
        let is_left = its.any(|it| matches!(it.state, State::Waiting | State::Holding(_)));
        assert!(!is_left, "KEY-02: closed with somebody in it");
        self.note_closed(member);
        self.note(member, now, effects);
        assert_eq!(self.open_count(member), 0, "KEY-02: closed with something in it");
        // A close that has taken too long may still refer to it.
        let is_over = self.connections_of(member).all(|(_, it)| it.place == Place::Ended);
        if is_over && member % 2 == 0 {
            self.members[member].ledger = None;
        }
    }
}
