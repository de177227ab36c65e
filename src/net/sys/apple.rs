//! macOS and other Apple systems: the backlog from a sysctl, every keep-alive option.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use socket2::Socket;

pub(crate) use super::absent::*;
pub(crate) use super::keep_alive::keep_alive;
use super::sysctl::sysctl_int;
pub(crate) use super::unix::*;
use crate::net::backlog_rules;
use crate::net::error::AttemptError;

/// The setting that caps every backlog.
pub(crate) const BACKLOG_SETTING: &str = "kern.ipc.somaxconn";

/// The largest backlog that the kernel grants now.
pub(crate) fn max_backlog() -> u32 {
    backlog_rules::bsd(sysctl_int(c"kern.ipc.somaxconn"))
}

/// Where packets go, instead of where the routing table sends them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route {
    pub(crate) interface: Option<String>,
}

impl Route {
    /// Applies the route. Unlike keep-alive this must not fail silently, because traffic would take
    /// a forbidden way.
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

/// The kernel's number of an interface.
#[allow(unsafe_code)]
fn interface_index(name: &str) -> io::Result<NonZeroU32> {
    let name = CString::new(name)?;
    // SAFETY: `name` ends in NUL and lives until the call returns.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    NonZeroU32::new(index).ok_or_else(io::Error::last_os_error)
}
