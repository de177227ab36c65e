//! The longest accept queue that the kernel allows.

/// The longest accept queue that the kernel grants now.
///
/// A server that asks for less (std always asks for 128) has connections refused or delayed as soon
/// as more callers than that arrive at once, as when a pool fills up. Pass it to a `listen` call of
/// your own; [`listen_tcp`](crate::net::listen_tcp), `listen_unix` and
/// [`Listen`](crate::net::Listen) use it already.
///
/// | system | where it comes from | when that cannot be read |
/// | --- | --- | --- |
/// | Linux | `/proc/sys/net/core/somaxconn`, at most 65535 before Linux 4.1 | 4096, and 128 before Linux 5.4 |
/// | macOS | `kern.ipc.somaxconn`, at most 65535 | 128 |
/// | FreeBSD | `kern.ipc.soacceptqueue`, at most 65535 | 128 |
/// | OpenBSD | `kern.somaxconn`, at most 65535 | 128 |
/// | NetBSD, others | the constant `SOMAXCONN` | |
/// | Windows | the largest argument of the macro `SOMAXCONN_HINT`, 65535 | |
///
/// On Windows pass its negative to a `listen` call of your own, as that macro does: a positive
/// number is cut down to 200 there, and so is `SOMAXCONN`.
///
/// It is read at each call, because an administrator may change it while the process runs. Always
/// at least 1, and never more than `i32::MAX`, so that it fits the argument of `listen`.
///
/// # Examples
///
/// ```
/// let backlog = latebind::net::max_listen_backlog();
/// assert!(backlog >= 1 && i32::try_from(backlog).is_ok());
/// ```
#[must_use]
pub fn max_listen_backlog() -> u32 {
    super::sys::max_backlog()
}
