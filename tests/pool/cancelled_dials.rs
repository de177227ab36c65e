//! Dials whose connections nobody wants any more: how they hear of it, and what their end means.

use std::convert::Infallible;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Gate, LONG, Refused, finishes, leave_a_dial, panic_quietly};
use latebind::dialers::{FnDialer, dialer_fn};
use latebind::{AbortHandle, Breaker, DialContext, Dialer, KeyedPool, Pool};

/// Counts the calls and the drops of handles.
#[derive(Clone, Default)]
struct Counts {
    calls: Arc<AtomicU32>,
    drops: Arc<AtomicU32>,
}

struct Dropped(Arc<AtomicU32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Counts {
    /// A handle that opens `gate`.
    fn opening(&self, gate: &Gate) -> AbortHandle {
        let (calls, gate) = (Arc::clone(&self.calls), gate.clone());
        let dropped = Dropped(Arc::clone(&self.drops));
        AbortHandle::new(move || {
            let _ = &dropped;
            calls.fetch_add(1, SeqCst);
            gate.open();
        })
    }

    fn now(&self) -> (u32, u32) {
        (self.calls.load(SeqCst), self.drops.load(SeqCst))
    }
}

/// Whether a dial has heard of its cancellation before it was ended, and after.
type Heard = (bool, bool);

/// A pool whose dials wait until they are ended, and then fail; and what they have heard.
fn waiting_pool(counts: &Counts) -> (Pool<FnDialer<(), Refused>>, Gate, mpsc::Receiver<Heard>) {
    let (tells, heard) = mpsc::channel();
    let (begun, counts) = (Gate::new(), counts.clone());
    begun.open();
    let arrivals = begun.clone();
    let dialer = dialer_fn(move |context: &DialContext| {
        let end = Gate::new();
        context.abort_with(counts.opening(&end));
        let before = context.is_cancelled();
        arrivals.pass();
        end.pass();
        let _ = tells.send((before, context.is_cancelled()));
        Err(Refused(0))
    });
    (Pool::builder(dialer).max_open(1).build().unwrap(), begun, heard)
}

/// SHUT-15.
#[test]
fn a_dial_hears_that_nobody_wants_its_connection_whatever_ends_its_pool() {
    finishes(|| {
        type Ends = fn(Pool<FnDialer<(), Refused>>);
        let ways: [Ends; 4] = [
            |pool| pool.close(),
            |pool| assert_eq!(pool.abort(), 0, "dials are not counted"),
            |pool| {
                pool.flush();
                pool.close();
            },
            drop,
        ];
        for end in ways {
            let counts = Counts::default();
            let (pool, begun, heard) = waiting_pool(&counts);
            // The dial goes on without its caller.
            leave_a_dial(&pool);
            begun.await_arrivals(1);
            end(pool);
            assert_eq!(heard.recv_timeout(LONG), Ok((false, true)));
            assert_eq!(counts.now(), (1, 1), "called once, and gone");
        }
    });
}

/// SHUT-15: the pool lends on, so this tells what a cancelled dial means for it.
#[test]
fn a_dial_that_a_flush_has_cancelled_is_no_failure_of_the_server() {
    finishes(|| {
        let (ended, dials) = (Gate::new(), AtomicU32::new(0));
        let end = ended.clone();
        let dialer = dialer_fn(move |context: &DialContext| {
            if dials.fetch_add(1, SeqCst) > 0 {
                return Ok(2);
            }
            let end = end.clone();
            let handle = end.clone();
            context.abort_with(AbortHandle::new(move || handle.open()));
            end.pass();
            Err(Refused(1))
        });
        let breaker = Breaker::new(1, LONG);
        let pool = Pool::builder(dialer).max_open(1).breaker(breaker).build().unwrap();
        thread::scope(|scope| {
            let caller = scope.spawn(|| *pool.get_timeout(LONG).unwrap());
            ended.await_arrivals(1);
            pool.flush();
            assert_eq!(caller.join().unwrap(), 2, "it waits for the next dial");
        });
        assert!(pool.last_dial_failure().is_none());
        let stats = pool.stats();
        assert_eq!((stats.dials_total, stats.dial_failed_total), (2, 1));
    });
}

/// SHUT-15, BOUND: the handle is called on the thread of the dial then.
#[test]
fn a_handle_that_comes_after_the_close_is_called_at_once_and_the_slot_stays_taken() {
    finishes(|| {
        let (counts, closed, checked) = (Counts::default(), Gate::new(), Gate::new());
        let (dial_counts, is_closed, is_checked) =
            (counts.clone(), closed.clone(), checked.clone());
        let dialer = dialer_fn(move |context: &DialContext| {
            is_closed.pass();
            let end = Gate::new();
            context.abort_with(dial_counts.opening(&end));
            assert_eq!(dial_counts.now(), (1, 1), "before anything else");
            end.pass();
            is_checked.pass();
            Err::<(), _>(Refused(0))
        });
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        leave_a_dial(&pool);
        closed.await_arrivals(1);
        pool.close();
        assert_eq!(counts.now(), (0, 0));
        closed.open();
        checked.await_arrivals(1);
        assert_eq!((counts.now(), pool.stats().dialing), ((1, 1), 1));
        checked.open();
        assert!(pool.drain(Instant::now() + LONG).is_complete());
        assert_eq!(counts.now(), (1, 1));
    });
}

#[test]
fn a_handle_goes_for_the_next_one_and_before_its_connection_is_lent() {
    let [first, second] = [(); 2].map(|()| Counts::default());
    let (one, two) = (first.clone(), second.clone());
    let dialer = dialer_fn(move |context: &DialContext| {
        context.abort_with(one.opening(&Gate::new()));
        assert_eq!(one.now(), (0, 0));
        context.abort_with(two.opening(&Gate::new()));
        assert_eq!((one.now(), two.now()), ((0, 1), (0, 0)));
        Ok::<_, Infallible>(two.clone())
    });
    let pool = Pool::new(dialer);
    let connection = pool.get().unwrap();
    assert_eq!(connection.now(), (0, 1));
    pool.close();
    drop(connection);
    assert_eq!((first.now(), second.now()), ((0, 1), (0, 1)), "neither is called");
}

/// NO-USER-CODE-UNDER-LOCK, I9.
#[test]
fn a_handle_may_use_the_pool_and_its_panics_cost_nothing() {
    finishes(|| {
        type Own = Pool<FnDialer<(), Refused>>;
        /// Uses the pool as it is dropped, and panics.
        struct Uses(Arc<OnceLock<Own>>);
        impl Drop for Uses {
            fn drop(&mut self) {
                let _ = self.0.get().unwrap().stats();
                panic_quietly();
            }
        }
        let (own, begun): (Arc<OnceLock<Own>>, _) = (Arc::default(), Gate::new());
        let (to_come, arrivals) = (Arc::clone(&own), begun.clone());
        let ended = Gate::new();
        let dialer = dialer_fn(move |context: &DialContext| {
            let (end, uses) = (ended.clone(), Uses(Arc::clone(&to_come)));
            context.abort_with(AbortHandle::new(move || {
                let _ = uses.0.get().unwrap().stats();
                end.open();
                panic_quietly();
            }));
            arrivals.pass();
            ended.pass();
            Err(Refused(0))
        });
        let pool = Pool::builder(dialer).max_open(1).build().unwrap();
        assert!(own.set(pool.clone()).is_ok());
        begun.open();
        leave_a_dial(&pool);
        begun.await_arrivals(1);
        pool.close();
        assert!(pool.drain(Instant::now() + LONG).is_complete());
        assert_eq!(pool.stats().panics_total, 2, "in the call, and in the drop");
    });
}

#[test]
fn a_flush_of_one_key_cancels_its_dials_and_no_others() {
    finishes(|| {
        let (ended, dials) = (Arc::<Mutex<Vec<u32>>>::default(), Arc::<AtomicU32>::default());
        let (ends, begun) = (Arc::clone(&ended), Arc::clone(&dials));
        let pool = KeyedPool::new(move |key: &u32| {
            let (key, ends, begun) = (*key, Arc::clone(&ends), Arc::clone(&begun));
            dialer_fn(move |context: &DialContext| {
                let end = Gate::new();
                let handle = end.clone();
                context.abort_with(AbortHandle::new(move || handle.open()));
                begun.fetch_add(1, SeqCst);
                end.pass();
                ends.lock().unwrap().push(key);
                Err::<(), _>(Refused(key))
            })
        });
        for key in [1, 2] {
            crate::common::await_that("it dials", || {
                pool.checkout(&key).timeout(Duration::from_millis(1)).get().unwrap_err();
                dials.load(SeqCst) == key
            });
        }
        pool.flush_key(&2);
        crate::common::await_that("one ends", || *ended.lock().unwrap() == [2]);
        assert!(pool.drain(Instant::now() + LONG).is_complete());
        assert_eq!(*ended.lock().unwrap(), [2, 1]);
    });
}

#[test]
fn a_context_by_hand_is_never_cancelled_and_keeps_no_handle() {
    let counts = Counts::default();
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let context = DialContext::until(now + 60 * second);
    context.abort_with(counts.opening(&Gate::new()));
    assert_eq!((counts.now(), context.is_cancelled()), ((0, 1), false));

    assert_eq!(context.deadline(), now + 60 * second);
    assert!(context.remaining() > 30 * second && context.remaining() <= 60 * second);
    assert_eq!(context.sooner(now + second).deadline(), now + second);
    assert_eq!(context.sooner(now + 90 * second).deadline(), context.deadline());
    assert_eq!(DialContext::until(now - second).remaining(), Duration::ZERO);

    let dialer = dialer_fn(|context: &DialContext| Ok::<_, Infallible>(context.deadline()));
    assert_eq!(dialer.dial(&context.sooner(now)), Ok(now));
}
