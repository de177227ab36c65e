//! Selects the file of the target system.
//!
//! Each file has the same functions, so that no code outside this folder depends on the system.
//! Code that all Unix systems share is in `unix`; code that several systems share has files of its
//! own; a system's own file has only its differences.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(dead_code)] // Some systems use only a part of it.
mod absent;

#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "dragonfly",
    target_os = "illumos",
    windows,
))]
mod keep_alive;

#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
mod sysctl;

#[cfg(unix)]
mod unix;

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "linux.rs"]
mod system;

#[cfg(target_vendor = "apple")]
#[path = "apple.rs"]
mod system;

#[cfg(target_os = "freebsd")]
#[path = "freebsd.rs"]
mod system;

#[cfg(target_os = "openbsd")]
#[path = "openbsd.rs"]
mod system;

#[cfg(windows)]
#[path = "windows.rs"]
mod system;

#[cfg(all(
    unix,
    not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "openbsd",
    ))
))]
#[path = "other_unix.rs"]
mod system;

pub(super) use system::*;

use std::time::Duration;

/// The result of a poll for one socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    /// The connect has ended, with success or failure.
    pub(super) ready: bool,
    /// The system reports that the socket is dead.
    pub(super) hung_up: bool,
}

/// A poll's time limit in milliseconds, rounded up, so that 400 µs neither spins nor waits for
/// ever.
fn poll_milliseconds(timeout: Duration) -> i32 {
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(milliseconds).unwrap_or(i32::MAX)
}
