//! The settings that are read without the lock.

use std::time::Duration;

use crate::config::{Config, nanoseconds};
use crate::ledger::UPKEEP_LEAST;
use crate::sync::{CoarseDuration, CoarseInstant, Figure};

/// The settings that are read without the lock. They are set under it.
#[derive(Default)]
pub(crate) struct Knobs {
    fresh_for: Figure,
    get_timeout: Figure,
    retire_on_panic: Figure,
    /// By the coarse clock, and so much earlier as that and upkeep itself may be off.
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
        self.fresh_for.set(CoarseDuration::new(config.check_after.min(config.max_idle_time)).0);
        self.get_timeout.set(nanoseconds(config.get_timeout));
        self.retire_on_panic.set(u64::from(config.retire_on_panic));
    }

    /// Notes when upkeep comes next, if it does.
    pub(super) fn set_next_upkeep(&self, at: Option<CoarseInstant>) {
        self.next_upkeep.set(at.map_or(u64::MAX, |at| at.before(UPKEEP_LEAST).0));
    }

    /// Whether what ends then would be found by no upkeep before the next but one.
    #[inline]
    pub(super) fn is_before_upkeep(&self, expires: u64) -> bool {
        expires < self.next_upkeep.get()
    }

    /// What has rested for longer is to be checked or closed.
    #[inline]
    pub(super) fn fresh_for(&self) -> CoarseDuration {
        CoarseDuration(self.fresh_for.get())
    }

    pub(crate) fn get_timeout(&self) -> Duration {
        // Of what nanoseconds cannot say, nobody sees the end.
        match self.get_timeout.get() {
            u64::MAX => Duration::MAX,
            nanoseconds => Duration::from_nanos(nanoseconds),
        }
    }

    pub(crate) fn retire_on_panic(&self) -> bool {
        self.retire_on_panic.get() != 0
    }
}

/// Whether the coarse clock can tell how long a connection may rest. If not, all callers go by the
/// ledger.
pub(super) fn is_timed(config: &Config) -> bool {
    config.check_after >= CoarseDuration::LEAST
}

/// How many places a pool has before it is known to need more: of one among many keys, few.
pub(super) fn places_at_first(config: &Config, is_of_a_key: bool) -> u32 {
    let at_first = if is_of_a_key { 2 } else { 16 };
    if is_timed(config) { config.max_idle().min(at_first) } else { 0 }
}
