//! `OnReturn`: what happens to a database session between two borrowers.

#[cfg(any(feature = "mysql", feature = "redis"))]
use std::time::Duration;

/// The default limit for a server's answer at a return: the same as for a check.
#[cfg(any(feature = "mysql", feature = "redis"))]
pub(super) const RESET_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a close waits for the server to close its end too, so that the server no longer counts
/// the connection when its slot is freed. A healthy server does so within a millisecond, or within
/// tens of milliseconds on a busy machine; another must not hold the slot for long.
#[cfg(any(feature = "mysql", feature = "redis"))]
pub(super) const GOODBYE: Duration = Duration::from_millis(250);

/// How the session of a used connection is cleaned before its next borrower gets it.
///
/// Each driver's page has the details.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "postgres")]
/// # {
/// use latebind::drivers::{OnReturn, PostgresDialer};
///
/// let dialer = PostgresDialer::new("host=db.example user=app".parse()?, postgres::NoTls)
///     .on_return(OnReturn::ResetSession);
/// # drop(dialer);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnReturn {
    /// The server is asked to undo nothing. For borrowers that leave nothing behind: for example,
    /// the client crates' own transactions end when they are dropped. The server is asked a
    /// question only if a time limit of the dialer may have left an answer unread that the client
    /// would take for another's.
    Keep,
    /// A transaction that was left open is rolled back. The default; it costs a round trip, because
    /// the client crates do not tell whether there is one.
    #[default]
    Rollback,
    /// The session is restored to its state after the dial: no transaction, setting, user,
    /// temporary table, prepared statement, lock or notification of the previous borrower remains.
    ResetSession,
}
