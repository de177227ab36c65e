//! Controls of all keys together and of one, and numbers that outlive a key.

use std::num::NonZeroU32;
use std::panic::{self, AssertUnwindSafe};
use std::sync::OnceLock;

use latebind::{Cancel, Stats};

use super::*;

/// Where `pool.get(&key)` is called for a key that is named by a `str`.
type Named = KeyedPool<String, Scripted>;

/// KEY-09.
#[test]
fn a_key_is_looked_up_by_what_it_borrows_as() {
    let pool: Named = KeyedPool::new(|_| Scripted::new().0);
    drop(pool.get("one").unwrap());
    drop(pool.get(&String::from("one")).unwrap());
    drop(pool.checkout("one").get_owned().unwrap());
    drop(pool.try_get("one").unwrap());
    assert_eq!(pool.with("one", |_| Ok::<_, GetError<Refused>>(1)).unwrap(), 1);
    let stats = pool.stats_of("one").unwrap();
    assert_eq!((stats.dials_total, stats.lent_total), (1, 5));
    assert_eq!(pool.keys(), ["one"]);
    pool.flush_key("one");
    await_that("the key has gone", || pool.stats_of("one").is_none());
    assert!(pool.keys().is_empty());
}

/// KEY-10: its own limit in place of that of all, before and after a change of that.
#[test]
fn a_key_may_have_a_limit_of_its_own() {
    let own = Arc::new(AtomicU32::new(1));
    let asked = Arc::clone(&own);
    let (pool, servers) = keyed(|b| {
        b.max_open(3).max_open_for(move |key| match key {
            1 => NonZeroU32::new(asked.load(SeqCst)),
            _ => None,
        })
    });
    let limits = || [1, 2].map(|key| pool.stats_of(&key).unwrap().max_open);
    let held = [1, 2].map(|key| pool.get(&key).unwrap());
    assert_eq!(limits(), [1, 3]);
    assert!(pool.get_timeout(&1, SHORT).is_err());
    assert_eq!(servers.of(1).dials(), 1);

    pool.reconfigure().max_open(5).apply().unwrap();
    assert_eq!(limits(), [1, 5], "its own stays");
    own.store(2, SeqCst);
    pool.reconfigure().apply().unwrap();
    assert_eq!(limits(), [2, 5], "and is asked for again");
    drop(pool.get_timeout(&1, LONG).unwrap());
    drop(held);
}

/// KEY-10: also before the key has a pool.
#[test]
fn who_only_looks_for_a_key_is_told_the_keys_own_limit() {
    let (pool, _) =
        keyed(|b| b.max_open(3).max_open_for(|key| NonZeroU32::new(if *key == 1 { 1 } else { 0 })));
    let limits = [1, 2].map(|key| match pool.try_get(&key).unwrap_err() {
        GetError::Exhausted { stats, .. } => stats.max_open,
        error => panic!("{error}"),
    });
    assert_eq!(limits, [1, 3]);
}

/// KEY-11: whichever key comes first.
#[test]
fn a_limit_that_panics_for_a_key_keeps_changed_settings_from_no_other() {
    let panics_for = Arc::new(AtomicU32::new(0));
    let asked = Arc::clone(&panics_for);
    let (pool, _) = keyed(|b| {
        b.max_open_for(move |key| {
            if *key == asked.load(SeqCst) {
                common::panic_quietly();
            }
            None
        })
    });
    let keys = [1, 2, 3];
    let held = keys.map(|key| pool.get(&key).unwrap());
    for (key, max_open) in keys.into_iter().zip(4..) {
        let before = pool.stats_of(&key).unwrap().max_open;
        panics_for.store(key, SeqCst);
        let change = || pool.reconfigure().max_open(max_open).apply();
        assert!(panic::catch_unwind(AssertUnwindSafe(change)).is_err(), "the caller hears of it");
        assert_eq!(pool.settings().max_open, max_open);
        for other in keys {
            let expected = if other == key { before } else { max_open };
            assert_eq!(pool.stats_of(&other).unwrap().max_open, expected, "key {other}");
        }
    }
    drop(held);
}

