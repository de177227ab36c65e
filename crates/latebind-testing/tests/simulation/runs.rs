//! A simulation by itself.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use latebind::Pool;
use latebind_testing::Gate;
use latebind_testing::Hook;
use latebind_testing::Scripted;
use latebind_testing::simulation;
use latebind_testing::simulation::Simulation;

const SECOND: Duration = Duration::from_secs(1);

/// Callers that meet at a small pool, whose dials and checks fail now and then.
fn a_busy_pool() -> u64 {
    let dialer = Scripted::new();
    let script = dialer.script();
    script.fail_rate(Hook::Dial, 0.2);
    script.fail_rate(Hook::IsBroken, 0.1);
    script.delay_up_to(Hook::Dial, Duration::from_millis(30));
    let pool = Pool::builder(dialer).max_open(2).breaker(None).build().unwrap();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            simulation::spawn(move || {
                let mut served = 0;
                for _ in 0..4 {
                    if let Ok(guard) = pool.get_timeout(Duration::from_millis(40)) {
                        simulation::sleep(Duration::from_millis(simulation::random(20)));
                        drop(guard);
                        served += 1;
                    }
                }
                served
            })
        })
        .collect();
    callers.into_iter().map(simulation::JoinHandle::join).sum()
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..30 {
        let first = Simulation::new(seed).run(a_busy_pool);
        let again = Simulation::new(seed).run(a_busy_pool);
        assert_eq!(first, again, "seed {seed}");
    }
}

#[test]
fn another_seed_is_another_run() {
    let traces: std::collections::BTreeSet<u64> =
        (0..30).map(|seed| Simulation::new(seed).run(a_busy_pool).trace).collect();
    assert_eq!(traces.len(), 30);
}

#[test]
fn ten_minutes_of_a_pool_take_no_time() {
    let begun = Instant::now();
    let told = Simulation::new(1).run(|| {
        let limit = 600 * SECOND;
        let pool = Pool::builder(Scripted::new()).max_idle_time(limit).build().unwrap();
        drop(pool.get().unwrap());
        simulation::sleep(limit - SECOND);
        assert_eq!(pool.recent_stats().idle, 1);
        simulation::sleep(5 * SECOND);
        assert_eq!(pool.recent_stats().idle, 0, "upkeep has closed it by itself");
    });
    assert!(told.time >= 604 * SECOND);
    assert!(begun.elapsed() < 60 * SECOND);
}

#[test]
fn a_deadline_passes_by_the_clock_of_the_simulation() {
    simulation::run(2, || {
        let pool = Pool::builder(Scripted::new()).max_open(1).build().unwrap();
        let held = pool.get().unwrap();
        let (begun, lag) = (simulation::now(), simulation::lag());
        assert!(pool.get_timeout(3600 * SECOND).is_err());
        let took = simulation::now() - begun;
        assert!(took >= 3600 * SECOND && took <= 3600 * SECOND + (simulation::lag() - lag));
        drop(held);
    });
}

#[test]
fn threads_that_wait_for_ever_fail_it() {
    let failure = Simulation::new(1).attempt(|| {
        let gate = Gate::new();
        simulation::spawn_named("forgotten", move || gate.pass());
    });
    let failure = failure.unwrap_err();
    assert!(failure.contains("nobody can run"), "{failure}");
    assert!(failure.contains("forgotten: waits for a bell"), "{failure}");
}

#[test]
fn a_panic_that_a_pool_catches_fails_it_unless_planned() {
    let outcome = |rate| {
        Simulation::new(4).attempt(move || {
            let dialer = Scripted::new();
            dialer.script().panic_rate(Hook::Dial, rate);
            let pool = Pool::new(dialer);
            assert_eq!(pool.get().is_err(), rate > 0.0);
        })
    };
    assert!(outcome(0.0).is_ok() && outcome(1.0).is_ok());
    let careless = Simulation::new(4).attempt(|| {
        let pool =
            Pool::builder(Scripted::new()).observer(|_| panic!("a mistake")).build().unwrap();
        drop(pool.get());
    });
    let failure = careless.unwrap_err();
    assert!(failure.contains("the pool has caught a panic: a mistake"), "{failure}");
}

#[test]
fn a_failure_comes_again_with_its_seed() {
    // For some order of its two threads, one of two additions is lost.
    let body = || {
        let sum = Arc::new(Mutex::new(0));
        let add = |sum: &Mutex<u32>| {
            let read = *sum.lock().unwrap();
            simulation::step();
            *sum.lock().unwrap() = read + 1;
        };
        let other = Arc::clone(&sum);
        let thread = simulation::spawn(move || add(&other));
        add(&sum);
        thread.join();
        assert_eq!(*sum.lock().unwrap(), 2, "an addition is lost");
    };
    let seed =
        (0..100).find(|seed| Simulation::new(*seed).attempt(body).is_err()).expect("one fails");
    let failures: Vec<_> =
        (0..2).map(|_| Simulation::new(seed).attempt(body).unwrap_err()).collect();
    assert_eq!(failures[0], failures[1]);
    assert!(failures[0].contains(&format!("seed {seed}")), "{}", failures[0]);
    assert!(failures[0].contains("an addition is lost"), "{}", failures[0]);
}
