//! `CustomizeConnection`: what a program does with each new connection, and with each at its end.

use std::fmt::Debug;

/// Prepares each connection when it has been opened, and takes leave of it when it is closed.
///
/// # Examples
///
/// ```
/// use r2d2::CustomizeConnection;
/// use std::io;
/// use std::net::TcpStream;
///
/// #[derive(Debug)]
/// struct NoDelay;
///
/// impl CustomizeConnection<TcpStream, io::Error> for NoDelay {
///     fn on_acquire(&self, stream: &mut TcpStream) -> io::Result<()> {
///         stream.set_nodelay(true)
///     }
/// }
/// ```
pub trait CustomizeConnection<C, E>: Debug + Send + Sync + 'static {
    /// Called with a connection as soon as [`connect`](crate::ManageConnection::connect) has opened
    /// it, on the same thread. The default does nothing.
    ///
    /// # Errors
    ///
    /// Any error has the connection dropped, and counts as one of `connect`.
    #[allow(unused_variables)]
    fn on_acquire(&self, conn: &mut C) -> Result<(), E> {
        Ok(())
    }

    /// Called with a connection when the pool has taken it out for good: it is broken, was not valid,
    /// is too old, has been idle for too long, or the pool is at its end. The default drops it.
    #[allow(unused_variables)]
    fn on_release(&self, conn: C) {}
}

/// Does nothing to connections.
#[derive(Copy, Clone, Debug)]
pub struct NopConnectionCustomizer;

impl<C, E> CustomizeConnection<C, E> for NopConnectionCustomizer {}
