//! Upkeep: what time does to idle connections, and how many of them there should be.
//!
//! *Upkeep* is an event that comes by the clock, although nobody calls. The *alarm* is the time for
//! which it is ordered; one worker, the *housekeeper*, keeps the alarms of all pools. The *watcher*
//! (`watcher.rs`) is something else: a caller who waits, and wakes when something is due.
//!
//! Nothing here needs a regular tick. A connection that has to end is neither lent nor kept, whenever
//! that is noticed; upkeep makes sure that it is noticed in time.

use crate::ledger::close_reason::CloseReason;
use std::time::Duration;

use crate::runtime::moment::Moment;

use super::answers::{Overdue, Waker};
use super::effects::{Effects, Purpose};
use super::entry::Entry;
use super::idle::{Aging, UPKEEP_LEAST};
use super::jobs::Sponsor;
use super::settle::Quiet;
use super::share::Share;
use super::{Ledger, earlier};

/// The time between two looks for a slot that no other key needs.
const SPARE_SLOT_EVERY: Duration = Duration::from_secs(1);

/// When upkeep comes, and when it last came.
#[derive(Debug, Default)]
pub(super) struct UpkeepTimes {
    alarm: Option<Moment>,
    last: Option<Moment>,
    /// When idle connections may be replaced; `None` is at once. A connection that expires as soon as
    /// it is opened would otherwise be replaced without end.
    pub(super) replaces_at: Option<Moment>,
    /// When a connection was last closed because it had been idle for too long.
    pruned_at: Option<Moment>,
}

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// The time of the alarm has come.
    pub(crate) fn upkeep(&mut self, now: Moment) -> Effects<C, F, W> {
        self.upkeep.alarm = None;
        self.upkeep.last = Some(now);
        self.settled(now, |ledger, effects| ledger.abort_overstayed(now, effects))
    }

    /// There is no thread to keep the alarm. The next event orders it again.
    pub(crate) fn alarm_refused(&mut self) {
        self.upkeep.alarm = None;
        self.quiet = Quiet::NEVER;
    }

    /// Whether this is a closed pool that needs no upkeep. Then its alarm must be taken back.
    pub(crate) fn gives_up_alarm(&mut self) -> bool {
        let gives_up = self.is_closed() && self.lapses_at().is_none();
        self.upkeep.alarm.take_if(|_| gives_up);
        gives_up
    }

    /// When `upkeep` comes next.
    pub(crate) fn alarm(&self) -> Option<Moment> {
        self.upkeep.alarm
    }

    /// Whether a connection may be lent without a check.
    pub(super) fn is_proven(&self, entry: &Entry<C>, now: Moment) -> bool {
        now.nanos_since(entry.proven_at) <= self.aging.check_after && !self.is_doubted(entry)
    }

    /// Whether another connection has proved broken since this one was last known to be alive.
    pub(super) fn is_doubted(&self, entry: &Entry<C>) -> bool {
        self.doubted_at.is_some_and(|doubted_at| entry.proven_at < doubted_at)
    }

    /// A limit of age has changed, or the time that a dial takes.
    pub(super) fn renew_aging(&mut self) {
        self.aging = Aging::new(&self.config, self.lease, self.dialing.pace.dial_time());
    }

    /// Closes idle connections that have been idle, or have lived, for too long.
    pub(super) fn retire_aged(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        while let Some(entry) = self.idle.take_ended(&self.aging, now) {
            self.begin_close(entry, self.aging.reason(now), now, effects);
        }
        while self.next_idled_out().is_some_and(|at| at <= now) {
            let coldest = self.idle.take_coldest().expect("something has idled out");
            self.begin_close(coldest, CloseReason::IdleTooLong, now, effects);
            self.upkeep.pruned_at = Some(now);
        }
    }

    /// The span in which no loan or return needs upkeep earlier than it is ordered for; `None`: there is none.
    /// It holds once upkeep is ordered: a connection in use that comes to rest needed it before as well.
    ///
    /// A connection that rests in the ledger may need it earlier.
    pub(super) fn upkeep_span(&self) -> Option<(Moment, Moment)> {
        let shortest = Duration::from_nanos(self.aging.shortest);
        let (from, until) = match self.upkeep.alarm {
            Some(alarm) => (alarm.before(shortest).unwrap_or(Moment::FIRST), alarm),
            None if self.aging.shortest == u64::MAX => (Moment::FIRST, Moment::LAST),
            None => return None,
        };
        (self.has_aborted || until <= self.lease.until).then_some((from, until))
    }

    /// When the coldest connection will have been idle for too long and may be closed; `None` if it may stay.
    pub(super) fn next_idled_out(&self) -> Option<Moment> {
        let coldest = self.idle.coldest().filter(|_| self.idle.len() > self.config.min_idle())?;
        let Aging { max_idle_time, prune_every, .. } = self.aging;
        let at = coldest.idle_since.after_nanos(max_idle_time);
        let pruned_at = self.upkeep.pruned_at.filter(|_| prune_every > 0);
        let step = pruned_at.map(|pruned_at| pruned_at.after_nanos(prune_every));
        (at < Moment::LAST).then(|| step.map_or(at, |step| at.max(step)))
    }

    /// Dials for `min_idle`.
    pub(super) fn fill(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        let missing = self.missing();
        if missing == 0 || self.next_fill().is_some_and(|at| at > now) {
            return;
        }
        // While dials fail, one at a time tries.
        let dialing = self.jobs.dials.counted_on();
        let tries = if self.dialing.outage.is_over() { u32::MAX } else { 1 - dialing.min(1) };
        let wanted = missing.min(self.room(now)).min(tries);
        for begun in 0..wanted {
            // Nobody waits: every caller's claim is older.
            if !self.take_slot_for_rest(wanted - begun, now) {
                break;
            }
            self.begin_dial(Sponsor::Pool, now, effects);
        }
    }

    /// How many connections `min_idle` lacks. A connection on its way to rest counts; one that is about
    /// to end does not.
    fn missing(&self) -> u32 {
        if self.config.min_idle == 0 {
            return 0;
        }
        let coming = self.idle.staying() + self.jobs.dials.counted_on() + self.jobs.at_dialer.len();
        let resting = coming.saturating_sub(self.queue.len());
        self.config.min_idle().saturating_sub(resting)
    }

    /// When dials for `min_idle` may begin; `None` is at once.
    fn next_fill(&self) -> Option<Moment> {
        let outage = &self.dialing.outage;
        let probe = self.config.breaker().and_then(|breaker| outage.next_probe(breaker));
        outage.next_refill().max(probe).max(self.upkeep.replaces_at)
    }

    /// Begins the check of an idle connection that has proved nothing for `check_idle_every`. One at a
    /// time, as nobody can be lent a connection that is being checked.
    pub(super) fn check_coldest(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        let may_check = self.jobs.at_dialer.keep_alives() == 0;
        if let Some(entry) = self.idle.take_unchecked(&self.aging, may_check, now) {
            self.send_to_dialer(Purpose::KeepAlive, entry, now, effects);
        }
    }

    /// A check has ended: the next one may begin.
    pub(super) fn note_check_ended(&mut self, purpose: Purpose, now: Moment) {
        if purpose == Purpose::KeepAlive {
            self.idle.set_due(now);
        }
    }

    /// Orders upkeep, if it must come sooner than it is ordered for.
    pub(super) fn order_upkeep(&mut self, now: Moment, effects: &mut Effects<C, F, W>) {
        let changes_at = if self.is_closed() { None } else { self.changes_at(now) };
        let Some(due) = earlier(changes_at, self.lapses_at()) else { return };
        let least = self.upkeep.last.and_then(|last| last.after(UPKEEP_LEAST));
        let due = least.map_or(due, |least| due.max(least));
        if self.upkeep.alarm.is_none_or(|alarm| due < alarm) {
            self.upkeep.alarm = Some(due);
            effects.rare().alarm = Some(due);
        }
    }

    /// When time changes something about the idle connections of an open pool, or about those that it lacks.
    fn changes_at(&self, now: Moment) -> Option<Moment> {
        let mut due = self.idle.due();
        let mut or = |other: Option<Moment>| due = earlier(due, other);
        or(self.next_idled_out());
        let is_missing = self.missing() > 0;
        if is_missing && !self.is_suspended() && self.open_count() < self.config.max_open {
            // Dials that could begin now and have not are held up by something other than time.
            or(self.next_fill().filter(|at| *at > now));
            if self.share.as_deref().is_some_and(Share::has_rivals) {
                // Nobody tells this key that another has left it a slot.
                or(now.after(SPARE_SLOT_EVERY));
            }
        }
        if self.config.min_idle > 0 || self.jobs.at_dialer.keep_alives() > 0 {
            // Nobody waits for these. A job that hangs must not hold them up.
            or(self.jobs.next_due());
        }
        if self.in_use > 0 {
            // A connection in use may come to rest in a place without the ledger. The shell passes
            // those that have to end sooner than this through the ledger.
            or(Some(now.after_nanos(self.aging.shortest)).filter(|at| *at < Moment::LAST));
        }
        if !self.idle.is_empty() {
            // An idle connection may be lent without the ledger, and be kept for too long.
            or(now.after(self.config.leak_after));
        }
        if self.share.is_some() {
            or(self.forgets_outage_at().filter(|at| *at > now));
        }
        due
    }

    /// When a slot must be given up for those outside of this pool, whether it is open or closed: nobody here
    /// may notice that a close, a check or a reset hangs, or that the lease of a loan has ended.
    fn lapses_at(&self) -> Option<Moment> {
        let jobs = earlier(self.jobs.closings.next_due(), self.jobs.at_dialer.next_due());
        earlier(jobs.filter(|_| self.share.is_some()), self.lease_alarm())
    }
}
