//! `AtomicCell`: crossbeam's, limited to types that it keeps without a lock.

use std::fmt;

use crossbeam_utils::atomic::AtomicCell as Cell;

use super::conductor::step;

/// A value that threads share without a lock. A type that fits no atomic integer does not compile:
/// crossbeam would use one of the locks that all cells of the process share, and the child of a
/// fork might find it locked for ever.
pub(crate) struct AtomicCell<T>(Cell<T>);

impl<T> AtomicCell<T> {
    #[inline]
    pub(crate) const fn new(value: T) -> Self {
        const { assert!(Cell::<T>::is_lock_free()) };
        Self(Cell::new(value))
    }

    #[inline]
    pub(crate) fn swap(&self, value: T) -> T {
        step();
        self.0.swap(value)
    }
}

impl<T: Copy> AtomicCell<T> {
    /// Loads with acquire ordering.
    #[inline]
    pub(crate) fn load(&self) -> T {
        step();
        self.0.load()
    }

    /// Stores with release ordering.
    #[inline]
    pub(crate) fn store(&self, value: T) {
        step();
        self.0.store(value);
    }
}

impl<T: Copy + Eq> AtomicCell<T> {
    /// Replaces `current` by `new`; if another value was found, returns it as `Err`.
    #[inline]
    pub(crate) fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        step();
        self.0.compare_exchange(current, new)
    }
}

impl<T: Default> Default for AtomicCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Copy + fmt::Debug> fmt::Debug for AtomicCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
