//! `ManageConnection`: what a back end tells the pool about its connections.

use std::error::Error;

/// Opens connections of one kind, and knows when one is past use.
///
/// No method is called under a lock of the pool, so each may block and may use the pool.
///
/// # Examples
///
/// See the [crate](crate).
pub trait ManageConnection: Send + Sync + 'static {
    /// The connection that `connect` opens.
    type Connection: Send + 'static;

    /// Why `connect` and `is_valid` fail. It need not be `Send`: it stays on its thread, where the
    /// [error handler](crate::HandleError) takes it, and only its text goes on.
    type Error: Error + 'static;

    /// Opens a connection.
    ///
    /// Runs on a thread of the pool's own, or on one of [`Builder::thread_pool`].
    ///
    /// [`Builder::thread_pool`]: crate::Builder::thread_pool
    ///
    /// # Errors
    ///
    /// The error handler is told, and the pool tries again as long as anybody waits.
    fn connect(&self) -> Result<Self::Connection, Self::Error>;

    /// Asks a connection whether it is alive, by a simple query like `SELECT 1`, say.
    ///
    /// Asked at each checkout unless [`Builder::test_on_check_out`] says otherwise: by the caller, or
    /// on a thread of the pool's own if the connection has rested for more than half a second. So a
    /// server that went away meanwhile, and answers nothing, delays no caller past its time limit.
    ///
    /// [`Builder::test_on_check_out`]: crate::Builder::test_on_check_out
    ///
    /// # Errors
    ///
    /// Any error has the connection closed. The error handler is told, and the caller gets another.
    fn is_valid(&self, conn: &mut Self::Connection) -> Result<(), Self::Error>;

    /// Says whether a connection is past use, *quickly*: without asking the peer.
    ///
    /// Asked at each return, on the thread that returns, so it should not block. `true` has the
    /// connection closed. One that cannot tell says `false`.
    fn has_broken(&self, conn: &mut Self::Connection) -> bool;
}
