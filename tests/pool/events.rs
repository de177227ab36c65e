//! The events that an observer gets, their order, and that nothing it does harms the pool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use latebind::{CloseReason, Event, GetError, Pool, PooledConnection};

/// Notes every event in a few words.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn observer(&self) -> impl Fn(&Event<'_, Refused>) + Send + Sync + use<> {
        let notes = self.clone();
        move |event| notes.0.lock().unwrap().push(in_words(event))
    }

    /// The notes since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Waits until `last` has been noted, and takes all.
    #[track_caller]
    fn take_until(&self, last: &str) -> Vec<String> {
        await_that(last, || self.0.lock().unwrap().iter().any(|note| note == last));
        self.take()
    }

    /// Waits until something is noted of a connection's end, and takes that alone.
    #[track_caller]
    fn take_ends(&self) -> Vec<String> {
        let is_end = |note: &String| note.starts_with("closed");
        await_that("it is closed", || self.0.lock().unwrap().iter().any(is_end));
        self.take().into_iter().filter(is_end).collect()
    }
}

fn in_words(event: &Event<'_, Refused>) -> String {
    let cause = |error: Option<&Refused>| match error {
        Some(error) => error.to_string(),
        None => "a panic".to_string(),
    };
    match event {
        Event::CheckFailed { error, .. } => format!("check failed: {}", cause(*error)),
        Event::Closed { reason, .. } => format!("closed: {reason}"),
        Event::DialFailed { failure, .. } => format!("dial failed: {failure}"),
        Event::Detached { .. } => "detached".to_string(),
        Event::Lent { waited, reused, .. } => {
            let waited = if waited.is_zero() { "at once" } else { "after a wait" };
            let reused = if *reused { "again" } else { "fresh" };
            format!("lent {reused} {waited}")
        }
        Event::Opened { .. } => "opened".to_string(),
        Event::ResetFailed { error, .. } => format!("reset failed: {}", cause(*error)),
        Event::Returned { .. } => "returned".to_string(),
        Event::TurnedAway { error, .. } => {
            let why = match error {
                GetError::Closed => "closed",
                GetError::Exhausted { .. } => "exhausted",
                GetError::QueueFull { .. } => "queue full",
                GetError::Unreachable { .. } => "unreachable",
                _ => "for another reason",
            };
            format!("turned away: {why}")
        }
        other => panic!("an event that these tests do not know: {other:?}"),
    }
}

#[test]
fn a_loan_is_told_from_its_dial_to_its_end() {
    let notes = Notes::default();
    let (pool, server) = pool(|b| b.max_open(1).observer(notes.observer()));
    let held = pool.get().unwrap();
    assert_eq!(notes.take(), ["opened", "lent fresh after a wait"]);
    drop(held);
    assert_eq!(notes.take(), ["returned"]);
    let held = pool.get().unwrap();
    assert_eq!(notes.take(), ["lent again at once"], "without the lock");
    drop(held);
    drop(pool.try_get().unwrap());
    assert_eq!(pool.stats().in_use, 0);
    assert_eq!(notes.take(), ["returned", "lent again at once", "returned"]);
    PooledConnection::discard(pool.get().unwrap());
    assert_eq!(notes.take(), ["lent again at once", "returned", "closed: discarded"]);
    drop(Connection::detach(pool.get().unwrap()));
    assert_eq!(notes.take(), ["opened", "lent fresh after a wait", "detached"]);
    await_rest(&pool, &server);
}

