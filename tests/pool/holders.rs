//! Holders: each loan with its line and thread, at once, and the error of an exhausted caller.

use std::convert::Infallible;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{
    Act, Gate, LONG, Refused, SHORT, Scripted, await_rest, await_that, await_waiting,
    panic_quietly, pool, pool_that, used,
};
use latebind::{
    Blocking, Cancel, DialContext, Dialer, Event, GetError, Holders, OwnedConnection, Pool,
    PooledConnection,
};

/// The line that calls this.
#[track_caller]
fn here() -> &'static Location<'static> {
    Location::caller()
}

/// The holders of the connections as this caller was turned away.
#[track_caller]
fn holders_at<T, E: std::fmt::Debug>(outcome: Result<T, GetError<E>>) -> Holders {
    match outcome {
        Err(GetError::Exhausted { holders, .. }) => *holders,
        Err(error) => panic!("exhausted for another reason: {error:?}"),
        Ok(_) => panic!("there was a connection"),
    }
}

// ---- The list ----------------------------------------------------------------------------------

#[test]
fn every_kind_of_checkout_notes_the_line_that_made_it() {
    let (pool, server) = pool(|b| b.max_open(1));
    // The first goes by the ledger, the second is the same call with something at rest.
    for _ in 0..2 {
        let holds = |line: u32| {
            let holders = pool.holders();
            assert_eq!(holders.len(), 1);
            assert_eq!((holders[0].location.file(), holders[0].location.line()), (file!(), line));
            assert_eq!(holders[0].thread, thread::current().id());
        };
        let (held, line) = (pool.get().unwrap(), line!());
        holds(line);
        drop(held);
        let (held, line) = (pool.get_timeout(LONG).unwrap(), line!());
        holds(line);
        drop(held);
        let (held, line) = (pool.get_deadline(Instant::now() + LONG).unwrap(), line!());
        holds(line);
        drop(held);
        let (held, line) = (pool.try_get().unwrap(), line!());
        holds(line);
        drop(held);
        let (held, line) = (pool.get_owned().unwrap(), line!());
        holds(line);
        drop(held);
        let (held, line) = (pool.checkout().timeout(LONG).get_owned().unwrap(), line!());
        holds(line);
        drop(held);
        let (held, line) = (pool.try_get_owned().unwrap(), line!());
        holds(line);
        drop(held);
        assert_eq!(pool.holders(), []);
        pool.flush();
    }
    await_rest(&pool, &server);
}

/// A `check_after` of zero has every checkout go by the ledger.
#[test]
fn a_checkout_that_takes_the_lock_is_noted_too() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::ZERO));
    for _ in 0..2 {
        let (held, location) = (pool.get().unwrap(), here());
        assert_eq!(pool.holders()[0].location.line(), location.line());
        drop(held);
        assert_eq!(pool.holders(), []);
    }
    await_rest(&pool, &server);
}

#[test]
fn whoever_waited_holds_from_when_it_was_served() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    let (asked, gate) = (Instant::now(), Gate::new());
    thread::scope(|scope| {
        let (pool, gate) = (&pool, &gate);
        let waiting = scope.spawn(move || {
            let held = pool.get_timeout(LONG).unwrap();
            gate.pass();
            drop(held);
        });
        await_waiting(pool, 1);
        await_that("it has waited", || asked.elapsed() > Duration::from_millis(200));
        drop(held);
        gate.await_arrivals(1);
        let (holder, since_asked) = (pool.holders().remove(0), asked.elapsed());
        gate.open();
        assert_eq!(holder.thread, waiting.thread().id());
        assert!(holder.held < since_asked - Duration::from_millis(100), "{holder}");
    });
    await_rest(&pool, &server);
}

