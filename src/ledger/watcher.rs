//! Waking: the watcher, who wakes for everybody, and those who wait outside the queue.
//!
//! The watcher is the one sleeper that wakes when the next thing is due, although it has no verdict
//! then: it reports `look`, sleeps again, and may become the watcher again. Everybody else sleeps until
//! its own deadline. Anyone who goes to sleep becomes the watcher if nobody wakes early enough
//! (`sleep`). If an event makes something due sooner, the last in the queue is woken to become it, as it
//! is likely to wait longest (`appoint_watcher`).
//!
//! With nobody asleep, an alarm does the same: see `upkeep`.

use std::collections::BTreeMap;

use crate::runtime::moment::Moment;

use super::answers::{Overdue, Verdict, Waker};
use super::effects::{Effects, Ticket};
use super::{Ledger, earlier};

/// Somebody who waits, as far as waking it is concerned.
#[derive(Debug)]
pub(super) struct Sleeper<W> {
    pub(super) waker: W,
    /// Whether it has to wake up before it can use what it is given.
    pub(super) is_asleep: bool,
}

impl<W> Sleeper<W> {
    pub(super) fn new(waker: W) -> Self {
        Self { waker, is_asleep: false }
    }
}

/// Somebody waits until `target` connections are open.
#[derive(Debug)]
pub(super) struct WarmUp<W> {
    pub(super) target: u32,
    pub(super) since: Moment,
    pub(super) sleeper: Sleeper<W>,
}

/// Warm-ups and drains, which wait outside the queue: the first to come first.
#[derive(Debug)]
pub(super) struct Others<W> {
    pub(super) warm_ups: BTreeMap<Ticket, WarmUp<W>>,
    /// These wait for the last connection of a closed pool to end.
    pub(super) drains: BTreeMap<Ticket, Sleeper<W>>,
}

impl<W> Others<W> {
    pub(super) fn new() -> Self {
        Self { warm_ups: BTreeMap::new(), drains: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.warm_ups.is_empty() && self.drains.is_empty()
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> bool {
        self.drains.remove(&ticket).is_some() || self.warm_ups.remove(&ticket).is_some()
    }

    /// Notes whether the holder of `ticket` sleeps. Says whether it waits here.
    pub(super) fn set_asleep(&mut self, ticket: Ticket, is_asleep: bool) -> bool {
        let warm_up = self.warm_ups.get_mut(&ticket).map(|warm_up| &mut warm_up.sleeper);
        let sleeper = warm_up.or_else(|| self.drains.get_mut(&ticket));
        sleeper.map(|sleeper| sleeper.is_asleep = is_asleep).is_some()
    }

    fn last_asleep(&self) -> Option<(Ticket, &W)> {
        let warm_ups = self.warm_ups.iter().map(|(ticket, warm_up)| (ticket, &warm_up.sleeper));
        let asleep = warm_ups.chain(&self.drains).filter(|(_, sleeper)| sleeper.is_asleep);
        asleep.map(|(ticket, sleeper)| (*ticket, &sleeper.waker)).last()
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Watcher {
    /// The number of its ticket.
    pub(super) number: u64,
    pub(super) wakes_at: Moment,
}

/// The watcher, and the callers who are waking up. `woken <= handed`.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    pub(super) watcher: Option<Watcher>,
    /// How many callers were asleep when they were given a connection.
    pub(super) handed: u64,
    /// How many of these have woken up. The shell counts them, and passes the number on before an
    /// event.
    pub(super) woken: u64,
}

impl Wakes {
    /// Callers who are waking up to a connection that they were given.
    pub(super) fn waking(&self) -> u64 {
        self.handed - self.woken
    }

    /// Whether the watcher wakes by `due`.
    pub(super) fn is_watched(&self, due: Moment) -> bool {
        self.watcher.is_some_and(|watcher| watcher.wakes_at <= due)
    }

    /// The holder of `ticket` no longer sleeps, and so is no watcher.
    pub(super) fn dismiss_watcher(&mut self, ticket: Ticket) {
        self.watcher.take_if(|watcher| watcher.number == ticket.number);
    }
}

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// Makes sure that somebody wakes when the next thing is due: wakes a sleeper to become the watcher
    /// if nobody does.
    pub(super) fn appoint_watcher(&mut self, effects: &mut Effects<C, F, W>) {
        if self.next_due().is_none_or(|due| self.wakes.is_watched(due)) {
            return;
        }
        let sleeper = self.queue.last_asleep().or_else(|| self.others.last_asleep());
        if let Some((ticket, waker)) = sleeper {
            waker.request_tick();
            effects.wake(waker.clone());
            // It is awake now. When it sleeps again, it says until when.
            let wakes_at = Moment::FIRST;
            self.wakes.watcher = Some(Watcher { number: ticket.number, wakes_at });
        }
    }

    /// When somebody who waits must report `look`: a job will have overrun its time limit, a caller may
    /// dial again, the dial rule must be asked again, or a connection that has aged may be replaced.
    pub(super) fn next_due(&self) -> Option<Moment> {
        if self.quiet.is_full() {
            return None;
        }
        let retry = if self.queue.any_failed() { self.retry_due() } else { None };
        let has_warm_ups = !self.others.warm_ups.is_empty();
        let warm_up = if has_warm_ups { self.upkeep.replaces_at } else { None };
        let due = earlier(earlier(retry, warm_up), self.dialing.look_at);
        earlier(due, self.jobs.next_due())
    }

    /// Gives somebody who waits its verdict, and has it woken.
    pub(super) fn notify(
        &mut self,
        ticket: Ticket,
        sleeper: Sleeper<W>,
        verdict: Verdict<C, F>,
        effects: &mut Effects<C, F, W>,
    ) {
        let Sleeper { waker, is_asleep } = sleeper;
        let is_waking = is_asleep && matches!(verdict, Verdict::Granted(_));
        self.wakes.handed += u64::from(is_waking);
        self.wakes.dismiss_watcher(ticket);
        waker.set_verdict(verdict, is_waking);
        effects.wake(waker);
    }
}
