//! `Event`: what happens in a pool, as its observers are told.

use std::time::Duration;

use crate::ledger::close_reason::CloseReason;
use crate::ledger::roster::ConnectionId;
use crate::report::error::{DialFailure, GetError};
use crate::report::holder::Holder;

/// Receives the events of a pool: see [`Settings::observer`](crate::Settings::observer).
pub(crate) type Observer<E> = dyn Fn(&Event<'_, E>) + Send + Sync;

/// Something that happened in a pool whose dialer's error type is `E`.
///
/// Every [`Lent`](Self::Lent) is followed by one [`Returned`](Self::Returned) or
/// [`Detached`](Self::Detached), every [`Opened`](Self::Opened) by one [`Closed`](Self::Closed) or
/// `Detached`. Each is reported before anything follows from it: a connection's `Opened` before its
/// first `Lent`, its `Returned` before its next `Lent`, its `Closed` before the `Opened` of the one
/// that takes its slot. So the connections that are `Opened` and not yet `Closed` never exceed
/// `max_open`, apart from those whose close overran `close_timeout`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a, E> {
    /// The [breaker](crate::Settings::breaker) has closed: a dial has succeeded, or other settings apply.
    #[non_exhaustive]
    BreakerClosed {
        /// How long it was open.
        open_for: Duration,
    },
    /// The [breaker](crate::Settings::breaker) has opened: callers that no open connection can serve are
    /// refused until a dial succeeds.
    #[non_exhaustive]
    BreakerOpened {
        /// The dials that have failed in a row.
        failures: u32,
    },
    /// A check has failed. The connection is closed, and the caller gets another.
    #[non_exhaustive]
    CheckFailed {
        /// The dialer's error; `None` if it panicked.
        error: Option<&'a E>,
    },
    /// The dialer has closed a connection.
    #[non_exhaustive]
    Closed {
        /// The connection's id.
        id: ConnectionId,
        /// Why it was taken out of the pool.
        reason: CloseReason,
        /// Its age when it was taken out: the time since its dial.
        age: Duration,
        /// How often it was lent.
        uses: u64,
    },
    /// A dial has failed, also one that a close or a flush of the pool has
    /// [cancelled](crate::DialContext).
    #[non_exhaustive]
    DialFailed {
        /// How it failed.
        failure: &'a DialFailure<E>,
        /// How long it took.
        took: Duration,
    },
    /// A borrower has taken its connection out of the pool, to keep it.
    #[non_exhaustive]
    Detached {
        /// The connection's id.
        id: ConnectionId,
        /// How long it was borrowed, accurate to some milliseconds.
        held: Duration,
    },
    /// A connection has been held by a borrower for longer than
    /// [`leak_after`](crate::Settings::leak_after). Reported once for each such loan.
    #[non_exhaustive]
    Leaked {
        /// The borrower's thread, and the line of the program that asked for the connection.
        holder: &'a Holder,
    },
    /// A caller has been given a connection.
    #[non_exhaustive]
    Lent {
        /// The connection's id.
        id: ConnectionId,
        /// How long the caller waited. Zero if it did not have to queue.
        waited: Duration,
        /// Whether the connection had been lent before.
        reused: bool,
        /// How often it has been lent, this time included.
        uses: u64,
    },
    /// A dial has opened a connection.
    #[non_exhaustive]
    Opened {
        /// The connection's id.
        id: ConnectionId,
        /// How long it took.
        took: Duration,
    },
    /// A reset has failed. The connection is closed.
    #[non_exhaustive]
    ResetFailed {
        /// The dialer's error; `None` if it panicked.
        error: Option<&'a E>,
    },
    /// A borrower has given back a connection, usable or not.
    #[non_exhaustive]
    Returned {
        /// The connection's id.
        id: ConnectionId,
        /// How long it was borrowed, accurate to some milliseconds.
        held: Duration,
    },
    /// A caller got no connection, or a warm-up did not complete, for any of the reasons in
    /// [`GetError`].
    #[non_exhaustive]
    TurnedAway {
        /// The error that the caller gets.
        error: &'a GetError<E>,
        /// How long the caller waited. Zero if it did not queue.
        waited: Duration,
    },
}