/// With the lock and without it.
#[test]
fn each_event_of_a_connection_names_it_and_counts_its_uses() {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&notes);
    let (pool, server) = pool(|b| {
        b.max_open(2).observer(move |event| {
            let note = match event {
                Event::Closed { id, uses, .. } => ("closed", *id, *uses),
                Event::Detached { id, .. } => ("detached", *id, 0),
                Event::Lent { id, uses, .. } => ("lent", *id, *uses),
                Event::Opened { id, .. } => ("opened", *id, 0),
                Event::Returned { id, .. } => ("returned", *id, 0),
                other => panic!("{other:?}"),
            };
            told.lock().unwrap().push(note);
        })
    });
    let take = || std::mem::take(&mut *notes.lock().unwrap());
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    let [one, two] = [&first, &second].map(PooledConnection::id);
    assert_ne!(one, two);
    assert_eq!(
        take(),
        [("opened", one, 0), ("lent", one, 1), ("opened", two, 0), ("lent", two, 1)]
    );
    assert_eq!(
        pool.holders().iter().map(|it| (it.id, it.uses)).collect::<BTreeMap<_, _>>(),
        BTreeMap::from([(one, 1), (two, 1)])
    );
    drop(first);
    PooledConnection::discard(second);
    await_rest(&pool, &server);
    assert_eq!(take(), [("returned", one, 0), ("returned", two, 0), ("closed", two, 1)]);

    for uses in 2..=4 {
        let again = pool.get().unwrap();
        assert_eq!((PooledConnection::id(&again), PooledConnection::uses(&again)), (one, uses));
        assert_eq!((pool.holders()[0].id, pool.holders()[0].uses), (one, uses));
        drop(again);
        assert_eq!(take(), [("lent", one, uses), ("returned", one, 0)]);
    }
    drop(PooledConnection::detach(pool.get().unwrap()));
    assert_eq!(take(), [("lent", one, 5), ("detached", one, 0)]);
    let third = PooledConnection::id(&pool.get().unwrap());
    assert!(third != one && third != two, "none is given twice");
}

#[test]
fn one_who_waits_for_a_return_is_told_after_it() {
    let notes = Notes::default();
    let (pool, server) = pool(|b| b.max_open(1).observer(notes.observer()));
    let held = pool.get().unwrap();
    notes.take();
    thread::scope(|scope| {
        scope.spawn(|| drop(pool.get().unwrap()));
        await_waiting(&pool, 1);
        drop(held);
    });
    assert_eq!(notes.take(), ["returned", "lent again after a wait", "returned"]);
    await_rest(&pool, &server);
}

#[test]
fn whoever_is_turned_away_is_told_of_with_the_same_error() {
    let notes = Notes::default();
    let (pool, server) = pool(|b| b.max_open(1).max_waiting(0).observer(notes.observer()));
    server.on_dial([Act::Fail]);
    assert!(pool.get().is_err());
    assert_eq!(notes.take(), ["dial failed: refused (dial 1)", "turned away: unreachable"]);
    let held = pool.get().unwrap();
    notes.take();
    assert!(pool.get().is_err());
    assert_eq!(notes.take(), ["turned away: queue full"]);
    assert!(pool.try_get().is_err());
    assert_eq!(notes.take(), ["turned away: exhausted"]);
    assert!(pool.get_timeout(Duration::ZERO).is_err());
    assert_eq!(notes.take(), ["turned away: exhausted"]);
    pool.close();
    assert!(pool.get().is_err());
    assert!(pool.try_get().is_err());
    assert_eq!(notes.take(), ["turned away: closed", "turned away: closed"]);
    drop(held);
    assert_eq!(notes.take(), ["returned", "closed: pool closed"]);
    await_rest(&pool, &server);
}

#[test]
fn times_are_told_as_they_were() {
    let times = Arc::new(Mutex::new(BTreeMap::new()));
    let observer = {
        let times = Arc::clone(&times);
        move |event: &Event<'_, Refused>| {
            let (kind, time) = match event {
                Event::Closed { age, .. } => ("age", *age),
                Event::DialFailed { took, .. } => ("failed", *took),
                Event::Lent { waited, .. } => ("waited", *waited),
                Event::Opened { took, .. } => ("took", *took),
                Event::Returned { held, .. } => ("held", *held),
                Event::TurnedAway { waited, .. } => ("in vain", *waited),
                _ => return,
            };
            let mut times = times.lock().unwrap();
            let longest: &mut Duration = times.entry(kind).or_default();
            *longest = time.max(*longest);
        }
    };
    let (pool, server) = pool(|b| b.max_open(1).observer(observer));
    let start = Instant::now();
    for act in [Act::Fail, Act::Succeed] {
        let gate = Gate::new();
        server.on_dial([gate.then(act)]);
        thread::scope(|scope| {
            scope.spawn(|| pool.get().map(PooledConnection::discard));
            gate.await_arrivals(1);
            let until = Instant::now() + 2 * SHORT;
            await_that("the dial takes a while", || Instant::now() > until);
            gate.open();
        });
    }
    let held = pool.get().unwrap();
    assert!(pool.get_timeout(2 * SHORT).is_err());
    PooledConnection::discard(held);
    let most = start.elapsed();
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 6, "{times:?}");
    for (kind, time) in &*times {
        assert!((SHORT..=most + SHORT).contains(time), "{kind}: {time:?}");
    }
    await_rest(&pool, &server);
}

