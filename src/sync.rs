//! The only door to locks, waiting, threads and the clock. The loom models have its twin.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize};

use crossbeam_utils::CachePadded;
use crossbeam_utils::atomic::AtomicCell;
use thread_local::ThreadLocal;

use crate::moment::Moment;

pub(crate) use crate::process::{PerProcess, Process};
pub(crate) use crossbeam_utils::sync::ShardedLock;

// ---- Locks and waiting ---------------------------------------------------------------------------

/// A lock that no panic poisons.
///
/// It is the standard library's, all of which lies in itself. parking_lot keeps those who wait in one
/// table for the process: in the child of a fork that table names threads that do not exist there.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex: self, guard: Some(guard) }
    }
}

/// A wait borrows it.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only inside a wait, or while unlocked.
    guard: Option<std::sync::MutexGuard<'a, T>>,
}

/// Why a guard is always whole where it is looked at.
const WHOLE: &str = "a guard is whole outside a wait";

impl<T> MutexGuard<'_, T> {
    /// Runs `body` with the lock free.
    pub(crate) fn unlocked<R>(guard: &mut Self, body: impl FnOnce() -> R) -> R {
        guard.guard = None;
        let result = body();
        *guard = guard.mutex.lock();
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.guard.as_ref().expect(WHOLE)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect(WHOLE)
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Rung, or for no reason at all: look again.
    Rung,
    /// Its time was up.
    Late,
}

/// Something to wait for under a lock.
#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    /// Waits, with the lock released, until rung or until `until`. `None` is never.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Moment>) -> Wake {
        let whole = guard.guard.take().expect(WHOLE);
        let (whole, wake) = match until {
            None => (self.0.wait(whole).unwrap_or_else(PoisonError::into_inner), Wake::Rung),
            Some(until) => {
                let limit = until.since(now());
                let waited = self.0.wait_timeout(whole, limit);
                let (whole, limit) = waited.unwrap_or_else(PoisonError::into_inner);
                (whole, if limit.timed_out() { Wake::Late } else { Wake::Rung })
            }
        };
        guard.guard = Some(whole);
        wake
    }

    /// The wait of a thread that has nothing to do, for at most `limit`.
    pub(crate) fn rest<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) -> Wake {
        self.wait(guard, now().after(limit))
    }

    /// Wakes one who waits.
    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }
}

/// Wakes one waiting thread: the one that made it.
#[derive(Debug)]
pub(crate) struct Bell {
    condvar: Condvar,
    thread: ThreadId,
}

impl Default for Bell {
    fn default() -> Self {
        Self { condvar: Condvar::default(), thread: this_thread() }
    }
}

impl Bell {
    /// Who waits for it.
    pub(crate) fn thread(&self) -> ThreadId {
        self.thread
    }

    /// Waits, with the lock released, until rung or until `until`. `None` is never.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Moment>) -> Wake {
        self.condvar.wait(guard, until)
    }

    pub(crate) fn ring(&self) {
        self.condvar.ring();
    }
}

// ---- The clock, numbers, and room for what rests -------------------------------------------------

/// The clock.
pub(crate) fn now() -> Moment {
    Instant::now().into()
}

/// How keys are hashed: so that nobody can choose them to collide.
pub(crate) type Hashing = RandomState;

/// A number that nobody can foretell.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A moment of a clock that is cheap to read and some milliseconds late, in ticks of 2^-32 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CoarseInstant(pub(crate) u64);

impl CoarseInstant {
    #[inline]
    pub(crate) fn now() -> Self {
        // Not coarsetime's `now`, which also writes to a cache line that all threads share.
        Self(coarsetime::Instant::now_without_cache_update().as_ticks())
    }

    /// Whether no more than `limit` has passed since `earlier`.
    #[inline]
    pub(crate) fn is_within(self, limit: CoarseDuration, earlier: Self) -> bool {
        self.0.saturating_sub(earlier.0) <= limit.0
    }

    /// Whether this is another moment than `earlier` to the clock, and not by less than 2^-10 s
    /// where it is precise: so the fastest kernel's timer ticks (1024 Hz).
    #[inline]
    pub(crate) fn is_a_tick_after(self, earlier: Self) -> bool {
        self.0.saturating_sub(earlier.0) >= 1 << 22
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        coarsetime::Duration::from_ticks(self.0.saturating_sub(earlier.0)).into()
    }

    /// The moment that lies `span` after this one, or the last that the clock knows.
    pub(crate) fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(CoarseDuration::new(span).0))
    }

    /// The moment that lies `span` before this one.
    pub(crate) fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(CoarseDuration::new(span).0))
    }
}

/// A span of that clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoarseDuration(pub(crate) u64);

impl CoarseDuration {
    /// A span short enough to tell nothing: a few ticks of the slowest kernel's timer (100 Hz).
    pub(crate) const LEAST: Duration = Duration::from_millis(50);

    /// As long as `span`, or as the clock can say.
    pub(crate) fn new(span: Duration) -> Self {
        // Of whole seconds, 32 bits fit.
        let fits = span.as_secs() <= u64::from(u32::MAX);
        Self(if fits { coarsetime::Duration::from(span).as_ticks() } else { u64::MAX })
    }
}

/// A number that threads read as it is now or was just before.
#[derive(Debug, Default)]
pub(crate) struct Figure(AtomicU64);

