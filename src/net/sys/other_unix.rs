//! NetBSD, DragonFly and the rest of Unix: the backlog is the constant of the C library.

use std::io;
use std::time::Duration;

use socket2::Socket;

pub(crate) use super::unix::*;

/// The setting that caps every backlog: these systems have a constant instead.
pub(crate) const BACKLOG_SETTING: &str = "SOMAXCONN";

/// The largest backlog that the kernel grants.
pub(crate) fn max_backlog() -> u32 {
    u32::try_from(libc::SOMAXCONN).expect("SOMAXCONN is positive")
}

/// What to ask the system for, to be granted the most.
pub(crate) fn backlog_to_ask_for() -> u32 {
    max_backlog()
}

/// Not told here.
pub(crate) fn accept_queue(_listener: &Socket) -> io::Result<Option<(u32, u32)>> {
    Ok(None)
}

/// Not told here.
pub(crate) fn listen_overflows() -> io::Result<Option<(u64, u64)>> {
    Ok(None)
}

/// Sets the three numbers of keep-alive, where the system has them.
#[cfg(any(target_os = "netbsd", target_os = "dragonfly", target_os = "illumos"))]
pub(crate) fn keep_alive(
    socket: &Socket,
    idle: Duration,
    interval: Duration,
    probes: u32,
) -> io::Result<()> {
    let settings = socket2::TcpKeepalive::new().with_time(idle).with_interval(interval);
    socket.set_tcp_keepalive(&settings.with_retries(probes))
}

/// Switches keep-alive on, with the system's own timing.
#[cfg(not(any(target_os = "netbsd", target_os = "dragonfly", target_os = "illumos")))]
pub(crate) fn keep_alive(
    socket: &Socket,
    _idle: Duration,
    _interval: Duration,
    _probes: u32,
) -> io::Result<()> {
    socket.set_keepalive(true)
}

/// Nothing: there is no such option here.
pub(crate) fn set_user_timeout(_socket: &Socket, _limit: Duration) -> io::Result<()> {
    Ok(())
}

/// Nothing: there is no such option here.
pub(crate) fn choose_port_late(_socket: &Socket) {}
