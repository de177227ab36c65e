//! What an event has brought: each verdict, dial, check and close has a reason that callers and the dialer
//! know of.

use std::time::Duration;

use crate::config::{Backoff, Config, DialRule, OnDialFailure};
use crate::ledger::budget::{BudgetAction, BudgetOrder};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::outage::BreakerTurn;
use crate::ledger::{
    AtDialerOrder, CloseOrder, DialOrder, Overdue, Purpose, RareEffects, Refusal, UPKEEP_LEAST,
};
use crate::runtime::moment::Moment;
use crate::slips::{Failure, Lists, Outcome, Slip};

use super::promises::{Brought, ends_from};
use super::{
    AtDialer, Caller, Close, Dial, LedgerEffects, Member, Place, Places, Pools, Retired, Sleep,
    State, Want, small,
};

impl Pools {
    /// Takes note of an event's effects, checks them, and lays connections out again.
    pub(super) fn note(&mut self, member: usize, now: Moment, effects: LedgerEffects) {
        let Lists { wake, rare } = effects.into();
        let RareEffects { breaker, dials, at_dialer, closes, alarm, judged, .. } = rare;
        assert_eq!(breaker, std::mem::take(&mut self.members[member].outage.turns), "its turns");
        let is_evicted = |order: &CloseOrder<u32>| order.reason == CloseReason::Evicted;
        let making_room = closes.iter().filter(|order| is_evicted(order)).count();
        let told = self.note_told(member, making_room, now);
        self.note_revived(member);
        let mut brought = Brought { told, ..Brought::default() };
        for order in at_dialer {
            self.note_at_dialer(member, order, &mut brought, now);
        }
        let (making_room, others): (Vec<_>, Vec<_>) = closes.into_iter().partition(is_evicted);
        for order in others.into_iter().chain(making_room) {
            self.note_close(member, order, &mut brought, now);
        }
        // A caller whose dial has failed may try again before a dial for nobody begins in the same event.
        let for_callers = dials.iter().any(|order| order.sponsor.is_some());
        let others_dial = self.counted(member) > 0 || for_callers;
        for order in dials {
            self.note_dial(member, order, &brought, now);
        }
        self.note_hopes(member, others_dial, now);
        self.cancelled = None;
        assert_eq!(self.cause.take().filter(|(one, _)| one.is_some()), None, "not closed");
        self.note_judged(member, judged);
        self.note_wakes(member, wake, &brought);
        self.note_alarm(member, alarm, now);
        self.promises_hold(member, &brought, now);
        self.books_balance(member);
        self.members[member].is_granted = false;
        self.members[member].want = self.want(member, now);
        if rare.is_vacant && !self.vacant.contains(&member) {
            self.vacant.push(member);
        }
        self.send(rare.budget_orders);
        self.lay_out(member, now);
        self.agree();
    }

    fn lay_out(&mut self, member: usize, now: Moment) {
        let most = self.setting.places;
        let Member { ledger: Some(ledger), places, .. } = &mut self.members[member] else { return };
        let Some(until) = ledger.may_lay_out_until(now) else { return };
        let mut at_rest = Vec::new();
        while at_rest.len() < most {
            let Some(entry) = ledger.lay_out(now) else { break };
            at_rest.push(entry);
        }
        *places = Some(Places { epoch: ledger.epoch(), until, at_rest });
    }

    // ---- Verdicts ------------------------------------------------------------------------------

    /// Those who have a verdict now, while so many connections begin to make room.
    fn note_told(&mut self, member: usize, making_room: usize, now: Moment) -> Vec<usize> {
        // A warm-up has ended well even if callers have its connections now.
        let warming = self.warm_ups(member).map(|(_, since)| since).min();
        let mut told = Vec::new();
        for caller in self.waiting(member).map(|(at, _)| at).collect::<Vec<_>>() {
            if let Some((outcome, is_waking)) = self.slips.outcome(caller) {
                self.callers[caller].state = State::Told(outcome, is_waking);
                told.push(caller);
            }
        }
        let queue = self.members[member].ledger.as_ref().expect("it has a ledger").waiting();
        let mut waiting: Vec<_> = self.queue(member).collect();
        waiting.sort_by_key(|(_, it)| it.ticket);
        let waiting = waiting.into_iter().map(|(at, _)| at);
        assert!(queue.map(Slip::caller).eq(waiting), "the queue holds those who have no verdict");
        // Those refused come first: what is lent in this event did not count for them.
        told.sort_by_key(|caller| {
            matches!(self.callers[*caller].state, State::Told(Outcome::Granted(_), _))
        });
        for caller in &told {
            let State::Told(outcome, _) = self.callers[*caller].state else { unreachable!() };
            self.note_outcome(*caller, outcome, now);
            if matches!(outcome, Outcome::Granted(_)) && self.is_prompt() {
                let since = self.callers[*caller].since;
                let since = warming.map_or(since, |warming| warming.min(since));
                self.passes_nobody(member, since, making_room);
            }
        }
        told
    }

