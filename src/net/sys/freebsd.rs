//! FreeBSD: the backlog from a sysctl, every keep-alive option.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

pub(crate) use super::absent::*;
pub(crate) use super::keep_alive::keep_alive;
use super::sysctl::sysctl_int;
pub(crate) use super::unix::*;
use crate::net::backlog_rules;

/// The setting that caps every backlog.
pub(crate) const BACKLOG_SETTING: &str = "kern.ipc.soacceptqueue";

/// The largest backlog that the kernel grants now.
pub(crate) fn max_backlog() -> u32 {
    backlog_rules::bsd(sysctl_int(c"kern.ipc.soacceptqueue"))
}

/// The number of connections waiting on a listener, and how many may.
pub(crate) fn accept_queue(listener: &Socket) -> io::Result<Option<(u32, u32)>> {
    let waiting = socket_int(listener, libc::SO_LISTENQLEN)?;
    let limit = socket_int(listener, libc::SO_LISTENQLIMIT)?;
    Ok(Some((waiting, limit)))
}

/// Reads an integer option of level `SOL_SOCKET`.
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
