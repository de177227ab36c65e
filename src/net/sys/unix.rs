//! Shared by all Unix systems: waiting for a connect, and peeking without blocking.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::Socket;

use super::{Readiness, poll_milliseconds};
use crate::net::stream::Liveness;

/// The argument of `listen` for a backlog.
pub(crate) fn listen_argument(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// Waits until a connect on one of `sockets` has ended, or for `timeout`.
///
/// An interrupted wait reports nothing ready: the caller reads its clock and calls again.
#[allow(unsafe_code)]
pub(crate) fn poll(sockets: &[&Socket], timeout: Duration) -> io::Result<Vec<Readiness>> {
    let mut polled: Vec<libc::pollfd> = sockets
        .iter()
        .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 })
        .collect();
    let count = libc::nfds_t::try_from(polled.len()).expect("few sockets are polled at once");
    // SAFETY: `polled` is borrowed by nobody else and holds exactly `count` entries.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), count, poll_milliseconds(timeout)) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![Readiness::default(); polled.len()]);
    }
    let dead = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
    Ok(polled
        .iter()
        .map(|polled| Readiness { ready: polled.revents != 0, hung_up: polled.revents & dead != 0 })
        .collect())
}

/// Looks at the next byte without consuming it and without waiting, in one system call that leaves
/// the socket's blocking mode as it is.
pub(crate) fn liveness(socket: &Socket) -> io::Result<Liveness> {
    let mut byte = [MaybeUninit::uninit()];
    loop {
        return match socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
            Ok(0) => Ok(Liveness::Closed),
            Ok(_) => Ok(Liveness::Unread),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Liveness::Quiet),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Whether `error`, from a non-blocking connect, means that the connect goes on.
///
/// An interrupted connect goes on too; calling it again would be wrong (POSIX, connect).
pub(crate) fn connect_goes_on(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EALREADY | libc::EINTR))
}

/// Whether `error`, from a connect, means that the socket is connected already.
pub(crate) fn already_connected(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EISCONN)
}

/// Whether a read or write that ended in `error` leaves the position in the stream unknown.
///
/// Unix has the same error for a time limit that passed, which is a failure, and for a non-blocking
/// socket with nothing to do, which is none. So this asks the socket which it is.
pub(crate) fn is_failure(socket: &Socket, error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => !socket.nonblocking().unwrap_or(false),
        io::ErrorKind::Interrupted => false,
        _ => true,
    }
}

/// Shuts both directions down, and ends the reads and writes that wait for the peer.
pub(crate) fn shut_down(socket: &Socket) {
    // Fails only if the connection has ended already.
    let _ = socket.shutdown(Shutdown::Both);
}

/// Lets an address be bound again at once after its last use, instead of after minutes in TIME_WAIT.
///
/// Safe on Unix only: on Windows the same option lets another process steal the port.
pub(crate) fn allow_quick_reuse(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}
