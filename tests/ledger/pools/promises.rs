//! What must be true of one ledger after each of its events.

use std::time::Duration;

use crate::config::{Backoff, Config, DialRule, IdleOrder, OnDialFailure, far_future};
use crate::ledger::{Purpose, UPKEEP_LEAST};
use crate::runtime::moment::Moment;

use super::{AtDialer, Connection, Member, Outage, Place, Pools, Sleep, State, Want, small};

/// With `min_idle`, a connection is replaced at least this long before its end, but not in the first
/// three quarters of its life.
const LEAD_LEAST: Duration = Duration::from_secs(1);

/// What an event has brought, for the promises that look at the whole of it.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// Those who have a verdict since.
    pub(super) told: Vec<usize>,
    /// The connections that were closed as there were too many.
    pub(super) surplus: Vec<u32>,
    /// How many checks of idle connections have begun.
    pub(super) kept_alive: usize,
}

impl Pools {
    pub(super) fn promises_hold(&mut self, member: usize, brought: &Brought, now: Moment) {
        self.what_rests_may_be_lent(member, now);
        self.the_next_in_order_was_lent(member);
        self.there_were_too_many(member, brought);
        self.bound_holds(member);
        self.somebody_wakes_when_something_is_due(member);
        let own = &self.members[member];
        if own.is_closed {
            let mut waiting = self.waiting(member);
            let is_empty = self.open_count(member) == 0;
            let left = waiting.find(|(_, it)| it.want != Want::Rest || is_empty);
            assert!(left.is_none(), "SHUT-01: waits for a closed pool: {left:?}");
            return;
        }
        let warm = small(self.idle(member).len() + self.busy(member));
        let left = self.waiting(member).find(|(_, it)| {
            let is_warm =
                matches!(it.want, Want::WarmUp(n) if n.min(own.config.max_idle()) <= warm);
            is_warm || it.want != Want::Connection && it.failure.is_some()
        });
        assert!(left.is_none(), "REASON: nothing is left to wait for: {left:?}, {warm} open");
        if !own.is_suspended {
            self.nobody_is_stranded(member);
            self.nobody_hopes_in_vain(member, now);
            self.min_idle_is_kept(member, now);
        }
    }

    /// Connections at rest that nobody may be lent are closed or checked.
    fn what_rests_may_be_lent(&self, member: usize, now: Moment) {
        let own = &self.members[member];
        let idle = self.idle(member);
        let config = own.config;
        for it in idle.iter().map(|number| &self.connections[number]) {
            assert!(!own.is_closed && it.generation == own.generation, "SHUT-12: rests: {it:?}");
            assert!(now < self.ends_by(it), "LIFE-10: rests beyond its life: {it:?}");
            let every = config.check_idle_every.max(UPKEEP_LEAST);
            let due = it.proven_at.after(every).filter(|_| every < Duration::MAX);
            let is_due = due.is_some_and(|due| due <= now) && self.keep_alives(member) == 0;
            assert!(!is_due, "it is not checked: {it:?}");
        }
        let most = config.max_idle().max(small(self.queue(member).count()));
        assert!(small(idle.len()) <= most, "max_idle: {} rest, of {most}", idle.len());
        let live = self.open_count(member) - self.closing(member);
        assert!(idle.is_empty() || live <= config.max_open, "ACC-17: {live} open, some idle");
        let rested: Vec<_> = idle.iter().filter(|it| self.idle_before.contains(it)).collect();
        if small(rested.len()) > config.min_idle() {
            let coldest = &self.connections[rested[0]];
            let due = coldest.idle_since.after(config.max_idle_time);
            let due = due.map(|due| due.max(own.pauses_pruning_until(&config).unwrap_or(due)));
            assert!(due.is_none_or(|due| due > now), "LIFE-02: rests too long: {coldest:?}");
        }
    }

    /// FAIR-06: the one that is lent was used last, or first, of those at rest.
    fn the_next_in_order_was_lent(&mut self, member: usize) {
        let order = self.members[member].config.idle_order;
        for number in std::mem::take(&mut self.granted) {
            let since = self.connections[&number].idle_since;
            let is_next = |other: u32| match order {
                IdleOrder::Lifo => self.connections[&other].idle_since <= since,
                IdleOrder::Fifo => since <= self.connections[&other].idle_since,
            };
            let idle = self.idle(member);
            assert!(
                idle.into_iter().all(is_next),
                "FAIR-06: {number} is not the next of {order:?}"
            );
        }
    }