#[test]
fn every_way_out_of_the_pool_has_its_reason() {
    let notes = Notes::default();
    let (pool, server) =
        pool(|b| b.max_open(1).check_after(Duration::ZERO).observer(notes.observer()));
    PooledConnection::discard(pool.get().unwrap());
    assert_eq!(notes.take_ends(), ["closed: discarded"]);

    server.on_is_broken([Act::Fail]);
    drop(pool.get().unwrap());
    assert_eq!(notes.take_ends(), ["closed: broken"], "at its return");
    drop(pool.get().unwrap());
    server.on_is_broken([Act::Fail]);
    drop(pool.get().unwrap());
    assert_eq!(notes.take_ends(), ["closed: broken"], "at its checkout");

    for (act, cause) in [(Act::Fail, "refused (dial 0)"), (Act::Panic, "a panic")] {
        server.on_check([act]);
        notes.take();
        drop(pool.get().unwrap());
        let expected = [
            format!("check failed: {cause}"),
            "closed: check failed".to_string(),
            "opened".to_string(),
            "lent fresh after a wait".to_string(),
            "returned".to_string(),
        ];
        assert_eq!(notes.take(), expected);
    }
    for (act, cause) in [(Act::Fail, "refused (dial 0)"), (Act::Panic, "a panic")] {
        server.on_reset([act]);
        let held = used(pool.get().unwrap());
        notes.take();
        drop(held);
        let expected = ["returned", &format!("reset failed: {cause}"), "closed: reset failed"];
        assert_eq!(notes.take(), expected);
    }

    let panicked = thread::spawn({
        let pool = pool.clone();
        move || {
            let _held = pool.get().unwrap();
            panic_quietly();
        }
    });
    assert!(panicked.join().is_err());
    assert_eq!(notes.take_ends(), ["closed: panicked"]);

    let held = pool.get().unwrap();
    pool.flush();
    drop(held);
    assert_eq!(notes.take_ends(), ["closed: flushed"]);

    drop(pool.get().unwrap());
    pool.close();
    assert_eq!(notes.take_ends(), ["closed: pool closed"]);
    await_rest(&pool, &server);
}

#[test]
fn what_is_more_than_may_rest_is_closed_as_surplus() {
    let notes = Notes::default();
    let (pool, server) = pool(|b| b.max_open(3).max_idle(2).observer(notes.observer()));
    let held = [pool.get().unwrap(), pool.get().unwrap(), pool.get().unwrap()];
    drop(held);
    assert_eq!(notes.take_ends(), ["closed: surplus"]);
    pool.resize(1).unwrap();
    assert_eq!(notes.take_ends(), ["closed: surplus"]);
    assert_eq!(server.alive(), 1);
}

#[test]
fn a_connection_that_comes_back_long_after_it_was_written_off_is_closed_for_the_same_reason() {
    for (flushes, expected) in [(true, "closed: flushed"), (false, "closed: check or reset late")] {
        let notes = Notes::default();
        let limit = if flushes { LONG } else { SHORT };
        let (pool, server) = pool_that(
            |blocking| blocking.reset(true),
            |b| b.max_open(1).check_timeout(limit).close_timeout(SHORT).observer(notes.observer()),
        );
        let gate = Gate::new();
        server.on_reset([gate.then(Act::Succeed)]);
        drop(used(pool.get().unwrap()));
        gate.await_arrivals(1);
        if flushes {
            pool.flush();
        }
        // Its slot has been given up, too.
        await_that("another is dialed", || pool.get_timeout(SHORT).is_ok());
        assert_eq!(pool.stats().close_timeouts_total, 1);
        notes.take();
        gate.open();
        assert_eq!(notes.take_until(expected), [expected]);
    }
}

