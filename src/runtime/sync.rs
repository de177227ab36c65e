//! The only door to locks, waiting, threads and the clock. The loom models have its twin.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, TryLockError};
use std::thread::ThreadId;
use std::time::Duration;

pub(crate) use std::sync::OnceLock;

use std::sync::atomic::AtomicUsize;

use crate::runtime::conductor;
use crate::runtime::moment::Moment;

pub(crate) use crate::runtime::atomic_cell::AtomicCell;
pub(crate) use crate::runtime::atomics::{
    AtomicBool, AtomicI64, AtomicU64, AtomicU64 as AtomicFigure, Ordering,
};
pub(crate) use crate::runtime::process::{PerProcess, Process};
pub(crate) use crate::runtime::sharded_lock::ShardedLock;

// ---- Locks and waiting ---------------------------------------------------------------------------

/// A lock of the pool's own. A panic does not poison it, and no user code runs under it: debug
/// builds count the locks that a thread holds, and `catch`, the door to user code, asserts that
/// there are none.
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
        if let Some(guard) = conductor::take_lock(self, || self.try_now()) {
            return guard;
        }
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex: self, whole: Some((guard, Held::one_more())) }
    }

    /// The same, or `None` if it is locked.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        conductor::step();
        self.try_now()
    }

    fn try_now(&self) -> Option<MutexGuard<'_, T>> {
        let guard = match self.0.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { mutex: self, whole: Some((guard, Held::one_more())) })
    }
}

/// The held lock. A wait borrows it, frees the lock, and takes it again.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only inside a wait, or while unlocked.
    whole: Option<(std::sync::MutexGuard<'a, T>, Held)>,
}

/// Why a guard has its lock: it lacks it only during a wait, and nothing uses it then.
const WHOLE: &str = "a guard is whole outside a wait";

impl<T> MutexGuard<'_, T> {
    /// Runs `body` with the lock free.
    pub(crate) fn unlocked<R>(guard: &mut Self, body: impl FnOnce() -> R) -> R {
        guard.free();
        let result = body();
        *guard = guard.mutex.lock();
        result
    }

    /// Frees the lock. The guard cannot be used until it has a lock again.
    #[inline]
    fn free(&mut self) {
        if self.whole.take().is_some() {
            conductor::lock_freed(self.mutex);
        }
    }
}

#[cfg(feature = "simulation")]
impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.free();
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.whole.as_ref().expect(WHOLE).0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.whole.as_mut().expect(WHOLE).0
    }
}

/// One of the locks that this thread holds.
#[derive(Debug)]
struct Held;

#[cfg(debug_assertions)]
thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

#[cfg(debug_assertions)]
impl Held {
    fn one_more() -> Self {
        HELD.set(HELD.get() + 1);
        Self
    }

    fn assert_none() {
        assert_eq!(HELD.get(), 0, "NO-USER-CODE-UNDER-LOCK");
    }
}

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

#[cfg(not(debug_assertions))]
impl Held {
    #[inline]
    fn one_more() -> Self {
        Self
    }

    #[inline]
    fn assert_none() {}
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
        if conductor::is_there() {
            // No other thread runs before this one waits.
            let is_late = MutexGuard::unlocked(guard, || conductor::wait_at(self, until));
            return if is_late == Some(true) { Wake::Late } else { Wake::Rung };
        }
        let (whole, held) = guard.whole.take().expect(WHOLE);
        let (whole, wake) = match until {
            None => (self.0.wait(whole).unwrap_or_else(PoisonError::into_inner), Wake::Rung),
            Some(until) => {
                let limit = until.since(now());
                let waited = self.0.wait_timeout(whole, limit);
                let (whole, limit) = waited.unwrap_or_else(PoisonError::into_inner);
                (whole, if limit.timed_out() { Wake::Late } else { Wake::Rung })
            }
        };
        guard.whole = Some((whole, held));
        wake
    }

    /// The wait of a thread that has nothing to do, for at most `limit`.
    pub(crate) fn rest<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) -> Wake {
        self.wait(guard, now().after(limit))
    }

    /// Wakes all who wait.
    pub(crate) fn ring(&self) {
        conductor::ring(self);
        self.0.notify_all();
    }
}

// ---- The clock, numbers, and chance ---------------------------------------------------------------

/// The clock.
#[inline]
pub(crate) fn now() -> Moment {
    conductor::now().unwrap_or_else(Moment::now)
}

/// The same clock, cheaper to read and some milliseconds late.
#[inline]
pub(crate) fn coarse_now() -> Moment {
    conductor::coarse_now().unwrap_or_else(Moment::coarse_now)
}

/// The hasher of keys. It is seeded, so that nobody can choose keys that collide.
#[cfg(not(feature = "simulation"))]
pub(crate) type Hashing = RandomState;

/// The same, or alike in each run for a thread with a conductor.
#[cfg(feature = "simulation")]
pub(crate) struct Hashing(Option<RandomState>);

#[cfg(feature = "simulation")]
impl Default for Hashing {
    fn default() -> Self {
        Self((!conductor::is_there()).then(RandomState::new))
    }
}

#[cfg(feature = "simulation")]
impl BuildHasher for Hashing {
    type Hasher = std::hash::DefaultHasher;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.as_ref().map_or_else(Self::Hasher::new, RandomState::build_hasher)
    }
}

/// A random number.
pub(crate) fn seed() -> u64 {
    conductor::random().unwrap_or_else(|| RandomState::new().build_hasher().finish())
}

/// How many cells a tally has. If there are more threads than cells, some threads share a cell.
pub(crate) const STRIPES: usize = 16;

