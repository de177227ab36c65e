//! The errors of a checkout: why it failed, with the pool's numbers at that moment.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::Overdue;
use crate::ledger::stats::Stats;
use crate::report::holder::Holders;

/// Why [`Pool::get`](crate::Pool::get) or another checkout failed.
///
/// `Unreachable` means that the server is at fault, `Exhausted` that the pool is too small or its
/// connections are held too long. [`is_transient`](Self::is_transient) says whether another attempt
/// may succeed.
///
/// Its text is one line: the pool, what happened, with which numbers, and why, which is the
/// dialer's own error with all its sources. A program that also prints an error's sources therefore
/// prints these twice. `{:?}` is short too, and `{:#?}` has every number. [`source`](Error::source)
/// is the dialer's own error where there is one.
///
/// # Examples
///
/// ```
/// use latebind::{GetError, Pool, net::TcpDialer};
///
/// let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// let pool = Pool::builder(TcpDialer::from(nobody)).name("orders").build()?;
/// match pool.get() {
///     Err(error @ GetError::Unreachable { .. }) => {
///         let line = error.to_string();
///         assert!(line.starts_with("pool orders: could not open a connection"), "{line}");
///         assert!(error.is_transient(), "the server may come back");
///     }
///     _ => unreachable!("nobody listens there any more"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub enum GetError<E> {
    /// The caller's [`Cancel`](crate::Cancel) was cancelled, before the call or while it waited.
    Cancelled,
    /// The pool was closed, before the call or while it waited.
    Closed,
    /// Every connection stayed in use by other callers until the deadline.
    #[non_exhaustive]
    Exhausted {
        /// The pool's [name](crate::Settings::name), if it has one.
        pool: Option<Arc<str>>,
        /// How long the caller waited.
        waited: Duration,
        /// The pool's numbers when the caller gave up.
        stats: Box<Stats>,
        /// The callers that held the connections then.
        holders: Box<Holders>,
        /// How the latest dial failed, unless one has succeeded since: perhaps the reason why there
        /// were not enough connections.
        failure: Option<DialFailure<E>>,
    },
    /// The queue was full: [`max_waiting`](crate::Builder::max_waiting) callers were waiting.
    #[non_exhaustive]
    QueueFull {
        /// The pool's [name](crate::Settings::name), if it has one.
        pool: Option<Arc<str>>,
        /// The bound on waiting callers.
        max_waiting: u32,
        /// The pool's numbers when the caller was turned away.
        stats: Box<Stats>,
    },
    /// The pool was [suspended](crate::Pool::suspend) when the deadline came.
    #[non_exhaustive]
    Suspended {
        /// The pool's [name](crate::Settings::name), if it has one.
        pool: Option<Arc<str>>,
        /// How long the caller waited.
        waited: Duration,
        /// The pool's numbers as the caller gave up.
        stats: Box<Stats>,
        /// How the latest dial failed, unless one has succeeded since.
        failure: Option<DialFailure<E>>,
    },
    /// A new connection was needed, none could be opened, and none in use could come back.
    ///
    /// Reported as soon as this is known, without waiting for the deadline.
    #[non_exhaustive]
    Unreachable {
        /// The pool's [name](crate::Settings::name), if it has one.
        pool: Option<Arc<str>>,
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

    /// Whether the same call may succeed a little later without any change by anybody.
    ///
    /// It may if connections were all in use, if the queue was full, while a pool is suspended, and
    /// while a server is away. It may not if the pool is closed or the wait was cancelled, nor after
    /// a dial whose failure is [permanent](crate::Dialer::is_permanent).
    ///
    /// # Examples
    ///
    /// ```
    /// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
    /// let pool = latebind::Pool::new(dialer);
    /// pool.close();
    /// assert!(!pool.get().unwrap_err().is_transient());
    /// ```
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Cancelled | Self::Closed => false,
            Self::Unreachable { failure, .. } => !failure.is_permanent(),
            Self::Exhausted { .. } | Self::QueueFull { .. } | Self::Suspended { .. } => true,
        }
    }

    fn failure(&self) -> Option<&DialFailure<E>> {
        match self {
            Self::Unreachable { failure, .. } => Some(failure),
            Self::Exhausted { failure, .. } | Self::Suspended { failure, .. } => failure.as_ref(),
            Self::Cancelled | Self::Closed | Self::QueueFull { .. } => None,
        }
    }

    /// The pool's name and its numbers, where an error has them.
    fn context(&self) -> Option<(Option<&str>, &Stats)> {
        match self {
            Self::Cancelled | Self::Closed => None,
            Self::Exhausted { pool, stats, .. }
            | Self::QueueFull { pool, stats, .. }
            | Self::Suspended { pool, stats, .. }
            | Self::Unreachable { pool, stats, .. } => Some((pool.as_deref(), stats)),
        }
    }
}

