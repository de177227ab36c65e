//! The settings that are read without the lock.

use std::time::Duration;

use crate::config::{Config, nanoseconds};
use crate::dialer::Blocking;
use crate::ledger::UPKEEP_LEAST;
use crate::moment::Moment;
use crate::shelf::Figure;
use crate::sync::now;

/// Shorter rests than this are timed by precise readings of the clock: it is a few ticks of the
/// slowest kernel's timer (100 Hz), by which the coarse ones may be late.
const COARSE_LEAST: u64 = 50_000_000; // nanoseconds

/// The settings that are read without the lock. They are set under it.
///
/// All but `next_upkeep` may be read late: whoever reads the old value acts as if it had come before
/// the change.
#[derive(Default)]
pub(crate) struct Knobs {
    /// In nanoseconds. Read by whoever takes from a place and whoever puts something there.
    fresh_for: Figure,
    /// In nanoseconds. Read by whoever checks what it has taken from a place.
    max_idle_time: Figure,
    /// In nanoseconds. Read by whoever comes for a connection.
    get_timeout: Figure,
    /// In nanoseconds. Read by whoever checks what it is lent.
    check_timeout: Figure,
    /// 0 or 1. Read by whoever returns a connection in a panic.
    retire_on_panic: Figure,
    /// As `Moment::as_nanos`, and so much earlier as upkeep may come late. Written before the gate of
    /// the places is opened, and read after the gate by whoever has put a connection down.
    next_upkeep: Figure,
}

impl Knobs {
    pub(super) fn new(config: &Config) -> Self {
        let knobs = Self::default();
        knobs.set(config);
        knobs.set_next_upkeep(None);
        knobs
    }

    pub(super) fn set(&self, config: &Config) {
        self.fresh_for.set(nanoseconds(config.check_after.min(config.max_idle_time)));
        self.max_idle_time.set(nanoseconds(config.max_idle_time));
        self.get_timeout.set(nanoseconds(config.get_timeout));
        self.check_timeout.set(nanoseconds(config.check_timeout));
        self.retire_on_panic.set(u64::from(config.retire_on_panic));
    }

    /// Notes when upkeep comes next, if it does.
    pub(super) fn set_next_upkeep(&self, at: Option<Moment>) {
        let at = at.map_or(Some(Moment::LAST), |at| at.before(UPKEEP_LEAST));
        self.next_upkeep.set(at.map_or(0, Moment::as_nanos));
    }

    /// Whether what ends then would be found by no upkeep before the next but one.
    #[inline]
    pub(super) fn is_before_upkeep(&self, expires: Moment) -> bool {
        expires.as_nanos() < self.next_upkeep.get()
    }

    /// Whether a connection that has rested since then need be neither checked nor closed, `now` being
    /// a coarse reading.
    #[inline]
    pub(super) fn is_fresh(&self, idle_since: Moment, now: Moment) -> bool {
        let fresh_for = self.fresh_for.get();
        self.precisely(now, fresh_for).is_within(fresh_for, idle_since)
    }

    /// From when on a connection rests that is put down at a coarse `now`.
    #[inline]
    pub(super) fn rests_from(&self, now: Moment) -> Moment {
        self.precisely(now, self.fresh_for.get())
    }

    /// A coarse reading, or a precise one if a coarse one does not tell so short a rest.
    #[inline]
    fn precisely(&self, now: Moment, rest: u64) -> Moment {
        if rest >= COARSE_LEAST { now } else { precise_now() }
    }

    /// Whether a connection that has rested since then is not to be closed for that.
    pub(super) fn may_rest_on(&self, idle_since: Moment) -> bool {
        now().is_within(self.max_idle_time.get(), idle_since)
    }

    pub(crate) fn get_timeout(&self) -> Duration {
        span(&self.get_timeout)
    }

    pub(super) fn check_timeout(&self) -> Duration {
        span(&self.check_timeout)
    }

    pub(crate) fn retire_on_panic(&self) -> bool {
        self.retire_on_panic.get() != 0
    }
}

fn span(nanoseconds: &Figure) -> Duration {
    // Nobody sees the end of what nanoseconds cannot say.
    match nanoseconds.get() {
        u64::MAX => Duration::MAX,
        nanoseconds => Duration::from_nanos(nanoseconds),
    }
}

/// The clock of those who time short rests.
#[cold]
fn precise_now() -> Moment {
    now()
}

/// Whether connections are of any use in the places: not where each is checked before each loan, and
/// by another thread than the caller's.
pub(super) fn may_lay_out(config: &Config, blocking: Blocking) -> bool {
    !config.check_after.is_zero() || !blocking.check
}

/// How many places a pool has before it is known to need more: of one among many keys, few.
pub(super) fn places_at_first(config: &Config, blocking: Blocking, is_of_a_key: bool) -> u32 {
    let at_first = if is_of_a_key { 2 } else { 16 };
    if may_lay_out(config, blocking) { config.max_idle().min(at_first) } else { 0 }
}