    pub(super) fn note_outcome(&mut self, caller: usize, outcome: Outcome, now: Moment) {
        let it = &self.callers[caller];
        let Caller { member, want, failure, ref refused, .. } = *it;
        let own = self.members.get(member).expect("a caller has a member");
        let last = own.outage.last_failure;
        match outcome {
            Outcome::Granted(connection) => {
                let first = self.queue(member).map(|(_, other)| other.ticket).min();
                let is_next = first.is_none_or(|first| it.ticket < first);
                assert!(is_next, "LATE-BINDING: {caller} before {first:?}");
                self.note_grant(member, connection, now);
            }
            Outcome::Failed(of) => {
                let is_its = failure == Some(of) || refused.contains(&of);
                let is_breakers = own.is_breaker_open() && last == Some(of);
                assert!(is_its || is_breakers, "CAN-12: another's failure {of:?}: {it:?}");
                let awaits = own.config.on_dial_failure != OnDialFailure::Fail
                    && self.busy(member) > 0
                    || own.backoff().is_some();
                assert!(want != Want::Connection || !awaits, "REASON: {caller} could be served");
            }
            Outcome::Late(of) | Outcome::Suspended(of) => {
                assert!(it.is_late(now), "DEADLINE: {caller} had time");
                let is_suspended = matches!(outcome, Outcome::Suspended(_));
                assert_eq!(is_suspended, own.is_suspended, "REASON: of {caller}");
                let is_own = failure.is_some() && failure == of;
                let is_refusal = of.is_some_and(|of| refused.contains(&of));
                let is_known = is_own || is_refusal || of == last;
                let must_be_own = failure.is_some() && !it.may_be_revived;
                assert!(is_known && (is_own || !must_be_own), "CAN-11: {caller} is told {of:?}");
                let is_caller = u64::from(want == Want::Connection);
                self.members[member].totals.timed_out_total += is_caller;
            }
            Outcome::Cancelled => {
                assert_eq!(self.cancelled, Some(caller), "it is not cancelled");
                self.members[member].totals.cancelled_total += 1;
            }
            Outcome::Closed => assert!(own.is_closed && want != Want::Rest, "REASON: not closed"),
            Outcome::Warm => assert!(matches!(want, Want::WarmUp(_)), "it wants a connection"),
            Outcome::Drained => {
                let open = self.open_count(member);
                assert!(want == Want::Rest && own.is_closed && open == 0, "SHUT-04: {open}");
            }
        }
        let it = &mut self.callers[caller];
        (it.dial, it.failure) = (None, None);
        it.refused.clear();
        if want == Want::Connection {
            self.members[member].totals.wait_time_total += now.since(it.joined);
        }
    }

    /// The ledger lends a connection to a caller who does not check it.
    pub(super) fn note_grant(&mut self, member: usize, number: u32, now: Moment) {
        assert!(self.is_fresh(number, now), "FAIR-06: {number} must be checked");
        self.note_loan(member, number, now);
        self.granted.push(number);
    }

    pub(super) fn note_loan(&mut self, member: usize, number: u32, now: Moment) {
        let it = &self.connections[&number];
        let own = &self.members[member];
        assert_eq!(it.place, Place::AtRest, "ACC-13: {number} is somebody's");
        assert!(!own.is_suspended && !own.is_closed, "SHUT-02: lent although nothing may be");
        assert!(now < self.ends_by(it), "LIFE-03: {number} is lent beyond its life");
        assert_eq!(it.generation, own.generation, "SHUT-12: older than a flush");
        assert_eq!(it.judged, own.predicates.len(), "{number} is lent before it is judged");
        let it = self.connection(number);
        (it.place, it.loans) = (Place::Lent, it.loans + 1);
        let is_reused = it.loans > 1;
        let totals = &mut self.members[member].totals;
        totals.lent_total += 1;
        totals.reused_total += u64::from(is_reused);
    }

