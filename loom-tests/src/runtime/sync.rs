//! The twin of the crate's `sync.rs`: the same door, with loom behind it.
//!
//! Parts that no model is about have no scheduling points: the clock, the count of threads that can still
//! start, and the spurious wake-ups to come are plain cells, as the model runs on one thread of the system.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

pub(crate) use loom::sync::atomic::{AtomicI64, AtomicU64, Ordering};
pub(crate) use std::sync::OnceLock; // Set under a lock of loom's only.

use crate::config::far_future;
use crate::runtime::moment::Moment;

thread_local! {
    static LAST_PLACE: Cell<(usize, Moment)> = const { Cell::new((0, Moment::FIRST)) };
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static SPAWNS_LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    static SPURIOUS_WAKES: Cell<u32> = const { Cell::new(0) };
    static IS_REST_ENDLESS: Cell<bool> = const { Cell::new(false) };
    static IS_FINE: Cell<bool> = const { Cell::new(false) };
    /// The values that this run's process has for itself, by where the crate keeps them.
    static OF_THE_PROCESS: RefCell<BTreeMap<usize, Arc<dyn Any + Send + Sync>>> =
        const { RefCell::new(BTreeMap::new()) };
}

/// Forgets what an earlier run of the model has done to the clock and the system.
pub(crate) fn start() {
    set_last_place(0, Moment::FIRST);
    ELAPSED.set(Duration::ZERO);
    SPAWNS_LEFT.set(u32::MAX);
    SPURIOUS_WAKES.set(0);
    IS_REST_ENDLESS.set(false);
    IS_FINE.set(false);
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

/// Keeps a worker until the model ends it: in a model that does not, loom reports a deadlock.
pub(crate) fn rest_for_ever() {
    IS_REST_ENDLESS.set(true);
}

/// Makes hints, figures and records scheduling points, which costs most models minutes. Called first.
pub(crate) fn search_finely() {
    IS_FINE.set(true);
}

/// The clock: it stands still, except when a wait ends by it.
pub(crate) fn now() -> Moment {
    static START: OnceLock<Moment> = OnceLock::new();
    *START.get_or_init(|| Instant::now().into()) + ELAPSED.get()
}

/// As precise here.
pub(crate) fn coarse_now() -> Moment {
    now()
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

/// All threads add to a tally in one place: loom does not know the one order of all that is
/// sequentially consistent, on which a tally in several places relies.
pub(crate) const STRIPES: usize = 1;

pub(crate) fn stripe() -> usize {
    0
}

/// A hint: a scheduling point where the model searches finely.
#[derive(Debug)]
pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool, std::sync::atomic::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(loom::sync::atomic::AtomicBool::new(value), value.into())
    }

    pub(crate) fn load(&self, ordering: Ordering) -> bool {
        if IS_FINE.get() { self.0.load(ordering) } else { self.1.load(Ordering::Relaxed) }
    }

    pub(crate) fn store(&self, value: bool, ordering: Ordering) {
        if IS_FINE.get() {
            self.0.store(value, ordering);
        } else {
            self.1.store(value, Ordering::Relaxed);
        }
    }
}

/// A figure: the same.
#[derive(Debug, Default)]
pub(crate) struct AtomicFigure(AtomicU64, std::sync::atomic::AtomicU64);

impl AtomicFigure {
    pub(crate) fn load(&self, ordering: Ordering) -> u64 {
        if IS_FINE.get() { self.0.load(ordering) } else { self.1.load(Ordering::Relaxed) }
    }

    pub(crate) fn store(&self, value: u64, ordering: Ordering) {
        if IS_FINE.get() {
            self.0.store(value, ordering);
        } else {
            self.1.store(value, Ordering::Relaxed);
        }
    }
}

/// As crossbeam's: a swap acquires and releases, a load acquires, a store releases. An atomic word of
/// loom's says which value is there; the values lie beside it, under a lock that is no scheduling
/// point. Loads and stores are scheduling points where the model searches finely.
#[derive(Debug)]
pub(crate) struct AtomicCell<T> {
    word: AtomicU64,
    values: std::sync::Mutex<Vec<Option<T>>>,
}

impl<T> AtomicCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { word: AtomicU64::new(0), values: std::sync::Mutex::new(vec![Some(value)]) }
    }

    pub(crate) fn swap(&self, value: T) -> T {
        let before = self.word.swap(self.lay_down(value), Ordering::AcqRel);
        self.values()[before as usize].take().expect("each value is taken up once")
    }

    /// The word of a value that is about to be there.
    fn lay_down(&self, value: T) -> u64 {
        let mut values = self.values();
        values.push(Some(value));
        values.len() as u64 - 1
    }

    fn values(&self) -> std::sync::MutexGuard<'_, Vec<Option<T>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Copy> AtomicCell<T> {
    pub(crate) fn store(&self, value: T) {
        let word = self.lay_down(value);
        if IS_FINE.get() {
            self.word.store(word, Ordering::Release);
        }
    }

    pub(crate) fn load(&self) -> T {
        let word = IS_FINE.get().then(|| self.word.load(Ordering::Acquire) as usize);
        let values = self.values();
        // A model that does not search finely sees the latest.
        values[word.unwrap_or(values.len() - 1)].expect("what is copied is not taken up")
    }
}

impl<T: Default> Default for AtomicCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// One hint for all threads of a model: they are one thread of the system.
pub(crate) fn last_place() -> (usize, Moment) {
    LAST_PLACE.get()
}

pub(crate) fn set_last_place(place: usize, now: Moment) {
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
pub(crate) struct ShardedLock<T>(loom::sync::RwLock<T>);

impl<T> ShardedLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> loom::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> loom::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All threads of a model share one row, as two threads of the same number do.
pub(crate) const ROWS: usize = 1;

/// One more than one: what is swept may have to be put back.
pub(crate) const SLOTS: usize = 2;

pub(crate) fn own_row() -> usize {
    0
}

/// No hint: they are one thread of the system.
pub(crate) fn last_slot() -> usize {
    0
}

pub(crate) fn set_last_slot(_slot: usize) {}

pub(crate) fn take_spare<T: Any + Send + Sync>() -> Option<Arc<T>> {
    SPARE.with(|spare| spare.take())?.downcast().ok()
}

pub(crate) fn lay_by(spare: Arc<dyn Any + Send + Sync>) {
    SPARE.with(|own| own.replace(Some(spare)));
}

loom::thread_local! {
    /// Of each thread of a model, not of the thread of the system.
    static SPARE: RefCell<Option<Arc<dyn Any + Send + Sync>>> = RefCell::new(None);
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

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.0.try_lock().ok()?;
        Some(MutexGuard { mutex: self, guard: Some(guard) })
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
        self.0.notify_all();
    }
}

pub(crate) type Body = Box<dyn FnOnce() + Send>;

pub(crate) fn spawn(_name: String, body: Body) -> io::Result<()> {
    let left = SPAWNS_LEFT.get().checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
    SPAWNS_LEFT.set(left);
    loom::thread::spawn(body);
    Ok(())
}

pub(crate) fn pause(_span: Duration) {
    loom::thread::yield_now();
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