/// KEY-02: settings change as a key gets its pool, so its limit is asked for twice, and panics then.
#[test]
fn a_key_whose_limit_panics_before_its_first_caller_is_served_leaves_nothing() {
    let (itself, asked) = (Arc::new(OnceLock::<Named>::new()), AtomicU32::new(0));
    let changes = Arc::clone(&itself);
    let dialer_for = move |_: &String| {
        let pool = changes.get().unwrap();
        if pool.settings().max_open != 5 {
            pool.reconfigure().max_open(5).apply().unwrap();
        }
        Scripted::new().0
    };
    let pool = KeyedPool::builder(dialer_for)
        .max_open_for(move |_| {
            if asked.fetch_add(1, SeqCst) == 1 {
                common::panic_quietly();
            }
            None
        })
        .build()
        .unwrap();
    assert!(itself.set(pool.clone()).is_ok());
    assert!(panic::catch_unwind(AssertUnwindSafe(|| pool.get("one").map(drop))).is_err());
    assert_eq!(pool.stats().keys, 0);
    drop(pool.get("one").unwrap());
    assert_eq!(pool.stats_of("one").unwrap().max_open, 5);
}

// ---- Connections kept ready --------------------------------------------------------------------

#[test]
fn a_key_keeps_connections_ready_and_the_others_keep_none() {
    let kept = Arc::new(AtomicU32::new(2));
    let asked = Arc::clone(&kept);
    let (pool, servers) = keyed(|b| {
        b.max_idle_time(SHORT).min_idle_for(move |key| match key {
            1 => asked.load(SeqCst),
            _ => 0,
        })
    });
    for key in [1, 2] {
        drop(pool.get_timeout(&key, LONG).unwrap());
    }
    await_that("the other key has gone", || pool.keys() == [1]);
    await_that("it is kept ready", || pool.stats_of(&1).is_some_and(|stats| stats.idle == 2));
    assert_eq!((servers.alive(1), servers.alive(2)), (2, 0));

    pool.close_idle();
    await_that("it is ready again", || pool.stats_of(&1).is_some_and(|stats| stats.idle == 2));
    let held = [(); 2].map(|()| pool.get_timeout(&1, LONG).unwrap());
    await_that("what was lent is replaced", || servers.alive(1) == 4);
    drop(held);

    kept.store(0, SeqCst);
    pool.reconfigure().apply().unwrap();
    await_keys(&pool, 0);
    assert_eq!(servers.alive(1), 0);
}

#[test]
fn a_closed_key_keeps_nothing_ready_until_it_is_asked_for_again() {
    let (pool, servers) = keyed(|b| b.min_idle_for(|_| 1));
    pool.warm_up(&1, 1).unwrap();
    pool.close_key(&1);
    await_that("it is closed", || servers.alive(1) == 0);
    assert!(pool.keys().is_empty());
    KeyedConnection::discard(pool.get_timeout(&1, LONG).unwrap());
    await_that("it is ready again", || pool.stats_of(&1).is_some_and(|stats| stats.idle == 1));
    pool.close();
    await_that("nothing is kept of a closed pool", || servers.alive(1) == 0);
}

/// It is not forgotten, although nothing of it is open and nobody waits.
#[test]
fn a_key_that_is_to_be_ready_is_dialed_until_its_server_is_back() {
    let (pool, servers) = keyed(|b| b.min_idle_for(|_| 1));
    servers.of(1).on_dial([Act::Fail, Act::Fail, Act::Fail]);
    assert!(pool.get_timeout(&1, LONG).is_err());
    await_that("it is ready", || pool.stats_of(&1).is_some_and(|stats| stats.idle == 1));
    assert_eq!(servers.of(1).dials(), 4);
}

