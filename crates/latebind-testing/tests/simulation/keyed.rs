//! The whole `KeyedPool`.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use latebind::Breaker;
use latebind::Cancel;
use latebind::DialRule;
use latebind::GetError;
use latebind::KeyedPool;
use latebind::OnDialFailure;
use latebind::OwnedKeyedConnection;
use latebind::signatures::Lease;
use latebind_testing::Injected;
use latebind_testing::simulation;
use latebind_testing::simulation::random;

use super::crowd::Crowd;
use super::crowd::Expected;
use super::crowd::Front;
use super::crowd::HOUR;
use super::crowd::MILLISECOND;
use super::crowd::Urn;
use super::crowd::once_in;
use super::crowd::one_of;
use super::crowd::some_temper;
use super::server::Books;
use super::server::Seen;
use super::server::Server;

type Pool = KeyedPool<u8, Server>;

impl Front for Pool {
    type Holder = Lease<u8, Server, Self>;

    fn get(
        &self,
        key: u8,
        limit: Duration,
        cancel: Option<&Cancel>,
    ) -> Result<OwnedKeyedConnection<u8, Server>, GetError<Injected>> {
        let checkout = self.checkout(&key).timeout(limit);
        cancel.into_iter().fold(checkout, |checkout, cancel| checkout.cancel(cancel)).get_owned()
    }

    fn try_get(&self, key: u8) -> Result<OwnedKeyedConnection<u8, Server>, GetError<Injected>> {
        self.try_get_owned(&key)
    }
}

/// Callers wait for slots, and what is idle elsewhere is not closed for them.
fn see_that_no_key_waits_in_vain(all: &[Seen], most: u32) {
    let under_way: u32 = all.iter().map(|seen| seen.held + seen.busy + seen.dialing).sum();
    let open: u32 = all.iter().map(|seen| seen.open).sum();
    let asking: u32 = all.iter().map(|seen| seen.asking).sum();
    let in_vain = asking > 0 && under_way == 0;
    assert!(!in_vain, "NO-STRANDED-WAITER: callers wait for nothing, {open} of {most}: {all:?}");
}

/// One run, which draws everything from the simulation's seed.
pub(crate) fn a_keyed_pool_and_all_that_happens_to_it() {
    let (keys, most, total) = (2 + random(2) as u8, 1 + random(3) as u32, 1 + random(4) as u32);
    let books = Books::new(keys, most, total);
    let (temper, owner) = (some_temper(), books.clone());
    let max_waiting = one_of(&[u32::MAX, u32::MAX, 1]);
    let mut builder = KeyedPool::builder(move |key: &u8| Server::new(&owner, *key, temper))
        .max_open(most)
        .max_open_total(total)
        .max_idle_total(if once_in(2) { total } else { random(u64::from(total) + 1) as u32 })
        .max_waiting(max_waiting)
        .dial_rule(one_of(&[DialRule::Adaptive, DialRule::Eager]))
        .on_dial_failure(one_of(&[OnDialFailure::AwaitReturn, OnDialFailure::Fail]))
        .breaker(one_of(&[None, None, Some(Breaker::new(2, 20 * MILLISECOND))]))
        .check_after(one_of(&[Duration::ZERO, MILLISECOND, 60 * MILLISECOND, Duration::MAX]))
        .close_timeout(HOUR);
    if once_in(3) {
        builder = builder.max_idle_time(one_of(&[5, 50]) * MILLISECOND);
    }
    if once_in(3) {
        builder = builder.max_lifetime(one_of(&[5, 50]) * MILLISECOND);
    }
    let pool: Pool = builder.build().unwrap();

    let expected = Expected { may_be_full: max_waiting < u32::MAX, may_pause: false };
    let crowd = Crowd::new(pool.clone(), books.clone(), keys, expected);
    let (seen, done) = (books.clone(), crowd.done.clone());
    crowd.watch(move || {
        if !done.is_suspended.load(SeqCst) {
            see_that_no_key_waits_in_vain(&seen.seen_of_all(), total);
        }
    });
    let callers = crowd.come(2 + random(4), 1 + random(5));

    let controls = Urn::new(10);
    for _ in 0..random(6) {
        simulation::sleep(MILLISECOND.mul_f64(random(30_000) as f64 / 1000.0));
        let key = random(keys.into()) as u8;
        match controls.draw() {
            1 => crowd.flush(|| pool.flush()),
            2 => pool.flush_key(&key),
            3 => pool.resize_total(1 + random(total.into()) as u32).unwrap(),
            // One that wants more than the slots that there are waits to its end, before later callers.
            4 => drop(pool.warm_up(&key, 1)),
            5 => crowd.cancel(),
            6 => drop((pool.stats(), pool.stats_of_all(), pool.holders())),
            7 => crowd.flush(|| pool.retire_where(|_| true)),
            8 => {
                crowd.done.was_suspended.store(true, SeqCst);
                crowd.done.is_suspended.store(true, SeqCst);
                pool.suspend();
                simulation::sleep(MILLISECOND * one_of(&[0, 1, 50]));
                pool.resume();
                crowd.done.is_suspended.store(false, SeqCst);
            }
            9 => pool.reconfigure().max_open(1 + random(most.into()) as u32).apply().unwrap(),
            _ => {}
        }
    }
    if once_in(3) {
        crowd.done.is_closing.store(true, SeqCst);
        pool.close();
    }
    callers.into_iter().for_each(simulation::JoinHandle::join);
    crowd.done.is_closing.store(true, SeqCst);
    let drained = pool.drain(simulation::now() + HOUR);
    assert!(drained.is_complete(), "NO-LOST-SLOT: {drained:?}");
    // A key leaves after its last connection, when its thread comes to that.
    for _ in 0..1_000 {
        if pool.stats().keys > 0 {
            simulation::sleep(MILLISECOND);
        }
    }
    let (stats, sum) = (pool.stats(), pool.stats_summed());
    assert_eq!(sum.dials_total, sum.dialed_total + sum.dial_failed_total);
    assert_eq!(sum.dialed_total, sum.retired_total + sum.detached_total);
    assert_eq!((stats.open, stats.keys), (0, 0), "{stats:?}");
    for seen in books.seen_of_all() {
        assert_eq!((seen.open, seen.dialing), (0, 0), "{seen:?}");
    }
}

#[test]
fn a_keyed_pool_keeps_its_promises_whatever_happens() {
    super::explore("keyed pool", a_keyed_pool_and_all_that_happens_to_it);
}
