//! The socket inside a client of the `mysql` crate, which gives its descriptor but lends no socket.
//!
//! On Windows it does not give the descriptor either: there liveness is unknown and nothing can be
//! set.

use std::io;
use std::io::Read;
use std::time::{Duration, Instant};

use mysql::Conn;

use super::connection::shutting_down;
use super::stream::Liveness;
use super::sys;
use crate::abort::AbortHandle;

#[cfg(unix)]
#[allow(unsafe_code)]
fn with_socket<R>(connection: &Conn, look: impl FnOnce(&socket2::Socket) -> R) -> Option<R> {
    use std::os::fd::{AsRawFd, BorrowedFd};

    // SAFETY: the connection owns the descriptor and is borrowed until this returns, so the
    // descriptor stays open until then.
    let descriptor = unsafe { BorrowedFd::borrow_raw(connection.as_raw_fd()) };
    Some(look(&socket2::SockRef::from(&descriptor)))
}

#[cfg(not(unix))]
fn with_socket<R>(_: &Conn, _: impl FnOnce(&socket2::Socket) -> R) -> Option<R> {
    None
}

/// Whether the connection is alive, as far as is known without asking the peer.
pub(crate) fn liveness(connection: &Conn) -> io::Result<Liveness> {
    with_socket(connection, sys::liveness).unwrap_or(Ok(Liveness::Quiet))
}

/// Limits the time of each read and of each write.
pub(crate) fn set_timeouts(
    connection: &Conn,
    read: Option<Duration>,
    write: Option<Duration>,
) -> io::Result<()> {
    let set = |socket: &socket2::Socket| {
        socket.set_read_timeout(read)?;
        socket.set_write_timeout(write)
    };
    with_socket(connection, set).unwrap_or(Ok(()))
}

/// A handle that shuts the connection down. It has a descriptor of its own.
pub(crate) fn abort_handle(connection: &Conn) -> Option<AbortHandle> {
    with_socket(connection, shutting_down)?
}

/// Drops the connection, which says goodbye to the peer, and waits for the end of the stream, so
/// that the peer has closed it too. Gives up after `limit`, or at once if the connection has ended
/// already.
pub(crate) fn close(connection: Conn, limit: Duration) {
    let end = Instant::now() + limit;
    let twin = with_socket(&connection, |socket| socket.try_clone().ok()).flatten();
    // A peer that reads nothing must not block the client's goodbye.
    let is_limited = set_timeouts(&connection, Some(limit), Some(limit)).is_ok();
    drop(connection);
    let Some(mut twin) = twin.filter(|_| is_limited) else { return };
    let mut rest = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || twin.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match twin.read(&mut rest) {
            Ok(count) if count > 0 => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Whether [`set_timeouts`] does anything.
pub(crate) const SETS_TIMEOUTS: bool = cfg!(unix);
