//! Several keys share a budget.

use std::sync::Arc;
use std::time::Duration;

use loom::thread::{self, JoinHandle};

use super::{SOON, check, check_within, spawn, spawn_with};
use crate::config::{Config, IdleOrder};
use crate::guard::Guard;
use crate::keyed::KeyedPool;
use crate::pool::Pool;
use crate::report::error::GetError;
use crate::runtime::sync::{self, advance, never, now, rest_for_ever, search_finely};
use crate::server::{
    self, Act, Scripted, Server, keyed_pool, keyed_pool_under, never_due, pool_of_a_key, pool_under,
};
use crate::shell::cancel::Cancel;
use crate::shell::quota::{Demand, Quota};

type Keyed = KeyedPool<u32, Scripted>;

/// One slot for all keys, and what is needed of each.
fn one_slot(script: &[Act]) -> (Keyed, Arc<Server>) {
    keyed_pool(1, None, never_due(1), script)
}

/// A caller of that key, who is served sooner or later.
fn caller(pool: &Keyed, key: u32) -> JoinHandle<()> {
    let pool = pool.clone();
    spawn(move || drop(pool.get(&key).unwrap()))
}

/// Nobody lacks anything, and both sides agree.
#[track_caller]
fn finish(pool: &Keyed, server: &Server, open: u32) {
    assert_eq!(pool.stats().stalled, 0);
    assert_eq!((pool.stats().open, server.books().open), (open, open));
    assert!(pool.drain(never()).is_complete());
    let books = server.books();
    assert_eq!((pool.stats().keys, books.opened), (0, books.closed + books.detached));
}

/// KEY-04: a connection of one key comes back as a caller of another finds no slot.
#[test]
fn a_return_racing_a_caller_of_another_key_makes_room() {
    check(|| {
        let (pool, server) = one_slot(&[]);
        let held = pool.get(&1).unwrap();
        let other = caller(&pool, 2);
        drop(held);
        other.join().unwrap();
        finish(&pool, &server, 1);
    });
}

/// KEY-04: a connection rests where no lock sees it, as its own key and another want it.
#[test]
fn what_rests_unseen_is_lent_or_makes_room_for_another_key() {
    check_within(2, || {
        let (pool, server) = one_slot(&[]);
        drop(pool.get(&1).unwrap());
        let other = caller(&pool, 2);
        drop(pool.get(&1).unwrap());
        other.join().unwrap();
        finish(&pool, &server, 1);
    });
}

/// ACC-01: the dial of one key fails as a caller of another finds no slot.
#[test]
fn a_failed_dial_leaves_its_slot_to_another_key() {
    check_within(2, || {
        let (pool, server) = one_slot(&[Act::Refuse]);
        let other = spawn_with(&pool, |pool| pool.get(&2).map(drop));
        let outcomes = [pool.get(&1).map(drop), other.join().unwrap()];
        let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(refused, 1, "the one whose dial it was: {outcomes:?}");
        finish(&pool, &server, 1);
    });
}

/// KEY-02: two callers of a key of which nothing is kept. One who finds its ledger closed looks for
/// another.
#[test]
fn a_key_that_goes_strands_nobody_and_loses_nothing() {
    check_within(2, || {
        let each = Config { max_idle: Some(0), ..never_due(1) };
        // The handle is kept to the end: that a pool ends where its last handle is dropped, loom
        // cannot tell, as it does not know the standard library's `Arc`.
        let (pool, server) = pool_of_a_key(each);
        let other = spawn_with(&pool, |pool| pool.get().map(drop));
        let outcomes = [pool.get().map(drop), other.join().unwrap()];
        let told = outcomes.iter().filter(|outcome| matches!(outcome, Err(GetError::Closed)));
        let served = outcomes.iter().filter(|outcome| outcome.is_ok());
        assert_eq!(told.count() + served.clone().count(), 2, "{outcomes:?}");
        assert!(served.count() >= 1, "it was not closed before anybody came");
        assert!(matches!(pool.get(), Err(GetError::Closed)), "nothing is left of it");
        assert_eq!(server.books().open, 0);
    });
}