    pub(super) fn note_refusal(&mut self, member: usize, refusal: Refusal) {
        let totals = &mut self.members[member].totals;
        match refusal {
            Refusal::TooLate | Refusal::Suspended => totals.timed_out_total += 1,
            Refusal::QueueFull => totals.queue_full_total += 1,
            Refusal::Closed => {}
        }
    }

    /// A sleeper is woken if it has a verdict; or one is, to watch over what is due.
    fn note_wakes(&mut self, member: usize, wake: Vec<usize>, brought: &Brought) {
        for caller in &brought.told {
            let Caller { state: State::Told(outcome, _), sleep, .. } = self.callers[*caller] else {
                unreachable!("it has just been told")
            };
            // Its own wait ends at the deadline.
            let is_late = matches!(outcome, Outcome::Late(_) | Outcome::Suspended(_));
            let needs_waking = sleep != Sleep::Awake && !is_late;
            assert!(!needs_waking || wake.contains(caller), "WAK-14: {caller} sleeps on");
        }
        let mut watchers = 0;
        for caller in wake {
            if !brought.told.contains(&caller) {
                watchers += 1;
                assert_ne!(self.callers[caller].sleep, Sleep::Awake, "WAK-04: it is awake already");
            }
            self.callers[caller].sleep = Sleep::Awake;
        }
        let may_retry =
            self.queue(member).any(|(_, it)| it.failure.is_some() || !it.refused.is_empty());
        let may_look = self.members[member].config.dial_rule != DialRule::Eager;
        let is_due = self.next_due(member).is_some() || may_retry || may_look;
        assert!(watchers <= u32::from(is_due), "WAK-04: {watchers} are woken for nothing");
    }

    // ---- Dials ---------------------------------------------------------------------------------

    fn note_dial(
        &mut self,
        member: usize,
        order: DialOrder<Slip<usize, Failure>>,
        brought: &Brought,
        now: Moment,
    ) {
        let DialOrder { id, deadline, sponsor } = order;
        let sponsor = sponsor.map(|slip| slip.caller());
        let own = &self.members[member];
        let limit = own.config.dial_timeout;
        let by_limit = now.after(limit);
        let by_lease = Some(self.lease.until).filter(|until| *until < Moment::LAST);
        assert_eq!(deadline, by_limit.into_iter().chain(by_lease).min(), "the limit of a dial");
        let bound = if deadline == by_limit { Overdue::Limit(limit) } else { Overdue::Lease };
        assert!(now < self.lease.until, "FLEET-03: dialed after the lease has ended");
        assert!(!own.is_closed && !own.is_suspended, "NO-DEMAND-NO-DIAL: nothing may be dialed");
        let dialing = small(self.dials_of(member).count());
        assert!(dialing < own.config.max_dialing(), "max_dialing: {dialing} are under way");
        let counted = self.counted(member);
        if own.config.breaker().is_some() && own.outage.failures > 0 {
            let is_due = own.next_probe().is_none_or(|next| next <= now);
            assert!(counted == 0 && is_due, "KIND: {counted} try already, or it is too soon");
        }
        match sponsor.map(|sponsor| (sponsor, self.callers[sponsor].want)) {
            Some((sponsor, Want::Connection)) => {
                self.is_wanted(member, sponsor, brought, now);
                self.is_next_with_warm_ups(member, self.callers[sponsor].since);
            }
            Some((sponsor, want)) => {
                let Want::WarmUp(target) = want else { panic!("a drain dials: {sponsor}") };
                let target = target.min(own.config.max_idle());
                let warm = self.idle(member).len() + self.busy(member) + counted;
                let is_over = matches!(self.callers[sponsor].state, State::Gone);
                let is_wanted = own.replaces_at.is_none() && small(warm) < target && !is_over;
                assert!(is_wanted, "NO-DEMAND-NO-DIAL: {warm} of {target}");
            }
            None => {
                let failed = brought.told.len();
                let coming = self.staying(member, now).0 + counted + self.stays(member);
                let coming = coming - brought.kept_alive;
                let resting = small(coming.saturating_sub(self.queue(member).count() + failed));
                assert!(resting < own.config.min_idle(), "NO-DEMAND-NO-DIAL: {resting} will rest");
                let pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
                let next = own.outage.retries_from(pauses).max(own.replaces_at);
                let is_paused = next.is_some_and(|next| next > now);
                let is_tried = own.outage.failures > 0 && counted > 0;
                assert!(!is_paused && !is_tried, "KIND: nobody waits for it");
            }
        }
        self.dials.push(Dial {
            member,
            id,
            sponsor,
            lease: self.lease.number,
            generation: self.members[member].generation,
            judged: self.members[member].predicates.len(),
            began: now,
            deadline,
            bound,
            is_counted: true,
        });
        self.members[member].totals.dials_total += 1;
        if let Some(sponsor) = sponsor.filter(|it| self.callers[*it].want == Want::Connection) {
            if let State::Waiting = self.callers[sponsor].state {
                let it = &mut self.callers[sponsor];
                (it.dial, it.failure) = (Some(id), None);
                it.refused.clear();
            }
        }
    }

