//! `OnReturn`: what becomes of a session of a database between two borrowers.

#[cfg(any(feature = "mysql", feature = "redis"))]
use std::time::Duration;

/// How long a server may take to answer at a return, by default: as long as for a check.
#[cfg(any(feature = "mysql", feature = "redis"))]
pub(super) const RESET_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a close waits for the server to close its end too, so that it counts the connection no
/// more when its slot is free. A server that is well does so within a millisecond, and on a machine
/// short of processors within some tens; one that is not shall not hold the slot for long.
#[cfg(any(feature = "mysql", feature = "redis"))]
pub(super) const GOODBYE: Duration = Duration::from_millis(250);

/// What is done to the session of a used connection before its next borrower has it.
///
/// What precisely, each driver's page says.
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
    /// Nothing of the server's. For borrowers who leave nothing behind, as transactions of the client
    /// crate's own kind do: they end when they are dropped. A question is asked only where a time
    /// limit of the dialer's can have left an answer unread that the client takes for another's.
    Keep,
    /// A transaction that was left open is rolled back. The default, at the price of a round trip
    /// where the client crate does not tell whether there is one.
    #[default]
    Rollback,
    /// The session becomes as after its dial: no transaction, setting, user, temporary table,
    /// prepared statement, lock or notification of the one before.
    ResetSession,
}
