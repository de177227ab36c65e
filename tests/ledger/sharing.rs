//! Several ledgers under one budget: one test for each promise among them.

use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::common::Common;
use crate::config::{Breaker, BreakerChoice, Config};
use crate::harness::{Harness, SECOND, ageless};
use crate::ledger::budget::{Allowance, BudgetAction, BudgetOrder, MemberId};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::lease::Lease;
use crate::ledger::{Entry, Overdue, Share, Ticket};
use crate::runtime::moment::Moment;
use crate::slips::Failure;

/// Settings of each key, under which time changes nothing.
fn unchecked(max_open: u32) -> Config {
    Config { max_open, check_after: Duration::MAX, ..ageless() }
}

/// A harness for each key, under one budget and by one clock.
struct Harnesses {
    common: Arc<Common>,
    harnesses: Vec<Harness>,
    max_idle: Option<u32>,
}

impl Harnesses {
    /// Keys that may each have as many connections as all of them together.
    fn new(keys: usize, max_open_total: u32) -> Self {
        Self::with(keys, unchecked(max_open_total), max_open_total, None)
    }

    fn with(keys: usize, each: Config, max_open: u32, max_idle: Option<u32>) -> Self {
        let common = Common::new(max_open);
        let harness = |key| {
            let share = Share::new(MemberId(key), Arc::clone(&common) as _);
            Harness::with(each).sharing(share)
        };
        let mut harnesses: Vec<_> = (0..keys as u64).map(harness).collect();
        let now = harnesses[0].now;
        harnesses.iter_mut().for_each(|harness| harness.now = now);
        Self { common, harnesses, max_idle }
    }

    fn wait(&mut self, time: Duration) {
        self.harnesses.iter_mut().for_each(|harness| harness.now += time);
    }

    // ---- Orders from key to key ----------------------------------------------------------------

    /// Delivers all orders, and those that follow from them. Says how many there were.
    fn pass_on(&mut self) -> usize {
        let mut delivered = 0;
        self.trim();
        while let Some(at) = self.harnesses.iter().position(|harness| !harness.orders.is_empty()) {
            let orders = std::mem::take(&mut self[at].orders);
            delivered += orders.len();
            orders.into_iter().for_each(|order| self.deliver(order));
            self.trim();
        }
        delivered
    }

    /// The orders if idle connections exceed the bound.
    fn trim(&mut self) {
        let Some(max_idle) = self.max_idle else { return };
        let at_rest = self.harnesses.iter().map(|harness| harness.ledger.at_rest()).sum();
        let orders = self.common.trim(at_rest, max_idle, self[0].now);
        self[0].orders.extend(orders);
    }

    fn deliver(&mut self, order: BudgetOrder) {
        let harness = &mut self[order.to.0 as usize];
        let effects = match order.action {
            BudgetAction::Grant => harness.ledger.slot_granted(harness.now),
            BudgetAction::Evict { most, bar } => harness.ledger.evict(most, bar, harness.now),
        };
        harness.note_effects(effects);
    }

    /// Takes the only order, undelivered.
    #[track_caller]
    fn take_order(&mut self) -> BudgetOrder {
        let mut orders =
            self.harnesses.iter_mut().flat_map(|harness| std::mem::take(&mut harness.orders));
        let order = orders.next().expect("there is an order");
        assert_eq!(orders.next(), None, "one order");
        order
    }

    fn resize(&mut self, max_open: u32) {
        let orders = self.common.resize(max_open, self[0].now);
        orders.into_iter().for_each(|order| self.deliver(order));
        self.pass_on();
    }

    /// The quota allows so many slots for as long as it takes.
    fn allow(&mut self, slots: u32) {
        self.allow_under(slots, Lease::ENDLESS);
    }

    fn allow_under(&mut self, slots: u32, lease: Lease) {
        let now = self[0].now;
        let orders = self.common.allow(Allowance { slots, until: lease.until }, now);
        orders.into_iter().for_each(|order| self.deliver(order));
        for harness in &mut self.harnesses {
            harness.event(|ledger, now| ledger.set_lease(lease, now));
        }
        self.pass_on();
    }

    /// A lease with that number, for a minute from now on.
    fn lease(&self, number: u64) -> Lease {
        Lease { number, until: self[0].now + 60 * SECOND }
    }

    fn closes(&self, key: usize) -> Vec<(u32, CloseReason)> {
        self[key].closes.iter().map(|close| (close.connection, close.reason)).collect()
    }

    // ---- Callers and connections, all orders delivered -----------------------------------------

    /// A connection of this key, dialed and lent.
    fn lend(&mut self, key: usize) -> Entry<u32> {
        let entry = self[key].dial_and_get();
        self.pass_on();
        entry
    }

    /// A connection of this key becomes idle; then a second passes.
    fn rest(&mut self, key: usize) {
        let entry = self.lend(key);
        self.give_back(key, entry);
    }

    fn give_back(&mut self, key: usize, entry: Entry<u32>) {
        self[key].give_back(entry);
        self.pass_on();
        self.wait(SECOND);
    }

    fn retire(&mut self, key: usize, entry: Entry<u32>) {
        self[key].retire(entry);
        self.pass_on();
    }

    /// A caller of this key joins the queue; then a second passes.
    fn queue(&mut self, key: usize) -> Ticket {
        let ticket = self[key].queue(0);
        self.pass_on();
        self.wait(SECOND);
        ticket
    }

    fn warm_up(&mut self, key: usize, target: u32) -> Ticket {
        let ticket = self[key].warm_up(target, 0);
        self.pass_on();
        ticket
    }