#[test]
fn whoever_has_held_for_longest_comes_first() {
    let (pool, server) = pool(|b| b.max_open(3));
    pool.warm_up(3).unwrap();
    let mut held = Vec::new();
    for nth in 0..3 {
        await_that("it is lent at a later tick of the clock that dates loans", || {
            let guard = (pool.get().unwrap(), here());
            let holders = pool.holders();
            let is_later = nth == 0 || holders[nth].held < holders[nth - 1].held;
            is_later.then(|| held.push(guard)).is_some()
        });
        await_that("the latest has held for a while", || {
            let holders = pool.holders();
            holders.len() == nth + 1 && holders[nth].held >= Duration::from_millis(30)
        });
    }
    let lines = |holders: &[latebind::Holder]| {
        holders.iter().map(|holder| holder.location.line()).collect::<Vec<_>>()
    };
    let holders = pool.holders();
    assert_eq!(lines(&holders), [held[0].1.line(); 3], "all on one line");
    assert!(holders[0].held > holders[1].held && holders[1].held > holders[2].held, "{holders:?}");

    drop(held.remove(0));
    assert_eq!(pool.holders().len(), 2);
    drop(held);
    await_rest(&pool, &server);
}

#[test]
fn what_is_retired_detached_or_aside_is_held_by_nobody() {
    let (pool, server) = pool_that(|b| b.reset(true), |b| b.max_open(3));
    let [discarded, detached, reset] = [(); 3].map(|()| pool.get_owned().unwrap());
    assert_eq!(pool.holders().len(), 3);
    OwnedConnection::discard(discarded);
    assert_eq!(pool.holders().len(), 2);
    let kept = common::Connection::detach(detached);
    assert_eq!(pool.holders().len(), 1);
    let gate = Gate::new();
    server.on_reset([gate.then(Act::Succeed)]);
    drop(used(reset));
    gate.await_arrivals(1);
    assert_eq!((pool.stats().in_use, pool.holders().len()), (1, 0));
    gate.open();
    drop(kept);
    await_rest(&pool, &server);
}

/// Many come and go, so that records are used again by other connections.
#[test]
fn a_connection_that_takes_the_place_of_another_starts_with_a_clean_record() {
    let (pool, server) = pool(|b| b.max_open(20));
    for round in 1..=10 {
        let held: Vec<_> = (0..20).map(|_| pool.get().unwrap()).collect();
        assert!(held.iter().all(|guard| !PooledConnection::is_reused(guard)), "round {round}");
        assert_eq!(pool.holders().len(), 20);
        held.into_iter().for_each(PooledConnection::discard);
        assert_eq!(pool.holders(), []);
        let stats = pool.stats();
        assert_eq!((stats.lent_total, stats.reused_total), (20 * round, 0));
    }
    await_rest(&pool, &server);
}

// ---- Threads -----------------------------------------------------------------------------------

#[test]
fn a_moved_guard_keeps_the_thread_of_its_checkout_and_a_thread_its_name_while_it_lives() {
    let (pool, server) = pool(|b| b.max_open(1));
    let (lent, gate) = (std::sync::mpsc::channel(), Gate::new());
    let worker = thread::Builder::new().name("worker-3".to_owned()).spawn({
        let (pool, send, gate) = (pool.clone(), lent.0, gate.clone());
        move || {
            send.send((pool.get_owned().unwrap(), here())).unwrap();
            gate.pass();
        }
    });
    let worker = worker.unwrap();
    let id = worker.thread().id();
    let (guard, location) = lent.1.recv().unwrap();

    let holder = pool.holders().remove(0);
    assert_eq!((holder.thread, holder.thread_name.as_deref()), (id, Some("worker-3")));
    assert_eq!(holder.location.line(), location.line());
    let line = holder.to_string();
    assert!(line.starts_with("held for "), "{line}");
    assert!(line.contains(" by thread \"worker-3\" since tests/pool/holders.rs:"), "{line}");

    gate.open();
    worker.join().unwrap();
    let holder = pool.holders().remove(0);
    assert_eq!((holder.thread, holder.thread_name.as_deref()), (id, None), "it has ended");
    assert!(holder.to_string().contains(&format!(" by {id:?} since ")), "{holder}");
    drop(guard);
    assert_eq!(pool.holders(), []);
    await_rest(&pool, &server);
}