/// STAT-05, LOCK-07.
#[test]
fn an_observer_that_panics_harms_nothing() {
    let calls = Arc::new(AtomicU32::new(0));
    let panics = {
        let calls = Arc::clone(&calls);
        move |_: &Event<'_, _>| {
            calls.fetch_add(1, SeqCst);
            panic_quietly()
        }
    };
    let (pool, server) =
        pool(|b| b.max_open(1).max_waiting(0).check_after(Duration::ZERO).observer(panics));
    server.on_dial([Act::Fail]);
    assert!(pool.get().is_err());
    let held = pool.get().unwrap();
    assert!(pool.get().is_err());
    drop(held);
    drop(pool.try_get().unwrap());
    server.on_check([Act::Fail]);
    drop(pool.get().unwrap());
    server.on_reset([Act::Fail]);
    drop(used(pool.get().unwrap()));
    PooledConnection::discard(pool.get().unwrap());
    drop(Connection::detach(pool.get().unwrap()));
    let stats = await_rest(&pool, &server);
    assert_eq!(stats.panics_total, u64::from(calls.load(SeqCst)));
    assert!(stats.panics_total > 20, "{}", stats.panics_total);
}

/// LOCK-07: nor those who are told after it.
#[test]
fn an_observer_that_panics_hides_no_event_from_the_next() {
    let notes = [(); 2].map(|()| Notes::default());
    let panics = |_: &Event<'_, _>| panic_quietly();
    let (pool, server) = pool(|b| {
        b.observer(notes[0].observer())
            .observer(panics)
            .observer(panics)
            .observer(notes[1].observer())
    });
    drop(pool.get().unwrap());
    pool.flush();
    let stats = await_rest(&pool, &server);
    let [first, last] = notes.map(|notes| notes.0.lock().unwrap().clone());
    assert_eq!(first, last);
    assert!(first.len() >= 4, "opened, lent, returned, closed: {first:?}");
    assert_eq!(stats.panics_total, 2 * first.len() as u64);
}

/// STAT-05.
#[test]
fn an_observer_may_use_the_pool_in_every_event() {
    type Friend = Arc<Mutex<Option<Pool<Scripted>>>>;
    let (friend, met) = (Friend::default(), Arc::new(Mutex::new(BTreeSet::new())));
    let observer = {
        let (friend, met) = (Arc::clone(&friend), Arc::clone(&met));
        move |event: &Event<'_, Refused>| {
            let kind = in_words(event).split(':').next().unwrap().to_string();
            let Some(pool) = friend.lock().unwrap().clone() else { return };
            if met.lock().unwrap().insert(kind) {
                use_all(&pool);
            }
        }
    };
    let (pool, server) = pool(|b| b.max_open(2).check_after(Duration::ZERO).observer(observer));
    *friend.lock().unwrap() = Some(pool.clone());
    finishes(move || {
        let all = [
            "check failed",
            "closed",
            "detached",
            "dial failed",
            "lent again after a wait",
            "lent again at once",
            "lent fresh after a wait",
            "opened",
            "reset failed",
            "returned",
            "turned away",
        ];
        let mut rounds = 0;
        await_that("each kind of event has happened", || {
            rounds += 1;
            match rounds % 8 {
                0 => server.on_dial([Act::Fail]),
                1 => server.on_reset([Act::Fail]),
                2 => drop(pool.get_timeout(SHORT).map(Connection::detach)),
                3 => server.on_check([Act::Fail]),
                _ => {}
            }
            drop(pool.get_timeout(SHORT).map(used));
            drop(pool.try_get().map(used));
            let met = met.lock().unwrap();
            all.iter().all(|kind| met.contains(*kind))
        });
        assert!(pool.drain(Instant::now() + LONG).is_complete());
        *friend.lock().unwrap() = None;
        server
    });
}