impl Figure {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number to which many threads add and that few read: each thread adds where few others do.
///
/// Of two threads that each add and then read, one at least reads what both have added.
#[derive(Debug, Default)]
pub(crate) struct Tally([CachePadded<AtomicI64>; STRIPES]);

/// More than that and they meet, two in one place.
const STRIPES: usize = 16;

thread_local! {
    /// Where this thread adds, in every tally: threads take turns.
    static STRIPE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES
    };
}

impl Tally {
    #[inline]
    pub(crate) fn add(&self, more: i64) {
        self.0[STRIPE.with(|stripe| *stripe)].fetch_add(more, Ordering::SeqCst);
    }

    pub(crate) fn sum(&self) -> i64 {
        self.0.iter().map(|stripe| stripe.load(Ordering::SeqCst)).sum()
    }
}

/// The latest copy of what a lock protects, for whoever must not wait for that lock: a reader waits
/// for nothing but a copy being made. On cache lines of its own.
pub(crate) struct Latest<T>(CachePadded<Mutex<T>>);

impl<T: Copy> Latest<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(CachePadded::new(Mutex::new(value)))
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.lock() = value;
    }

    pub(crate) fn get(&self) -> T {
        *self.0.lock()
    }
}

/// Room for one item that threads put and take without a lock, on cache lines of its own.
pub(crate) struct Shelf<T>(CachePadded<(AtomicCell<Option<T>>, AtomicBool)>);

impl<T> Shelf<T> {
    pub(crate) fn new() -> Self {
        Self(CachePadded::new((AtomicCell::new(None), AtomicBool::new(false))))
    }

    /// Puts an item down, and takes up what was there.
    #[inline]
    pub(crate) fn swap(&self, item: T) -> Option<T> {
        let displaced = self.0.0.swap(Some(item));
        self.0.1.store(true, Ordering::Relaxed);
        displaced
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<T> {
        let item = self.0.0.swap(None);
        self.0.1.store(false, Ordering::Relaxed);
        item
    }

    /// Whether there is something to take, most probably: a hint that costs no exclusive access.
    #[inline]
    pub(crate) fn looks_taken(&self) -> bool {
        self.0.1.load(Ordering::Relaxed)
    }
}

thread_local! {
    static LAST_PLACE: Cell<(usize, CoarseInstant)> = const { Cell::new((0, CoarseInstant(0))) };
}

/// The place that this thread used last, in whatever pool, and when it last looked through all.
#[inline]
pub(crate) fn last_place() -> (usize, CoarseInstant) {
    LAST_PLACE.get()
}

#[inline]
pub(crate) fn set_last_place(place: usize, now: CoarseInstant) {
    LAST_PLACE.set((place, now));
}

// ---- Who is who --------------------------------------------------------------------------------

thread_local! {
    /// This thread's id, once it has been asked for.
    static THIS_THREAD: Cell<Option<ThreadId>> = const { Cell::new(None) };
    static IS_NAMED: Named = Named::enter();
}

/// The threads of this process that have a name and have used a pool, for as long as they live.
static NAMED: PerProcess<Mutex<HashMap<ThreadId, std::thread::Thread>>> = PerProcess::new();

/// A thread's entry among the named ones, which goes with the thread.
struct Named(ThreadId);

impl Named {
    fn enter() -> Self {
        let thread = std::thread::current();
        let id = thread.id();
        NAMED.get().lock().insert(id, thread);
        Self(id)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let thread = NAMED.get().lock().remove(&self.0);
        drop(thread); // Not under the lock.
    }
}

/// Which thread this is. The standard library would count a reference for it each time.
#[inline]
pub(crate) fn this_thread() -> ThreadId {
    THIS_THREAD.get().unwrap_or_else(meet_this_thread)
}

#[cold]
fn meet_this_thread() -> ThreadId {
    let thread = std::thread::current();
    THIS_THREAD.set(Some(thread.id()));
    if thread.name().is_some() {
        // A thread that is ending already is not entered: it would not be taken out again.
        let _ = IS_NAMED.try_with(|_| ());
    }
    thread.id()
}

/// The name of a thread that has used a pool, while it lives.
pub(crate) fn thread_name(id: ThreadId) -> Option<String> {
    NAMED.get().lock().get(&id).and_then(|thread| thread.name().map(str::to_owned))
}

/// A value that each thread has for itself.
pub(crate) struct PerThread<T: Send>(ThreadLocal<Cell<T>>);

impl<T: Default + Send> PerThread<T> {
    pub(crate) fn new() -> Self {
        Self(ThreadLocal::new())
    }

    /// Of one who comes here from there, the value is another: the default.
    #[inline]
    pub(crate) fn with<R>(&self, visit: impl FnOnce(&mut T) -> R) -> R {
        let cell = self.0.get_or_default();
        let mut value = cell.take();
        let result = visit(&mut value);
        cell.set(value);
        result
    }
}

// ---- Threads and user code ----------------------------------------------------------------------

/// What a thread runs.
pub(crate) type Body = Box<dyn FnOnce() + Send>;

/// Starts a thread that nobody waits for.
pub(crate) fn spawn(name: String, body: Body) -> io::Result<()> {
    std::thread::Builder::new().name(name).spawn(body).map(drop)
}

/// Runs user code; `None` if it panicked.
///
/// Nothing that the closure touches may be trusted after a panic but to be closed or dropped.
#[inline]
pub(crate) fn catch<T>(user_code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(user_code)).map_err(drop_payload).ok()
}

#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    // Dropping what was thrown is user code too.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}