impl<E: Error + 'static> fmt::Display for GetError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((Some(pool), _)) = self.context() {
            write!(f, "pool {pool}: ")?;
        }
        match self {
            Self::Cancelled => f.write_str("the wait was cancelled")?,
            Self::Closed => f.write_str("the pool is closed")?,
            Self::Exhausted { waited, stats, holders, .. } => {
                write!(f, "no connection came free in {waited:?} ({stats}){holders}")?;
            }
            Self::QueueFull { max_waiting, stats, .. } => {
                write!(f, "the queue is full: max_waiting is {max_waiting} ({stats})")?;
            }
            Self::Suspended { waited, stats, .. } => {
                write!(f, "the pool is suspended, and was not resumed in {waited:?} ({stats})")?;
            }
            Self::Unreachable { waited, stats, failure, .. } => {
                let cause = OneLine(failure);
                return write!(f, "could not open a connection in {waited:?} ({stats}): {cause}");
            }
        }
        self.failure()
            .map_or(Ok(()), |failure| write!(f, "; the latest dial failed: {}", OneLine(failure)))
    }
}

/// Short; `{:#?}` adds all numbers and holders.
impl<E: fmt::Debug> fmt::Debug for GetError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Cancelled => return f.write_str("Cancelled"),
            Self::Closed => return f.write_str("Closed"),
            Self::Exhausted { .. } => "Exhausted",
            Self::QueueFull { .. } => "QueueFull",
            Self::Suspended { .. } => "Suspended",
            Self::Unreachable { .. } => "Unreachable",
        };
        let is_long = f.alternate();
        let mut fields = f.debug_struct(name);
        if let Some((Some(pool), _)) = self.context() {
            fields.field("pool", &pool);
        }
        match self {
            Self::QueueFull { max_waiting, .. } => fields.field("max_waiting", max_waiting),
            Self::Exhausted { waited, .. }
            | Self::Suspended { waited, .. }
            | Self::Unreachable { waited, .. } => fields.field("waited", waited),
            Self::Cancelled | Self::Closed => &mut fields,
        };
        if let Some(failure) = self.failure() {
            fields.field("failure", failure);
        }
        if !is_long {
            return fields.finish_non_exhaustive();
        }
        if let Self::Exhausted { holders, .. } = self {
            fields.field("holders", holders);
        }
        if let Some((_, stats)) = self.context() {
            fields.field("stats", stats);
        }
        fields.finish()
    }
}

/// An error and its sources, in one line. A source that its error has quoted is not repeated.
pub(crate) struct OneLine<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = one_line(&self.0.to_string());
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = one_line(&error.to_string());
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            source = error.source();
        }
        f.write_str(&line)
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
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
/// Cheap to clone, because several callers may get the same failure.
pub struct DialFailure<E>(Arc<Reason<E>>);

enum Reason<E> {
    /// The dialer returned an error, and said whether it is permanent.
    Error { error: E, is_permanent: bool },
    /// The dialer panicked.
    Panicked,
    /// The dial has not ended in time.
    Overdue(Overdue),
    /// The system could start no thread for it.
    NoThread(io::Error),
}

impl<E> DialFailure<E> {
    pub(crate) fn new(error: E, is_permanent: bool) -> Self {
        Self(Arc::new(Reason::Error { error, is_permanent }))
    }

    pub(crate) fn panicked() -> Self {
        Self(Arc::new(Reason::Panicked))
    }

    pub(crate) fn no_thread(error: io::Error) -> Self {
        Self(Arc::new(Reason::NoThread(error)))
    }

    /// The dialer's own error; `None` if it panicked, overran `dial_timeout` or the lease of a
    /// [`Quota`](crate::Quota), or got no thread.
    #[must_use]
    pub fn error(&self) -> Option<&E> {
        match &*self.0 {
            Reason::Error { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Whether the dialer said that the failure is [permanent](crate::Dialer::is_permanent): trying
    /// again cannot help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(&*self.0, Reason::Error { is_permanent: true, .. })
    }
}

impl<E> From<Overdue> for DialFailure<E> {
    fn from(overdue: Overdue) -> Self {
        Self(Arc::new(Reason::Overdue(overdue)))
    }
}

impl<E> Clone for DialFailure<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Formatted as the dialer's own error, if it is one.
impl<E: fmt::Debug> fmt::Debug for DialFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Reason::Error { error, .. } => error.fmt(f),
            Reason::Panicked => f.write_str("Panicked"),
            Reason::Overdue(bound) => f.debug_tuple("Overdue").field(bound).finish(),
            Reason::NoThread(error) => f.debug_tuple("NoThread").field(error).finish(),
        }
    }
}

impl<E: fmt::Display> fmt::Display for DialFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Reason::Error { error, .. } => error.fmt(f),
            Reason::Panicked => f.write_str("the dialer panicked"),
            Reason::Overdue(Overdue::Limit(limit)) => {
                write!(f, "the dial did not end within {limit:?}")
            }
            Reason::Overdue(Overdue::Lease) => {
                f.write_str("the lease of the quota ended before the dial did")
            }
            Reason::NoThread(_) => f.write_str("no thread could be started for the dial"),
        }
    }
}

impl<E: Error + 'static> Error for DialFailure<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &*self.0 {
            Reason::Error { error, .. } => error.source(),
            Reason::NoThread(error) => Some(error),
            Reason::Panicked | Reason::Overdue(_) => None,
        }
    }
}
