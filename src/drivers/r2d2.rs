//! `R2d2Dialer`: uses any r2d2 manager as it is.

use std::fmt;
use std::time::Instant;

use r2d2::{CustomizeConnection, ManageConnection};

use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};
use crate::dialers::BoxError;
use crate::report::error::OneLine;

use super::async_thread::must_not_wait;

/// Opens the connections of an r2d2 [manager](ManageConnection).
///
/// | manager's method | used for | called |
/// | --- | --- | --- |
/// | `connect` | [`dial`](Dialer::dial) | when a caller needs a connection |
/// | `is_valid` | [`check`](Dialer::check) | before reuse after [`check_after`] of rest; r2d2 calls it at each checkout |
/// | `has_broken` | [`reset`](Dialer::reset) | once at each return of a connection that was used, as r2d2 does |
///
/// Set [`check_after`] to zero to call `is_valid` at each checkout, as r2d2 does. It runs on a
/// thread of the pool's own, so a check that hangs delays no caller past its deadline.
///
/// `has_broken` may ask the server, as that of `r2d2_mysql` does. So it is not called for idle
/// connections, nor on the thread of a caller that wants one: [`is_broken`](Dialer::is_broken)
/// returns `false`. It is called on the returning thread, as by r2d2, or on a thread of the pool's
/// own if the returning thread belongs to a tokio runtime. A connection that has broken is closed
/// as one whose reset has failed ([`ResetFailed`](crate::CloseReason::ResetFailed)), and all that
/// are idle then are checked before they are lent. A connection that failed inside
/// [`Pool::with`](crate::Pool::with) is closed without that call. A borrower that knows that others
/// may have failed too reports it with [`doubt`](crate::Guard::doubt).
///
/// A manager has no deadlines and does not manage sessions. `connect`, `is_valid` and `has_broken`
/// take as long as they take (a dial that overruns keeps its slot until it returns). The next
/// borrower finds what the previous one left behind, as with r2d2: an open transaction, or an
/// answer that was not read in time. The drivers of this crate handle both.
///
/// If PostgreSQL, MySQL, MariaDB or Redis refuses a dial because it has as many connections as it
/// allows, that is [recognized](Dialer::is_at_limit) by the text of the error.
///
/// [`from_r2d2`](super::from_r2d2) is a guide for programs that use r2d2 now.
///
/// [`check_after`]: crate::Settings::check_after
///
/// # Examples
///
/// ```
/// use latebind::{Pool, drivers::R2d2Dialer};
/// use std::io;
/// use std::net::{SocketAddr, TcpStream};
/// use std::time::Duration;
///
/// struct Manager(SocketAddr); // of your own, or of a crate
///
/// impl r2d2::ManageConnection for Manager {
///     type Connection = TcpStream;
///     type Error = io::Error;
///
///     fn connect(&self) -> io::Result<TcpStream> {
///         TcpStream::connect(self.0)
///     }
///
///     fn is_valid(&self, stream: &mut TcpStream) -> io::Result<()> {
///         stream.peer_addr().map(drop)
///     }
///
///     fn has_broken(&self, stream: &mut TcpStream) -> bool {
///         stream.take_error().is_ok_and(|error| error.is_some())
///     }
/// }
///
/// let server = latebind::net::listen_tcp("127.0.0.1:0")?; // stands for yours
/// let pool = Pool::builder(R2d2Dialer::new(Manager(server.local_addr()?)))
///     .max_open(8)
///     .check_after(Duration::ZERO) // as r2d2
///     .build()?;
/// assert!(pool.get()?.nodelay().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct R2d2Dialer<M: ManageConnection> {
    manager: M,
    customizer: Option<Box<dyn CustomizeConnection<M::Connection, M::Error>>>,
    /// The parts of the manager's error that are kept: a reason in words, or a source.
    kept: fn(M::Error) -> (String, Option<BoxError>),
}

impl<M: ManageConnection> R2d2Dialer<M> {
    /// Opens the connections of `manager`.
    ///
    /// # Examples
    ///
    /// See [`R2d2Dialer`].
    #[must_use]
    pub fn new(manager: M) -> Self {
        let in_words = |error| (format!(": {}", OneLine(&error)), None);
        Self { manager, customizer: None, kept: in_words }
    }

