//! The ledger's answers to callers, and the trait by which it wakes them.

use std::time::Duration;

use super::effects::Ticket;
use super::entry::Entry;

/// Why a dial that has not ended is written off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It has overrun this time limit.
    Limit(Duration),
    /// The lease under which it began has ended.
    Lease,
}

/// The immediate answer to a request for a connection.
#[derive(Debug)]
pub(crate) enum Reply<C> {
    /// A connection, at once. If it turns out to be broken, the caller asks again with the ticket.
    Granted(Ticket, Entry<C>),
    /// The caller must sleep until its waker wakes it.
    Queued(Ticket),
    Refused(Refusal),
}

/// Why a caller is neither served nor queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    QueueFull,
    /// The pool is suspended, and the caller does not wait for that to end.
    Suspended,
    /// The deadline had passed before the caller could join the queue.
    TooLate,
}

/// How a wait ends.
#[derive(Debug)]
pub(crate) enum Verdict<C, F> {
    Granted(Entry<C>),
    /// The caller's own dial failed, and no connection in use can come back to serve it.
    Failed(F),
    /// The deadline passed. Holds the error of the caller's own dial, or else the pool's latest.
    Late(Option<F>),
    /// The deadline passed while the pool was suspended.
    Suspended(Option<F>),
    Closed,
    Cancelled,
    /// As many connections are open as the warm-up asked for.
    Warm,
    /// The pool is closed, and the last of its connections with it.
    Drained,
}

/// Reaches a caller who waits. Both methods are called under the ledger's lock.
pub(crate) trait Waker<C, F>: Clone {
    /// Stores the verdict where the caller looks first when it wakes. `is_waking` says that the
    /// caller was asleep and is given a connection: it then counts itself among the woken.
    fn set_verdict(&self, verdict: Verdict<C, F>, is_waking: bool);

    /// Makes the caller `look` when it wakes next, although it has no verdict.
    fn request_tick(&self);
}
