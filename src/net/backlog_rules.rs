//! Turns the texts and numbers of kernels about backlogs into a backlog. Makes no system call.

/// The largest `u16`, the type in which older kernels keep the backlog.
///
/// A larger one wraps round there: 65536 becomes 0 (golang/go#5030).
const U16_BACKLOG: u32 = 65_535;

/// The largest backlog that Linux grants, from the text of `somaxconn` and the kernel's release.
///
/// The kernel keeps it in 32 bits since 4.1. A release that cannot be read counts as old, because
/// 65535 is right on both.
pub(crate) fn linux(somaxconn: Option<&str>, osrelease: Option<&str>) -> u32 {
    let release = osrelease.and_then(release);
    // The kernel's own default: 4096 since 5.4, 128 before.
    let default = if release >= Some((5, 4)) { 4096 } else { 128 };
    somaxconn.and_then(number).unwrap_or(default).min(linux_keeps(release))
}

/// The backlog to ask Linux for, to be granted the most.
///
/// Linux cuts a larger number down to `somaxconn`, so `somaxconn` need not be known (there may be
/// no `/proc`, golang/go#79002). Only the number must not exceed the type in which the kernel keeps
/// it.
pub(crate) fn linux_asks(somaxconn: Option<&str>, osrelease: Option<&str>) -> u32 {
    match linux_keeps(osrelease.and_then(release)) {
        U16_BACKLOG => linux(somaxconn, osrelease),
        most => most,
    }
}

/// The largest backlog that a release of Linux can keep.
fn linux_keeps(release: Option<(u32, u32)>) -> u32 {
    if release >= Some((4, 1)) { i32::MAX.unsigned_abs() } else { U16_BACKLOG }
}

/// The backlog from a BSD's sysctl.
pub(crate) fn bsd(sysctl: Option<i32>) -> u32 {
    sysctl.and_then(|value| u32::try_from(value).ok()).filter(|&value| value > 0).map_or(
        128, // SOMAXCONN of every BSD
        |value| value.min(U16_BACKLOG),
    )
}

/// The largest argument of Winsock's `SOMAXCONN_HINT`.
pub(crate) const WINSOCK_MOST: u32 = 65_535;

/// The argument of Winsock's `listen` for a backlog.
///
/// A positive number is cut down to 200, and so is `SOMAXCONN`. Only a negative number, which the
/// macro `SOMAXCONN_HINT` makes, is granted more (Microsoft's page on `listen`).
pub(crate) fn winsock_asks(backlog: u32) -> i32 {
    let backlog = i32::try_from(backlog.min(WINSOCK_MOST)).expect("65,535 fits");
    if backlog > 200 { -backlog } else { backlog }
}

/// The first word of a text as a number above zero. A number too large for 32 bits becomes the
/// largest.
fn number(text: &str) -> Option<u32> {
    let word = text.split_ascii_whitespace().next()?;
    if !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(word.parse().unwrap_or(u32::MAX)).filter(|&number| number > 0)
}

/// Major and minor version: `6.18.44-cloud` is (6, 18), and so is `6.18-rc1`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A counter of `/proc/net/netstat`, where a line of names is followed by a line of values.
pub(crate) fn netstat(text: &str, name: &str) -> Option<u64> {
    let lines: Vec<&str> = text.lines().collect();
    lines.chunks_exact(2).find_map(|pair| {
        let place = pair[0].split_ascii_whitespace().position(|word| word == name)?;
        pair[1].split_ascii_whitespace().nth(place)?.parse().ok()
    })
}
