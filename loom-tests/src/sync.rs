//! The twin of the crate's `sync.rs`: the same door, with loom behind it.
//!
//! What is not a model's business has no scheduling points: the clock, the count of threads that
//! can still be had, and the spurious wake-ups to come are plain cells of the model's one thread
//! of the system.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::OnceLock; // Set under a lock of loom's only.

use crate::config::far_future;
use crate::moment::Moment;

thread_local! {
    static LAST_PLACE: Cell<(usize, CoarseInstant)> = const { Cell::new((0, CoarseInstant(0))) };
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static SPAWNS_LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    static SPURIOUS_WAKES: Cell<u32> = const { Cell::new(0) };
    static IS_REST_ENDLESS: Cell<bool> = const { Cell::new(false) };
    /// What this run's process has for itself, by where the crate keeps it.
    static OF_THE_PROCESS: RefCell<BTreeMap<usize, Arc<dyn Any + Send + Sync>>> =
        const { RefCell::new(BTreeMap::new()) };
}

/// Forgets what an earlier run of the model has done to the clock and the system.
pub(crate) fn start() {
    set_last_place(0, CoarseInstant(0));
    ELAPSED.set(Duration::ZERO);
    SPAWNS_LEFT.set(u32::MAX);
    SPURIOUS_WAKES.set(0);
    IS_REST_ENDLESS.set(false);
    OF_THE_PROCESS.take();
}

/// Lets the system have that many threads more, and then none.
pub(crate) fn limit_spawns(left: u32) {
    SPAWNS_LEFT.set(left);
}

/// Wakes that many of the waits to come for no reason.
pub(crate) fn wake_spuriously(times: u32) {
    SPURIOUS_WAKES.set(times);
}

/// Lets no worker end by itself: whoever does not end it is told of a deadlock.
pub(crate) fn rest_for_ever() {
    IS_REST_ENDLESS.set(true);
}

/// The clock: it stands still, but for a wait that ends by it.
pub(crate) fn now() -> Moment {
    static START: OnceLock<Moment> = OnceLock::new();
    *START.get_or_init(|| Instant::now().into()) + ELAPSED.get()
}

/// Lets time pass.
pub(crate) fn advance(time: Duration) {
    ELAPSED.set(ELAPSED.get() + time);
}

/// The pools of all models are one.
pub(crate) fn seed() -> u64 {
    0
}

/// A deadline that no model lives to see.
pub(crate) fn never() -> Instant {
    far_future(now()).into()
}

/// The coarse clock is as precise here, and counts nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CoarseInstant(pub(crate) u64);

impl CoarseInstant {
    pub(crate) fn now() -> Self {
        Self(CoarseDuration::new(ELAPSED.get()).0)
    }

    pub(crate) fn is_within(self, limit: CoarseDuration, earlier: Self) -> bool {
        self.0.saturating_sub(earlier.0) <= limit.0
    }

    pub(crate) fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(CoarseDuration::new(span).0))
    }

    pub(crate) fn is_a_tick_after(self, earlier: Self) -> bool {
        self.0.saturating_sub(earlier.0) >= 1_000_000
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(CoarseDuration::new(span).0))
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CoarseDuration(pub(crate) u64);

impl CoarseDuration {
    /// A span short enough to tell nothing: a few ticks of the slowest kernel's timer (100 Hz).
    pub(crate) const LEAST: Duration = Duration::from_millis(50);

