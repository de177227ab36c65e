//! The end of a loan: the connection comes back to a place or to the ledger, is closed, or leaves the pool.

use std::sync::Arc;
use std::time::Duration;

use crate::dialer::Dialer;
use crate::ledger::close_reason::CloseReason;
use crate::ledger::{Ledger, Purpose};
use crate::report::event::Event;
use crate::runtime::moment::Moment;
use crate::runtime::sync::coarse_now;

use super::locked::Locked;
use super::places::Open;
use super::{Connection, EntryOf, Shell};

impl<D: Dialer> Shell<D> {
    /// Takes a borrowed connection back: it goes to the next caller, comes to rest, or is closed.
    #[inline]
    pub(crate) fn give_back(self: &Arc<Self>, mut entry: EntryOf<D>, was_touched: bool) {
        if self.is_inherited() {
            return std::mem::forget(entry);
        }
        let (now, since) = (coarse_now(), entry.record().since());
        // Nearly every loan ends within a tick of the coarse clock: see `Timings`.
        if now.is_a_tick_after(since) || self.reporter.has_observer() {
            self.note_return(&entry, now);
        }
        let connection = &mut entry.connection;
        if !self.is_sound(connection) {
            return self.retire(entry, CloseReason::Broken);
        }
        if was_touched {
            let Some(needs_reset) = self.user_code(|dialer| dialer.needs_reset(connection)) else {
                self.emit_fault(Purpose::Reset, None);
                return self.retire(entry, CloseReason::ResetFailed);
            };
            if needs_reset && self.resets_on_worker() {
                return self.event(|ledger, now| ledger.give_back_for_reset(entry, now));
            }
            if needs_reset && !self.has_passed(Purpose::Reset, |dialer| dialer.reset(connection)) {
                return self.retire(entry, CloseReason::ResetFailed);
            }
        }
        // `now` was read before the reset. A connection that looks older than it is costs a check.
        match self.places.gate() {
            Some(open) if open.epoch() == entry.epoch && now < entry.expires => {
                entry.come_to_rest(self.knobs.rests_from(now));
                entry.record().let_go();
                let expires = entry.expires;
                if self.idle.is_some() {
                    self.put_counted(entry, open);
                } else if let Err(left) = self.places.put(entry, open) {
                    self.give_back_left(left);
                }
                // Read after the gate, and written before the gate is opened: see `Knobs`.
                if self.knobs.is_before_upkeep(expires) {
                    self.event(Ledger::tick);
                }
            }
            _ => self.give_back_slowly(entry),
        }
    }

    /// Whether this thread must leave a reset to a worker.
    fn resets_on_worker(&self) -> bool {
        self.blocking.reset || self.user_code(|dialer| dialer.must_not_wait()) == Some(true)
    }

    /// Puts a connection into a place, and counts it among the idle ones of all keys.
    #[inline(never)]
    fn put_counted(self: &Arc<Self>, entry: EntryOf<D>, open: Open) {
        self.count_idle(1); // Before anybody can take it again.
        match self.places.put(entry, open) {
            Ok(()) => self.trim(),
            Err(left) => {
                self.count_idle(-(left.iter().flatten().count() as i64));
                self.give_back_left(left);
            }
        }
    }

    #[cold]
    fn give_back_slowly(self: &Arc<Self>, entry: EntryOf<D>) {
        self.event(|ledger, now| ledger.give_back(entry, now));
    }

    #[cold]
    fn give_back_left(self: &Arc<Self>, left: [Option<EntryOf<D>>; 2]) {
        if left.iter().all(Option::is_none) {
            return self.event(Ledger::tick);
        }
        left.into_iter().flatten().for_each(|entry| self.give_back_slowly(entry));
    }

    /// Ends the loan of a connection that is of no more use.
    #[cold]
    pub(crate) fn discard(self: &Arc<Self>, entry: EntryOf<D>, reason: CloseReason) {
        if self.is_inherited() {
            return std::mem::forget(entry);
        }
        self.note_return(&entry, coarse_now());
        self.retire(entry, reason);
    }

    /// The same for a connection with which its borrower's work has failed. If the dialer calls it
    /// broken, the idle ones are in doubt as well.
    #[cold]
    pub(crate) fn discard_failed(self: &Arc<Self>, mut entry: EntryOf<D>) {
        let is_sound = self.is_inherited() || self.is_sound(&mut entry.connection);
        self.discard(entry, if is_sound { CloseReason::Discarded } else { CloseReason::Broken });
    }

    #[cold]
    fn note_return(&self, entry: &EntryOf<D>, now: Moment) {
        let held = self.end_loan(entry, now);
        self.emit(|| Event::Returned { id: entry.record().id(), held });
    }

    /// Notes for how long a connection was lent, and returns it.
    #[cold]
    fn end_loan(&self, entry: &EntryOf<D>, now: Moment) -> Duration {
        let since = entry.record().since();
        let held = now.since(since);
        if now.is_a_tick_after(since) {
            self.timings.note_hold(held);
        }
        held
    }

    /// Has the ledger close a lent connection.
    #[cold]
    pub(super) fn retire(self: &Arc<Self>, entry: EntryOf<D>, reason: CloseReason) {
        self.event(|ledger, now| ledger.retire(entry, reason, now));
    }

    /// Checks a connection that was lent for that, unless it has just been dialed, and takes it back.
    /// Says whether it is alive.
    pub(crate) fn check_lent(
        self: &Arc<Self>,
        mut entry: EntryOf<D>,
        deadline: Option<Moment>,
    ) -> bool {
        // The flag is that of its latest loan by the ledger: others may have borrowed it since.
        let is_new = entry.just_dialed && !entry.is_reused();
        let connection = &mut entry.connection;
        let fault = if is_new {
            (!self.is_sound(connection)).then_some(CloseReason::Broken)
        } else {
            self.fault_in_check(connection, deadline)
        };
        match fault {
            None => self.give_back(entry, false),
            Some(fault) => self.discard(entry, fault),
        }
        fault.is_none()
    }

    /// Lets a borrower keep its connection.
    pub(crate) fn detach(self: &Arc<Self>, entry: EntryOf<D>) -> Connection<D> {
        if self.is_inherited() {
            return entry.into_connection();
        }
        let held = self.end_loan(&entry, coarse_now());
        self.emit(|| Event::Detached { id: entry.record().id(), held });
        let Some(locked) = self.lock() else { return entry.into_connection() };
        let detach = |locked: &mut Locked<D>, now| locked.ledger.detach(entry, now);
        let (connection, effects) = self.transact_on(locked, detach);
        self.carry_out(effects);
        connection
    }
}
