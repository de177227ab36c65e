//! Keep-alive on the systems on which all three of its numbers can be set.

use std::io;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};

/// Sets the three numbers of keep-alive; before Windows 10 1703 the number of probes stays 10.
pub(crate) fn keep_alive(
    socket: &Socket,
    idle: Duration,
    interval: Duration,
    probes: u32,
) -> io::Result<()> {
    let settings = TcpKeepalive::new().with_time(idle).with_interval(interval);
    socket.set_tcp_keepalive(&settings.with_retries(probes))
}
