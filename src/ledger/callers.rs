//! Events of callers: they ask, sleep, wake, and stop waiting.

use crate::runtime::moment::Moment;

use super::answers::{Overdue, Refusal, Reply, Verdict, Waker};
use super::effects::{Effects, Ticket};
use super::entry::Entry;
use super::queue::Waiter;
use super::watcher::Watcher;
use super::{Ledger, Phase};

/// The answer to a caller who does not wait: an idle connection, if one is free.
type Attempt<C> = Result<Option<Entry<C>>, Refusal>;

/// The verdict of a caller who leaves, with what `snapshot` has read; `None`: it does not leave.
type Left<C, F, T> = Option<(Verdict<C, F>, T)>;

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// A caller asks for a connection, and has wanted one since `since`. A caller who was given a
    /// broken connection asks again with its `ticket`, and so keeps its place in the queue.
    pub(crate) fn request(
        &mut self,
        ticket: Option<Ticket>,
        since: Moment,
        deadline: Option<Moment>,
        now: Moment,
        waker: impl FnOnce() -> W,
    ) -> (Reply<C>, Effects<C, F, W>) {
        let is_new = ticket.is_none();
        let ticket = ticket.unwrap_or_else(|| self.fresh_ticket());
        self.routine(now, |ledger, _| {
            if ledger.is_closed() {
                return Reply::Refused(Refusal::Closed);
            }
            let is_first = ledger.queue.is_empty() && ledger.outdated.is_empty();
            let may_lend = is_first && !ledger.is_suspended();
            if let Some(entry) = may_lend.then(|| ledger.take_for_caller(now)).flatten() {
                Reply::Granted(ticket, entry)
            } else if deadline.is_some_and(|deadline| deadline <= now) {
                ledger.totals.timed_out_total += 1;
                let late =
                    if ledger.is_suspended() { Refusal::Suspended } else { Refusal::TooLate };
                Reply::Refused(late)
            } else if is_new && ledger.is_queue_full(now) {
                ledger.totals.queue_full_total += 1;
                Reply::Refused(Refusal::QueueFull)
            } else {
                ledger.totals.waited_total += u64::from(is_new);
                let waiter = Waiter::new(waker(), since, now, deadline);
                Reply::Queued(ledger.queue.join(ticket, waiter))
            }
        })
    }

    /// A caller asks for an idle connection, and neither waits nor lets it be checked. It gets none
    /// while others queue.
    pub(crate) fn try_request(&mut self, now: Moment) -> (Attempt<C>, Effects<C, F, W>) {
        self.routine(now, |ledger, _| match ledger.phase {
            Phase::Closed => Err(Refusal::Closed),
            Phase::Suspended => Err(Refusal::Suspended),
            Phase::Running if ledger.queue.is_empty() => {
                let entry = ledger.take_next();
                Ok(entry.map(|entry| ledger.lend(entry, now)))
            }
            Phase::Running => Ok(None),
        })
    }

    /// Whether one more caller would exceed `max_waiting`. Callers for whom a dial or a check is under
    /// way, or may begin, do not count towards it.
    fn is_queue_full(&self, now: Moment) -> bool {
        let Some(most) = self.config.max_waiting else { return false };
        let room = self.room(now);
        let served = if self.is_suspended() { 0 } else { self.coming().saturating_add(room) };
        self.queue.len() >= most.saturating_add(served)
    }

    /// The holder of `ticket` goes to sleep. Returns when it must wake by itself: at its own deadline,
    /// or sooner if it becomes the watcher. One that already has a verdict finds it at once, and so must
    /// not be the watcher.
    pub(crate) fn sleep(&mut self, ticket: Ticket, deadline: Option<Moment>) -> Option<Moment> {
        self.wakes.dismiss_watcher(ticket);
        if !self.set_asleep(ticket, true) {
            return deadline;
        }
        let Some(wakes_at) = self.next_due().filter(|due| !self.wakes.is_watched(*due)) else {
            return deadline;
        };
        self.wakes.watcher = Some(Watcher { number: ticket.number, wakes_at });
        deadline.map_or(Some(wakes_at), |deadline| Some(deadline.min(wakes_at)))
    }

    /// The holder of `ticket` is awake, and does what has become due. Until it sleeps again it may be in user
    /// code: see `may_be_passed_until`.
    pub(crate) fn look(&mut self, ticket: Ticket, now: Moment) -> Effects<C, F, W> {
        self.set_asleep(ticket, false);
        self.tick(now)
    }

    /// Says whether the holder of `ticket` still waits.
    fn set_asleep(&mut self, ticket: Ticket, is_asleep: bool) -> bool {
        self.queue.set_asleep(ticket, is_asleep) || self.others.set_asleep(ticket, is_asleep)
    }

    /// Time has passed: does what has become due.
    pub(crate) fn tick(&mut self, now: Moment) -> Effects<C, F, W> {
        self.routine(now, |_, _| ()).1
    }

    /// So many callers who slept when they were given a connection have woken since the pool was
    /// opened. Until they wake, idle connections may be kept from the others in the queue.
    pub(crate) fn note_woken(&mut self, woken: u64) {
        self.wakes.woken = woken;
    }

    /// Whether a caller is waking up to a connection that it was given.
    pub(crate) fn is_anyone_waking(&self) -> bool {
        self.wakes.waking() > 0
    }

    /// The deadline of the holder of `ticket` has passed. Returns its verdict, and what `snapshot`
    /// reads before this event finds others late as well. `None`: the caller already has a verdict.
    ///
    /// This frees nothing: a dial that the caller began goes on, and serves the next in the queue.
    pub(crate) fn leave<T>(
        &mut self,
        ticket: Ticket,
        now: Moment,
        snapshot: impl FnOnce(&Self) -> T,
    ) -> (Left<C, F, T>, Effects<C, F, W>) {
        self.routine(now, |ledger, _| {
            let verdict = if let Some(waiter) = ledger.queue.remove(ticket) {
                ledger.time_out(waiter, now)
            } else if ledger.others.remove(ticket) {
                ledger.lateness(None)
            } else {
                return None;
            };
            ledger.wakes.dismiss_watcher(ticket);
            Some((verdict, snapshot(ledger)))
        })
    }

    /// The holder of `ticket` is to wait no longer. A verdict that it has not collected stands.
    pub(crate) fn cancel(&mut self, ticket: Ticket, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            if let Some(waiter) = ledger.queue.remove(ticket) {
                ledger.totals.cancelled_total += 1;
                ledger.end_wait(ticket, waiter, Verdict::Cancelled, now, effects);
            }
        })
    }

    /// A caller was cancelled before it asked.
    pub(crate) fn refuse_cancelled(&mut self, now: Moment) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| ledger.totals.cancelled_total += 1)
    }
}
