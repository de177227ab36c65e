//! The whole `Pool`.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use latebind::Backoff;
use latebind::Breaker;
use latebind::Cancel;
use latebind::DialRule;
use latebind::GetError;
use latebind::OnDialFailure;
use latebind::OwnedConnection;
use latebind::Pool;
use latebind_testing::Act;
use latebind_testing::Hook;
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
use super::server::Server;

impl Front for Pool<Server> {
    type Holder = Self;

    fn get(
        &self,
        _key: u8,
        limit: Duration,
        cancel: Option<&Cancel>,
    ) -> Result<OwnedConnection<Server>, GetError<Injected>> {
        let checkout = self.checkout().timeout(limit);
        cancel.into_iter().fold(checkout, |checkout, cancel| checkout.cancel(cancel)).get_owned()
    }

    fn try_get(&self, _key: u8) -> Result<OwnedConnection<Server>, GetError<Injected>> {
        self.try_get_owned()
    }
}

/// One run, which draws everything from the simulation's seed.
pub(crate) fn a_pool_and_all_that_happens_to_it() {
    let most = 1 + random(4) as u32;
    let books = Books::new(1, most, most);
    let (retries, max_waiting) = (once_in(6), one_of(&[u32::MAX, u32::MAX, u32::MAX, 0, 1]));
    let mut temper = some_temper();
    if retries {
        // Callers that retry in vain for an hour of the simulation's time would take a minute of ours.
        temper.dial_fails = temper.dial_fails.min(0.6);
    }
    let server = Server::new(&books, 0, temper);
    let script = server.script();
    let on_dial_failure = match () {
        () if retries => OnDialFailure::Retry(Backoff::default()),
        () if once_in(2) => OnDialFailure::Fail,
        () => OnDialFailure::AwaitReturn,
    };
    let max_idle = if once_in(3) { random(u64::from(most) + 1) as u32 } else { most };
    let mut builder = Pool::builder(server)
        .max_open(most)
        .max_idle(max_idle)
        .min_idle(if once_in(3) { random(u64::from(max_idle) + 1) as u32 } else { 0 })
        .max_waiting(max_waiting)
        .dial_rule(one_of(&[DialRule::Adaptive, DialRule::Eager]))
        .on_dial_failure(on_dial_failure)
        .breaker(one_of(&[None, None, Some(Breaker::new(2, 20 * MILLISECOND))]))
        .check_after(one_of(&[Duration::ZERO, MILLISECOND, 60 * MILLISECOND, Duration::MAX]))
        .close_timeout(HOUR)
        .retire_on_panic(true);
    if once_in(3) {
        builder = builder.max_idle_time(one_of(&[5, 50]) * MILLISECOND);
    }
    if once_in(3) {
        builder = builder.max_lifetime(one_of(&[5, 50]) * MILLISECOND);
    }
    if once_in(3) {
        builder = builder.leak_after(10 * MILLISECOND);
    }
    if once_in(3) {
        builder = builder.max_dialing(1);
    }
    let pool = builder.build().unwrap();

    let expected = Expected { may_be_full: max_waiting < u32::MAX, may_pause: retries };
    let crowd = Crowd::new(pool.clone(), books.clone(), 1, expected);
    let (watched, seen) = (pool.clone(), books.clone());
    let done = crowd.done.clone();
    crowd.watch(move || {
        let seen = seen.seen(0);
        let nothing_is_on = seen.held + seen.busy + seen.dialing == 0;
        let is_suspended = done.is_suspended.load(SeqCst);
        assert!(
            seen.asking == 0 || !nothing_is_on || expected.may_pause || is_suspended,
            "NO-STRANDED-WAITER: callers wait for nothing: {seen:?}, {}",
            watched.recent_stats(),
        );
    });
    let callers = crowd.come(1 + random(4), 1 + random(5));

    let controls = Urn::new(12);
    for _ in 0..random(6) {
        simulation::sleep(MILLISECOND.mul_f64(random(30_000) as f64 / 1000.0));
        match controls.draw() {
            1 => crowd.flush(|| pool.flush()),
            2 => {
                crowd.done.was_suspended.store(true, SeqCst);
                crowd.done.is_suspended.store(true, SeqCst);
                pool.suspend();
                simulation::sleep(MILLISECOND * one_of(&[0, 1, 50]));
                pool.resume();
                crowd.done.is_suspended.store(false, SeqCst);
            }
            3 => pool.resize(1 + random(most.into()) as u32).unwrap(),
            4 => {
                let most = u64::from(pool.stats().max_open);
                pool.reconfigure().max_idle(random(most + 1) as u32).min_idle(0).apply().unwrap();
            }
            5 => drop(pool.warm_up(1 + random(most.into()) as u32)),
            6 => pool.dialer().break_all(),
            7 => {
                script.always(Hook::Dial, Act::Fail);
                simulation::sleep(MILLISECOND * one_of(&[1, 50, 500]));
                script.always(Hook::Dial, Act::Proceed);
            }
            8 => crowd.flush(|| pool.retire_where(|_| true)),
            9 => crowd.cancel(),
            10 => drop((pool.stats(), pool.holders(), pool.histograms())),
            11 => drop(pool.ping(MILLISECOND * 5)),
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
    let (stats, seen) = (pool.stats(), books.seen(0));
    assert_eq!(stats.open() + stats.waiting, 0, "{stats}");
    assert_eq!((seen.open, seen.dialing), (0, 0), "{seen:?}");
    assert_eq!(stats.dials_total, books.dials());
    assert_eq!(stats.dials_total, stats.dialed_total + stats.dial_failed_total);
    assert_eq!(stats.dialed_total, stats.retired_total + stats.detached_total);
}

#[test]
fn a_pool_keeps_its_promises_whatever_happens() {
    super::explore("pool", a_pool_and_all_that_happens_to_it);
}
