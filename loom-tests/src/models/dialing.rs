//! Dials end, well or not, while callers come, give up and are served otherwise.

use super::{SOON, check, check_within, spawn_with};
use crate::config::Config;
use crate::dialer::Blocking;
use crate::guard::PooledConnection;
use crate::ledger::stats::Stats;
use crate::pool::Pool;
use crate::report::error::GetError;
use crate::server::{Act, Failed, Scripted, assert_at_rest, finish, never_due, pool, pool_with};

/// Whether the caller was served; if not, it was for one dial's failure.
fn was_served(outcome: Result<u32, Failed>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(GetError::Unreachable { .. }) => false,
        Err(error) => panic!("neither served nor told of a dial: {error}"),
    }
}

fn get(pool: &Pool<Scripted>) -> Result<u32, Failed> {
    pool.get().map(|connection| connection.number)
}

/// BIND-03, BIND-05, ACC-08: one waiter with a dial of its own, and a connection that comes back
/// at the same moment. It takes one, and the other comes to rest.
#[test]
fn of_two_deliveries_a_waiter_takes_one_and_the_other_rests() {
    check(|| {
        let (pool, server) = pool(2, &[]);
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| get(&pool).unwrap());
        drop(held);
        let number = caller.join().unwrap();
        assert!(number <= 2);
        assert_eq!(pool.stats().lent_total, 2);
        finish(&pool, &server);
    });
}

/// BIND-02: the same where only one may rest: the other is closed.
#[test]
fn a_dial_that_loses_and_finds_no_place_to_rest_is_closed() {
    check(|| {
        let config = Config { max_idle: Some(1), ..never_due(2) };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| get(&pool).unwrap());
        drop(held);
        caller.join().unwrap();
        let Stats { idle, dialing, .. } = pool.stats();
        assert!(idle <= 1 && idle + dialing >= 1, "max_idle holds, and nothing is lost");
        finish(&pool, &server);
    });
}

/// ACC-09, ACC-12, BIND-10: one slot. A hasty caller gives up while its dial is ordered, runs or
/// ends; a patient one adopts it.
#[test]
fn a_dial_whose_caller_has_left_serves_the_next() {
    check_within(2, || {
        let (pool, server) = pool(1, &[]);
        let hasty = spawn_with(&pool, |pool| drop(pool.get_timeout(SOON)));
        drop(pool.get().unwrap());
        hasty.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 1, "NO-DEMAND-NO-DIAL");
    });
}

/// ACC-01, ACC-02, WAK-03, BIND-04: one slot, two callers, and the first dial fails. One of them at
/// most fails for it; the other's dial begins in the freed slot, and never two at once.
#[test]
fn a_failed_dial_passes_its_slot_on_and_fails_its_own_caller_only() {
    check_within(2, || {
        let (pool, server) = pool(1, &[Act::Refuse]);
        let caller = spawn_with(&pool, |pool| was_served(get(&pool)));
        let served = [was_served(get(&pool)), caller.join().unwrap()];
        assert_eq!(served.iter().filter(|served| **served).count(), 1, "{served:?}");
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 2);
    });
}

/// ACC-09, CAN-12: one slot. The dial of a caller who gives up fails; the patient one begins
/// another and does not fail for it.
#[test]
fn the_failure_of_a_dial_whose_caller_has_left_is_nobodys() {
    check_within(2, || {
        let (pool, server) = pool(1, &[Act::Refuse, Act::Succeed, Act::Succeed]);
        let hasty = spawn_with(&pool, |pool| drop(pool.get_timeout(SOON)));
        match pool.get() {
            Ok(connection) => drop(connection),
            // It came first, and the dial was its own.
            Err(error) => assert_eq!(error.dial_error().map(|refused| refused.0), Some(1)),
        }
        hasty.join().unwrap();
        finish(&pool, &server);
    });
}

/// CAN-13, BIND-04: a waiter's own dial is refused as the connection that serves it comes back.
#[test]
fn a_refused_dial_fails_no_caller_whom_a_return_will_serve() {
    check(|| {
        let (pool, server) = pool(2, &[Act::Succeed, Act::Refuse]);
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| assert_eq!(get(&pool).unwrap(), 1));
        drop(held);
        caller.join().unwrap();
        finish(&pool, &server);
    });
}

/// REASON: a waiter's own dial is refused as the last connection in use is discarded. Nothing can
/// serve it any more, and it gets the error.
#[test]
fn a_caller_fails_with_its_dials_error_once_nothing_is_in_use() {
    check_within(2, || {
        let (pool, server) = pool(2, &[Act::Succeed, Act::Refuse]);
        let held = pool.get().unwrap();
        let caller =
            spawn_with(&pool, |pool| get(&pool).unwrap_err().dial_error().map(|refused| refused.0));
        PooledConnection::discard(held);
        assert_eq!(caller.join().unwrap(), Some(2));
        assert_at_rest(&pool, &server, 0);
    });
}

/// ACC-03, I9: one slot, two callers, and the first dial panics.
#[test]
fn a_panic_in_a_dial_loses_no_slot_and_strands_nobody() {
    check_within(2, || {
        let (pool, server) = pool(1, &[Act::Panic]);
        let caller = spawn_with(&pool, |pool| was_served(get(&pool)));
        let served = [was_served(get(&pool)), caller.join().unwrap()];
        assert_eq!(served.iter().filter(|served| **served).count(), 1, "{served:?}");
        assert_at_rest(&pool, &server, 1);
        assert_eq!(pool.stats().panics_total, 1);
    });
}

/// ACC-19, ACC-23: two slots, two callers. Each may take the other's dial; both are served, by two dials
/// at most.
#[test]
fn a_caller_whose_dial_is_taken_by_another_is_served_as_well() {
    check_within(1, || {
        let (pool, server) = pool(2, &[]);
        let caller = spawn_with(&pool, |pool| get(&pool).unwrap());
        get(&pool).unwrap();
        caller.join().unwrap();
        assert!(server.books().dials <= 2, "NO-DEMAND-NO-DIAL");
        finish(&pool, &server);
    });
}

/// ACC-18: two slots, a warm-up of both, and a caller. They claim their slots by the same path.
#[test]
fn a_warm_up_and_a_caller_share_the_slots() {
    check_within(1, || {
        let (pool, server) = pool(2, &[]);
        let caller = spawn_with(&pool, |pool| get(&pool).unwrap());
        pool.warm_up(2).unwrap();
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 2);
        assert_eq!(server.books().dials, 2, "NO-DEMAND-NO-DIAL");
    });
}

/// SHUT-12: a flush as a caller's dial runs. The caller gets what was dialed after the flush, or
/// had been served before it.
#[test]
fn a_dial_from_before_a_flush_is_not_lent_after_it() {
    check_within(2, || {
        let (pool, server) = pool(1, &[]);
        let caller = spawn_with(&pool, |pool| get(&pool).unwrap());
        let before = server.books().dials;
        pool.flush();
        assert!(get(&pool).unwrap() > before);
        caller.join().unwrap();
        finish(&pool, &server);
    });
}
