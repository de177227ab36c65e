//! Reads the kernel's settings by name, on macOS and FreeBSD.

use std::ffi::CStr;

/// Reads an integer setting of the kernel by name.
#[allow(unsafe_code)]
pub(super) fn sysctl_int(name: &CStr) -> Option<i32> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>();
    let out = (&raw mut value).cast();
    // SAFETY: `name` ends in NUL, and `out` and `size` describe one live integer.
    let done =
        unsafe { libc::sysctlbyname(name.as_ptr(), out, &mut size, std::ptr::null_mut(), 0) };
    (done == 0 && size == size_of::<libc::c_int>()).then_some(value)
}
