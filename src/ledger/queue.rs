//! The queue: the callers who wait, in order of arrival, and which of them still want a dial.
//!
//! All callers lie in one slab and are linked in two kinds of lists. Each list is in the order of the
//! tickets:
//!
//! - by arrival: `all`;
//! - by standing: `unsponsored` (may begin a dial) and `failed` (its dial has failed). A caller with a
//!   dial under way is in neither.
//!
//! So joining, leaving and each change of standing cost the same however many wait, and free nodes are used
//! again. Joining walks a list only if a caller comes back with an old ticket.
//!
//! For the dial rule the queue also counts its *ripe* callers: those who have waited for the hold-off.
//! `unripe` moves down the queue as they ripen, so that each caller is visited once.

use crate::runtime::moment::Moment;

use super::effects::{JobId, Ticket};
use super::slab::{List, NONE, Node};
use super::watcher::Sleeper;

/// A caller who waits.
#[derive(Debug)]
pub(super) struct Waiter<F, W> {
    pub(super) sleeper: Sleeper<W>,
    /// Since when it has wanted a connection.
    pub(super) since: Moment,
    /// When it joined the queue, the last time if it had been given a broken connection. It counts as
    /// waiting from then on.
    pub(super) joined: Moment,
    /// `None`: it waits for as long as it takes.
    pub(super) deadline: Option<Moment>,
    standing: Standing<F>,
    /// Whether it has waited for the dial rule's hold-off.
    is_ripe: bool,
}

/// The state of the dial that a caller sponsors.
#[derive(Debug)]
enum Standing<F> {
    /// None is under way.
    Unsponsored,
    /// It is under way, and counted on.
    Sponsors(JobId),
    /// It has failed. The caller keeps its place in the queue, but wants no further dial.
    Failed(F),
}

impl<F, W> Waiter<F, W> {
    pub(super) fn new(waker: W, since: Moment, joined: Moment, deadline: Option<Moment>) -> Self {
        let (sleeper, standing) = (Sleeper::new(waker), Standing::Unsponsored);
        Self { sleeper, since, joined, deadline, standing, is_ripe: false }
    }

    fn is_expired(&self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The caller as one to be woken, and the failure of its own dial.
    pub(super) fn into_parts(self) -> (Sleeper<W>, Option<F>) {
        (self.sleeper, self.standing.into_failure())
    }
}

impl<F> Standing<F> {
    fn has_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    fn into_failure(self) -> Option<F> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Unsponsored | Self::Sponsors(_) => None,
        }
    }
}

/// The links of a node that belong to `all`, and those that belong to the list of its standing.
const BY_ARRIVAL: usize = 0;
const BY_STANDING: usize = 1;

#[derive(Debug)]
pub(super) struct Queue<F, W> {
    nodes: Vec<Node<Waiter<F, W>>>,
    /// The first of the free nodes, which are linked by arrival.
    free: u32,
    all: List,
    unsponsored: List,
    failed: List,
    /// The largest ticket number of a caller who has been found ripe.
    ripe_up_to: u64,
    /// The node of the first caller who has not been found ripe.
    unripe: u32,
    /// How many callers are ripe and hold no failure.
    ripe: u32,
}