/// A thread's last guard may go with its thread-local values, after the name has gone.
#[test]
fn a_thread_may_borrow_while_it_ends() {
    struct Last(Pool<Scripted>);
    impl Drop for Last {
        fn drop(&mut self) {
            let held = self.0.get_timeout(LONG).unwrap();
            assert_eq!(self.0.holders()[0].thread, thread::current().id());
            drop(held);
        }
    }
    thread_local! {
        static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) };
    }
    let (pool, server) = pool(|b| b.max_open(1));
    for borrows_before in [false, true] {
        let last = Last(pool.clone());
        thread::spawn(move || {
            LAST.set(Some(last));
            if borrows_before {
                LAST.with_borrow(|last| drop(last.as_ref().unwrap().0.get().unwrap()));
            }
        })
        .join()
        .unwrap();
    }
    assert_eq!(await_rest(&pool, &server).lent_total, 3);
}

// ---- Totals ------------------------------------------------------------------------------------

#[test]
fn loans_are_counted_while_they_last() {
    let (pool, server) = pool(|b| b.max_open(2));
    let totals = || (pool.stats().lent_total, pool.stats().reused_total);
    pool.warm_up(2).unwrap();
    assert_eq!(totals(), (0, 0));
    let first = pool.get().unwrap();
    assert_eq!(totals(), (1, 0));
    let second = pool.get().unwrap();
    assert_eq!(totals(), (2, 0));
    assert!(!PooledConnection::is_reused(&second));
    drop(second);
    let second = pool.get().unwrap();
    assert_eq!(totals(), (3, 1));
    assert!(PooledConnection::is_reused(&second));
    PooledConnection::discard(second);
    assert_eq!(totals(), (3, 1), "also of connections that have gone");
    drop(first);
    await_rest(&pool, &server);
}

#[test]
fn loans_that_the_ledger_never_saw_are_all_counted() {
    const LOANS: u64 = 1_000;
    let (pool, server) = pool(|b| b.max_open(4));
    pool.warm_up(4).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..LOANS).for_each(|_| drop(pool.get().unwrap())));
        }
    });
    let held = pool.get().unwrap();
    let stats = pool.stats();
    assert_eq!(stats.lent_total, 4 * LOANS + 1);
    assert!(stats.reused_total >= 4 * LOANS + 1 - 4, "{stats:?}");
    drop(held);
    assert_eq!(await_rest(&pool, &server).lent_total, 4 * LOANS + 1);
}

// ---- Exhausted ---------------------------------------------------------------------------------

#[test]
fn an_exhausted_caller_hears_of_the_three_who_have_held_for_longest() {
    let (pool, server) = pool(|b| b.max_open(4));
    pool.warm_up(4).unwrap();
    let held = [(); 3].map(|()| pool.get().unwrap());
    let old = here().line() - 1;
    await_that("they have held", || pool.holders()[0].held >= Duration::from_millis(50));
    let young = thread::scope(|scope| scope.spawn(|| pool.get().unwrap()).join().unwrap());

    let error = pool.get_timeout(SHORT).unwrap_err();
    let message = error.to_string();
    assert_eq!(message.matches("; held for ").count(), 3, "{message}");
    let holders = holders_at::<(), _>(Err(error));
    assert!(holders.longest.iter().all(|holder| holder.location.line() == old), "{holders:?}");
    assert!(!holders.is_self_deadlock, "one was taken by a thread that asks for nothing");
    assert_eq!(holders_at(pool.try_get()).longest.len(), 3);
    drop((held, young));
    await_rest(&pool, &server);
}

/// LOCK-06.
#[test]
fn a_thread_that_holds_the_last_and_asks_for_another_is_told_so() {
    let (pool, server) = pool(|b| b.max_open(2));
    let held = [(); 2].map(|()| pool.get().unwrap());
    for outcome in [pool.get_timeout(SHORT), pool.get_timeout(Duration::ZERO), pool.try_get()] {
        let error = outcome.unwrap_err();
        let message = error.to_string();
        assert!(
            message
                .ends_with("; every connection in use was taken by a thread that asks for another"),
            "{message}"
        );
        assert!(holders_at::<(), _>(Err(error)).is_self_deadlock);
    }
    drop(held);
    await_rest(&pool, &server);
}

