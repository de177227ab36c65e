//! A checkout: from a place without the lock, or else by the ledger.

use std::sync::Arc;
use std::time::Duration;

use crate::dialer::Dialer;
use crate::ledger::close_reason::CloseReason;
use crate::ledger::{Entry, Refusal};
use crate::report::error::GetError;
use crate::report::event::Event;
use crate::report::holder::Site;
use crate::runtime::moment::Moment;
use crate::runtime::sync::{coarse_now, now, this_thread};

use super::snapshot::Snapshot;
use super::terms::Terms;
use super::waiting::LedgerCheckout;
use super::{EntryOf, GetErrorOf, Shell};

impl<D: Dialer> Shell<D> {
    /// Takes a sound connection that rests in a place, if nobody waits and there is one. Nearly every
    /// checkout goes this way: it takes no lock, allocates nothing, and reads no precise clock.
    #[inline]
    pub(crate) fn take_resting(self: &Arc<Self>, site: Site) -> Option<EntryOf<D>> {
        self.take_resting_or(site, |shell, entry| shell.check_resting(entry))
    }

    /// The same, but leaves a connection that needs a check to the ledger.
    #[inline]
    fn take_fresh(self: &Arc<Self>, site: Site) -> Option<EntryOf<D>> {
        self.take_resting_or(site, |shell, entry| shell.leave_to_ledger(entry))
    }

    /// The same; `stale` takes a connection that has rested for so long that it needs a check.
    #[inline]
    fn take_resting_or(
        self: &Arc<Self>,
        site: Site,
        stale: impl FnOnce(&Arc<Self>, EntryOf<D>) -> Option<EntryOf<D>>,
    ) -> Option<EntryOf<D>> {
        if self.is_inherited() {
            return None;
        }
        let open = self.places.gate()?;
        let now = coarse_now();
        let mut entry = self.places.take(now)?;
        self.count_idle(-1);
        // An entry of an older epoch can be here for a moment, until its returner rechecks the gate.
        if entry.epoch != open.epoch() || now >= entry.expires {
            return self.leave_to_ledger(entry);
        }
        if !self.knobs.is_fresh(entry.idle_since(), now) {
            entry = stale(self, entry)?;
        } else if !self.is_sound(&mut entry.connection) {
            self.retire(entry, CloseReason::Broken);
            return None;
        }
        let (thread, record) = (this_thread(), entry.record());
        record.count_loan();
        record.hand_to(now, thread, site);
        self.emit(|| lent(&entry, Duration::ZERO));
        Some(entry)
    }

    /// Checks a connection from a place that has rested long enough for that, if its caller may do so
    /// on its own thread.
    #[cold]
    fn check_resting(self: &Arc<Self>, mut entry: EntryOf<D>) -> Option<EntryOf<D>> {
        if self.blocking.check || !self.knobs.may_rest_on(entry.idle_since()) {
            return self.leave_to_ledger(entry);
        }
        match self.fault_by_check(&mut entry) {
            None => Some(entry),
            Some(fault) => {
                self.retire(entry, fault);
                None
            }
        }
    }

    /// The ledger sees to a connection from a place before it is lent.
    #[cold]
    fn leave_to_ledger(self: &Arc<Self>, entry: EntryOf<D>) -> Option<EntryOf<D>> {
        self.event(|ledger, now| {
            ledger.take_from_place(entry);
            ledger.tick(now)
        });
        None
    }

    /// Waits for a sound connection under those terms, for a checkout that began at `start`.
    ///
    /// `None`, of the pool of a key only: it closed because it was empty, and the caller finds the key's
    /// next pool.
    pub(crate) fn get(
        self: &Arc<Self>,
        start: Moment,
        terms: Terms<'_>,
    ) -> Option<Result<EntryOf<D>, GetErrorOf<D>>> {
        if self.is_inherited() {
            return Some(Err(GetError::Closed));
        }
        let deadline = terms.late_at(start, &self.knobs);
        let mut checkout = LedgerCheckout {
            shell: self,
            start,
            deadline,
            cancel: terms.cancel,
            has_queued: false,
        };
        let outcome = checkout.run();
        let mut waited = 0;
        if checkout.has_queued && !self.is_inherited() {
            waited = now().nanos_since(start);
            self.timings.note_wait(waited, outcome.is_ok());
        }
        self.checked_out(outcome, waited, terms.site)
    }

