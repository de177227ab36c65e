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

/// The backlog to ask the system for, to be granted the most.
pub(crate) fn backlog_to_ask_for() -> u32 {
    super::max_backlog()
}

/// Switches keep-alive on, with the system's own timing.
pub(crate) fn keep_alive(
    socket: &Socket,
    _idle: Duration,
    _interval: Duration,
    _probes: u32,
) -> io::Result<()> {
    socket.set_keepalive(true)
}

/// Does nothing: this system has no such option.
pub(crate) fn choose_port_late(_socket: &Socket) {}