/// LOCK-06.
#[test]
fn threads_that_hold_one_each_and_ask_for_another_are_told_so() {
    let (pool, server) = pool(|b| b.max_open(3));
    let held = pool.get().unwrap();
    let all_hold_one = Barrier::new(3);
    thread::scope(|scope| {
        let patient = [(); 2].map(|()| {
            scope.spawn(|| {
                let _held = pool.get().unwrap();
                all_hold_one.wait();
                pool.get_timeout(LONG).map(drop)
            })
        });
        all_hold_one.wait();
        await_waiting(&pool, 2);
        assert!(holders_at(pool.get_timeout(SHORT)).is_self_deadlock);
        assert_eq!(pool.stats().waiting, 2, "they wait still");
        drop(held);
        for thread in patient {
            thread.join().unwrap().unwrap();
        }
    });
    await_rest(&pool, &server);
}

/// LOCK-06: whoever is turned away just after another is told of those who have come since.
#[test]
fn a_thread_that_asks_as_another_has_been_turned_away_counts_among_those_who_ask() {
    for _ in 0..20 {
        let (pool, server) = pool(|b| b.max_open(2));
        let held = pool.get().unwrap();
        let turn = Barrier::new(2);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let _held = pool.get().unwrap();
                turn.wait();
                turn.wait();
                pool.get_timeout(LONG).map(drop)
            });
            turn.wait();
            let before = holders_at(pool.try_get()).is_self_deadlock;
            turn.wait();
            await_waiting(&pool, 1);
            let after = holders_at(pool.try_get()).is_self_deadlock;
            drop(held);
            other.join().unwrap().unwrap();
            assert_eq!((before, after), (false, true), "the other may give back at first");
        });
        await_rest(&pool, &server);
    }
}

/// LOCK-06: a thread that has given up is soon one that may give back.
#[test]
fn a_thread_that_no_longer_asks_does_not_count_among_those_who_ask() {
    let (pool, server) = pool(|b| b.max_open(2));
    let held = pool.get().unwrap();
    let (cancel, turn) = (Cancel::new(), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _held = pool.get().unwrap();
            assert!(pool.checkout().cancel(&cancel).timeout(LONG).get().is_err());
            turn.wait();
            turn.wait();
        });
        await_waiting(&pool, 1);
        let before = holders_at(pool.try_get()).is_self_deadlock;
        cancel.cancel();
        turn.wait();
        let given_up = Instant::now();
        await_that("a while has passed", || given_up.elapsed() > SHORT);
        let after = holders_at(pool.try_get()).is_self_deadlock;
        turn.wait();
        assert_eq!((before, after), (true, false));
    });
    drop(held);
    await_rest(&pool, &server);
}

#[test]
fn it_is_no_deadlock_while_one_in_use_may_come_back() {
    let (pool, server) = pool_that(|b| b.reset(true), |b| b.max_open(2));
    let (held, other) = (pool.get().unwrap(), pool.get().unwrap());

    // Its thread has ended without asking for another.
    let lent = thread::scope(|scope| {
        drop(other);
        await_that("it is back", || pool.stats().idle == 1);
        scope.spawn(|| pool.get().unwrap()).join().unwrap()
    });
    assert!(!holders_at(pool.get_timeout(SHORT)).is_self_deadlock);

    // Nobody's: it is being reset.
    let gate = Gate::new();
    server.on_reset([gate.then(Act::Succeed)]);
    drop(used(lent));
    gate.await_arrivals(1);
    let holders = holders_at(pool.get_timeout(SHORT));
    assert_eq!((holders.longest.len(), holders.is_self_deadlock), (1, false));
    gate.open();
    drop(held);
    await_rest(&pool, &server);
}

#[test]
fn who_is_turned_away_while_nothing_is_in_use_hears_of_no_holder() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    let holders = holders_at(pool.get_timeout(SHORT));
    assert_eq!(holders, Holders::default());
    assert_eq!(holders.to_string(), "");
    gate.open();
    await_rest(&pool, &server);
}

// ---- What need not be reset --------------------------------------------------------------------

/// Sessions that know whether they have been changed.
#[derive(Default)]
struct Tidy {
    is_asked: AtomicU32,
    resets: AtomicU32,
    panics: AtomicBool,
    blocking: Blocking,
}

