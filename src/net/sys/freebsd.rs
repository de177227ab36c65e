//! FreeBSD: the backlog from a sysctl, every keep-alive option.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::Socket;
use socket2::TcpKeepalive;

pub(crate) use super::unix::*;
use crate::net::backlog_rules;

/// The setting that caps every backlog.
pub(crate) const BACKLOG_SETTING: &str = "kern.ipc.soacceptqueue";

/// The largest backlog that the kernel grants here and now.
pub(crate) fn max_backlog() -> u32 {
    backlog_rules::bsd(sysctl_int(c"kern.ipc.soacceptqueue"))
}

/// What to ask the system for, to be granted the most.
pub(crate) fn backlog_to_ask_for() -> u32 {
    max_backlog()
}

/// Connections waiting on a listener, and how many may.
pub(crate) fn accept_queue(listener: &Socket) -> io::Result<Option<(u32, u32)>> {
    let waiting = socket_int(listener, libc::SO_LISTENQLEN)?;
    let limit = socket_int(listener, libc::SO_LISTENQLIMIT)?;
    Ok(Some((waiting, limit)))
}

/// Not told here.
pub(crate) fn listen_overflows() -> io::Result<Option<(u64, u64)>> {
    Ok(None)
}

/// Reads an integer option of the socket's own level.
#[allow(unsafe_code)]
fn socket_int(socket: &Socket, option: libc::c_int) -> io::Result<u32> {
    let mut value: libc::c_uint = 0;
    let mut size = libc::socklen_t::try_from(size_of_val(&value)).expect("4 fits");
    let out = (&raw mut value).cast();
    // SAFETY: `out` and `size` describe one live integer.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, out, &mut size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Sets the three numbers of keep-alive.
pub(crate) fn keep_alive(
    socket: &Socket,
    idle: Duration,
    interval: Duration,
    probes: u32,
) -> io::Result<()> {
    let settings = TcpKeepalive::new().with_time(idle).with_interval(interval);
    socket.set_tcp_keepalive(&settings.with_retries(probes))
}

/// Reads an integer of the kernel's by name.
#[allow(unsafe_code)]
fn sysctl_int(name: &std::ffi::CStr) -> Option<i32> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>();
    let out = (&raw mut value).cast();
    // SAFETY: `name` ends in NUL, and `out` and `size` describe one live integer.
    let done =
        unsafe { libc::sysctlbyname(name.as_ptr(), out, &mut size, std::ptr::null_mut(), 0) };
    (done == 0 && size == size_of::<libc::c_int>()).then_some(value)
}

/// Nothing: there is no such option here.
pub(crate) fn set_user_timeout(_socket: &Socket, _limit: Duration) -> io::Result<()> {
    Ok(())
}

/// Nothing: there is no such option here.
pub(crate) fn choose_port_late(_socket: &Socket) {}