    /// A dial for a caller: no other has waited for longer for one, and fewer dials than callers run.
    fn is_wanted(&self, member: usize, sponsor: usize, brought: &Brought, now: Moment) {
        let (it, own) = (&self.callers[sponsor], &self.members[member]);
        let is_told = brought.told.contains(&sponsor);
        assert!(it.dial.is_none() && !it.is_late(now), "NO-DEMAND-NO-DIAL: for {sponsor}");
        assert!(is_told || matches!(it.state, State::Waiting), "NO-DEMAND-NO-DIAL: {sponsor}");
        let counted = self.counted(member);
        if it.failure.is_some() && !it.may_be_revived && own.outage.failures > 0 {
            let is_due = own.next_retry().is_some_and(|next| next <= now);
            assert!(counted == 0 && is_due, "KIND: {sponsor} dials again, beside {counted}");
        }
        let mut queue = self.queue(member).filter(|(_, other)| !other.is_late(now));
        let earlier = queue.find(|(_, other)| other.ticket < it.ticket && other.wants_dial());
        assert!(is_told || earlier.is_none(), "LATE-BINDING: {sponsor} before {earlier:?}");
        // Whoever was served after others had been refused was in the queue before.
        let has_failed = |caller: &usize| {
            matches!(self.callers[*caller].state, State::Told(Outcome::Failed(_), _))
        };
        let others = if brought.told.iter().any(has_failed) { brought.told.len() } else { 0 };
        let unfailed = self.queue(member).filter(|(at, other)| {
            *at == sponsor || other.may_be_revived || other.failure.is_none()
        });
        let coming = self.coming(member);
        let callers = unfailed.count() + others;
        assert!(coming < callers, "NO-DEMAND-NO-DIAL: {coming} come for {callers}");
    }

    // ---- Connections ---------------------------------------------------------------------------

    fn note_at_dialer(
        &mut self,
        member: usize,
        order: AtDialerOrder<u32>,
        brought: &mut Brought,
        now: Moment,
    ) {
        let AtDialerOrder { id, purpose, entry, deadline } = order;
        let number = entry.connection;
        let it = self.connections[&number];
        let own = &self.members[member];
        let limit = now.after(own.config.check_timeout);
        // A predicate has no limit of time.
        let limit = limit.filter(|_| !matches!(purpose, Purpose::Judge { .. }));
        assert_eq!(deadline, limit, "the limit of a check");
        let from = if purpose == Purpose::Reset { Place::Lent } else { Place::AtRest };
        assert_eq!(it.place, from, "{number} is sent to the dialer for {purpose:?}");
        match purpose {
            Purpose::Check => {
                let callers = self.queue(member).count() + brought.told.len();
                let is_wanted = self.checks(member) < callers;
                assert!(is_wanted && !self.is_fresh(number, now), "{number} is checked for nobody");
            }
            Purpose::KeepAlive => {
                let every = own.config.check_idle_every.max(UPKEEP_LEAST);
                let due = it.proven_at.after(every - every / 10);
                let is_due = due.is_some_and(|due| due <= now) && every < Duration::MAX;
                assert!(is_due && self.keep_alives(member) == 0, "{number} is checked too soon");
                brought.kept_alive += 1;
            }
            Purpose::Reset => {}
            Purpose::Judge { since, until } => {
                let known = self.predicates_by(member, since);
                assert_eq!(known, it.judged, "it has been judged by others");
                assert_eq!(self.predicates_by(member, until), own.predicates.len());
                assert!(it.judged < own.predicates.len(), "{number} is judged twice");
            }
        }
        self.connection(number).place = Place::AtDialer;
        self.at_dialer.push(AtDialer { member, id, purpose, entry, deadline, is_counted: true });
    }

