//! A pool under a quota: who waits for it, what it takes back, and what becomes of the loans when its lease
//! ends.

use std::array;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Act, Gate, LONG, SHORT, Scripted, await_rest, await_that, await_waiting, finishes, pool,
    pool_that,
};
use latebind::{
    CloseReason, ConfigError, Demand, Event, GetError, KeyedPool, OwnedConnection, Pool, Quota,
};

/// FLEET-01: a keeper on another thread hears of the caller, and serves it.
#[test]
fn a_caller_waits_for_the_quota_and_its_keeper_hears_of_it() {
    let quota = Quota::new();
    let (pool, server) = pool(|it| it.quota(&quota));
    finishes(move || {
        let keeper = thread::spawn({
            let quota = quota.clone();
            move || {
                let demand = quota.demand_after(&Demand::default(), Instant::now() + LONG);
                assert_eq!((demand.open, demand.wanted), (0, 1));
                assert!(demand.waiting_since.is_some());
                quota.allow(1, None);
            }
        });
        drop(pool.get().unwrap());
        keeper.join().unwrap();
        let demand = quota.demand();
        assert_eq!((demand.open, demand.idle, demand.wanted), (1, 1, 0));
        let held = pool.get().unwrap();
        let demand = quota.demand();
        assert_eq!((demand.open, demand.idle, demand.wanted), (1, 0, 0));
        drop(held);
        await_rest(&pool, &server);
    });
}

/// FLEET-01: what rests is no need of anybody's.
#[test]
fn a_keeper_waits_until_its_deadline_while_nobody_needs_a_slot() {
    let quota = Quota::new();
    let (pool, _server) = pool(|it| it.quota(&quota));
    quota.allow(1, None);
    let held = pool.get().unwrap();
    let (begun, seen) = (Instant::now(), quota.demand());
    drop(held);
    let demand = quota.demand_after(&seen, begun + SHORT);
    assert!(begun.elapsed() >= SHORT);
    assert_eq!((demand.open, demand.idle, demand.wanted), (1, 1, 0));
}

/// REASON: the error says whose limit it is, as text and as data.
#[test]
fn a_caller_who_gave_up_is_told_that_the_fleet_has_no_slot() {
    let quota = Quota::new();
    let (pool, _server) = pool(|it| it.quota(&quota));
    quota.allow(1, None);
    let held = pool.get().unwrap();
    let error = pool.get_timeout(SHORT).unwrap_err();
    assert!(error.to_string().contains("no slot left of the fleet's quota"), "{error}");
    let GetError::Exhausted { stats, .. } = error else { panic!("{error}") };
    assert!(stats.stalled && stats.stalled_by_quota);
    drop(held);
}

/// FLEET-02: the numbers of the server, not of the pool.
#[test]
fn what_a_quota_takes_back_is_closed_the_idle_first() {
    let quota = Quota::new();
    let (pool, server) = pool(|it| it.quota(&quota));
    quota.allow(3, None);
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    pool.warm_up(3).unwrap();
    quota.allow(2, None);
    assert_eq!((server.alive(), quota.demand().open), (2, 2));
    quota.allow(1, None);
    assert_eq!(server.alive(), 2, "both are in use");
    let [one, other] = held;
    drop(one);
    assert_eq!(server.alive(), 1);
    drop(other);
    assert_eq!((server.alive(), pool.stats().retired_by[CloseReason::Evicted]), (1, 2));
}

/// FLEET-02: callers who wait do not keep what the fleet wants back.
#[test]
fn what_a_quota_takes_back_is_closed_although_somebody_waits() {
    let quota = Quota::new();
    let (pool, server) = pool(|it| it.quota(&quota));
    quota.allow(2, None);
    let (one, other) = (pool.get_owned().unwrap(), pool.get_owned().unwrap());
    finishes(move || {
        let caller = thread::spawn({
            let pool = pool.clone();
            move || drop(pool.get().unwrap())
        });
        await_waiting(&pool, 1);
        quota.allow(1, None);
        drop(one);
        assert_eq!((server.alive(), pool.stats().waiting), (1, 1));
        drop(other);
        caller.join().unwrap();
        assert_eq!(server.dials(), 2, "nothing was dialed beyond the quota");
    });
}

