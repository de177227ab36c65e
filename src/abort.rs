//! `AbortHandle`: makes a connection in use, or a dial, fail from another thread.

use std::fmt;
use std::sync::Arc;

/// Aborts one connection while its borrower uses it, or while it is dialed.
///
/// Made by [`Dialer::abort_handle`](crate::Dialer::abort_handle), used by
/// [`Pool::abort`](crate::Pool::abort); or given to
/// [`DialContext::abort_with`](crate::DialContext::abort_with). Clones abort the same connection.
#[derive(Clone)]
pub struct AbortHandle(Arc<dyn Fn() + Send + Sync>);

impl AbortHandle {
    /// A handle that calls `abort`, which must not block.
    ///
    /// It may be called more than once, by any thread, and whatever state the connection is in. On
    /// Windows it must do more than the example, because a shutdown there does not end a read that
    /// is already waiting. The dialers of [`net`](crate::net) cancel such a read as well.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::{Shutdown, TcpListener, TcpStream};
    /// use latebind::AbortHandle;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// let twin = stream.try_clone()?;
    /// let handle = AbortHandle::new(move || {
    ///     let _ = twin.shutdown(Shutdown::Both); // Fails only where the connection has ended.
    /// });
    /// # drop(handle);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn new(abort: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// Runs user code.
    pub(crate) fn abort(&self) {
        (self.0)();
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").finish_non_exhaustive()
    }
}
