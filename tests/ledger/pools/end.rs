//! Time passes, everything comes to rest, and nothing is left.

use std::time::Duration;

use crate::common::Common;
use crate::config::Config;
use crate::runtime::moment::Moment;

use super::{Caller, Connection, Place, Pools, Sleep, State, Want, small};

impl Pools {
    pub(crate) fn wait(&mut self, time: Duration) {
        self.behind = Duration::ZERO;
        // Callers who are awake go to sleep, or leave, before time passes.
        for caller in 0..self.callers.len() {
            let Caller { state: State::Waiting, sleep, .. } = self.callers[caller] else {
                continue;
            };
            if sleep == Sleep::Awake || self.is_up(caller) {
                self.collect_of(caller);
                self.follow();
            }
        }
        self.now += time;
        for member in 0..self.members.len() {
            let it = &self.members[member];
            let is_due = it.alarm.is_some_and(|alarm| alarm <= self.now);
            if is_due && it.ledger.is_some() && self.setting.has_upkeep {
                self.upkeep_of(member);
                self.follow();
            }
        }
        if self.setting.has_upkeep && !self.setting.is_alone() {
            self.no_slot_is_held_for_too_long();
        }
        for caller in 0..self.callers.len() {
            if self.is_up(caller) {
                self.wake(caller);
                self.follow();
            }
        }
    }

    /// A caller wakes, by the clock or by its waker, and reports `tick`.
    fn wake(&mut self, caller: usize) {
        let member = self.callers[caller].member;
        if self.is_up(caller) && self.members[member].ledger.is_some() {
            let ticket = self.callers[caller].ticket.expect("who waits has a ticket");
            self.callers[caller].sleep = Sleep::Awake;
            self.event(member, |ledger, now| ledger.look(ticket, now));
            // The effects are carried out before it looks at its own deadline.
            self.follow();
        }
        if matches!(self.callers[caller].state, State::Waiting | State::Told(..)) {
            self.collect_of(caller);
        }
    }

    /// Whether the clock wakes a caller that sleeps.
    fn is_up(&self, caller: usize) -> bool {
        let Caller { state, sleep, .. } = &self.callers[caller];
        let is_due = |until: Option<Moment>| until.is_some_and(|until| until <= self.now);
        matches!((state, sleep), (State::Waiting, Sleep::Until(until)) if is_due(*until))
    }

    // ---- The end -------------------------------------------------------------------------------

    /// Everything under way ends, and all connections come back. Then nobody may be left waiting. At last
    /// nothing may be left of any pool.
    pub(crate) fn finish(mut self, refuses: bool, closes: bool) {
        for key in 0..self.setting.keys {
            self.step(Duration::ZERO, |pools| pools.suspend(key, false));
        }
        if !self.setting.is_alone() {
            self.step(Duration::ZERO, |pools| pools.allow(u32::MAX, None));
        }
        let ages = |it: &Config| it.max_lifetime.min(it.max_idle_time) < Duration::MAX;
        if self.members.iter().any(|it| ages(&it.config)) {
            // Those for which there are too few slots would replace what has aged for ever.
            self.end_warm_ups();
        }
        self.come_to_rest(refuses);
        // A warm-up keeps its key's idle connections, and perhaps there are no more to be had.
        self.end_warm_ups();
        self.come_to_rest(refuses);
        let is_waiting = |it: &&Caller| matches!(it.state, State::Waiting);
        let stranded: Vec<_> = self.callers.iter().filter(is_waiting).collect();
        assert!(stranded.is_empty(), "NO-STRANDED-WAITER: {stranded:?}");
        let left = self.connections.values().filter(|it| it.place != Place::Ended);
        let (at_rest, others): (Vec<&Connection>, Vec<_>) =
            left.partition(|it| it.place == Place::AtRest);
        assert!(others.is_empty(), "NO-LOST-SLOT: {others:?}");
        if self.setting.is_alone() {
            return self.finish_alone(refuses);
        }
        let at_rest = small(at_rest.len());
        assert_eq!(self.common.visit(|budget| budget.taken()), at_rest, "NO-LOST-SLOT");
        let max_idle = self.setting.max_idle_total.unwrap_or(u32::MAX).min(self.max_open_total);
        assert!(at_rest <= max_idle, "{at_rest} rest, of {max_idle}");

        for key in 0..self.setting.keys {
            self.step(Duration::ZERO, |pools| pools.flush(key));
        }
        if closes {
            self.step(Duration::ZERO, Self::close);
        }
        self.come_to_rest(refuses);
        for _ in 0..8 {
            let left = self.members.iter().filter(|it| it.ledger.is_some());
            let Some(alarm) = left.filter_map(|it| it.alarm).min() else { break };
            self.step(Duration::ZERO, |pools| pools.wait(alarm.since(pools.now)));
            self.come_to_rest(refuses);
        }
        assert!(self.current.iter().all(Option::is_none), "KEY-02: {:?}", self.current);
        let all_new = Common::new(self.max_open_total);
        assert_eq!(self.common.contents(), all_new.contents(), "nothing is left of anything");
    }