    /// Prepares each connection when it has been dialed, and releases it when it is closed.
    ///
    /// The counterpart of `connection_customizer` in r2d2's builder; setting another replaces it.
    /// An error of `on_acquire` fails the dial, and no `on_release` follows. `on_release` is not
    /// called for a connection that was detached. None by default.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example<M>(manager: M)
    /// # where
    /// #     M: r2d2::ManageConnection<Connection = std::net::TcpStream, Error = std::io::Error>,
    /// # {
    /// use latebind::drivers::R2d2Dialer;
    /// use std::io;
    /// use std::net::TcpStream;
    ///
    /// #[derive(Debug)]
    /// struct NoDelay;
    ///
    /// impl r2d2::CustomizeConnection<TcpStream, io::Error> for NoDelay {
    ///     fn on_acquire(&self, stream: &mut TcpStream) -> io::Result<()> {
    ///         stream.set_nodelay(true)
    ///     }
    /// }
    ///
    /// let dialer = R2d2Dialer::new(manager).customizer(Box::new(NoDelay));
    /// # drop(dialer);
    /// # }
    /// ```
    #[must_use]
    pub fn customizer(
        mut self,
        customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    ) -> Self {
        self.customizer = Some(customizer);
        self
    }

    /// Keeps the manager's errors themselves, rather than their text: each is the
    /// [`source`](std::error::Error::source) of an [`R2d2Error`].
    ///
    /// Only for a manager whose errors are `Send` and `Sync`, because callers on other threads get
    /// them. Those of the well-known managers are.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example<M>(manager: M)
    /// # where
    /// #     M: r2d2::ManageConnection<Connection = std::net::TcpStream, Error = std::io::Error>,
    /// # {
    /// use latebind::{Pool, drivers::R2d2Dialer};
    /// use std::error::Error;
    /// use std::io;
    ///
    /// let pool = Pool::new(R2d2Dialer::new(manager).keep_errors());
    /// if let Err(error) = pool.get() {
    ///     let cause = error.dial_error().and_then(std::error::Error::source);
    ///     let cause: Option<&io::Error> = cause.and_then(|cause| cause.downcast_ref());
    /// #   drop(cause.map(io::Error::kind));
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn keep_errors(mut self) -> Self
    where
        M::Error: Send + Sync,
    {
        self.kept = |error| (String::new(), Some(Box::new(error)));
        self
    }

    /// The manager.
    #[must_use]
    pub fn manager(&self) -> &M {
        &self.manager
    }

    fn failed(&self, call: R2d2Call, error: M::Error) -> R2d2Error {
        let (reason, source) = (self.kept)(error);
        R2d2Error { call, reason, source }
    }
}

impl<M: ManageConnection> From<M> for R2d2Dialer<M> {
    fn from(manager: M) -> Self {
        Self::new(manager)
    }
}

/// Omits the manager, because those of several crates show the password with which they connect.
impl<M: ManageConnection> fmt::Debug for R2d2Dialer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("R2d2Dialer")
            .field("has_customizer", &self.customizer.is_some())
            .finish_non_exhaustive()
    }
}

impl<M: ManageConnection> Dialer for R2d2Dialer<M> {
    type Connection = M::Connection;
    type Error = R2d2Error;

    fn dial(&self, _: &DialContext<'_>) -> Result<M::Connection, R2d2Error> {
        let mut connection =
            self.manager.connect().map_err(|error| self.failed(R2d2Call::Connect, error))?;
        if let Some(customizer) = &self.customizer {
            customizer
                .on_acquire(&mut connection)
                .map_err(|error| self.failed(R2d2Call::OnAcquire, error))?;
        }
        Ok(connection)
    }

    fn is_at_limit(&self, error: &R2d2Error) -> bool {
        let told = OneLine(error).to_string().to_lowercase();
        AT_LIMIT.iter().any(|words| told.contains(words))
    }

