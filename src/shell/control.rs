//! Controls of a whole pool (close, suspend, flush, settings), and its numbers.

use std::sync::Arc;

use crate::config::{Config, ConfigError};
use crate::dialer::Dialer;
use crate::ledger::stats::Stats;
use crate::ledger::{Ledger, Ticket, Verdict};
use crate::report::error::GetError;
use crate::report::histogram::Histograms;
use crate::report::holder::Holder;
use crate::report::spans::CallerSpan;
use crate::runtime::moment::Moment;
use crate::runtime::sync::now;
use crate::runtime::workers::Enlistment;
use crate::shell::bell::Bell;
use crate::shell::cancel::Cancellable;

use super::group::Membership;
use super::locked::{Locked, Reading};
use super::quota::Quota;
use super::snapshot::turned_away;
use super::waiting::Next;
use super::{EntryOf, Failure, GetErrorOf, LedgerOf, Predicate, Shell};

impl<D: Dialer> Shell<D> {
    /// Opens connections until `target` are open, and waits for them. `None`: this is the pool of a
    /// key, and closed because it was empty.
    pub(crate) fn warm_up(
        self: &Arc<Self>,
        target: u32,
        deadline: Option<Moment>,
    ) -> Option<Result<(), GetErrorOf<D>>> {
        let bell = Bell::new(CallerSpan::current());
        let start = now();
        let begun =
            self.ask(|locked, now| locked.ledger.warm_up(target, now, || Arc::clone(&bell)));
        let Some(ticket) = begun else { return Some(Err(GetError::Closed)) };
        match self.wait(ticket, &bell, deadline, Next::Look) {
            (Verdict::Warm, _) => Some(Ok(())),
            (verdict, snapshot) => {
                let error = turned_away(verdict, *snapshot.unwrap_or_default(), start);
                self.turned_away(error, now().since(start)).map(Err)
            }
        }
    }

    /// Closes the pool: it lends nothing from now on, and no thread rests for it, unless a slot that others
    /// share may have to be given up in time.
    pub(crate) fn close(self: &Arc<Self>) {
        if self.is_inherited() {
            return;
        }
        let sole = self.membership.as_ref().and_then(Membership::sole_group);
        // First: a caller whom the ledger turns away must find the group closed.
        sole.iter().for_each(|group| group.close());
        self.event(Ledger::close);
        self.abort_cancelled_dials();
        self.give_up_alarm();
        self.enlistment.iter().for_each(Enlistment::end);
        sole.iter().for_each(|group| group.dismiss());
    }

    /// Whether the lease of a connection has ended since it was handed to its caller.
    pub(super) fn has_overstayed(&self, entry: &EntryOf<D>) -> bool {
        self.membership.as_ref().is_some_and(Membership::may_lapse)
            && self.lock().is_some_and(|locked| locked.ledger.has_overstayed(entry, now()))
    }

    /// Closes the pool for good if nothing is left in it. Says whether it is closed and empty.
    pub(crate) fn close_if_vacant(self: &Arc<Self>) -> bool {
        let closed = self.ask(|locked, now| locked.ledger.close_if_vacant(now));
        let is_vacant = closed.unwrap_or(false);
        if is_vacant {
            self.give_up_alarm();
        }
        is_vacant
    }

    /// Closes the pool, and aborts the connections in use that have an abort handle. Returns how many
    /// those were.
    pub(crate) fn abort(self: &Arc<Self>) -> u32 {
        self.close();
        let Some(locked) = self.lock() else { return 0 };
        let handles = locked.ledger.handles_in_use();
        drop(locked);
        let count = u32::try_from(handles.len()).expect("no more are open than max_open allows");
        handles.into_iter().for_each(|handle| self.call(handle));
        count
    }

    /// Ends the dials whose connections nobody wants any more, as far as their dialer has said how.
    fn abort_cancelled_dials(&self) {
        let dials = self.lock().map(|mut locked| locked.ledger.take_cancelled_dials());
        for (id, handle) in dials.into_iter().flatten() {
            self.call(handle);
            let Some(mut locked) = self.lock() else { return };
            locked.ledger.dial_aborted(id);
        }
    }

    /// Has the ledger go by the quota's lease of this moment.
    pub(super) fn apply_lease(self: &Arc<Self>, quota: &Quota) {
        // Read under the ledger's lock: of two threads the one that comes last applies the later lease.
        self.event(|ledger, now| ledger.set_lease(quota.lease(), now));
        self.abort_cancelled_dials();
    }

    /// Closes the pool, and waits until nothing is open. The numbers at the end tell whether that was
    /// reached.
    pub(crate) fn drain(self: &Arc<Self>, deadline: Option<Moment>) -> Stats {
        self.close();
        let bell = Bell::new(CallerSpan::current());
        let begun = self.ask(|locked, now| locked.ledger.drain(now, || Arc::clone(&bell)));
        let Some(ticket) = begun else { return Stats::default() };
        self.wait(ticket, &bell, deadline, Next::Look).1.unwrap_or_default().stats
    }

