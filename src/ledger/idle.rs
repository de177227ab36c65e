//! The idle connections, in the order in which they came to rest, and when time will next change one.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::{Config, nanoseconds};
use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::entry::Entry;
use super::lease::Lease;
use super::queue::count;

/// The least time between two upkeeps, and between two checks of one idle connection, however short the
/// limits.
pub(crate) const UPKEEP_LEAST: Duration = Duration::from_millis(100);

/// With `min_idle`, a successor is dialed this long before a connection has to end, or by the time of
/// two dials if that is longer.
const LEAD_LEAST: Duration = Duration::from_secs(1);

/// No connection is replaced before it has lived three quarters of its life: at most this part of it
/// is left.
const LEAD_PART: u64 = 4;

/// Each check is earlier by a random part of a tenth of the interval, so that checks that were due
/// together once are not due together again.
const CHECK_SPREAD: u64 = 10;

/// A time limit of this many nanoseconds, 584 years, is none.
const NEVER: u64 = u64::MAX;

/// The limits of age, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aging {
    max_lifetime: u64,
    lifetime_jitter: u64,
    check_every: u64,
    /// How long before its end a connection is replaced; `NEVER`: it is not replaced before.
    lead: u64,
    /// When the quota's lease ends, and every connection with it; `Moment::LAST` is never.
    lease_end: Moment,
    /// For how long a connection may be lent without a check.
    pub(super) check_after: u64,
    /// For how long a connection may be idle.
    pub(super) max_idle_time: u64,
    /// The least time between two closes for that; 0 is none.
    pub(super) prune_every: u64,
    /// The shortest of all limits of age, idle time, checks and loans.
    pub(super) shortest: u64,
}

impl Aging {
    /// Connections are replaced before their end only if `min_idle` would dial for an ended one at once. So
    /// without `min_idle` there is no `lead`.
    pub(super) fn new(config: &Config, lease: Lease, dial_time: Option<Duration>) -> Self {
        let Config { max_lifetime, max_idle_time, check_idle_every, leak_after, .. } = *config;
        let prune_every = config.prune_every;
        let jitter = config.lifetime_jitter.unwrap_or(max_lifetime / 10).min(max_lifetime);
        let two_dials = dial_time.unwrap_or_default().saturating_mul(2);
        let shortest = max_lifetime.min(max_idle_time).min(check_idle_every).min(leak_after);
        Self {
            max_lifetime: nanoseconds(max_lifetime),
            lifetime_jitter: nanoseconds(jitter),
            check_every: nanoseconds(check_idle_every.max(UPKEEP_LEAST)),
            lead: if config.min_idle() > 0 {
                nanoseconds(two_dials.max(LEAD_LEAST))
            } else {
                NEVER
            },
            lease_end: lease.until,
            check_after: nanoseconds(config.check_after),
            max_idle_time: nanoseconds(max_idle_time),
            prune_every: nanoseconds(if prune_every.is_zero() {
                Duration::ZERO
            } else {
                prune_every.min(max_idle_time).max(UPKEEP_LEAST)
            }),
            shortest: nanoseconds(shortest),
        }
    }

    /// When a connection has to end; `Moment::LAST` is never.
    pub(super) fn ends_at<C>(&self, entry: &Entry<C>) -> Moment {
        let of_age = |lifetime| entry.opened_at().after_nanos(lifetime);
        self.lifetime(entry).map_or(Moment::LAST, of_age).min(self.lease_end)
    }

    /// The reason for closing a connection that has to end by now.
    pub(super) fn reason(&self, now: Moment) -> CloseReason {
        if self.lease_end <= now { CloseReason::LeaseEnded } else { CloseReason::Expired }
    }

    fn lifetime<C>(&self, entry: &Entry<C>) -> Option<u64> {
        let early = entry.fraction.of_nanos(self.lifetime_jitter);
        (self.max_lifetime < NEVER).then(|| self.max_lifetime - early)
    }

    /// When a dial for its successor may begin.
    fn leaves_at<C>(&self, entry: &Entry<C>) -> Moment {
        let Some(lifetime) = self.lifetime(entry).filter(|_| self.lead < NEVER) else {
            return Moment::LAST;
        };
        entry.opened_at().after_nanos(lifetime - self.lead.min(lifetime / LEAD_PART))
    }

    /// When it is to be checked, if it is still idle then.
    fn check_at<C>(&self, entry: &Entry<C>) -> Moment {
        if self.check_every == NEVER {
            return Moment::LAST;
        }
        let early = entry.fraction.of_nanos(self.check_every / CHECK_SPREAD);
        entry.proven_at.after_nanos(self.check_every - early)
    }

