//! What an event of the ledger asks its caller to do once the lock is free.

use std::cmp::Ordering;
use std::time::Duration;

use crate::close_reason::CloseReason;

use crate::abort::AbortHandle;
use crate::budget::Order;
use crate::moment::Moment;

use super::entry::Entry;

/// A caller's place in the queue. Smaller means earlier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// The caller's seniority, which it keeps when it asks again.
    pub(super) number: u64,
    /// Where the queue has it, which is no part of what it is.
    pub(super) slot: u32,
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

/// Names one dial, check, reset or close that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ErrandId(pub(crate) u64);

/// A slot is reserved: dial, then say `dialed` or `dial_failed`.
#[derive(Debug)]
pub(crate) struct DialOrder<W> {
    pub(crate) id: ErrandId,
    /// `None`: no limit.
    pub(crate) deadline: Option<Moment>,
    /// Whose need it is; `None` if it is the pool's own.
    pub(crate) sponsor: Option<W>,
}

/// What a connection is set aside for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// On the way to a caller.
    Check,
    /// A check too, in the middle of a long rest.
    KeepAlive,
    /// On the way back from one.
    Reset,
    /// It was judged by the predicates up to `since`, and shall be by those up to `until`.
    Judge { since: u32, until: u32 },
}

impl Task {
    pub(super) fn is_check(self) -> bool {
        matches!(self, Self::Check | Self::KeepAlive)
    }

    /// Why the connection is closed if the task finds a fault.
    pub(crate) fn fault(self) -> CloseReason {
        match self {
            Self::Check | Self::KeepAlive => CloseReason::CheckFailed,
            Self::Reset => CloseReason::ResetFailed,
            Self::Judge { .. } => CloseReason::Predicate,
        }
    }
}

/// A connection is set aside: do the task, then say `back`.
#[derive(Debug)]
pub(crate) struct AsideOrder<C> {
    pub(crate) id: ErrandId,
    pub(crate) task: Task,
    pub(crate) entry: Entry<C>,
    /// `None`: no limit.
    pub(crate) deadline: Option<Moment>,
}

/// A connection is retired: close it, then say `closed`.
#[derive(Debug)]
pub(crate) struct CloseOrder<C> {
    pub(crate) id: ErrandId,
    pub(crate) connection: C,
    /// To be dropped before the connection is closed.
    pub(crate) handle: Option<AbortHandle>,
    pub(crate) reason: CloseReason,
    /// How old it was when it was retired.
    pub(crate) age: Duration,
}

/// Everything to do after unlocking. Nothing in it may be dropped undone.
#[must_use = "a slot, a connection or a caller is lost with these"]
#[derive(Debug)]
pub(crate) struct Effects<C, F, W> {
    /// A caller to wake: it has been told a verdict, or must look.
    pub(crate) wake: Option<W>,
    /// What most events do not ask for, and so is made when one does.
    pub(crate) work: Option<Box<Work<C, F, W>>>,
}

/// What there is to do but to wake one caller.
#[derive(Debug)]
pub(crate) struct Work<C, F, W> {
    /// Further callers to wake, before all else.
    pub(crate) wake: Vec<W>,
    /// The handle of a connection that is to be detached: to be dropped before that.
    pub(crate) handle: Option<AbortHandle>,
    pub(crate) dials: Vec<DialOrder<W>>,
    pub(crate) asides: Vec<AsideOrder<C>>,
    pub(crate) closes: Vec<CloseOrder<C>>,
    /// Errors that nobody wants any more: user code, so not to be dropped under the lock.
    pub(crate) spent: Vec<F>,
    /// When somebody must tell the ledger `upkeep`, if that is sooner than was said before.
    pub(crate) alarm: Option<Moment>,
    /// The predicates up to that epoch have judged all that they had to.
    pub(crate) judged: Option<u32>,
    /// What others with whom the budget is shared are to be told.
    pub(crate) orders: Vec<Order>,
    /// Nothing is left here of a key: its ledger may go.
    pub(crate) is_vacant: bool,
}

impl<C, F, W> Default for Work<C, F, W> {
    fn default() -> Self {
        Self {
            wake: Vec::new(),
            handle: None,
            dials: Vec::new(),
            asides: Vec::new(),
            closes: Vec::new(),
            spent: Vec::new(),
            alarm: None,
            judged: None,
            orders: Vec::new(),
            is_vacant: false,
        }
    }
}

impl<C, F, W> Effects<C, F, W> {
    #[inline]
    pub(crate) fn none() -> Self {
        Self { wake: None, work: None }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.wake.is_none() && self.work.is_none()
    }

    /// To add work to.
    pub(super) fn work(&mut self) -> &mut Work<C, F, W> {
        self.work.get_or_insert_default()
    }

    /// Has a caller woken.
    #[inline]
    pub(super) fn wake(&mut self, waker: W) {
        if self.wake.is_none() {
            self.wake = Some(waker);
        } else {
            self.work().wake.push(waker);
        }
    }

    /// An error that nobody wants any more, if it is one.
    #[inline]
    pub(super) fn spend(&mut self, failure: Option<F>) {
        if let Some(failure) = failure {
            self.work().spent.push(failure);
        }
    }

    /// Adds what a later event under the same lock asks for.
    pub(crate) fn append(&mut self, later: Self) {
        later.wake.into_iter().for_each(|waker| self.wake(waker));
        let Some(later) = later.work else { return };
        let Work { wake, handle, dials, asides, closes, spent, .. } = *later;
        let Work { alarm, judged, orders, is_vacant, .. } = *later;
        let work = self.work();
        work.wake.extend(wake);
        debug_assert!(handle.is_none(), "a detachment is an event of its own");
        work.dials.extend(dials);
        work.asides.extend(asides);
        work.closes.extend(closes);
        work.spent.extend(spent);
        work.alarm = alarm.or(work.alarm);
        work.judged = judged.or(work.judged);
        work.orders.extend(orders);
        work.is_vacant = is_vacant;
    }
}
