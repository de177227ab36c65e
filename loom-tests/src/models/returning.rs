//! A connection comes back while callers come, wait and give up.

use loom::thread;

use super::{SOON, check};
use crate::pool::PooledConnection;
use crate::server::{assert_at_rest, pool};

/// WAK-01, WAK-14: one connection, one caller who comes as it is given back, and nobody else ever.
#[test]
fn a_caller_who_comes_during_a_return_is_served() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let caller = thread::spawn({
            let pool = pool.clone();
            move || drop(pool.get().unwrap())
        });
        drop(held);
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// WAK-06, CAN-07: one connection, given back as the only waiter's deadline passes.
#[test]
fn a_deadline_racing_a_return_loses_no_connection() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let hasty = thread::spawn({
            let pool = pool.clone();
            move || drop(pool.get_timeout(SOON))
        });
        drop(held);
        hasty.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// WAK-02: one connection, one waiter, and the holder discards what it has.
#[test]
fn a_waiter_is_served_by_a_dial_when_a_connection_is_discarded() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let caller = thread::spawn({
            let pool = pool.clone();
            move || drop(pool.get().unwrap())
        });
        PooledConnection::discard(held);
        caller.join().unwrap();
        assert!(server.books().most_open <= 1);
    });
}
