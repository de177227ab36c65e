//! Windows: Winsock's own poll, and liveness without a non-blocking peek.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::windows::io::AsRawSocket;
use std::ptr;
use std::time::Duration;

use socket2::Socket;
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Networking::WinSock;
use windows_sys::Win32::System::IO::CancelIoEx;

pub(crate) use super::absent::*;
pub(crate) use super::keep_alive::keep_alive;
use super::{Readiness, poll_milliseconds};
use crate::net::backlog_rules;
use crate::net::stream::Liveness;

/// The setting that caps every backlog: Windows has a macro instead.
pub(crate) const BACKLOG_SETTING: &str = "SOMAXCONN_HINT";

/// The largest backlog that Windows grants.
pub(crate) fn max_backlog() -> u32 {
    backlog_rules::WINSOCK_MOST
}

/// The argument of `listen` for a backlog.
pub(crate) fn listen_argument(backlog: u32) -> i32 {
    backlog_rules::winsock_asks(backlog)
}

/// Waits until a connect on one of `sockets` has ended, or for `timeout`.
pub(crate) fn poll(sockets: &[&Socket], timeout: Duration) -> io::Result<Vec<Readiness>> {
    // Before Windows 10 2004, WSAPoll did not report a failed connect. So no wait is longer than
    // this, and every socket is tested after each.
    let slice = timeout.min(Duration::from_millis(50));
    let seen = poll_for(sockets, WinSock::POLLWRNORM, slice)?;
    Ok(seen.into_iter().map(|seen| Readiness { ready: true, ..seen }).collect())
}

/// Tests whether the socket has something to read, then what: two system calls, because Winsock has
/// no peek that does not block. The socket's blocking mode stays as it is.
pub(crate) fn liveness(socket: &Socket) -> io::Result<Liveness> {
    let seen = poll_for(&[socket], WinSock::POLLRDNORM, Duration::ZERO)?;
    if !seen[0].ready {
        return Ok(Liveness::Quiet);
    }
    match socket.peek(&mut [MaybeUninit::uninit()]) {
        Ok(0) => Ok(Liveness::Closed),
        Ok(_) => Ok(Liveness::Unread),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Liveness::Quiet),
        Err(error) => Err(error),
    }
}

/// Whether `error`, from a non-blocking connect, means that the connect goes on.
pub(crate) fn connect_goes_on(error: &io::Error) -> bool {
    let goes_on = [WinSock::WSAEWOULDBLOCK, WinSock::WSAEINPROGRESS, WinSock::WSAEALREADY];
    error.raw_os_error().is_some_and(|code| goes_on.contains(&code))
}

/// Whether `error`, from a connect, means that the socket is connected already.
pub(crate) fn already_connected(error: &io::Error) -> bool {
    error.raw_os_error() == Some(WinSock::WSAEISCONN)
}

/// Whether a read or write that ended in `error` leaves the position in the stream unknown.
///
/// A time limit that passed has an error of its own here, so the socket need not be asked.
pub(crate) fn is_failure(_socket: &Socket, error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Shuts both directions down, and ends the reads and writes that wait for the peer.
///
/// A shutdown on Windows does not end a call that is already waiting (rust-lang/rust#121594), so
/// such a call is cancelled as well. The cancellation comes second, so that each call either finds
/// the socket shut down or is cancelled.
#[allow(unsafe_code)]
pub(crate) fn shut_down(socket: &Socket) {
    // Fails only if the connection has ended already.
    let _ = socket.shutdown(Shutdown::Both);
    let handle = socket.as_raw_socket() as HANDLE;
    // SAFETY: the socket is open for as long as it is borrowed, and the call writes to no memory:
    // without an `OVERLAPPED` it cancels all operations of this process on the socket, which then
    // fail.
    unsafe { CancelIoEx(handle, ptr::null()) };
}

/// Does nothing: Windows binds again at once by itself, and its `SO_REUSEADDR` lets another process
/// steal the port.
pub(crate) fn allow_quick_reuse(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

#[allow(unsafe_code)]
fn poll_for(sockets: &[&Socket], events: i16, timeout: Duration) -> io::Result<Vec<Readiness>> {
    let mut polled: Vec<WinSock::WSAPOLLFD> = sockets
        .iter()
        .map(|socket| WinSock::WSAPOLLFD {
            fd: usize::try_from(socket.as_raw_socket()).expect("a SOCKET is as wide as a pointer"),
            events,
            revents: 0,
        })
        .collect();
    let count = u32::try_from(polled.len()).expect("few sockets are polled at once");
    // SAFETY: `polled` is borrowed by nobody else and holds exactly `count` entries.
    let ready = unsafe { WinSock::WSAPoll(polled.as_mut_ptr(), count, poll_milliseconds(timeout)) };
    if ready == WinSock::SOCKET_ERROR {
        return Err(io::Error::last_os_error());
    }
    let dead = WinSock::POLLERR | WinSock::POLLHUP | WinSock::POLLNVAL;
    Ok(polled
        .iter()
        .map(|polled| Readiness { ready: polled.revents != 0, hung_up: polled.revents & dead != 0 })
        .collect())
}
