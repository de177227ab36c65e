//! The only door to locks, waiting, threads and the clock. The loom models have its twin.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::thread::ThreadId;
use std::time::Duration;

pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64, AtomicU64 as AtomicFigure, Ordering,
};

use std::sync::atomic::AtomicUsize;

use crate::moment::Moment;

pub(crate) use crossbeam_utils::atomic::AtomicCell;
pub(crate) use crossbeam_utils::sync::ShardedLock;

// ---- Locks -------------------------------------------------------------------------------------

/// A lock of the pool's own. A panic does not poison it, and no user code runs under it: debug
/// builds count the locks that a thread holds, and `catch`, the door to user code, asserts that
/// there are none.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    guard: parking_lot::MutexGuard<'a, T>,
    _held: Held,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { guard: self.0.lock(), _held: Held::one_more() }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
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

/// The clock.
#[inline]
pub(crate) fn now() -> Moment {
    Moment::now()
}

/// The same clock, cheaper to read and some milliseconds late.
#[inline]
pub(crate) fn coarse_now() -> Moment {
    Moment::coarse_now()
}

/// How keys are hashed: so that nobody can choose them to collide.
pub(crate) type Hashing = RandomState;

/// A number that nobody can foretell.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// In how many places threads add to a tally. Threads more than that meet, two in one place.
pub(crate) const STRIPES: usize = 16;

/// How many rows of slots a directory has: threads beyond that share them.
pub(crate) const ROWS: usize = 32;

/// The slots of a row: enough for a thread that goes round a few servers.
pub(crate) const SLOTS: usize = 4;

// ---- What each thread knows of itself ----------------------------------------------------------
//
// Destructors of other thread-locals may use a pool when these have gone. So those that have to be
// there have no destructor, and the one that has is done without; and where even the former go (a
// system without thread-locals of its own), each has a value that will do.

thread_local! {
    static LAST_PLACE: Cell<(usize, Moment)> = const { Cell::new((0, Moment::FIRST)) };
    static LAST_SLOT: Cell<usize> = const { Cell::new(0) };
    /// 0: it has none yet.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Where this thread adds to a tally.
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
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
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

/// The slot of its row that this thread used last, in whatever pool; `SLOTS` more if what it has
/// looked for since was in none.
#[inline]
pub(crate) fn last_slot() -> usize {
    LAST_SLOT.try_with(Cell::get).unwrap_or(0)
}

#[inline]
pub(crate) fn set_last_slot(slot: usize) {
    let _ = LAST_SLOT.try_with(|last| last.set(slot));
}

thread_local! {
    /// This thread's id, once it has been asked for.
    static THIS_THREAD: Cell<Option<ThreadId>> = const { Cell::new(None) };
    static IS_NAMED: Named = Named::enter();
}

/// The threads of this process that have a name and have used a pool, for as long as they live.
static NAMED: LazyLock<Mutex<HashMap<ThreadId, std::thread::Thread>>> =
    LazyLock::new(Mutex::default);

/// A thread's entry among the named ones, which goes with the thread.
struct Named(ThreadId);

impl Named {
    fn enter() -> Self {
        let thread = std::thread::current();
        let id = thread.id();
        NAMED.lock().insert(id, thread);
        Self(id)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let thread = NAMED.lock().remove(&self.0);
        drop(thread); // Not under the lock.
    }
}

/// Which thread this is. The standard library would count a reference for it each time.
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
    NAMED.lock().get(&id).and_then(|thread| thread.name().map(str::to_owned))
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Rung, or for no reason at all: look again.
    Rung,
    /// Its time was up.
    Late,
}

/// Wakes one waiting thread: the one that made it.
#[derive(Debug)]
pub(crate) struct Bell {
    condvar: parking_lot::Condvar,
    thread: ThreadId,
}

impl Default for Bell {
    fn default() -> Self {
        Self { condvar: parking_lot::Condvar::default(), thread: this_thread() }
    }
}

impl Bell {
    /// Who waits for it.
    pub(crate) fn thread(&self) -> ThreadId {
        self.thread
    }

    /// Waits, with the lock released, until rung or until `until`. `None` is never.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Moment>) -> Wake {
        match until {
            None => self.condvar.wait(&mut guard.guard),
            Some(until) => {
                if self.condvar.wait_until(&mut guard.guard, until.into()).timed_out() {
                    return Wake::Late;
                }
            }
        }
        Wake::Rung
    }

    pub(crate) fn ring(&self) {
        self.condvar.notify_one();
    }
}

/// A thread, to be waited for or left alone.
pub(crate) type Thread = std::thread::JoinHandle<()>;

/// Starts a thread.
pub(crate) fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    std::thread::Builder::new().name(name).spawn(body)
}

/// Waits until a thread has ended, however it ended.
pub(crate) fn join(thread: Thread) {
    // A thread of the pool's own catches the panics of its jobs; there is nobody else to tell.
    drop(thread.join());
}

/// Hands one message from one thread to another.
pub(crate) fn mailbox<T>() -> (Giver<T>, Taker<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    (Giver(sender), Taker(receiver))
}

/// The giving end of a mailbox.
#[derive(Debug)]
pub(crate) struct Giver<T>(crossbeam_channel::Sender<T>);

impl<T> Giver<T> {
    /// Hands the message over; gives it back if the taker has gone. Never blocks.
    pub(crate) fn give(self, message: T) -> Result<(), T> {
        self.0.try_send(message).map_err(crossbeam_channel::TrySendError::into_inner)
    }
}

/// The taking end of a mailbox.
#[derive(Debug)]
pub(crate) struct Taker<T>(crossbeam_channel::Receiver<T>);

impl<T> Taker<T> {
    /// Waits for the message; `None` if the giver has gone without one.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.recv().ok()
    }

    /// The same, for at most `limit`.
    pub(crate) fn take_within(&self, limit: Duration) -> Result<Option<T>, Wake> {
        match self.0.recv_timeout(limit) {
            Ok(message) => Ok(Some(message)),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Ok(None),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(Wake::Late),
        }
    }
}

/// Runs user code; `None` if it panicked.
///
/// Nothing that the closure touches may be trusted after a panic but to be closed or dropped.
#[inline]
pub(crate) fn catch<T>(user_code: impl FnOnce() -> T) -> Option<T> {
    Held::assert_none();
    catch_unwind(AssertUnwindSafe(user_code)).map_err(drop_payload).ok()
}

#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    // Dropping what was thrown is user code too.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}
