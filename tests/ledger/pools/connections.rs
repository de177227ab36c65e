//! Events of connections: loans, dials, stays at the dialer and closes end.

use std::time::Duration;

use crate::ledger::close_reason::CloseReason;
use crate::ledger::effects::JobId;
use crate::ledger::{Entry, Purpose};
use crate::runtime::moment::Moment;
use crate::slips::Failure;

use super::{AtDialer, Close, Connection, Dial, Place, Places, Pools, State, Want, choose, small};

impl Pools {
    pub(super) fn gate(&mut self, member: usize, now: Moment) -> Option<&mut Places> {
        let places = self.members[member].places.as_mut()?;
        (now <= places.until).then_some(places)
    }

    pub(super) fn may_rest_in_place(
        &mut self,
        member: usize,
        entry: &Entry<u32>,
        now: Moment,
    ) -> bool {
        let gate = self.gate(member, now);
        gate.is_some_and(|it| it.epoch == entry.epoch) && now < entry.expires
    }

    pub(crate) fn give_back(&mut self, pick: usize) {
        let Some((member, mut entry)) = self.take_held(pick, State::Gone) else { return };
        let (now, number) = (self.clock(), entry.connection);
        let is_used_up = self.is_used_up(number);
        let most = self.setting.places;
        let may_rest = self.may_rest_in_place(member, &entry, now) && !is_used_up;
        let place = self.gate(member, now).filter(|it| may_rest && it.at_rest.len() < most);
        if let Some(places) = place {
            entry.come_to_rest(now);
            entry.record().let_go();
            places.at_rest.push(entry);
            return self.note_return(number, now);
        }
        self.open(member);
        self.note_return(number, now);
        self.carry_out(member, now, |ledger, now| ledger.give_back(entry, now));
        self.is_not_overused(number, is_used_up);
    }

    fn note_return(&mut self, number: u32, now: Moment) {
        let it = self.connection(number);
        (it.place, it.idle_since, it.proven_at) = (Place::AtRest, now, now);
    }

    pub(crate) fn give_back_for_reset(&mut self, pick: usize) {
        let Some((member, entry)) = self.take_held(pick, State::Gone) else { return };
        let (now, number) = (self.open(member), entry.connection);
        self.connection(number).idle_since = now;
        self.carry_out(member, now, |ledger, now| ledger.give_back_for_reset(entry, now));
        let is_reset =
            |it: &AtDialer| it.entry.connection == number && it.purpose == Purpose::Reset;
        assert!(self.at_dialer.iter().any(is_reset), "{number} is not reset");
    }

    /// The connection is broken. If it was just granted, its caller may ask again with the same ticket.
    pub(crate) fn retire(&mut self, pick: usize, to_rejoin: bool) {
        let then = if to_rejoin { State::Empty } else { State::Gone };
        let Some((member, entry)) = self.take_held(pick, then) else { return };
        let reason = if to_rejoin { CloseReason::Broken } else { CloseReason::Discarded };
        let now = self.open(member);
        self.connection(entry.connection).place = Place::AtRest;
        self.begin_close_for(entry.connection, reason, now);
        self.carry_out(member, now, |ledger, now| ledger.retire(entry, reason, now));
    }

    pub(crate) fn detach(&mut self, pick: usize) {
        let Some((member, entry)) = self.take_held(pick, State::Gone) else { return };
        let now = self.open(member);
        self.connection(entry.connection).place = Place::Ended;
        self.members[member].totals.detached_total += 1;
        self.carry_out(member, now, |ledger, now| ledger.detach(entry, now).1);
    }

    fn take_held(&mut self, pick: usize, then: State) -> Option<(usize, Entry<u32>)> {
        let needs_place = matches!(then, State::Empty);
        let caller = self.pick(pick, |it| {
            matches!(it.state, State::Holding(_)) && (it.ticket.is_some() || !needs_place)
        })?;
        let it = &mut self.callers[caller];
        match std::mem::replace(&mut it.state, then) {
            State::Holding(entry) => Some((it.member, entry)),
            _ => unreachable!("just picked as a holder"),
        }
    }

