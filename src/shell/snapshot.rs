//! `Snapshot`: the state of the pool when a caller is turned away, and the errors that are made of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use crate::ledger::stats::Stats;
use crate::ledger::{Ledger, Loan, Refusal, Verdict};
use crate::report::error::{DialFailure, GetError};
use crate::report::holder::Holders;
use crate::runtime::moment::Moment;
use crate::runtime::sync::{coarse_now, now, this_thread};

use super::bell::CallerBell;

type LedgerOf<C, E> = Ledger<C, DialFailure<E>, CallerBell<C, DialFailure<E>>>;

/// The state of the pool that a caller who is turned away finds in its error.
#[derive(Default)]
pub(super) struct Snapshot {
    pool: Option<Arc<str>>,
    pub(super) stats: Stats,
    loans: Vec<Loan>,
    is_self_deadlock: bool,
}

/// The threads that wait for a connection, as a set. Thousands of callers may be turned away at the
/// same moment, and each looks up the thread of every loan in it.
///
/// The set is made when a caller is first turned away, and serves for a while: a wait that ends well
/// costs nothing.
#[derive(Default)]
pub(super) struct WaitingThreads(Option<Box<Threads>>); // Boxed, as few pools ever make it.

struct Threads {
    /// By the clock that dates loans.
    made_at: Moment,
    ids: HashSet<ThreadId>,
}

/// How long a set serves. A thread that was given a connection since then has a loan that began later
/// than the set, and so does not count as waiting.
const SERVES_FOR: Duration = Duration::from_millis(10);

impl WaitingThreads {
    /// Notes that this thread begins to wait.
    pub(super) fn join(&mut self, now: Moment) {
        self.forget_old(now);
        if let Some(threads) = &mut self.0 {
            threads.ids.insert(this_thread());
        }
    }

    fn forget_old(&mut self, now: Moment) {
        self.0.take_if(|threads| now.since(threads.made_at) > SERVES_FOR);
    }

    fn threads<I: Iterator<Item = ThreadId>>(
        &mut self,
        now: Moment,
        all: impl FnOnce() -> I,
    ) -> &Threads {
        self.forget_old(now);
        self.0.get_or_insert_with(|| {
            Box::new(Threads { made_at: coarse_now(), ids: all().collect() })
        })
    }
}

impl Snapshot {
    /// The state at this moment, for a caller on this thread.
    pub(super) fn of<C, E>(
        pool: Option<Arc<str>>,
        ledger: &LedgerOf<C, E>,
        waiting: &mut WaitingThreads,
        now: Moment,
    ) -> Self {
        let (stats, loans) = (ledger.stats(now), ledger.loans());
        let threads = waiting.threads(now, || ledger.waiting().map(|bell| bell.thread()));
        let this = this_thread();
        let asked =
            |loan: &Loan| loan.since <= threads.made_at && threads.ids.contains(&loan.thread);
        let is_asking = |loan: &Loan| loan.thread == this || asked(loan);
        let is_self_deadlock = !loans.is_empty()
            && loans.len() >= stats.in_use as usize
            && loans.iter().all(is_asking);
        Self { pool, stats, loans, is_self_deadlock }
    }

    /// The same, for a caller whose wait has just ended.
    pub(super) fn after_wait<C, E>(
        pool: Option<Arc<str>>,
        ledger: &LedgerOf<C, E>,
        waiting: &mut WaitingThreads,
        now: Moment,
    ) -> Self {
        Self { stats: ledger.stats_after_wait(now), ..Self::of(pool, ledger, waiting, now) }
    }

    pub(super) fn exhausted<E>(
        self,
        waited: Duration,
        failure: Option<DialFailure<E>>,
    ) -> GetError<E> {
        let holders = Box::new(Holders::new(self.loans, self.is_self_deadlock));
        let Self { pool, stats, .. } = self;
        GetError::Exhausted { pool, waited, stats: Box::new(stats), holders, failure }
    }

    pub(super) fn suspended<E>(
        self,
        waited: Duration,
        failure: Option<DialFailure<E>>,
    ) -> GetError<E> {
        let Self { pool, stats, .. } = self;
        GetError::Suspended { pool, waited, stats: Box::new(stats), failure }
    }

    fn unreachable<E>(self, waited: Duration, failure: DialFailure<E>) -> GetError<E> {
        let Self { pool, stats, .. } = self;
        GetError::Unreachable { pool, waited, stats: Box::new(stats), failure }
    }
}

/// The error of a caller who was not even queued.
pub(super) fn refused<C, E>(
    pool: Option<Arc<str>>,
    ledger: &LedgerOf<C, E>,
    waiting: &mut WaitingThreads,
    refusal: Refusal,
    start: Moment,
    now: Moment,
) -> GetError<E> {
    let failure = ledger.last_failure();
    let verdict = match refusal {
        Refusal::Closed => return GetError::Closed,
        Refusal::Suspended => Verdict::<C, _>::Suspended(failure),
        Refusal::TooLate => Verdict::Late(failure),
        Refusal::QueueFull => {
            let max_waiting = ledger.config().max_waiting.unwrap_or(u32::MAX);
            let stats = Box::new(ledger.stats(now));
            return GetError::QueueFull { pool, max_waiting, stats };
        }
    };
    turned_away(verdict, Snapshot::of(pool, ledger, waiting, now), start)
}

/// The error of a caller whose verdict is against it.
pub(super) fn turned_away<C, E>(
    verdict: Verdict<C, DialFailure<E>>,
    snapshot: Snapshot,
    start: Moment,
) -> GetError<E> {
    let waited = now().since(start);
    let is_unused = snapshot.stats.in_use == 0;
    match verdict {
        Verdict::Failed(failure) => snapshot.unreachable(waited, failure),
        // Nothing is in use, so only a dial could have served the caller.
        Verdict::Late(Some(failure)) if is_unused => snapshot.unreachable(waited, failure),
        Verdict::Late(failure) => snapshot.exhausted(waited, failure),
        Verdict::Suspended(failure) => snapshot.suspended(waited, failure),
        Verdict::Closed => GetError::Closed,
        Verdict::Cancelled => GetError::Cancelled,
        Verdict::Granted(_) | Verdict::Warm | Verdict::Drained => {
            unreachable!("a verdict in the caller's favour")
        }
    }
}
