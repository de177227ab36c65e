//! The clock of each system, in nanoseconds: see the table in `moment.rs`.

pub(super) use self::system::{coarse, precise};

#[cfg(unix)]
mod system {
    use std::mem::MaybeUninit;

    use libc::clockid_t;

    #[cfg(not(target_vendor = "apple"))]
    const PRECISE: clockid_t = libc::CLOCK_MONOTONIC;
    #[cfg(target_vendor = "apple")]
    const PRECISE: clockid_t = libc::CLOCK_UPTIME_RAW;

    #[cfg(any(target_os = "linux", target_os = "android"))]
    const COARSE: clockid_t = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(target_vendor = "apple")]
    const COARSE: clockid_t = libc::CLOCK_UPTIME_RAW_APPROX;
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
    const COARSE: clockid_t = libc::CLOCK_MONOTONIC_FAST;
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "dragonfly"
    )))]
    const COARSE: clockid_t = PRECISE;

    #[inline]
    pub(crate) fn precise() -> i64 {
        read(PRECISE).expect("the clock of `Instant`, which must be there as well")
    }

    #[inline]
    pub(crate) fn coarse() -> i64 {
        read(COARSE).unwrap_or_else(instead)
    }

    /// For a kernel without the coarse clock. Seldom called, so it stays out of its caller's code.
    #[cold]
    fn instead() -> i64 {
        precise()
    }

    #[inline]
    #[allow(unsafe_code)]
    fn read(clock: clockid_t) -> Option<i64> {
        let mut time = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: the call writes only to `time`, which outlives it.
        let result = unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
        if result != 0 {
            return None;
        }
        // SAFETY: a call that succeeds has written all of it.
        let time = unsafe { time.assume_init() };
        // Both fields are narrower on some systems.
        #[allow(clippy::unnecessary_cast)]
        Some(time.tv_sec as i64 * 1_000_000_000 + time.tv_nsec as i64)
    }
}

#[cfg(not(unix))]
mod system {
    use std::sync::LazyLock;
    use std::time::Instant;

    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

    #[inline]
    pub(crate) fn precise() -> i64 {
        let begin = *BEGIN;
        i64::try_from(Instant::now().duration_since(begin).as_nanos()).unwrap_or(i64::MAX)
    }

    pub(crate) use self::precise as coarse;
}
