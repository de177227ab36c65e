//! Numbers and items that threads share without a lock, built on the atomics of `sync`.
//!
//! The models compile this file as it is.

use crossbeam_utils::CachePadded;

use crate::runtime::sync::{
    AtomicBool, AtomicCell, AtomicFigure, AtomicI64, Ordering, STRIPES, stripe,
};

/// A number that threads read as it is now, or as it was just before.
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

/// A number to which many threads add and that few read: each thread adds to a part that few others
/// use.
///
/// If two threads each add and then read, at least one of them reads what both have added.
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

/// A field of no size, after which a struct that keeps the order of its fields begins a new cache line.
pub(crate) type NewLine = CachePadded<()>;

/// Holds one item that threads put and take without a lock. On cache lines of its own.
pub(crate) struct Shelf<T>(CachePadded<Cell<T>>);

struct Cell<T> {
    item: AtomicCell<Option<T>>,
    /// A hint whether `item` is there. It is written after each change of `item`, so it can be wrong for
    /// a moment, and after two changes at once it can stay wrong. No thread may conclude from it that
    /// there is no item.
    looks_taken: AtomicBool,
}

impl<T> Shelf<T> {
    pub(crate) fn new() -> Self {
        let (item, looks_taken) = (AtomicCell::new(None), AtomicBool::new(false));
        Self(CachePadded::new(Cell { item, looks_taken }))
    }

    /// Puts `item` there, and returns what was there.
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

    /// A hint whether there is something to take, which costs no exclusive access to the cache line.
    #[inline]
    pub(crate) fn looks_taken(&self) -> bool {
        self.0.looks_taken.load(Ordering::Relaxed)
    }
}
