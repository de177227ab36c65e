//! A pool that runs is told to go on in another way.

use loom::thread;

use super::{SOON, check};
use crate::error::GetError;
use crate::server::{assert_at_rest, pool};

/// Suspend against take: what rests is lent before the suspension or after it.
#[test]
fn nobody_is_lent_anything_while_the_pool_is_suspended() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        let caller = thread::spawn({
            let pool = pool.clone();
            move || {
                drop(pool.get().unwrap());
                drop(pool.get().unwrap());
            }
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
        let caller = thread::spawn({
            let pool = pool.clone();
            move || drop(pool.get().unwrap())
        });
        let suspending = thread::spawn({
            let pool = pool.clone();
            move || {
                pool.suspend();
                pool.resume();
            }
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
        let caller = thread::spawn({
            let pool = pool.clone();
            move || match pool.get_timeout(SOON) {
                Ok(_) | Err(GetError::Suspended { .. } | GetError::Exhausted { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        });
        pool.resume();
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}
