//! `AtomicCell`: crossbeam's, for what it keeps without a lock.

use std::fmt;

use crossbeam_utils::atomic::AtomicCell as Cell;

/// Something that threads share without a lock. Does not compile with what fits no atomic number:
/// that would take one of the locks that all cells of the process share, and the child of a fork might
/// find it locked for ever.
pub(crate) struct AtomicCell<T>(Cell<T>);

impl<T> AtomicCell<T> {
    #[inline]
    pub(crate) const fn new(value: T) -> Self {
        const { assert!(Cell::<T>::is_lock_free()) };
        Self(Cell::new(value))
    }

    #[inline]
    pub(crate) fn swap(&self, value: T) -> T {
        self.0.swap(value)
    }
}

impl<T: Copy> AtomicCell<T> {
    /// Acquires.
    #[inline]
    pub(crate) fn load(&self) -> T {
        self.0.load()
    }

    /// Releases.
    #[inline]
    pub(crate) fn store(&self, value: T) {
        self.0.store(value);
    }
}

impl<T: Copy + Eq> AtomicCell<T> {
    /// Puts `new` where `current` is; otherwise says what is there.
    #[inline]
    pub(crate) fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
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
