//! The callers in the queue, in order of arrival, and which of them still want a dial.
//!
//! Each has a slot of one slab, and is linked in order of arrival with all others, and with those
//! who stand as it does. So whatever is done to a caller costs the same however many wait, and
//! nothing is allocated for one more once as many have waited before.

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
    standing: Standing<F>,
    /// Whether it has waited for the dial rule's hold-off.
    is_ripe: bool,
    /// Whether it has gone to sleep, and has to wake up for what it is given.
    pub(super) is_asleep: bool,
}

/// What has become of the dial that a caller's need began.
#[derive(Debug)]
enum Standing<F> {
    /// None is under way.
    Unsponsored,
    /// It is under way, and counted on.
    Sponsors(ErrandId),
    /// It has failed. The caller keeps its place, but wants no further dial.
    Failed(F),
}

impl<F, W> Waiter<F, W> {
    pub(super) fn new(waker: W, since: Moment, joined: Moment, deadline: Option<Moment>) -> Self {
        let standing = Standing::Unsponsored;
        Self { waker, since, joined, deadline, standing, is_ripe: false, is_asleep: false }
    }

    fn is_expired(&self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The waker, and how the caller's own dial has failed, if it has.
    pub(super) fn into_parts(self) -> (W, Option<F>) {
        let failure = match self.standing {
            Standing::Failed(failure) => Some(failure),
            Standing::Unsponsored | Standing::Sponsors(_) => None,
        };
        (self.waker, failure)
    }
}

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// The links of the order of arrival, and of those who stand alike.
const ORDER: usize = 0;
const STANDING: usize = 1;

#[derive(Debug)]
struct Slot<F, W> {
    /// Of the caller who is here, or was here last.
    number: u64,
    waiter: Option<Waiter<F, W>>,
    /// The slots before and after. Among the free ones, the next by `ORDER`.
    links: [(u32, u32); 2],
}

/// Slots in the order of their numbers.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
    /// The slot that was linked last, if it still is: many who stand up one after the other are
    /// linked one behind the other.
    latest: u32,
    len: u32,
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE, latest: NONE, len: 0 };
}

/// First come, first served; nothing of a caller stays.
#[derive(Debug)]
pub(super) struct Queue<F, W> {
    slots: Vec<Slot<F, W>>,
    /// The first of the free slots.
    free: u32,
    all: List,
    unsponsored: List,
    failed: List,
    /// How far down the queue callers have been found ripe, by number, and the first beyond.
    ripe_up_to: u64,
    unripe: u32,
    /// Callers who are ripe and hold no failure.
    ripe: u32,
}