/// WAK-05: the slot comes free as the caller who has waited longest gives up.
#[test]
fn a_slot_passes_by_a_caller_who_has_given_up() {
    check_within(2, || {
        let (pool, server) = one_slot(&[]);
        let held = pool.get(&1).unwrap();
        let hasty = spawn_with(&pool, |pool| match pool.get_timeout(&2, SOON) {
            Ok(connection) => drop(connection),
            Err(error) => assert!(matches!(error, GetError::Exhausted { .. }), "{error}"),
        });
        drop(held);
        drop(pool.get(&3).unwrap());
        hasty.join().unwrap();
        // One may be closed for the caller who then gave up, or dialed.
        assert!(pool.drain(never()).is_complete());
        finish(&pool, &server, 0);
    });
}

/// SHUT-01: the pool is closed as a slot comes free for a caller of another key.
#[test]
fn a_close_racing_a_grant_leaves_nothing_open() {
    check_within(2, || {
        let (pool, server) = one_slot(&[]);
        let held = pool.get(&1).unwrap();
        let other = spawn_with(&pool, |pool| match pool.get(&2) {
            Ok(connection) => drop(connection),
            Err(error) => assert!(matches!(error, GetError::Closed), "{error}"),
        });
        let closing = spawn_with(&pool, |pool| pool.close());
        drop(held);
        closing.join().unwrap();
        other.join().unwrap();
        assert!(pool.drain(never()).is_complete());
        finish(&pool, &server, 0);
    });
}

/// BOUND of what rests: two keys, of whose connections one may rest, come back at once.
#[test]
fn of_two_returns_at_once_one_sees_that_too_much_rests() {
    check(|| {
        let (pool, server) = keyed_pool(2, Some(1), never_due(1), &[]);
        let (one, other) = (pool.get_owned(&1).unwrap(), pool.get_owned(&2).unwrap());
        let returning = spawn(move || drop(one));
        drop(other);
        returning.join().unwrap();
        while server.books().open > 1 {
            thread::yield_now(); // A worker that has just dialed may be the one that sees to it.
        }
        while pool.stats().open > 1 {
            thread::yield_now();
        }
        finish(&pool, &server, 1);
    });
}

/// Two connections of a key come back to the same place as somebody shuts the gate, so that one thread
/// may have to take both to the ledger. Neither counts as at rest any more: else, later, more would be
/// closed than is too much.
#[test]
fn connections_that_cannot_be_put_down_do_not_count_as_at_rest() {
    check_within(1, || {
        search_finely();
        rest_for_ever();
        let (pool, server) = keyed_pool(3, Some(2), never_due(3), &[]);
        let (one, other) = (pool.get_owned(&1).unwrap(), pool.get(&1).unwrap());
        let returning = spawn(move || drop(one));
        let looking = spawn_with(&pool, |pool| {
            assert_eq!(pool.stats_of(&1).map(|stats| stats.open()), Some(2))
        });
        drop(other);
        returning.join().unwrap();
        looking.join().unwrap();
        let [held, one, other] = [(); 3].map(|()| pool.get(&1).unwrap());
        drop((one, other));
        assert_eq!(server.books().open, 3, "two may rest beside one in use");
        drop(held);
        finish(&pool, &server, 2);
    });
}

/// KEY-02: the only connection of a key is closed, and the key goes, as another lacks its slot.
#[test]
fn a_key_that_goes_leaves_its_slot_to_another() {
    check_within(2, || {
        let (pool, server) = one_slot(&[]);
        let held = pool.get(&1).unwrap();
        let other = caller(&pool, 2);
        Guard::discard(held);
        other.join().unwrap();
        assert_eq!(pool.stats().keys, 1);
        finish(&pool, &server, 1);
    });
}

/// WAK-05, CAN-01: the wait of a caller without a slot is cancelled as the slot comes free.
#[test]
fn a_slot_passes_by_a_caller_whose_wait_is_cancelled() {
    check_within(2, || {
        let (pool, server) = one_slot(&[]);
        let (held, cancel) = (pool.get(&1).unwrap(), Cancel::new());
        let cancelled = spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || match pool.checkout(&2).cancel(&cancel).timeout(Duration::MAX).get() {
                Ok(connection) => drop(connection),
                Err(error) => assert!(matches!(error, GetError::Cancelled), "{error}"),
            }
        });
        drop(held);
        cancel.cancel();
        drop(pool.get(&3).unwrap());
        cancelled.join().unwrap();
        assert!(pool.drain(never()).is_complete());
        finish(&pool, &server, 0);
    });
}

