//! Numbers and items that threads share without a lock, over the atomics of `sync`.
//!
//! The models compile this file as it is.

use crossbeam_utils::CachePadded;

use crate::sync::{
    AtomicBool, AtomicCell, AtomicFigure, AtomicI64, Mutex, Ordering, STRIPES, stripe,
};

/// A number that threads read as it is now or was just before.
#[derive(Debug, Default)]
pub(crate) struct Figure(AtomicFigure);

impl Figure {
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

impl Tally {
    #[inline]
    pub(crate) fn add(&self, more: i64) {
        self.0[stripe()].fetch_add(more, Ordering::SeqCst);
    }

    pub(crate) fn sum(&self) -> i64 {
        self.0.iter().map(|stripe| stripe.load(Ordering::SeqCst)).sum()
    }
}

/// The latest copy of what a lock protects, for whoever must not wait for that lock: a reader waits
/// for nothing but a copy being made. On cache lines of its own.
///
/// A lock of its own, as an `AtomicCell` of more than a word takes one of those that all cells of the
/// process share: the child of a fork might find it locked for ever.
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
pub(crate) struct Shelf<T>(CachePadded<Cell<T>>);

struct Cell<T> {
    item: AtomicCell<Option<T>>,
    /// Whether `item` was there when somebody last changed it, most probably. Written after that
    /// change, and so for a moment, or after two changes at once for good, it may say the wrong
    /// thing. Nobody may conclude from it that an item is not there.
    looks_taken: AtomicBool,
}

impl<T> Shelf<T> {
    pub(crate) fn new() -> Self {
        let (item, looks_taken) = (AtomicCell::new(None), AtomicBool::new(false));
        Self(CachePadded::new(Cell { item, looks_taken }))
    }

    /// Puts an item down, and takes up what was there.
    #[inline]
    pub(crate) fn swap(&self, item: T) -> Option<T> {
        self.exchange(Some(item))
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<T> {
        self.exchange(None)
    }

    #[inline]
    fn exchange(&self, item: Option<T>) -> Option<T> {
        let looks_taken = item.is_some();
        let before = self.0.item.swap(item);
        self.0.looks_taken.store(looks_taken, Ordering::Relaxed);
        before
    }

    /// Whether there is something to take, most probably: a hint that costs no exclusive access.
    #[inline]
    pub(crate) fn looks_taken(&self) -> bool {
        self.0.looks_taken.load(Ordering::Relaxed)
    }
}