/// Every method of a pool, as far as they end by themselves.
fn use_all(pool: &Pool<Scripted>) {
    let _ = (
        pool.stats(),
        pool.recent_stats(),
        pool.histograms(),
        pool.holders(),
        pool.clone().dialer(),
        format!("{pool:?}"),
    );
    let _ = (pool.try_get(), pool.try_get_owned());
    let now = Instant::now();
    let _ = (
        pool.get_timeout(SHORT),
        pool.checkout().timeout(SHORT).get_owned(),
        pool.get_deadline(now),
    );
    pool.resize(1).unwrap();
    pool.resize(2).unwrap();
    pool.flush();
}

/// STAT-05: closing is a use as well.
#[test]
fn an_observer_may_close_and_drain_the_pool() {
    for kind in ["opened", "lent", "returned", "closed", "dial failed", "turned away"] {
        let friend = Arc::new(Mutex::new(None::<Pool<Scripted>>));
        let observer = {
            let friend = Arc::clone(&friend);
            move |event: &Event<'_, Refused>| {
                if in_words(event).starts_with(kind) {
                    let Some(pool) = friend.lock().unwrap().take() else { return };
                    pool.close();
                    // The close that it hears of has not ended before it returns.
                    let _ = pool.drain(Instant::now() + SHORT);
                }
            }
        };
        let (pool, server) = pool(|b| b.max_open(1).observer(observer));
        *friend.lock().unwrap() = Some(pool.clone());
        finishes(move || {
            if kind == "dial failed" || kind == "turned away" {
                server.on_dial([Act::Fail]);
            }
            drop(pool.get().map(PooledConnection::discard));
            drop(pool.get());
            await_that("it is closed", || matches!(pool.try_get(), Err(GetError::Closed)));
            await_rest(&pool, &server);
            assert_eq!(server.alive(), 0);
        });
    }
}

#[test]
fn several_observers_are_told_in_the_order_in_which_they_were_set() {
    let notes = Notes::default();
    let (first, second) = (notes.clone(), notes.clone());
    let (pool, _server) = pool(|b| {
        b.max_open(1)
            .observer(move |event| {
                first.0.lock().unwrap().push(format!("first: {}", in_words(event)))
            })
            .observer(move |event| second.0.lock().unwrap().push(in_words(event)))
    });
    drop(pool.get().unwrap());
    let told = notes.take();
    assert_eq!(told.len(), 6, "{told:?}");
    for pair in told.chunks(2) {
        assert_eq!(pair[0], format!("first: {}", pair[1]));
    }
}

#[test]
fn an_observer_goes_with_its_pool() {
    let notes = Notes::default();
    let (pool, _server) = pool(|b| b.max_open(1).observer(notes.observer()));
    drop(pool.get().unwrap());
    assert_eq!(Arc::strong_count(&notes.0), 2);
    drop(pool);
    await_that("it is dropped", || Arc::strong_count(&notes.0) == 1);
}

