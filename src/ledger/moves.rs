//! How a connection changes its state: lent, back, idle, at the dialer, closing.
//!
//! Each of these changes the tables and adds to the effects what the shell has to do for it. None
//! decides whether the change is due.

use crate::abort::AbortHandle;
use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::Ledger;
use super::answers::{Overdue, Waker};
use super::effects::{AtDialerOrder, CloseOrder, Effects, JobId, Purpose};
use super::entry::Entry;
use super::idle::UPKEEP_LEAST;
use super::roster::LoanCount;

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    pub(super) fn lend(&mut self, mut entry: Entry<C>, now: Moment) -> Entry<C> {
        self.in_use += 1;
        entry.just_dialed = entry.record().loans() == 0 && entry.opened_at() == now;
        entry.must_check = false;
        entry.record().count_loan();
        self.count_loans(&entry);
        self.note_end(&mut entry);
        entry
    }

    /// A connection in use comes back from its caller.
    pub(super) fn end_loan(&mut self, entry: &Entry<C>) {
        self.in_use -= 1;
        entry.record().let_go();
        self.count_loans(entry);
    }

    /// Adds a connection's loans to the totals, as far as the ledger has not seen them.
    pub(super) fn count_loans(&mut self, entry: &Entry<C>) {
        let LoanCount { lent, reused } = entry.record().take_uncounted();
        self.totals.lent_total += lent;
        self.totals.reused_total += reused;
    }

    /// Makes a connection idle if it may be lent again. Otherwise it is closed, or sent to be judged if
    /// a predicate has yet to judge it.
    pub(super) fn admit(&mut self, entry: Entry<C>, now: Moment, effects: &mut Effects<C, F, W>) {
        // The limits may have changed since its end was noted.
        let known_end = entry.known_end().filter(|_| entry.epoch == self.epochs.current());
        let end = known_end.unwrap_or_else(|| self.aging.ends_at(&entry));
        let is_used_up = |most: u32| entry.record().loans() >= u64::from(most);
        let reason = if let Some(why) = self.unfitness(entry.epoch) {
            Some(why)
        } else if end <= now {
            Some(self.aging.reason(now))
        } else if self.config.max_uses.is_some_and(is_used_up) {
            Some(CloseReason::UsedUp)
        } else {
            (self.live() >= self.config.max_open).then_some(CloseReason::Surplus)
        };
        if let Some(reason) = reason {
            self.begin_close(entry, reason, now, effects);
        } else if self.epochs.must_judge(entry.epoch) {
            let purpose = Purpose::Judge { since: entry.epoch, until: self.epochs.current() };
            self.send_to_dialer(purpose, entry, now, effects);
        } else {
            self.add_idle(entry);
        }
    }

    /// Why a connection of that epoch may not be lent even if it is sound.
    pub(super) fn unfitness(&self, epoch: u32) -> Option<CloseReason> {
        let closed = self.is_closed().then_some(CloseReason::PoolClosed);
        closed.or_else(|| self.epochs.why_flushed(epoch))
    }

    /// Adds a connection to the idle ones, in the order in which they came to rest.
    pub(super) fn add_idle(&mut self, mut entry: Entry<C>) {
        entry.pass(self.epochs.current());
        self.note_end(&mut entry);
        self.idle.insert(entry, &self.aging);
        self.note_rest();
    }

    /// Notes on a connection when it has to end, if that is not known.
    pub(super) fn note_end(&self, entry: &mut Entry<C>) {
        if entry.known_end().is_none() {
            entry.set_end(self.aging.ends_at(entry));
        }
    }

    pub(super) fn send_to_dialer(
        &mut self,
        purpose: Purpose,
        entry: Entry<C>,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        let id = JobId(self.fresh_id());
        let deadline = match purpose {
            // Predicates run one after the other, and are nothing that a server answers.
            Purpose::Judge { .. } => None,
            _ => now.after(self.config.check_timeout),
        };
        self.jobs.at_dialer.begin(id, purpose, deadline);
        effects.rare().at_dialer.push(AtDialerOrder { id, purpose, entry, deadline });
    }

    /// Closes a connection. Returns the job by which its slot counts as closing.
    pub(super) fn begin_close(
        &mut self,
        entry: Entry<C>,
        reason: CloseReason,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) -> JobId {
        if reason.casts_doubt() {
            // Other idle connections may be broken as well: they are checked before they are lent.
            self.doubted_at = Some(now);
        }
        // What a limit closes would otherwise be dialed again as fast as dials can be.
        let waits = match reason {
            CloseReason::Expired | CloseReason::IdleTooLong => entry.age(now) < UPKEEP_LEAST,
            CloseReason::Evicted => self.config.min_idle > 0,
            _ => false,
        };
        if waits {
            self.upkeep.replaces_at = now.after(UPKEEP_LEAST);
        }
        let id = JobId(self.fresh_id());
        self.epochs.note_gone(entry.epoch);
        self.note_closing(id, reason, now);
        self.order_close(id, entry, reason, now, effects);
        id
    }

    /// A slot counts as closing from now on.
    pub(super) fn note_closing(&mut self, id: JobId, reason: CloseReason, now: Moment) {
        self.totals.count_retired(reason);
        self.jobs.closings.begin(id, (), now.after(self.config.close_timeout));
    }

    /// Orders the close of a connection whose slot counts as closing already.
    pub(super) fn order_close(
        &mut self,
        id: JobId,
        entry: Entry<C>,
        reason: CloseReason,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        let (age, of, uses) = (entry.age(now), entry.record().id(), entry.record().loans());
        let (connection, handle) = self.take_apart(entry);
        effects.rare().closes.push(CloseOrder { id, connection, handle, reason, of, uses, age });
    }

    /// The connection, to be closed or detached, and its abort handle, to be dropped before that.
    pub(super) fn take_apart(&mut self, entry: Entry<C>) -> (C, Option<AbortHandle>) {
        let handle = self.handles.remove(&entry.record().id());
        let (connection, page, line) = entry.into_parts();
        self.roster.strike(&page, line);
        (connection, handle)
    }

    /// Closes idle connections until `most` are left, the coldest first.
    pub(super) fn close_idle_beyond(
        &mut self,
        most: u32,
        reason: CloseReason,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        while self.idle.len() > most {
            let coldest = self.idle.take_coldest().expect("something is idle");
            self.begin_close(coldest, reason, now, effects);
        }
    }
}