    pub(crate) fn dialed(&mut self, pick: usize) {
        let Some(at) = choose(self.dials.len(), pick) else { return };
        let now = self.open(self.dials[at].member);
        let Dial { member, id, sponsor, lease, generation, judged, began, .. } =
            self.dials.remove(at);
        self.part(id, sponsor, None);
        let number = small(self.connections.len()) + 1;
        let connection = Connection {
            member,
            lease,
            generation,
            judged,
            place: Place::AtRest,
            opened_at: now,
            idle_since: now,
            proven_at: now,
            loans: 0,
            retired: None,
        };
        self.connections.insert(number, connection);
        let it = &mut self.members[member];
        it.longest_dial = it.longest_dial.max(now.since(began));
        it.totals.dialed_total += 1;
        (it.outage.failures, it.outage.failed_at, it.outage.last_failure) = (0, None, None);
        self.note_breaker(member, now);
        self.carry_out(member, now, |ledger, now| {
            ledger.dialed(id, number, None, Duration::MAX, now)
        });
    }

    pub(crate) fn dial_failed(&mut self, pick: usize, panics: bool) {
        let Some(at) = choose(self.dials.len(), pick) else { return };
        let now = self.open(self.dials[at].member);
        let dial = self.dials.remove(at);
        let (member, id) = (dial.member, dial.id);
        let it = &mut self.members[member];
        it.totals.dial_failed_total += 1;
        // A cancelled dial says nothing of the server.
        if !it.is_closed && dial.generation == it.generation {
            self.note_failure(&dial, Failure::Of(id), now);
        }
        if panics {
            self.ledger(member).note_panic();
            self.members[member].totals.panics_total += 1;
        }
        self.carry_out(member, now, |ledger, now| {
            ledger.dial_failed(id, Failure::Of(id), false, now)
        });
    }

    pub(crate) fn back(&mut self, pick: usize, is_sound: bool) {
        let Some(at) = choose(self.at_dialer.len(), pick) else { return };
        let now = self.open(self.at_dialer[at].member);
        let AtDialer { member, id, entry, purpose, .. } = self.at_dialer.remove(at);
        let number = entry.connection;
        let is_used_up = self.is_used_up(number);
        let judged = match purpose {
            Purpose::Judge { until, .. } => self.predicates_by(member, until),
            _ => self.connections[&number].judged,
        };
        let it = self.connection(number);
        it.place = Place::AtRest;
        if it.retired.is_none() && is_sound {
            it.judged = judged;
            if !matches!(purpose, Purpose::Judge { .. }) {
                it.proven_at = now;
            }
        } else if it.retired.is_none() {
            let fault = purpose.fault();
            self.begin_close_for(number, fault, now);
            let is_check = u64::from(fault == CloseReason::CheckFailed);
            self.members[member].totals.check_failed_total += is_check;
        }
        self.carry_out(member, now, |ledger, now| {
            ledger.back_from_dialer(id, entry, (!is_sound).then(|| purpose.fault()), now)
        });
        self.is_not_overused(number, is_used_up);
    }

    /// A close has returned.
    pub(crate) fn closed(&mut self, pick: usize) {
        let Some(at) = choose(self.closes.len(), pick) else { return };
        let now = self.open(self.closes[at].member);
        let Close { member, id, connection, .. } = self.closes.remove(at);
        self.connection(connection).place = Place::Ended;
        self.carry_out(member, now, |ledger, now| ledger.closed(id, now));
    }

    fn is_used_up(&self, number: u32) -> bool {
        let it = &self.connections[&number];
        self.members[it.member].config.max_uses.is_some_and(|most| it.loans >= most)
    }

