//! The events: what the shell tells the ledger, and asks of it.

use std::time::Duration;

use crate::abort::AbortHandle;
use crate::close_reason::CloseReason;
use crate::config::Config;
use crate::moment::Moment;
use crate::stats::Stats;

use super::effects::{CloseOrder, Effects, ErrandId, Task, Ticket};
use super::entry::Entry;
use super::errands::Sponsor;
use super::queue::{Waiter, count};
use super::roster::Tally;
use super::share::Share;
use super::{
    Attempt, Ledger, Loan, Overdue, Refusal, Request, Sleeper, Verdict, Waker, WarmUp, Watch,
};

/// What a caller who leaves is told, and the account of that moment, if it does leave.
type Left<C, F, T> = Option<(Verdict<C, F>, T)>;

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    // ---- Callers -------------------------------------------------------------------------------

    /// A caller asks for a connection that it has wanted `since` then. One that was given a broken
    /// connection asks again with its ticket, and so keeps its place.
    pub(crate) fn request(
        &mut self,
        place: Option<Ticket>,
        since: Moment,
        deadline: Option<Moment>,
        now: Moment,
        waker: impl FnOnce() -> W,
    ) -> (Request<C>, Effects<C, F, W>) {
        let ticket = place.unwrap_or_else(|| self.fresh_ticket());
        let mut answer = Request::Refused(Refusal::Closed);
        let effects = self.settled(now, |ledger, _| {
            if ledger.closed {
                return;
            }
            let is_first = ledger.queue.is_empty() && ledger.outdated.is_empty();
            let may_lend = is_first && !ledger.suspended;
            if let Some(entry) = may_lend.then(|| ledger.take_for_caller(now)).flatten() {
                answer = Request::Granted(ticket, entry);
            } else if deadline.is_some_and(|deadline| deadline <= now) {
                ledger.totals.timed_out_total += 1;
                let is_late = if ledger.suspended { Refusal::Suspended } else { Refusal::TooLate };
                answer = Request::Refused(is_late);
            } else if place.is_none() && ledger.is_queue_full(now) {
                ledger.totals.queue_full_total += 1;
                answer = Request::Refused(Refusal::QueueFull);
            } else {
                ledger.totals.waited_total += u64::from(place.is_none());
                let waiter = Waiter::new(waker(), since, now, deadline);
                answer = Request::Queued(ledger.queue.join(ticket, waiter));
            }
        });
        (answer, effects)
    }

    /// A connection at rest, if there is one and nobody has waited for it: no check, no queue.
    pub(crate) fn try_request(&mut self, now: Moment) -> (Attempt<C>, Effects<C, F, W>) {
        let mut lent = Ok(None);
        let effects = self.settled(now, |ledger, _| {
            if ledger.closed {
                lent = Err(Refusal::Closed);
            } else if ledger.suspended {
                lent = Err(Refusal::Suspended);
            } else if ledger.queue.is_empty() {
                let entry = ledger.idle.take_warmest();
                lent = Ok(entry.map(|entry| ledger.lend(entry, now)));
            }
        });
        (lent, effects)
    }

    /// The deadline of the holder of `ticket` has passed. It is told so, with what `account` says of
    /// this moment, before others are found to be late as well. `None`: it has been told a verdict.
    ///
    /// Nothing comes free by this: a dial that it began goes on for whoever comes next.
    pub(crate) fn leave<T>(
        &mut self,
        ticket: Ticket,
        now: Moment,
        account: impl FnOnce(&Self) -> T,
    ) -> (Left<C, F, T>, Effects<C, F, W>) {
        let mut told = None;
        let effects = self.settled(now, |ledger, _| {
            let verdict = if let Some(waiter) = ledger.queue.remove(ticket) {
                ledger.time_out(waiter, now)
            } else if ledger.drains.remove(&ticket).is_some()
                || ledger.warm_ups.remove(&ticket).is_some()
            {
                ledger.lateness(None)
            } else {
                return;
            };
            ledger.end_watch(ticket);
            told = Some((verdict, account(ledger)));
        });
        (told, effects)
    }

    /// So many of the callers who were given a connection in their sleep have woken up since the
    /// pool was opened. What rests may have been kept from others until then.
    pub(crate) fn note_woken(&mut self, woken: u64) {
        self.woken = woken;
    }

    /// Whether a caller is waking up to a connection that it was given.
    pub(crate) fn is_anyone_waking(&self) -> bool {
        self.waking() > 0
    }

    /// The holder of `ticket` shall wait no longer. A verdict that it has not collected stands.
    pub(crate) fn cancel(&mut self, ticket: Ticket, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            if let Some(waiter) = ledger.queue.remove(ticket) {
                ledger.totals.cancelled_total += 1;
                ledger.dismiss(ticket, waiter, Verdict::Cancelled, now, effects);
            }
        })
    }

    /// A caller was cancelled before it asked.
    pub(crate) fn refuse_cancelled(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| ledger.totals.cancelled_total += 1)
    }

    /// The holder of `ticket` goes to sleep until it is woken, or until the time that this returns:
    /// its own deadline, or else the next at which there may be something to `look` for, if nobody
    /// else wakes for that.
    pub(crate) fn sleep(&mut self, ticket: Ticket, deadline: Option<Moment>) -> Option<Moment> {
        self.queue.fall_asleep(ticket);
        let warm_up = self.warm_ups.get_mut(&ticket).map(|warm_up| &mut warm_up.sleeper);
        if let Some(sleeper) = warm_up.or_else(|| self.drains.get_mut(&ticket)) {
            sleeper.is_asleep = true;
        }
        self.end_watch(ticket);
        let Some(until) = self.next_due().filter(|due| !self.is_watched(*due)) else {
            return deadline;
        };
        self.watch = Some(Watch { by: ticket.number, until });
        deadline.map_or(Some(until), |deadline| Some(deadline.min(until)))
    }

    /// A waiting caller has woken by the clock: what time alone has changed is seen to.
    pub(crate) fn look(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |_, _| {})
    }

    // ---- Connections ---------------------------------------------------------------------------

    /// A borrowed connection comes back, fit for the next caller.
    pub(crate) fn give_back(&mut self, mut entry: Entry<C>, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.receive(&entry);
            entry.come_to_rest(now);
            ledger.note_return(now);
            ledger.shelve(entry, now, effects);
        })
    }

    /// A borrowed connection comes back and is to be reset elsewhere first.
    pub(crate) fn set_aside_for_reset(
        &mut self,
        mut entry: Entry<C>,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.receive(&entry);
            entry.idle_since = now;
            ledger.set_aside(Task::Reset, entry, now, effects);
        })
    }

    /// A connection set aside is back, sound, or to be closed for a reason.
    pub(crate) fn back(
        &mut self,
        id: ErrandId,
        mut entry: Entry<C>,
        fault: Option<CloseReason>,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| match (ledger.end_aside(id, now), fault) {
            // Too late, or from before a flush: its slot has been among the closing ones since.
            (Err(reason), _) => {
                ledger.judgements.pass(entry.epoch, ledger.epoch);
                ledger.order_close(id, entry, reason, now, effects);
            }
            (Ok(task), None) => {
                match task {
                    Task::Check | Task::KeepAlive => entry.proven_at = now,
                    Task::Reset => {
                        entry.proven_at = now;
                        ledger.note_return(now);
                    }
                    Task::Judge { since, until } => {
                        entry.epoch = until;
                        ledger.judgements.pass(since, until);
                    }
                }
                ledger.shelve(entry, now, effects);
            }
            (Ok(_), Some(reason)) => {
                ledger.totals.check_failed_total += u64::from(reason == CloseReason::CheckFailed);
                ledger.begin_close(entry, reason, now, effects);
            }
        })
    }

    /// A borrowed connection comes back and is of no more use.
    pub(crate) fn retire(
        &mut self,
        entry: Entry<C>,
        reason: CloseReason,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.receive(&entry);
            ledger.totals.check_failed_total += u64::from(reason == CloseReason::CheckFailed);
            ledger.begin_close(entry, reason, now, effects);
        })
    }

    /// A borrower keeps its connection for good.
    pub(crate) fn detach(&mut self, entry: Entry<C>, now: Moment) -> (C, Effects<C, F, W>) {
        let mut effects = self.settled(now, |ledger, _| {
            ledger.receive(&entry);
            ledger.judgements.pass(entry.epoch, ledger.epoch);
            ledger.totals.detached_total += 1;
        });
        let (connection, handle) = self.part_with(entry);
        if handle.is_some() {
            effects.work().handle = handle;
        }
        (connection, effects)
    }

    /// The dialer's close has returned.
    pub(crate) fn closed(&mut self, id: ErrandId, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| {
            // Not there if it took too long: then its slot was freed and counted at that time.
            if ledger.closings.end(id) {
                ledger.note_closed(id);
            }
        })
    }

    // ---- The budget that is shared with others --------------------------------------------------

    /// The budget has granted a slot.
    pub(crate) fn granted(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| {
            ledger.share.as_mut().expect("what is granted was asked for").granted();
        })
    }

    /// The budget wants the coldest connections closed for others, as far as they have rested since
    /// `bar`.
    pub(crate) fn evict(
        &mut self,
        most: u32,
        bar: Option<Moment>,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let rests_long = |since: Moment| bar.is_none_or(|bar| since <= bar);
            for _ in 0..most {
                let coldest = ledger.coldest_unwanted().map(|entry| entry.idle_since);
                if !coldest.is_some_and(rests_long) {
                    break;
                }
                let entry = ledger.idle.take_coldest().expect("it has just been seen");
                ledger.begin_close(entry, CloseReason::Evicted, now, effects);
            }
            let is_evicted = |close: &&CloseOrder<C>| close.reason == CloseReason::Evicted;
            let closes = effects.work.iter().flat_map(|work| &work.closes);
            let evicted = closes.filter(is_evicted).map(|close| close.id);
            ledger.share.as_mut().expect("only a member is ordered to evict").answer(most, evicted);
        })
    }

    /// The connections that have been closed to make room, since it was last asked: others have
    /// counted them as gone.
    pub(crate) fn take_condemned(&mut self) -> u32 {
        self.share.as_mut().map_or(0, Share::take_condemned)
    }

    /// Whether nothing is left here, nor anybody who waits or has something to collect.
    pub(super) fn is_vacant(&self, now: Moment) -> bool {
        self.open() == 0
            && self.queue.is_empty()
            && self.warm_ups.is_empty()
            && self.drains.is_empty()
            && (self.closed || self.forgets_at().is_none_or(|at| at <= now))
    }

    /// When it may be forgotten that dials have failed; `None`: it may be now.
    pub(super) fn forgets_at(&self) -> Option<Moment> {
        self.outage.forgotten_at(self.config.breaker()?)
    }

    /// Closes the books for good if nothing is left in them, and says whether nothing is. Callers who
    /// come later are turned away, and must look for other books.
    pub(crate) fn close_if_vacant(&mut self, now: Moment) -> (bool, Effects<C, F, W>) {
        if !self.is_vacant(now) {
            return (false, self.look(now));
        }
        (true, if self.closed { Effects::none() } else { self.close(now) })
    }

    // ---- Connections that rest out of sight ----------------------------------------------------

    /// For how long connections may be lent and given back without the ledger: as long as nobody has
    /// to be served first, if none has to end.
    pub(crate) fn ease(&self, now: Moment) -> Option<Duration> {
        if self.closed
            || self.suspended
            || !self.outdated.is_empty()
            || self.live() > self.config.max_open
            || self.share.as_ref().is_some_and(Share::is_awaited)
        {
            return None;
        }
        if self.queue.is_empty() {
            return Some(Duration::MAX);
        }
        // Nothing to lay out, nothing to shut the gate for again.
        if self.idle.is_empty() { None } else { self.may_be_passed_for(now) }
    }

    /// Whether something rests, laid out or not, that callers in the queue may be kept from until those
    /// who are waking up have done so. However long they have waited: the event that kept it from them
    /// may have gone by an earlier reading of the clock.
    pub(crate) fn keeps_from_queue(&self, is_laid_out: bool) -> bool {
        (is_laid_out || !self.idle.is_empty()) && !self.queue.is_empty() && self.waking() > 0
    }

    /// Connections that have come to rest and have not been laid out since, fit to be lent or not.
    pub(crate) fn at_rest(&self) -> u32 {
        self.idle.len() + count(self.outdated.len())
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Gives up the most recently used idle connection, to rest out of sight. To the ledger it is
    /// in use from now on.
    ///
    /// Not one whose loan should begin a dial for `min_idle`, nor one that must be checked, unless that
    /// is only for the time that it has rested, and its caller sees to it.
    pub(crate) fn lay_out(&mut self, now: Moment) -> Option<Entry<C>> {
        let is_full = self.open() >= self.config.max_open;
        let kept = if is_full { 0 } else { self.config.min_idle() };
        let is_fit = |entry: &&Entry<C>| match self.checks_in_place {
            true => !self.is_doubted(entry),
            false => self.is_proven(entry, now),
        };
        self.idle.warmest().filter(|entry| self.idle.len() > kept && is_fit(entry))?;
        let mut entry = self.idle.take_warmest()?;
        self.in_use += 1;
        entry.just_dialed = false;
        self.date(&mut entry);
        Some(entry)
    }

    /// Writes on a connection when it has to end, if that is not known.
    pub(super) fn date(&self, entry: &mut Entry<C>) {
        if entry.known_end().is_none() {
            entry.date(self.aging.ends_at(entry));
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether an event has seen to everything that was taken in.
    pub(crate) fn is_settled(&self) -> bool {
        self.outdated.is_empty()
    }

    /// Takes back, as idle, a connection that has been laid out, lent and given back out of sight.
    ///
    /// It frees nothing yet: `settle` comes with the event for which it is taken back.
    pub(crate) fn take_in(&mut self, entry: Entry<C>) {
        if self.closed || entry.epoch != self.epoch {
            // It was put down behind the back of a change.
            self.outdated.push(entry);
            return;
        }
        // Nobody has held it since it was put down.
        self.in_use -= 1;
        self.count_loans(&entry);
        self.rest(entry);
    }

    // ---- Dials ---------------------------------------------------------------------------------

    /// A dial has opened a connection. It goes to the longest-waiting caller, whoever began it. The
    /// dialer `took` so long, and if that is not known, since it was ordered: a thread that had to be
    /// started for it takes longer than many a dial, and says nothing of the next.
    pub(crate) fn dialed(
        &mut self,
        id: ErrandId,
        connection: C,
        handle: Option<AbortHandle>,
        took: Duration,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let dial = ledger.dials.end(id);
            if let Sponsor::Caller(sponsor) = dial.sponsor {
                ledger.queue.end_dial(sponsor, id);
            }
            ledger.outage.note_success();
            ledger.pace.note_dial(took.min(now.since(dial.began)), now);
            ledger.renew_aging();
            ledger.totals.dialed_total += 1;
            effects.spend(ledger.last_failure.take());
            let share = ledger.spread.share(id.0);
            let line = ledger.roster.enroll(now);
            let entry = Entry::new(connection, dial.epoch, share, line);
            ledger.handles.extend(handle.map(|handle| (entry.address(), handle)));
            ledger.shelve(entry, now, effects);
        })
    }

    /// A dial has failed, and may be such that trying again cannot help. It is its sponsor's business,
    /// and nobody else's.
    pub(crate) fn dial_failed(
        &mut self,
        id: ErrandId,
        failure: F,
        is_permanent: bool,
        now: Moment,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            let dial = ledger.dials.end(id);
            ledger.judgements.pass(dial.epoch, ledger.epoch);
            ledger.totals.dial_failed_total += 1;
            ledger.note_failure(dial.sponsor, id, failure, is_permanent, now, effects);
        })
    }

    // ---- Control -------------------------------------------------------------------------------

    /// Someone wants `target` connections open, within `max_idle`. `collect` tells.
    pub(crate) fn warm_up(
        &mut self,
        target: u32,
        now: Moment,
        waker: impl FnOnce() -> W,
    ) -> (Ticket, Effects<C, F, W>) {
        let ticket = self.fresh_ticket();
        let effects = self.settled(now, |ledger, _| {
            if ledger.closed {
                waker().tell(Verdict::Closed, false);
            } else {
                let sleeper = Sleeper::new(waker());
                ledger.warm_ups.insert(ticket, WarmUp { target, since: now, sleeper });
            }
        });
        (ticket, effects)
    }

    /// No connection is lent from now on: idle ones are closed, callers in the queue turned away.
    pub(crate) fn close(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.closed = true;
            ledger.close_idle(CloseReason::PoolClosed, now, effects);
            effects.spend(ledger.last_failure.take());
            while let Some((ticket, waiter)) = ledger.queue.pop_front() {
                ledger.dismiss(ticket, waiter, Verdict::Closed, now, effects);
            }
            for (ticket, warm_up) in std::mem::take(&mut ledger.warm_ups) {
                ledger.tell(ticket, warm_up.sleeper, Verdict::Closed, effects);
            }
        })
    }

    /// Nothing is lent and nothing dialed from now on, until `resume`.
    pub(crate) fn suspend(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| ledger.suspended = true)
    }

    pub(crate) fn resume(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| ledger.suspended = false)
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// The handles of the closed pool's connections in use, as far as they have any.
    pub(crate) fn handles_in_use(&self) -> Vec<AbortHandle> {
        debug_assert!(self.closed, "what is aborted here is never lent again");
        self.handles.values().cloned().collect()
    }

    /// Someone waits until nothing of the closed pool is open. `collect` tells.
    pub(crate) fn drain(
        &mut self,
        now: Moment,
        waker: impl FnOnce() -> W,
    ) -> (Ticket, Effects<C, F, W>) {
        let ticket = self.fresh_ticket();
        self.drains.insert(ticket, Sleeper::new(waker()));
        (ticket, self.settled(now, |_, _| {}))
    }

    /// Nothing that was begun before now is lent again.
    pub(crate) fn flush(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.begin_epoch();
            ledger.flushed = ledger.epoch;
            ledger.close_idle(CloseReason::Flushed, now, effects);
            while let Some((id, sponsor)) = ledger.dials.write_off_first() {
                if let Sponsor::Caller(sponsor) = sponsor {
                    ledger.queue.end_dial(sponsor, id);
                }
            }
            while let Some(id) = ledger.aside.write_off_first(CloseReason::Flushed) {
                ledger.note_closing(id, now);
            }
        })
    }

    /// A predicate shall judge all that was begun before now: what is idle at once, the rest before
    /// it is lent again. Comes with the epoch by which the orders name it.
    pub(crate) fn retire_where(&mut self, now: Moment) -> (u32, Effects<C, F, W>) {
        let effects = self.settled(now, |ledger, effects| {
            let before = ledger.at_large();
            let idle = ledger.idle.take_all();
            ledger.begin_epoch();
            ledger.judgements.begin(ledger.epoch, before);
            for entry in idle {
                ledger.shelve(entry, now, effects);
            }
        });
        (self.epoch, effects)
    }

    /// Sets the limits anew, already checked. What is out may exceed a lowered one until it is back.
    pub(crate) fn reconfigure(&mut self, config: Config, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.ceiling = config.max_open.max(ledger.open());
            ledger.config = config;
            ledger.renew_aging();
            ledger.begin_epoch();
            ledger.idle.reconsider(now);
            while ledger.live() > ledger.config.max_open {
                let Some(surplus) = ledger.idle.take_surplus() else { break };
                ledger.begin_close(surplus, CloseReason::Surplus, now, effects);
            }
            ledger.retire_aged(now, effects);
        })
    }

    /// How the latest dial failed, unless one has succeeded since.
    pub(crate) fn last_failure(&self) -> Option<F> {
        self.last_failure.clone()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Connections in callers' hands, or on their way there.
    pub(crate) fn in_hands(&self) -> u32 {
        self.in_use
    }

    /// User code has panicked, and the pool has caught it.
    pub(crate) fn note_panic(&mut self) {
        self.totals.panics_total += 1;
    }

    /// The loans that last too long by now and are not counted as leaks yet.
    pub(crate) fn take_leaks(&mut self, now: Moment) -> Vec<Loan> {
        let limit = now.before(self.config.leak_after);
        let leaks = limit.map_or_else(Vec::new, |limit| self.roster.take_overlong(limit));
        self.totals.leaked_total += leaks.len() as u64;
        leaks
    }

    /// The numbers of this moment, for somebody whose wait has ended: of that wait is whether the
    /// budget had no slot.
    pub(crate) fn stats_after_wait(&self, now: Moment) -> Stats {
        let was_stalled = self.share.as_ref().is_some_and(Share::was_refused);
        Stats { stalled: was_stalled, ..self.stats(now) }
    }

    /// The connections in callers' hands.
    pub(crate) fn loans(&self) -> Vec<Loan> {
        self.roster.loans()
    }

    /// The wakers of the callers in the queue.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &W> + Clone {
        self.queue.wakers()
    }

    /// The numbers of this moment.
    pub(crate) fn stats(&self, now: Moment) -> Stats {
        let Tally { lent, reused } = self.roster.uncounted();
        let seen = self.stats_seen(now);
        Stats {
            lent_total: seen.lent_total + lent,
            reused_total: seen.reused_total + reused,
            ..seen
        }
    }

    /// The same, but for loans out of sight of connections that have not come back. It looks at no
    /// connection.
    pub(crate) fn stats_seen(&self, now: Moment) -> Stats {
        Stats {
            max_open: self.config.max_open,
            idle: self.idle.len(),
            in_use: self.busy(),
            dialing: self.dials.len(),
            closing: self.closings.len(),
            waiting: self.queue.len(),
            overdue: self.dials.overdue(now),
            stalled: self.is_stalled(),
            ..self.totals
        }
    }
}
