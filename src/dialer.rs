//! `Dialer`: the interface of a driver to the pool.

use std::error::Error;
use std::time::Instant;

use crate::abort::AbortHandle;
use crate::dial_context::DialContext;

/// Opens connections, and knows when one can no longer be used.
///
/// The pool decides *when*; a dialer only knows *how*. Implement it to put any
/// kind of connection under a [`Pool`](crate::Pool).
///
/// No method is ever called under a lock of the pool, so each may block and may
/// use the pool. A panic in any of them costs the connection concerned and
/// nothing else: its slot is freed and the next caller is served.
///
/// # Examples
///
/// ```
/// use std::net::{SocketAddr, TcpStream};
/// use latebind::DialContext;
///
/// struct Backend(SocketAddr);
///
/// impl latebind::Dialer for Backend {
///     type Connection = TcpStream;
///     type Error = std::io::Error;
///
///     fn dial(&self, context: &DialContext) -> std::io::Result<TcpStream> {
///         TcpStream::connect_timeout(&self.0, context.remaining())
///     }
///
///     fn is_broken(&self, stream: &mut TcpStream) -> bool {
///         // Sees an error that the socket has recorded. Only a read finds the end of the stream:
///         // `latebind::net::TcpDialer` tests that too.
///         stream.take_error().map_or(true, |error| error.is_some())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell a pool how to open a connection",
    label = "not a `Dialer`",
    note = "`latebind::net` has dialers for TCP, Unix sockets and TLS, and `latebind::drivers` for \
            PostgreSQL, MySQL, Redis and SQLite, each behind the feature of its name",
    note = "an r2d2 manager becomes one by `latebind::drivers::R2d2Dialer::new`, feature `r2d2`",
    note = "for everything else implement `Dialer`: `dial` and `is_broken` are enough"
)]
pub trait Dialer: Send + Sync + 'static {
    /// The type of connection that a dial opens.
    type Connection: Send + 'static;

    /// Why a dial, a check or a reset fails.
    type Error: Error + Send + Sync + 'static;

    /// Opens a connection, or gives up at the deadline of `context`.
    ///
    /// Runs on a thread of the pool's own, so that the caller whose need began it can be served by
    /// another connection meanwhile. The deadline is that of the dial (`dial_timeout` after its
    /// start), not that of any caller: the dial goes on when its caller has left, and the next
    /// caller uses its connection. Once nobody can use it any more, because the pool is closed or
    /// flushed, the [context](DialContext) says so, and has the pool end the dial if told how.
    ///
    /// A dial that overruns its deadline delays only callers that have nothing else to wait for;
    /// its slot stays taken until it returns.
    ///
    /// # Errors
    ///
    /// The error reaches the caller whose need began this dial, unless a
    /// connection serves that caller first. If the dial was cancelled, only the observer is told of
    /// it: it says nothing of the server.
    fn dial(&self, context: &DialContext<'_>) -> Result<Self::Connection, Self::Error>;

    /// Whether a dial that failed with `error` would fail again until somebody changes something:
    /// for example a wrong password, or a database that does not exist.
    ///
    /// Called once for each failed dial, on the thread that dialed, and must not block. After such
    /// an error the pool's own dials for [`min_idle`](crate::Settings::min_idle) go on with pauses
    /// that grow to ten minutes rather than ten seconds, because servers lock out clients that try
    /// a wrong password too often. Callers get the error as any other. The default says no.
    fn is_permanent(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// Whether a dial that failed with `error` was refused because the server has as many
    /// connections as it allows.
    ///
    /// Called once for each failed dial, on the thread that dialed, and must not block. A server
    /// stops counting a connection some milliseconds after the client has closed it. So a dial that
    /// is refused within a second of a close by the pool, or of a dial that failed otherwise and
    /// may have connected first, does not count as failed yet: it is repeated, after pauses that
    /// double from 1 ms to 64 ms, until that second is over or the deadline of the dial has come.
    /// The default says no: then the first refusal is a failure.
    fn is_at_limit(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// Whether a connection is known to be unusable, judged without asking the peer.
    ///
    /// Called on the caller's thread at each return and before each reuse, and before each check,
    /// so it must be quick and must not block. After one broken connection, all that were idle then
    /// are checked before they are lent.
    ///
    /// There is no default, because a pool whose dialer never finds a connection broken lends a
    /// dead one again and again. A dialer that cannot tell returns `false`; then its borrowers must
    /// [doubt](crate::Guard::doubt) a connection that has failed them, or work inside
    /// [`Pool::with`](crate::Pool::with).
    fn is_broken(&self, connection: &mut Self::Connection) -> bool;

    /// Tests whether a connection is alive; may ask the peer.
    ///
    /// Called before reuse of a connection that has been idle for longer than `check_after`, with
    /// at most `check_timeout` until `deadline`. Runs on a thread of the pool's own if
    /// [`blocking`](Self::blocking) says that it may block, which is the default: a check that
    /// hangs delays no caller past its deadline. The caller that is lent the connection makes a
    /// check that does not block, and [`is_broken`](Self::is_broken) is called after it. The
    /// default finds every connection alive.
    ///
    /// # Errors
    ///
    /// Any error retires the connection. No caller sees it: the next idle
    /// connection or a dial serves instead.
    fn check(
        &self,
        connection: &mut Self::Connection,
        deadline: Instant,
    ) -> Result<(), Self::Error> {
        let _ = (connection, deadline);
        Ok(())
    }

    /// Whether a returned connection must be [reset](Self::reset) before it is lent again.
    ///
    /// Called on the returning thread, so it must be quick and must not block. A driver that knows
    /// that a borrower has left nothing behind (no transaction is open, no setting was changed)
    /// returns `false`, which saves the cost of a reset. Not called if the guard was never
    /// dereferenced: then nothing is reset. The default treats every connection as changed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use latebind::DialContext;
    /// struct Session {
    ///     in_transaction: bool,
    /// }
    ///
    /// struct Backend;
    ///
    /// impl latebind::Dialer for Backend {
    ///     type Connection = Session;
    /// #   type Error = Infallible;
    /// #
    /// #   fn dial(&self, _: &DialContext) -> Result<Session, Infallible> {
    /// #       Ok(Session { in_transaction: false })
    /// #   }
    ///
    ///     fn is_broken(&self, _: &mut Session) -> bool {
    ///         false // It has no peer that could go away.
    ///     }
    ///
    ///     fn needs_reset(&self, session: &mut Session) -> bool {
    ///         session.in_transaction
    ///     }
    ///
    ///     fn reset(&self, session: &mut Session) -> Result<(), Self::Error> {
    ///         session.in_transaction = false; // and tell the server to roll back
    ///         Ok(())
    ///     }
    /// }
    /// # let pool = latebind::Pool::new(Backend);
    /// # pool.get().unwrap().in_transaction = true;
    /// # assert!(!pool.get().unwrap().in_transaction);
    /// ```
    fn needs_reset(&self, connection: &mut Self::Connection) -> bool {
        let _ = connection;
        true
    }

    /// Makes a returned connection ready for its next borrower.
    ///
    /// Called at each return of a connection that was used (its guard was dereferenced), unless
    /// [`needs_reset`](Self::needs_reset) says that it needs none. Runs on the returning thread,
    /// unless [`blocking`](Self::blocking) says that a reset may block, or
    /// [`must_not_wait`](Self::must_not_wait) that this thread must not wait. The default does
    /// nothing.
    ///
    /// # Errors
    ///
    /// Any error retires the connection, and all that are idle then are checked before they are
    /// lent. No caller sees it.
    fn reset(&self, connection: &mut Self::Connection) -> Result<(), Self::Error> {
        let _ = connection;
        Ok(())
    }

    /// Whether a [`reset`](Self::reset) leaves a session as its dial did, so that what was set up on it
    /// since is gone.
    ///
    /// The pool does not ask. Dialers over this one do, which then set the session up again
    /// ([`Hooked`](crate::dialers::Hooked)) or forget what they have kept of it
    /// ([`WithStorage`](crate::dialers::WithStorage)). The default says no.
    fn reset_wipes(&self) -> bool {
        false
    }

    /// Whether the calling thread must not wait for the peer, for example because it runs the tasks
    /// of an async program.
    ///
    /// Called on the returning thread before each [`reset`](Self::reset) that would run there
    /// according to [`blocking`](Self::blocking); must be quick and must not block. If it returns
    /// `true`, a thread of the pool's own runs the reset. The default says no.
    fn must_not_wait(&self) -> bool {
        false
    }

    /// Closes a connection. Its slot is taken until this returns.
    ///
    /// Called exactly once for every connection that `dial` opened and no borrower detached, on the
    /// thread that retires it unless [`blocking`](Self::blocking) says that it may block. The
    /// default drops the connection.
    fn close(&self, connection: Self::Connection) {
        drop(connection);
    }

    /// A handle with which another thread can abort this connection, which has just been dialed.
    ///
    /// Called once for each connection, right after its dial and on the same thread.
    /// [`Pool::abort`](crate::Pool::abort) uses it to free a borrower that waits for a silent peer.
    /// The pool drops the handle before the connection is closed or detached, so it may hold a
    /// duplicate of the connection's descriptor; only an abort under way at that moment may keep it
    /// a little longer.
    ///
    /// The default gives none. Nor does a panic, which costs no connection here: the connection is
    /// lent as any other, and cannot be aborted.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{Shutdown, SocketAddr, TcpStream};
    /// use latebind::{AbortHandle, DialContext, Dialer};
    ///
    /// struct Backend(SocketAddr);
    ///
    /// impl Dialer for Backend {
    ///     type Connection = TcpStream;
    ///     type Error = std::io::Error;
    ///
    ///     fn dial(&self, context: &DialContext) -> std::io::Result<TcpStream> {
    ///         TcpStream::connect_timeout(&self.0, context.remaining())
    ///     }
    ///
    ///     fn is_broken(&self, stream: &mut TcpStream) -> bool {
    ///         stream.take_error().map_or(true, |error| error.is_some())
    ///     }
    ///
    ///     fn abort_handle(&self, connection: &TcpStream) -> Option<AbortHandle> {
    ///         let twin = connection.try_clone().ok()?;
    ///         Some(AbortHandle::new(move || drop(twin.shutdown(Shutdown::Both))))
    ///     }
    /// }
    /// ```
    fn abort_handle(&self, connection: &Self::Connection) -> Option<AbortHandle> {
        let _ = connection;
        None
    }

    /// Says which calls may wait for the peer, and so must run on a thread of the pool's own.
    ///
    /// Called once, when the pool is made. The default says that [`check`](Self::check) may block
    /// and that [`reset`](Self::reset) and [`close`](Self::close) do not.
    fn blocking(&self) -> Blocking {
        Blocking::default()
    }
}

/// Says which calls of a [`Dialer`] may wait for the peer.
///
/// A call that may block runs on a thread of the pool's own, so that a silent peer delays neither a
/// returning nor a waiting caller. A call that does not block saves that change of threads (some
/// tens of microseconds).
///
/// # Examples
///
/// ```
/// let blocking = latebind::Blocking::default().reset(true);
/// assert!(blocking.check && blocking.reset && !blocking.close);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blocking {
    /// Whether [`Dialer::check`] may block. Defaults to `true`.
    pub check: bool,
    /// Whether [`Dialer::reset`] may block. Defaults to `false`.
    pub reset: bool,
    /// Whether [`Dialer::close`] may block. Defaults to `false`.
    pub close: bool,
}

impl Default for Blocking {
    fn default() -> Self {
        Self { check: true, reset: false, close: false }
    }
}

impl Blocking {
    /// Says whether [`Dialer::check`] may block.
    #[must_use]
    pub fn check(mut self, may_block: bool) -> Self {
        self.check = may_block;
        self
    }

    /// Says whether [`Dialer::reset`] may block.
    #[must_use]
    pub fn reset(mut self, may_block: bool) -> Self {
        self.reset = may_block;
        self
    }

    /// Says whether [`Dialer::close`] may block.
    #[must_use]
    pub fn close(mut self, may_block: bool) -> Self {
        self.close = may_block;
        self
    }
}
