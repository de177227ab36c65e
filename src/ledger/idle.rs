//! The idle connections, in the order in which they came to rest, and when time will change one.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::moment::Moment;

use super::entry::Entry;
use super::queue::count;
use super::upkeep::UPKEEP_LEAST;

/// A connection is replaced before it has to end, by this or by two dials, whichever is longer.
const LEAD_LEAST: Duration = Duration::from_secs(1);

/// No connection is replaced before it has lived three quarters of its life.
const LEAD_SHARE: u32 = 4;

/// Checks that were begun together do not fall due together again: by this part of the interval.
const CHECK_SPREAD: u32 = 10;

/// What time does to a connection at rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aging {
    max_lifetime: Duration,
    lifetime_jitter: Duration,
    check_every: Duration,
    /// How long before its end a connection is replaced; `None`: it is not.
    lead: Option<Duration>,
}

impl Aging {
    /// Connections are replaced early only where `min_idle` would want them back at once.
    pub(super) fn new(config: &Config, dial_time: Option<Duration>) -> Self {
        let tenth = config.max_lifetime / 10;
        let two_dials = dial_time.unwrap_or_default().saturating_mul(2);
        Self {
            max_lifetime: config.max_lifetime,
            lifetime_jitter: config.lifetime_jitter.unwrap_or(tenth).min(config.max_lifetime),
            check_every: config.check_idle_every.max(UPKEEP_LEAST),
            lead: (config.min_idle() > 0).then_some(two_dials.max(LEAD_LEAST)),
        }
    }

    /// When a connection has to end; `None` is never.
    pub(super) fn ends_at<C>(&self, entry: &Entry<C>) -> Option<Moment> {
        entry.opened_at().after(self.lifetime(entry)?)
    }

    pub(super) fn has_ended<C>(&self, entry: &Entry<C>, now: Moment) -> bool {
        self.ends_at(entry).is_some_and(|end| end <= now)
    }

    fn lifetime<C>(&self, entry: &Entry<C>) -> Option<Duration> {
        let early = entry.share.of(self.lifetime_jitter);
        (self.max_lifetime < Duration::MAX).then(|| self.max_lifetime.saturating_sub(early))
    }

    /// When a dial for its successor may begin.
    fn leaves_at<C>(&self, entry: &Entry<C>) -> Option<Moment> {
        let lifetime = self.lifetime(entry)?;
        let lead = self.lead?.min(lifetime / LEAD_SHARE);
        entry.opened_at().after(lifetime - lead)
    }

    /// When it is to be checked, if it still rests then.
    fn check_at<C>(&self, entry: &Entry<C>) -> Option<Moment> {
        let early = entry.share.of(self.check_every / CHECK_SPREAD);
        entry
            .proven_at
            .after(self.check_every.checked_sub(early)?)
            .filter(|_| self.check_every < Duration::MAX)
    }

    /// When time will next change something about it.
    fn next<C>(&self, entry: &Entry<C>, checks: bool) -> Option<Moment> {
        let leaves = if entry.is_leaving { None } else { self.leaves_at(entry) };
        let check = if checks { self.check_at(entry) } else { None };
        [self.ends_at(entry), leaves, check].into_iter().flatten().min()
    }
}

/// Connections at rest, the most recently used at the back.
#[derive(Debug)]
pub(super) struct Idle<C> {
    entries: VecDeque<Entry<C>>,
    /// Of these, the ones whose end is near: they do not count towards `min_idle`.
    leaving: u32,
    /// Before this, time changes nothing about them; perhaps not then either.
    due: Option<Moment>,
}

