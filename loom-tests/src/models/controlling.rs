//! A pool that runs is told to go on in another way.

use std::time::Duration;

use super::{SOON, check, check_within, spawn, spawn_with};
use crate::report::error::GetError;
use crate::server::{assert_at_rest, pool};
use crate::shell::cancel::Cancel;

/// Suspend against take: what rests is lent before the suspension or after it.
#[test]
fn nobody_is_lent_anything_while_the_pool_is_suspended() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        let caller = spawn_with(&pool, |pool| {
            drop(pool.get().unwrap());
            drop(pool.get().unwrap());
        });
        pool.suspend();
        assert!(matches!(pool.try_get(), Err(GetError::Suspended { .. })));
        let before = pool.stats();
        let after = pool.stats();
        assert!(after.in_use <= before.in_use, "{before}; {after}");
        pool.resume();
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 1);
    });
}

/// Suspend against return, with a caller who waits: it is served by the return or after `resume`.
#[test]
fn who_waits_through_a_suspension_is_served() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        let suspending = spawn_with(&pool, |pool| {
            pool.suspend();
            pool.resume();
        });
        drop(held);
        caller.join().unwrap();
        suspending.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 1);
    });
}

/// Resume against a deadline: who gives up is told why, and what it did not take rests.
#[test]
fn a_deadline_racing_a_resume_loses_no_connection() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        pool.suspend();
        let caller = spawn_with(&pool, |pool| match pool.get_timeout(SOON) {
            Ok(_) | Err(GetError::Suspended { .. } | GetError::Exhausted { .. }) => {}
            Err(error) => panic!("{error}"),
        });
        pool.resume();
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// WAK-06. Cancel against grant: what is given to the caller in that moment is its own.
#[test]
fn a_cancellation_racing_a_return_loses_no_connection() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let cancel = Cancel::new();
        let caller = spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || match pool.checkout().cancel(&cancel).timeout(Duration::MAX).get() {
                Ok(_) | Err(GetError::Cancelled) => {}
                Err(error) => panic!("{error}"),
            }
        });
        let cancelling = spawn(move || cancel.cancel());
        drop(held);
        caller.join().unwrap();
        cancelling.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 1);
    });
}

/// CAN-01. Cancel against queue-up: a caller that it finds gets its verdict, and one that it does not find
/// does not wait. Nothing comes back here that could wake them.
#[test]
fn a_cancellation_finds_everyone_who_waits() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let cancel = Cancel::new();
        let caller = spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || match pool.checkout().cancel(&cancel).timeout(Duration::MAX).get() {
                Err(GetError::Cancelled) => {}
                other => panic!("{other:?}"),
            }
        });
        cancel.cancel();
        caller.join().unwrap();
        drop(held);
        assert_at_rest(&pool, &server, 1);
    });
}

/// NO-STRANDED-WAITER: the first in the queue is cancelled as a connection comes back, and the
/// second is served all the same.
#[test]
fn who_stands_behind_a_cancelled_caller_is_served() {
    check_within(2, || {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let cancel = Cancel::new();
        let first = spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || drop(pool.checkout().cancel(&cancel).timeout(Duration::MAX).get())
        });
        let second = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        drop(held);
        cancel.cancel();
        first.join().unwrap();
        second.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 1);
    });
}

/// Cancel against deadline: the caller hears of one of them, and nothing is left of it.
#[test]
fn a_cancellation_racing_a_deadline_ends_the_wait_once() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let cancel = Cancel::new();
        let caller = spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || match pool.checkout().cancel(&cancel).timeout(SOON).get() {
                Err(GetError::Cancelled | GetError::Exhausted { .. }) => {}
                other => panic!("{other:?}"),
            }
        });
        cancel.cancel();
        caller.join().unwrap();
        let stats = pool.stats();
        let ended = stats.timed_out_total + stats.cancelled_total;
        assert_eq!(ended, 1, "the caller is turned away once, before it queues or after");
        assert!((1..=2).contains(&stats.waited_total), "{stats:?}");
        drop(held);
        assert_at_rest(&pool, &server, 1);
    });
}
