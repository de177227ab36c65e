//! Events of connections: a dial ends, a loan ends, a check or reset ends, a close ends.

use std::time::Duration;

use crate::abort::AbortHandle;
use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::Ledger;
use super::answers::{Overdue, Waker};
use super::effects::{Effects, JobId, Purpose};
use super::entry::Entry;
use super::jobs::Sponsor;
use super::roster::ConnectionId;

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// A dial has opened a connection. It goes to the caller who has waited longest, regardless of who
    /// began the dial.
    ///
    /// The dialer `took` so long. If that is not known, the time since the order is taken, which is
    /// worse: a thread that had to be started for it takes longer than many a dial.
    pub(crate) fn dialed(
        &mut self,
        id: JobId,
        connection: C,
        handle: Option<AbortHandle>,
        took: Duration,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let dial = ledger.jobs.dials.end(id);
            if let Sponsor::Caller(sponsor) = dial.sponsor {
                ledger.queue.end_dial(sponsor, id);
            }
            ledger.dialing.outage.note_success();
            ledger.note_breaker(now, effects);
            ledger.dialing.pace.note_dial(took.min(now.since(dial.began)), now);
            ledger.renew_aging();
            ledger.totals.dialed_total += 1;
            effects.discard(ledger.dialing.last_failure.take());
            let fraction = ledger.spread.fraction(id.0);
            let of = ConnectionId::of_dial(id.0);
            let line = ledger.roster.enroll(of, now);
            let entry = Entry::new(connection, dial.epoch, fraction, line);
            ledger.handles.extend(handle.map(|handle| (of, handle)));
            ledger.admit(entry, now, effects);
        })
    }

    /// A dial has failed. `is_permanent` says that trying again cannot help. The failure concerns the
    /// dial's sponsor and nobody else. It concerns nobody, and says nothing of the server, if the dial
    /// was cancelled.
    pub(crate) fn dial_failed(
        &mut self,
        id: JobId,
        failure: F,
        is_permanent: bool,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let dial = ledger.jobs.dials.end(id);
            ledger.epochs.note_gone(dial.epoch);
            ledger.totals.dial_failed_total += 1;
            if ledger.unfitness(dial.epoch).is_some() {
                effects.discard(Some(failure));
            } else {
                ledger.note_failure(dial.sponsor, id, failure, is_permanent, now, effects);
            }
        })
    }

    /// A borrowed connection comes back, fit for the next caller.
    pub(crate) fn give_back(&mut self, mut entry: Entry<C>, now: Moment) -> Effects<C, F, W> {
        let event = |ledger: &mut Self, effects: &mut _| {
            ledger.end_loan(&entry);
            entry.come_to_rest(now);
            ledger.note_return(now);
            ledger.admit(entry, now, effects);
        };
        self.routine(now, event).1
    }

    /// A borrowed connection comes back, and the dialer has to reset it first.
    pub(crate) fn give_back_for_reset(
        &mut self,
        mut entry: Entry<C>,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.end_loan(&entry);
            entry.idle_since = now;
            ledger.send_to_dialer(Purpose::Reset, entry, now, effects);
        })
    }

    /// A connection is back from the dialer: sound, or to be closed for the reason `fault`.
    pub(crate) fn back_from_dialer(
        &mut self,
        id: JobId,
        mut entry: Entry<C>,
        fault: Option<CloseReason>,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let stay = ledger.jobs.at_dialer.end(id);
            let purpose = stay.inspect(|purpose| ledger.note_check_ended(*purpose, now));
            match (purpose, fault) {
                // It was too late, or from before a flush, and has counted as closing since then.
                (Err(reason), _) => {
                    ledger.epochs.note_gone(entry.epoch);
                    ledger.order_close(id, entry, reason, now, effects);
                }
                (Ok(purpose), None) => {
                    match purpose {
                        Purpose::Check | Purpose::KeepAlive => entry.proven_at = now,
                        Purpose::Reset => {
                            entry.proven_at = now;
                            ledger.note_return(now);
                        }
                        Purpose::Judge { since, until } => {
                            entry.pass(until);
                            ledger.epochs.note_judged(since, until);
                        }
                    }
                    ledger.admit(entry, now, effects);
                }
                (Ok(_), Some(reason)) => {
                    ledger.begin_close(entry, reason, now, effects);
                }
            }
        })
    }

    /// A borrowed connection comes back and is to be closed.
    pub(crate) fn retire(
        &mut self,
        entry: Entry<C>,
        reason: CloseReason,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.end_loan(&entry);
            ledger.begin_close(entry, reason, now, effects);
        })
    }

    /// A borrower keeps its connection for good.
    pub(crate) fn detach(&mut self, entry: Entry<C>, now: Moment) -> (C, Effects<C, F, W>) {
        self.event(now, |ledger, effects| {
            ledger.end_loan(&entry);
            ledger.epochs.note_gone(entry.epoch);
            ledger.totals.detached_total += 1;
            let (connection, handle) = ledger.take_apart(entry);
            if handle.is_some() {
                effects.rare().handle = handle;
            }
            connection
        })
    }

    /// The dialer's close has returned.
    pub(crate) fn closed(&mut self, id: JobId, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| ledger.end_close(id))
    }
}