#[derive(Default)]
struct Session {
    is_dirty: bool,
}

impl Dialer for Tidy {
    type Connection = Session;
    type Error = Infallible;

    fn dial(&self, _: &DialContext) -> Result<Session, Infallible> {
        Ok(Session::default())
    }

    fn is_broken(&self, _: &mut Session) -> bool {
        false
    }

    fn needs_reset(&self, session: &mut Session) -> bool {
        self.is_asked.fetch_add(1, SeqCst);
        if self.panics.load(SeqCst) {
            panic_quietly();
        }
        session.is_dirty
    }

    fn reset(&self, session: &mut Session) -> Result<(), Infallible> {
        self.resets.fetch_add(1, SeqCst);
        session.is_dirty = false;
        Ok(())
    }

    fn blocking(&self) -> Blocking {
        self.blocking
    }
}

impl Tidy {
    /// How often it was asked, and how often it has reset.
    fn counts(&self) -> (u32, u32) {
        (self.is_asked.load(SeqCst), self.resets.load(SeqCst))
    }
}

/// HEAL-10.
#[test]
fn a_connection_that_was_not_used_comes_back_without_a_reset() {
    for may_block in [false, true] {
        let (pool, server) = pool_that(|b| b.reset(may_block), |b| b.max_open(1));
        for _ in 0..3 {
            drop(pool.get().unwrap());
            drop(pool.get_owned().unwrap());
        }
        assert_eq!(server.resets.load(SeqCst), 0);
        assert_eq!(pool.stats().idle, 1, "it went to no worker");

        // Broken is broken, used or not.
        server.on_is_broken([Act::Fail]);
        drop(pool.try_get());
        assert_eq!(await_rest(&pool, &server).retired_total, 1);
    }
}

#[test]
fn a_look_and_a_change_are_both_use() {
    let (pool, server) = pool(|b| b.max_open(1));
    let connection = pool.get().unwrap();
    assert_eq!(connection.id, 1);
    drop(connection);
    assert_eq!(server.resets.load(SeqCst), 1);

    let mut connection = pool.get().unwrap();
    let _: &mut common::Connection = &mut connection;
    drop(connection);
    assert_eq!(server.resets.load(SeqCst), 2);
    await_rest(&pool, &server);
}

#[test]
fn a_dialer_may_say_that_a_used_connection_needs_no_reset() {
    for may_block in [false, true] {
        let tidy = Tidy { blocking: Blocking::default().reset(may_block), ..Tidy::default() };
        let pool = Pool::builder(tidy).max_open(1).build().unwrap();
        drop(pool.get().unwrap());
        assert_eq!(pool.dialer().counts(), (0, 0));
        drop(used(pool.get().unwrap()));
        assert_eq!((pool.dialer().counts(), pool.stats().idle), ((1, 0), 1));
        pool.get().unwrap().is_dirty = true;
        await_that("it is reset", || pool.stats().idle == 1);
        assert_eq!(pool.dialer().counts(), (2, 1));
        assert!(!pool.get().unwrap().is_dirty);
    }
}

/// LOCK-02.
#[test]
fn a_panic_of_that_answer_costs_one_connection() {
    let pool = Pool::builder(Tidy::default()).max_open(1).build().unwrap();
    pool.dialer().panics.store(true, SeqCst);
    drop(used(pool.get().unwrap()));
    let stats = pool.stats();
    assert_eq!((stats.open(), stats.retired_total, stats.panics_total), (0, 1, 1));
    pool.dialer().panics.store(false, SeqCst);
    drop(used(pool.get().unwrap()));
    assert_eq!(pool.stats().idle, 1);
}

/// While others wait for what it holds, and all of them return at once.
#[test]
fn holders_may_be_asked_for_at_any_time() {
    let (pool, server) = pool(|b| b.max_open(2));
    let start = Barrier::new(5);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..500 {
                    drop(used(pool.get_timeout(LONG).unwrap()));
                }
            });
        }
        start.wait();
        for _ in 0..500 {
            assert!(pool.holders().len() <= 2);
        }
    });
    assert_eq!(pool.holders(), []);
    assert_eq!(await_rest(&pool, &server).lent_total, 2_000);
}

