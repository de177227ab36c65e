//! `Hooked`: code of a program's own at each dial, loan, return and close of another dialer's
//! connections.

use std::error::Error;
use std::fmt;
use std::panic;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use super::{BoxError, prepared};
use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};

/// Runs hooks at the dials, loans, returns and closes of another dialer's connections.
///
/// | hook | runs | if it fails |
/// | --- | --- | --- |
/// | [`on_connect`](Self::on_connect) | after each dial; after each reset that [wipes](Dialer::reset_wipes) | the dial fails with its error; after a reset, the connection is retired |
/// | [`before_lend`](Self::before_lend) | after `on_connect` at a dial; at each look of the pool at a connection: before each later loan, at each return, before each check | the dial fails; later, the connection is retired and the caller gets another |
/// | [`on_return`](Self::on_return) | after the reset of a connection that was used | the connection is retired |
/// | [`on_close`](Self::on_close) | before the connection is closed | it is closed all the same |
///
/// Hooks of a kind run in the order in which they were added; the first that fails ends the row. A
/// panic counts as a failure, and the connection concerned is closed. No hook runs under a lock of the
/// pool, so each may use it.
///
/// # Examples
///
/// Each session of PostgreSQL begins with settings of the program's own, and has them again after a
/// reset:
///
/// ```no_run
/// # #[cfg(feature = "postgres")]
/// # {
/// use latebind::Pool;
/// use latebind::dialers::Hooked;
/// use latebind::drivers::{OnReturn, PostgresDialer};
///
/// let dialer = PostgresDialer::new("host=db.example user=app".parse()?, postgres::NoTls)
///     .on_return(OnReturn::ResetSession);
/// let dialer = Hooked::new(dialer)
///     .on_connect(|client| Ok(client.batch_execute("SET search_path = shop")?))
///     .on_close(|_| println!("one less"));
/// let pool = Pool::new(dialer);
/// let row = pool.get()?.query_one("SELECT count(*) FROM orders", &[])?; // A guard is the client.
/// # drop(row);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Hooked<D: Dialer> {
    dialer: D,
    on_connect: Vec<Arc<FallibleHook<D>>>,
    before_lend: Vec<Arc<FallibleHook<D>>>,
    on_return: Vec<Arc<FallibleHook<D>>>,
    on_close: Vec<Arc<CloseHook<D>>>,
    abort_by: Option<Arc<AbortHook<D>>>,
    reset_in_background: bool,
}

type AbortHook<D> = dyn Fn(&<D as Dialer>::Connection) -> AbortHandle + Send + Sync;

type CloseHook<D> = dyn Fn(&mut <D as Dialer>::Connection) + Send + Sync;
type FallibleHook<D> = dyn Fn(&mut <D as Dialer>::Connection) -> Result<(), BoxError> + Send + Sync;

impl<D: Dialer> Hooked<D> {
    /// Adds hooks to `dialer`: none yet.
    ///
    /// # Examples
    ///
    /// See [`Hooked`].
    #[must_use]
    pub fn new(dialer: D) -> Self {
        Self {
            dialer,
            on_connect: Vec::new(),
            before_lend: Vec::new(),
            on_return: Vec::new(),
            on_close: Vec::new(),
            abort_by: None,
            reset_in_background: false,
        }
    }