    fn is_not_overused(&self, number: u32, is_used_up: bool) {
        let place = self.connections[&number].place;
        assert!(!is_used_up || place == Place::Closing, "{number} is used up, and {place:?}");
    }

    /// The dial has ended, or is written off.
    pub(super) fn part(&mut self, dial: JobId, sponsor: Option<usize>, failure: Option<Failure>) {
        let Some(it) = sponsor.map(|sponsor| &mut self.callers[sponsor]) else { return };
        if it.dial == Some(dial) && matches!(it.state, State::Waiting) {
            (it.dial, it.failure, it.may_be_revived) = (None, failure, false);
        }
    }

    /// A dial has failed, or was not back in time.
    pub(super) fn note_failure(&mut self, dial: &Dial, failure: Failure, now: Moment) {
        let outage = &mut self.members[dial.member].outage;
        outage.last_failure = Some(failure);
        if dial.is_counted {
            (outage.failures, outage.failed_at) = (outage.failures + 1, Some(now));
            self.note_breaker(dial.member, now);
        }
        self.part(dial.id, dial.sponsor, Some(failure));
        let Some(sponsor) = dial.sponsor.filter(|_| dial.is_counted) else { return };
        let it = &mut self.callers[sponsor];
        if let (Want::WarmUp(_), State::Waiting) = (it.want, &it.state) {
            // It is told of the first, and waits no longer.
            it.failure = it.failure.or(Some(failure));
        }
    }

    /// What has overrun its limit is written off, whatever happens next: nobody counts on it any more.
    pub(super) fn note_overdue(&mut self, member: usize, now: Moment) {
        let is_due = |deadline: Option<Moment>| deadline.is_some_and(|deadline| deadline <= now);
        let dials = self.dials.iter().enumerate();
        let overdue =
            dials.filter(|(_, it)| it.member == member && it.is_counted && is_due(it.deadline));
        let mut overdue: Vec<_> = overdue.map(|(at, it)| ((it.deadline, it.id), at)).collect();
        // The latest failure is that of the dial that had the latest deadline.
        overdue.sort_unstable();
        for (_, at) in overdue {
            let dial = Dial { ..self.dials[at] };
            self.note_failure(&dial, Failure::Overdue(dial.bound), now);
            self.dials[at].is_counted = false;
        }
        for at in 0..self.at_dialer.len() {
            let AtDialer { purpose, is_counted, deadline, ref entry, .. } = self.at_dialer[at];
            if self.at_dialer[at].member == member && is_counted && is_due(deadline) {
                let is_check = matches!(purpose, Purpose::Check | Purpose::KeepAlive);
                self.members[member].totals.check_failed_total += u64::from(is_check);
                let number = entry.connection;
                self.at_dialer[at].is_counted = false;
                self.note_retired(number, CloseReason::Late, now);
            }
        }
        self.members[member].replaces_at.take_if(|at| *at <= now);
        for it in self.connections.values_mut().filter(|it| it.member == member) {
            let is_closing = matches!(it.place, Place::AtDialer | Place::Closing);
            let Some(retired) = it.retired.as_mut().filter(|_| is_closing) else { continue };
            if is_due(retired.due) && !retired.is_slot_free {
                retired.is_slot_free = true;
                self.members[member].totals.close_timeouts_total += 1;
            }
        }
    }

    /// Everything under way for this member is written off.
    pub(super) fn write_off(&mut self, member: usize, reason: CloseReason, now: Moment) {
        self.members[member].generation += 1;
        for at in 0..self.dials.len() {
            let Dial { id, sponsor, .. } = self.dials[at];
            if self.dials[at].member == member {
                self.dials[at].is_counted = false;
                self.part(id, sponsor, None);
            }
        }
        for at in 0..self.at_dialer.len() {
            if self.at_dialer[at].member == member && self.at_dialer[at].is_counted {
                self.at_dialer[at].is_counted = false;
                let number = self.at_dialer[at].entry.connection;
                self.note_retired(number, reason, now);
            }
        }
    }
}