// ---- Labels ------------------------------------------------------------------------------------

/// By the ledger (`check_after` of zero) and from a place: the first loan of a pool goes by the ledger anyway.
#[test]
fn a_label_is_shown_for_its_loan_and_for_no_other_of_that_connection() {
    for check_after in [Duration::ZERO, Duration::MAX] {
        let (pool, server) = pool(|b| b.max_open(1).check_after(check_after));
        let shown = || pool.holders().first().and_then(|holder| holder.label);
        for _ in 0..2 {
            let held = pool.checkout().label("overridden").label("by reference").get().unwrap();
            assert_eq!(shown(), Some("by reference"));
            let line = pool.holders()[0].to_string();
            assert!(
                line.contains("\" for \"by reference\" since tests/pool/holders.rs:"),
                "{line}"
            );
            drop(held);

            let held = pool.get().unwrap();
            assert_eq!(shown(), None, "the loan before it had one");
            let line = pool.holders()[0].to_string();
            assert_eq!(
                line.matches('"').count(),
                2,
                "the thread has a name, and nothing else: {line}"
            );
            drop(held);

            let held = pool.checkout().label("owned").timeout(LONG).get_owned().unwrap();
            assert_eq!(shown(), Some("owned"));
            drop(held);
            drop(pool.try_get().ok().inspect(|_| assert_eq!(shown(), None)));

            let work = |_: &mut common::Connection| Ok::<_, GetError<Refused>>(shown());
            assert_eq!(pool.checkout().label("with").with(work).unwrap(), Some("with"));
            assert_eq!(pool.with(work).unwrap(), None);
        }
        await_rest(&pool, &server);
    }
}

#[test]
fn both_attempts_of_a_repeated_work_have_its_label() {
    let (pool, server) = pool(|b| b.max_open(1));
    drop(pool.get().unwrap());
    let mut shown = Vec::new();
    let work = |_: &mut common::Connection| {
        shown.push(pool.holders()[0].label);
        if shown.len() == 1 { Err(GetError::Closed) } else { Ok(()) }
    };
    pool.checkout().label("repeated").retrying(work, |_: &GetError<Refused>| true).unwrap();
    assert_eq!(shown, [Some("repeated"); 2]);
    await_rest(&pool, &server);
}

#[test]
fn a_caller_who_waited_has_its_label_and_the_connection_s_next_record_has_none() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.checkout().label("first").get().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let held = pool.checkout().label("second").timeout(LONG).get().unwrap();
            let label = pool.holders()[0].label;
            PooledConnection::discard(held);
            label
        });
        await_waiting(&pool, 1);
        drop(held);
        assert_eq!(waiting.join().unwrap(), Some("second"));
    });
    // Its record is that of the one before, and its first loan has the number of a loan with a label.
    let held = pool.get().unwrap();
    assert_eq!(pool.holders()[0].label, None);
    drop(held);
    await_rest(&pool, &server);
}

#[test]
fn labels_are_in_errors_in_drains_and_in_leaks() {
    let leaks = Arc::new(Mutex::new(Vec::new()));
    let (pool, _server) = pool(|builder| {
        let leaks = Arc::clone(&leaks);
        builder.max_open(2).leak_after(SHORT).observer(move |event: &Event<'_, _>| {
            if let Event::Leaked { holder, .. } = event {
                leaks.lock().unwrap().push(holder.label);
            }
        })
    });
    let labelled = pool.checkout().label("import").get().unwrap();
    await_that("the leak is told of", || leaks.lock().unwrap().len() == 1);
    let other = pool.get().unwrap();
    await_that("the other is told of", || leaks.lock().unwrap().len() == 2);
    assert_eq!(*leaks.lock().unwrap(), [Some("import"), None]);

    let error = pool.get_timeout(SHORT).unwrap_err();
    let message = error.to_string();
    assert_eq!(message.matches(" for \"import\" since ").count(), 1, "{message}");
    let labels = |holders: Vec<latebind::Holder>| {
        holders.iter().map(|holder| holder.label).collect::<Vec<_>>()
    };
    let told = holders_at::<(), _>(Err(error)).longest;
    assert_eq!(labels(told), [Some("import"), None]);
    assert_eq!(labels(pool.drain(Instant::now()).holders), [Some("import"), None]);
    drop((labelled, other));
}