    pub(crate) fn new(span: Duration) -> Self {
        Self(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A number to which many threads add.
#[derive(Debug, Default)]
pub(crate) struct Tally(loom::sync::atomic::AtomicI64);

impl Tally {
    pub(crate) fn add(&self, more: i64) {
        self.0.fetch_add(more, Ordering::SeqCst);
    }

    pub(crate) fn sum(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// No scheduling point: whoever reads it is content with what it was just before.
#[derive(Debug, Default)]
pub(crate) struct Figure(std::sync::atomic::AtomicU64);

impl Figure {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// No scheduling point either.
pub(crate) struct Latest<T>(std::sync::Mutex<T>);

impl<T: Copy> Latest<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    pub(crate) fn get(&self) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An atomic word of loom's says which item is there; the items themselves lie beside it, under a
/// lock that is no scheduling point.
pub(crate) struct Shelf<T> {
    word: AtomicU64,
    items: std::sync::Mutex<Items<T>>,
}

#[derive(Debug)]
struct Items<T> {
    by_word: BTreeMap<u64, T>,
    last_word: u64,
    looks_taken: bool,
}

/// The word of no item.
const EMPTY: u64 = 0;

impl<T> Shelf<T> {
    pub(crate) fn new() -> Self {
        let items = Items { by_word: BTreeMap::new(), last_word: EMPTY, looks_taken: false };
        Self { word: AtomicU64::new(EMPTY), items: std::sync::Mutex::new(items) }
    }

    pub(crate) fn swap(&self, item: T) -> Option<T> {
        let word = {
            let mut items = self.items();
            items.last_word += 1;
            let word = items.last_word;
            items.by_word.insert(word, item);
            word
        };
        self.exchange(word)
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.exchange(EMPTY)
    }

    pub(crate) fn looks_taken(&self) -> bool {
        self.items().looks_taken
    }

    fn exchange(&self, word: u64) -> Option<T> {
        // As crossbeam's `AtomicCell` orders it.
        let before = self.word.swap(word, Ordering::AcqRel);
        let mut items = self.items();
        items.looks_taken = word != EMPTY;
        items.by_word.remove(&before)
    }

    fn items(&self) -> std::sync::MutexGuard<'_, Items<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One hint for all threads of a model: they are one thread of the system.
pub(crate) fn last_place() -> (usize, CoarseInstant) {
    LAST_PLACE.get()
}

pub(crate) fn set_last_place(place: usize, now: CoarseInstant) {
    LAST_PLACE.set((place, now));
}

/// All threads of a model are one thread of the system, and have no names.
pub(crate) fn this_thread() -> ThreadId {
    std::thread::current().id()
}

pub(crate) fn thread_name(_id: ThreadId) -> Option<String> {
    None
}

/// The same in each run.
pub(crate) type Hashing = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// One lock where the crate has a shard for each thread.
pub(crate) type ShardedLock<T> = loom::sync::RwLock<T>;

/// All threads of a model share one value: what one has left another may find, as a thread may that
/// was given the place of one that has ended.
pub(crate) struct PerThread<T>(std::sync::Mutex<T>);

impl<T: Default> PerThread<T> {
    pub(crate) fn new() -> Self {
        Self(std::sync::Mutex::default())
    }

    pub(crate) fn with<R>(&self, visit: impl FnOnce(&mut T) -> R) -> R {
        visit(&mut self.0.lock().expect("nothing in it panics"))
    }
}

/// A model has one process, which forks no other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process;

impl Process {
    pub(crate) fn this() -> Self {
        Self
    }

    pub(crate) fn is_a_parent(self) -> bool {
        false
    }
}

/// Each run has a process of its own.
pub(crate) struct PerProcess<T>(std::marker::PhantomData<fn() -> T>, u8);

impl<T: Default + Send + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(std::marker::PhantomData, 0)
    }

    pub(crate) fn get(&self) -> Arc<T> {
        let address = std::ptr::from_ref(&self.1).addr();
        OF_THE_PROCESS.with_borrow_mut(|values| {
            let value = values.entry(address).or_insert_with(|| Arc::<T>::default());
            Arc::downcast(Arc::clone(value)).expect("one value lies at one address")
        })
    }
}

#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex: self, guard: Some(guard) }
    }
}

/// A wait borrows it, where loom's takes it.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only inside a wait.
    guard: Option<loom::sync::MutexGuard<'a, T>>,
}

impl<T> MutexGuard<'_, T> {
    /// Lets others in, as many and for as long as they like.
    fn let_others_in(&mut self) {
        self.guard = None;
        self.guard = Some(self.mutex.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn unlocked<R>(guard: &mut Self, body: impl FnOnce() -> R) -> R {
        guard.guard = None;
        let result = body();
        *guard = guard.mutex.lock();
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("a guard is whole outside a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("a guard is whole outside a wait")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Rung,
    Late,
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Moment>) -> Wake {
        if let Some(until) = until.filter(|until| *until < never().into()) {
            // loom's `wait_timeout` never times out, and loom has no clock. But all that a deadline
            // can do is let others in, before it passes and after it, and come back: so does this.
            // A ring that comes meanwhile is a wake-up at the deadline's own moment.
            guard.let_others_in();
            advance(until.since(now()));
            guard.let_others_in();
            return Wake::Late;
        }
        if let Some(left) = SPURIOUS_WAKES.get().checked_sub(1) {
            SPURIOUS_WAKES.set(left);
            guard.let_others_in();
            return Wake::Rung;
        }
        self.wait_for_ever(guard)
    }

    /// The rest of a worker: over before anybody comes, or after. No time passes by it.
    pub(crate) fn rest<T>(&self, guard: &mut MutexGuard<'_, T>, _limit: Duration) -> Wake {
        if IS_REST_ENDLESS.get() {
            return self.wait_for_ever(guard);
        }
        guard.let_others_in();
        Wake::Late
    }

    fn wait_for_ever<T>(&self, guard: &mut MutexGuard<'_, T>) -> Wake {
        let whole = guard.guard.take().expect("a guard is whole outside a wait");
        guard.guard = Some(self.0.wait(whole).unwrap_or_else(PoisonError::into_inner));
        Wake::Rung
    }

    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Bell(Condvar);

impl Bell {
    pub(crate) fn thread(&self) -> ThreadId {
        this_thread()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Moment>) -> Wake {
        self.0.wait(guard, until)
    }

    pub(crate) fn ring(&self) {
        self.0.ring();
    }
}

pub(crate) type Body = Box<dyn FnOnce() + Send>;

pub(crate) fn spawn(_name: String, body: Body) -> io::Result<()> {
    let left = SPAWNS_LEFT.get().checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
    SPAWNS_LEFT.set(left);
    loom::thread::spawn(body);
    Ok(())
}

/// A panic that a model has its dialer throw. Any other is the model's own failure.
pub(crate) struct Planned;

pub(crate) fn catch<T>(user_code: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(user_code)) {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Planned>() => None,
        Err(payload) => resume_unwind(payload),
    }
}
