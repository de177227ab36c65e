//! What most systems do not have. One that has it says so in its own file, which goes before.

use std::io;
use std::time::Duration;

use socket2::Socket;

/// Not told here.
pub(crate) fn accept_queue(_listener: &Socket) -> io::Result<Option<(u32, u32)>> {
    Ok(None)
}

/// Not told here.
pub(crate) fn listen_overflows() -> io::Result<Option<(u64, u64)>> {
    Ok(None)
}

/// Nothing: there is no such option here.
pub(crate) fn set_user_timeout(_socket: &Socket, _limit: Duration) -> io::Result<()> {
    Ok(())
}

/// Nothing: there is no such option here.
pub(crate) fn choose_port_late(_socket: &Socket) {}