/// Two keys would otherwise close each other's connections without end.
#[test]
fn what_is_kept_ready_takes_no_slot_from_another_key() {
    let kept = Arc::new(AtomicU32::new(0));
    let asked = Arc::clone(&kept);
    let (pool, servers) =
        keyed(|b| b.max_open_total(3).min_idle_for(move |key| key % 2 * asked.load(SeqCst)));
    drop([1, 2, 3].map(|key| pool.get_timeout(&key, LONG).unwrap()));
    kept.store(2, SeqCst);
    pool.reconfigure().apply().unwrap();
    let began = Instant::now();
    await_that("both have looked for a slot more than once", || {
        began.elapsed() > Duration::from_millis(2_500)
    });
    assert_eq!([1, 2, 3].map(|key| servers.of(key).dials()), [1, 1, 1]);
    assert_eq!((pool.stats().evicted_total, pool.stats().stalled), (0, 0));

    // A caller has one of theirs closed, and they do not get the slot back from it.
    drop(pool.get_timeout(&4, LONG).unwrap());
    let began = Instant::now();
    await_that("they have looked again", || began.elapsed() > Duration::from_millis(2_500));
    let alive = [1, 2, 3].map(|key| servers.alive(key));
    assert_eq!((alive.iter().sum::<u32>(), servers.alive(4)), (2, 1), "{alive:?}");
    assert_eq!(pool.stats().evicted_total, 1);

    // A slot that nobody needs is taken.
    pool.close_key(&4);
    await_that("it is taken", || [1, 2, 3].map(|key| servers.alive(key)).iter().sum::<u32>() == 3);
    assert!(servers.most_open.load(SeqCst) <= 3, "BOUND");
}

/// KEY-11.
#[test]
fn changed_settings_reach_the_keys_that_there_are_and_those_to_come() {
    let (pool, servers) = keyed(|b| b.max_open(1));
    let held = pool.get(&1).unwrap();
    let waiting = caller(&pool, 1);
    await_that("one waits", || pool.stats_of(&1).unwrap().waiting == 1);

    let refused = pool.reconfigure().max_open(0).apply();
    assert!(matches!(refused, Err(ConfigError::TooSmall { setting: "max_open", value: 0, .. })));
    let refused = pool.reconfigure().min_idle(1).apply();
    assert!(matches!(
        refused,
        Err(ConfigError::Contradiction { setting: "min_idle", value: 1, .. })
    ));
    waiting.is_not_served();
    let before = pool.settings();
    assert_eq!((before.max_open, before.min_idle), (1, 0), "nothing is changed");

    pool.reconfigure().max_open(2).max_idle(0).get_timeout(SHORT).apply().unwrap();
    let mut expected = before;
    (expected.max_open, expected.max_idle, expected.get_timeout) = (2, Some(0), SHORT);
    assert_eq!(pool.settings(), expected);
    waiting.is_served();
    waiting.release();
    drop(held);
    await_keys(&pool, 0);
    assert_eq!(servers.alive(1), 0, "none rests");

    let held = [(); 2].map(|()| pool.get(&2).unwrap());
    let start = Instant::now();
    assert!(pool.get(&2).is_err());
    assert!(start.elapsed() < LONG, "the time limit is the new one");
    drop(held);
    await_keys(&pool, 0);
}

/// SHUT-16.
#[test]
fn what_is_idle_of_any_key_is_closed_and_nothing_else() {
    let (pool, servers) = keyed(|b| b);
    let in_use = pool.get(&1).unwrap();
    drop([pool.get(&1).unwrap(), pool.get(&2).unwrap()]);
    pool.close_idle();
    await_keys(&pool, 1);
    assert_eq!([1, 2].map(|key| servers.alive(key)), [1, 0]);
    drop(in_use);
    assert_eq!(pool.stats_of(&1).unwrap().idle, 1);
}

