//! The callers in the queue, in order of arrival, and which of them still want a dial.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::moment::Moment;

use super::effects::{ErrandId, Ticket};

/// A caller who waits.
#[derive(Debug)]
pub(super) struct Waiter<F, W> {
    pub(super) waker: W,
    /// Since when the caller wants a connection: its seniority.
    pub(super) since: Moment,
    /// When it joined the queue: later than that if it was given a broken connection before.
    pub(super) joined: Moment,
    /// `None`: waits for as long as it takes.
    pub(super) deadline: Option<Moment>,
    /// How the dial that this caller's need began has failed, if it has. The caller keeps the
    /// place, but wants no further dial.
    pub(super) failure: Option<F>,
    /// That dial, while it is counted on.
    dial: Option<ErrandId>,
    /// Whether it has waited for the dial rule's hold-off.
    is_ripe: bool,
}

impl<F, W> Waiter<F, W> {
    pub(super) fn new(waker: W, since: Moment, joined: Moment, deadline: Option<Moment>) -> Self {
        Self { waker, since, joined, deadline, failure: None, dial: None, is_ripe: false }
    }

    fn is_expired(&self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// First come, first served; removal from anywhere in O(log n), and nothing of a caller stays.
///
/// A caller is in one of three states: a dial of its own is under way, or that dial has failed
/// (`failed`), or it has neither (`unsponsored`).
#[derive(Debug)]
pub(super) struct Queue<F, W> {
    waiters: BTreeMap<Ticket, Waiter<F, W>>,
    unsponsored: BTreeSet<Ticket>,
    failed: BTreeSet<Ticket>,
    /// How far down the queue callers have been found ripe.
    ripe_up_to: Ticket,
    /// Callers who are ripe and hold no failure.
    ripe: u32,
}

impl<F, W> Queue<F, W> {
    pub(super) fn new() -> Self {
        Self {
            waiters: BTreeMap::new(),
            unsponsored: BTreeSet::new(),
            failed: BTreeSet::new(),
            ripe_up_to: Ticket(0),
            ripe: 0,
        }
    }

    /// Frees the memory of a queue in which nobody is.
    pub(super) fn shed(&mut self) {
        debug_assert!(self.is_empty(), "who waits is not forgotten");
        (self.waiters, self.unsponsored) = (BTreeMap::new(), BTreeSet::new());
        self.failed = BTreeSet::new();
    }

    /// All callers in the queue.
    pub(super) fn len(&self) -> u32 {
        count(self.waiters.len())
    }

    /// Callers in the queue who hold no dial's failure.
    pub(super) fn unmet(&self) -> u32 {
        count(self.waiters.len() - self.failed.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn join(&mut self, ticket: Ticket, mut waiter: Waiter<F, W>) {
        self.unsponsored.insert(ticket);
        // One who comes back to an old place has waited before.
        waiter.is_ripe = ticket <= self.ripe_up_to;
        self.ripe += u32::from(waiter.is_ripe);
        let before = self.waiters.insert(ticket, waiter);
        debug_assert!(before.is_none(), "a caller stands in the queue once");
    }

    /// The first in the queue, and whether its deadline has passed.
    pub(super) fn front(&self, now: Moment) -> Option<(Ticket, bool)> {
        let (ticket, waiter) = self.waiters.first_key_value()?;
        Some((*ticket, waiter.is_expired(now)))
    }

    /// The wakers of all callers in the queue.
    pub(super) fn wakers(&self) -> impl Iterator<Item = &W> + Clone {
        self.waiters.values().map(|waiter| &waiter.waker)
    }

    pub(super) fn waker(&self, ticket: Ticket) -> Option<&W> {
        self.waiters.get(&ticket).map(|waiter| &waiter.waker)
    }

    /// Since when the first in the queue waits.
    pub(super) fn front_since(&self) -> Option<Moment> {
        self.waiters.first_key_value().map(|(_, waiter)| waiter.since)
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter<F, W>> {
        let waiter = self.waiters.remove(&ticket)?;
        self.unsponsored.remove(&ticket);
        self.failed.remove(&ticket);
        self.ripe -= u32::from(waiter.is_ripe && waiter.failure.is_none());
        Some(waiter)
    }

    pub(super) fn pop_front(&mut self) -> Option<(Ticket, Waiter<F, W>)> {
        let ticket = *self.waiters.first_key_value()?.0;
        Some((ticket, self.remove(ticket)?))
    }

    /// Takes out the longest-waiting caller who holds a failure.
    pub(super) fn pop_failed(&mut self) -> Option<(Ticket, Waiter<F, W>)> {
        let ticket = *self.failed.first()?;
        Some((ticket, self.remove(ticket)?))
    }

    pub(super) fn any_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Whether anyone neither has a dial under way nor holds a failure.
    pub(super) fn any_unsponsored(&self) -> bool {
        !self.unsponsored.is_empty()
    }

    /// Lets the longest-waiting caller who holds a failure begin another dial. Gives the failure
    /// back.
    pub(super) fn revive_first(&mut self) -> Option<F> {
        let ticket = self.failed.pop_first()?;
        let waiter = self.waiters.get_mut(&ticket).expect("who holds a failure is in the queue");
        self.unsponsored.insert(ticket);
        self.ripe += u32::from(waiter.is_ripe);
        waiter.failure.take()
    }

    /// Hands a failure to a caller who has no dial under way, as if its own had failed.
    pub(super) fn refuse_first(&mut self, failure: &F) -> bool
    where
        F: Clone,
    {
        let Some(ticket) = self.unsponsored.pop_first() else { return false };
        let waiter = self.waiters.get_mut(&ticket).expect("who wants a dial is in the queue");
        self.ripe -= u32::from(waiter.is_ripe);
        self.failed.insert(ticket);
        waiter.failure = Some(failure.clone());
        true
    }

    /// The longest-waiting caller for whom a dial may be begun: within its deadline, with no dial
    /// and no failure of its own; with when its wait began.
    pub(super) fn sponsor(&self, now: Moment) -> Option<(Ticket, Moment)> {
        let waiters = self.unsponsored.iter().map(|ticket| (ticket, &self.waiters[ticket]));
        let (ticket, waiter) = waiters.into_iter().find(|(_, waiter)| !waiter.is_expired(now))?;
        Some((*ticket, waiter.since))
    }

    /// Notes that `dial` was begun for the need of this caller.
    pub(super) fn begin_dial(&mut self, ticket: Ticket, dial: ErrandId) {
        let waiter = self.waiters.get_mut(&ticket).expect("a sponsor is in the queue");
        waiter.dial = Some(dial);
        self.unsponsored.remove(&ticket);
    }

    /// Notes that this caller can no longer count on `dial`, so that it may begin another.
    pub(super) fn end_dial(&mut self, ticket: Ticket, dial: ErrandId) {
        if let Some(waiter) = Self::sponsor_of(&mut self.waiters, ticket, dial) {
            waiter.dial = None;
            self.unsponsored.insert(ticket);
        }
    }

    /// Hands the failure of `dial` to its sponsor, or back if that caller has left.
    pub(super) fn fail(&mut self, ticket: Ticket, dial: ErrandId, failure: F) -> Option<F> {
        let Some(waiter) = Self::sponsor_of(&mut self.waiters, ticket, dial) else {
            return Some(failure);
        };
        waiter.dial = None;
        self.ripe -= u32::from(waiter.is_ripe && waiter.failure.is_none());
        self.failed.insert(ticket);
        waiter.failure.replace(failure)
    }

    /// Callers who hold no failure and have waited since `before` or longer.
    pub(super) fn ripe(&mut self, before: Moment) -> u32 {
        let unripe = (Bound::Excluded(self.ripe_up_to), Bound::Unbounded);
        for (ticket, waiter) in self.waiters.range_mut(unripe) {
            if waiter.since > before {
                break;
            }
            waiter.is_ripe = true;
            self.ripe_up_to = *ticket;
            self.ripe += u32::from(waiter.failure.is_none());
        }
        self.ripe
    }

    pub(super) fn has_ripe(&self) -> bool {
        self.ripe > 0
    }

    /// Since when the first caller waits who has not been found ripe.
    pub(super) fn unripe_since(&self) -> Option<Moment> {
        let unripe = (Bound::Excluded(self.ripe_up_to), Bound::Unbounded);
        self.waiters.range(unripe).next().map(|(_, waiter)| waiter.since)
    }

    /// The last in the queue for whom no dial is under way, with its waker.
    pub(super) fn last_unsponsored(&self) -> Option<(Ticket, &W)> {
        let ticket = *self.unsponsored.last()?;
        Some((ticket, &self.waiters[&ticket].waker))
    }

    pub(super) fn contains(&self, ticket: Ticket) -> bool {
        self.waiters.contains_key(&ticket)
    }

    fn sponsor_of(
        waiters: &mut BTreeMap<Ticket, Waiter<F, W>>,
        ticket: Ticket,
        dial: ErrandId,
    ) -> Option<&mut Waiter<F, W>> {
        waiters.get_mut(&ticket).filter(|waiter| waiter.dial == Some(dial))
    }
}

/// A length as the books count it.
pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