    fn note_close(
        &mut self,
        member: usize,
        order: CloseOrder<u32>,
        brought: &mut Brought,
        now: Moment,
    ) {
        let CloseOrder { id, connection: number, reason, uses, age, .. } = order;
        let it = self.connections[&number];
        assert_eq!(it.place, Place::AtRest, "closed exactly once, and not in use: {number}");
        assert_eq!((uses, age), (u64::from(it.loans), now.since(it.opened_at)), "of {number}");
        match it.retired {
            Some(retired) => assert_eq!(reason, retired.reason, "why {number} is closed"),
            None => self.note_retirement(member, number, reason, brought, now),
        }
        let makes_room = reason == CloseReason::Evicted;
        if makes_room {
            self.may_be_evicted(member, number);
        }
        self.connection(number).place = Place::Closing;
        self.closes.push(Close { member, id, connection: number, makes_room });
    }

    /// The event at hand closes that connection for that reason.
    pub(super) fn begin_close_for(&mut self, number: u32, reason: CloseReason, now: Moment) {
        self.cause = Some((Some(number), reason));
        if reason.casts_doubt() {
            let member = self.connections[&number].member;
            self.members[member].doubted_at = Some(now);
        }
    }

    /// Its slot counts as closing from now on.
    pub(super) fn note_retired(&mut self, number: u32, reason: CloseReason, now: Moment) {
        let member = self.connections[&number].member;
        let own = &mut self.members[member];
        own.totals.retired_total += 1;
        *own.retired_by.entry(reason).or_default() += 1;
        let due = now.after(own.config.close_timeout);
        let age = now.since(self.connections[&number].opened_at);
        let has_aged = matches!(reason, CloseReason::Expired | CloseReason::IdleTooLong);
        if has_aged && age < UPKEEP_LEAST {
            own.replaces_at = now.after(UPKEEP_LEAST);
        }
        self.connection(number).retired = Some(Retired { reason, due, is_slot_free: false });
    }

    /// The reason for which a connection is closed is true.
    fn note_retirement(
        &mut self,
        member: usize,
        number: u32,
        reason: CloseReason,
        brought: &mut Brought,
        now: Moment,
    ) {
        let it = self.connections[&number];
        let own = &self.members[member];
        let left: Vec<_> = self
            .idle_before
            .iter()
            .copied()
            .filter(|other| *other != number && self.connections[other].place != Place::Closing)
            .collect();
        let is_coldest =
            left.iter().all(|other| it.idle_since <= self.connections[other].idle_since);
        let is_written_off = it.generation < own.generation;
        let is_by_now = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        // What has aged as the settings change goes by the former ones.
        let is_true = |config: &Config| match reason {
            CloseReason::PoolClosed => own.is_closed,
            CloseReason::Flushed => is_written_off,
            CloseReason::LeaseEnded => {
                is_written_off || self.lease.until <= now || self.is_cause(number, reason)
            }
            CloseReason::Expired => is_by_now(ends_from(config, &it)),
            CloseReason::IdleTooLong => {
                let is_paused = own.pauses_pruning_until(config).is_some_and(|until| until > now);
                let is_spare = small(left.len()) >= config.min_idle();
                let is_due = is_by_now(it.idle_since.after(config.max_idle_time));
                is_due && !is_paused && is_spare && is_coldest
            }
            CloseReason::UsedUp => config.max_uses.is_some_and(|most| it.loans >= most),
            CloseReason::Surplus => true,
            CloseReason::ClosedIdle => self.cause == Some((None, reason)) && is_coldest,
            CloseReason::Evicted => !self.setting.is_alone(),
            _ => self.is_cause(number, reason),
        };
        let has_aged = matches!(reason, CloseReason::Expired | CloseReason::IdleTooLong);
        let is_by_former = has_aged && is_true(&self.former);
        assert!(is_by_former || is_true(&own.config), "{number} is closed for no reason: {reason}");
        if self.is_cause(number, reason) {
            self.cause = None;
        }
        match reason {
            CloseReason::IdleTooLong => self.members[member].pruned_at = Some(now),
            CloseReason::Surplus => brought.surplus.push(number),
            _ => {}
        }
        self.note_retired(number, reason, now);
        if is_by_former {
            let due = now.after(self.former.close_timeout);
            self.connection(number).retired = Some(Retired { reason, due, is_slot_free: false });
        }
    }

    fn is_cause(&self, number: u32, reason: CloseReason) -> bool {
        self.cause == Some((Some(number), reason))
    }

    // ---- Predicates, upkeep and the breaker ----------------------------------------------------

