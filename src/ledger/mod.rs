//! The ledger: a pool's books as plain data, and every decision that is made on them.
//!
//! Events go in, with the time; [`Effects`] come out, to be carried out by the caller once the lock
//! around the ledger is free. Nothing here waits, dials, wakes, reads a clock or runs user code.
//!
//! ```text
//!            reserve           dialed            grant
//!   (free) ──────────▶ dialing ───────▶ ┌──────┐ ───────▶ ┌────────┐
//!      ▲                  │             │ idle │          │ in use │
//!      │   dial_failed    │             └──────┘ ◀─────── └────────┘
//!      ├──────────────────┘               │  ▲   give_back    │  │
//!      │                            check │  │ back           │  │ detach
//!      │   closed                         ▼  │     reset      │  ▼
//!      ├───────────── closing ◀──────── (aside) ◀─────────────┤ (free)
//!      │                 ▲                                    │
//!      └─────────────────┴────────────── retire ──────────────┘
//! ```

mod dial_rule;
mod effects;
mod entry;
mod errands;
mod queue;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::config::{Config, DialRule, moment};
use crate::stats::Stats;

use self::dial_rule::{Outlook, Pace};
use self::errands::{Aside, Closings, Dial, Dials};
use self::queue::{Queue, Waiter, count};

pub(crate) use self::effects::{
    AsideOrder, CloseOrder, DialOrder, Effects, ErrandId, Task, Ticket,
};
pub(crate) use self::entry::{Entry, Unseen};

/// A dial has not ended within its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) limit: Duration,
}

/// What a caller who asked for a connection is told.
#[derive(Debug)]
pub(crate) enum Request<C> {
    /// A connection, at once. The ticket keeps the place if it turns out to be broken.
    Granted(Ticket, Entry<C>),
    /// Wait until the waker is woken, then `collect`.
    Queued(Ticket),
    /// Neither, and why.
    Refused(Refusal),
}

/// Why a caller is neither served nor queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    QueueFull,
    /// The deadline had passed before the caller could join the queue.
    TooLate,
}

/// What waiting has come to.
#[derive(Debug)]
pub(crate) enum Verdict<C, F> {
    Granted(Entry<C>),
    /// The caller's own dial failed, and no connection in use can come back to serve it.
    Failed(F),
    /// The deadline passed; with the caller's own dial error or else the pool's latest.
    Late(Option<F>),
    Closed,
    /// As many connections are open as the warm-up asked for.
    Warm,
    /// The pool is closed, and the last of its connections with it.
    Drained,
}

/// The books of one pool, for connections `C`, dial failures `F` and wakers `W`.
///
/// Time enters as `now`. It may repeat or run backwards a little between events (each caller reads
/// its clock before it takes the lock): then nothing is done early, and nothing is counted twice.
///
/// | promise | how it is kept here |
/// | --- | --- |
/// | `BOUND` | `idle + in_use + dialing + closing <= max_open`: a slot is reserved before its dial begins and freed after its close has ended |
/// | `NO-LOST-SLOT` | each errand has an id, and ends exactly once |
/// | `NO-STRANDED-WAITER` | every event that can free anything ends in `settle`; after it nothing that a waiter could use is left over |
/// | `NO-LOST-CONNECTION` | a grant lies in `served` until it is collected, and is collected before a deadline is looked at |
/// | `LATE-BINDING` | what comes first goes to the caller who has waited longest, whoever's dial it was |
/// | `BOUNDED-BYPASS` | a newcomer is served before the queue only if the queue is empty |
/// | `DEADLINE` | whoever has slept longest wakes when the next errand is due, or is woken to hear of it |
/// | `REASON` | nobody holds a dial's failure and waits while nothing is in use |
/// | `NO-DEMAND-NO-DIAL` | a dial has a sponsor: a caller in the queue, or a warm-up |
#[derive(Debug)]
pub(crate) struct Ledger<C, F, W> {
    config: Config,
    /// What `open` may be: `max_open`, or more while connections from before a `resize` are out.
    ceiling: u32,
    closed: bool,
    /// Raised by `flush`; what was begun under an older one is not lent again.
    generation: u64,
    next_id: u64,