/// ACC-16: the total is raised as a caller finds no slot.
#[test]
fn a_raised_total_serves_who_lacks_a_slot() {
    check_within(2, || {
        let (pool, server) = keyed_pool(2, None, never_due(1), &[]);
        pool.resize_total(1).unwrap();
        let held = pool.get(&1).unwrap();
        let other = caller(&pool, 2);
        pool.resize_total(2).unwrap();
        other.join().unwrap();
        drop(held);
        finish(&pool, &server, 2);
    });
}

/// BOUNDED-BYPASS among keys: somebody of a busy key wants the connection that comes back, and somebody
/// of another has waited for longer, or comes in that moment.
#[test]
fn a_busy_key_makes_room_for_who_has_waited_longer_and_loses_nothing() {
    check_within(2, || {
        let (pool, server) = one_slot(&[]);
        let held = pool.get(&1).unwrap();
        let other = caller(&pool, 2);
        advance(SOON);
        drop(held);
        drop(pool.get(&1).unwrap());
        other.join().unwrap();
        finish(&pool, &server, 1);
    });
}

/// The same, and who has waited longer gives up in that moment.
#[test]
fn a_busy_key_makes_room_in_vain_and_strands_nobody() {
    check_within(2, || {
        let (pool, server) = one_slot(&[]);
        let (held, cancel) = (pool.get(&1).unwrap(), Cancel::new());
        let cancelled = spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || drop(pool.checkout(&2).cancel(&cancel).timeout(Duration::MAX).get())
        });
        advance(SOON);
        drop(held);
        let own = pool.get(&1).unwrap();
        cancel.cancel();
        drop(own);
        cancelled.join().unwrap();
        assert!(pool.drain(never()).is_complete());
        finish(&pool, &server, 0);
    });
}

/// SHUT-01: the pool is closed as a key is used for the first time.
#[test]
fn a_key_that_comes_as_the_pool_is_closed_leaves_nothing_open() {
    check(|| {
        let (pool, server) = one_slot(&[]);
        let closing = spawn_with(&pool, |pool| pool.close());
        match pool.get(&1) {
            Ok(connection) => drop(connection),
            Err(error) => assert!(matches!(error, GetError::Closed), "{error}"),
        }
        closing.join().unwrap();
        assert!(matches!(pool.get(&1), Err(GetError::Closed)), "nobody would close it");
        assert!(pool.drain(never()).is_complete());
        finish(&pool, &server, 0);
    });
}

/// NO-LOST-SLOT: a slot is on its way to a key as the last of its callers gives up, and the key goes.
#[test]
fn a_slot_granted_to_a_key_that_has_gone_is_the_next_ones() {
    check_within(2, || {
        let (pool, server) = one_slot(&[]);
        let held = pool.get_owned(&1).unwrap();
        let discarding = spawn(move || Guard::discard(held));
        // This thread runs first, so that two preemptions are enough.
        drop(pool.get_timeout(&2, SOON));
        discarding.join().unwrap();
        drop(pool.get(&3).unwrap());
        assert!(pool.drain(never()).is_complete());
        finish(&pool, &server, 0);
    });
}

/// KEY-11: a key comes as the settings change, and has the latest.
#[test]
fn a_key_that_comes_during_a_change_of_settings_hears_of_it() {
    check(|| {
        let (pool, server) = keyed_pool(2, None, never_due(1), &[]);
        let caller = caller(&pool, 1);
        pool.change(|config| Ok(Config { max_open: 2, ..config })).unwrap();
        caller.join().unwrap();
        assert_eq!(pool.stats_of(&1).map(|stats| stats.max_open), Some(2));
        finish(&pool, &server, 1);
    });
}

// ---- A quota ----------------------------------------------------------------------------------

/// A pool that is not keyed, whose slots a quota allows: none at first.
fn under_quota() -> (Pool<Scripted>, Arc<Server>, Quota) {
    let quota = Quota::new();
    let (pool, server) = pool_under(&quota, never_due(2));
    (pool, server, quota)
}

/// FLEET-01: slots are allowed as a caller finds none.
#[test]
fn a_caller_who_finds_no_slot_as_one_is_allowed_is_served() {
    check(|| {
        let (pool, server, quota) = under_quota();
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        quota.allow(1, None);
        caller.join().unwrap();
        server::finish(&pool, &server);
    });
}