/// KEY-12.
#[test]
fn a_suspended_pool_lends_nothing_of_any_key_and_then_all_that_was_asked_for() {
    let (pool, servers) = keyed(|b| b);
    drop(pool.get(&1).unwrap());
    assert!(!pool.is_suspended());
    pool.suspend();
    assert!(pool.is_suspended());
    for key in [1, 2] {
        assert!(matches!(pool.try_get(&key), Err(GetError::Suspended { .. })), "{key}");
        assert!(matches!(pool.get_timeout(&key, SHORT), Err(GetError::Suspended { .. })), "{key}");
    }
    let waiting = [1, 2, 3].map(|key| caller(&pool, key));
    await_that("all wait", || pool.stats_summed().waiting == 3);
    assert_eq!([2, 3].map(|key| servers.of(key).dials()), [0, 0]);
    waiting.iter().for_each(Caller::is_not_served);
    pool.resume();
    waiting.iter().for_each(Caller::is_served);
    waiting.into_iter().for_each(Caller::release);
    assert_eq!([1, 2, 3].map(|key| servers.of(key).dials()), [1, 1, 1]);
}

#[test]
fn a_closed_pool_of_many_keys_is_not_suspended_whichever_came_first() {
    let (pool, _servers) = keyed(|b| b);
    drop(pool.get(&1).unwrap());
    pool.suspend();
    pool.close();
    assert!(!pool.is_suspended());
    pool.suspend();
    assert!(!pool.is_suspended());
    assert!(matches!(pool.try_get(&1), Err(GetError::Closed)));
}

/// KEY-12: no key that is entered at the same moment is left out.
#[test]
fn whatever_key_comes_while_the_pool_is_suspended_and_resumed_is_lent_in_the_end() {
    let lends_in_the_end = || {
        let (pool, _) = keyed(|b| b.max_idle(0));
        for round in 0..50 {
            let start = Barrier::new(3);
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    pool.suspend();
                });
                scope.spawn(|| {
                    start.wait();
                    pool.resume();
                });
                start.wait();
                // Before, between or after: it is served, or late, or as the pool is now.
                let lent = pool.get_timeout(&round, SHORT);
                assert!(matches!(
                    lent,
                    Ok(_) | Err(GetError::Suspended { .. } | GetError::Exhausted { .. })
                ));
            });
            let is_suspended = pool.is_suspended();
            let lent = pool.get_timeout(&round, if is_suspended { SHORT } else { LONG });
            assert_eq!(lent.is_err(), is_suspended);
            pool.resume();
        }
    };
    // At once, as what they do most is wait while the pool is suspended.
    finishes_within(MINUTES, move || {
        thread::scope(|scope| [(); 4].map(|()| drop(scope.spawn(lends_in_the_end))));
    });
}

/// KEY-13.
#[test]
fn connections_that_a_predicate_names_are_retired_of_all_keys() {
    let (pool, servers) = keyed(|b| b);
    for key in [1, 2] {
        let held = [(); 2].map(|()| pool.get(&key).unwrap());
        drop(held);
    }
    let held = pool.get(&1).unwrap();
    let names = (1..=2).map(|key| servers.of(key)).collect::<Vec<_>>();
    pool.retire_where(|connection| connection.key == 1);
    await_that("the idle one has gone", || names[0].alive() == 1);
    assert_eq!(names[1].alive(), 2, "none of the other key");
    drop(held);
    await_that("and the other at its return", || names[0].alive() == 0);
    drop(pool.get(&1).unwrap());
    assert_eq!(names[0].alive(), 1, "what was dialed since stays");
}

/// KEY-14.
#[test]
fn a_closed_key_starts_again_with_another_dialer_and_its_callers_wait_on() {
    let (pool, servers) = keyed(|b| b.max_open(2).max_open_total(2));
    let held = pool.get(&1).unwrap();
    drop(pool.get(&1).unwrap());
    let resting = pool.get(&1).unwrap();
    drop(resting);
    pool.close_key(&7);
    assert_eq!(servers.dialers.load(SeqCst), 1, "nothing was made of the other key");

    // Both slots are taken: the one who waits has to get the slot of what is closed.
    let second = pool.get(&1).unwrap();
    let waiting = caller(&pool, 1);
    await_that("it waits", || pool.stats_of(&1).unwrap().waiting == 1);
    pool.close_key(&1);
    // Asked of the total: to ask the key's new pool before its caller has would find it empty, and close it.
    await_that("it waits at the key's new pool", || pool.stats().stalled == 1);
    assert_eq!(servers.dialers.load(SeqCst), 2);
    waiting.is_not_served();
    drop(second);
    waiting.is_served();
    waiting.release();
    assert_eq!(servers.of(1).dials(), 3);
    drop(held);
    await_that("only the new connection is left", || servers.alive(1) == 1);
    assert_eq!(pool.stats().open, 1);
    assert_eq!(servers.dialers_alive(), 1);
}