    /// At rest, the most recently used at the back.
    idle: VecDeque<Entry<C>>,
    /// Taken in although they may not be lent again: `settle` closes them. They count as in use.
    unfit: Vec<Entry<C>>,
    /// Entries in callers' hands, or granted and not yet collected.
    in_use: u32,
    dials: Dials,
    aside: Aside,
    closings: Closings,

    queue: Queue<F, W>,
    pace: Pace,
    /// The caller whose wait ends when the dial rule must look again, if it must.
    looker: Option<Ticket>,
    served: BTreeMap<Ticket, Verdict<C, F>>,
    /// Connections among `served`: each is on its way to a caller who has not woken yet.
    granted: u32,
    /// Warm-ups under way, and the number of connections that each wants open.
    warm_ups: BTreeMap<Ticket, (u32, W)>,
    /// Those who wait for the last connection of a closed pool to end.
    drains: BTreeMap<Ticket, W>,
    /// Those who sleep, for whichever of these reasons, and when they will look by themselves.
    asleep: BTreeMap<Ticket, (Option<Instant>, W)>,

    /// How the latest dial failed, unless one has succeeded since.
    last_failure: Option<F>,
    /// Totals only; `stats` fills in the rest.
    totals: Stats,
}

impl<C, F: Clone + From<Overdue>, W: Clone> Ledger<C, F, W> {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            ceiling: config.max_open,
            closed: false,
            generation: 0,
            next_id: 0,
            idle: VecDeque::new(),
            unfit: Vec::new(),
            in_use: 0,
            dials: Dials::default(),
            aside: Aside::default(),
            closings: Closings::default(),
            queue: Queue::new(),
            pace: Pace::default(),
            looker: None,
            served: BTreeMap::new(),
            granted: 0,
            warm_ups: BTreeMap::new(),
            drains: BTreeMap::new(),
            asleep: BTreeMap::new(),
            last_failure: None,
            totals: Stats::default(),
        }
    }

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
            ledger.receive(&mut entry);
            entry.reused = true;
            entry.proven_at = now;
            ledger.note_return(now);
            ledger.shelve(entry, now, effects);
        })
    }

    /// A borrowed connection comes back and is to be reset elsewhere first.
    pub(crate) fn set_aside_for_reset(
        &mut self,
        mut entry: Entry<C>,
        now: Instant,
    ) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.receive(&mut entry);
            entry.reused = true;
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
            None => effects.closes.push(CloseOrder { id, connection: entry.into_connection() }),
            Some(task) if sound => {
                entry.proven_at = now;
                if task == Task::Reset {
                    ledger.note_return(now);
                }
                ledger.shelve(entry, now, effects);
            }
            Some(task) => {
                ledger.totals.check_failed_total += u64::from(task == Task::Check);
                ledger.begin_close(entry.into_connection(), now, effects);
            }
        })
    }

    /// A borrowed connection comes back and is of no more use.
    pub(crate) fn retire(&mut self, mut entry: Entry<C>, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, effects| {
            ledger.receive(&mut entry);
            ledger.begin_close(entry.into_connection(), now, effects);
        })
    }

    /// A borrower keeps its connection for good.
    pub(crate) fn detach(&mut self, mut entry: Entry<C>, now: Instant) -> (C, Effects<C, F, W>) {
        let effects = self.settled(now, |ledger, _| {
            ledger.receive(&mut entry);
            ledger.totals.detached_total += 1;
        });
        (entry.into_connection(), effects)
    }

    /// The dialer's close has returned.
    pub(crate) fn closed(&mut self, id: ErrandId, now: Instant) -> Effects<C, F, W> {
        self.settled(now, |ledger, _| {
            // Not there if it took too long: then its slot was freed and counted at that time.
            ledger.closings.end(id);
        })
    }

    // ---- Connections that rest out of sight ----------------------------------------------------

    /// Whether connections may be lent and given back without the ledger: nobody has to be served
    /// first, and none has to end.
    pub(crate) fn is_at_ease(&self, now: Instant) -> bool {
        !self.closed
            && self.unfit.is_empty()
            && self.live() <= self.config.max_open
            && (self.queue.is_empty() || self.may_be_passed(now))
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Gives up the most recently used idle connection, to rest out of sight. To the ledger it is
    /// in use from now on. Comes with the time that it has rested.
    pub(crate) fn lay_out(&mut self, now: Instant) -> Option<(Entry<C>, Duration)> {
        let mut entry = self.idle.pop_back()?;
        self.in_use += 1;
        entry.just_dialed = false;
        entry.unseen.was_fresh = !entry.reused;
        let rested = now.saturating_duration_since(entry.proven_at);
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
        self.receive(&mut entry);
        entry.proven_at = now.checked_sub(rested).unwrap_or(entry.proven_at);
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
            ledger.shelve(Entry::new(connection, dial.generation, now), now, effects);
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
                ledger.begin_close(coldest.into_connection(), now, effects);
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

    pub(crate) fn stats(&self, now: Instant) -> Stats {
        Stats {
            max_open: self.config.max_open,
            idle: count(self.idle.len()),
            in_use: self.busy(),
            dialing: self.dials.len(),
            closing: self.closings.len(),
            waiting: self.queue.len(),
            overdue: self.dials.overdue(now),
            ..self.totals
        }
    }

    // ---- Decisions -----------------------------------------------------------------------------

    /// Runs an event that may free something: whatever it was, it ends in `settle`.
    fn settled(
        &mut self,
        now: Instant,
        event: impl FnOnce(&mut Self, &mut Effects<C, F, W>),
    ) -> Effects<C, F, W> {
        let mut effects = Effects::none();
        self.expire(now, &mut effects);
        event(self, &mut effects);
        self.settle(now, &mut effects);
        effects
    }

    /// Sees to it that somebody looks when the next errand is due: whoever has slept longest is woken
    /// if it would sleep beyond that, and so sets its alarm anew.
    fn keep_watch(&mut self, effects: &mut Effects<C, F, W>) {
        let Some(due) = self.next_due() else { return };
        let Some(longest) = self.asleep.first_entry() else { return };
        if longest.get().0.is_none_or(|until| until > due) {
            let (_, waker) = longest.remove();
            effects.wake.push(waker);
        }
    }

    /// Gives what is free to those who wait, longest first, and begins the dials that they want.
    /// Every event that can free anything ends here: that is why no waiter is ever stranded.
    fn settle(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        for mut entry in std::mem::take(&mut self.unfit) {
            self.receive(&mut entry);
            self.begin_close(entry.into_connection(), now, effects);
        }
        if !self.closed {
            self.serve(now, effects);
            self.fail_hopeless(now, effects);
            self.begin_dials(now, effects);
            self.appoint_looker(effects);
            self.finish_warm_ups(effects);
            while count(self.idle.len()) > self.config.max_idle() {
                let coldest = self.idle.pop_front().expect("more are idle than max_idle");
                self.begin_close(coldest.into_connection(), now, effects);
            }
        } else if self.open() == 0 {
            for (ticket, waker) in std::mem::take(&mut self.drains) {
                self.tell(ticket, waker, Verdict::Drained, effects);
            }
        }
        self.ceiling = self.config.max_open.max(self.ceiling.min(self.open()));
        self.keep_watch(effects);
        self.audit(now);
    }

    /// Writes off what has overrun its time limit.
    fn expire(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        while let Some((id, sponsor)) = self.dials.write_off_overdue(now) {
            let failure = F::from(Overdue { limit: self.config.dial_timeout });
            self.note_failure(Some(sponsor), id, failure, effects);
        }
        while let Some((id, task)) = self.aside.pop_overdue(now) {
            // The connection is still out, but nobody shall have it: it is closed when it is back.
            self.totals.check_failed_total += u64::from(task == Task::Check);
            self.note_closing(id, now);
        }
        while self.closings.pop_overdue(now) {
            self.totals.close_timeouts_total += 1;
        }
    }

    /// Lends idle connections to those who have waited longest; sets stale ones aside for a check.
    fn serve(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        while let Some((ticket, expired)) = self.queue.front(now) {
            if expired {
                // Not woken: its own clock does that.
                let mut waiter = self.queue.remove(ticket).expect("the front is in the queue");
                let failure = waiter.failure.take().or_else(|| self.last_failure.clone());
                self.count_wait(&waiter, now);
                self.totals.timed_out_total += 1;
                self.asleep.remove(&ticket);
                self.served.insert(ticket, Verdict::Late(failure));
            } else if self.may_be_passed(now) {
                return;
            } else if let Some(entry) = self.take_fresh(now) {
                let waiter = self.queue.remove(ticket).expect("the front is in the queue");
                self.granted += 1;
                self.dismiss(ticket, waiter, Verdict::Granted(entry), now, effects);
            } else if self.aside.checks() < self.queue.len() && !self.idle.is_empty() {
                // Whatever dials are under way: a check is quick, and one of them may hang.
                let stale = self.idle.pop_back().expect("something is idle");
                self.set_aside(Task::Check, stale, now, effects);
            } else {
                return;
            }
        }
    }

    /// Whether newcomers may be served before the queue: while a connection is on its way to a
    /// caller who has not woken yet, and the first of the others has not waited for long.
    ///
    /// To hand every connection over costs a change of threads each, during which it is of no use
    /// to anyone. One at a time is handed over while the waits are short, and all of them once a
    /// wait is long: so no wait is.
    fn may_be_passed(&self, now: Instant) -> bool {
        self.granted > 0
            && self
                .queue
                .front_since()
                .is_some_and(|since| now.saturating_duration_since(since) < self.config.bypass)
    }

    /// Turns away those whose dial has failed and whom no return can serve, as nothing is in use.
    ///
    /// Connections in use count here and other dials do not, or one refusal would wait for the end
    /// of another's black hole.
    fn fail_hopeless(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        if self.busy() > 0 {
            return;
        }
        while let Some((ticket, mut waiter)) = self.queue.pop_failed() {
            let failure = waiter.failure.take().expect("a caller among the failed has a failure");
            self.dismiss(ticket, waiter, Verdict::Failed(failure), now, effects);
        }
    }

    /// Reserves a slot for each dial that is wanted and that the limits allow.
    fn begin_dials(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        for _ in 0..self.wanted(now).min(self.room()) {
            let Some(sponsor) = self.queue.sponsor(now) else { break };
            let id = self.begin_dial(sponsor, now, effects);
            self.queue.begin_dial(sponsor, id);
        }
        let Some((&sponsor, &(target, _))) =
            self.warm_ups.iter().max_by_key(|(_, (target, _))| *target)
        else {
            return;
        };
        let live = self.live() - self.dials.len() + self.dials.counted_on();
        let wanted = target.min(self.config.max_idle()).saturating_sub(live);
        for _ in 0..wanted.min(self.room()) {
            self.begin_dial(sponsor, now, effects);
        }
    }

    /// The dials that the callers in the queue want.
    fn wanted(&mut self, now: Instant) -> u32 {
        if self.queue.is_empty() {
            self.pace.rest();
            return 0;
        }
        let hold_off = self.pace.hold_off().unwrap_or_default();
        let outlook = Outlook {
            unmet: self.queue.unmet(),
            ripe: now.checked_sub(hold_off).map_or(0, |before| self.queue.ripe(before)),
            // What is idle while callers wait is handed over to them one by one.
            coming: self.coming() + count(self.idle.len()),
            busy: self.busy(),
        };
        self.pace.wanted(self.config.dial_rule, outlook, now)
    }

    /// Sees to it that somebody looks again if the rule holds back a dial for which there is room.
    ///
    /// The last in the queue does it, being the one who is likely to stay longest; nobody needs to
    /// while every slot is taken.
    fn appoint_looker(&mut self, effects: &mut Effects<C, F, W>) {
        let is_held_back = self.config.dial_rule != DialRule::Eager
            && self.room() > 0
            && self.busy() > 0
            && self.coming() + count(self.idle.len()) < self.queue.unmet()
            && self.pace.hold_off().is_some();
        if !is_held_back {
            self.looker = None;
        } else if !self.looker.is_some_and(|looker| self.queue.contains(looker)) {
            let last = self.queue.last_unsponsored();
            self.looker = last.map(|(ticket, _)| ticket);
            effects.wake.extend(last.map(|(_, waker)| waker.clone()));
        }
    }

    /// When the dial rule must look again.
    fn next_dial_look(&self, now: Instant) -> Option<Instant> {
        let hold_off = self.pace.hold_off()?;
        let ripens = self.queue.unripe_since().and_then(|since| since.checked_add(hold_off));
        let again = self.pace.next_look(now);
        if self.queue.has_ripe() { again.into_iter().chain(ripens).min() } else { ripens }
    }

    fn note_return(&mut self, now: Instant) {
        if !self.queue.is_empty() {
            self.pace.note_return(now);
        }
    }

    fn begin_dial(
        &mut self,
        sponsor: Ticket,
        now: Instant,
        effects: &mut Effects<C, F, W>,
    ) -> ErrandId {
        let id = ErrandId(self.fresh_id());
        let deadline = moment(now, self.config.dial_timeout);
        let sponsor = Some(sponsor);
        self.dials.begin(id, Dial { sponsor, generation: self.generation, began: now, deadline });
        self.totals.dials_total += 1;
        effects.dials.push(DialOrder { id, deadline });
        id
    }

    /// A dial's failure is its sponsor's, if that one still waits; the pool remembers the latest.
    fn note_failure(
        &mut self,
        sponsor: Option<Ticket>,
        dial: ErrandId,
        failure: F,
        effects: &mut Effects<C, F, W>,
    ) {
        effects.spent.extend(self.last_failure.replace(failure.clone()));
        let Some(sponsor) = sponsor else {
            effects.spent.push(failure);
            return;
        };
        if let Some((_, waker)) = self.warm_ups.remove(&sponsor) {
            self.tell(sponsor, waker, Verdict::Failed(failure), effects);
        } else {
            effects.spent.extend(self.queue.fail(sponsor, dial, failure));
        }
    }

    fn finish_warm_ups(&mut self, effects: &mut Effects<C, F, W>) {
        let open = count(self.idle.len()) + self.busy();
        let limit = self.config.max_idle();
        let reached = |(target, _): &(u32, W)| (*target).min(limit) <= open;
        while let Some(ticket) = self.warm_ups.iter().find(|(_, w)| reached(w)).map(|(t, _)| *t) {
            let (_, waker) = self.warm_ups.remove(&ticket).expect("a warm-up just found");
            self.tell(ticket, waker, Verdict::Warm, effects);
        }
    }

    /// Takes a caller out of the queue with what has become of its wait.
    fn dismiss(
        &mut self,
        ticket: Ticket,
        waiter: Waiter<F, W>,
        verdict: Verdict<C, F>,
        now: Instant,
        effects: &mut Effects<C, F, W>,
    ) {
        self.count_wait(&waiter, now);
        effects.spent.extend(waiter.failure);
        self.tell(ticket, waiter.waker, verdict, effects);
    }

    /// Lays a verdict out for whoever waits for it, and has it woken.
    fn tell(
        &mut self,
        ticket: Ticket,
        waker: W,
        verdict: Verdict<C, F>,
        effects: &mut Effects<C, F, W>,
    ) {
        self.asleep.remove(&ticket);
        self.served.insert(ticket, verdict);
        effects.wake.push(waker);
    }

    fn count_wait(&mut self, waiter: &Waiter<F, W>, now: Instant) {
        self.totals.wait_time_total += now.saturating_duration_since(waiter.since);
    }

    /// Lends the most recently used idle connection, if it needs no check.
    fn take_fresh(&mut self, now: Instant) -> Option<Entry<C>> {
        let idle_for = now.saturating_duration_since(self.idle.back()?.proven_at);
        if idle_for > self.config.check_after {
            return None;
        }
        let entry = self.idle.pop_back()?;
        Some(self.lend(entry, now))
    }

    fn lend(&mut self, mut entry: Entry<C>, now: Instant) -> Entry<C> {
        self.in_use += 1;
        self.totals.lent_total += 1;
        self.totals.reused_total += u64::from(entry.reused);
        entry.just_dialed = !entry.reused && entry.opened_at == now;
        entry
    }

    /// Has a connection in use come back, with what has become of it out of sight.
    fn receive(&mut self, entry: &mut Entry<C>) {
        self.in_use -= 1;
        let Unseen { lent, was_fresh, .. } = std::mem::take(&mut entry.unseen);
        self.totals.lent_total += lent;
        self.totals.reused_total += lent.saturating_sub(u64::from(was_fresh));
    }

    /// Puts a connection where `serve` finds it, or closes it if it may not be lent again.
    fn shelve(&mut self, entry: Entry<C>, now: Instant, effects: &mut Effects<C, F, W>) {
        let surplus = self.live() >= self.config.max_open;
        if self.closed || surplus || entry.generation != self.generation {
            self.begin_close(entry.into_connection(), now, effects);
        } else {
            self.idle.push_back(entry);
        }
    }

    fn set_aside(
        &mut self,
        task: Task,
        entry: Entry<C>,
        now: Instant,
        effects: &mut Effects<C, F, W>,
    ) {
        let id = ErrandId(self.fresh_id());
        let deadline = moment(now, self.config.check_timeout);
        self.aside.begin(id, task, deadline);
        effects.asides.push(AsideOrder { id, task, entry, deadline });
    }

    fn begin_close(&mut self, connection: C, now: Instant, effects: &mut Effects<C, F, W>) {
        let id = ErrandId(self.fresh_id());
        self.note_closing(id, now);
        effects.closes.push(CloseOrder { id, connection });
    }

    fn note_closing(&mut self, id: ErrandId, now: Instant) {
        self.totals.retired_total += 1;
        self.closings.begin(id, moment(now, self.config.close_timeout));
    }

    fn close_idle(&mut self, now: Instant, effects: &mut Effects<C, F, W>) {
        while let Some(entry) = self.idle.pop_front() {
            self.begin_close(entry.into_connection(), now, effects);
        }
    }

    // ---- Sums ----------------------------------------------------------------------------------

    fn open(&self) -> u32 {
        self.live() + self.closings.len()
    }

    /// What is open and not on its way out.
    fn live(&self) -> u32 {
        count(self.idle.len()) + self.busy() + self.dials.len()
    }

    /// Connections out of the pool's hands that may come back to serve someone.
    fn busy(&self) -> u32 {
        self.in_use + self.aside.len()
    }

    /// Errands under way that a caller can count on.
    fn coming(&self) -> u32 {
        self.dials.counted_on() + self.aside.checks()
    }

    /// When an errand under way will have overrun its time limit.
    fn next_due(&self) -> Option<Instant> {
        [self.dials.next_due(), self.aside.next_due(), self.closings.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Slots that may be dialed into now.
    fn room(&self) -> u32 {
        let slots = self.config.max_open.saturating_sub(self.open());
        let dials = self.config.max_dialing.unwrap_or(u32::MAX).saturating_sub(self.dials.len());
        slots.min(dials)
    }

    /// Whether one more caller would be one too many without a dial or a check to count on, begun
    /// or yet to begin.
    fn is_queue_full(&self) -> bool {
        // What is idle although someone asks has yet to be checked.
        let served = self.coming() + self.room() + count(self.idle.len());
        self.config.max_waiting.is_some_and(|most| self.queue.len() >= most.saturating_add(served))
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The promises, by name.
    fn audit(&self, now: Instant) {
        debug_assert!(self.open() <= self.ceiling, "BOUND");
        let waiting = self.queue.len() as usize + self.warm_ups.len() + self.drains.len();
        debug_assert!(self.asleep.len() <= waiting, "nobody sleeps who waits for nothing");
        if self.closed {
            debug_assert!(self.idle.is_empty() && self.queue.is_empty(), "closed and at rest");
        } else if !self.queue.is_empty() {
            debug_assert!(
                self.idle.is_empty()
                    || self.aside.checks() >= self.queue.len()
                    || self.may_be_passed(now),
                "NO-STRANDED-WAITER: idle"
            );
            debug_assert!(
                self.room() == 0
                    || self.coming() + count(self.idle.len()) >= self.queue.unmet()
                    || self.looker.is_some()
                    || self.queue.sponsor(now).is_none(),
                "NO-STRANDED-WAITER: slot"
            );
            debug_assert!(self.busy() > 0 || !self.queue.any_failed(), "REASON");
        }
    }
}