/// FLEET-03: a connection that was open when the lease ended is never lent again.
#[test]
fn nothing_is_lent_after_its_lease_has_ended() {
    let quota = Quota::new();
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&reasons);
    let (pool, server) = pool(|it| {
        it.quota(&quota).observer(move |event| {
            if let Event::Closed { reason, .. } = event {
                seen.lock().unwrap().push(*reason);
            }
        })
    });
    quota.allow(2, None);
    let held = pool.get().unwrap();
    pool.warm_up(2).unwrap();
    let end = Instant::now() + Duration::from_millis(50);
    quota.allow(2, Some(end));
    await_that("the lease has ended", || Instant::now() > end);
    assert!(pool.try_get().is_err(), "one was idle");
    drop(held);
    // The idle one may be closed by a thread that looks after connections at rest.
    await_that("both are closed", || server.alive() == 0 && reasons.lock().unwrap().len() == 2);
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::LeaseEnded; 2]);
    assert_eq!(pool.stats().retired_by[CloseReason::LeaseEnded], 2);
    assert!(pool.get_timeout(SHORT).is_err(), "and nothing is dialed");
    quota.allow(1, None);
    drop(pool.get().unwrap());
    assert_eq!(server.dials(), 3);
}

/// FLEET-03: nobody calls, and what rests is closed all the same.
#[test]
fn what_rests_when_its_lease_ends_is_closed_by_itself() {
    let quota = Quota::new();
    let (pool, server) = pool(|it| it.quota(&quota));
    quota.allow(2, None);
    pool.warm_up(2).unwrap();
    quota.allow(2, Some(Instant::now() + Duration::from_millis(50)));
    await_that("both are closed", || server.alive() == 0);
}

/// FLEET-03: a borrower who waits for its peer is cut off, and the server sees the connection end.
#[test]
#[cfg(feature = "net")]
fn a_loan_that_outlasts_its_lease_is_aborted() {
    outlast_a_lease(|_| ());
}

/// FLEET-03: also if its pool was closed meanwhile, and is being drained.
#[test]
#[cfg(feature = "net")]
fn a_loan_of_a_closed_pool_that_outlasts_its_lease_is_aborted() {
    outlast_a_lease(|pool| pool.close());
}

/// Has a borrower wait for its peer as the lease ends, after `meanwhile`.
#[cfg(feature = "net")]
fn outlast_a_lease(meanwhile: impl FnOnce(&Pool<latebind::net::TcpDialer>) + Send + 'static) {
    use std::io::Read;

    use latebind::net::TcpDialer;

    let listener = latebind::net::listen_tcp("127.0.0.1:0").unwrap();
    let dialer = TcpDialer::from(listener.local_addr().unwrap()).abortable(true);
    let quota = Quota::new();
    let pool = Pool::builder(dialer).quota(&quota).build().unwrap();
    quota.allow(1, None);
    finishes(move || {
        let mut stream = pool.get().unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        quota.allow(1, Some(Instant::now() + Duration::from_millis(200)));
        meanwhile(&pool);
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte), Ok(0) | Err(_)), "nobody has sent anything");
        assert!(matches!(peer.read(&mut byte), Ok(0) | Err(_)), "the server sees it too");
        drop(stream);
        assert_eq!((quota.demand().open, pool.stats().open()), (0, 0));
    });
}

/// FLEET-07: the keeper gets the slot back although the close hangs and the pool is closed.
#[test]
fn a_closed_pool_gives_up_a_slot_whose_close_hangs() {
    let quota = Quota::new();
    let (pool, server) =
        pool_that(|may| may.close(true), |it| it.quota(&quota).close_timeout(SHORT));
    quota.allow(1, None);
    drop(pool.get().unwrap());
    let gate = Gate::new();
    server.on_close([gate.then(Act::Succeed)]);
    pool.close();
    await_that("the slot is given up", || quota.demand().open == 0);
    assert_eq!(server.alive(), 1, "the close still hangs");
    gate.open();
}

/// REASON: a dial whose lease ends is not said to have overrun `dial_timeout`.
#[test]
fn a_caller_whose_dial_outlasts_the_lease_is_told_that_the_lease_ended() {
    let quota = Quota::new();
    let (pool, server) = pool(|it| it.quota(&quota).dial_timeout(Duration::MAX));
    // Long enough for the dial to begin.
    quota.allow(1, Some(Instant::now() + Duration::from_secs(1)));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    let error = pool.get_timeout(LONG).unwrap_err();
    let GetError::Unreachable { failure, .. } = &error else { panic!("{error}") };
    assert!(failure.error().is_none());
    assert_eq!(failure.to_string(), "the lease of the quota ended before the dial did");
    assert_eq!(format!("{failure:?}"), "Overdue(Lease)");
    gate.open();
    await_rest(&pool, &server);
}

