//! More pools for comparison: one for async programs, the simplest one for threads, and an upper
//! bound for all pools.

use std::cell::Cell;
use std::convert::Infallible;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use deadpool::managed;
use latebind::DialContext;
use latebind::Dialer;

use crate::support::{Dials, Peer};

/// The connection that a dialer makes.
type Dialed<D> = <D as Dialer>::Connection;

fn dialed<D: Dials>(dialer: &D) -> Dialed<D> {
    Dialer::dial(dialer, &DialContext::until(Instant::now())).unwrap_or_else(|never| match never {})
}

/// deadpool, in the cheapest way for threads: the thread is parked until the future of the loan is
/// ready. It has no time limit, because that needs the timer of a runtime.
pub(crate) struct Deadpool<D: Dials>(managed::Pool<Manager<D>>);

pub(crate) struct Manager<D>(D);

impl<D: Dials> managed::Manager for Manager<D> {
    type Type = Dialed<D>;
    type Error = Infallible;

    async fn create(&self) -> Result<Dialed<D>, Infallible> {
        Ok(dialed(&self.0))
    }

    /// It tests at each loan whether the connection is broken; the other pools test at each return.
    async fn recycle(
        &self,
        connection: &mut Dialed<D>,
        _: &managed::Metrics,
    ) -> managed::RecycleResult<Infallible> {
        match Dialer::is_broken(&self.0, connection) {
            true => Err(managed::RecycleError::message("it is broken")),
            false => Ok(()),
        }
    }
}

impl<D: Dials> Peer for Deadpool<D> {
    const NAME: &'static str = "deadpool";

    type Lent<'p> = managed::Object<Manager<D>>;

    fn open(max_open: u32, idle: u32, dial_time: Duration) -> Self {
        let builder = managed::Pool::builder(Manager(D::taking(dial_time)));
        let pool = Self(builder.max_size(max_open as usize).build().expect("it is sound"));
        // All are returned together, and become idle.
        drop((0..idle).map(|_| pool.get()).collect::<Vec<_>>());
        pool
    }

    fn get(&self) -> Self::Lent<'_> {
        block_on(self.0.get()).expect("a pause does not fail")
    }

    fn opened(&self) -> u32 {
        self.0.status().size as u32
    }
}

/// Makes no allocation for each future, as pollster does, which doubles the instructions of a loan.
fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
    }
    let mut future = pin!(future);
    WAKER.with(|waker| {
        let mut context = Context::from_waker(waker);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            thread::park();
        }
    })
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A list behind a lock, and a condition variable that is notified only if a thread waits. It is
/// full from the start, has no time limit, and only tests whether a returned connection is broken.
pub(crate) struct Naive<D: Dials> {
    dialer: D,
    books: Mutex<Books<Dialed<D>>>,
    returned: Condvar,
    opened: u32,
}

struct Books<C> {
    idle: Vec<C>,
    waiting: u32,
}

impl<D: Dials> Naive<D> {
    fn books(&self) -> MutexGuard<'_, Books<Dialed<D>>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Taken<'p, D: Dials> {
    pool: &'p Naive<D>,
    connection: Option<Dialed<D>>,
}

impl<D: Dials> Peer for Naive<D> {
    const NAME: &'static str = "naive";

    type Lent<'p> = Taken<'p, D>;

    fn open(max_open: u32, _idle: u32, dial_time: Duration) -> Self {
        let dialer = D::taking(dial_time);
        let books = Books { idle: (0..max_open).map(|_| dialed(&dialer)).collect(), waiting: 0 };
        Self { dialer, books: Mutex::new(books), returned: Condvar::new(), opened: max_open }
    }

    fn get(&self) -> Self::Lent<'_> {
        let mut books = self.books();
        loop {
            if let Some(connection) = books.idle.pop() {
                return Taken { pool: self, connection: Some(connection) };
            }
            books.waiting += 1;
            books = self.returned.wait(books).unwrap_or_else(PoisonError::into_inner);
            books.waiting -= 1;
        }
    }

    fn opened(&self) -> u32 {
        self.opened
    }
}

impl<D: Dials> Deref for Taken<'_, D> {
    type Target = Dialed<D>;

    fn deref(&self) -> &Dialed<D> {
        self.connection.as_ref().expect("it is there until the drop")
    }
}

impl<D: Dials> Drop for Taken<'_, D> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if Dialer::is_broken(&self.pool.dialer, &mut connection) {
            connection = dialed(&self.pool.dialer);
        }
        let mut books = self.pool.books();
        books.idle.push(connection);
        let somebody_waits = books.waiting > 0;
        drop(books);
        if somebody_waits {
            self.pool.returned.notify_one();
        }
    }
}

/// The upper bound: a cell for each connection, each used by one thread, which empties it and fills
/// it by compare-and-swap. No thread waits, because no more threads run than there are cells.
pub(crate) struct Cells(Box<[Padded]>);

/// On cache lines of its own, including the neighbour that the processor prefetches.
#[repr(align(128))]
pub(crate) struct Padded {
    is_full: AtomicBool,
}

pub(crate) struct Emptied<'p>(&'p Padded);

thread_local! {
    /// This thread's cell.
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Cells {
    fn mine(&self) -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        MINE.get().unwrap_or_else(|| {
            let mine = THREADS.fetch_add(1, Relaxed) % self.0.len();
            MINE.set(Some(mine));
            mine
        })
    }
}

impl Peer for Cells {
    const NAME: &'static str = "the limit";

    type Lent<'p> = Emptied<'p>;

    fn open(max_open: u32, _idle: u32, _dial_time: Duration) -> Self {
        Self((0..max_open).map(|_| Padded { is_full: AtomicBool::new(true) }).collect())
    }

    fn get(&self) -> Self::Lent<'_> {
        let cell = &self.0[self.mine()];
        while cell.is_full.compare_exchange(true, false, AcqRel, Acquire).is_err() {
            thread::yield_now();
        }
        Emptied(cell)
    }

    fn opened(&self) -> u32 {
        self.0.len() as u32
    }
}

impl Deref for Emptied<'_> {
    type Target = AtomicBool;

    fn deref(&self) -> &AtomicBool {
        &self.0.is_full
    }
}

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        // Only this thread fills it.
        let _ = self.0.is_full.compare_exchange(false, true, Release, Relaxed);
    }
}
