//! The errors of a checkout: why it failed, with the numbers of that moment.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::holder::Holders;
use crate::ledger::Overdue;
use crate::stats::Stats;

/// Why [`Pool::get`](crate::Pool::get) and its like failed.
///
/// [`source`](Error::source) is the dialer's own error where there is one. `Unreachable` says that
/// the server is the trouble, `Exhausted` that the pool is too small or its connections are held
/// too long.
///
/// # Examples
///
/// ```
/// use latebind::{GetError, Pool, net::TcpDialer};
///
/// let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// let pool = Pool::new(TcpDialer::from(nobody));
/// match pool.get() {
///     Err(GetError::Unreachable { failure, .. }) => println!("the server is down: {failure}"),
///     Err(error) => println!("{error}"),
///     Ok(_) => unreachable!("nobody listens there any more"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub enum GetError<E> {
    /// The caller's [`Cancel`](crate::Cancel) was cancelled, before the call or while it waited.
    Cancelled,
    /// The pool was closed, before the call or while it waited.
    Closed,
    /// Every connection stayed in others' hands until the deadline.
    Exhausted {
        /// How long the caller waited.
        waited: Duration,
        /// The pool's numbers as the caller gave up.
        stats: Box<Stats>,
        /// Who held the connections then.
        holders: Box<Holders>,
        /// How the latest dial failed, unless one has succeeded since: perhaps the reason why
        /// there were not more connections to go round.
        failure: Option<DialFailure<E>>,
    },
    /// The queue was full, as [`max_waiting`](crate::Builder::max_waiting) has it.
    QueueFull {
        /// The bound.
        max_waiting: u32,
        /// The pool's numbers as the caller was turned away.
        stats: Box<Stats>,
    },
    /// The pool was [suspended](crate::Pool::suspend) when the deadline came.
    Suspended {
        /// How long the caller waited.
        waited: Duration,
        /// The pool's numbers as the caller gave up.
        stats: Box<Stats>,
        /// How the latest dial failed, unless one has succeeded since.
        failure: Option<DialFailure<E>>,
    },
    /// A new connection was needed, none could be opened, and none in use could come back.
    ///
    /// Reported as soon as that is so, without waiting for the deadline.
    Unreachable {
        /// How long the caller waited.
        waited: Duration,
        /// The pool's numbers as the caller gave up.
        stats: Box<Stats>,
        /// How the dial failed.
        failure: DialFailure<E>,
    },
}

impl<E> GetError<E> {
    /// The dialer's own error, if one was the reason.
    #[must_use]
    pub fn dial_error(&self) -> Option<&E> {
        self.failure().and_then(DialFailure::error)
    }

    fn failure(&self) -> Option<&DialFailure<E>> {
        match self {
            Self::Unreachable { failure, .. } => Some(failure),
            Self::Exhausted { failure, .. } | Self::Suspended { failure, .. } => failure.as_ref(),
            Self::Cancelled | Self::Closed | Self::QueueFull { .. } => None,
        }
    }
}

impl<E> fmt::Display for GetError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("the wait was cancelled"),
            Self::Closed => f.write_str("the pool is closed"),
            Self::Exhausted { waited, stats, holders, failure } => {
                let dial = if failure.is_some() { ", and the latest dial failed" } else { "" };
                write!(f, "no connection came free in {waited:?}{dial} ({stats}){holders}")
            }
            Self::QueueFull { max_waiting, stats } => {
                write!(f, "the queue is full: max_waiting is {max_waiting} ({stats})")
            }
            Self::Suspended { waited, stats, .. } => {
                write!(f, "the pool is suspended, and was not resumed in {waited:?} ({stats})")
            }
            Self::Unreachable { waited, stats, .. } => {
                write!(f, "could not open a connection in {waited:?} ({stats})")
            }
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for GetError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("Cancelled"),
            Self::Closed => f.write_str("Closed"),
            Self::Exhausted { waited, stats, holders, failure } => f
                .debug_struct("Exhausted")
                .field("waited", waited)
                .field("stats", stats)
                .field("holders", holders)
                .field("failure", failure)
                .finish(),
            Self::QueueFull { max_waiting, stats } => f
                .debug_struct("QueueFull")
                .field("max_waiting", max_waiting)
                .field("stats", stats)
                .finish(),
            Self::Suspended { waited, stats, failure } => f
                .debug_struct("Suspended")
                .field("waited", waited)
                .field("stats", stats)
                .field("failure", failure)
                .finish(),
            Self::Unreachable { waited, stats, failure } => f
                .debug_struct("Unreachable")
                .field("waited", waited)
                .field("stats", stats)
                .field("failure", failure)
                .finish(),
        }
    }
}

impl<E: Error + 'static> Error for GetError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let failure = self.failure()?;
        match failure.error() {
            Some(error) => Some(error),
            None => Some(failure),
        }
    }
}

/// How a dial failed.
///
/// Cheap to clone: one failure may be the reason given to several callers.
#[derive(Debug)]
pub struct DialFailure<E>(Arc<Reason<E>>);

#[derive(Debug)]
enum Reason<E> {
    /// The dialer said so.
    Error(E),
    /// The dialer panicked.
    Panicked,
    /// The dial has not ended within `dial_timeout`.
    Overdue(Duration),
    /// The system had no thread for it.
    NoThread(io::Error),
}

impl<E> DialFailure<E> {
    pub(crate) fn new(error: E) -> Self {
        Self(Arc::new(Reason::Error(error)))
    }

    pub(crate) fn panicked() -> Self {
        Self(Arc::new(Reason::Panicked))
    }

    pub(crate) fn no_thread(error: io::Error) -> Self {
        Self(Arc::new(Reason::NoThread(error)))
    }

    /// The dialer's own error; `None` if it panicked, overran `dial_timeout`, or got no thread.
    #[must_use]
    pub fn error(&self) -> Option<&E> {
        match &*self.0 {
            Reason::Error(error) => Some(error),
            _ => None,
        }
    }
}

impl<E> From<Overdue> for DialFailure<E> {
    fn from(overdue: Overdue) -> Self {
        Self(Arc::new(Reason::Overdue(overdue.limit)))
    }
}

impl<E> Clone for DialFailure<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: fmt::Display> fmt::Display for DialFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Reason::Error(error) => error.fmt(f),
            Reason::Panicked => f.write_str("the dialer panicked"),
            Reason::Overdue(limit) => write!(f, "the dial did not end within {limit:?}"),
            Reason::NoThread(_) => f.write_str("no thread could be started for the dial"),
        }
    }
}

impl<E: Error + 'static> Error for DialFailure<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &*self.0 {
            Reason::Error(error) => error.source(),
            Reason::NoThread(error) => Some(error),
            Reason::Panicked | Reason::Overdue(_) => None,
        }
    }
}