/// FLEET-03: a lease that is renewed in time ends nothing, however often.
#[test]
fn a_lease_that_is_renewed_in_time_closes_nothing() {
    let quota = Quota::new();
    let (pool, server) = pool(|it| it.quota(&quota));
    quota.allow(2, Some(Instant::now() + LONG));
    let held = pool.get().unwrap();
    pool.warm_up(2).unwrap();
    for renewal in 1..100 {
        quota.allow(2, Some(Instant::now() + LONG + renewal * SHORT));
        drop(pool.get().unwrap());
    }
    drop(held);
    assert_eq!((server.alive(), server.dials()), (2, 2));
}

/// FLEET-04: a server counts a connection for a while after its client has closed it.
#[test]
fn a_slot_settles_before_it_is_dialed_into_again() {
    const SETTLING: Duration = Duration::from_millis(50);
    let quota = Quota::with_settling(SETTLING);
    let (pool, server) = pool(|it| it.quota(&quota));
    quota.allow(1, None);
    let held = pool.get_owned().unwrap();
    finishes(move || {
        let caller = thread::spawn({
            let pool = pool.clone();
            move || drop(pool.get().unwrap())
        });
        await_waiting(&pool, 1);
        let keeper = thread::spawn({
            let quota = quota.clone();
            move || {
                let mut seen = quota.demand();
                while seen.wanted > 0 {
                    seen = quota.demand_after(&seen, Instant::now() + LONG);
                }
            }
        });
        let closed = Instant::now();
        OwnedConnection::discard(held);
        caller.join().unwrap();
        assert!(closed.elapsed() >= SETTLING);
        keeper.join().unwrap();
        assert_eq!(server.dials(), 2);
    });
}

/// FLEET-07: a keeper who comes once a slot has settled hears of it at once.
#[test]
fn a_slot_that_has_settled_is_another_demand() {
    const SETTLING: Duration = Duration::from_millis(1);
    let quota = Quota::with_settling(SETTLING);
    let (pool, _server) = pool(|it| it.quota(&quota));
    quota.allow(1, None);
    OwnedConnection::discard(pool.get_owned().unwrap());
    await_that("the connection is closed", || quota.demand().idle == 1);
    let closed = Instant::now();
    await_that("the slot has settled", || closed.elapsed() > SETTLING);
    let seen = quota.demand();
    assert_eq!(seen.open, 1, "nobody has looked since");
    assert_eq!(quota.demand_after(&seen, Instant::now() + LONG).open, 0);
}

#[test]
fn a_quota_bounds_one_pool_at_a_time() {
    let quota = Quota::new();
    let (dialer, _server) = Scripted::new();
    let first = Pool::builder(dialer.clone()).quota(&quota).build().unwrap();
    let second = Pool::builder(dialer.clone()).quota(&quota).build();
    assert_eq!(second.unwrap_err(), ConfigError::QuotaInUse);
    let keyed = KeyedPool::builder({
        let dialer = dialer.clone();
        move |_: &u8| dialer.clone()
    });
    assert_eq!(keyed.quota(&quota).build().unwrap_err(), ConfigError::QuotaInUse);
    drop(first);
    await_that("the first has gone", || {
        Pool::builder(dialer.clone()).quota(&quota).build().is_ok()
    });
}

/// FLEET-05: the quota of a pool that has been drained is free, whoever still has a handle of that pool, and is
/// told nothing by it any more.
#[test]
fn a_quota_bounds_the_next_pool_as_soon_as_the_first_is_drained() {
    let quota = Quota::new();
    let (dialer, server) = Scripted::new();
    let build = || Pool::builder(dialer.clone()).quota(&quota).build();
    let first = build().unwrap();
    quota.allow(2, None);
    let held = first.get_owned().unwrap();
    first.close();
    assert_eq!(build().unwrap_err(), ConfigError::QuotaInUse, "a connection of it is left");
    drop(held);
    finishes({
        let first = first.clone();
        move || assert!(first.drain(Instant::now() + LONG).is_complete())
    });
    let second = build().unwrap();
    let _held = second.get().unwrap();
    assert_eq!((first.stats().open(), quota.demand().open, server.alive()), (0, 1, 1));
    assert!(first.drain(Instant::now()).is_complete());
    assert_eq!(quota.demand().open, 1, "it is the second pool's");
    assert_eq!(build().unwrap_err(), ConfigError::QuotaInUse);
}

