//! `Observer`: who is told what happens in a pool, and the events that it is told of.

use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::error::{DialFailure, GetError};
use crate::holder::Holder;

/// Is told what happens in a pool. Any closure that takes an [`Event`] is one.
///
/// Set it with [`Builder::observer`](crate::Builder::observer). It is called on the thread where the
/// event happened, never under a lock of the pool, so it may use the pool and may block; but what it
/// is told of goes on only when it returns, so it does best to note and leave. A panic in it is
/// caught, counted in [`Stats::panics_total`](crate::Stats), and harms nothing.
///
/// An observer that keeps a handle of its own pool keeps that pool from closing by itself.
pub trait Observer<E>: Send + Sync + 'static {
    /// Something has happened.
    fn observe(&self, event: &Event<'_, E>);
}

impl<E, F: Fn(&Event<'_, E>) + Send + Sync + 'static> Observer<E> for F {
    fn observe(&self, event: &Event<'_, E>) {
        self(event);
    }
}

/// Both are told, in this order.
impl<E, A: Observer<E>, B: Observer<E>> Observer<E> for (A, B) {
    fn observe(&self, event: &Event<'_, E>) {
        self.0.observe(event);
        self.1.observe(event);
    }
}

/// What happens in a pool whose dialer fails with `E`.
///
/// Every [`Lent`](Self::Lent) is followed by one [`Returned`](Self::Returned) or
/// [`Detached`](Self::Detached), every [`Opened`](Self::Opened) by one [`Closed`](Self::Closed) or
/// `Detached`. Each is told before anything follows from it: a connection's `Opened` before its
/// first `Lent`, its `Returned` before its next `Lent`, its `Closed` before the `Opened` of the one
/// that takes its slot. So no more are `Opened` and not `Closed` than may be open (but for those
/// whose close overran `close_timeout`).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a, E> {
    /// A check has failed. The connection is closed, and another is looked for.
    #[non_exhaustive]
    CheckFailed {
        /// The dialer's error; `None` if it panicked.
        error: Option<&'a E>,
    },
    /// The dialer has closed a connection.
    #[non_exhaustive]
    Closed {
        /// Why it was taken out.
        reason: CloseReason,
        /// How long after its dial it was taken out.
        age: Duration,
    },
    /// A dial has failed.
    #[non_exhaustive]
    DialFailed {
        /// How.
        failure: &'a DialFailure<E>,
        /// How long it took.
        took: Duration,
    },
    /// A borrower keeps its connection.
    #[non_exhaustive]
    Detached {
        /// For how long it was borrowed, to some milliseconds.
        held: Duration,
    },
    /// A connection has been in a borrower's hands for longer than
    /// [`leak_after`](crate::Settings::leak_after). Told once for each such loan.
    #[non_exhaustive]
    Leaked {
        /// Who has it, and the line that asked for it.
        holder: &'a Holder,
    },
    /// A caller has been given a connection.
    #[non_exhaustive]
    Lent {
        /// For how long the caller waited. Zero if it did not have to queue.
        waited: Duration,
        /// Whether the connection had been lent before.
        reused: bool,
    },
    /// A dial has opened a connection.
    #[non_exhaustive]
    Opened {
        /// How long it took.
        took: Duration,
    },
    /// A reset has failed. The connection is closed.
    #[non_exhaustive]
    ResetFailed {
        /// The dialer's error; `None` if it panicked.
        error: Option<&'a E>,
    },
    /// A borrower is done with a connection, fit for further use or not.
    #[non_exhaustive]
    Returned {
        /// For how long it was borrowed, to some milliseconds.
        held: Duration,
    },
    /// A caller has been given no connection, or a warm-up has not come to its end. This is how a
    /// caller is told that the deadline has passed, the server is down, the queue is full or the pool
    /// is closed.
    #[non_exhaustive]
    TurnedAway {
        /// What the caller is told.
        error: &'a GetError<E>,
        /// For how long the caller waited. Zero if it did not queue.
        waited: Duration,
    },
}