    /// Surplus is what `max_idle` or `max_open` does not allow: one whose end is near, or the coldest.
    fn there_were_too_many(&self, member: usize, brought: &Brought) {
        let config = self.members[member].config;
        let idle = self.idle(member);
        let rested = small(idle.len() + brought.kept_alive);
        let waiting = small(self.queue(member).count());
        let live = self.open_count(member) - self.closing(member);
        for number in &brought.surplus {
            let is_full = rested >= config.max_idle().max(waiting) || live >= config.max_open;
            assert!(is_full, "{number} was not too many: {rested} rest, {live} are open");
            let it = &self.connections[number];
            let may_leave = self.leaves_from(member, it).is_some_and(|at| at <= self.latest);
            let is_colder = |other: &u32| it.idle_since <= self.connections[other].idle_since;
            let is_coldest = !self.idle_before.contains(number) || idle.iter().all(is_colder);
            assert!(may_leave || is_coldest, "{number} is not the one to go");
        }
    }

    /// BOUND, as the server counts.
    fn bound_holds(&mut self, member: usize) {
        let open = self.open_count(member);
        let own = &mut self.members[member];
        let most = own.allowance;
        assert!(open <= most, "BOUND: {open} open, of {most}");
        own.allowance = own.config.max_open.max(most.min(open));
    }

    /// Nobody waits beside an idle connection, or while a slot is free and fewer dials than callers run.
    fn nobody_is_stranded(&self, member: usize) {
        let own = &self.members[member];
        let waiting: Vec<_> =
            self.queue(member).filter(|(_, it)| !it.is_late(self.latest)).collect();
        if waiting.is_empty() {
            return;
        }
        let idle = self.idle(member).len();
        let is_enough = idle == 0 || self.checks(member) >= waiting.len();
        let is_anyone_waking = self
            .callers
            .iter()
            .any(|it| it.member == member && matches!(it.state, State::Told(_, true)));
        assert!(is_enough || is_anyone_waking, "NO-STRANDED-WAITER: {idle} idle, {waiting:?}");
        let unfailed =
            waiting.iter().filter(|(_, it)| it.failure.is_none() && it.refused.is_empty());
        let unfailed = unfailed.count();
        let coming = self.coming(member);
        // The dial rule may hold a dial back while something is in use.
        let may_be_held = own.config.dial_rule != DialRule::Eager && self.busy(member) > 0;
        let is_enough = coming >= unfailed || self.room(member, self.latest) == 0 || may_be_held;
        assert!(is_enough, "NO-STRANDED-WAITER: a slot is free, {coming} come for {waiting:?}");
    }

    /// REASON: nobody waits who holds a failure or needs a dial, if nothing can come.
    fn nobody_hopes_in_vain(&self, member: usize, now: Moment) {
        let own = &self.members[member];
        if self.busy(member) > 0 || own.backoff().is_some() {
            return;
        }
        let probes = self.counted(member) == 0 && own.next_probe().is_none_or(|at| at <= now);
        let refuses = own.is_breaker_open() && !probes && own.outage.last_failure.is_some();
        let hopeless = self.queue(member).find(|(_, it)| {
            it.failure.is_some() && !it.may_be_revived || refuses && it.dial.is_none()
        });
        assert!(hopeless.is_none(), "REASON: waits although nothing can come: {hopeless:?}");
        let is_refused = refuses && self.counted(member) == 0;
        let warm_up = self.warm_ups(member).next().filter(|_| is_refused);
        assert!(warm_up.is_none(), "REASON: a warm-up waits although the breaker is open");
    }

    /// `min_idle` connections rest or come, unless dials fail or there is no room.
    fn min_idle_is_kept(&self, member: usize, now: Moment) {
        let own = &self.members[member];
        if own.outage.failures > 0 || own.replaces_at.is_some() || self.room(member, now) == 0 {
            return;
        }
        let coming = self.staying(member, now).1 + self.counted(member) + self.stays(member);
        let callers = self
            .queue(member)
            .filter(|(_, it)| !it.is_late(now) && it.failure.is_none() && it.refused.is_empty());
        let resting = small(coming.saturating_sub(callers.count()));
        assert!(resting >= own.config.min_idle(), "min_idle: {resting} rest or come");
    }

    /// DEADLINE: the watcher, or somebody who is awake, sees what is due.
    fn somebody_wakes_when_something_is_due(&self, member: usize) {
        let Some(due) = self.next_due(member) else { return };
        let mut waiting = self.waiting(member).peekable();
        let is_watched = waiting.peek().is_none()
            || waiting.any(|(_, it)| match it.sleep {
                Sleep::Awake => true,
                Sleep::Until(until) => until.is_some_and(|until| until <= due),
            });
        assert!(is_watched, "DEADLINE: nobody wakes at {due:?}");
    }

