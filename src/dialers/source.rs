//! `FromSource`: credentials, or any other configuration, asked for at each dial.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BoxError, Stored};
use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};

/// Asks a source at each dial how to dial: for passwords that rotate, and tokens that expire.
///
/// The source is a closure that makes the dialer for one dial out of a dialer that has everything but
/// the credentials. So it works with every dialer; those of [`drivers`](crate::drivers) have a method
/// that replaces their configuration. It runs on the thread of the dial and may block, until the
/// deadline of the [context](DialContext) that it is given; its error fails the dial.
///
/// # Connections with credentials of before
///
/// A session that has begun stays when its password is changed, on most servers. Each connection
/// keeps the dialer that opened it, by which it is checked, reset and closed; with that, its log-in is
/// repeated where a reset repeats it.
///
/// - Credentials with an end ([`Issued::valid_until`]) retire their connections by themselves: from
///   that moment the pool finds them broken, at a loan, a return or a check. One that rests is found
///   when the next caller or a check comes to it; [`check_idle_every`](crate::Settings::check_idle_every)
///   bounds that. One that is in use then stays in use.
/// - For credentials that are replaced early, [`Pool::retire_where`](crate::Pool::retire_where) retires
///   what was dialed with others, as the example does.
///
/// # Examples
///
/// ```no_run
/// # #[cfg(feature = "postgres")]
/// # {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use latebind::Pool;
/// use latebind::dialers::{FromSource, Issued};
/// use latebind::drivers::PostgresDialer;
/// use postgres::{Config, NoTls};
///
/// # fn fetch_token() -> std::io::Result<(String, Duration)> { Ok(Default::default()) }
/// let config: Config = "host=db.example user=app".parse()?;
/// let settings = PostgresDialer::new(config.clone(), NoTls);
/// let dialer = FromSource::new(settings, move |dialer, _context| {
///     let (token, valid_for) = fetch_token()?;
///     let mut config = config.clone();
///     config.password(token);
///     Ok(Issued::new(dialer.clone().config(config)).valid_for(valid_for))
/// });
/// let pool = Pool::new(dialer);
///
/// // The token has leaked: whatever was dialed with it goes.
/// let leaked = Arc::clone(pool.get()?.stored().dialer());
/// pool.retire_where(move |client| Arc::ptr_eq(client.stored().dialer(), &leaked));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct FromSource<D> {
    dialer: D,
    source: Arc<Source<D>>,
}

type Source<D> = dyn Fn(&D, &DialContext<'_>) -> Result<Issued<D>, BoxError> + Send + Sync;

impl<D: Dialer> FromSource<D> {
    /// Asks `source` at each dial for the dialer to use. It is given `dialer`, which dials nothing
    /// itself but says what holds for all of them: which calls may block, and what errors mean.
    ///
    /// A dial that is refused because the server is full is repeated for up to a second, and asks each
    /// time: `source` should keep a token for as long as it is valid.
    ///
    /// # Examples
    ///
    /// See [`FromSource`].
    #[must_use]
    pub fn new(
        dialer: D,
        source: impl Fn(&D, &DialContext<'_>) -> Result<Issued<D>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self { dialer, source: Arc::new(source) }
    }
}

impl<D: fmt::Debug> fmt::Debug for FromSource<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromSource").field("dialer", &self.dialer).finish_non_exhaustive()
    }
}

/// A dialer as the source of a [`FromSource`] has made it, with the end of its credentials.
///
/// It is stored beside each connection that was dialed with it.
///
/// # Examples
///
/// See [`FromSource`].
#[derive(Debug)]
pub struct Issued<D> {
    dialer: Arc<D>,
    valid_until: Option<Instant>,
}

impl<D> Issued<D> {
    /// Credentials without an end, in a dialer that has them.
    ///
    /// A source whose credentials have not changed may give the same `Arc` again.
    #[must_use]
    pub fn new(dialer: impl Into<Arc<D>>) -> Self {
        Self { dialer: dialer.into(), valid_until: None }
    }