    /// Lends a sound idle connection, if there is one and nobody waits for it. `None`: see
    /// [`get`](Self::get).
    pub(crate) fn try_get(
        self: &Arc<Self>,
        site: Site,
    ) -> Option<Result<EntryOf<D>, GetErrorOf<D>>> {
        if let Some(entry) = self.take_fresh(site) {
            return Some(Ok(entry));
        }
        let outcome = self.try_get_sound();
        self.checked_out(outcome, 0, site)
    }

    fn try_get_sound(self: &Arc<Self>) -> Result<EntryOf<D>, GetErrorOf<D>> {
        loop {
            let answer = self.ask(|locked, now| {
                let (ledger, waiting) = (&mut locked.ledger, &mut locked.waiting);
                let (lent, effects) = ledger.try_request(now);
                let turned_away = match lent {
                    Ok(Some(_)) => (Snapshot::default(), None),
                    _ => (Snapshot::of(self.name(), ledger, waiting, now), ledger.last_failure()),
                };
                ((lent, turned_away), effects)
            });
            let Some((lent, (snapshot, failure))) = answer else { return Err(GetError::Closed) };
            let mut entry = match lent {
                Ok(Some(entry)) => entry,
                Ok(None) => return Err(snapshot.exhausted(Duration::ZERO, failure)),
                Err(Refusal::Suspended) => return Err(snapshot.suspended(Duration::ZERO, failure)),
                Err(_) => return Err(GetError::Closed),
            };
            // User code has run since the ledger lent it.
            match self.fault_at_loan(&mut entry) {
                None => return Ok(entry),
                Some(fault) => self.retire_unused(entry, fault),
            }
        }
    }

    /// Ends a checkout that went by the lock and `waited` so many nanoseconds: begins its loan, or tells
    /// why there is none.
    fn checked_out(
        &self,
        outcome: Result<EntryOf<D>, GetErrorOf<D>>,
        waited: u64,
        site: Site,
    ) -> Option<Result<EntryOf<D>, GetErrorOf<D>>> {
        let waited = || Duration::from_nanos(waited);
        match outcome {
            Ok(entry) => {
                let (since, thread) = (coarse_now(), this_thread());
                entry.record().hand_to(since, thread, site);
                self.emit(|| lent(&entry, waited()));
                Some(Ok(entry))
            }
            Err(error) => self.turned_away(error, waited()).map(Err),
        }
    }

    /// Notes what a loan is for.
    pub(crate) fn label(&self, entry: &EntryOf<D>, label: &'static str) {
        if let Some(mut locked) = self.lock() {
            locked.ledger.label(entry, label);
        }
    }

    /// Tells the observer that a caller is given nothing, and counts it for all keys. `None`: this is
    /// the pool of a key, and closed because it was empty; the keyed pool retries on a new one, so
    /// nobody is told.
    pub(super) fn turned_away(
        &self,
        error: GetErrorOf<D>,
        waited: Duration,
    ) -> Option<GetErrorOf<D>> {
        if let Some(membership) = &self.membership {
            if matches!(error, GetError::Closed) && !membership.group.is_closed() {
                return None;
            }
            membership.group.note_turned_away();
        }
        self.emit(|| Event::TurnedAway { error: &error, waited });
        Some(error)
    }

    /// Retires a connection that the ledger lent and that turned out to have a fault before its caller
    /// had it.
    pub(super) fn retire_unused(self: &Arc<Self>, entry: EntryOf<D>, fault: CloseReason) {
        self.timings.note_vain_loan();
        self.retire(entry, fault);
    }
}

/// The event of a loan that begins.
fn lent<'a, C, E>(entry: &Entry<C>, waited: Duration) -> Event<'a, E> {
    let (id, uses) = (entry.record().id(), entry.record().loans());
    Event::Lent { id, waited, reused: entry.is_reused(), uses }
}