    /// Always `false`: only `has_broken` could tell, and it may ask the server.
    fn is_broken(&self, _: &mut M::Connection) -> bool {
        false
    }

    fn check(&self, connection: &mut M::Connection, _: Instant) -> Result<(), R2d2Error> {
        self.manager.is_valid(connection).map_err(|error| self.failed(R2d2Call::IsValid, error))
    }

    fn reset(&self, connection: &mut M::Connection) -> Result<(), R2d2Error> {
        match self.manager.has_broken(connection) {
            true => {
                let (call, reason) = (R2d2Call::HasBroken, String::new());
                Err(R2d2Error { call, reason, source: None })
            }
            false => Ok(()),
        }
    }

    /// `has_broken` may ask the server, and a thread that runs tasks must not wait for that.
    fn must_not_wait(&self) -> bool {
        must_not_wait()
    }

    fn close(&self, connection: M::Connection) {
        match &self.customizer {
            Some(customizer) => customizer.on_release(connection),
            None => drop(connection),
        }
    }

    /// `close` may block too: many clients say goodbye when they are dropped, and wait.
    fn blocking(&self) -> Blocking {
        Blocking::default().close(true)
    }
}

/// Texts of servers that have as many connections as they allow.
const AT_LIMIT: [&str; 7] = [
    "too many clients",            // PostgreSQL, PgBouncer
    "too many connections",        // PostgreSQL for a role or a database, MySQL
    "remaining connection slots",  // PostgreSQL, of those for superusers
    "no more connections allowed", // PgBouncer
    "client connections exceeded", // PgBouncer for a role or a database
    "max_user_connections",        // MySQL
    "max number of clients",       // Redis
];

/// The failure of a call to a manager: which call, and the manager's reason.
///
/// The manager's own error need not be [`Send`] or [`Sync`], and so could not be given to callers
/// on other threads. So its text is kept, with those of its sources, in one line. After
/// [`keep_errors`](R2d2Dialer::keep_errors) the error itself is the [`source`](std::error::Error::source).
///
/// # Examples
///
/// ```
/// use latebind::{Pool, drivers::{R2d2Call, R2d2Dialer}};
/// # use std::{io, net::TcpStream};
/// # struct Manager;
/// # impl r2d2::ManageConnection for Manager {
/// #     type Connection = TcpStream;
/// #     type Error = io::Error;
/// #     fn connect(&self) -> io::Result<TcpStream> { Err(io::Error::other("nobody there")) }
/// #     fn is_valid(&self, _: &mut TcpStream) -> io::Result<()> { Ok(()) }
/// #     fn has_broken(&self, _: &mut TcpStream) -> bool { false }
/// # }
///
/// let pool = Pool::new(R2d2Dialer::new(Manager));
/// let error = pool.get().unwrap_err();
/// let cause = error.dial_error().expect("a dial was needed");
/// assert_eq!(cause.call(), R2d2Call::Connect);
/// assert_eq!(cause.to_string(), "connect failed: nobody there");
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{}{reason}", .call.in_words())]
pub struct R2d2Error {
    call: R2d2Call,
    /// In words, after a colon; empty if there is none, or if it is the source.
    reason: String,
    source: Option<BoxError>,
}

impl R2d2Error {
    /// The call that has failed.
    ///
    /// # Examples
    ///
    /// See [`R2d2Error`].
    #[must_use]
    pub fn call(&self) -> R2d2Call {
        self.call
    }
}

/// The call to a manager that failed with an [`R2d2Error`].
///
/// # Examples
///
/// See [`R2d2Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum R2d2Call {
    /// `connect` of the manager.
    Connect,
    /// `on_acquire` of the [customizer](R2d2Dialer::customizer).
    OnAcquire,
    /// `is_valid` of the manager.
    IsValid,
    /// `has_broken` of the manager, which gives no reason.
    HasBroken,
}

impl R2d2Call {
    fn in_words(self) -> &'static str {
        match self {
            Self::Connect => "connect failed",
            Self::OnAcquire => "on_acquire failed",
            Self::IsValid => "is_valid failed",
            Self::HasBroken => "has_broken says that the connection is broken",
        }
    }
}
