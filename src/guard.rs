//! `Guard`: a borrowed connection.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::dialer::Dialer;
use crate::ledger::Entry;
use crate::ledger::close_reason::CloseReason;
use crate::ledger::roster::ConnectionId;
use crate::pool::Pool;
use crate::report::error::GetError;
use crate::runtime::sync::now;
use crate::shell::Shell;

/// A borrowed connection, for as long as the borrow of its pool lasts.
///
/// See [`Guard`] for what can be done with it.
pub type PooledConnection<'p, D> = Guard<D, &'p Pool<D>>;

/// A borrowed connection that keeps its pool alive, and so borrows nothing.
///
/// See [`Guard`] for what can be done with it.
pub type OwnedConnection<D> = Guard<D, Pool<D>>;

/// A borrowed connection. Dropping it gives the connection back.
///
/// It dereferences to the connection. Its own operations are associated functions, so that they
/// hide no method of the connection: `PooledConnection::discard(guard)`.
///
/// If it was never dereferenced, the connection is unchanged and is not [reset](Dialer::reset).
///
/// A guard dropped by a panic does not give the connection back. The connection may be halfway
/// through something, so it is retired (see [`retire_on_panic`](crate::Builder::retire_on_panic)).
#[must_use = "a connection not used is given straight back"]
pub struct Guard<D: Dialer, P: Borrow<Pool<D>>> {
    /// `None` only while the guard is taken apart.
    entry: Option<Entry<D::Connection>>,
    pool: P,
    /// Whether a panic was under way at the checkout: then a panic at the drop does not mean that
    /// this loan was interrupted.
    was_panicking: bool,
    /// Whether the guard was ever dereferenced.
    was_touched: AtomicBool,
}

impl<D: Dialer, P: Borrow<Pool<D>>> Guard<D, P> {
    #[inline]
    pub(crate) fn new(pool: P, entry: Entry<D::Connection>) -> Self {
        let (was_panicking, was_touched) = (thread::panicking(), AtomicBool::new(false));
        Self { entry: Some(entry), pool, was_panicking, was_touched }
    }

    /// Takes the connection out of the pool for good and closes it, because it cannot be used any
    /// more.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::PooledConnection;
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get()?;
    /// PooledConnection::discard(connection);
    /// assert_eq!(pool.stats().open(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard(mut guard: Self) {
        let entry = guard.take();
        guard.shell().discard(entry, CloseReason::Discarded);
    }

    /// Takes the connection out of the pool for good, because it has failed in a way that other
    /// connections may share: the server has gone away, or is no longer the right one (for example
    /// a primary that has become read-only). It is closed, and each connection that has been idle
    /// since before this call is [checked](Dialer::check) before it is lent, however recently it
    /// was used; [`Pool::try_get`], which does no I/O, lends it unchecked.
    ///
    /// The pool finds by itself what [`Dialer::is_broken`] can tell. `doubt` is for what only the
    /// borrower has seen.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::PooledConnection;
    /// use std::io::Write;
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let mut connection = pool.get()?;
    /// if connection.write_all(b"ping").is_err() {
    ///     PooledConnection::doubt(connection);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn doubt(mut guard: Self) {
        let entry = guard.take();
        guard.shell().discard(entry, CloseReason::Doubted);
    }

    /// Does `work` with a connection that `borrow` lends, and once more with another one if the first was a
    /// reused one and `was_unsent` says of the error that the server cannot have acted.
    pub(crate) fn retrying<T, E: From<GetError<D::Error>>>(
        borrow: impl Fn() -> Result<Self, GetError<D::Error>>,
        mut work: impl FnMut(&mut D::Connection) -> Result<T, E>,
        was_unsent: impl FnOnce(&E) -> bool,
    ) -> Result<T, E> {
        let mut guard = borrow()?;
        if !Self::is_reused(&guard) {
            return Self::with(guard, work);
        }
        match work(&mut guard) {
            Ok(value) => Ok(value),
            Err(error) if was_unsent(&error) => {
                Self::doubt(guard);
                Self::with(borrow()?, work)
            }
            Err(error) => Self::with(guard, |_| Err(error)),
        }
    }

    /// Does `work` with the connection, and closes the connection if that fails.
    pub(crate) fn with<T, E>(
        mut guard: Self,
        work: impl FnOnce(&mut D::Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let outcome = work(&mut guard);
        if outcome.is_err() {
            let entry = guard.take();
            guard.shell().discard_failed(entry);
        }
        outcome
    }

    /// Takes the connection out of the pool, for the caller to keep. It no longer counts as open.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::PooledConnection;
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let mine = PooledConnection::detach(pool.get()?);
    /// assert_eq!(pool.stats().open(), 0);
    /// # drop(mine);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the connection is dropped otherwise: `discard` says that better"]
    pub fn detach(mut guard: Self) -> D::Connection {
        let entry = guard.take();
        guard.shell().detach(entry)
    }

    /// How long ago the connection was dialed.
    pub fn age(guard: &Self) -> Duration {
        guard.entry().age(now())
    }

    /// The id of the connection, by which [events](crate::Event) and [holders](crate::Holder) name it.
    pub fn id(guard: &Self) -> ConnectionId {
        guard.entry().record().id()
    }

    /// How often the connection has been lent, this time included.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::PooledConnection;
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// drop(pool.get()?);
    /// assert_eq!(PooledConnection::uses(&pool.get()?), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn uses(guard: &Self) -> u64 {
        guard.entry().record().loans()
    }

    /// Whether the connection has been lent before.
    ///
    /// If a request fails on a reused connection before anything was received, the peer may have
    /// just closed that connection, and the request can be tried again on another. On a fresh
    /// connection it cannot.
    pub fn is_reused(guard: &Self) -> bool {
        guard.entry().is_reused()
    }

    /// Whether the panic under way began during this loan, so that the connection may be halfway
    /// through something.
    #[cold]
    fn is_suspect(&self) -> bool {
        !self.was_panicking && self.shell().knobs().retire_on_panic()
    }

    fn shell(&self) -> &Arc<Shell<D>> {
        self.pool.borrow().shell()
    }

    fn take(&mut self) -> Entry<D::Connection> {
        self.entry.take().expect("a guard holds its connection until it is taken apart")
    }

    #[inline]
    fn entry(&self) -> &Entry<D::Connection> {
        self.entry.as_ref().expect("a guard holds its connection until it is taken apart")
    }
}

impl<D: Dialer, P: Borrow<Pool<D>>> Deref for Guard<D, P> {
    type Target = D::Connection;

    #[inline]
    fn deref(&self) -> &D::Connection {
        self.was_touched.store(true, Ordering::Relaxed);
        &self.entry().connection
    }
}

impl<D: Dialer, P: Borrow<Pool<D>>> DerefMut for Guard<D, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut D::Connection {
        *self.was_touched.get_mut() = true;
        let entry = self.entry.as_mut();
        &mut entry.expect("a guard holds its connection until it is taken apart").connection
    }
}

impl<D: Dialer, P: Borrow<Pool<D>>> Drop for Guard<D, P> {
    #[inline]
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        if thread::panicking() && self.is_suspect() {
            self.shell().discard(entry, CloseReason::Panicked);
        } else {
            let was_touched = *self.was_touched.get_mut();
            self.shell().give_back(entry, was_touched);
        }
    }
}

/// Omits the connection, because a client may show the password with which it has logged in.
impl<D: Dialer, P: Borrow<Pool<D>>> fmt::Debug for Guard<D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}