    // ---- What is due, and when -----------------------------------------------------------------

    /// When somebody who waits must be awake, at the latest.
    pub(super) fn next_due(&self, member: usize) -> Option<Moment> {
        let own = &self.members[member];
        let replaces = self.warm_ups(member).next().and(own.replaces_at);
        let mut queue = self.queue(member);
        let may_be_tried = self.counted(member) > 0
            || queue
                .clone()
                .any(|(_, it)| it.dial.is_none() && (it.failure.is_none() || it.may_be_revived));
        let is_wanted = queue.any(|(_, it)| it.failure.is_some());
        let may_retry = is_wanted && !may_be_tried && !own.is_suspended;
        let pauses = own.backoff().filter(|_| may_retry);
        let retry = pauses.and_then(|pauses| own.outage.retries_by(pauses));
        [self.next_job_due(member), retry, replaces].into_iter().flatten().min()
    }

    /// When a job overruns its limit.
    fn next_job_due(&self, member: usize) -> Option<Moment> {
        let dials = self.dials_of(member).filter(|it| it.is_counted).map(|it| it.deadline);
        dials.flatten().chain(self.next_connection_due(member)).min()
    }

    /// When a check, a reset or a close overruns its limit.
    fn next_connection_due(&self, member: usize) -> Option<Moment> {
        let stays = self.stays_of(member).map(|it| it.deadline);
        let closing = self.connections_of(member).filter(|(_, it)| it.is_closing());
        let closings = closing.filter_map(|(_, it)| it.retired).map(|it| it.due);
        stays.chain(closings).flatten().min()
    }

    /// NO-LOST-SLOT: time has passed, and upkeep has come where it was ordered. No slot of a budget is held by
    /// a close that has taken too long, whether or not anybody calls.
    pub(super) fn no_slot_is_held_for_too_long(&self) {
        for member in 0..self.members.len() {
            let due = self.next_connection_due(member).filter(|due| *due <= self.now);
            let next = self.members[member].upkept_at.and_then(|last| last.after(UPKEEP_LEAST));
            let is_paused = next.is_some_and(|next| self.now < next);
            assert!(due.is_none() || is_paused, "NO-LOST-SLOT: {member} holds one since {due:?}");
        }
    }

    /// When a slot that others share is held for too long, or a loan must be aborted, at the latest.
    fn lapses_at(&self, member: usize) -> Option<Moment> {
        let is_shared = !self.setting.is_alone();
        let job = self.next_connection_due(member).filter(|_| is_shared);
        let is_any_out = self.connections_of(member).any(|(_, it)| it.place == Place::Lent);
        let end = Some(self.lease.until).filter(|end| *end < Moment::LAST && is_any_out);
        let aborted_at = self.members[member].upkept_at;
        let lease = end.filter(|end| aborted_at.is_none_or(|aborted_at| aborted_at < *end));
        job.into_iter().chain(lease).min()
    }

    /// When time alone will next change something, although nobody calls, at the latest.
    pub(super) fn changes_at(&self, member: usize, now: Moment) -> Option<Moment> {
        let own = &self.members[member];
        let lapses = self.lapses_at(member);
        if own.is_closed {
            return lapses;
        }
        let config = own.config;
        let idle = self.idle(member);
        let each = idle.iter().map(|number| &self.connections[number]).flat_map(|it| {
            let end = Some(self.ends_by(it)).filter(|end| *end < Moment::LAST);
            // It may be noted already.
            let is_noted = self.leaves_from(member, it).is_some_and(|at| at <= self.latest);
            let leaves = self.leaves_by(member, it).filter(|_| !is_noted);
            let every = config.check_idle_every.max(UPKEEP_LEAST);
            let is_checking = self.keep_alives(member) > 0 || every == Duration::MAX;
            [end, leaves, it.proven_at.after(every).filter(|_| !is_checking)]
        });
        let coldest = idle.first().filter(|_| small(idle.len()) > config.min_idle());
        let idled_out = coldest.and_then(|it| {
            let due = self.connections[it].idle_since.after(config.max_idle_time)?;
            Some(due.max(own.pauses_pruning_until(&config).unwrap_or(due)))
        });
        let coming = self.staying(member, now).1 + self.counted(member) + self.stays(member);
        let resting = small(coming.saturating_sub(self.queue(member).count()));
        let is_missing = resting < config.min_idle()
            && !own.is_suspended
            && self.open_count(member) < config.max_open;
        let pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let others = own.next_probe().max(own.replaces_at);
        // If it is past, something else than time is in the way.
        let from = own.outage.retries_from(pauses).max(others).filter(|at| *at > now);
        let fill =
            own.outage.retries_by(pauses).max(others).filter(|_| is_missing && from.is_some());
        // A job that hangs must not hold these up.
        let is_held_up = config.min_idle() > 0 || self.keep_alives(member) > 0;
        let job = self.next_job_due(member).filter(|_| is_held_up);
        // A connection in use may come to rest in a place.
        let shortest = config.max_lifetime.min(config.max_idle_time).min(config.check_idle_every);
        let is_any_out = self.connections_of(member).any(|(_, it)| it.place == Place::Lent);
        let unseen = now.after(shortest).filter(|_| is_any_out && shortest < Duration::MAX);
        each.chain([idled_out, fill, job, unseen, lapses]).flatten().min()
    }

