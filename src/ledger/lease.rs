//! The lease of a quota: until when what is open may be lent.
//!
//! A renewed lease is a later `until`: connections in use learn of it at their return, as they do of
//! changed settings. A lease that has ended is never renewed. Another lease has another number, and
//! nothing that was opened under the earlier one is lent again: the server may have given its slots to
//! others.
//!
//! The public `Lease` is something else: the part of a keyed connection's guard that knows its key.

use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::Ledger;
use super::answers::{Overdue, Waker};
use super::effects::Effects;
use super::entry::Entry;

/// A lease, as the ledger knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) number: u64,
    /// `Moment::LAST` is never.
    pub(crate) until: Moment,
}

impl Lease {
    /// The lease of a pool without a quota.
    pub(crate) const ENDLESS: Self = Self { number: 0, until: Moment::LAST };

    /// When it ends; `None` is never.
    pub(super) fn end(self) -> Option<Moment> {
        Some(self.until).filter(|until| *until < Moment::LAST)
    }
}

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// The same ledger, of a pool that begins under that lease.
    pub(crate) fn under(mut self, lease: Lease) -> Self {
        self.lease = lease;
        self.renew_aging();
        self
    }

    /// The lease is renewed, or is another one.
    pub(crate) fn set_lease(&mut self, lease: Lease, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            if ledger.lease == lease {
                return;
            }
            if ledger.lease.number != lease.number {
                ledger.retire_all(CloseReason::LeaseEnded, now, effects);
                ledger.abort_loans(effects);
            }
            (ledger.lease, ledger.has_aborted) = (lease, false);
            ledger.renew_ends(now);
            ledger.retire_aged(now, effects);
        })
    }

    /// Whether a connection that was handed over must not be used any more: its caller has woken up so late
    /// that its lease has ended.
    pub(crate) fn has_overstayed(&self, entry: &Entry<C>, now: Moment) -> bool {
        self.lease.until <= now || self.epochs.is_before_lease(entry.epoch)
    }

    /// Has loans aborted once, as far as the dialer gave handles.
    pub(super) fn abort_loans(&mut self, effects: &mut Effects<C, F, W>) {
        if !std::mem::replace(&mut self.has_aborted, true) && !self.handles.is_empty() {
            effects.rare().aborts.extend(self.handles.values().cloned());
        }
    }

    /// When upkeep must abort the loans.
    pub(super) fn lease_alarm(&self) -> Option<Moment> {
        self.lease.end().filter(|_| self.in_use > 0 && !self.has_aborted)
    }
}