/// How many rows of slots a directory has: threads beyond that share them.
pub(crate) const ROWS: usize = 32;

/// The slots of a row: enough for a thread that goes round a few servers.
pub(crate) const SLOTS: usize = 4;

// ---- What each thread knows of itself ----------------------------------------------------------
//
// The destructor of another thread-local may use a pool after these have been destroyed. So those that a
// pool cannot do without have no destructor. Some systems emulate thread-locals and destroy even those:
// then a default value serves.

thread_local! {
    static LAST_PLACE: Cell<(usize, Moment)> = const { Cell::new((0, Moment::FIRST)) };
    static LAST_SLOT: Cell<usize> = const { Cell::new(0) };
    /// 0: it has none yet.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// The cell of a tally to which this thread adds.
#[inline]
pub(crate) fn stripe() -> usize {
    thread_number() % STRIPES
}

/// The row of this thread, of `ROWS`.
#[inline]
pub(crate) fn own_row() -> usize {
    thread_number() % ROWS
}

/// A number that no other thread has.
#[inline]
fn thread_number() -> usize {
    match NUMBER.try_with(Cell::get).unwrap_or(0) {
        0 => number_this_thread(),
        number => number,
    }
}

#[cold]
fn number_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let number = conductor::number().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
    let _ = NUMBER.try_with(|own| own.set(number));
    number
}

/// The place that this thread used last, in whatever pool, and when it last looked through all.
#[inline]
pub(crate) fn last_place() -> (usize, Moment) {
    LAST_PLACE.try_with(Cell::get).unwrap_or((0, Moment::FIRST))
}

#[inline]
pub(crate) fn set_last_place(place: usize, now: Moment) {
    let _ = LAST_PLACE.try_with(|last| last.set((place, now)));
}

/// The slot of its row that this thread used last, in whatever pool; plus `SLOTS` for each of its latest
/// look-ups that found nothing in its slots.
#[inline]
pub(crate) fn last_slot() -> usize {
    LAST_SLOT.try_with(Cell::get).unwrap_or(0)
}

#[inline]
pub(crate) fn set_last_slot(slot: usize) {
    let _ = LAST_SLOT.try_with(|last| last.set(slot));
}

/// Takes the spare thing of this thread, if it is a `T`.
pub(crate) fn take_spare<T: Any + Send + Sync>() -> Option<Arc<T>> {
    SPARE.try_with(Cell::take).ok()??.downcast().ok()
}

/// Keeps one thing as this thread's spare, whose next use saves an allocation. The former spare is
/// dropped.
pub(crate) fn lay_by(spare: Arc<dyn Any + Send + Sync>) {
    let _ = SPARE.try_with(|own| own.set(Some(spare)));
}

thread_local! {
    static SPARE: Cell<Option<Arc<dyn Any + Send + Sync>>> = const { Cell::new(None) };
    /// This thread's id, once it has been asked for.
    static THIS_THREAD: Cell<Option<ThreadId>> = const { Cell::new(None) };
    static IS_NAMED: Named = Named::enter();
}

/// The threads of this process that have a name and have used a pool, for as long as they live.
static NAMED: PerProcess<Mutex<ByName>> = PerProcess::new();

type ByName = HashMap<ThreadId, std::thread::Thread>;

fn with_named<T>(visit: impl FnOnce(&mut ByName) -> T) -> T {
    conductor::aside(|| visit(&mut NAMED.get().lock()))
}

/// A thread's entry among the named ones, which goes with the thread.
struct Named(ThreadId);

impl Named {
    fn enter() -> Self {
        let thread = std::thread::current();
        let id = thread.id();
        with_named(|named| named.insert(id, thread));
        Self(id)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let thread = with_named(|named| named.remove(&self.0));
        drop(thread); // Not under the lock.
    }
}

/// The id of this thread. The standard library would count a reference for it each time.
#[inline]
pub(crate) fn this_thread() -> ThreadId {
    THIS_THREAD.try_with(Cell::get).ok().flatten().unwrap_or_else(meet_this_thread)
}

#[cold]
fn meet_this_thread() -> ThreadId {
    let thread = std::thread::current();
    let _ = THIS_THREAD.try_with(|this| this.set(Some(thread.id())));
    if thread.name().is_some() {
        // A thread that is ending already is not entered: it would not be taken out again.
        let _ = IS_NAMED.try_with(|_| ());
    }
    thread.id()
}

/// The name of a thread that has used a pool, while it lives.
pub(crate) fn thread_name(id: ThreadId) -> Option<String> {
    with_named(|named| named.get(&id)?.name().map(str::to_owned))
}

// ---- Threads and user code ----------------------------------------------------------------------

/// The code that a thread runs.
pub(crate) type Body = Box<dyn FnOnce() + Send>;

/// Starts a thread that nobody waits for.
pub(crate) fn spawn(name: String, body: Body) -> io::Result<()> {
    std::thread::Builder::new().name(name).spawn(conductor::enroll(body)).map(drop)
}

/// Makes this thread sleep for so long. Only on a worker.
pub(crate) fn pause(span: Duration) {
    conductor::sleep(span).unwrap_or_else(|| std::thread::sleep(span));
}

/// Runs user code; `None` if it panicked.
///
/// After a panic, whatever the closure has touched may only be closed or dropped.
#[inline]
pub(crate) fn catch<T>(user_code: impl FnOnce() -> T) -> Option<T> {
    Held::assert_none();
    catch_unwind(AssertUnwindSafe(user_code)).map_err(drop_payload).ok()
}

#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    conductor::note_panic(&*payload);
    // The drop of the payload is user code too.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}