    /// Retires connections that were dialed with these credentials from that moment on.
    ///
    /// Leave room for the longest loan where the server ends sessions whose credentials have expired.
    /// Defaults to never.
    #[must_use]
    pub fn valid_until(mut self, end: Instant) -> Self {
        self.valid_until = Some(end);
        self
    }

    /// The same, for so long from now.
    #[must_use]
    pub fn valid_for(mut self, span: Duration) -> Self {
        self.valid_until = Instant::now().checked_add(span);
        self
    }

    /// The dialer.
    #[must_use]
    pub fn dialer(&self) -> &Arc<D> {
        &self.dialer
    }

    fn has_expired(&self) -> bool {
        self.valid_until.is_some_and(|end| Instant::now() >= end)
    }
}

impl<D> Clone for Issued<D> {
    fn clone(&self) -> Self {
        Self { dialer: Arc::clone(&self.dialer), valid_until: self.valid_until }
    }
}

impl<D: Dialer> Dialer for FromSource<D> {
    type Connection = Stored<D::Connection, Issued<D>>;
    type Error = SourceError<D::Error>;

    fn dial(&self, context: &DialContext<'_>) -> Result<Self::Connection, Self::Error> {
        let issued = (self.source)(&self.dialer, context)
            .map_err(|source| SourceError::Source { source })?;
        let connection = issued.dialer.dial(context).map_err(SourceError::Dialer)?;
        Ok(Stored::new(connection, issued))
    }

    fn is_permanent(&self, error: &Self::Error) -> bool {
        matches!(error, SourceError::Dialer(error) if self.dialer.is_permanent(error))
    }

    fn is_at_limit(&self, error: &Self::Error) -> bool {
        matches!(error, SourceError::Dialer(error) if self.dialer.is_at_limit(error))
    }

    /// Also when the credentials have expired.
    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        let (connection, issued) = connection.split();
        issued.has_expired() || issued.dialer.is_broken(connection)
    }

    fn check(
        &self,
        connection: &mut Self::Connection,
        deadline: Instant,
    ) -> Result<(), Self::Error> {
        let (connection, issued) = connection.split();
        issued.dialer.check(connection, deadline).map_err(SourceError::Dialer)
    }

    fn needs_reset(&self, connection: &mut Self::Connection) -> bool {
        let (connection, issued) = connection.split();
        issued.dialer.needs_reset(connection)
    }

    fn reset(&self, connection: &mut Self::Connection) -> Result<(), Self::Error> {
        let (connection, issued) = connection.split();
        issued.dialer.reset(connection).map_err(SourceError::Dialer)
    }

    fn reset_wipes(&self) -> bool {
        self.dialer.reset_wipes()
    }

    fn must_not_wait(&self) -> bool {
        self.dialer.must_not_wait()
    }

    fn close(&self, connection: Self::Connection) {
        let (connection, issued) = connection.into_parts();
        issued.dialer.close(connection);
    }

    fn abort_handle(&self, connection: &Self::Connection) -> Option<AbortHandle> {
        connection.stored().dialer.abort_handle(connection)
    }

    fn blocking(&self) -> Blocking {
        self.dialer.blocking()
    }
}

/// Why a dial, a check or a reset of a [`FromSource`] fails.
///
/// # Examples
///
/// ```
/// use std::error::Error;
/// use std::io;
/// use std::time::Instant;
/// use latebind::{DialContext, Dialer};
/// use latebind::dialers::{FromSource, Issued, SourceError};
/// use latebind::net::TcpDialer;
///
/// let dialer = FromSource::new(TcpDialer::new("db.example", 5432), |_, _| {
///     Err(io::Error::from(io::ErrorKind::PermissionDenied).into())
/// });
/// let error = dialer.dial(&DialContext::until(Instant::now())).unwrap_err();
/// assert!(matches!(error, SourceError::Source { .. }));
/// assert_eq!(error.source().unwrap().to_string(), "permission denied");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError<E: Error + 'static> {
    /// The dialer's own error.
    #[error(transparent)]
    Dialer(E),
    /// The source gave no dialer.
    #[error("there are no credentials to dial with")]
    Source {
        /// The source's error.
        source: BoxError,
    },
}
