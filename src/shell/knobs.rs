//! The settings that are read without the lock.

use std::time::Duration;

use crate::config::{Config, nanoseconds};
use crate::ledger::UPKEEP_LEAST;
use crate::moment::Moment;
use crate::shelf::Figure;

/// Of a shorter `check_after`, coarse readings of the clock do not tell how long something has rested: a few
/// ticks of the slowest kernel's timer (100 Hz).
const TIMED_LEAST: Duration = Duration::from_millis(50);

/// The settings that are read without the lock. They are set under it.
///
/// All but `next_upkeep` may be read late: whoever reads the old value acts as if it had come before
/// the change.
#[derive(Default)]
pub(crate) struct Knobs {
    /// In nanoseconds. Read by whoever takes from a place.
    fresh_for: Figure,
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

    /// Whether what has rested since then need be neither checked nor closed.
    #[inline]
    pub(super) fn is_fresh(&self, idle_since: Moment, now: Moment) -> bool {
        now.nanos_since(idle_since) <= self.fresh_for.get()
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

/// Whether coarse readings of the clock can tell how long a connection may rest. If not, all callers
/// go by the ledger.
pub(super) fn is_timed(config: &Config) -> bool {
    config.check_after >= TIMED_LEAST
}

/// How many places a pool has before it is known to need more: of one among many keys, few.
pub(super) fn places_at_first(config: &Config, is_of_a_key: bool) -> u32 {
    let at_first = if is_of_a_key { 2 } else { 16 };
    if is_timed(config) { config.max_idle().min(at_first) } else { 0 }
}