/// NO-LOST-SLOT: a slot is on its way to a key as the last of its callers gives up, and the key goes. No connection
/// was in it, so the server counts none and the slot need not settle.
#[test]
fn a_slot_that_comes_straight_back_does_not_settle() {
    check_within(2, || {
        let quota = Quota::with_settling(9 * SOON);
        quota.allow(2, None);
        let (pool, server) = keyed_pool_under(&quota, 2, never_due(1));
        pool.resize_total(1).unwrap();
        let held = pool.get_owned(&1).unwrap();
        let raising = spawn_with(&pool, |pool| pool.resize_total(2).unwrap());
        // This thread runs first, so that two preemptions are enough.
        drop(pool.get_timeout(&2, SOON));
        raising.join().unwrap();
        if pool.stats().keys == 1 && server.books().dials == 1 {
            assert_eq!(quota.demand().open, 1);
        }
        drop(held);
        assert!(pool.drain(never()).is_complete());
    });
}

/// FLEET-01: the keeper sleeps until a caller wants a slot, and misses none.
#[test]
fn a_keeper_that_waits_for_a_demand_hears_of_a_caller() {
    check(|| {
        let (pool, server, quota) = under_quota();
        let keeper = spawn({
            let quota = quota.clone();
            move || {
                let demand = quota.demand_after(&Demand::default(), never());
                assert_eq!(demand.wanted, 1);
                quota.allow(1, None);
            }
        });
        drop(pool.get().unwrap());
        keeper.join().unwrap();
        server::finish(&pool, &server);
    });
}

/// FLEET-02: what is allowed is withdrawn as a connection comes back.
#[test]
fn what_comes_back_as_its_slot_is_withdrawn_is_closed() {
    check(|| {
        let (pool, server, quota) = under_quota();
        quota.allow(1, None);
        let held = pool.get().unwrap();
        let keeper = spawn({
            let quota = quota.clone();
            move || quota.allow(0, None)
        });
        drop(held);
        keeper.join().unwrap();
        assert_eq!((server.books().open, quota.demand().open), (0, 0));
        server::finish(&pool, &server);
    });
}

/// FLEET-03: the lease ends, and another begins, as a connection comes back: nobody is lent it.
#[test]
fn what_comes_back_as_its_lease_ends_is_lent_to_nobody() {
    check(|| {
        let (pool, server, quota) = under_quota();
        quota.allow(1, None);
        let held = pool.get().unwrap();
        // Not sooner: a dial under a lease that may end at any moment may be overdue.
        quota.allow(1, Some(now().after(SOON).unwrap().into()));
        advance(SOON);
        let keeper = spawn({
            let quota = quota.clone();
            move || quota.allow(1, None)
        });
        drop(held);
        drop(pool.get().unwrap());
        keeper.join().unwrap();
        assert_eq!(server.books().opened, 2);
        server::finish(&pool, &server);
    });
}

/// FLEET-03: a caller closes what has aged, and is handed a connection meanwhile. As it comes for it the lease
/// has ended, and another has begun or not.
#[test]
fn what_is_handed_over_before_its_lease_ends_is_not_lent_after_it() {
    for begins_another in [false, true] {
        check(move || {
            sync::limit_spawns(1);
            rest_for_ever();
            let quota = Quota::new();
            let idle_order = IdleOrder::Fifo; // Without places it is in the queue by then.
            let config = Config { max_idle_time: SOON, idle_order, ..never_due(2) };
            let (pool, server) = pool_under(&quota, config);
            quota.allow(2, None);
            let [held, aged] = [(); 2].map(|()| pool.get().unwrap());
            // Not sooner: see above.
            quota.allow(2, Some(now().after(3 * SOON).unwrap().into()));
            drop(aged);
            advance(SOON);
            server.fall_silent(true);
            let caller =
                spawn_with(&pool, |pool| pool.get_timeout(9 * SOON).ok().map(|c| c.number));
            server.await_hanging();
            drop(held);
            advance(2 * SOON);
            if begins_another {
                quota.allow(2, None);
            }
            server.fall_silent(false);
            assert_ne!(caller.join().unwrap(), Some(1));
            server::finish(&pool, &server);
        });
    }
}
