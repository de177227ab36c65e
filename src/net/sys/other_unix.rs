//! NetBSD, DragonFly and the rest of Unix: the backlog is the constant of the C library.

pub(crate) use super::absent::*;
#[cfg(any(target_os = "netbsd", target_os = "dragonfly", target_os = "illumos"))]
pub(crate) use super::keep_alive::keep_alive;
pub(crate) use super::unix::*;

/// The setting that caps every backlog: these systems have a constant instead.
pub(crate) const BACKLOG_SETTING: &str = "SOMAXCONN";

/// The largest backlog that the kernel grants.
pub(crate) fn max_backlog() -> u32 {
    u32::try_from(libc::SOMAXCONN).expect("SOMAXCONN is positive")
}
