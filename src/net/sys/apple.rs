//! macOS and its kin: the backlog from a sysctl, every keep-alive option.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use socket2::Socket;
use socket2::TcpKeepalive;

pub(crate) use super::unix::*;
use crate::net::backlog_rules;
use crate::net::error::AttemptError;

/// The setting that caps every backlog.
pub(crate) const BACKLOG_SETTING: &str = "kern.ipc.somaxconn";

/// The largest backlog that the kernel grants here and now.
pub(crate) fn max_backlog() -> u32 {
    backlog_rules::bsd(sysctl_int(c"kern.ipc.somaxconn"))
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

/// Which way packets go, against what the routing table says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route {
    pub(crate) interface: Option<String>,
}

impl Route {
    /// Sets what was asked for. Unlike keep-alive this must not fail in silence: traffic would go
    /// a way that was ruled out.
    pub(crate) fn set(&self, socket: &Socket, peer: SocketAddr) -> Result<(), AttemptError> {
        let Some(name) = &self.interface else { return Ok(()) };
        let bind = || {
            let index = Some(interface_index(name)?);
            match peer {
                SocketAddr::V4(_) => socket.bind_device_by_index_v4(index),
                SocketAddr::V6(_) => socket.bind_device_by_index_v6(index),
            }
        };
        bind().map_err(|source| AttemptError::Option { option: "the interface", source })
    }
}

/// The number that the kernel knows an interface by.
#[allow(unsafe_code)]
fn interface_index(name: &str) -> io::Result<NonZeroU32> {
    let name = CString::new(name)?;
    // SAFETY: `name` ends in NUL and lives until the call returns.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    NonZeroU32::new(index).ok_or_else(io::Error::last_os_error)
}