impl<F, W> Queue<F, W> {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NONE,
            all: List::EMPTY,
            unsponsored: List::EMPTY,
            failed: List::EMPTY,
            ripe_up_to: 0,
            unripe: NONE,
            ripe: 0,
        }
    }

    /// Frees the memory of an empty queue.
    pub(super) fn shrink(&mut self) {
        debug_assert!(self.is_empty(), "only an empty queue gives up its nodes");
        (self.nodes, self.free) = (Vec::new(), NONE);
    }

    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.all.len
    }

    /// How many callers hold no dial's failure.
    #[inline]
    pub(super) fn unfailed(&self) -> u32 {
        self.all.len - self.failed.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.all.len == 0
    }

    /// Adds a caller, behind all with a smaller ticket. Returns the ticket by which the caller is found.
    pub(super) fn join(&mut self, ticket: Ticket, mut waiter: Waiter<F, W>) -> Ticket {
        let number = ticket.number;
        // A caller who comes back with an old ticket may have been found ripe before.
        waiter.is_ripe = number <= self.ripe_up_to;
        self.ripe += u32::from(waiter.is_ripe);
        let is_ripe = waiter.is_ripe;
        let node = Node::new(number, waiter);
        let at = self.free;
        let at = if at == NONE {
            self.nodes.push(node);
            count(self.nodes.len() - 1)
        } else {
            self.free = self.nodes[at as usize].links[BY_ARRIVAL].1;
            self.nodes[at as usize] = node;
            at
        };
        self.all.insert(&mut self.nodes, BY_ARRIVAL, at);
        self.unsponsored.insert(&mut self.nodes, BY_STANDING, at);
        let is_first = self.unripe == NONE || number < self.nodes[self.unripe as usize].number;
        if !is_ripe && is_first {
            self.unripe = at;
        }
        Ticket { number, node: at }
    }

    /// The first in the queue, and whether its deadline has passed.
    pub(super) fn front(&self, now: Moment) -> Option<(Ticket, bool)> {
        let (ticket, waiter) = self.at(self.all.first)?;
        Some((ticket, waiter.is_expired(now)))
    }

    /// The wakers of all callers in the queue.
    pub(super) fn wakers(&self) -> impl Iterator<Item = &W> {
        self.walk(self.all.first, BY_ARRIVAL).map(|(_, waiter)| &waiter.sleeper.waker)
    }

    pub(super) fn waker(&self, ticket: Ticket) -> Option<&W> {
        self.get(ticket).map(|waiter| &waiter.sleeper.waker)
    }

    /// Since when the first in the queue has waited.
    #[inline]
    pub(super) fn front_since(&self) -> Option<Moment> {
        self.at(self.all.first).map(|(_, waiter)| waiter.since)
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter<F, W>> {
        self.get(ticket)?;
        let at = ticket.node;
        if self.unripe == at {
            self.unripe = self.nodes[at as usize].links[BY_ARRIVAL].1;
        }
        self.all.unlink(&mut self.nodes, BY_ARRIVAL, at);
        let waiter = self.nodes[at as usize].value.take()?;
        if let Some(list) = list_of(&mut self.unsponsored, &mut self.failed, &waiter.standing) {
            list.unlink(&mut self.nodes, BY_STANDING, at);
        }
        self.ripe -= u32::from(waiter.is_ripe && !waiter.standing.has_failed());
        self.nodes[at as usize].links[BY_ARRIVAL].1 = self.free;
        self.free = at;
        Some(waiter)
    }

    pub(super) fn pop_front(&mut self) -> Option<(Ticket, Waiter<F, W>)> {
        let (ticket, _) = self.at(self.all.first)?;
        Some((ticket, self.remove(ticket)?))
    }

    /// Removes the first caller who holds a failure.
    pub(super) fn pop_failed(&mut self) -> Option<(Ticket, Waiter<F, W>)> {
        let (ticket, _) = self.at(self.failed.first)?;
        Some((ticket, self.remove(ticket)?))
    }

    #[inline]
    pub(super) fn any_failed(&self) -> bool {
        self.failed.len > 0
    }

    /// Whether anyone neither has a dial under way nor holds a failure.
    pub(super) fn any_unsponsored(&self) -> bool {
        self.unsponsored.len > 0
    }

    /// Lets the first caller who holds a failure begin another dial. Returns the failure.
    pub(super) fn revive_first(&mut self) -> Option<F> {
        let (ticket, _) = self.at(self.failed.first)?;
        self.set_standing(ticket, Standing::Unsponsored)?.into_failure()
    }

    /// Gives a failure to the first caller who has no dial under way, as if its own had failed. Returns
    /// whether there was such a caller.
    pub(super) fn refuse_first(&mut self, failure: &F) -> bool
    where
        F: Clone,
    {
        let Some((ticket, _)) = self.at(self.unsponsored.first) else { return false };
        self.set_standing(ticket, Standing::Failed(failure.clone()));
        true
    }

    /// The first caller for whom a dial may begin, and since when it has waited. Its deadline has not
    /// passed, and it has no dial and no failure of its own.
    pub(super) fn sponsor(&self, now: Moment) -> Option<(Ticket, Moment)> {
        let mut unsponsored = self.walk(self.unsponsored.first, BY_STANDING);
        let (ticket, waiter) = unsponsored.find(|(_, waiter)| !waiter.is_expired(now))?;
        Some((ticket, waiter.since))
    }

    /// Notes that this caller sponsors `dial`.
    pub(super) fn begin_dial(&mut self, ticket: Ticket, dial: JobId) {
        self.set_standing(ticket, Standing::Sponsors(dial)).expect("a sponsor is in the queue");
    }

    /// Notes that this caller can no longer count on `dial`, so that it may begin another.
    pub(super) fn end_dial(&mut self, ticket: Ticket, dial: JobId) {
        if self.is_sponsor(ticket, dial) {
            self.set_standing(ticket, Standing::Unsponsored);
        }
    }

    /// Gives the failure of `dial` to its sponsor. Returns it if the sponsor has left.
    pub(super) fn fail(&mut self, ticket: Ticket, dial: JobId, failure: F) -> Option<F> {
        if !self.is_sponsor(ticket, dial) {
            return Some(failure);
        }
        self.set_standing(ticket, Standing::Failed(failure));
        None
    }

    /// How many callers hold no failure and have waited since `before` or longer.
    pub(super) fn count_ripe(&mut self, before: Moment) -> u32 {
        while let Some(node) = self.nodes.get_mut(self.unripe as usize) {
            let Some(waiter) = node.value.as_mut().filter(|waiter| waiter.since <= before) else {
                break;
            };
            waiter.is_ripe = true;
            self.ripe += u32::from(!waiter.standing.has_failed());
            (self.ripe_up_to, self.unripe) = (node.number, node.links[BY_ARRIVAL].1);
        }
        self.ripe
    }

    /// Since when the first caller who has not been found ripe has waited.
    pub(super) fn unripe_since(&self) -> Option<Moment> {
        self.at(self.unripe).map(|(_, waiter)| waiter.since)
    }

    /// Notes whether this caller sleeps. Returns whether it is in the queue.
    pub(super) fn set_asleep(&mut self, ticket: Ticket, is_asleep: bool) -> bool {
        let waiter = self.get_mut(ticket);
        waiter.map(|waiter| waiter.sleeper.is_asleep = is_asleep).is_some()
    }

    /// The last caller who sleeps.
    pub(super) fn last_asleep(&self) -> Option<(Ticket, &W)> {
        let mut at = self.all.last;
        while let Some((ticket, waiter)) = self.at(at) {
            if waiter.sleeper.is_asleep {
                return Some((ticket, &waiter.sleeper.waker));
            }
            at = self.nodes[at as usize].links[BY_ARRIVAL].0;
        }
        None
    }

    fn get(&self, ticket: Ticket) -> Option<&Waiter<F, W>> {
        let node = self.nodes.get(ticket.node as usize)?;
        node.value.as_ref().filter(|_| node.number == ticket.number)
    }

    fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter<F, W>> {
        let node = self.nodes.get_mut(ticket.node as usize)?;
        node.value.as_mut().filter(|_| node.number == ticket.number)
    }

    /// The caller in node `at`, if there is one.
    #[inline]
    fn at(&self, at: u32) -> Option<(Ticket, &Waiter<F, W>)> {
        let node = self.nodes.get(at as usize)?;
        Some((Ticket { number: node.number, node: at }, node.value.as_ref()?))
    }

    /// The callers of a list, from node `from` on.
    fn walk(&self, from: u32, by: usize) -> impl Iterator<Item = (Ticket, &Waiter<F, W>)> {
        std::iter::successors(self.at(from), move |(ticket, _)| {
            self.at(self.nodes[ticket.node as usize].links[by].1)
        })
    }

    fn is_sponsor(&self, ticket: Ticket, dial: JobId) -> bool {
        let is_it = |standing: &_| matches!(standing, Standing::Sponsors(its) if *its == dial);
        self.get(ticket).is_some_and(|waiter| is_it(&waiter.standing))
    }

    /// Changes a caller's standing, and returns the former one.
    fn set_standing(&mut self, ticket: Ticket, standing: Standing<F>) -> Option<Standing<F>> {
        let waiter = self.get_mut(ticket)?;
        let before = std::mem::replace(&mut waiter.standing, standing);
        let (is_ripe, has_failed) = (waiter.is_ripe, waiter.standing.has_failed());
        // Only callers without a failure count as ripe.
        self.ripe += u32::from(is_ripe && before.has_failed());
        self.ripe -= u32::from(is_ripe && has_failed);
        let lists = (&mut self.unsponsored, &mut self.failed);
        if let Some(list) = list_of(lists.0, lists.1, &before) {
            list.unlink(&mut self.nodes, BY_STANDING, ticket.node);
        }
        let waiter = self.nodes[ticket.node as usize].value.as_ref()?;
        if let Some(list) = list_of(lists.0, lists.1, &waiter.standing) {
            list.insert(&mut self.nodes, BY_STANDING, ticket.node);
        }
        Some(before)
    }
}

/// The list for a standing, if there is one.
fn list_of<'a, F>(
    unsponsored: &'a mut List,
    failed: &'a mut List,
    standing: &Standing<F>,
) -> Option<&'a mut List> {
    match standing {
        Standing::Unsponsored => Some(unsponsored),
        Standing::Sponsors(_) => None,
        Standing::Failed(_) => Some(failed),
    }
}

/// A length as the ledger counts.
pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
