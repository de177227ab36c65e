//! The lines that a pool writes through the [`log`](https://docs.rs/log) facade; empty without
//! feature `log`.
//!
//! A logger is user code, so nothing here is called under a lock of the pool. If it panics, only
//! the line is lost.

#[cfg(feature = "log")]
mod kept {
    use std::error::Error;
    use std::fmt;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    use log::Level;

    use crate::report::error::{DialFailure, OneLine};
    use crate::report::holder::Holder;
    use crate::runtime::moment::Moment;
    use crate::runtime::sync::{Mutex, Process, catch, now};

    /// The most lines of one kind in any `PERIOD`, so that a fault that comes and goes many times
    /// a second writes only a few.
    const LINES: usize = 3;
    const PERIOD: Duration = Duration::from_secs(60);

    /// The lines of a pool, or of all keys of a keyed pool. They take no memory before the first
    /// line.
    #[derive(Debug)]
    pub(crate) struct Log {
        limits: OnceLock<Box<Limits>>,
        /// The process that made it. A child of that process uses one of its own.
        process: Process,
    }

    impl Default for Log {
        fn default() -> Self {
            Self { limits: OnceLock::new(), process: Process::this() }
        }
    }

    #[derive(Debug, Default)]
    struct Limits {
        failing: Limit,
        refusing: Limit,
        recovered: Limit,
        leaked: Limit,
        panicked: Limit,
    }

    /// The dials of one pool, or of one key, that have failed in a row.
    #[derive(Debug, Default)]
    pub(crate) struct Streak {
        failures: AtomicU32,
        /// Whether a line has said that callers are refused.
        is_refusing: AtomicBool,
    }

    impl Log {
        fn limits(&self) -> &Limits {
            self.limits.get_or_init(Box::default)
        }

        /// A dial has failed. Logs the first failure of a streak, and later ones once in a while.
        pub(crate) fn dial_failed<E: Error + 'static>(
            &self,
            pool: Option<&str>,
            streak: &Streak,
            failure: &DialFailure<E>,
        ) {
            let failures = streak.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let cause = OneLine(failure);
            if failures == 1 {
                self.limits().failing.say(
                    pool,
                    Level::Warn,
                    Duration::ZERO,
                    format_args!("a dial failed: {cause}"),
                );
            } else {
                self.limits().failing.say(
                    pool,
                    Level::Warn,
                    PERIOD,
                    format_args!("{failures} dials in a row have failed: {cause}"),
                );
            }
        }

        /// The breaker has opened.
        pub(crate) fn refusing(&self, pool: Option<&str>, streak: &Streak, failures: u32) {
            streak.is_refusing.store(true, Ordering::Relaxed);
            self.limits().refusing.say(
                pool,
                Level::Warn,
                Duration::ZERO,
                format_args!(
                    "callers that no open connection can serve are refused until a dial succeeds, \
                     after {failures} failures in a row"
                ),
            );
        }

        /// A dial has succeeded.
        pub(crate) fn dialed(&self, pool: Option<&str>, streak: &Streak) {
            let failures = streak.failures.swap(0, Ordering::Relaxed);
            let has_refused = streak.is_refusing.swap(false, Ordering::Relaxed);
            if failures > 0 {
                let then = if has_refused { "; callers are refused no more" } else { "" };
                self.limits().recovered.say(
                    pool,
                    Level::Info,
                    Duration::ZERO,
                    format_args!("a dial succeeded after {failures} that failed{then}"),
                );
            }
        }

        /// A connection is held for longer than `leak_after`.
        pub(crate) fn leaked(&self, pool: Option<&str>, holder: &Holder) {
            self.limits().leaked.say(
                pool,
                Level::Warn,
                Duration::ZERO,
                format_args!("a connection may have leaked: {holder}"),
            );
        }

        /// User code has panicked.
        pub(crate) fn panicked(&self, pool: Option<&str>) {
            let line = format_args!(
                "code that the pool calls (its dialer, an observer, a predicate) has panicked"
            );
            self.limits().panicked.say(pool, Level::Error, Duration::ZERO, line);
        }
    }

    /// Limits the lines of one kind.
    #[derive(Debug)]
    struct Limit(Mutex<Allowance>);

    #[derive(Debug)]
    struct Allowance {
        /// When the latest lines were written, the latest of all last.
        said_at: [Moment; LINES],
        withheld: u64,
    }

    impl Default for Limit {
        fn default() -> Self {
            Self(Mutex::new(Allowance { said_at: [Moment::FIRST; LINES], withheld: 0 }))
        }
    }

    impl Limit {
        /// Writes a line, unless there have been too many, or the latest is not older than `every`.
        fn say(&self, pool: Option<&str>, level: Level, every: Duration, line: fmt::Arguments<'_>) {
            catch(|| {
                if !log::log_enabled!(target: "latebind", level) {
                    return;
                }
                let Some(withheld) = self.0.lock().take(now(), every) else { return };
                let pool = pool.map_or(String::new(), |pool| format!("pool {pool}: "));
                match withheld {
                    0 => log::log!(target: "latebind", level, "{pool}{line}"),
                    _ => log::log!(
                        target: "latebind", level, "{pool}{line} ({withheld} lines like this withheld)"
                    ),
                }
            });
        }
    }

    impl Allowance {
        /// Whether a line may be written, and then how many have been withheld before it.
        fn take(&mut self, now: Moment, every: Duration) -> Option<u64> {
            let [first, .., latest] = self.said_at;
            if now.since(latest) < every {
                return None;
            }
            if now.since(first) < PERIOD {
                self.withheld += 1;
                return None;
            }
            self.said_at.rotate_left(1);
            self.said_at[LINES - 1] = now;
            Some(std::mem::take(&mut self.withheld))
        }
    }

    /// Shared by the shells of all keys.
    pub(crate) type SharedLog = Arc<Log>;

    /// That log. In the child of a fork: a new one.
    pub(crate) fn here(log: SharedLog) -> SharedLog {
        if log.process.is_a_parent() { SharedLog::default() } else { log }
    }
}

#[cfg(not(feature = "log"))]
mod kept {
    use crate::report::error::DialFailure;
    use crate::report::holder::Holder;

    /// Nothing.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Log(());

    /// Nothing.
    #[derive(Debug, Default)]
    pub(crate) struct Streak(());

    impl Log {
        pub(crate) fn dial_failed<E>(&self, _: Option<&str>, _: &Streak, _: &DialFailure<E>) {}

        pub(crate) fn refusing(&self, _: Option<&str>, _: &Streak, _: u32) {}

        pub(crate) fn dialed(&self, _: Option<&str>, _: &Streak) {}

        pub(crate) fn leaked(&self, _: Option<&str>, _: &Holder) {}

        pub(crate) fn panicked(&self, _: Option<&str>) {}
    }

    pub(crate) type SharedLog = Log;

    pub(crate) fn here(log: SharedLog) -> SharedLog {
        log
    }
}

pub(crate) use self::kept::{SharedLog, Streak, here};