    /// When time will next change something about it.
    fn next<C>(&self, entry: &Entry<C>, checks: bool) -> Moment {
        let mut next = entry.known_end().unwrap_or_else(|| self.ends_at(entry));
        if self.lead < NEVER && !entry.is_leaving {
            next = next.min(self.leaves_at(entry));
        }
        if checks {
            next = next.min(self.check_at(entry));
        }
        next
    }
}

/// The idle connections, the most recently used at the back.
#[derive(Debug)]
pub(super) struct Idle<C> {
    entries: VecDeque<Entry<C>>,
    /// How many of them have `is_leaving`. They do not count towards `min_idle`.
    leaving: u32,
    /// Time changes nothing about them before this, and perhaps nothing then.
    pub(super) due: Moment,
}

impl<C> Idle<C> {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), leaving: 0, due: Moment::LAST }
    }

    pub(super) fn len(&self) -> u32 {
        count(self.entries.len())
    }

    /// How many are not about to end.
    pub(super) fn staying(&self) -> u32 {
        self.len() - self.leaving
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a connection in the order of `idle_since`. Nearly always that is the back.
    pub(super) fn insert(&mut self, mut entry: Entry<C>, aging: &Aging) {
        entry.is_leaving = false;
        self.due = self.due.min(aging.next(&entry, true));
        if self.warmest().is_none_or(|warmest| warmest.idle_since <= entry.idle_since) {
            return self.entries.push_back(entry);
        }
        let at = self.entries.partition_point(|other| other.idle_since <= entry.idle_since);
        self.entries.insert(at, entry);
    }

    /// The most recently used connection.
    pub(super) fn warmest(&self) -> Option<&Entry<C>> {
        self.entries.back()
    }

    /// The connection that has been idle longest.
    pub(super) fn coldest(&self) -> Option<&Entry<C>> {
        self.entries.front()
    }

    pub(super) fn take_warmest(&mut self) -> Option<Entry<C>> {
        let entry = self.entries.pop_back();
        self.note_taken(entry)
    }

    pub(super) fn take_coldest(&mut self) -> Option<Entry<C>> {
        let entry = self.entries.pop_front();
        self.note_taken(entry)
    }

    pub(super) fn take_all(&mut self) -> VecDeque<Entry<C>> {
        self.leaving = 0;
        std::mem::take(&mut self.entries)
    }

    /// Takes the connection that matters least: one whose end is near, or else the coldest.
    pub(super) fn take_surplus(&mut self) -> Option<Entry<C>> {
        if self.leaving == 0 {
            return self.take_coldest();
        }
        self.take_where(|entry| entry.is_leaving)
    }

    /// Takes one connection that has to end by now. If there is none, marks those whose end is near.
    pub(super) fn take_ended(&mut self, aging: &Aging, now: Moment) -> Option<Entry<C>> {
        if self.due > now {
            return None;
        }
        let ended = self.take_where(|entry| aging.ends_at(entry) <= now);
        if ended.is_none() {
            for entry in &mut self.entries {
                if !entry.is_leaving && aging.leaves_at(entry) <= now {
                    entry.is_leaving = true;
                    self.leaving += 1;
                }
            }
        }
        ended
    }

    /// Takes one connection whose check is due, if `checks` may be made. Sets when to look next: call
    /// it after `take_ended` has found nothing.
    pub(super) fn take_unchecked(
        &mut self,
        aging: &Aging,
        checks: bool,
        now: Moment,
    ) -> Option<Entry<C>> {
        if self.due > now {
            return None;
        }
        let is_unchecked = |entry: &Entry<C>| aging.check_at(entry) <= now;
        let unchecked = if checks { self.take_where(is_unchecked) } else { None };
        let may_check = checks && unchecked.is_none();
        let next = self.entries.iter().map(|entry| aging.next(entry, may_check)).min();
        self.due = next.unwrap_or(Moment::LAST);
        unchecked
    }

    /// When time may change something about them; `None` is never.
    pub(super) fn next_due(&self) -> Option<Moment> {
        // If that connection has left, there is nothing to wake up for.
        (self.due < Moment::LAST && !self.entries.is_empty()).then_some(self.due)
    }

    /// The settings have changed, so all noted ends are out of date from this `epoch` on.
    pub(super) fn forget_ends(&mut self, epoch: u32, now: Moment) {
        self.due = now;
        self.leaving = 0;
        for entry in &mut self.entries {
            entry.is_leaving = false;
            entry.pass(epoch);
        }
    }

    fn take_where(&mut self, is_it: impl FnMut(&Entry<C>) -> bool) -> Option<Entry<C>> {
        let at = self.entries.iter().position(is_it)?;
        let entry = self.entries.remove(at);
        self.note_taken(entry)
    }

    fn note_taken(&mut self, entry: Option<Entry<C>>) -> Option<Entry<C>> {
        self.leaving -= entry.as_ref().map_or(0, |entry| u32::from(entry.is_leaving));
        entry
    }
}
