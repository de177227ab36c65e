//! `DialContext`: what a dial is told, and how it hears that nobody wants its connection any more.

use std::fmt;
use std::time::{Duration, Instant};

use crate::abort::AbortHandle;

/// Until when a dial may last, and whether anybody still wants its connection.
///
/// A pool makes one for each call of [`Dialer::dial`](crate::Dialer::dial). A dialer over another
/// dialer passes it on.
///
/// Nobody wants the connection any more once its pool is closed, aborted, or flushed, or the last
/// handle to it is gone. The connection would only be closed again, and until then the dial keeps its
/// slot, its thread and its half-open socket. So a dial that may wait for long gives the pool a way to
/// end it, by [`abort_with`](Self::abort_with), or asks between two waits whether it
/// [is cancelled](Self::is_cancelled). A dial that does neither goes on until its deadline.
///
/// # Examples
///
/// ```
/// use std::io::{self, Read};
/// use std::net::{Shutdown, SocketAddr, TcpStream};
/// use latebind::{AbortHandle, DialContext, Dialer};
///
/// struct Backend(SocketAddr);
///
/// impl Dialer for Backend {
///     type Connection = TcpStream;
///     type Error = io::Error;
///
///     fn dial(&self, context: &DialContext) -> io::Result<TcpStream> {
///         let mut stream = TcpStream::connect_timeout(&self.0, context.remaining())?;
///         let twin = stream.try_clone()?;
///         // From here on a close of the pool ends a read that waits.
///         context.abort_with(AbortHandle::new(move || drop(twin.shutdown(Shutdown::Both))));
///         stream.set_read_timeout(Some(context.remaining()))?;
///         stream.read_exact(&mut [0; 8])?; // The server greets first.
///         stream.set_read_timeout(None)?;
///         Ok(stream)
///     }
///
///     fn is_broken(&self, stream: &mut TcpStream) -> bool {
///         stream.take_error().map_or(true, |error| error.is_some())
///     }
/// }
/// ```
pub struct DialContext<'a> {
    deadline: Instant,
    /// `None`: the dial was called by hand, so nobody closes its pool.
    dial: Option<&'a dyn Underway>,
}

/// A dial of a pool, as its context sees it.
pub(crate) trait Underway: Sync {
    fn is_cancelled(&self) -> bool;

    fn abort_with(&self, handle: AbortHandle);
}

impl DialContext<'static> {
    /// A context of no pool, for a dial by hand: never cancelled, and what is given to
    /// [`abort_with`](Self::abort_with) is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use latebind::{DialContext, Dialer, net::TcpDialer};
    ///
    /// let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// let context = DialContext::until(Instant::now() + Duration::from_secs(5));
    /// let connection = TcpDialer::from(listener.local_addr()?).dial(&context)?;
    /// # drop(connection);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, dial: None }
    }
}

impl<'a> DialContext<'a> {
    pub(crate) fn of(dial: &'a dyn Underway, deadline: Instant) -> Self {
        Self { deadline, dial: Some(dial) }
    }

    /// When the dial has to give up: `dial_timeout` after its start, or sooner for a
    /// [part](Self::sooner) of it. Far in the future if there is no limit.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time left until the deadline; zero once it has come.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether nobody wants the connection any more: see [`DialContext`]. Once true, it stays so.
    ///
    /// Takes the pool's lock, so it is meant to be asked before each wait, and not all the time.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.dial.is_some_and(Underway::is_cancelled)
    }

    /// Has the pool call `handle`, on another thread, once nobody wants the connection any more; at
    /// once, on this thread, if nobody does already.
    ///
    /// The pool drops the handle when the dial returns, or for the next one that is given: so one
    /// handle has to end all that the dial waits for. A dialer over another dialer need not give one
    /// for what the other has opened, if the other has done so: the dialers of
    /// [`net`](crate::net) have. The handle must not block, and it is called at most once, while the
    /// dial runs or as it returns.
    ///
    /// # Examples
    ///
    /// See [`DialContext`].
    pub fn abort_with(&self, handle: AbortHandle) {
        match self.dial {
            Some(dial) => dial.abort_with(handle),
            None => drop(handle),
        }
    }

    /// The context of a part of the same dial, which has to give up at `deadline` if that is sooner.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use latebind::{DialContext, Dialer};
    ///
    /// /// Gives the first dialer two seconds, and the second one the rest.
    /// fn dial<D: Dialer>(both: [&D; 2], context: &DialContext) -> Result<D::Connection, D::Error> {
    ///     let first = both[0].dial(&context.sooner(Instant::now() + Duration::from_secs(2)));
    ///     first.or_else(|error| match context.is_cancelled() {
    ///         true => Err(error),
    ///         false => both[1].dial(context),
    ///     })
    /// }
    /// ```
    #[must_use]
    pub fn sooner(&self, deadline: Instant) -> DialContext<'a> {
        Self { deadline: self.deadline.min(deadline), dial: self.dial }
    }

    /// The same, for a dialer with a time limit of its own.
    #[cfg(feature = "net")]
    pub(crate) fn within(&self, limit: Duration) -> DialContext<'a> {
        // A limit beyond what the clock can tell is none.
        self.sooner(Instant::now().checked_add(limit).unwrap_or(self.deadline))
    }
}

impl fmt::Debug for DialContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialContext").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
