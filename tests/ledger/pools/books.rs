//! The numbers of one ledger, counted from the events.

use crate::ledger::stats::Stats;
use crate::runtime::moment::Moment;

use super::{Place, Pools, small};

impl Pools {
    /// The ledger's `Stats` are those of the books.
    pub(super) fn books_balance(&self, member: usize) {
        let (own, now) = (&self.members[member], self.now);
        let ledger = own.ledger.as_ref().expect("it has a ledger");
        let actual = ledger.stats(now);
        let is_due = |deadline: Option<Moment>| deadline.is_some_and(|deadline| deadline <= now);
        let open_since = own.outage.open_since.filter(|_| !own.is_closed);
        let idle = self.connections_of(member).filter(|(_, it)| it.place == Place::AtRest);
        let overdue = self.dials_of(member).filter(|it| is_due(it.deadline));
        let expected = Stats {
            max_open: own.config.max_open,
            idle: small(idle.count()),
            in_use: small(self.busy(member)),
            dialing: small(self.dials_of(member).count()),
            closing: self.closing(member),
            waiting: small(self.queue(member).count()),
            overdue: small(overdue.count()),
            failing_dials: if own.is_closed { 0 } else { own.outage.failures },
            breaker_open_for: open_since.map(|since| now.since(since)),
            // These are for `among_keys`, and each of these for the loop below.
            stalled: actual.stalled,
            stalled_by_quota: actual.stalled_by_quota,
            retired_by: actual.retired_by,
            ..own.totals
        };
        assert_eq!(actual, expected, "the books balance");
        for (reason, total) in actual.retired_by.iter() {
            assert_eq!(total, own.retired_by.get(&reason).copied().unwrap_or(0), "{reason}");
        }
        assert_eq!(ledger.last_failure(), own.outage.last_failure, "CAN-11: the latest failure");
    }
}