impl<C> Idle<C> {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), leaving: 0, due: None }
    }

    pub(super) fn len(&self) -> u32 {
        count(self.entries.len())
    }

    /// Those whose end is not near.
    pub(super) fn staying(&self) -> u32 {
        self.len() - self.leaving
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a connection in the order of `idle_since`. Nearly always that is the back.
    pub(super) fn insert(&mut self, mut entry: Entry<C>, aging: &Aging) {
        entry.is_leaving = false;
        self.due = self.due.into_iter().chain(aging.next(&entry, true)).min();
        let at = self.entries.partition_point(|other| other.idle_since <= entry.idle_since);
        self.entries.insert(at, entry);
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry<C>> {
        self.entries.iter_mut()
    }

    /// The most recently used one.
    pub(super) fn warmest(&self) -> Option<&Entry<C>> {
        self.entries.back()
    }

    /// The one that has rested longest.
    pub(super) fn coldest(&self) -> Option<&Entry<C>> {
        self.entries.front()
    }

    pub(super) fn take_warmest(&mut self) -> Option<Entry<C>> {
        let entry = self.entries.pop_back();
        self.noted(entry)
    }

    pub(super) fn take_coldest(&mut self) -> Option<Entry<C>> {
        let entry = self.entries.pop_front();
        self.noted(entry)
    }

    pub(super) fn take_all(&mut self) -> VecDeque<Entry<C>> {
        self.leaving = 0;
        std::mem::take(&mut self.entries)
    }

    /// The one to do without: one whose end is near, or else the coldest.
    pub(super) fn take_surplus(&mut self) -> Option<Entry<C>> {
        if self.leaving == 0 {
            return self.take_coldest();
        }
        self.take_where(|entry| entry.is_leaving)
    }

    /// Takes out one that has to end by now, and notes those whose end is near.
    pub(super) fn take_ended(&mut self, aging: &Aging, now: Moment) -> Option<Entry<C>> {
        if !self.is_due(now) {
            return None;
        }
        let ended = self.take_where(|entry| aging.has_ended(entry, now));
        if ended.is_none() {
            for entry in &mut self.entries {
                if !entry.is_leaving && aging.leaves_at(entry).is_some_and(|at| at <= now) {
                    entry.is_leaving = true;
                    self.leaving += 1;
                }
            }
        }
        ended
    }

    /// Takes out one whose check is due, if there is one and `checks` may be made; and settles when
    /// to look next.
    pub(super) fn take_unchecked(
        &mut self,
        aging: &Aging,
        checks: bool,
        now: Moment,
    ) -> Option<Entry<C>> {
        if !self.is_due(now) {
            return None;
        }
        let is_unchecked = |entry: &Entry<C>| aging.check_at(entry).is_some_and(|at| at <= now);
        let unchecked = if checks { self.take_where(is_unchecked) } else { None };
        let may_check = checks && unchecked.is_none();
        self.due = self.entries.iter().filter_map(|entry| aging.next(entry, may_check)).min();
        unchecked
    }

    /// When to look at them again.
    pub(super) fn due(&self) -> Option<Moment> {
        // Of one that has gone since, nobody has to be woken.
        self.due.filter(|_| !self.entries.is_empty())
    }

    /// The settings have changed: whatever was known of anyone's end is out of date.
    pub(super) fn reconsider(&mut self, now: Moment) {
        self.look_again(now);
        self.leaving = 0;
        for entry in &mut self.entries {
            (entry.is_leaving, entry.expires) = (false, Moment::FIRST);
        }
    }

    /// A check is possible again.
    pub(super) fn look_again(&mut self, now: Moment) {
        self.due = Some(now);
    }

    fn is_due(&self, now: Moment) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    fn take_where(&mut self, is_it: impl FnMut(&Entry<C>) -> bool) -> Option<Entry<C>> {
        let at = self.entries.iter().position(is_it)?;
        let entry = self.entries.remove(at);
        self.noted(entry)
    }

    fn noted(&mut self, entry: Option<Entry<C>>) -> Option<Entry<C>> {
        self.leaving -= entry.as_ref().map_or(0, |entry| u32::from(entry.is_leaving));
        entry
    }
}