impl<F, W> Queue<F, W> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            all: List::EMPTY,
            unsponsored: List::EMPTY,
            failed: List::EMPTY,
            ripe_up_to: 0,
            unripe: NONE,
            ripe: 0,
        }
    }

    /// Frees the memory of a queue in which nobody is.
    pub(super) fn shed(&mut self) {
        debug_assert!(self.is_empty(), "who waits is not forgotten");
        (self.slots, self.free) = (Vec::new(), NONE);
    }

    /// All callers in the queue.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.all.len
    }

    /// Callers in the queue who hold no dial's failure.
    #[inline]
    pub(super) fn unmet(&self) -> u32 {
        self.all.len - self.failed.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.all.len == 0
    }

    /// Adds a caller, who stands behind all of a smaller number. Gives the ticket under which it is
    /// found.
    pub(super) fn join(&mut self, ticket: Ticket, mut waiter: Waiter<F, W>) -> Ticket {
        let number = ticket.number;
        // One who comes back to an old place has waited before.
        waiter.is_ripe = number <= self.ripe_up_to;
        self.ripe += u32::from(waiter.is_ripe);
        let is_ripe = waiter.is_ripe;
        let slot = Slot { number, waiter: Some(waiter), links: [(NONE, NONE); 2] };
        let at = self.free;
        let at = if at == NONE {
            self.slots.push(slot);
            count(self.slots.len() - 1)
        } else {
            self.free = self.slots[at as usize].links[ORDER].1;
            self.slots[at as usize] = slot;
            at
        };
        insert(&mut self.slots, &mut self.all, ORDER, at);
        insert(&mut self.slots, &mut self.unsponsored, STANDING, at);
        let is_first = self.unripe == NONE || number < self.slots[self.unripe as usize].number;
        if !is_ripe && is_first {
            self.unripe = at;
        }
        Ticket { number, slot: at }
    }

    /// The first in the queue, and whether its deadline has passed.
    pub(super) fn front(&self, now: Moment) -> Option<(Ticket, bool)> {
        let (ticket, waiter) = self.of(self.all.first)?;
        Some((ticket, waiter.is_expired(now)))
    }

    /// The wakers of all callers in the queue.
    pub(super) fn wakers(&self) -> impl Iterator<Item = &W> + Clone {
        self.walk(self.all.first, ORDER).map(|(_, waiter)| &waiter.waker)
    }

    pub(super) fn waker(&self, ticket: Ticket) -> Option<&W> {
        self.get(ticket).map(|waiter| &waiter.waker)
    }

    /// Since when the first in the queue waits.
    #[inline]
    pub(super) fn front_since(&self) -> Option<Moment> {
        self.of(self.all.first).map(|(_, waiter)| waiter.since)
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter<F, W>> {
        self.get(ticket)?;
        let at = ticket.slot;
        if self.unripe == at {
            self.unripe = self.slots[at as usize].links[ORDER].1;
        }
        unlink(&mut self.slots, &mut self.all, ORDER, at);
        let waiter = self.slots[at as usize].waiter.take()?;
        if let Some(list) = list(&mut self.unsponsored, &mut self.failed, &waiter.standing) {
            unlink(&mut self.slots, list, STANDING, at);
        }
        let has_failed = matches!(waiter.standing, Standing::Failed(_));
        self.ripe -= u32::from(waiter.is_ripe && !has_failed);
        self.slots[at as usize].links[ORDER].1 = self.free;
        self.free = at;
        Some(waiter)
    }

    pub(super) fn pop_front(&mut self) -> Option<(Ticket, Waiter<F, W>)> {
        let (ticket, _) = self.of(self.all.first)?;
        Some((ticket, self.remove(ticket)?))
    }

    /// Takes out the longest-waiting caller who holds a failure.
    pub(super) fn pop_failed(&mut self) -> Option<(Ticket, Waiter<F, W>)> {
        let (ticket, _) = self.of(self.failed.first)?;
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

    /// Lets the longest-waiting caller who holds a failure begin another dial. Gives the failure
    /// back.
    pub(super) fn revive_first(&mut self) -> Option<F> {
        let (ticket, waiter) = self.of(self.failed.first)?;
        self.ripe += u32::from(waiter.is_ripe);
        match self.stand(ticket, Standing::Unsponsored)? {
            Standing::Failed(failure) => Some(failure),
            Standing::Unsponsored | Standing::Sponsors(_) => None,
        }
    }

    /// Hands a failure to a caller who has no dial under way, as if its own had failed.
    pub(super) fn refuse_first(&mut self, failure: &F) -> bool
    where
        F: Clone,
    {
        let Some((ticket, waiter)) = self.of(self.unsponsored.first) else { return false };
        self.ripe -= u32::from(waiter.is_ripe);
        self.stand(ticket, Standing::Failed(failure.clone()));
        true
    }

    /// The longest-waiting caller for whom a dial may be begun: within its deadline, with no dial
    /// and no failure of its own; with when its wait began.
    pub(super) fn sponsor(&self, now: Moment) -> Option<(Ticket, Moment)> {
        let mut unsponsored = self.walk(self.unsponsored.first, STANDING);
        let (ticket, waiter) = unsponsored.find(|(_, waiter)| !waiter.is_expired(now))?;
        Some((ticket, waiter.since))
    }

    /// Notes that `dial` was begun for the need of this caller.
    pub(super) fn begin_dial(&mut self, ticket: Ticket, dial: ErrandId) {
        self.stand(ticket, Standing::Sponsors(dial)).expect("a sponsor is in the queue");
    }

    /// Notes that this caller can no longer count on `dial`, so that it may begin another.
    pub(super) fn end_dial(&mut self, ticket: Ticket, dial: ErrandId) {
        if self.is_sponsor(ticket, dial) {
            self.stand(ticket, Standing::Unsponsored);
        }
    }

    /// Hands the failure of `dial` to its sponsor, or back if that caller has left.
    pub(super) fn fail(&mut self, ticket: Ticket, dial: ErrandId, failure: F) -> Option<F> {
        if !self.is_sponsor(ticket, dial) {
            return Some(failure);
        }
        self.ripe -= u32::from(self.get(ticket).is_some_and(|waiter| waiter.is_ripe));
        self.stand(ticket, Standing::Failed(failure));
        None
    }

    /// Callers who hold no failure and have waited since `before` or longer.
    pub(super) fn ripe(&mut self, before: Moment) -> u32 {
        while let Some(slot) = self.slots.get_mut(self.unripe as usize) {
            let Some(waiter) = slot.waiter.as_mut().filter(|waiter| waiter.since <= before) else {
                break;
            };
            waiter.is_ripe = true;
            self.ripe += u32::from(!matches!(waiter.standing, Standing::Failed(_)));
            (self.ripe_up_to, self.unripe) = (slot.number, slot.links[ORDER].1);
        }
        self.ripe
    }

    pub(super) fn has_ripe(&self) -> bool {
        self.ripe > 0
    }

    /// Since when the first caller waits who has not been found ripe.
    pub(super) fn unripe_since(&self) -> Option<Moment> {
        self.of(self.unripe).map(|(_, waiter)| waiter.since)
    }

    /// Notes that this caller goes to sleep, if it is in the queue.
    pub(super) fn fall_asleep(&mut self, ticket: Ticket) {
        if let Some(waiter) = self.get_mut(ticket) {
            waiter.is_asleep = true;
        }
    }

    /// The last of those who sleep, with its waker.
    pub(super) fn last_asleep(&self) -> Option<(Ticket, &W)> {
        let mut at = self.all.last;
        while let Some((ticket, waiter)) = self.of(at) {
            if waiter.is_asleep {
                return Some((ticket, &waiter.waker));
            }
            at = self.slots[at as usize].links[ORDER].0;
        }
        None
    }

    fn get(&self, ticket: Ticket) -> Option<&Waiter<F, W>> {
        let slot = self.slots.get(ticket.slot as usize)?;
        slot.waiter.as_ref().filter(|_| slot.number == ticket.number)
    }

    fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter<F, W>> {
        let slot = self.slots.get_mut(ticket.slot as usize)?;
        slot.waiter.as_mut().filter(|_| slot.number == ticket.number)
    }

    /// The caller in that slot, if it is one.
    #[inline]
    fn of(&self, at: u32) -> Option<(Ticket, &Waiter<F, W>)> {
        let slot = self.slots.get(at as usize)?;
        Some((Ticket { number: slot.number, slot: at }, slot.waiter.as_ref()?))
    }

    /// The callers from that slot on.
    fn walk(&self, from: u32, by: usize) -> impl Iterator<Item = (Ticket, &Waiter<F, W>)> + Clone {
        std::iter::successors(self.of(from), move |(ticket, _)| {
            self.of(self.slots[ticket.slot as usize].links[by].1)
        })
    }

    fn is_sponsor(&self, ticket: Ticket, dial: ErrandId) -> bool {
        let is_it = |standing: &_| matches!(standing, Standing::Sponsors(its) if *its == dial);
        self.get(ticket).is_some_and(|waiter| is_it(&waiter.standing))
    }

    /// Has a caller stand otherwise, and gives how it stood before.
    fn stand(&mut self, ticket: Ticket, standing: Standing<F>) -> Option<Standing<F>> {
        let waiter = self.get_mut(ticket)?;
        let before = std::mem::replace(&mut waiter.standing, standing);
        let lists = (&mut self.unsponsored, &mut self.failed);
        if let Some(list) = list(lists.0, lists.1, &before) {
            unlink(&mut self.slots, list, STANDING, ticket.slot);
        }
        let waiter = self.slots[ticket.slot as usize].waiter.as_ref()?;
        if let Some(list) = list(lists.0, lists.1, &waiter.standing) {
            insert(&mut self.slots, list, STANDING, ticket.slot);
        }
        Some(before)
    }
}

/// The list of those who stand so, if there is one.
fn list<'a, F>(
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

/// Links a slot by its number: at the back nearly always, or else near the front, where whoever
/// comes back to an old place stands.
fn insert<F, W>(slots: &mut [Slot<F, W>], list: &mut List, by: usize, at: u32) {
    let number = slots[at as usize].number;
    let is_behind = |other: u32| other != NONE && slots[other as usize].number < number;
    let mut next = if list.last == NONE || is_behind(list.last) {
        NONE
    } else if is_behind(list.latest) {
        list.latest
    } else {
        list.first
    };
    while next != NONE && slots[next as usize].number < number {
        next = slots[next as usize].links[by].1;
    }
    let before = if next == NONE { list.last } else { slots[next as usize].links[by].0 };
    slots[at as usize].links[by] = (before, next);
    *following(slots, list, by, before) = at;
    *preceding(slots, list, by, next) = at;
    list.latest = at;
    list.len += 1;
}

fn unlink<F, W>(slots: &mut [Slot<F, W>], list: &mut List, by: usize, at: u32) {
    let (before, next) = slots[at as usize].links[by];
    *following(slots, list, by, before) = next;
    *preceding(slots, list, by, next) = before;
    if list.latest == at {
        list.latest = NONE;
    }
    list.len -= 1;
}

/// What says which slot comes after that one; after none comes the first.
fn following<'a, F, W>(
    slots: &'a mut [Slot<F, W>],
    list: &'a mut List,
    by: usize,
    at: u32,
) -> &'a mut u32 {
    if at == NONE { &mut list.first } else { &mut slots[at as usize].links[by].1 }
}

/// What says which slot comes before that one; before none comes the last.
fn preceding<'a, F, W>(
    slots: &'a mut [Slot<F, W>],
    list: &'a mut List,
    by: usize,
    at: u32,
) -> &'a mut u32 {
    if at == NONE { &mut list.last } else { &mut slots[at as usize].links[by].0 }
}

/// A length as the books count it.
pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