    /// A predicate is kept as long as something older has not been judged by it, and no longer.
    fn note_judged(&mut self, member: usize, judged: Option<u32>) {
        if let Some(epoch) = judged {
            let judged = self.predicates_by(member, epoch);
            assert!(judged > self.members[member].judged, "it has been told that before");
            self.members[member].judged = judged;
        }
        let is_open = |it: &Place| !matches!(it, Place::Closing | Place::Ended);
        let open = self.connections_of(member).filter(|(_, it)| is_open(&it.place));
        let dials = self.dials_of(member).map(|it| it.judged);
        let needed = open.map(|(_, it)| it.judged).chain(dials).min();
        let own = &self.members[member];
        let needed = needed.unwrap_or(own.predicates.len());
        assert_eq!(own.judged, needed, "predicates are kept as long as they are needed");
        // What rests has been passed by all of them.
        let (number, all) = (own.predicates.len(), self.idle(member));
        assert!(all.iter().all(|it| self.connections[it].judged == number), "{all:?} of {number}");
    }

    /// Upkeep is ordered for the next change that time alone makes.
    fn note_alarm(&mut self, member: usize, alarm: Option<Moment>, now: Moment) {
        let changes_at = self.changes_at(member, now);
        let own = &mut self.members[member];
        let least = own.upkept_at.and_then(|last| last.after(UPKEEP_LEAST));
        if let Some(ordered) = alarm {
            let is_needed = !own.is_closed || changes_at.is_some();
            assert!(is_needed, "nothing of a closed pool is kept up that others do not need");
            assert!(own.alarm.is_none_or(|before| ordered < before), "LIFE-09: ordered twice");
            assert!(least.is_none_or(|least| ordered >= least), "LIFE-09: upkeep without pause");
            own.alarm = Some(ordered);
        }
        // As the shell, which takes the alarm of a closed pool back.
        let ledger = own.ledger.as_mut().expect("it has a ledger");
        own.alarm.take_if(|_| ledger.gives_up_alarm());
        let alarm = own.alarm;
        if let Some(due) = changes_at {
            // No alarm is in the past, even if the clock has run back.
            let due = due.max(self.latest).max(least.unwrap_or(due));
            assert!(alarm.is_some_and(|it| it <= due), "nobody comes at {due:?}: {alarm:?}");
        }
    }

    /// A dial has ended, or the settings have changed: the breaker may have opened or closed.
    pub(super) fn note_breaker(&mut self, member: usize, now: Moment) {
        let own = &mut self.members[member];
        let turn = match (own.outage.open_since, own.is_breaker_open()) {
            (None, true) => {
                own.outage.open_since = Some(now);
                own.totals.breaker_opened_total += 1;
                BreakerTurn::Opened { failures: own.outage.failures }
            }
            (Some(since), false) => {
                own.outage.open_since = None;
                BreakerTurn::Closed { open_for: now.since(since) }
            }
            _ => return,
        };
        own.outage.turns.push(turn);
    }

    /// Once a dial has succeeded, all whose dial has failed may dial again, if the pool tries again at all.
    fn note_revived(&mut self, member: usize) {
        let own = &self.members[member];
        let may_dial_again = own.backoff().is_some() || own.config.breaker().is_some();
        if own.outage.failures == 0 && may_dial_again && !own.is_suspended {
            self.callers.iter_mut().filter(|it| it.member == member).for_each(|it| {
                it.failure = None;
                it.refused.clear();
            });
        }
    }

    /// One whose dial has failed may dial again from now on, and the breaker may have refused others.
    fn note_hopes(&mut self, member: usize, others_dial: bool, now: Moment) {
        let own = &self.members[member];
        let is_due = own.next_retry().is_some_and(|next| next <= now);
        let is_revived = is_due && !others_dial;
        let refused = own.outage.last_failure.filter(|_| own.is_breaker_open());
        for caller in self.queue(member).map(|(at, _)| at).collect::<Vec<_>>() {
            let it = &mut self.callers[caller];
            it.may_be_revived |= it.failure.is_some() && is_revived;
            if it.dial.is_none() && it.failure.is_none() {
                let is_new = refused.filter(|failure| !it.refused.contains(failure));
                it.refused.extend(is_new);
            }
        }
    }

    pub(super) fn send(&mut self, orders: Vec<BudgetOrder>) {
        for order in &orders {
            let to = order.to.0 as usize;
            if order.action == BudgetAction::Grant {
                self.is_granted_to_the_next(to);
                self.members[to].is_granted = true;
            }
        }
        self.orders.extend(orders);
    }
}
