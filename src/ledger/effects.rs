//! Effects: what the shell has to do after an event, once the lock is free.

use std::cmp::Ordering;
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::ledger::budget::BudgetOrder;
use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::entry::Entry;
use super::outage::BreakerTurn;
use super::roster::ConnectionId;

/// Names a caller who waits. A smaller ticket is served earlier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// The caller's seniority, which it keeps when it asks again.
    pub(super) number: u64,
    /// The caller's node in the queue's slab. It only speeds up the search, and is not compared.
    pub(super) node: u32,
}

impl PartialEq for Ticket {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Ticket {}

impl PartialOrd for Ticket {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ticket {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number.cmp(&other.number)
    }
}

/// Names one job: a dial, a stay at the dialer, or a close, from its order until it is reported as
/// ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(pub(crate) u64);

/// Order to dial, for which a slot is reserved. Its end is reported by `dialed` or `dial_failed`.
#[derive(Debug)]
pub(crate) struct DialOrder<W> {
    pub(crate) id: JobId,
    /// `None`: no limit.
    pub(crate) deadline: Option<Moment>,
    /// The caller whose need it is; `None`: the pool's own, for `min_idle`.
    pub(crate) sponsor: Option<W>,
}

/// Why a connection is at the dialer. Predicates are no part of the dialer, but a connection that is
/// being judged is handled as one that is being checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A check before the next loan.
    Check,
    /// A check in the middle of a long rest.
    KeepAlive,
    /// A reset after a loan.
    Reset,
    /// The predicates up to `since` have judged it, and those up to `until` are to.
    Judge { since: u32, until: u32 },
}

impl Purpose {
    pub(super) fn is_check(self) -> bool {
        matches!(self, Self::Check | Self::KeepAlive)
    }

    /// Why the connection is closed if it fails.
    pub(crate) fn fault(self) -> CloseReason {
        match self {
            Self::Check | Self::KeepAlive => CloseReason::CheckFailed,
            Self::Reset => CloseReason::ResetFailed,
            Self::Judge { .. } => CloseReason::Predicate,
        }
    }
}

/// Order to check, reset or judge a connection. Its end is reported by `back_from_dialer`.
#[derive(Debug)]
pub(crate) struct AtDialerOrder<C> {
    pub(crate) id: JobId,
    pub(crate) purpose: Purpose,
    pub(crate) entry: Entry<C>,
    /// `None`: no limit.
    pub(crate) deadline: Option<Moment>,
}

/// Order to close a retired connection. Its end is reported by `closed`.
#[derive(Debug)]
pub(crate) struct CloseOrder<C> {
    pub(crate) id: JobId,
    pub(crate) connection: C,
    /// Must be dropped before the connection is closed.
    pub(crate) handle: Option<AbortHandle>,
    pub(crate) reason: CloseReason,
    /// The connection's id.
    pub(crate) of: ConnectionId,
    /// How often it was lent.
    pub(crate) uses: u64,
    /// How old it was when it was retired.
    pub(crate) age: Duration,
}

/// Everything to do after unlocking. Each part must be carried out: dropping one loses a slot, a
/// connection or a caller, and may run user code under the lock.
#[must_use = "a slot, a connection or a caller is lost with these"]
#[derive(Debug)]
pub(crate) struct Effects<C, F, W> {
    /// A caller to wake: it has a verdict, or must report `look`.
    pub(crate) wake: Option<W>,
    /// Allocated only when an event needs it, as most events do not.
    pub(crate) rare: Option<Box<RareEffects<C, F, W>>>,
}

/// Effects other than to wake one caller. `Default` is written by hand: derived, it would ask the same of
/// `C`, `F` and `W`.
#[derive(Debug)]
pub(crate) struct RareEffects<C, F, W> {
    /// Further callers to wake, before all else.
    pub(crate) wake: Vec<W>,
    /// The abort handle of a connection that is detached. Must be dropped before that.
    pub(crate) handle: Option<AbortHandle>,
    /// The breaker has opened or closed.
    pub(crate) breaker: Vec<BreakerTurn>,
    /// Aborts of connections in use whose lease has ended.
    pub(crate) aborts: Vec<AbortHandle>,
    pub(crate) dials: Vec<DialOrder<W>>,
    pub(crate) at_dialer: Vec<AtDialerOrder<C>>,
    pub(crate) closes: Vec<CloseOrder<C>>,
    /// Errors that nobody wants any more. Dropping them runs user code, which the lock forbids.
    pub(crate) unwanted: Vec<F>,
    /// When to report `upkeep`, if that is sooner than was ordered before.
    pub(crate) alarm: Option<Moment>,
    /// The predicates up to this epoch have judged everything, and may be dropped.
    pub(crate) judged: Option<u32>,
    /// The budget's orders to the ledgers of keys, this one included.
    pub(crate) budget_orders: Vec<BudgetOrder>,
    /// Nothing is left of this key: its ledger may be dropped.
    pub(crate) is_vacant: bool,
}

impl<C, F, W> Default for RareEffects<C, F, W> {
    fn default() -> Self {
        Self {
            wake: Vec::new(),
            handle: None,
            breaker: Vec::new(),
            aborts: Vec::new(),
            dials: Vec::new(),
            at_dialer: Vec::new(),
            closes: Vec::new(),
            unwanted: Vec::new(),
            alarm: None,
            judged: None,
            budget_orders: Vec::new(),
            is_vacant: false,
        }
    }
}

impl<C, F, W> Effects<C, F, W> {
    #[inline]
    pub(crate) fn none() -> Self {
        Self { wake: None, rare: None }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let Self { wake, rare } = self;
        wake.is_none() && rare.is_none()
    }

    pub(super) fn rare(&mut self) -> &mut RareEffects<C, F, W> {
        self.rare.get_or_insert_default()
    }

    #[inline]
    pub(super) fn wake(&mut self, waker: W) {
        if self.wake.is_none() {
            self.wake = Some(waker);
        } else {
            self.rare().wake.push(waker);
        }
    }

    /// Has an error dropped outside the lock, if there is one.
    #[inline]
    pub(super) fn discard(&mut self, failure: Option<F>) {
        if let Some(failure) = failure {
            self.rare().unwanted.push(failure);
        }
    }
}
