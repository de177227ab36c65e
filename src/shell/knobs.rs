//! `Knobs`: the settings that threads read without the lock.

use std::time::Duration;

use crate::config::{Config, nanoseconds};
use crate::dialer::Blocking;
use crate::ledger::UPKEEP_LEAST;
use crate::runtime::moment::Moment;
use crate::runtime::shelf::Figure;
use crate::runtime::sync::now;

/// Shorter rests than this are timed by precise readings of the clock: it is a few ticks of the
/// slowest kernel's timer (100 Hz), by which the coarse ones may be late.
const COARSE_LEAST: u64 = 50_000_000; // nanoseconds

/// The settings that threads read without the lock. They are written under the lock.
///
/// All but `next_upkeep` may be read late: a thread that reads the old value acts as if it had come
/// before the change.
#[derive(Default)]
pub(crate) struct Knobs {
    /// In nanoseconds. Read at a take from a place, and at a return to one.
    fresh_for: Figure,
    /// In nanoseconds. Read by a caller who checks what it has taken from a place.
    max_idle_time: Figure,
    /// In nanoseconds. Read at each checkout that waits.
    get_timeout: Figure,
    /// In nanoseconds. Read by a caller who makes a check.
    check_timeout: Figure,
    /// 0 or 1. Read at a return during a panic.
    retire_on_panic: Figure,
    /// When upkeep comes next, as `Moment::as_nanos`, less the time by which it may come late. Written
    /// before the gate of the places is opened, and read after the gate by a thread that has put a
    /// connection into a place: so a return after the gate was opened sees the end that upkeep knows.
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
        self.fresh_for.set(rest(config.check_after.min(config.max_idle_time)));
        self.max_idle_time.set(rest(config.max_idle_time));
        self.get_timeout.set(nanoseconds(config.get_timeout));
        self.check_timeout.set(nanoseconds(config.check_timeout));
        self.retire_on_panic.set(u64::from(config.retire_on_panic));
    }

    /// Notes when upkeep comes next, if it does.
    pub(super) fn set_next_upkeep(&self, at: Option<Moment>) {
        let at = at.map_or(Some(Moment::LAST), |at| at.before(UPKEEP_LEAST));
        self.next_upkeep.set(at.map_or(0, Moment::as_nanos));
    }

    /// Whether a connection that ends then ends before the next upkeep comes, which so must come sooner.
    #[inline]
    pub(super) fn is_before_upkeep(&self, expires: Moment) -> bool {
        expires.is_before_nanos(self.next_upkeep.get())
    }

    /// Whether a connection that has rested since then needs neither a check nor a close. `now` is a
    /// coarse reading.
    #[inline]
    pub(super) fn is_fresh(&self, idle_since: Moment, now: Moment) -> bool {
        let fresh_for = self.fresh_for.get();
        self.precisely(now, fresh_for).is_within(fresh_for, idle_since)
    }

    /// When the rest of a connection begins that is returned at `now`, a coarse reading.
    #[inline]
    pub(super) fn rests_from(&self, now: Moment) -> Moment {
        self.precisely(now, self.fresh_for.get())
    }

    /// `now`, or a precise reading if `rest` is too short for a coarse clock.
    #[inline]
    fn precisely(&self, now: Moment, rest: u64) -> Moment {
        if rest >= COARSE_LEAST { now } else { precise_now() }
    }

    /// Whether a connection that has rested since then may go on resting.
    pub(super) fn may_rest_on(&self, idle_since: Moment) -> bool {
        now().is_within(self.max_idle_time.get(), idle_since)
    }

    /// When a caller who starts then has waited for `get_timeout`; `None` is never.
    pub(crate) fn late_at(&self, start: Moment) -> Option<Moment> {
        after(start, &self.get_timeout)
    }

    /// When a check that starts then has taken `check_timeout`; `None` is never.
    pub(super) fn check_late_at(&self, start: Moment) -> Option<Moment> {
        after(start, &self.check_timeout)
    }

    pub(crate) fn retire_on_panic(&self) -> bool {
        self.retire_on_panic.get() != 0
    }
}

/// How long a rest may be, in nanoseconds. More than the clock can tell means no limit.
fn rest(limit: Duration) -> u64 {
    nanoseconds(limit).min(i64::MAX as u64)
}

fn after(start: Moment, limit: &Figure) -> Option<Moment> {
    Some(start.after_nanos(limit.get())).filter(|at| *at < Moment::LAST)
}

/// The precise clock, out of the way of those who do not read it.
#[cold]
fn precise_now() -> Moment {
    now()
}

/// Whether callers can take connections from the places: not if a worker checks every connection
/// before every loan, or if the ledger must see each loan.
pub(super) fn may_lay_out(config: &Config, blocking: Blocking) -> bool {
    config.may_lend_without_ledger() && (!config.check_after.is_zero() || !blocking.check)
}

/// How many places a pool has at first. One that shares a budget has few, as there may be many keys.
pub(super) fn places_at_first(config: &Config, blocking: Blocking, has_budget: bool) -> u32 {
    let at_first = if has_budget { 2 } else { 16 };
    if may_lay_out(config, blocking) { config.max_idle().min(at_first) } else { 0 }
}
