//! Events of callers: they ask, sleep, wake, and stop waiting.

use std::time::Duration;

use crate::config::Config;
use crate::ledger::close_reason::CloseReason;
use crate::ledger::{Entry, Refusal, Reply, Ticket, Verdict};
use crate::runtime::moment::Moment;
use crate::slips::{Failure, Outcome};

use super::{Caller, Place, PoolLedger, Pools, Sleep, State, Want};

impl Caller {
    pub(super) fn new(member: usize, now: Moment, deadline: Option<Moment>, want: Want) -> Self {
        Self {
            member,
            want,
            ticket: None,
            since: now,
            joined: now,
            deadline,
            state: State::Gone,
            dial: None,
            failure: None,
            may_be_revived: false,
            refused: Vec::new(),
            sleep: Sleep::Awake,
        }
    }

    /// Whether it may be the next for whom a dial begins.
    pub(super) fn wants_dial(&self) -> bool {
        self.dial.is_none() && self.failure.is_none() && self.refused.is_empty()
    }

    pub(super) fn is_late(&self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl Pools {
    pub(crate) fn request(&mut self, key: usize, patience: Option<Duration>) {
        self.ask_those_who_have_closed(key);
        let member = self.member(key);
        let now = self.clock();
        let deadline = patience.and_then(|patience| now.after(patience));
        self.callers.push(Caller::new(member, now, deadline, Want::Connection));
        let caller = self.callers.len() - 1;
        match self.take_from_place(member) {
            Some(entry) => {
                self.note_loan(member, entry.connection, now);
                self.hold(caller, None, entry);
            }
            None => self.ask(caller),
        }
    }

    /// KEY-02: a caller who found a key's ledger before it closed is refused, and asks another.
    fn ask_those_who_have_closed(&mut self, key: usize) {
        for member in 0..self.members.len() {
            let is_left = self.members[member].key == key && self.current[key] != Some(member);
            if is_left && self.members[member].ledger.is_some() {
                let now = self.open(member);
                let (answer, effects) = self.ledger(member).request(None, now, None, now, || {
                    unreachable!("nobody waits for what is closed")
                });
                assert!(matches!(answer, Reply::Refused(Refusal::Closed)), "KEY-02: {answer:?}");
                self.note(member, now, effects);
            }
        }
    }

    fn ask(&mut self, caller: usize) {
        let Caller { member, ticket: place, since, deadline, .. } = self.callers[caller];
        let now = self.open(member);
        let slip = self.slips.give(caller);
        let (answer, effects) = self.ledger(member).request(place, since, deadline, now, || slip);
        let is_late = deadline.is_some_and(|deadline| deadline <= now);
        let (waiting, coming) = (self.queue(member).count(), self.coming(member));
        let room = self.room(member, now) as usize;
        let it = &mut self.callers[caller];
        (it.dial, it.failure, it.state, it.sleep) = (None, None, State::Gone, Sleep::Awake);
        match answer {
            Reply::Granted(ticket, entry) => {
                assert_eq!(waiting, 0, "BOUNDED-BYPASS: a newcomer is served before the queue");
                self.note_grant(member, entry.connection, now);
                self.hold(caller, Some(ticket), entry);
                self.note(member, now, effects);
            }
            Reply::Queued(ticket) => {
                assert!(!is_late, "waits for no reason");
                assert!(
                    place.is_none_or(|place| place.number == ticket.number),
                    "FAIR-04: the place is lost"
                );
                it.joined = now;
                (it.ticket, it.state) = (Some(ticket), State::Waiting);
                let own = &self.members[member];
                let served = if own.is_suspended { 0 } else { coming + room };
                let is_full = |most: u32| waiting >= most as usize + served;
                let is_bounded = self.setting.is_alone() && place.is_none();
                let is_too_many = is_bounded && own.config.max_waiting.is_some_and(is_full);
                assert!(!is_too_many, "max_waiting: {waiting} wait already");
                self.members[member].totals.waited_total += u64::from(place.is_none());
                self.note(member, now, effects);
            }
            Reply::Refused(refusal) => {
                // What was next may be closed in this event, for another key: then the one after it is next.
                let was_helped = waiting == 0 && self.can_serve(member, now);
                self.note_refusal(member, refusal);
                self.note(member, now, effects);
                let own = &self.members[member];
                let coming = if own.is_suspended { 0 } else { coming.min(self.coming(member)) };
                let is_full = |most: u32| waiting >= most as usize + coming;
                let is_for_reason = match refusal {
                    Refusal::Closed => own.is_closed,
                    Refusal::TooLate => is_late && !own.is_suspended,
                    Refusal::Suspended => is_late && own.is_suspended,
                    Refusal::QueueFull => {
                        place.is_none() && !is_late && own.config.max_waiting.is_some_and(is_full)
                    }
                };
                let is_helped = was_helped && self.can_serve(member, now);
                assert!(is_for_reason && !is_helped, "REASON: {refusal:?}, {waiting} wait");
            }
        }
    }

    pub(crate) fn rejoin(&mut self, pick: usize) {
        if let Some(caller) = self.pick(pick, |it| matches!(it.state, State::Empty)) {
            // Its ledger may have closed meanwhile.
            match self.members[self.callers[caller].member].ledger {
                Some(_) => self.ask(caller),
                None => self.callers[caller].state = State::Gone,
            }
        }
    }

    pub(crate) fn try_request(&mut self, key: usize) {
        let Some(member) = self.current[key] else { return };
        let now = self.open(member);
        let (answer, effects) = self.ledger(member).try_request(now);
        let is_anyone_waiting = self.queue(member).next().is_some();
        let it = &self.members[member];
        match answer {
            Ok(Some(entry)) => {
                assert!(!it.is_closed && !it.is_suspended && !is_anyone_waiting, "FAIR-05");
                self.note_loan(member, entry.connection, now);
                self.callers.push(Caller::new(member, now, None, Want::Connection));
                self.hold(self.callers.len() - 1, None, entry);
            }
            Ok(None) => {
                self.note(member, now, effects);
                let left = self.idle(member).into_iter().find(|it| self.idle_before.contains(it));
                assert!(left.is_none() || is_anyone_waiting, "{left:?} could be lent");
                return;
            }
            Err(Refusal::Closed) => assert!(it.is_closed, "KEY-02"),
            Err(refusal) => {
                let is_suspended = it.is_suspended && !it.is_closed;
                assert!(is_suspended && refusal == Refusal::Suspended, "REASON: {refusal:?}");
            }
        }
        self.note(member, now, effects);
    }

    pub(crate) fn warm_up(&mut self, key: usize, target: u32, patience: Option<Duration>) {
        let member = self.member(key);
        // As in the shell.
        let target = match self.setting.is_alone() {
            true => target,
            false => {
                target.min(self.setting.max_idle_total.unwrap_or(u32::MAX)).min(self.max_open_total)
            }
        };
        self.wait_for(member, Want::WarmUp(target), patience);
    }

    /// Somebody waits until a closed pool has nothing open.
    pub(crate) fn drain(&mut self, key: usize, patience: Option<Duration>) {
        match self.current[key] {
            Some(member) if self.members[member].is_closed => {
                self.wait_for(member, Want::Rest, patience);
            }
            _ => {}
        }
    }

    fn wait_for(&mut self, member: usize, want: Want, patience: Option<Duration>) {
        let now = self.open(member);
        let caller = self.callers.len();
        let slip = self.slips.give(caller);
        let (ticket, effects) = match want {
            Want::WarmUp(target) => self.ledger(member).warm_up(target, now, || slip),
            _ => self.ledger(member).drain(now, || slip),
        };
        let deadline = patience.and_then(|patience| now.after(patience));
        let caller = Caller::new(member, now, deadline, want);
        self.callers.push(Caller { ticket: Some(ticket), state: State::Waiting, ..caller });
        self.note(member, now, effects);
    }

    /// A caller wakes, for a reason or for none, and sleeps again if it has to.
    pub(crate) fn collect(&mut self, pick: usize) {
        let may_be = |it: &Caller| matches!(it.state, State::Waiting | State::Told(..));
        if let Some(caller) = self.pick(pick, may_be) {
            self.collect_of(caller);
        }
    }

    pub(super) fn collect_of(&mut self, caller: usize) {
        let Caller { member, ticket, deadline, .. } = self.callers[caller];
        let ticket = ticket.expect("who waits has a ticket");
        if self.members[member].ledger.is_none() {
            let verdict = self.collect_verdict(caller);
            assert!(!matches!(verdict, None | Some(Verdict::Granted(_))), "KEY-02: {verdict:?}");
            self.callers[caller].state = State::Gone;
            return;
        }
        let verdict = self.collect_verdict(caller);
        if verdict.is_none() && !self.callers[caller].is_late(self.clock()) {
            let until = self.ledger(member).sleep(ticket, deadline);
            assert!(until <= deadline || deadline.is_none(), "DEADLINE: sleeps till {until:?}");
            self.callers[caller].sleep = Sleep::Until(until);
            return;
        }
        let now = self.open(member);
        match verdict {
            Some(Verdict::Granted(entry)) if self.ledger(member).has_overstayed(&entry, now) => {
                self.callers[caller].state = State::Empty;
                let number = entry.connection;
                self.connection(number).place = Place::AtRest;
                self.begin_close_for(number, CloseReason::LeaseEnded, now);
                self.carry_out(member, now, |ledger, now| {
                    ledger.retire(entry, CloseReason::LeaseEnded, now)
                });
            }
            Some(verdict) => {
                self.callers[caller].state = State::Gone;
                if let Verdict::Granted(entry) = verdict {
                    self.hold(caller, Some(ticket), entry);
                }
                self.carry_out(member, now, PoolLedger::tick);
            }
            None => {
                let (left, effects) = self.ledger(member).leave(ticket, now, |_| ());
                if let Some((verdict, ())) = left {
                    self.callers[caller].state = State::Gone;
                    self.note_outcome(caller, Outcome::from(&verdict), now);
                }
                self.note(member, now, effects);
                // This event may have told it something else just before.
                let is_waiting = matches!(self.callers[caller].state, State::Waiting);
                assert!(!is_waiting, "DEADLINE: {caller} waits on");
            }
        }
    }

    /// Collects a caller's verdict, which it was told before. The caller counts as woken if it was asleep.
    fn collect_verdict(&mut self, caller: usize) -> Option<Verdict<u32, Failure>> {
        let Caller { member, state, .. } = &self.callers[caller];
        let member = &mut self.members[*member];
        let Some((verdict, is_waking)) = self.slips.collect(caller) else {
            assert!(matches!(state, State::Waiting), "the verdict of {caller} is lost");
            return None;
        };
        let told = (Outcome::from(&verdict), is_waking);
        assert!(matches!(state, State::Told(outcome, waking) if (*outcome, *waking) == told));
        member.woken += u64::from(is_waking);
        if let Some(ledger) = &mut member.ledger {
            ledger.note_woken(member.woken);
        }
        Some(verdict)
    }

    /// A caller is cancelled. It may have its verdict already.
    pub(crate) fn cancel(&mut self, pick: usize) {
        let may_be = |it: &Caller| {
            let is_there = matches!(it.state, State::Waiting | State::Told(..));
            is_there && it.want == Want::Connection
        };
        let Some(caller) = self.pick(pick, may_be) else { return };
        let Caller { member, ticket, .. } = self.callers[caller];
        if self.members[member].ledger.is_none() {
            // The key's ledger may have closed before, which gave every caller a verdict.
            let is_told = matches!(self.callers[caller].state, State::Told(..));
            assert!(is_told, "KEY-02: closed with somebody in it");
            return;
        }
        let ticket = ticket.expect("who waits has a ticket");
        self.cancelled = Some(caller);
        self.event(member, |ledger, now| ledger.cancel(ticket, now));
        let is_waiting = matches!(self.callers[caller].state, State::Waiting);
        assert!(!is_waiting, "a caller who is cancelled waits no longer");
    }

    fn hold(&mut self, caller: usize, ticket: Option<Ticket>, entry: Entry<u32>) {
        let connection = self.connections[&entry.connection];
        assert_eq!(connection.place, Place::Lent, "nobody else holds it");
        assert_eq!(entry.is_reused(), connection.loans > 1);
        assert_eq!(connection.lease, self.lease.number, "FLEET-03: opened under another lease");
        assert!(self.clock() < self.lease.until, "FLEET-03: lent after the lease has ended");
        let it = &mut self.callers[caller];
        (it.ticket, it.state) = (ticket, State::Holding(entry));
    }

    /// Takes a connection from a place without the ledger, if the gate is open and one there is fresh.
    fn take_from_place(&mut self, member: usize) -> Option<Entry<u32>> {
        let now = self.clock();
        let entry = self.gate(member, now)?.at_rest.pop()?;
        let Config { check_after, max_idle_time, .. } = self.members[member].config;
        let is_fresh = now.since(entry.idle_since()) <= check_after.min(max_idle_time);
        if !is_fresh || !self.may_rest_in_place(member, &entry, now) {
            let places = self.members[member].places.as_mut().expect("it was taken from one");
            places.at_rest.push(entry);
            self.event(member, PoolLedger::tick);
            return None;
        }
        entry.record().count_loan();
        Some(entry)
    }
}