/// FLEET-01: the keeper hears of a caller, although somebody else waits for the pool's needs as well.
#[test]
fn all_who_wait_for_a_demand_hear_of_it() {
    let quota = Quota::new();
    let (pool, _server) = pool(|it| it.quota(&quota));
    finishes(move || {
        let waiting: [_; 3] = array::from_fn(|_| {
            let quota = quota.clone();
            thread::spawn(move || quota.demand_after(&Demand::default(), Instant::now() + 2 * LONG))
        });
        thread::scope(|scope| {
            scope.spawn(|| pool.get().map(drop));
            for thread in waiting {
                assert_eq!(thread.join().unwrap().wanted, 1);
            }
            quota.allow(1, None);
        });
    });
}

/// SHUT-01: under a quota too a closed pool says so, and counts whom it turns away.
#[test]
fn a_closed_pool_under_a_quota_turns_its_callers_away() {
    let quota = Quota::new();
    let told = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&told);
    let (pool, _server) = pool(|it| {
        it.quota(&quota).observer(move |event| {
            *seen.lock().unwrap() += u32::from(matches!(event, Event::TurnedAway { .. }));
        })
    });
    finishes(move || {
        let caller = thread::spawn({
            let pool = pool.clone();
            move || assert!(matches!(pool.get(), Err(GetError::Closed)))
        });
        await_waiting(&pool, 1);
        pool.close();
        caller.join().unwrap();
        assert!(matches!(pool.get(), Err(GetError::Closed)));
        assert_eq!(*told.lock().unwrap(), 2);
    });
}

/// FLEET-01: the keys of a pool share its quota, and the longest-waiting caller of all has the next slot.
#[test]
fn the_keys_of_a_pool_share_its_quota() {
    let quota = Quota::new();
    let (dialer, server) = Scripted::new();
    let pool = KeyedPool::builder(move |_: &u8| dialer.clone()).quota(&quota).build().unwrap();
    quota.allow(1, None);
    drop(pool.get(&1).unwrap());
    drop(pool.get(&2).unwrap());
    assert_eq!(
        (server.alive(), server.most_open.load(SeqCst)),
        (1, 1),
        "one made room for the other"
    );
    quota.allow(0, None);
    assert_eq!(server.alive(), 0);
    let stats = pool.get_timeout(&3, SHORT).unwrap_err();
    assert!(stats.to_string().contains("of the fleet's quota"), "{stats}");
}

/// FLEET-05: its keeper learns that the slots of a pool that has gone have settled, and is not told the same
/// again and again.
#[test]
fn slots_settle_although_their_pool_has_gone() {
    let quota = Quota::with_settling(SHORT);
    let (pool, server) = pool(|it| it.quota(&quota));
    quota.allow(2, None);
    let held = [(); 2].map(|()| pool.get_owned().unwrap());
    drop((held, pool));
    await_that("both are closed", || server.alive() == 0);
    finishes(move || {
        let mut seen = quota.demand();
        while seen.open > 0 {
            let next = quota.demand_after(&seen, Instant::now() + LONG);
            assert_ne!(next, seen, "it has waited for another need");
            seen = next;
        }
    });
}

/// FLEET-04: the server may count the connections of a pool for a while after its end, and those of the next
/// pool beside them.
#[test]
fn the_slots_of_a_pool_that_has_gone_settle_before_the_next_one_has_them() {
    const SETTLING: Duration = Duration::from_secs(2);
    let quota = Quota::with_settling(SETTLING);
    let (dialer, _server) = Scripted::new();
    let build = || Pool::builder(dialer.clone()).quota(&quota).build().unwrap();
    quota.allow(2, None);
    let first = build();
    let held = [(); 2].map(|()| first.get_owned().unwrap());
    let closed = Instant::now();
    drop(held);
    finishes({
        let first = first.clone();
        move || assert!(first.drain(Instant::now() + LONG).is_complete())
    });
    drop(first);
    let second = build();
    finishes(move || {
        thread::scope(|scope| {
            let caller = scope.spawn(|| {
                drop(second.get().unwrap());
                closed.elapsed()
            });
            let mut seen = Demand::default();
            while !caller.is_finished() {
                seen = quota.demand_after(&seen, Instant::now() + SHORT);
            }
            assert!(caller.join().unwrap() >= SETTLING, "the server has counted three");
        });
    });
}
