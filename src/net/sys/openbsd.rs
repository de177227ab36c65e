//! OpenBSD: the backlog from a sysctl by number; keep-alive can only be switched on.

pub(crate) use super::absent::*;
pub(crate) use super::unix::*;
use crate::net::backlog_rules;

/// The setting that caps every backlog.
pub(crate) const BACKLOG_SETTING: &str = "kern.somaxconn";

/// The largest backlog that the kernel grants now.
pub(crate) fn max_backlog() -> u32 {
    backlog_rules::bsd(sysctl_int([libc::CTL_KERN, libc::KERN_SOMAXCONN]))
}

/// Reads an integer setting of the kernel by number, because OpenBSD has no names for them in C.
#[allow(unsafe_code)]
fn sysctl_int(name: [libc::c_int; 2]) -> Option<i32> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>();
    let out = (&raw mut value).cast();
    // SAFETY: `name` holds the 2 numbers announced, and `out` and `size` describe one live integer.
    let done = unsafe { libc::sysctl(name.as_ptr(), 2, out, &mut size, std::ptr::null_mut(), 0) };
    (done == 0 && size == size_of::<libc::c_int>()).then_some(value)
}