/// KEY-15.
#[test]
fn no_total_is_lost_with_its_key() {
    let (pool, servers) = keyed(|b| b.max_open_total(50).max_idle(0));
    let mut before = Stats::default();
    for key in 0..20 {
        drop(pool.get(&key).unwrap());
        let now = pool.stats_summed();
        assert!(now.lent_total > before.lent_total && now.dialed_total > before.dialed_total);
        before = now;
    }
    await_keys(&pool, 0);
    // A guard of a key that was closed counts until it is back, and afterwards.
    let held = pool.get(&1).unwrap();
    pool.close_key(&1);
    assert_eq!(pool.stats().keys, 0);
    let stats = pool.stats_summed();
    assert_eq!((stats.in_use, stats.lent_total, stats.max_open), (1, 21, 50));
    drop(held);
    servers.of(2).on_dial([Act::Fail]);
    assert!(pool.get(&2).is_err());
    await_keys(&pool, 0);
    await_that("nothing is open", || pool.stats_summed().open() == 0);
    let stats = pool.stats_summed();
    let totals = (stats.dialed_total, stats.retired_total, stats.dial_failed_total);
    assert_eq!(totals, (21, 21, 1));
    let histograms = pool.histograms();
    let counts = [&histograms.wait, &histograms.dial, &histograms.hold].map(|it| it.count());
    assert_eq!(counts, [22, 21, 21], "with the wait that ended in an error");
}

/// KEY-15: while keys come and go on other threads, a reader never sees a total go back.
#[test]
fn under_load_totals_of_keys_that_go_only_grow() {
    let (pool, _) = keyed(|b| b.max_idle(0));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..3 {
            let (pool, is_over) = (&pool, &is_over);
            scope.spawn(move || {
                for round in 0..2_000 {
                    drop(pool.get(&(thread * 7 + round % 5)).unwrap());
                }
                is_over.store(true, SeqCst);
            });
        }
        let mut before = pool.stats_summed();
        while !is_over.load(SeqCst) {
            let now = pool.stats_summed();
            assert!(now.lent_total >= before.lent_total, "{before:?}, then {now:?}");
            assert!(now.retired_total >= before.retired_total);
            before = now;
        }
    });
    await_keys(&pool, 0);
    await_that("all of it is closed", || pool.stats_summed().open() == 0);
    let stats = pool.stats_summed();
    assert_eq!((stats.lent_total, stats.retired_total), (6_000, stats.dialed_total));
}

/// As of one pool, on connections of one key.
#[test]
fn work_that_was_not_sent_is_done_once_more_on_another_connection_of_its_key() {
    let (pool, servers) = keyed(|b| b);
    drop(pool.get(&1).unwrap());
    let mut tries = Vec::new();
    let outcome = pool.retrying(
        &1,
        |connection| {
            tries.push(connection.id);
            if tries.len() == 1 { Err(GetError::<Refused>::Cancelled) } else { Ok(connection.id) }
        },
        |_| true,
    );
    assert_eq!((outcome.unwrap(), tries), (2, vec![1, 2]));
    assert_eq!(servers.of(1).dials(), 2);
}

