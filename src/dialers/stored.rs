//! `Stored`: a connection with something beside it; `WithStorage` opens such.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};

/// A connection, and a value that is kept beside it from its dial to its close.
///
/// It dereferences to the connection.
///
/// # Examples
///
/// See [`WithStorage`].
#[derive(Debug)]
pub struct Stored<C, T> {
    connection: C,
    stored: T,
}

impl<C, T> Stored<C, T> {
    pub(super) fn new(connection: C, stored: T) -> Self {
        Self { connection, stored }
    }

    /// The value that is stored beside the connection.
    #[must_use]
    pub fn stored(&self) -> &T {
        &self.stored
    }

    /// The value that is stored beside the connection, to be changed.
    #[must_use]
    pub fn stored_mut(&mut self) -> &mut T {
        &mut self.stored
    }

    /// The connection and what is stored beside it, both to be changed.
    #[must_use]
    pub fn split(&mut self) -> (&mut C, &mut T) {
        (&mut self.connection, &mut self.stored)
    }

    /// The connection alone, and what was stored beside it: for one that is
    /// [detached](crate::Guard::detach).
    #[must_use]
    pub fn into_parts(self) -> (C, T) {
        (self.connection, self.stored)
    }
}

impl<C, T> Deref for Stored<C, T> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.connection
    }
}

impl<C, T> DerefMut for Stored<C, T> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}

/// Opens the connections of another dialer, with a `T` kept beside each.
///
/// The `T` begins as its default. It stays across loans until the connection is closed. A
/// reset that [leaves the session as its dial did](Dialer::reset_wipes) makes it the default again, as
/// it may describe a state that the session no longer has. It is dropped after the dialer has closed
/// the connection.
///
/// So it is the place for what is true of a connection rather than of a borrower: statements that are
/// prepared there, a buffer, a count. It must hold nothing that the next borrower may not see.
///
/// # Examples
///
/// ```
/// use std::net::TcpStream;
/// use latebind::Pool;
/// use latebind::dialers::WithStorage;
/// use latebind::net::{TcpDialer, listen_tcp};
///
/// #[derive(Default)]
/// struct Uses(u32);
///
/// let listener = listen_tcp("127.0.0.1:0")?;
/// let dialer = TcpDialer::from(listener.local_addr()?);
/// let pool = Pool::new(WithStorage::<_, Uses>::new(dialer));
/// for _ in 0..3 {
///     let mut connection = pool.get()?;
///     connection.stored_mut().0 += 1;
///     connection.set_ttl(64)?; // a method of `TcpStream`
/// }
/// assert_eq!(pool.get()?.stored().0, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WithStorage<D, T> {
    dialer: D,
    stored: PhantomData<fn() -> T>,
}

impl<D, T> WithStorage<D, T> {
    /// Keeps a `T` beside each connection that `dialer` opens.
    ///
    /// # Examples
    ///
    /// See [`WithStorage`].
    #[must_use]
    pub fn new(dialer: D) -> Self {
        Self { dialer, stored: PhantomData }
    }
}

impl<D: Clone, T> Clone for WithStorage<D, T> {
    fn clone(&self) -> Self {
        Self::new(self.dialer.clone())
    }
}

impl<D: fmt::Debug, T> fmt::Debug for WithStorage<D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithStorage").field("dialer", &self.dialer).finish_non_exhaustive()
    }
}

impl<D: Dialer, T: Default + Send + 'static> Dialer for WithStorage<D, T> {
    type Connection = Stored<D::Connection, T>;
    type Error = D::Error;

    fn dial(&self, context: &DialContext<'_>) -> Result<Self::Connection, D::Error> {
        let stored = T::default(); // Before there is a connection, which a panic here would lose.
        self.dialer.dial(context).map(|connection| Stored::new(connection, stored))
    }

    fn is_permanent(&self, error: &D::Error) -> bool {
        self.dialer.is_permanent(error)
    }

    fn is_at_limit(&self, error: &D::Error) -> bool {
        self.dialer.is_at_limit(error)
    }

    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        self.dialer.is_broken(connection)
    }

    fn check(&self, connection: &mut Self::Connection, deadline: Instant) -> Result<(), D::Error> {
        self.dialer.check(connection, deadline)
    }

    fn needs_reset(&self, connection: &mut Self::Connection) -> bool {
        self.dialer.needs_reset(connection)
    }

    fn reset(&self, connection: &mut Self::Connection) -> Result<(), D::Error> {
        self.dialer.reset(connection)?;
        if self.dialer.reset_wipes() {
            connection.stored = T::default();
        }
        Ok(())
    }

    fn reset_wipes(&self) -> bool {
        self.dialer.reset_wipes()
    }

    fn must_not_wait(&self) -> bool {
        self.dialer.must_not_wait()
    }

    fn close(&self, connection: Self::Connection) {
        let (connection, _stored) = connection.into_parts();
        self.dialer.close(connection);
    }

    fn abort_handle(&self, connection: &Self::Connection) -> Option<AbortHandle> {
        self.dialer.abort_handle(connection)
    }

    fn blocking(&self) -> Blocking {
        self.dialer.blocking()
    }
}
