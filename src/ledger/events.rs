//! The events: what the shell tells the ledger, and asks of it.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::stats::Stats;

use super::effects::{CloseOrder, Effects, ErrandId, Task, Ticket};
use super::entry::Entry;
use super::queue::{Waiter, count};
use super::roster::Tally;
use super::{Ledger, Loan, Overdue, Refusal, Request, Verdict};

impl<C, F: Clone + From<Overdue>, W: Clone> Ledger<C, F, W> {
    // ---- Callers -------------------------------------------------------------------------------

    /// A caller asks for a connection. One that was given a broken connection asks again with its
    /// ticket, and so keeps its place.
    pub(crate) fn request(
        &mut self,
        place: Option<Ticket>,
        deadline: Option<Instant>,
        now: Instant,
        waker: impl FnOnce() -> W,
    ) -> (Request<C>, Effects<C, F, W>) {
        let mut effects = Effects::none();
        if self.closed {
            return (Request::Refused(Refusal::Closed), effects);
        }
        let ticket = place.unwrap_or_else(|| Ticket(self.fresh_id()));
        if self.queue.is_empty() && self.unfit.is_empty() {
            if let Some(entry) = self.take_fresh(now) {
                return (Request::Granted(ticket, entry), effects);
            }
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.totals.timed_out_total += 1;
            return (Request::Refused(Refusal::TooLate), effects);
        }
        self.expire(now, &mut effects);
        if place.is_none() && self.is_queue_full() {
            self.totals.queue_full_total += 1;
            self.settle(now, &mut effects);
            return (Request::Refused(Refusal::QueueFull), effects);
        }
        self.totals.waited_total += u64::from(place.is_none());
        self.queue.join(ticket, Waiter::new(waker(), now, deadline));
        self.settle(now, &mut effects);
        (Request::Queued(ticket), effects)
    }