#[test]
fn each_checkout_of_a_key_may_have_a_label() {
    let (pool, servers) = keyed(|b| b);
    let shown =
        || pool.holders().iter().map(|(key, holder)| (*key, holder.label)).collect::<Vec<_>>();
    for _ in 0..2 {
        let first = pool.checkout(&1).label("one").get().unwrap();
        assert_eq!(shown(), [(1, Some("one"))]);
        let second = pool.checkout(&2).label("two").get_owned().unwrap();
        let mut both = shown();
        both.sort();
        assert_eq!(both, [(1, Some("one")), (2, Some("two"))]);
        drop((first, second));
        let work = |_: &mut KeyConnection| Ok::<_, GetError<Refused>>(shown());
        assert_eq!(pool.checkout(&1).label("with").with(work).unwrap(), [(1, Some("with"))]);
        let work = |_: &mut KeyConnection| Ok::<_, GetError<Refused>>(shown());
        let retried = pool.checkout(&1).label("retrying").retrying(work, |_| false);
        assert_eq!(retried.unwrap(), [(1, Some("retrying"))]);
        let held = pool.get(&1).unwrap();
        assert_eq!(shown(), [(1, None)], "the loan before it had one");
        drop(held);
    }
    assert_eq!((servers.of(1).dials(), servers.of(2).dials()), (1, 1));
}

/// CAN-01: also where its connection rests at hand.
#[test]
fn a_cancelled_checkout_of_a_key_is_lent_nothing() {
    let (pool, _servers) = keyed(|b| b);
    drop(pool.get(&1).unwrap());
    let cancel = Cancel::new();
    cancel.cancel();
    let cancelled = pool.checkout(&1).cancel(&cancel).get();
    assert!(matches!(cancelled, Err(GetError::Cancelled)));
    let stats = pool.stats_of(&1).unwrap();
    assert_eq!((stats.cancelled_total, stats.lent_total), (1, 1));
}

/// CAN-06: a deadline that has passed begins no dial.
#[test]
fn a_checkout_of_a_key_keeps_the_deadline_that_it_is_given() {
    let (pool, servers) = keyed(|b| b);
    let late = pool.checkout(&1).deadline(Instant::now()).get();
    assert!(matches!(late, Err(GetError::Exhausted { .. })));
    assert_eq!(servers.of(1).dials(), 0);
    drop(pool.checkout(&1).deadline(Instant::now() + LONG).get().unwrap());
}

/// CAN-11.
#[test]
fn the_latest_dial_that_failed_is_told_of_its_key() {
    let (pool, servers) = keyed(|b| b);
    let _held = [1, 2].map(|key| pool.get(&key).unwrap());
    let gate = Gate::new();
    servers.of(1).on_dial([gate.then(Act::Fail)]);
    await_that("a caller has left its dial behind", || {
        assert!(pool.get_timeout(&1, SHORT).is_err());
        servers.of(1).dials() == 2
    });
    gate.open();
    await_that("the dial has failed", || pool.stats_of(&1).unwrap().dial_failed_total == 1);
    let failure = pool.last_dial_failure_of(&1).expect("the last to end did");
    assert_eq!(failure.error(), Some(&Refused(2)));
    assert!(pool.last_dial_failure_of(&2).is_none());
}

/// SHUT-06.
#[test]
fn a_drain_that_gives_up_adds_up_what_is_still_open_of_all_keys() {
    let (pool, servers) = keyed(|b| b);
    let (dialing, closing) = (Gate::new(), Gate::new());
    let mut held = Vec::new();
    let [of_all, of_closes] = thread::scope(|scope| {
        for key in [1, 2] {
            held.push(pool.get(&key).unwrap());
            let discarded = pool.get(&key).unwrap();
            servers.of(key).on_close([closing.then(Act::Succeed)]);
            scope.spawn(|| Guard::discard(discarded));
            closing.await_arrivals(key);
            servers.of(key).on_dial([dialing.then(Act::Succeed)]);
            let pool = pool.clone();
            scope.spawn(move || assert!(matches!(pool.get(&key), Err(GetError::Closed))));
            dialing.await_arrivals(key);
        }
        let of_all = pool.drain(Instant::now());
        held.clear();
        dialing.open();
        let dialing = |key| pool.stats_of(&key).unwrap().dialing;
        await_that("the dials have ended", || [1, 2].map(dialing) == [0, 0]);
        await_that("what they opened is closed", || [1, 2].map(|key| servers.alive(key)) == [1, 1]);
        let of_closes = pool.drain(Instant::now());
        closing.open();
        [of_all, of_closes]
    });
    assert_eq!((of_all.in_use, of_all.dialing, of_all.closing), (2, 2, 2));
    assert_eq!(of_all.holders.len(), 2);
    assert_eq!((of_closes.in_use, of_closes.dialing), (0, 0));
    assert!(of_closes.closing >= 2 && !of_closes.is_complete());
    assert!(pool.drain(Instant::now() + LONG).is_complete());
}

