//! Events that concern the pool as a whole: warm up, suspend, flush, change settings, close, drain.

use crate::abort::AbortHandle;
use crate::config::Config;
use crate::ledger::close_reason::CloseReason;
use crate::runtime::moment::Moment;

use super::answers::{Overdue, Verdict, Waker};
use super::effects::{Effects, Ticket};
use super::jobs::Sponsor;
use super::watcher::{Sleeper, WarmUp};
use super::{Ledger, Phase};

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// A caller wants `target` connections open, within `max_idle`, and waits for them.
    pub(crate) fn warm_up(
        &mut self,
        target: u32,
        now: Moment,
        waker: impl FnOnce() -> W,
    ) -> (Ticket, Effects<C, F, W>) {
        let ticket = self.fresh_ticket();
        let effects = self.settled(now, |ledger, _| {
            if ledger.is_closed() {
                waker().set_verdict(Verdict::Closed, false);
            } else {
                let sleeper = Sleeper::new(waker());
                ledger.others.warm_ups.insert(ticket, WarmUp { target, since: now, sleeper });
            }
        });
        (ticket, effects)
    }

    /// While a pool is suspended, nothing is lent and nothing dialed. A closed one stays closed.
    pub(crate) fn set_suspended(&mut self, is_suspended: bool, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| match ledger.phase {
            Phase::Closed => {}
            _ if is_suspended => ledger.phase = Phase::Suspended,
            _ => ledger.phase = Phase::Running,
        })
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.phase == Phase::Suspended
    }

    /// No connection whose dial began before now is lent again.
    pub(crate) fn flush(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| ledger.retire_all(CloseReason::Flushed, now, effects))
    }

    /// Closes the idle connections, apart from as many as callers wait for.
    pub(crate) fn close_idle(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let wanted = ledger.queue.len();
            ledger.close_idle_beyond(wanted, CloseReason::ClosedIdle, now, effects);
        })
    }

    /// Lets nothing be lent again that is open, or whose dial is under way.
    pub(super) fn retire_all(
        &mut self,
        why: CloseReason,
        now: Moment,
        effects: &mut Effects<C, F, W>,
    ) {
        self.epochs.begin();
        self.epochs.flush(why);
        self.close_idle_beyond(0, why, now, effects);
        while let Some((id, sponsor)) = self.jobs.dials.write_off_first() {
            if let Sponsor::Caller(sponsor) = sponsor {
                self.queue.end_dial(sponsor, id);
            }
        }
        while let Some(id) = self.jobs.at_dialer.write_off_first(why) {
            self.note_closing(id, why, now);
        }
    }

    /// A predicate is to judge every connection whose dial began before now: idle ones at once, the
    /// others before they are lent again. Returns the epoch by which the orders name the predicate.
    pub(crate) fn retire_where(&mut self, now: Moment) -> (u32, Effects<C, F, W>) {
        self.event(now, |ledger, effects| {
            let before = ledger.unclosed();
            let idle = ledger.idle.take_all();
            ledger.epochs.begin();
            ledger.epochs.begin_judging(before);
            for entry in idle {
                ledger.admit(entry, now, effects);
            }
            ledger.epochs.current()
        })
    }

    /// Replaces the settings, which are checked already. Connections in use may exceed a lowered limit
    /// until they are back.
    pub(crate) fn reconfigure(&mut self, config: Config, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.ceiling = config.max_open.max(ledger.open_count());
            ledger.config = config;
            ledger.note_breaker(now, effects);
            ledger.renew_ends(now);
            while ledger.live() > ledger.config.max_open {
                let Some(surplus) = ledger.idle.take_surplus() else { break };
                ledger.begin_close(surplus, CloseReason::Surplus, now, effects);
            }
            ledger.retire_aged(now, effects);
        })
    }

    /// The limits of age have changed: every connection that is out passes the ledger when it comes back.
    pub(super) fn renew_ends(&mut self, now: Moment) {
        self.renew_aging();
        let epoch = self.epochs.begin();
        self.idle.forget_ends(epoch, now);
    }

    /// No connection is lent from now on. Idle ones are closed, and callers in the queue are refused.
    pub(crate) fn close(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.phase = Phase::Closed;
            ledger.close_idle_beyond(0, CloseReason::PoolClosed, now, effects);
            effects.discard(ledger.dialing.last_failure.take());
            while let Some((ticket, waiter)) = ledger.queue.pop_front() {
                ledger.end_wait(ticket, waiter, Verdict::Closed, now, effects);
            }
            for (ticket, warm_up) in std::mem::take(&mut ledger.others.warm_ups) {
                ledger.notify(ticket, warm_up.sleeper, Verdict::Closed, effects);
            }
        })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// The abort handles of a closed pool's connections in use, as far as the dialer gave any.
    pub(crate) fn handles_in_use(&self) -> Vec<AbortHandle> {
        debug_assert!(self.is_closed(), "what is aborted here is never lent again");
        self.handles.values().cloned().collect()
    }

    /// A caller waits until a closed pool has nothing open.
    pub(crate) fn drain(
        &mut self,
        now: Moment,
        waker: impl FnOnce() -> W,
    ) -> (Ticket, Effects<C, F, W>) {
        let ticket = self.fresh_ticket();
        self.others.drains.insert(ticket, Sleeper::new(waker()));
        (ticket, self.settled(now, |_, _| {}))
    }
}