    /// A connection at rest, if there is one and nobody has waited for it: no check, no queue.
    pub(crate) fn try_request(&mut self, now: Instant) -> Result<Option<Entry<C>>, Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        if !self.queue.is_empty() {
            return Ok(None);
        }
        let entry = self.idle.pop_back();
        Ok(entry.map(|entry| self.lend(entry, now)))
    }

    /// What has come to the holder of `ticket`, if anything has. Who collects a connection must
    /// `look` next: others may have waited for that.
    pub(crate) fn collect(&mut self, ticket: Ticket) -> Option<Verdict<C, F>> {
        let verdict = self.served.remove(&ticket)?;
        self.granted -= u32::from(matches!(verdict, Verdict::Granted(_)));
        Some(verdict)
    }

    /// The holder of `ticket`, who has collected nothing, waits no longer. Its own dial error is
    /// given back, or else the pool's latest.
    ///
    /// Nothing comes free by this: a dial that it began goes on for whoever comes next. But it must
    /// `look` next: somebody else may have to look from now on.
    pub(crate) fn leave(&mut self, ticket: Ticket, now: Instant) -> Option<F> {
        self.asleep.remove(&ticket);
        self.drains.remove(&ticket);
        self.warm_ups.remove(&ticket);
        let Some(waiter) = self.queue.remove(ticket) else { return self.last_failure.clone() };
        self.count_wait(&waiter, now);
        self.totals.timed_out_total += 1;
        waiter.failure.or_else(|| self.last_failure.clone())
    }

    /// The holder of `ticket` goes to sleep until it is woken, or until the time that this returns:
    /// its own deadline, or else the next at which there may be something to `look` for.
    pub(crate) fn sleep(
        &mut self,
        ticket: Ticket,
        deadline: Option<Instant>,
        now: Instant,
        waker: W,
    ) -> Option<Instant> {
        let rule = if self.looker == Some(ticket) { self.next_dial_look(now) } else { None };
        let until = [deadline, rule, self.next_due()].into_iter().flatten().min();
        self.asleep.insert(ticket, (until, waker));
        until
    }

    /// A waiting caller has woken by the clock: what time alone has changed is seen to.
    pub(crate) fn look(&mut self, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |_, _| {})
    }

    // ---- Connections ---------------------------------------------------------------------------

    /// A borrowed connection comes back, fit for the next caller.
    pub(crate) fn give_back(&mut self, mut entry: Entry<C>, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.receive(&entry);
            entry.proven_at = ledger.stamp(now);
            ledger.note_return(now);
            ledger.shelve(entry, now, effects);
        })
    }

    /// A borrowed connection comes back and is to be reset elsewhere first.
    pub(crate) fn set_aside_for_reset(
        &mut self,
        entry: Entry<C>,
        now: Instant,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.receive(&entry);
            ledger.set_aside(Task::Reset, entry, now, effects);
        })
    }

    /// A connection set aside is back, sound or not.
    pub(crate) fn back(
        &mut self,
        id: ErrandId,
        mut entry: Entry<C>,
        sound: bool,
        now: Instant,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| match ledger.aside.end(id) {
            // Too late, or from before a flush: its slot has been among the closing ones since.
            None => {
                let connection = ledger.strike(entry);
                effects.closes.push(CloseOrder { id, connection });
            }
            Some(task) if sound => {
                entry.proven_at = ledger.stamp(now);
                if task == Task::Reset {
                    ledger.note_return(now);
                }
                ledger.shelve(entry, now, effects);
            }
            Some(task) => {
                ledger.totals.check_failed_total += u64::from(task == Task::Check);
                ledger.begin_close(entry, now, effects);
            }
        })
    }

    /// A borrowed connection comes back and is of no more use.
    pub(crate) fn retire(&mut self, entry: Entry<C>, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.receive(&entry);
            ledger.begin_close(entry, now, effects);
        })
    }

    /// A borrower keeps its connection for good.
    pub(crate) fn detach(&mut self, entry: Entry<C>, now: Instant) -> (C, Effects<C, F, W>) {
        let effects = self.settled(now, |ledger, _| {
            ledger.receive(&entry);
            ledger.totals.detached_total += 1;
        });
        (self.strike(entry), effects)
    }

    /// The dialer's close has returned.
    pub(crate) fn closed(&mut self, id: ErrandId, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| {
            // Not there if it took too long: then its slot was freed and counted at that time.
            ledger.closings.end(id);
        })
    }

    // ---- Connections that rest out of sight ----------------------------------------------------

    /// For how long connections may be lent and given back without the ledger: as long as nobody has
    /// to be served first, if none has to end.
    pub(crate) fn ease(&self, now: Instant) -> Option<Duration> {
        if self.closed || !self.unfit.is_empty() || self.live() > self.config.max_open {
            return None;
        }
        if self.queue.is_empty() { Some(Duration::MAX) } else { self.may_be_passed_for(now) }
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Gives up the most recently used idle connection, to rest out of sight. To the ledger it is
    /// in use from now on. Comes with the time that it has rested.
    pub(crate) fn lay_out(&mut self, now: Instant) -> Option<(Entry<C>, Duration)> {
        let mut entry = self.idle.pop_back()?;
        self.in_use += 1;
        entry.just_dialed = false;
        let rested = now.saturating_duration_since(self.proven_at(&entry));
        Some((entry, rested))
    }

    /// Takes back, as idle, a connection that has been laid out, lent and given back out of sight.
    ///
    /// It frees nothing yet: `settle` comes with the event for which it is taken back.
    pub(crate) fn take_in(&mut self, mut entry: Entry<C>, rested: Duration, now: Instant) {
        if entry.generation != self.generation || self.closed {
            // It was put down behind the back of a flush or a close.
            self.unfit.push(entry);
            return;
        }
        self.in_use -= 1;
        if let Some(since) = now.checked_sub(rested) {
            entry.proven_at = self.stamp(since);
        }
        let at = self.idle.partition_point(|other| other.proven_at <= entry.proven_at);
        self.idle.insert(at, entry);
    }

    // ---- Dials ---------------------------------------------------------------------------------

    /// A dial has opened a connection. It goes to the longest-waiting caller, whoever began it.
    pub(crate) fn dialed(&mut self, id: ErrandId, connection: C, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let dial = ledger.dials.end(id);
            if let Some(sponsor) = dial.sponsor {
                ledger.queue.end_dial(sponsor, id);
            }
            ledger.pace.note_dial(now.saturating_duration_since(dial.began));
            ledger.totals.dialed_total += 1;
            effects.spent.extend(ledger.last_failure.take());
            let opened_at = ledger.stamp(now);
            let line = ledger.roster.enroll(opened_at);
            let entry = Entry::new(connection, dial.generation, opened_at, line);
            ledger.shelve(entry, now, effects);
        })
    }

    /// A dial has failed. That is its sponsor's business, and nobody else's.
    pub(crate) fn dial_failed(
        &mut self,
        id: ErrandId,
        failure: F,
        now: Instant,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let dial = ledger.dials.end(id);
            ledger.totals.dial_failed_total += 1;
            ledger.note_failure(dial.sponsor, id, failure, effects);
        })
    }

    // ---- Control -------------------------------------------------------------------------------

    /// Someone wants `target` connections open, within `max_idle`. `collect` tells.
    pub(crate) fn warm_up(
        &mut self,
        target: u32,
        now: Instant,
        waker: impl FnOnce() -> W,
    ) -> (Ticket, Effects<C, F, W>) {
        let ticket = Ticket(self.fresh_id());
        let effects = self.settled(now, |ledger, _| {
            if ledger.closed {
                ledger.served.insert(ticket, Verdict::Closed);
            } else {
                ledger.warm_ups.insert(ticket, (target, waker()));
            }
        });
        (ticket, effects)
    }

    /// No connection is lent from now on: idle ones are closed, callers in the queue turned away.
    pub(crate) fn close(&mut self, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.closed = true;
            ledger.close_idle(now, effects);
            effects.spent.extend(ledger.last_failure.take());
            while let Some((ticket, waiter)) = ledger.queue.pop_front() {
                ledger.dismiss(ticket, waiter, Verdict::Closed, now, effects);
            }
            for (ticket, (_, waker)) in std::mem::take(&mut ledger.warm_ups) {
                ledger.tell(ticket, waker, Verdict::Closed, effects);
            }
        })
    }

    /// Someone waits until nothing of the closed pool is open. `collect` tells.
    pub(crate) fn drain(
        &mut self,
        now: Instant,
        waker: impl FnOnce() -> W,
    ) -> (Ticket, Effects<C, F, W>) {
        let ticket = Ticket(self.fresh_id());
        self.drains.insert(ticket, waker());
        (ticket, self.settled(now, |_, _| {}))
    }

    /// Nothing that was begun before now is lent again.
    pub(crate) fn flush(&mut self, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.generation += 1;
            ledger.close_idle(now, effects);
            while let Some((id, sponsor)) = ledger.dials.write_off_first() {
                ledger.queue.end_dial(sponsor, id);
            }
            while let Some((id, _)) = ledger.aside.pop_first() {
                ledger.note_closing(id, now);
            }
        })
    }

    /// Sets the limits anew, already checked. What is out may exceed a lowered one until it is back.
    pub(crate) fn reconfigure(&mut self, config: Config, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.ceiling = config.max_open.max(ledger.open());
            ledger.config = config;
            while ledger.live() > ledger.config.max_open {
                let Some(coldest) = ledger.idle.pop_front() else { break };
                ledger.begin_close(coldest, now, effects);
            }
        })
    }

    /// How the latest dial failed, unless one has succeeded since.
    pub(crate) fn last_failure(&self) -> Option<F> {
        self.last_failure.clone()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// User code has panicked, and the pool has caught it.
    pub(crate) fn note_panic(&mut self) {
        self.totals.panics_total += 1;
    }

    /// The connections in callers' hands.
    pub(crate) fn loans(&self) -> Vec<Loan> {
        self.roster.loans()
    }

    /// The wakers of the callers in the queue.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &W> + Clone {
        self.queue.wakers()
    }

    pub(crate) fn stats(&self, now: Instant) -> Stats {
        let Tally { lent, reused } = self.roster.tally();
        Stats {
            max_open: self.config.max_open,
            idle: count(self.idle.len()),
            in_use: self.busy(),
            dialing: self.dials.len(),
            closing: self.closings.len(),
            waiting: self.queue.len(),
            overdue: self.dials.overdue(now),
            lent_total: lent,
            reused_total: reused,
            ..self.totals
        }
    }
}