/// STAT-01, STAT-04, BOUND as an observer sees it.
#[test]
fn the_sums_of_the_events_are_the_totals() {
    const MAX_OPEN: u32 = 3;
    #[derive(Default)]
    struct Sums {
        kinds: Mutex<BTreeMap<String, u64>>,
        open: AtomicU32,
        lent: AtomicU32,
    }
    let sums = Arc::<Sums>::default();
    let observer = {
        let sums = Arc::clone(&sums);
        move |event: &Event<'_, Refused>| {
            let words = in_words(event);
            let kind = words.strip_suffix(" (dial 0)").unwrap_or(&words);
            let kind = if kind.starts_with("dial failed") { "dial failed" } else { kind };
            let queued_in_vain = match event {
                Event::TurnedAway { waited, .. } if !waited.is_zero() => Some("queued in vain"),
                _ => None,
            };
            for kind in [Some(kind), queued_in_vain].into_iter().flatten() {
                *sums.kinds.lock().unwrap().entry(kind.to_string()).or_default() += 1;
            }
            let more = |sum: &AtomicU32| assert!(sum.fetch_add(1, SeqCst) < MAX_OPEN, "BOUND");
            let fewer = |sum: &AtomicU32| assert!(sum.fetch_sub(1, SeqCst) > 0);
            match event {
                Event::Opened { .. } => more(&sums.open),
                Event::Closed { .. } => fewer(&sums.open),
                Event::Lent { .. } => more(&sums.lent),
                Event::Returned { .. } => fewer(&sums.lent),
                Event::Detached { .. } => {
                    fewer(&sums.open);
                    fewer(&sums.lent);
                }
                _ => {}
            }
        }
    };
    let (pool, server) = pool_that(
        |blocking| blocking.check(false),
        |b| b.max_open(MAX_OPEN).max_idle(2).observer(observer),
    );
    thread::scope(|scope| {
        for seed in 0..6_u32 {
            let (pool, server) = (&pool, &server);
            scope.spawn(move || {
                for round in 0..300 {
                    let got = match (seed + round) % 4 {
                        0 => pool.try_get(),
                        1 => pool.get_timeout(Duration::from_micros(100)),
                        _ => pool.get(),
                    }
                    .map(used);
                    match (seed * 7 + round) % 23 {
                        0 => server.on_dial([Act::Fail]),
                        1 => server.on_reset([Act::Fail]),
                        2 => server.on_is_broken([Act::Fail]),
                        3 => drop(got.map(PooledConnection::discard)),
                        4 => drop(got.map(Connection::detach)),
                        5 => pool.flush(),
                        _ => thread::yield_now(),
                    }
                }
            });
        }
    });
    let stats = await_rest(&pool, &server);
    assert_eq!(stats.panics_total, 0, "BOUND, as the observer sees it");
    let kinds = sums.kinds.lock().unwrap();
    let sum = |prefix: &str| {
        kinds.iter().filter(|(kind, _)| kind.starts_with(prefix)).map(|(_, n)| n).sum::<u64>()
    };
    assert_eq!(sum("opened"), stats.dialed_total);
    assert_eq!(sum("dial failed"), stats.dial_failed_total);
    assert_eq!(sum("detached"), stats.detached_total);
    assert_eq!(sum("closed"), stats.retired_total);
    for (reason, total) in stats.retired_by.iter() {
        assert_eq!(sum(&format!("closed: {reason}")), total, "{reason}");
    }
    assert_eq!(sum("lent"), sum("returned") + sum("detached"));
    assert!(sum("lent") <= stats.lent_total && sum("lent again") <= stats.reused_total);
    let unused = stats.lent_total - sum("lent");
    assert!(unused <= sum("closed: broken"), "those that were broken at their checkout: {unused}");
    assert_eq!((sum("reset failed"), sum("check failed")), (sum("closed: reset failed"), 0));
    let open = stats.dialed_total - stats.retired_total - stats.detached_total;
    assert_eq!(open, u64::from(stats.open()));
    let histograms = pool.histograms();
    assert_eq!(histograms.wait.count(), sum("lent") + sum("queued in vain"));
    assert_eq!(histograms.dial.count(), stats.dialed_total);
    assert_eq!(histograms.hold.count(), sum("lent"));
}

/// A closure, with the connection's age and the error's type.
#[test]
fn a_closure_observes() {
    let ages = Arc::new(Mutex::new(Vec::new()));
    let (dialer, server) = Scripted::new();
    let observer = {
        let ages = Arc::clone(&ages);
        move |event: &Event<'_, Refused>| {
            if let Event::Closed { reason: CloseReason::Discarded, age, .. } = event {
                ages.lock().unwrap().push(*age);
            }
        }
    };
    let pool = Pool::builder(dialer).observer(observer).build().unwrap();
    let held = pool.get().unwrap();
    let at_least = PooledConnection::age(&held);
    PooledConnection::discard(held);
    let ages = ages.lock().unwrap().clone();
    assert!(ages.len() == 1 && ages[0] >= at_least, "{ages:?}");
    await_rest(&pool, &server);
}