/// KEY-14, SHUT-04: a connection of a key that was closed is still out.
#[test]
fn a_drain_waits_for_connections_of_a_key_that_was_closed() {
    let (pool, servers) = keyed(|b| b);
    let held = pool.get_owned(&1).unwrap();
    pool.close_key(&1);
    drop(pool.get(&2).unwrap());
    let drained = pool.drain(Instant::now() + SHORT);
    assert_eq!((drained.in_use, drained.holders.len()), (1, 1), "{drained:?}");
    drop(held);
    assert!(pool.drain(Instant::now() + LONG).is_complete());
    assert_eq!(servers.open.load(SeqCst), 0);
}

/// KEY-11: nobody is told of a change that is refused.
#[test]
fn a_change_that_is_refused_asks_for_no_keys_limit() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let (pool, _) = keyed(|b| {
        b.max_open_for(move |_| {
            count.fetch_add(1, SeqCst);
            None
        })
    });
    drop(pool.get(&1).unwrap());
    let before = asked.load(SeqCst);
    pool.reconfigure().max_open(0).apply().unwrap_err();
    assert_eq!(asked.load(SeqCst), before);
}

/// KEY-04: a bound on what is idle that was as large as the total outlives a larger total.
#[test]
fn a_total_that_grows_leaves_the_idle_total_as_it_was() {
    let (pool, servers) = keyed(|b| b.max_open_total(2).max_idle_total(2));
    pool.resize_total(4).unwrap();
    drop([1, 2, 3, 4].map(|key| pool.get(&key).unwrap()));
    await_that("two are closed", || servers.open.load(SeqCst) == 2);
}

#[test]
fn limits_of_keys_beyond_all_numbers_can_be_summed() {
    let (pool, _) = keyed(|b| b.max_open(u32::MAX));
    drop([1, 2].map(|key| pool.get(&key).unwrap()));
    let total = pool.stats().max_open;
    assert_eq!(pool.stats_summed().max_open, total);
    pool.close_key(&1);
    pool.close_key(&2);
    await_that("the keys have gone", || pool.stats().open == 0);
    assert_eq!(pool.stats_summed().max_open, total);
}

/// KEY-02: a pause that no clock can say does not end at once.
#[test]
fn a_breaker_that_never_probes_is_remembered() {
    let (pool, servers) = keyed(|b| b.breaker(latebind::Breaker::new(1, Duration::MAX)));
    drop(pool.get(&1).unwrap());
    pool.flush();
    await_that("it is closed", || servers.alive(1) == 0);
    let server = servers.of(1);
    server.refuses.store(true, SeqCst);
    for _ in 0..3 {
        pool.get(&1).unwrap_err();
    }
    assert_eq!(server.dials(), 2);
}

/// DESIGN: no setting makes a pool dial without end.
#[test]
fn keys_that_are_to_be_ready_beyond_the_idle_total_dial_no_more_than_ten_times_a_second() {
    let began = Instant::now();
    let (pool, servers) =
        keyed(|b| b.max_open_total(10).max_idle_total(1).min_idle_for(|_| 2).max_idle(4));
    drop(pool.get(&1).unwrap());
    await_that("some have been closed", || servers.of(1).dials() >= 8);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}