    /// Lends nothing and dials nothing while it is suspended.
    pub(crate) fn set_suspended(self: &Arc<Self>, is_suspended: bool) {
        self.event(|ledger, now| ledger.set_suspended(is_suspended, now));
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.lock().is_some_and(|locked| locked.ledger.is_suspended())
    }

    /// Closes the idle connections.
    pub(crate) fn close_idle(self: &Arc<Self>) {
        self.event(Ledger::close_idle);
    }

    /// Lends nothing again that was opened, or began to be, before now.
    pub(crate) fn flush(self: &Arc<Self>) {
        self.event(Ledger::flush);
        self.abort_cancelled_dials();
    }

    /// Retires the connections that `predicate` names, among those whose dials began before now; a
    /// connection in use is judged at its return.
    pub(crate) fn retire_where(self: &Arc<Self>, predicate: Predicate<D>) {
        self.event(|ledger, now| {
            let (epoch, effects) = ledger.retire_where(now);
            // Before any thread can be told to judge by it.
            self.predicates.lock().insert(epoch, predicate);
            effects
        });
    }

    /// Replaces the current settings by what `change` makes of them.
    pub(crate) fn reconfigure(
        self: &Arc<Self>,
        change: impl FnOnce(Config) -> Result<Config, ConfigError>,
    ) -> Result<(), ConfigError> {
        let changed = self.ask(|locked, now| match change(*locked.ledger.config()) {
            Ok(config) => {
                self.knobs.set(&config);
                (Ok(()), locked.ledger.reconfigure(config, now))
            }
            Err(error) => (Err(error), locked.ledger.tick(now)),
        });
        changed.unwrap_or(Ok(()))
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Config {
        self.lock().map(|locked| locked.ledger.config().in_force()).unwrap_or_default()
    }

    pub(crate) fn stats(self: &Arc<Self>) -> Stats {
        self.read(|ledger, now| ledger.stats(now)).unwrap_or_default()
    }

    /// The loans at this moment, the longest first.
    pub(crate) fn holders(self: &Arc<Self>) -> Vec<Holder> {
        Holder::all(self.read(|ledger, _| ledger.loans()).unwrap_or_default())
    }

    pub(crate) fn last_dial_failure(&self) -> Option<Failure<D>> {
        self.lock()?.ledger.last_failure()
    }

    /// The numbers without a wait for the lock: a glance at the places, and the rest as last noted.
    pub(crate) fn recent_stats(&self) -> Stats {
        if self.is_inherited() {
            return Stats::default();
        }
        if let Some(locked) = self.locked.try_lock() {
            // The next reader may find the lock taken, and must not read older numbers than these.
            *self.reading.lock() = self.read_numbers(&locked.ledger, now());
        }
        let Reading { mut stats, is_laid_out } = *self.reading.lock();
        if is_laid_out {
            // Whether the two readings are of one moment or not, they add up to what is open.
            let resting = self.places.resting().min(stats.in_use);
            stats.idle += resting;
            stats.in_use -= resting;
        }
        stats
    }

    pub(crate) fn histograms(self: &Arc<Self>) -> Histograms {
        self.numbers().1
    }

    /// The numbers and histograms of about one moment.
    pub(super) fn numbers(self: &Arc<Self>) -> (Stats, Histograms) {
        let read = |ledger: &LedgerOf<D>, now| (ledger.stats(now), ledger.in_hands());
        self.numbers_by(|| self.read(read).unwrap_or_default())
    }

    /// The same, from the pool's numbers and how many of its loans have not ended.
    pub(super) fn numbers_by(&self, read: impl FnOnce() -> (Stats, u32)) -> (Stats, Histograms) {
        let mut stats = Stats::default();
        let histograms = self.timings.histograms(|| {
            let (read, in_hands) = read();
            stats = read;
            (read.lent_total, in_hands)
        });
        (stats, histograms)
    }

    /// Reads the ledger at this moment, with the connections in the places swept in. `None` in the child
    /// of a fork.
    fn read<T>(self: &Arc<Self>, read: impl FnOnce(&LedgerOf<D>, Moment) -> T) -> Option<T> {
        let read = |locked: &mut Locked<D>, now| {
            let effects = locked.ledger.tick(now);
            (read(&locked.ledger, now), effects)
        };
        self.ask(read)
    }
}

impl<D: Dialer> Cancellable for Shell<D> {
    fn cancel(self: Arc<Self>, ticket: Ticket) {
        self.event(|ledger, now| ledger.cancel(ticket, now));
    }
}
