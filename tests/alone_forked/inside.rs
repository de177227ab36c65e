//! The program's code forks inside a call of a pool, and both processes go on with that call.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use latebind::{
    AbortHandle, Blocking, DialContext, Dialer, Drained, Event, GetError, IdleOrder, KeyedPool,
    Pool, PooledConnection,
};

use crate::at_each_step;
use crate::forked::{self, fork};
use crate::steps::{self, Word};

/// Where the program's code forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    IsBroken,
    Close,
    Dial,
    Abort,
    Detached,
    CloneOfKey,
    DialerFor,
    MaxOpenFor,
    /// Nowhere any more.
    Done,
}

/// The number of the place.
static PLACE: AtomicU32 = AtomicU32::new(Place::Done as u32);
static MAY_WALK: Word = Word::new();
/// How many connections were closed.
static CLOSED: AtomicU32 = AtomicU32::new(0);
/// Whether `is_broken` says so, after it has forked.
static BREAKS: AtomicBool = AtomicBool::new(false);
/// Whether a dial has begun that takes until it is aborted.
static IS_DIALING: AtomicBool = AtomicBool::new(false);

/// Forks if this is the place, once another thread has walked up to its step. Returns in the child only.
fn fork_if_at(place: Place) -> bool {
    let (it, done) = (place as u32, Place::Done as u32);
    if PLACE.compare_exchange(it, done, SeqCst, SeqCst).is_err() {
        return false;
    }
    steps::count_no_more();
    MAY_WALK.set(1);
    steps::await_stop();
    if let Some(child) = fork() {
        steps::end_as(child);
    }
    true
}

/// Numbers, whose dialer forks at the place.
struct Forking;

impl Dialer for Forking {
    type Connection = u32;
    type Error = io::Error;

    fn dial(&self, context: &DialContext) -> io::Result<u32> {
        fork_if_at(Place::Dial);
        if PLACE.load(SeqCst) == Place::Abort as u32 {
            // It takes until it is aborted, and that call forks.
            let is_aborted = Arc::new(AtomicBool::new(false));
            let abort = Arc::clone(&is_aborted);
            context.abort_with(AbortHandle::new(move || {
                fork_if_at(Place::Abort);
                abort.store(true, SeqCst);
            }));
            IS_DIALING.store(true, SeqCst);
            while !is_aborted.load(SeqCst) {
                thread::yield_now();
            }
        }
        Ok(0)
    }

    fn is_broken(&self, _: &mut u32) -> bool {
        fork_if_at(Place::IsBroken) && BREAKS.load(SeqCst)
    }

    fn close(&self, _: u32) {
        CLOSED.fetch_add(1, SeqCst);
        fork_if_at(Place::Close);
    }

    /// All is done on the thread of the call.
    fn blocking(&self) -> Blocking {
        Blocking::default().check(false)
    }
}

/// A key whose clone may fork.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key(u32);

impl Clone for Key {
    fn clone(&self) -> Self {
        fork_if_at(Place::CloneOfKey);
        Self(self.0)
    }
}

/// The pools that the program's code is called by.
struct Pools {
    pool: Pool<Forking>,
    /// One that has yet to dial.
    fresh: Pool<Forking>,
    keyed: KeyedPool<Key, Forking>,
}

impl Pools {
    fn new() -> Self {
        let threads = steps::threads();
        let pool = Pool::builder(Forking).threads(&threads);
        // By the oldest first, each loan goes by the lock.
        let pool = pool.idle_order(IdleOrder::Fifo).observer(|event| {
            if let Event::Detached { .. } = event {
                fork_if_at(Place::Detached);
            }
        });
        let pool = pool.max_idle_time(Duration::MAX).max_lifetime(Duration::MAX).build().unwrap();
        let fresh = Pool::builder(Forking).threads(&threads).max_idle_time(Duration::MAX);
        let fresh = fresh.max_lifetime(Duration::MAX).build().unwrap();
        let keyed = KeyedPool::builder(|_: &Key| {
            fork_if_at(Place::DialerFor);
            Forking
        });
        let keyed = keyed.threads(&threads).max_open_total(1).max_open_for(|_| {
            fork_if_at(Place::MaxOpenFor);
            NonZeroU32::new(1)
        });
        let keyed = keyed.max_idle_time(Duration::MAX).max_lifetime(Duration::MAX).build().unwrap();
        Self { pool, fresh, keyed }
    }

