//! Everything that can be read of a pool: its numbers, its loans, its settings.

use crate::config::Config;
use crate::ledger::stats::Stats;
use crate::runtime::moment::Moment;

use super::answers::{Overdue, Waker};
use super::entry::Entry;
use super::outage::Outage;
use super::roster::LoanCount;
use super::share::Share;
use super::{Ledger, Loan};

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// The numbers of this moment.
    pub(crate) fn stats(&self, now: Moment) -> Stats {
        let LoanCount { lent, reused } = self.roster.uncounted();
        let seen = self.stats_seen(now);
        Stats {
            lent_total: seen.lent_total + lent,
            reused_total: seen.reused_total + reused,
            ..seen
        }
    }

    /// The numbers of this moment for a caller whose wait has ended: they say whether the budget had no
    /// slot during that wait.
    pub(crate) fn stats_after_wait(&self, now: Moment) -> Stats {
        let lack = self.share.as_deref().and_then(|share| share.last_lack);
        self.stats(now).lacking(lack)
    }

    /// The same numbers, without the loans of connections that are laid out or lent from there. This
    /// looks at no connection, and so costs the same however many there are.
    pub(crate) fn stats_seen(&self, now: Moment) -> Stats {
        // A closed pool refuses everybody, and may be a key's that is counted for ever.
        let outage = (!self.is_closed()).then_some(&self.dialing.outage);
        Stats {
            max_open: self.config.max_open,
            idle: self.idle.len(),
            in_use: self.busy(),
            dialing: self.jobs.dials.len(),
            closing: self.jobs.closings.len(),
            waiting: self.queue.len(),
            overdue: self.jobs.dials.overdue(now),
            failing_dials: outage.map_or(0, Outage::failures),
            breaker_open_for: outage.and_then(Outage::open_since).map(|since| now.since(since)),
            ..self.totals
        }
        .lacking(self.share.as_deref().and_then(Share::lack))
    }

    /// A number that changes with each connection that begins to open, opens, or begins or ends to
    /// close.
    pub(crate) fn turnover(&self) -> u64 {
        let Stats { dials_total, dialed_total, dial_failed_total, .. } = self.totals;
        let Stats { retired_total, detached_total, .. } = self.totals;
        let begun = dials_total + dialed_total + dial_failed_total + retired_total + detached_total;
        u64::from(self.jobs.closings.len()) | begun << u32::BITS
    }

    /// Connections in callers' hands or granted to them.
    pub(crate) fn in_hands(&self) -> u32 {
        self.in_use
    }

    /// The connections in callers' hands, with who has them.
    pub(crate) fn loans(&self) -> Vec<Loan> {
        self.roster.loans()
    }

    /// Notes the label of a loan that has begun.
    pub(crate) fn label(&mut self, entry: &Entry<C>, label: &'static str) {
        self.roster.label(entry.record(), label);
    }

    /// The loans that have lasted too long and are not counted as leaks yet.
    pub(crate) fn take_leaks(&mut self, now: Moment) -> Vec<Loan> {
        let limit = now.before(self.config.leak_after);
        let leaks = limit.map_or_else(Vec::new, |limit| self.roster.take_overlong(limit));
        self.totals.leaked_total += leaks.len() as u64;
        leaks
    }

    /// The wakers of the callers in the queue.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &W> {
        self.queue.wakers()
    }

    /// How the latest dial failed. `None` if none has failed since one succeeded.
    pub(crate) fn last_failure(&self) -> Option<F> {
        self.dialing.last_failure.clone()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// User code has panicked, and the shell has caught the panic.
    pub(crate) fn note_panic(&mut self) {
        self.totals.panics_total += 1;
    }
}
