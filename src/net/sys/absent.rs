//! Stand-ins for functions that most systems lack. A system's own file takes precedence.

use std::io;
use std::time::Duration;

use socket2::Socket;

/// This system does not provide it.
pub(crate) fn accept_queue(_listener: &Socket) -> io::Result<Option<(u32, u32)>> {
    Ok(None)
}

/// This system does not provide it.
pub(crate) fn listen_overflows() -> io::Result<Option<(u64, u64)>> {
    Ok(None)
}

/// Does nothing: this system has no such option.
pub(crate) fn set_user_timeout(_socket: &Socket, _limit: Duration) -> io::Result<()> {
    Ok(())
}

/// Does nothing: this system has no such option.
pub(crate) fn choose_port_late(_socket: &Socket) {}