    /// When a connection has to end, at the latest: see `ends_from`.
    pub(super) fn ends_by(&self, it: &Connection) -> Moment {
        let of_age = it.opened_at.after(self.members[it.member].config.max_lifetime);
        let lease = if it.lease == self.lease.number { self.lease.until } else { Moment::LAST };
        of_age.unwrap_or(Moment::LAST).min(lease)
    }

    /// When its successor may be dialed, at the latest and at the earliest.
    fn leaves_by(&self, member: usize, it: &Connection) -> Option<Moment> {
        let config = self.members[member].config;
        let most = Some(config.max_lifetime).filter(|_| config.min_idle() > 0)?;
        it.opened_at.after(most - LEAD_LEAST.min(most / 4))
    }

    fn leaves_from(&self, member: usize, it: &Connection) -> Option<Moment> {
        let own = &self.members[member];
        let least = least_lifetime(&own.config).filter(|_| own.config.min_idle() > 0)?;
        let lead = own.longest_dial.saturating_mul(2).max(LEAD_LEAST);
        it.opened_at.after(least - lead.min(least / 4))
    }

    /// How many idle connections cannot be about to end, and how many may not be.
    pub(super) fn staying(&self, member: usize, now: Moment) -> (usize, usize) {
        let idle = self.idle(member);
        let is_by = |at: Option<Moment>, by: Moment| at.is_some_and(|at| at <= by);
        let surely = idle.iter().filter(|number| {
            !is_by(self.leaves_from(member, &self.connections[number]), self.latest)
        });
        let perhaps = idle.iter().filter(|number| {
            let is_noted = self.idle_before.contains(number);
            !(is_noted && is_by(self.leaves_by(member, &self.connections[number]), now))
        });
        (surely.count(), perhaps.count())
    }

    // ---- Sums ----------------------------------------------------------------------------------

    /// Connections in callers' hands, or at the dialer and not retired.
    pub(super) fn busy(&self, member: usize) -> usize {
        let all = self.connections_of(member);
        let busy = all.filter(|(_, it)| match it.place {
            Place::Lent => true,
            Place::AtDialer => it.retired.is_none(),
            _ => false,
        });
        busy.count()
    }

    /// Slots that count as closing.
    pub(super) fn closing(&self, member: usize) -> u32 {
        small(self.connections_of(member).filter(|(_, it)| it.is_closing()).count())
    }

    /// Slots that are taken.
    pub(super) fn open_count(&self, member: usize) -> u32 {
        let idle = self.connections_of(member).filter(|(_, it)| it.place == Place::AtRest).count();
        let dials = self.dials_of(member).count();
        small(idle + self.busy(member) + dials) + self.closing(member)
    }

    pub(super) fn counted(&self, member: usize) -> usize {
        self.dials_of(member).filter(|it| it.is_counted).count()
    }

    fn stays_of(&self, member: usize) -> impl Iterator<Item = &AtDialer> {
        self.at_dialer.iter().filter(move |it| it.member == member && it.is_counted)
    }

    pub(super) fn stays(&self, member: usize) -> usize {
        self.stays_of(member).count()
    }

    /// Checks that a caller may count on.
    pub(super) fn checks(&self, member: usize) -> usize {
        self.stays_of(member).filter(|it| it.purpose != Purpose::Reset).count()
    }

    pub(super) fn keep_alives(&self, member: usize) -> usize {
        self.stays_of(member).filter(|it| it.purpose == Purpose::KeepAlive).count()
    }