    /// Nobody calls any more, and upkeep alone does what time requires. Then the pool is closed.
    fn finish_alone(mut self, refuses: bool) {
        let Some(member) = self.current[0] else { return };
        for _ in 0..6 {
            let alarm = self.members[member].alarm.filter(|_| !self.is_closed);
            let Some(alarm) = alarm else { break };
            self.now = self.now.max(alarm);
            self.step(Duration::ZERO, |pools| pools.upkeep_of(member));
            self.come_to_rest(false);
        }
        self.step(Duration::ZERO, Self::close);
        self.step(Duration::ZERO, |pools| pools.drain(0, None));
        self.come_to_rest(refuses);
        let is_waiting = |it: &Caller| matches!(it.state, State::Waiting);
        assert!(!self.callers.iter().any(is_waiting), "SHUT-04: a drain of a closed pool ends");
        let left = self.connections.values().find(|it| it.place != Place::Ended);
        assert!(left.is_none() && self.dials.is_empty(), "a drained pool is empty: {left:?}");
    }

    /// The time of all warm-ups that wait is up.
    fn end_warm_ups(&mut self) {
        let is_warm_up =
            |it: &Caller| matches!((it.want, &it.state), (Want::WarmUp(_), State::Waiting));
        while let Some(caller) = self.pick(0, is_warm_up) {
            self.callers[caller].deadline = Some(self.clock());
            self.step(Duration::ZERO, |pools| pools.collect_of(caller));
        }
    }

    fn come_to_rest(&mut self, mut refuses: bool) {
        for _ in 0..10_000 {
            if !self.orders.is_empty() {
                self.step(Duration::ZERO, |pools| pools.deliver(0));
            } else if !self.vacant.is_empty() {
                self.step(Duration::ZERO, |pools| pools.close_if_vacant(0));
            } else if self.end_something(refuses) {
            } else if let Some(until) = self.next_up() {
                // The server is back for the next attempt.
                refuses = false;
                let time = until.since(self.now);
                self.step(Duration::ZERO, |pools| pools.wait(time));
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// When a caller wakes by itself for another attempt to dial, rather than for its deadline.
    fn next_up(&self) -> Option<Moment> {
        let until = self.callers.iter().filter_map(|it| match (&it.state, it.want, it.sleep) {
            (State::Waiting, Want::Connection, Sleep::Until(until)) => until,
            _ => None,
        });
        until.min().filter(|_| !self.is_prompt())
    }

    fn end_something(&mut self, refuses: bool) -> bool {
        let awake = (0..self.callers.len()).find(|caller| match self.callers[*caller].state {
            State::Waiting => self.callers[*caller].sleep == Sleep::Awake || self.is_up(*caller),
            State::Told(..) => true,
            _ => false,
        });
        let is_held = self.pick(0, |it| matches!(it.state, State::Holding(_))).is_some();
        let is_empty = self.pick(0, |it| matches!(it.state, State::Empty)).is_some();
        let end: fn(&mut Self) = match () {
            () if !self.closes.is_empty() => |pools| pools.closed(0),
            () if !self.at_dialer.is_empty() => |pools| pools.back(0, true),
            () if is_held => |pools| pools.give_back(0),
            () if !self.dials.is_empty() && refuses => |pools| pools.dial_failed(0, false),
            () if !self.dials.is_empty() => |pools| pools.dialed(0),
            () if is_empty => |pools| pools.rejoin(0),
            () if awake.is_none() => return false,
            () => |_| {},
        };
        self.step(Duration::ZERO, |pools| match awake {
            Some(caller) => pools.wake(caller),
            None => end(pools),
        });
        true
    }
}