    /// Sets a session up: runs after each dial, as a part of it and on its thread, and again after
    /// each reset that leaves the session as its dial did ([`Dialer::reset_wipes`]).
    ///
    /// If it fails, the dial fails with [`HookError::Hook`] and the connection is closed; after a
    /// reset, the connection is retired and no caller sees the error. It may ask the peer. Neither
    /// `on_connect` nor the dialer's own dial is interrupted at `dial_timeout`.
    #[must_use]
    pub fn on_connect(
        mut self,
        hook: impl Fn(&mut D::Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.on_connect.push(Arc::new(hook));
        self
    }

    /// Has the last word on a loan: an error retires the connection, and the caller gets another.
    ///
    /// Runs after [`on_connect`](Self::on_connect) at each dial, where an error fails the dial, and
    /// then wherever the pool asks [`Dialer::is_broken`]: before each loan of a connection that has
    /// been lent or has rested, on the thread of the caller; but also at each return and before each
    /// check. So it runs at least once between two loans, and sees a connection that comes back before
    /// the reset does. Like `is_broken` it must be quick and must not block: it must not ask the peer.
    ///
    /// A connection retired so counts as broken, and all that rest then are checked before they are
    /// lent. Its error is dropped.
    ///
    /// # Examples
    ///
    /// No connection is lent while the program is out of favour with its server:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use latebind::dialers::Hooked;
    /// use latebind::net::TcpDialer;
    ///
    /// let moved = Arc::new(AtomicBool::new(false));
    /// let has_moved = Arc::clone(&moved);
    /// let dialer = Hooked::new(TcpDialer::new("cache.example", 6379)).before_lend(move |stream| {
    ///     if has_moved.load(Ordering::Relaxed) && stream.peer_addr()?.ip().is_loopback() {
    ///         return Err("the service is no longer on this machine".into());
    ///     }
    ///     Ok(())
    /// });
    /// # drop(dialer);
    /// ```
    #[must_use]
    pub fn before_lend(
        mut self,
        hook: impl Fn(&mut D::Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.before_lend.push(Arc::new(hook));
        self
    }

    /// Runs at each return of a connection that was used, after the dialer's own reset, and so on a
    /// session as the next borrower would have it.
    ///
    /// If it fails, the connection is retired, all that rest then are checked before they are lent, and
    /// the error goes to an [observer](crate::Settings::observer) and to no caller. It does not run for
    /// a guard that was never dereferenced, nor for a connection that is broken or whose reset failed.
    /// It runs on the thread that returns the connection unless the dialer has its resets done
    /// elsewhere or [`reset_in_background`](Self::reset_in_background) says so.
    #[must_use]
    pub fn on_return(
        mut self,
        hook: impl Fn(&mut D::Connection) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.on_return.push(Arc::new(hook));
        self
    }

    /// Runs before each close, for whatever reason, of a connection that was set up and that nobody
    /// [detached](crate::Guard::detach); on the thread that closes it.
    ///
    /// The connection may be broken. It cannot fail: whatever it does, a panic included, the
    /// connection is closed after it. Its slot is taken until then.
    #[must_use]
    pub fn on_close(mut self, hook: impl Fn(&mut D::Connection) + Send + Sync + 'static) -> Self {
        self.on_close.push(Arc::new(hook));
        self
    }

    /// How [`Pool::abort`](crate::Pool::abort) ends the I/O of a connection in use, in place of what
    /// the dialer gives for that.
    ///
    /// For a client that lets nobody at its socket, but whose server ends a connection on request. It
    /// is called once for each connection, after [`on_connect`](Self::on_connect), which can have
    /// learned by what name the server knows it ([`WithStorage`](super::WithStorage) has room for the
    /// name). The handle [must not block](AbortHandle::new): a request to the server is for a thread
    /// that it starts. Setting another replaces it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # #[cfg(feature = "redis")]
    /// # {
    /// use latebind::{AbortHandle, Pool};
    /// use latebind::dialers::{Hooked, WithStorage};
    /// use latebind::drivers::RedisDialer;
    ///
    /// let client = redis::Client::open("redis://queue.example")?;
    /// let dialer = WithStorage::<_, u64>::new(RedisDialer::new(client.clone()));
    /// let dialer = Hooked::new(dialer)
    ///     .on_connect(|connection| {
    ///         *connection.stored_mut() = redis::cmd("CLIENT").arg("ID").query(&mut **connection)?;
    ///         Ok(())
    ///     })
    ///     .abort_by(move |connection| {
    ///         let (client, id) = (client.clone(), *connection.stored());
    ///         AbortHandle::new(move || {
    ///             let client = client.clone();
    ///             std::thread::spawn(move || {
    ///                 let mut connection = client.get_connection()?;
    ///                 redis::cmd("CLIENT").arg(("KILL", "ID", id)).exec(&mut connection)
    ///             });
    ///         })
    ///     });
    /// let pool = Pool::new(dialer);
    /// # drop(pool);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn abort_by(
        mut self,
        handle: impl Fn(&D::Connection) -> AbortHandle + Send + Sync + 'static,
    ) -> Self {
        self.abort_by = Some(Arc::new(handle));
        self
    }

    /// Whether the reset and [`on_return`](Self::on_return) are done by a thread of the pool's own, so
    /// that no return waits for them.
    ///
    /// Defaults to `false`: what the dialer says of its resets holds. Set it where `on_return` asks the
    /// peer and guards may be dropped on threads that run the tasks of an async program.
    #[must_use]
    pub fn reset_in_background(mut self, reset_in_background: bool) -> Self {
        self.reset_in_background = reset_in_background;
        self
    }
}

/// Runs hooks until one fails.
fn run<D: Dialer>(
    hook: Hook,
    hooks: &[Arc<FallibleHook<D>>],
    connection: &mut D::Connection,
) -> Result<(), HookError<D::Error>> {
    hooks
        .iter()
        .try_for_each(|run| run(connection))
        .map_err(|source| HookError::Hook { hook, source })
}

impl<D: Dialer + fmt::Debug> fmt::Debug for Hooked<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked")
            .field("dialer", &self.dialer)
            .field("reset_in_background", &self.reset_in_background)
            .finish_non_exhaustive()
    }
}

