//! `FnDialer`: a dialer made of closures.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};

/// A dialer whose dial is a closure.
///
/// The closure opens a connection, or gives up at the deadline that it is given; see
/// [`Dialer::dial`]. The types of the connection and of the error are those of its result.
///
/// A dialer made so finds no connection broken until [`broken_if`](FnDialer::broken_if) says when one
/// is. Without that, borrowers have to [doubt](crate::Guard::doubt) what has failed them, or work
/// inside [`Pool::with`](crate::Pool::with), or a dead connection is lent again and again.
///
/// # Examples
///
/// ```
/// use std::net::TcpStream;
/// use latebind::{DialContext, Pool, dialers::dialer_fn};
///
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// let dialer = dialer_fn(move |context: &DialContext| {
///     TcpStream::connect_timeout(&address, context.remaining())
/// })
/// .broken_if(|stream| stream.take_error().map_or(true, |error| error.is_some()));
///
/// let pool = Pool::new(dialer);
/// let stream = pool.get()?;
/// assert_eq!(stream.peer_addr()?, address);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn dialer_fn<C, E>(
    dial: impl Fn(&DialContext<'_>) -> Result<C, E> + Send + Sync + 'static,
) -> FnDialer<C, E> {
    FnDialer {
        dial: Arc::new(dial),
        is_broken: None,
        check: None,
        reset: None,
        close: None,
        blocking: Blocking::default(),
    }
}

/// A dialer made of closures, as [`dialer_fn`] makes it. Clones share the closures.
///
/// Everything else takes a [`Dialer`] of your own.
///
/// # Examples
///
/// ```
/// use std::io::{self, Write};
/// use std::net::TcpStream;
/// use latebind::Pool;
/// use latebind::dialers::{FnDialer, dialer_fn};
///
/// struct Service {
///     pool: Pool<FnDialer<TcpStream, io::Error>>,
/// }
///
/// let dialer = dialer_fn(|_| TcpStream::connect("cache.example:6379"))
///     .broken_if(|stream| stream.take_error().map_or(true, |error| error.is_some()))
///     .check_with(|stream, _deadline| stream.write_all(b"PING\r\n"))
///     .close_with(|mut stream| drop(stream.write_all(b"QUIT\r\n")));
/// let service = Service { pool: Pool::new(dialer) };
/// # drop(service.pool);
/// ```
pub struct FnDialer<C, E> {
    dial: Arc<Dial<C, E>>,
    is_broken: Option<Arc<IsBroken<C>>>,
    check: Option<Arc<Check<C, E>>>,
    reset: Option<Arc<Reset<C, E>>>,
    close: Option<Arc<Close<C>>>,
    blocking: Blocking,
}

type Dial<C, E> = dyn Fn(&DialContext<'_>) -> Result<C, E> + Send + Sync;
type IsBroken<C> = dyn Fn(&mut C) -> bool + Send + Sync;
type Check<C, E> = dyn Fn(&mut C, Instant) -> Result<(), E> + Send + Sync;
type Reset<C, E> = dyn Fn(&mut C) -> Result<(), E> + Send + Sync;
type Close<C> = dyn Fn(C) + Send + Sync;

impl<C, E> FnDialer<C, E> {
    /// Says when a connection is past use; see [`Dialer::is_broken`], as which it must not block.
    ///
    /// Defaults to never.
    #[must_use]
    pub fn broken_if(mut self, is_broken: impl Fn(&mut C) -> bool + Send + Sync + 'static) -> Self {
        self.is_broken = Some(Arc::new(is_broken));
        self
    }

    /// Asks a connection whether it is alive; see [`Dialer::check`].
    ///
    /// An error retires the connection. Defaults to no check.
    #[must_use]
    pub fn check_with(
        mut self,
        check: impl Fn(&mut C, Instant) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Arc::new(check));
        self
    }

    /// Makes a used connection fit for its next borrower; see [`Dialer::reset`].
    ///
    /// An error retires the connection. Defaults to no reset.
    #[must_use]
    pub fn reset_with(
        mut self,
        reset: impl Fn(&mut C) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.reset = Some(Arc::new(reset));
        self
    }

    /// Closes a connection; see [`Dialer::close`].
    ///
    /// Defaults to dropping it.
    #[must_use]
    pub fn close_with(mut self, close: impl Fn(C) + Send + Sync + 'static) -> Self {
        self.close = Some(Arc::new(close));
        self
    }

    /// Says which of the closures may wait for the peer; see [`Dialer::blocking`].
    ///
    /// Defaults to [`Blocking::default`]: the check may, the reset and the close do not.
    #[must_use]
    pub fn may_block(mut self, blocking: Blocking) -> Self {
        self.blocking = blocking;
        self
    }
}

impl<C, E> Clone for FnDialer<C, E> {
    fn clone(&self) -> Self {
        Self {
            dial: Arc::clone(&self.dial),
            is_broken: self.is_broken.clone(),
            check: self.check.clone(),
            reset: self.reset.clone(),
            close: self.close.clone(),
            blocking: self.blocking,
        }
    }
}

impl<C, E> fmt::Debug for FnDialer<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnDialer").field("blocking", &self.blocking).finish_non_exhaustive()
    }
}

impl<C: Send + 'static, E: Error + Send + Sync + 'static> Dialer for FnDialer<C, E> {
    type Connection = C;
    type Error = E;

    fn dial(&self, context: &DialContext<'_>) -> Result<C, E> {
        (self.dial)(context)
    }

    fn is_broken(&self, connection: &mut C) -> bool {
        self.is_broken.as_ref().is_some_and(|is_broken| is_broken(connection))
    }

    fn check(&self, connection: &mut C, deadline: Instant) -> Result<(), E> {
        self.check.as_ref().map_or(Ok(()), |check| check(connection, deadline))
    }

    fn needs_reset(&self, _connection: &mut C) -> bool {
        self.reset.is_some()
    }

    fn reset(&self, connection: &mut C) -> Result<(), E> {
        self.reset.as_ref().map_or(Ok(()), |reset| reset(connection))
    }

    fn close(&self, connection: C) {
        match &self.close {
            Some(close) => close(connection),
            None => drop(connection),
        }
    }

    /// A check that there is none of needs no thread.
    fn blocking(&self) -> Blocking {
        self.blocking.check(self.blocking.check && self.check.is_some())
    }
}
