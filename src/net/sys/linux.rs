//! Linux: the backlog from `/proc`, every keep-alive option.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::Socket;

pub(crate) use super::keep_alive::keep_alive;
pub(crate) use super::unix::*;
use crate::net::backlog_rules;
use crate::net::error::AttemptError;

/// The setting that caps every backlog.
pub(crate) const BACKLOG_SETTING: &str = "net.core.somaxconn";

/// The largest backlog that the kernel grants now.
pub(crate) fn max_backlog() -> u32 {
    backlog_rules::linux(somaxconn().as_deref(), release().as_deref())
}

/// The backlog to ask the kernel for, to be granted the most.
pub(crate) fn backlog_to_ask_for() -> u32 {
    backlog_rules::linux_asks(somaxconn().as_deref(), release().as_deref())
}

/// The text of the setting, for this thread's network namespace.
fn somaxconn() -> Option<String> {
    fs::read_to_string("/proc/sys/net/core/somaxconn").ok()
}

/// The kernel's release, by a system call, because it is needed most where `/proc` is missing.
#[allow(unsafe_code)]
fn release() -> Option<String> {
    let mut names = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: `names` is a live local structure that the call may fill.
    if unsafe { libc::uname(names.as_mut_ptr()) } < 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled the whole structure.
    let names = unsafe { names.assume_init() };
    let text: Vec<u8> =
        names.release.iter().map(|&letter| letter as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8(text).ok()
}

/// The number of connections waiting on a listener, and how many may.
#[allow(unsafe_code)]
pub(crate) fn accept_queue(listener: &Socket) -> io::Result<Option<(u32, u32)>> {
    // The first 32 bytes of `struct tcp_info`: eight of one byte each, then words. For a listener
    // `tcpi_unacked` at 24 is the queue and `tcpi_sacked` at 28 its limit (net/ipv4/tcp.c).
    let mut info = [0_u32; 8];
    let mut size = libc::socklen_t::try_from(size_of_val(&info)).expect("32 fits");
    let out = info.as_mut_ptr().cast();
    let fd = listener.as_raw_fd();
    // SAFETY: `out` and `size` describe one live array of integers, for which any bytes are valid.
    let done = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, out, &mut size) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(size) != Ok(size_of_val(&info)) {
        // An emulation of Linux (for example QEMU's user mode) may fill less.
        return Ok(None);
    }
    const TCP_LISTEN: u8 = 10; // include/net/tcp_states.h
    let [state, ..] = info[0].to_ne_bytes();
    if state != TCP_LISTEN {
        // In any other state the same words count segments.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
    }
    let [.., waiting, limit] = info;
    Ok(Some((waiting, limit)))
}

/// `ListenOverflows` and `ListenDrops` of this thread's network namespace.
pub(crate) fn listen_overflows() -> io::Result<Option<(u64, u64)>> {
    let netstat = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let counter = |name| {
        backlog_rules::netstat(&netstat, name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {name}")))
    };
    Ok(Some((counter("ListenOverflows")?, counter("ListenDrops")?)))
}

/// Makes the kernel end the connection when data has stayed unacknowledged for `limit`.
pub(crate) fn set_user_timeout(socket: &Socket, limit: Duration) -> io::Result<()> {
    // Rounded up: zero would leave it to the kernel. The kernel keeps it in a signed integer.
    let milliseconds = limit.as_nanos().div_ceil(1_000_000).clamp(1, i32::MAX as u128);
    let milliseconds = u64::try_from(milliseconds).expect("the clamp has 31 bits");
    socket.set_tcp_user_timeout(Some(Duration::from_millis(milliseconds)))
}

/// Lets the kernel choose the local port at the connect, when it knows the peer, instead of at the
/// bind, when it must find a port that is free for every peer (ip(7)).
///
/// An error is ignored: without the option (Linux before 4.2) ports only run out sooner.
#[allow(unsafe_code)]
pub(crate) fn choose_port_late(socket: &Socket) {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).expect("4 fits");
    let value = (&raw const on).cast();
    let (level, option) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    // SAFETY: `value` and `size` describe one live integer, which is only read.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, size) };
}

/// Where packets go, instead of where the routing table sends them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route {
    pub(crate) interface: Option<String>,
    pub(crate) mark: Option<u32>,
}

impl Route {
    /// Applies the route. Unlike keep-alive this must not fail silently, because traffic would take
    /// a forbidden way.
    pub(crate) fn set(&self, socket: &Socket, _peer: SocketAddr) -> Result<(), AttemptError> {
        if let Some(interface) = &self.interface {
            socket
                .bind_device(Some(interface.as_bytes()))
                .map_err(|source| AttemptError::Option { option: "the interface", source })?;
        }
        if let Some(mark) = self.mark {
            socket
                .set_mark(mark)
                .map_err(|source| AttemptError::Option { option: "the mark", source })?;
        }
        Ok(())
    }
}