impl<D: Dialer> Dialer for Hooked<D> {
    type Connection = D::Connection;
    type Error = HookError<D::Error>;

    fn dial(&self, context: &DialContext<'_>) -> Result<D::Connection, Self::Error> {
        let connection = self.dialer.dial(context).map_err(HookError::Dialer)?;
        prepared(&self.dialer, connection, |connection| {
            run::<D>(Hook::OnConnect, &self.on_connect, connection)?;
            run::<D>(Hook::BeforeLend, &self.before_lend, connection)
        })
    }

    /// As the dialer says, also of its error that a hook has failed with.
    fn is_permanent(&self, error: &Self::Error) -> bool {
        error.of_dialer().is_some_and(|error| self.dialer.is_permanent(error))
    }

    /// As the dialer says, also of its error that a hook has failed with.
    fn is_at_limit(&self, error: &Self::Error) -> bool {
        error.of_dialer().is_some_and(|error| self.dialer.is_at_limit(error))
    }

    fn is_broken(&self, connection: &mut D::Connection) -> bool {
        self.dialer.is_broken(connection)
            || self.before_lend.iter().any(|hook| hook(connection).is_err())
    }

    fn check(&self, connection: &mut D::Connection, deadline: Instant) -> Result<(), Self::Error> {
        self.dialer.check(connection, deadline).map_err(HookError::Dialer)
    }

    fn needs_reset(&self, connection: &mut D::Connection) -> bool {
        !self.on_return.is_empty() || self.dialer.needs_reset(connection)
    }

    fn reset(&self, connection: &mut D::Connection) -> Result<(), Self::Error> {
        // With an `on_return`, nobody has asked the dialer yet whether it needs one.
        if self.on_return.is_empty() || self.dialer.needs_reset(connection) {
            self.dialer.reset(connection).map_err(HookError::Dialer)?;
            if self.dialer.reset_wipes() {
                run::<D>(Hook::OnConnect, &self.on_connect, connection)?;
            }
        }
        run::<D>(Hook::OnReturn, &self.on_return, connection)
    }

    fn reset_wipes(&self) -> bool {
        self.dialer.reset_wipes()
    }

    fn must_not_wait(&self) -> bool {
        self.dialer.must_not_wait()
    }

    fn close(&self, mut connection: D::Connection) {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            self.on_close.iter().for_each(|hook| hook(&mut connection));
        }));
        self.dialer.close(connection);
        if let Err(panic) = outcome {
            panic::resume_unwind(panic);
        }
    }

    fn abort_handle(&self, connection: &D::Connection) -> Option<AbortHandle> {
        match &self.abort_by {
            Some(handle) => Some(handle(connection)),
            None => self.dialer.abort_handle(connection),
        }
    }

    fn blocking(&self) -> Blocking {
        let blocking = self.dialer.blocking();
        blocking.reset(blocking.reset || self.reset_in_background)
    }
}

/// A hook that has failed.
///
/// # Examples
///
/// See [`HookError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hook {
    /// [`Hooked::on_connect`]
    OnConnect,
    /// [`Hooked::before_lend`], at a dial
    BeforeLend,
    /// [`Hooked::on_return`]
    OnReturn,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnConnect => "on_connect",
            Self::BeforeLend => "before_lend",
            Self::OnReturn => "on_return",
        })
    }
}

/// Why a dial, a check or a reset of a [`Hooked`] dialer fails.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::time::Instant;
/// use latebind::{DialContext, Dialer};
/// use latebind::dialers::{Hook, HookError, Hooked, dialer_fn};
///
/// let dialer = Hooked::new(dialer_fn(|_| Ok::<_, io::Error>("a connection")))
///     .on_connect(|_| Err("the server is too old".into()));
/// let error = dialer.dial(&DialContext::until(Instant::now())).unwrap_err();
/// assert!(matches!(error, HookError::Hook { hook: Hook::OnConnect, .. }));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError<E: Error + 'static> {
    /// The dialer's own error.
    #[error(transparent)]
    Dialer(E),
    /// A hook failed.
    #[error("the hook {hook} failed")]
    Hook {
        /// The hook that failed.
        hook: Hook,
        /// The hook's error.
        source: BoxError,
    },
}

impl<E: Error + 'static> HookError<E> {
    /// The dialer's own error, or that which a hook has failed with if it is of the same type.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use latebind::dialers::HookError;
    ///
    /// fn is_refusal(error: &HookError<io::Error>) -> bool {
    ///     error.of_dialer().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    /// }
    /// # assert!(is_refusal(&HookError::Dialer(io::ErrorKind::ConnectionRefused.into())));
    /// ```
    #[must_use]
    pub fn of_dialer(&self) -> Option<&E> {
        match self {
            Self::Dialer(error) => Some(error),
            Self::Hook { source, .. } => source.downcast_ref(),
        }
    }
}