// ---- Leaks -------------------------------------------------------------------------------------

/// A loan that lasts too long is reported once, with the line that asked for it.
#[test]
fn a_loan_that_lasts_too_long_is_told_of_once() {
    let leaks = Arc::new(Mutex::new(Vec::new()));
    let (pool, server) = pool(|builder| {
        let leaks = Arc::clone(&leaks);
        builder.max_open(2).leak_after(SHORT).observer(move |event: &Event<'_, _>| {
            if let Event::Leaked { holder, .. } = event {
                leaks.lock().unwrap().push((**holder).clone());
            }
        })
    });
    let told = || leaks.lock().unwrap().len();
    let (held, line) = (pool.get().unwrap(), line!());
    await_that("the leak is told of", || told() == 1);
    let leak = leaks.lock().unwrap()[0].clone();
    assert_eq!((leak.location.file(), leak.location.line()), (file!(), line));
    assert_eq!(leak.thread, thread::current().id());
    assert!(leak.held >= SHORT, "{leak}");

    // Another that is told of later shows that time enough has passed for the first to be again.
    let other = pool.get().unwrap();
    await_that("the other leak is told of", || told() == 2);
    assert_ne!(leaks.lock().unwrap()[1].location, leak.location);
    drop((held, other));
    let again = pool.get().unwrap();
    await_that("another loan of it is another leak", || told() == 3);
    assert_eq!(pool.stats().leaked_total, 3);
    drop(again);
    await_rest(&pool, &server);
}

/// An observer that takes its time over a leak holds up neither the pool's other upkeep nor another
/// pool's.
#[test]
fn an_observer_of_leaks_that_blocks_delays_no_upkeep() {
    let gate = Gate::new();
    let blocks = gate.clone();
    let (pool, server) = pool(|builder| {
        let observer = move |event: &Event<'_, _>| {
            if let Event::Leaked { .. } = event {
                blocks.pass();
            }
        };
        builder.max_open(2).leak_after(SHORT).max_idle_time(20 * SHORT).observer(observer)
    });
    let (held, idle) = (pool.get().unwrap(), pool.get().unwrap());
    gate.await_arrivals(1);
    drop(idle);
    await_that("the idle connection is closed although nobody calls", || server.alive() == 1);
    gate.open();
    drop(held);
    await_rest(&pool, &server);
}

/// A checkout that takes no lock orders no upkeep: it is ordered already for what is idle.
#[test]
fn a_loan_that_the_ledger_never_saw_is_told_of_when_it_lasts_too_long() {
    let told = Arc::new(AtomicU32::new(0));
    let (pool, server) = pool(|builder| {
        let told = Arc::clone(&told);
        builder.max_open(1).leak_after(SHORT).observer(move |event: &Event<'_, _>| {
            told.fetch_add(u32::from(matches!(event, Event::Leaked { .. })), SeqCst);
        })
    });
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().idle, 1);
    let until = Instant::now() + 20 * SHORT;
    await_that("what was ordered while it was lent has come", || Instant::now() > until);
    let held = pool.get().unwrap();
    await_that("the leak is told of, though nobody calls the pool", || told.load(SeqCst) == 1);
    drop(held);
    await_rest(&pool, &server);
}

/// SHUT-06: who is still out when a drain gives up, and where it asked.
#[test]
fn a_drain_that_gives_up_says_who_still_holds_what() {
    let (pool, _server) = pool(|builder| builder.max_open(2));
    let (first, line) = (pool.get_owned().unwrap(), line!());
    let second = pool.get_owned().unwrap();
    let drained = pool.drain(Instant::now());
    assert_eq!((drained.in_use, drained.holders.len()), (2, 2));
    assert_eq!(drained.holders[0].location.line(), line, "longest first");
    drop((first, second));
    let drained = pool.drain(Instant::now() + LONG);
    assert!(drained.is_complete() && drained.holders.is_empty());
}