    /// What another thread does meanwhile.
    fn walk(&self) {
        drop((self.pool.holders(), self.pool.histograms()));
        self.pool.retire_where(|_| false);
        drop((self.keyed.histograms(), self.keyed.settings(), self.keyed.holders()));
        self.keyed.reconfigure().max_idle(2).apply().unwrap();
        drop(self.fresh.get().unwrap());
    }
}

/// Forks inside `call`, which comes to `place`, while another thread stands at its step of that number.
fn fork_at(place: Place, call: fn(&Pools), step: i64) -> ! {
    let pools: &Pools = Box::leak(Box::new(Pools::new()));
    drop((pools.pool.get().unwrap(), pools.pool.get().unwrap()));
    drop(pools.keyed.get(&Key(0)).unwrap());
    thread::spawn(move || {
        MAY_WALK.wait();
        steps::walk(step, || pools.walk());
    });
    PLACE.store(place as u32, SeqCst);
    call(pools);
    // The parent has ended where it forked.
    forked::exit(if PLACE.load(SeqCst) == Place::Done as u32 { 0 } else { NOT_THERE });
}

/// The exit status of a process whose call does not come to the place.
const NOT_THERE: i32 = 78;

/// A call, and the place that it comes to; the child goes on behind that.
type Call = (Place, fn(&Pools));

const CALLS: [Call; 12] = [
    (Place::IsBroken, |pools| {
        BREAKS.store(true, SeqCst);
        assert!(matches!(pools.pool.get(), Err(GetError::Closed)));
    }),
    (Place::IsBroken, |pools| {
        BREAKS.store(true, SeqCst);
        assert!(matches!(pools.pool.try_get(), Err(GetError::Closed)));
    }),
    (Place::IsBroken, |pools| drop(pools.pool.checkout().label("for a test").get())),
    (Place::Detached, |pools| {
        let _ = PooledConnection::detach(pools.pool.get().unwrap());
    }),
    (Place::Close, |pools| {
        pools.pool.close_idle();
        assert_eq!(CLOSED.load(SeqCst), 1, "the other one is its parent's");
    }),
    (Place::Close, |pools| {
        let until = Instant::now() + Duration::from_secs(60);
        assert_eq!(pools.pool.drain(until), Drained::default());
    }),
    // It makes room for another key.
    (Place::Close, |pools| assert!(matches!(pools.keyed.get(&Key(1)), Err(GetError::Closed)))),
    (Place::CloneOfKey, |pools| assert!(matches!(pools.keyed.get(&Key(1)), Err(GetError::Closed)))),
    (Place::DialerFor, |pools| assert!(matches!(pools.keyed.get(&Key(1)), Err(GetError::Closed)))),
    (Place::MaxOpenFor, |pools| assert!(matches!(pools.keyed.get(&Key(1)), Err(GetError::Closed)))),
    // On a thread of the pool's, which is the only one that the child has.
    (Place::Dial, |pools| drop(pools.fresh.get().unwrap())),
    (Place::Abort, |pools| {
        pools.pool.reconfigure().min_idle(3).apply().unwrap();
        while !IS_DIALING.load(SeqCst) {
            thread::yield_now();
        }
        pools.pool.close();
    }),
];

#[test]
fn a_child_that_is_forked_inside_a_call_goes_on_with_it() {
    let test = "inside::a_child_that_is_forked_inside_a_call_goes_on_with_it";
    forked::in_a_process(test, || {
        for (place, call) in CALLS {
            println!("{place:?}");
            at_each_step(|step| fork_at(place, call, step));
        }
    });
}