    /// How many dials may begin.
    pub(super) fn room(&self, member: usize, now: Moment) -> u32 {
        let own = &self.members[member];
        let ledger = own.ledger.as_ref().expect("it has a ledger");
        if ledger.stats_seen(now).stalled {
            return 0;
        }
        let slots = own.config.max_open.saturating_sub(self.open_count(member));
        let dials = small(self.dials_of(member).count());
        let tries = match own.config.breaker() {
            Some(_) if own.outage.failures > 0 => {
                let is_due = own.next_probe().is_none_or(|next| next <= now);
                u32::from(self.counted(member) == 0 && is_due)
            }
            _ => u32::MAX,
        };
        slots.min(own.config.max_dialing().saturating_sub(dials)).min(tries)
    }

    /// Whether the next in order of those at rest may be lent without a check, whichever of those that came
    /// to rest together that is.
    pub(super) fn can_serve(&self, member: usize, now: Moment) -> bool {
        let (own, idle) = (&self.members[member], self.idle(member));
        let next = match own.config.idle_order {
            IdleOrder::Lifo => idle.last(),
            IdleOrder::Fifo => idle.first(),
        };
        let since = |it: &u32| self.connections[it].idle_since;
        let mut nexts = idle.iter().filter(|it| next.is_some_and(|next| since(next) == since(it)));
        let may_lend = !own.is_closed && !own.is_suspended && next.is_some();
        may_lend && nexts.all(|next| self.is_fresh(*next, now))
    }

    pub(super) fn is_fresh(&self, number: u32, now: Moment) -> bool {
        let it = &self.connections[&number];
        let own = &self.members[it.member];
        now.since(it.proven_at) <= own.config.check_after
            && own.doubted_at.is_none_or(|doubted_at| it.proven_at >= doubted_at)
    }

    /// How many connections the callers of a member can count on.
    pub(super) fn coming(&self, member: usize) -> usize {
        self.counted(member) + self.checks(member) + self.idle(member).len()
    }
}

impl Connection {
    /// Whether its slot counts as closing.
    fn is_closing(&self) -> bool {
        let holds_slot = self.retired.is_some_and(|it| !it.is_slot_free);
        holds_slot && matches!(self.place, Place::AtDialer | Place::Closing)
    }
}

impl Member {
    pub(super) fn is_breaker_open(&self) -> bool {
        let breaker = self.config.breaker();
        breaker.is_some_and(|breaker| self.outage.failures >= breaker.failures())
    }

    /// The pauses after which callers whose dials have failed may dial again. `None`: they may not.
    pub(super) fn backoff(&self) -> Option<Backoff> {
        match self.config.on_dial_failure {
            OnDialFailure::Retry(backoff) if !self.is_breaker_open() => Some(backoff),
            _ => None,
        }
    }

    /// When the breaker lets another dial begin; `None` is at once.
    pub(super) fn next_probe(&self) -> Option<Moment> {
        let breaker = self.config.breaker().filter(|_| self.is_breaker_open())?;
        let failed_at = self.outage.failed_at?;
        Some(failed_at.after(breaker.probe_every()).unwrap_or_else(|| far_future(failed_at)))
    }

    /// When a caller whose dial has failed may dial again, at the earliest; `None` is never.
    pub(super) fn next_retry(&self) -> Option<Moment> {
        match self.backoff() {
            Some(pauses) => self.outage.retries_from(pauses),
            None => self.next_probe(),
        }
    }

    pub(super) fn pauses_pruning_until(&self, config: &Config) -> Option<Moment> {
        let pruned_at = self.pruned_at.filter(|_| !config.prune_every.is_zero())?;
        let pause = config.prune_every.min(config.max_idle_time).max(UPKEEP_LEAST);
        Some(pruned_at.after(pause).unwrap_or(Moment::LAST))
    }
}

/// When a connection may have to end, at the earliest: lifetimes differ by the jitter.
pub(super) fn ends_from(config: &Config, it: &Connection) -> Option<Moment> {
    it.opened_at.after(least_lifetime(config)?)
}

fn least_lifetime(config: &Config) -> Option<Duration> {
    let most = config.max_lifetime;
    let jitter = config.lifetime_jitter.unwrap_or(most / 10).min(most);
    (most < Duration::MAX).then(|| most - jitter)
}

impl Outage {
    /// When another dial may begin after these pauses, at the earliest and at the latest: each is shortened
    /// by up to a half.
    pub(super) fn retries_from(&self, pauses: Backoff) -> Option<Moment> {
        self.failed_at?.after(pauses.pause(self.failures) / 2)
    }

    fn retries_by(&self, pauses: Backoff) -> Option<Moment> {
        self.failed_at?.after(pauses.pause(self.failures))
    }
}