    /// Ends every job well, one by one, with what follows, until none is under way.
    fn come_to_rest(&mut self) {
        for _ in 0..100 {
            self.harnesses.iter_mut().for_each(Harness::close_all);
            self.pass_on();
            if let Some(harness) =
                self.harnesses.iter_mut().find(|harness| !harness.dials.is_empty())
            {
                harness.dialed();
                self.pass_on();
            } else if self.harnesses.iter().all(|harness| harness.closes.is_empty()) {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    // ---- Sums ----------------------------------------------------------------------------------

    fn idle<const N: usize>(&self) -> [u32; N] {
        std::array::from_fn(|key| self[key].stats().idle)
    }

    fn dialing<const N: usize>(&self) -> [u32; N] {
        std::array::from_fn(|key| self[key].stats().dialing)
    }

    fn taken(&self) -> u32 {
        self.common.visit(|budget| budget.taken())
    }

    fn evicted(&self) -> u64 {
        self.common.visit(|budget| budget.evicted_total())
    }
}

impl Index<usize> for Harnesses {
    type Output = Harness;

    fn index(&self, key: usize) -> &Harness {
        &self.harnesses[key]
    }
}

impl IndexMut<usize> for Harnesses {
    fn index_mut(&mut self, key: usize) -> &mut Harness {
        &mut self.harnesses[key]
    }
}

// ---- Who gets a slot --------------------------------------------------------------------------

#[test]
fn a_key_with_several_callers_waits_its_turn_for_each() {
    let mut keys = Harnesses::new(3, 1);
    let held = keys.lend(0);
    keys.queue(1);
    keys.queue(2);
    keys.queue(1);
    keys.retire(0, held);
    for (served, dialing) in [(1, [0, 1, 0]), (2, [0, 0, 1]), (1, [0, 1, 0])] {
        assert_eq!(keys.dialing(), dialing);
        keys[served].refused();
        keys.pass_on();
    }
}

/// The caller with the oldest claim has been served by a return since.
#[test]
fn a_caller_who_was_served_by_a_return_leaves_its_slot_to_the_longest_waiting() {
    let mut keys = Harnesses::new(3, 2);
    let (own, other) = (keys.lend(1), keys.lend(0));
    let first = keys.queue(1);
    keys.queue(2);
    keys.queue(1);
    keys.give_back(1, own);
    keys[1].granted(first);
    keys[1].tick();
    keys.pass_on();
    keys.retire(0, other);
    assert_eq!(keys.dialing(), [0, 0, 1]);
}

#[test]
fn a_caller_who_gives_up_withdraws_its_claim() {
    let mut keys = Harnesses::new(3, 1);
    let held = keys.lend(0);
    let ticket = keys[1].queue_for(0, SECOND);
    keys.pass_on();
    keys.wait(SECOND);
    keys.queue(2);
    keys[1].leave(ticket);
    keys.pass_on();
    assert_eq!(keys.common.visit(|budget| budget.stalled()), 1);
    keys.retire(0, held);
    assert_eq!(keys.dialing(), [0, 0, 1]);
}

#[test]
fn a_slot_granted_to_one_who_has_given_up_is_the_next_ones() {
    let mut keys = Harnesses::new(3, 1);
    let held = keys.lend(0);
    let ticket = keys[1].queue_for(0, SECOND);
    keys.pass_on();
    keys.queue(2);
    keys[0].retire(held);
    let grant = keys.take_order();
    assert_eq!((grant.to, grant.action), (MemberId(1), BudgetAction::Grant));
    keys[1].leave(ticket);
    assert_eq!(keys.taken(), 1, "the slot is on its way");
    keys.deliver(grant);
    keys.pass_on();
    assert_eq!(keys.dialing(), [0, 0, 1]);
}

/// A key needs its granted slot no more by the time of the order: nothing is closed for it, and the next
/// slot goes to another key.
#[test]
fn a_slot_on_its_way_is_not_asked_for_again() {
    let mut keys = Harnesses::new(4, 3);
    keys.rest(3);
    let held = [keys.lend(0), keys.lend(0)];
    let lent = keys[3].get();
    keys.queue(1);
    keys.pass_on();
    let [one, other] = held;
    keys[0].retire(one);
    keys[0].close_all();
    let grant = keys.take_order();
    keys[3].give_back(lent);
    keys[1].tick();
    assert_eq!(keys.evicted(), 0, "nothing makes room for a key that has a slot coming");
    keys[0].retire(other);
    keys[0].close_all();
    keys.queue(2);
    keys.deliver(grant);
    keys.pass_on();
    assert_eq!((keys.dialing(), keys.evicted()), ([0, 1, 1, 0], 0));
}

/// The same, and its member has gone.
#[test]
fn a_slot_granted_to_a_key_that_has_gone_is_the_next_ones() {
    let mut keys = Harnesses::new(3, 1);
    let held = keys.lend(0);
    let ticket = keys[1].queue_for(0, SECOND);
    keys.pass_on();
    keys.queue(2);
    keys[0].retire(held);
    let grant = keys.take_order();
    keys[1].leave(ticket);
    let now = keys[1].now;
    assert!(keys[1].ledger.close_if_vacant(now).0);
    let orders = keys.common.take_back(grant, keys[0].now);
    orders.into_iter().for_each(|order| keys.deliver(order));
    assert_eq!(keys.dialing(), [0, 0, 1]);
}

/// The same, and its member is closed and not gone yet.
#[test]
fn a_slot_granted_to_closed_books_is_the_next_ones() {
    let mut keys = Harnesses::new(3, 1);
    let held = keys.lend(0);
    keys.queue(1);
    keys.queue(2);
    keys[0].retire(held);
    let grant = keys.take_order();
    let now = keys[1].now;
    let effects = keys[1].ledger.close(now);
    keys[1].note_effects(effects);
    keys.deliver(grant);
    keys.pass_on();
    assert_eq!(keys.dialing(), [0, 0, 1]);
}

// ---- Who may be passed -------------------------------------------------------------------------

/// Key 0 has the only connection, under this bound on passing.
fn busy_key(bypass: Duration) -> (Harnesses, Entry<u32>) {
    let mut keys = Harnesses::new(2, 1);
    for harness in &mut keys.harnesses {
        let config = Config { bypass, ..*harness.ledger.config() };
        harness.event(|ledger, now| ledger.reconfigure(config, now));
    }
    let held = keys.lend(0);
    (keys, held)
}

/// BOUNDED-BYPASS: beyond the bound a connection's key does not matter.
#[test]
fn no_later_caller_of_a_busy_key_passes_one_who_has_lacked_a_slot_for_the_bound() {
    let (mut keys, held) = busy_key(4 * SECOND);
    let other = keys.queue(1);
    let own = keys.queue(0);
    keys.wait(2 * SECOND);
    keys[0].give_back(held);
    keys.come_to_rest();
    assert_eq!((keys.evicted(), keys[0].stats().waiting), (1, 1));
    let held = keys[1].granted(other);
    // Nobody of its own key waits: it makes room for the first of the other queue.
    keys.give_back(1, held);
    keys.come_to_rest();
    keys[0].granted(own);
    assert_eq!((keys.evicted(), keys.taken()), (2, 1));
}

/// BOUNDED-BYPASS: within the bound a connection stays with its key.
#[test]
fn a_caller_who_has_lacked_a_slot_for_less_than_the_bound_may_be_passed() {
    let (mut keys, held) = busy_key(4 * SECOND);
    let other = keys.queue(1);
    let own = keys.queue(0);
    keys.wait(SECOND);
    keys[0].give_back(held);
    keys.pass_on();
    let held = keys[0].granted(own);
    keys.queue(0);
    // The bound is five times the wait in strict order, after loans of two seconds.
    keys.wait(11 * SECOND);
    keys[0].give_back(held);
    keys.come_to_rest();
    assert_eq!(keys.evicted(), 1);
    keys[1].granted(other);
}

/// In its own queue nobody is passed for the sake of another key.
#[test]
fn a_caller_who_has_waited_longer_than_all_who_lack_a_slot_is_served_first() {
    let (mut keys, held) = busy_key(Duration::ZERO);
    let own = keys.queue(0);
    keys.queue(1);
    keys[0].give_back(held);
    keys[0].granted(own);
    assert_eq!(keys.evicted(), 0);
}

/// A connection that became idle is not lent to newcomers before the order to close it arrives.
#[test]
fn a_connection_that_becomes_idle_beside_a_due_claim_is_closed_for_it() {
    let (mut keys, held) = busy_key(SECOND);
    keys.queue(1);
    keys[0].give_back(held);
    assert_eq!((keys.idle(), keys.evicted()), ([0, 0], 1));
    assert_eq!(keys[0].orders, [], "no order is needed");
}

/// One connection is closed for each claim that is due.
#[test]
fn a_claim_that_is_due_is_made_room_for_once() {
    let mut keys = Harnesses::new(3, 3);
    let held = [(); 3].map(|()| keys.lend(0));
    keys.queue(1);
    keys.queue(2);
    let _own = [(); 3].map(|()| keys.queue(0));
    for entry in held {
        keys[0].give_back(entry);
        keys.pass_on();
    }
    assert_eq!((keys.evicted(), keys[0].stats().in_use), (2, 1));
    assert_eq!(keys[0].ledger.take_evicting(), 2);
    keys[0].close_all();
    keys.pass_on();
    assert_eq!(keys.dialing(), [0, 1, 1]);
}

/// No connection is closed for the claim of a caller who has given up.
#[test]
fn a_claim_that_was_withdrawn_makes_no_room() {
    let mut keys = Harnesses::new(2, 1);
    let held = keys.lend(0);
    let other = keys.queue(1);
    let own = keys.queue(0);
    keys[1].leave(other);
    keys.pass_on();
    keys[0].give_back(held);
    keys[0].granted(own);
    assert_eq!(keys.evicted(), 0);
}

/// A connection closed for a lowered bound makes room for no claim.
#[test]
fn a_lowered_bound_makes_no_room_for_a_claim() {
    let mut keys = Harnesses::new(2, 3);
    let [one, other, _third] = [(); 3].map(|()| keys.lend(0));
    keys.resize(2);
    keys.queue(1);
    keys.queue(0);
    for entry in [one, other] {
        keys[0].give_back(entry);
        keys.pass_on();
    }
    assert_eq!((keys.evicted(), keys.taken()), (2, 3));
    keys[0].close_all();
    keys.pass_on();
    assert_eq!((keys.dialing(), keys.taken()), ([0, 1], 2));
}

/// A warm-up counts as waiting since its beginning, however often it asks.
#[test]
fn a_warm_up_that_began_before_a_caller_came_has_the_slot_before_him() {
    let mut keys = Harnesses::new(3, 1);
    let held = keys.lend(0);
    keys.warm_up(1, 1);
    keys.wait(SECOND);
    keys.queue(2);
    keys[1].tick();
    keys.pass_on();
    keys.retire(0, held);
    assert_eq!(keys.dialing(), [0, 1, 0]);
}

/// When a warm-up gives up, its connections stay idle.
#[test]
fn a_warm_up_that_gives_up_makes_no_room_for_itself() {
    let mut keys = Harnesses::new(2, 2);
    let _held = keys.lend(1);
    let ticket = keys.warm_up(0, 2);
    keys.come_to_rest();
    keys.wait(SECOND);
    keys[0].leave(ticket);
    keys.pass_on();
    assert_eq!((keys.idle(), keys.evicted()), ([1, 0], 0));
}

/// The same, when a caller of its own key has come last.
#[test]
fn a_warm_up_keeps_its_turn_when_a_caller_of_its_key_comes() {
    let mut keys = Harnesses::new(3, 1);
    let held = keys.lend(0);
    keys.warm_up(1, 1);
    keys.wait(SECOND);
    keys.queue(2);
    let own = keys.queue(1);
    keys.retire(0, held);
    assert_eq!(keys.dialing(), [0, 1, 0]);
    keys[1].dialed();
    keys[1].granted(own);
}

/// The later of two warm-ups does not pass its turn on to the other's further connections.
#[test]
fn a_warm_up_of_more_asks_for_its_own_turn_once_the_first_is_warm() {
    let mut keys = Harnesses::new(4, 3);
    let held = [(); 3].map(|()| keys.lend(0));
    keys.warm_up(1, 1);
    keys.wait(SECOND);
    keys.queue(2);
    keys.warm_up(1, 2);
    for (entry, dialing) in held.into_iter().zip([[0, 1, 0, 0], [0, 1, 1, 0], [0, 2, 1, 0]]) {
        keys.retire(0, entry);
        assert_eq!(keys.dialing(), dialing);
    }
}

#[test]
fn a_warm_up_claims_as_many_slots_as_it_lacks() {
    let mut keys = Harnesses::new(1, 8);
    keys.allow(1);
    keys.warm_up(0, 3);
    assert_eq!((keys.dialing(), keys.common.visit(|budget| budget.need().wanted)), ([1], 2));
}

/// The connections of a warm-up are kept from those who came later, and from nobody else.
#[test]
fn warm_ups_of_any_size_overflow_nothing_together() {
    let each = Config { max_dialing: Some(u32::MAX), ..unchecked(u32::MAX) };
    let mut keys = Harnesses::with(3, each, u32::MAX, None);
    keys.rest(0);
    keys.allow(1);
    keys[1].warm_up(u32::MAX, 0);
    let order = keys.take_order();
    assert_eq!(order.action, BudgetAction::Evict { most: 1, bar: None }, "no more are open");
    keys.deliver(order);
    keys.warm_up(2, u32::MAX);
    assert_eq!(keys.common.visit(|budget| budget.need().wanted), u32::MAX - 1);
    assert_eq!((keys.closes(0), keys.dialing()), (vec![(1, CloseReason::Evicted)], [0, 0, 0]));
    keys.allow(3);
    assert_eq!((keys.dialing(), keys.taken()), ([0, 2, 0], 3));
}

#[test]
fn connections_of_a_warm_up_make_room_for_callers_who_have_waited_longer() {
    let mut keys = Harnesses::new(3, 2);
    let (one, other) = (keys.lend(0), keys.lend(2));
    keys[1].queue(0);
    keys.pass_on();
    keys.wait(SECOND);
    keys.warm_up(0, 2);
    keys.give_back(0, one);
    assert_eq!((keys.idle(), keys.evicted()), ([0, 0, 0], 1));
    keys.come_to_rest();
    assert_eq!(keys[1].begun, 1);
    keys.give_back(2, other);
}

// ---- Who makes room ----------------------------------------------------------------------------

/// KEY-08: the connection by which a key was first on the list has been used since.
#[test]
fn a_key_used_since_it_was_listed_makes_no_room_before_a_colder_one() {
    let mut keys = Harnesses::new(3, 2);
    keys.rest(0);
    keys.rest(1);
    let used = keys[0].get();
    keys.give_back(0, used);
    keys.queue(2);
    assert_eq!(keys.idle(), [1, 0, 0]);
}

/// A check does not count as use, and may take longer than others are idle.
#[test]
fn a_connection_that_comes_back_from_a_check_is_as_cold_as_before() {
    let each = Config { check_after: SECOND, ..unchecked(3) };
    let mut keys = Harnesses::with(3, each, 3, None);
    let (warm, other) = (keys.lend(0), keys.lend(1));
    keys.rest(0);
    keys.wait(SECOND);
    let checking = keys[0].queue(0);
    let stalled = keys[2].queue(0);
    keys.pass_on();
    keys[0].leave(checking);
    keys[2].leave(stalled);
    // Both keys were asked and had nothing idle. They are listed by what becomes idle from now on.
    keys.give_back(1, other);
    keys.give_back(0, warm);
    let check = keys[0].at_dialer.remove(0);
    let now = keys[0].now;
    let effects = keys[0].ledger.back_from_dialer(check.id, check.entry, None, now);
    keys[0].note_effects(effects);
    keys.pass_on();
    assert_eq!(keys.idle(), [2, 1, 0]);
    keys.queue(2);
    assert_eq!(keys.idle(), [1, 1, 0]);
}

/// KEY-08: several of the coldest may be of one key.
#[test]
fn the_coldest_of_many_are_closed_when_several_must_go_at_once() {
    let mut keys = Harnesses::new(3, 5);
    let held: Vec<_> = (0..3).map(|_| keys.lend(0)).collect();
    held.into_iter().for_each(|entry| keys.give_back(0, entry));
    keys.rest(1);
    keys.rest(2);
    keys.resize(3);
    assert_eq!(keys.idle(), [1, 1, 1]);
    assert_eq!([0, 1, 0].map(|key| keys[key].ledger.take_evicting()), [2, 0, 0]);
    keys.resize(1);
    assert_eq!(keys.idle(), [0, 0, 1]);
}

/// KEY-04: nothing is closed twice for one slot, however many events its key has.
#[test]
fn one_connection_is_closed_for_one_slot() {
    let mut keys = Harnesses::new(4, 3);
    (0..3).for_each(|key| keys.rest(key));
    keys.queue(3);
    for _ in 0..3 {
        keys[3].tick();
        keys.pass_on();
    }
    assert_eq!((keys.idle(), keys.evicted()), ([0, 1, 1, 0], 1));
    keys.come_to_rest();
    assert_eq!((keys.taken(), keys.evicted()), (3, 1));
}

/// KEY-04: a connection that is lent makes room as soon as it is idle, even if it would come to rest in a
/// place.
#[test]
fn a_connection_that_becomes_idle_while_a_slot_is_lacking_makes_room() {
    let mut keys = Harnesses::new(2, 1);
    let held = keys.lend(0);
    assert!(keys[0].ledger.may_lay_out_until(keys[0].now).is_some());
    keys.queue(1);
    assert_eq!(keys[0].ledger.may_lay_out_until(keys[0].now), None, "its return must be seen");
    keys.give_back(0, held);
    assert_eq!((keys.idle(), keys.evicted()), ([0, 0], 1));
    keys.come_to_rest();
    assert_eq!(keys.evicted(), 1);
    keys[0].tick();
    assert!(
        keys[0].ledger.may_lay_out_until(keys[0].now).is_some(),
        "nobody waits for it any more"
    );
}

/// An order to evict finds its connection lent, and so goes to another key.
#[test]
fn an_order_that_finds_nothing_at_rest_is_given_to_the_next_coldest() {
    let mut keys = Harnesses::new(3, 2);
    keys.rest(0);
    keys.rest(1);
    keys[2].queue(0);
    let evict = keys.take_order();
    assert_eq!(evict.to, MemberId(0));
    let _lent = keys[0].get();
    keys.deliver(evict);
    keys.pass_on();
    assert_eq!((keys.idle(), keys.evicted()), ([0, 0, 0], 1));
}

/// The same, and its key has closed.
#[test]
fn an_order_that_finds_its_key_gone_is_given_to_the_next_coldest() {
    let mut keys = Harnesses::new(3, 2);
    keys.rest(0);
    keys.rest(1);
    keys[2].queue(0);
    let evict = keys.take_order();
    let lent = keys[0].get();
    keys[0].retire(lent);
    // That freed its slot, which went to the caller. Another caller lacks one now.
    keys.pass_on();
    keys.queue(2);
    let now = keys[0].now;
    assert!(keys[0].ledger.close_if_vacant(now).0);
    let orders = keys.common.take_back(evict, keys[0].now);
    orders.into_iter().for_each(|order| keys.deliver(order));
    keys.pass_on();
    assert_eq!((keys.idle(), keys.evicted()), ([0, 0, 0], 1));
}

/// KEY-05: each key is asked once whether it has something idle, and not again before it does.
#[test]
fn ten_thousand_keys_in_use_are_asked_once() {
    const KEYS: usize = 10_000;
    let mut keys = Harnesses::new(KEYS + 2, KEYS as u32);
    let mut held: Vec<_> = (0..KEYS).map(|key| keys.lend(key)).collect();
    keys.wait(SECOND);
    keys[KEYS].queue(0);
    assert_eq!(keys.pass_on(), KEYS);
    for _ in 0..10 {
        keys[KEYS].queue(0);
        keys[KEYS + 1].queue(0);
        assert_eq!(keys.pass_on(), 0);
    }
    let first = held.swap_remove(0);
    keys[0].give_back(first);
    assert_eq!((keys.pass_on(), keys.evicted()), (0, 1), "it makes room by itself");
    keys[0].close_all();
    assert_eq!(keys.pass_on(), 1, "that is granted, and who has it has nothing idle");
    assert_eq!(keys[KEYS].stats().dialing, 1);
}

/// NO-LOST-SLOT: nobody of its own key calls, and the key may be closed meanwhile. Upkeep alone takes note.
#[test]
fn a_slot_that_a_close_or_a_check_holds_too_long_serves_another_key() {
    let each = Config { check_timeout: SECOND, close_timeout: SECOND, ..unchecked(1) };
    let begins: [fn(&mut Harnesses); 4] = [
        |keys| {
            keys.queue(1); // One makes room for the other.
        },
        |keys| keys[0].event(|ledger, now| ledger.close(now)),
        |keys| {
            let entry = keys[0].get();
            keys[0].event(|ledger, now| ledger.give_back_for_reset(entry, now));
        },
        |keys| {
            let entry = keys[0].get();
            keys[0].event(|ledger, now| ledger.give_back_for_reset(entry, now));
            keys[0].event(|ledger, now| ledger.close(now));
        },
    ];
    for (way, begin) in begins.into_iter().enumerate() {
        let mut keys = Harnesses::with(2, each, 1, None);
        keys.rest(0);
        begin(&mut keys);
        keys.queue(1);
        let hanging = (keys[0].closes.len(), keys[0].at_dialer.len());
        assert_eq!(hanging, if way < 2 { (1, 0) } else { (0, 1) });
        // A reset that hangs is written off first.
        for _ in 0..1 + way / 2 {
            assert_eq!((keys.dialing(), keys.taken()), ([0, 0], 1), "way {way}");
            let alarm = keys[0].alarm.take().expect("upkeep is ordered");
            keys.wait(alarm.since(keys[0].now));
            keys[0].upkeep();
            keys.pass_on();
        }
        assert_eq!((keys.dialing(), keys[0].stats().close_timeouts_total), ([0, 1], 1));
        assert!(keys[0].now.since(keys[0].started) <= 5 * SECOND, "in time");
    }
}

/// QUIET: a closed pool has upkeep only while a slot may have to be given up.
#[test]
fn a_closed_key_needs_no_upkeep_once_its_closes_have_ended() {
    let mut keys = Harnesses::with(1, Config { close_timeout: SECOND, ..unchecked(2) }, 2, None);
    let held = keys.lend(0);
    keys.rest(0);
    keys[0].event(|ledger, now| ledger.close(now));
    assert!(!keys[0].ledger.gives_up_alarm() && keys[0].ledger.alarm().is_some());
    keys[0].close_all();
    assert!(keys[0].ledger.gives_up_alarm() && keys[0].ledger.alarm().is_none());
    keys[0].give_back(held);
    assert!(!keys[0].ledger.gives_up_alarm() && keys[0].ledger.alarm().is_some());
    keys[0].close_all();
    assert!(keys[0].ledger.gives_up_alarm());
}

// ---- Idle connections of all keys --------------------------------------------------------------------------------

#[test]
fn beyond_the_bound_on_idle_connections_each_new_one_costs_another() {
    let mut keys = Harnesses::with(3, unchecked(9), 9, Some(2));
    let held: Vec<_> =
        (0..3).flat_map(|key| [(key, keys.lend(key)), (key, keys.lend(key))]).collect();
    assert_eq!(keys.evicted(), 0, "nothing rests");
    for (key, entry) in held {
        keys.give_back(key, entry);
    }
    assert_eq!((keys.idle(), keys.evicted()), ([0, 0, 2], 4));
    keys.come_to_rest();
    assert_eq!((keys.evicted(), keys.taken()), (4, 2));
}

#[test]
fn a_connection_that_comes_to_rest_while_an_order_is_on_its_way_costs_another() {
    let mut keys = Harnesses::with(2, unchecked(9), 9, Some(1));
    let held = [keys.lend(0), keys.lend(0)];
    let other = keys.lend(1);
    held.into_iter().for_each(|entry| keys[0].give_back(entry));
    keys.trim();
    let first = keys.take_order();
    keys[1].give_back(other);
    keys.trim();
    let second = keys.take_order();
    assert_eq!([first.to, second.to], [MemberId(0), MemberId(1)]);
}

/// The connections that an order was for are lent before it arrives, and others have come to rest.
#[test]
fn a_surplus_that_an_order_does_not_find_is_taken_from_others() {
    let mut keys = Harnesses::with(2, unchecked(9), 9, Some(1));
    let [one, other] = [keys.lend(0), keys.lend(0)];
    keys[0].give_back(one);
    keys[0].give_back(other);
    keys.trim();
    let evict = keys.take_order();
    assert_eq!(evict.to, MemberId(0));
    let others = [keys.lend(1), keys.lend(1)];
    let _lent = [keys[0].get(), keys[0].get()];
    for entry in others {
        keys[1].give_back(entry);
        keys.trim();
    }
    keys.deliver(evict);
    let evict = keys.take_order();
    assert_eq!(evict.to, MemberId(1));
    keys.deliver(evict);
    keys.pass_on();
    assert_eq!((keys.idle(), keys.evicted()), ([0, 1], 1));
}

/// It is closed anyway: the caller of another key takes its slot.
#[test]
fn a_surplus_connection_that_is_closed_makes_room_as_well() {
    let mut keys = Harnesses::with(3, unchecked(2), 2, Some(1));
    let held = [keys.lend(0), keys.lend(1)];
    let [one, other] = held;
    keys.give_back(0, one);
    keys.give_back(1, other);
    assert_eq!(keys.idle(), [0, 1, 0]);
    keys.queue(2);
    assert_eq!((keys.idle(), keys.evicted()), ([0, 1, 0], 1));
    keys.come_to_rest();
    assert_eq!(keys.taken(), 2);
}

// ---- Warm-ups ----------------------------------------------------------------------------------

#[test]
fn a_warm_up_that_lacks_slots_closes_nothing_that_it_has_opened() {
    let mut keys = Harnesses::new(2, 3);
    let _held = [keys.lend(1), keys.lend(1)];
    let ticket = keys.warm_up(0, 2);
    keys.come_to_rest();
    assert_eq!((keys[0].begun, keys.idle(), keys.evicted()), (1, [1, 0], 0));
    keys.queue(1);
    assert_eq!(keys.evicted(), 0, "the warm-up's connections are kept until its end");
    keys[0].leave(ticket);
    keys.pass_on();
    assert_eq!(keys.idle(), [0, 0]);
}

#[test]
fn a_warm_up_of_more_than_may_rest_in_all_ends() {
    let mut keys = Harnesses::with(1, unchecked(9), 9, Some(0));
    let ticket = keys.warm_up(0, 2);
    keys.come_to_rest();
    assert_eq!(keys[0].begun, 2);
    assert!(keys[0].collect(ticket).is_some());
    assert_eq!(keys.taken(), 0);
}

#[test]
fn two_warm_ups_that_lack_each_others_slots_do_not_take_turns() {
    let each = Config { max_dialing: Some(1), ..unchecked(2) };
    let mut keys = Harnesses::with(2, each, 2, None);
    let first = keys.warm_up(0, 2);
    let second = keys.warm_up(1, 2);
    keys.come_to_rest();
    assert_eq!((keys.idle(), keys.evicted()), ([1, 1], 0));
    keys[0].leave(first);
    keys.come_to_rest();
    assert_eq!((keys.idle(), keys.evicted()), ([0, 2], 1));
    assert!(keys[1].collect(second).is_some());
}

// ---- Why a caller was not served ---------------------------------------------------------------

/// REASON.
#[test]
fn only_a_caller_who_waited_for_a_slot_is_told_that_the_key_stalled() {
    let each = Config { check_after: SECOND, ..unchecked(2) };
    let mut keys = Harnesses::with(2, each, 2, None);
    let (own, _other) = (keys.lend(0), keys.lend(1));
    let waits_for_a_slot = |keys: &mut Harnesses| {
        keys[0].queue_for(0, SECOND);
        keys.wait(SECOND);
        keys[0].tick();
        keys[0].ledger.stats_after_wait(keys[0].now).stalled
    };
    assert!(waits_for_a_slot(&mut keys));
    assert!(!keys[0].stats().stalled, "nobody waits for one any more");
    keys.give_back(0, own);
    keys.wait(SECOND);
    assert!(!waits_for_a_slot(&mut keys), "but for a check");
}

/// It takes spare slots only: for a claim of its own another key would have to close a connection.
#[test]
fn a_key_among_others_keeps_connections_ready_in_slots_that_nobody_claims() {
    let common = Common::new(2);
    let harness = |key, min_idle| {
        let share = Share::new(MemberId(key), Arc::clone(&common) as _).among_rivals(true);
        Harness::with(Config { min_idle, ..unchecked(2) }).sharing(share)
    };
    let mut harnesses = vec![harness(0, 1), harness(1, 0)];
    harnesses[1].now = harnesses[0].now;
    let mut keys = Harnesses { common, harnesses, max_idle: None };
    let [one, _other] = [keys.lend(1), keys.lend(1)];
    keys[0].tick();
    assert_eq!((keys.dialing(), keys.common.visit(|budget| budget.stalled())), ([0, 0], 0));
    assert_eq!(keys[0].alarm, Some(keys[0].now + SECOND), "it looks again");
    keys.retire(1, one);
    keys.wait(SECOND);
    keys[0].upkeep();
    assert_eq!((keys.dialing(), keys.taken()), ([1, 0], 2));
    keys.come_to_rest();
    assert_eq!((keys.idle(), keys.taken()), ([1, 0], 2));
}

// ---- The end of a key ---------------------------------------------------------------------

/// KEY-02.
#[test]
fn nothing_of_a_key_is_left_with_the_budget_when_its_last_connection_is_closed() {
    for max_idle in [None, Some(3)] {
        let mut keys = Harnesses::with(2, unchecked(2), 2, max_idle);
        let held = keys.lend(0);
        keys.rest(0);
        let tickets = [keys.queue(1), keys.queue(1)];
        keys.retire(0, held);
        keys.come_to_rest();
        let now = keys[0].now;
        assert!(keys[0].ledger.close_if_vacant(now).0);
        for ticket in tickets {
            assert!(!keys[1].ledger.close_if_vacant(now).0, "not collected");
            let entry = keys[1].granted(ticket);
            keys.give_back(1, entry);
        }
        assert!(!keys[1].ledger.close_if_vacant(now).0, "two rest");
        keys[1].flush();
        keys.come_to_rest();
        assert!(keys[1].ledger.close_if_vacant(now).0);
        assert_eq!(keys.common.contents(), Common::new(2).contents());
    }
}

/// KEY-02: else each caller of a server that is away would be the first.
#[test]
fn a_key_whose_dial_failed_stays_for_ten_probes_of_its_breaker() {
    let breaker = BreakerChoice::On(Breaker::new(1, SECOND));
    let mut keys = Harnesses::with(1, Config { breaker, ..unchecked(1) }, 1, None);
    let ticket = keys[0].queue(0);
    keys[0].refused();
    keys[0].failure(ticket);
    let failed = keys[0].now;
    assert!(!keys[0].ledger.close_if_vacant(failed).0);
    assert_eq!(keys[0].alarm, Some(failed + 10 * SECOND), "its shell looks then");
    assert!(!keys[0].ledger.close_if_vacant(failed + 9 * SECOND).0);
    assert!(keys[0].ledger.close_if_vacant(failed + 10 * SECOND).0);
}

// ---- A quota ----------------------------------------------------------------------------------

/// One key, whose slots a quota allows.
fn under_quota(slots: u32, lease: Lease) -> Harnesses {
    let mut keys = Harnesses::new(1, 8);
    keys.allow_under(slots, lease);
    keys
}

#[test]
fn a_quota_allows_nothing_beyond_itself_and_a_raised_one_serves_who_waits() {
    let mut keys = under_quota(0, Lease::ENDLESS);
    let first = keys.queue(0);
    assert!(keys[0].stats().stalled_by_quota, "{}", keys[0].stats());
    assert_eq!((keys.dialing(), keys.common.visit(|budget| budget.need().wanted)), ([0], 1));
    keys.allow(1);
    assert_eq!((keys.dialing(), keys.taken()), ([1], 1));
    assert!(!keys[0].stats().stalled);
    keys[0].dialed();
    keys[0].granted(first);
}

/// The pool's own bound is no lack of the fleet's.
#[test]
fn what_the_pool_itself_has_no_room_for_is_not_wanted_of_the_quota() {
    let mut keys = Harnesses::new(2, 1);
    keys.allow(5);
    let held = keys.lend(0);
    keys.queue(1);
    let stats = keys[1].stats();
    assert_eq!((stats.stalled, stats.stalled_by_quota), (true, false));
    assert_eq!(keys.common.visit(|budget| budget.need().wanted), 0);
    keys.retire(0, held);
}

/// Idle ones close at once, the coldest first; then those that come back, although callers wait.
#[test]
fn a_lowered_quota_is_met_by_idle_connections_and_then_by_those_that_come_back() {
    let mut keys = under_quota(4, Lease::ENDLESS);
    let held = [keys.lend(0), keys.lend(0)];
    let [cold, warm] = [keys.lend(0), keys.lend(0)];
    let numbers = [cold.connection, warm.connection];
    keys.give_back(0, cold);
    keys.give_back(0, warm);
    keys.allow(3);
    assert_eq!(keys.closes(0), [(numbers[0], CloseReason::Evicted)], "the coldest");
    keys.allow(1);
    assert_eq!(keys[0].closes.len(), 2, "nothing else is idle");
    keys[0].close_all();
    keys.pass_on();
    keys.queue(0);
    let [one, other] = held;
    let number = one.connection;
    keys.give_back(0, one);
    assert_eq!(keys.closes(0), [(number, CloseReason::Evicted)], "although somebody waits");
    keys[0].close_all();
    keys.pass_on();
    assert_eq!((keys.taken(), keys.dialing()), (1, [0]), "nobody gets its slot");
    keys.give_back(0, other);
    assert_eq!(keys[0].stats().waiting, 0, "what is left serves who waits");
}

/// FLEET-02: the caller's own claim has led to an order that nobody has delivered yet.
#[test]
fn a_lowered_quota_is_met_by_what_comes_back_while_an_order_is_under_way() {
    let mut keys = under_quota(2, Lease::ENDLESS);
    let [one, other] = [keys.lend(0), keys.lend(0)];
    keys[0].queue(0);
    keys.wait(SECOND);
    keys[0].tick();
    assert!(keys[0].stats().stalled_by_quota, "{}", keys[0].stats());
    let (now, number) = (keys[0].now, one.connection);
    let orders = keys.common.allow(Allowance { slots: 1, until: Moment::LAST }, now);
    assert_eq!(orders, []);
    keys[0].give_back(one);
    assert_eq!(keys.closes(0), [(number, CloseReason::Evicted)], "although somebody waits");
    keys[0].close_all();
    keys.pass_on();
    keys.give_back(0, other);
    assert_eq!(keys[0].stats().waiting, 0);
}

#[test]
fn connections_that_the_pool_keeps_ready_take_slots_of_the_quota() {
    let common = Common::new(8);
    let share = Share::new(MemberId(0), Arc::clone(&common) as _);
    let config = Config { min_idle: 2, ..unchecked(8) };
    let mut keys = Harnesses { common, harnesses: vec![Harness::with(config)], max_idle: None };
    let harness = keys.harnesses.remove(0).sharing(share);
    keys.harnesses.push(harness);
    keys.allow(0);
    keys[0].tick();
    keys.pass_on();
    assert_eq!((keys.dialing(), keys.common.visit(|budget| budget.need().wanted)), ([0], 2));
    let now = keys[0].now;
    let orders = keys.common.allow(Allowance { slots: 1, until: Moment::LAST }, now);
    orders.into_iter().for_each(|order| keys.deliver(order));
    assert_eq!((keys.dialing(), keys.common.visit(|budget| budget.need().wanted)), ([1], 1));
    keys.allow(1);
    assert_eq!((keys.dialing(), keys.taken()), ([1], 1));
    keys.allow(2);
    keys.come_to_rest();
    assert_eq!((keys.idle(), keys.taken()), ([2], 2));
}

/// FLEET-04: the server may count the connection that was closed for a while yet.
#[test]
fn a_slot_is_dialed_into_again_once_it_has_settled() {
    let mut keys = under_quota(1, Lease::ENDLESS);
    keys.common.visit(|budget| budget.set_settling(SECOND));
    let held = keys.lend(0);
    keys[0].queue(0);
    keys.pass_on();
    keys.retire(0, held);
    let (taken, counted) = keys.common.visit(|budget| (budget.taken(), budget.need().open));
    assert_eq!((keys.dialing(), taken, counted), ([0], 0, 1));
    let settles_at = keys.common.visit(|budget| budget.need().settles_at);
    assert_eq!(settles_at, Some(keys[0].now + SECOND));
    keys.wait(SECOND);
    keys.allow(1); // So does the thread that waits for the pool's needs.
    assert_eq!((keys.dialing(), keys.taken()), ([1], 1));
}

/// FLEET-04: a span that no clock can say lasts for ever.
#[test]
fn a_slot_that_settles_for_longer_than_can_be_said_is_never_dialed_into_again() {
    let mut keys = under_quota(1, Lease::ENDLESS);
    keys.common.visit(|budget| budget.set_settling(Duration::MAX));
    let held = keys.lend(0);
    keys[0].queue(0);
    keys.pass_on();
    keys.retire(0, held);
    keys.wait(1_000_000 * SECOND);
    keys.allow(1);
    let counted = keys.common.visit(|budget| budget.need().open);
    assert_eq!((keys.dialing(), counted), ([0], 1));
}

/// NO-STRANDED-WAITER: it is returned and taken again within the event that grants it.
#[test]
fn a_slot_that_is_granted_does_not_settle_before_its_dial() {
    let mut keys = under_quota(0, Lease::ENDLESS);
    keys.common.visit(|budget| budget.set_settling(SECOND));
    keys[0].queue(0);
    keys.pass_on();
    keys.allow(1);
    assert_eq!((keys.dialing(), keys.taken()), ([1], 1));
    assert_eq!(keys.common.visit(|budget| budget.need().settles_at), None, "nothing settles");
}

/// FLEET-04: a slot that settles is on its way to a claim, as one that is being closed.
#[test]
fn nothing_is_closed_for_a_claim_that_a_slot_which_settles_will_serve() {
    let mut keys = Harnesses::new(2, 2);
    keys.common.visit(|budget| budget.set_settling(SECOND));
    let [one, other] = [keys.lend(0), keys.lend(0)];
    keys.queue(1);
    let own = keys.queue(0);
    keys.retire(0, one);
    keys[0].close_all();
    keys.pass_on();
    assert_eq!((keys.dialing(), keys.taken()), ([0, 0], 1), "it settles");
    keys[0].give_back(other);
    keys[0].granted(own);
    assert_eq!(keys.evicted(), 0);
}

#[test]
fn a_claim_is_less_by_the_slots_that_are_on_their_way() {
    let mut keys = under_quota(0, Lease::ENDLESS);
    let wanted = |keys: &Harnesses| keys.common.visit(|budget| budget.need().wanted);
    let first = keys[0].now;
    for _ in 0..3 {
        keys.queue(0);
    }
    assert_eq!(wanted(&keys), 3);
    assert_eq!(keys.common.visit(|budget| budget.need().since), Some(first));
    let now = keys[0].now;
    let grant = keys.common.allow(Allowance { slots: 1, until: Moment::LAST }, now).remove(0);
    keys[0].tick();
    assert_eq!(wanted(&keys), 2, "two more are wanted");
    keys.deliver(grant);
    keys.pass_on();
    assert_eq!((keys.dialing(), wanted(&keys)), ([1], 2));
}

// ---- The end of a lease -----------------------------------------------------------------------

#[test]
fn what_is_idle_when_a_lease_ends_is_closed_and_not_lent() {
    let mut keys = Harnesses::new(1, 8);
    let lease = keys.lease(0);
    keys.allow_under(2, lease);
    keys.rest(0);
    assert_eq!(keys[0].alarm, Some(lease.until), "upkeep comes in time");
    keys.wait(60 * SECOND);
    keys.queue(0);
    assert_eq!(keys.closes(0), [(1, CloseReason::LeaseEnded)]);
    assert_eq!((keys[0].stats().waiting, keys.dialing()), (1, [0]), "and nothing is dialed");
    assert!(keys[0].stats().stalled_by_quota);
}

#[test]
fn what_comes_back_after_the_end_of_its_lease_is_closed() {
    let mut keys = Harnesses::new(1, 8);
    let lease = keys.lease(0);
    keys.allow_under(2, lease);
    let held = keys.lend(0);
    keys.wait(60 * SECOND);
    keys.give_back(0, held);
    assert_eq!(keys.closes(0), [(1, CloseReason::LeaseEnded)]);
}

/// Also if it was lent before the renewal, or rests where callers take it without the ledger.
#[test]
fn a_renewed_lease_keeps_what_is_open() {
    let mut keys = Harnesses::new(1, 8);
    let lease = keys.lease(0);
    keys.allow_under(2, lease);
    let held = keys.lend(0);
    keys.rest(0);
    let later = Lease { until: lease.until + 60 * SECOND, ..lease };
    keys.allow_under(2, later);
    keys.wait(90 * SECOND);
    keys.give_back(0, held);
    assert_eq!((keys.closes(0), keys.idle()), (vec![], [2]));
    let now = keys[0].now;
    let entry = keys[0].ledger.lay_out(now).expect("it may be laid out");
    assert!(entry.expires > now, "a taker compares the later end");
    keys[0].ledger.take_from_place(entry);
}

/// The process was stopped for longer than its lease, and the keeper was the first to go on.
#[test]
fn another_lease_closes_what_was_opened_under_the_one_before() {
    let mut keys = Harnesses::new(1, 8);
    let lease = keys.lease(0);
    keys.allow_under(3, lease);
    let (held, lent) = (keys.lend(0), keys.lend(0));
    let ticket = keys.queue(0);
    keys.give_back(0, lent); // It serves the caller before its dial does.
    let lent = keys[0].granted(ticket);
    keys.give_back(0, lent);
    assert_eq!((keys.idle(), keys.dialing()), ([1], [1]));
    keys.wait(120 * SECOND);
    let next = keys.lease(1);
    keys.allow_under(3, next);
    keys[0].dialed();
    keys.pass_on();
    keys.give_back(0, held);
    let reasons: Vec<_> = keys.closes(0).into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, [CloseReason::LeaseEnded; 3], "idle, dialed and in use");
}

#[test]
fn a_dial_has_no_longer_than_its_lease() {
    let mut keys = Harnesses::new(1, 8);
    let lease = Lease { number: 0, until: keys[0].now + SECOND };
    keys.allow_under(1, lease);
    let ticket = keys[0].queue(0);
    assert_eq!(keys[0].dials[0].deadline, Some(lease.until));
    keys.wait(SECOND);
    keys[0].tick();
    assert_eq!(keys[0].failure(ticket), Failure::Overdue(Overdue::Lease));
}

/// A caller may wake up long after it was given a connection: its process was stopped.
#[test]
fn a_caller_who_wakes_up_after_the_lease_may_not_use_what_it_was_given() {
    let mut keys = Harnesses::new(1, 8);
    let lease = keys.lease(0);
    keys.allow_under(1, lease);
    let ticket = keys[0].queue(0);
    keys[0].sleep(ticket);
    keys[0].dialed();
    let entry = keys[0].granted(ticket);
    let now = keys[0].now;
    assert!(!keys[0].ledger.has_overstayed(&entry, now));
    keys.wait(60 * SECOND);
    let now = keys[0].now;
    assert!(keys[0].ledger.has_overstayed(&entry, now));
    let next = keys.lease(1);
    keys.allow_under(1, next);
    assert!(keys[0].ledger.has_overstayed(&entry, now), "another lease is none of its own");
    keys.retire(0, entry);
    let entry = keys.lend(0);
    assert!(!keys[0].ledger.has_overstayed(&entry, now), "opened under that lease");
}

/// Whether or not the pool was closed before: at a shutdown, say.
#[test]
fn loans_that_outlast_their_lease_are_aborted_once() {
    for is_closed in [false, true] {
        a_loan_is_aborted_once(is_closed);
    }
}

fn a_loan_is_aborted_once(is_closed: bool) {
    let mut keys = Harnesses::new(1, 8);
    let mut lease = keys.lease(0);
    keys.allow_under(1, lease);
    assert_eq!(keys[0].alarm, None, "nothing is in use");
    let ticket = keys[0].queue(0);
    let (aborted, now) = (Arc::new(AtomicU32::new(0)), keys[0].now);
    let handle = {
        let aborted = Arc::clone(&aborted);
        AbortHandle::new(move || {
            aborted.fetch_add(1, SeqCst);
        })
    };
    let id = keys[0].dials.remove(0).id;
    let effects = keys[0].ledger.dialed(id, 1, Some(handle), SECOND, now);
    keys[0].note_effects(effects);
    let entry = keys[0].granted(ticket);
    keys[0].tick();
    assert_eq!(keys[0].alarm, Some(lease.until));
    if is_closed {
        // Its lease is renewed while it is drained.
        keys[0].event(|ledger, now| ledger.close(now));
        lease.until += 60 * SECOND;
        keys.allow_under(1, lease);
        keys.wait(60 * SECOND);
        keys[0].upkeep();
        assert_eq!((keys[0].aborts.len(), keys[0].alarm), (0, Some(lease.until)));
    }
    for _ in 0..2 {
        keys.wait(60 * SECOND);
        keys[0].upkeep();
        let aborts = std::mem::take(&mut keys[0].aborts);
        aborts.iter().for_each(AbortHandle::abort);
        assert_eq!(aborted.load(SeqCst), 1);
    }
    keys.retire(0, entry);
}
