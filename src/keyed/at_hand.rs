//! The references that each thread used last: kept at hand, moved and never counted.
//!
//! Counting a reference writes to a cache line that all threads of a busy key write. So each thread
//! has a row of slots and moves references: out with a guard, and back when the guard is dropped. A thread
//! that goes round more keys than it has slots for keeps few of them: each one kept displaces another, which
//! is two writes more than its use saves. It is known by its `last_slot`: the slot that it used last, plus
//! `SLOTS` for each look-up in a row that found nothing in its slots.
//!
//! No reference to a key that has gone may stay in any thread's slot. A thread that puts a
//! reference into a slot and a thread that strikes its key must not miss each other:
//!
//! 1. A putter reads the number of strikes, *then* sees that the key has not gone, swaps the
//!    reference into the slot, and reads the number again. If the number has changed, it empties
//!    the slot.
//! 2. A striker marks the key as gone, *then* adds a strike, *then* takes the reference out of each
//!    slot, and puts back those to other keys, as in 1.
//!
//! If the putter has not seen that the key has gone, it has read the number before the strike. Both
//! swap in the same slot, and one of the swaps comes first. If the putter's comes first, the
//! striker finds the reference. If the striker's comes first, the putter reads what the striker has
//! written, and so finds a changed number.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::runtime::sync::{
    AtomicCell, AtomicFigure, AtomicU64, Ordering, ROWS, SLOTS, catch, last_slot, own_row,
    set_last_slot,
};

/// Something that threads keep at hand as long as it is useful.
pub(super) trait Item {
    /// A number that differs for most items; not 0.
    fn tag(&self) -> u64;

    /// Whether it is no longer useful.
    fn has_gone(&self) -> bool;
}

/// The slots of the threads with one row number, on cache lines of their own.
struct Row<T>(CachePadded<[Slot<T>; SLOTS]>);

/// A thread that keeps missing puts only one item in so many into its slots, and so notices when it uses few
/// keys again.
const KEEPS_ONE_IN: usize = 8;

/// Room for one item.
struct Slot<T> {
    item: AtomicCell<Option<T>>,
    /// A hint that costs no exclusive access: most probably the tag of the item, or 0 if there is
    /// none.
    tag: AtomicFigure,
}

impl<T> Row<T> {
    fn new() -> Self {
        let slot = |_| Slot { item: AtomicCell::new(None), tag: AtomicFigure::default() };
        Self(CachePadded::new(std::array::from_fn(slot)))
    }

    /// Puts an item into a slot, and returns the item that was there.
    #[inline]
    fn swap(&self, at: usize, item: T, tag: u64) -> Option<T> {
        let displaced = self.0[at].item.swap(Some(item));
        self.0[at].tag.store(tag, Ordering::Relaxed);
        displaced
    }

    #[inline]
    fn take(&self, at: usize) -> Option<T> {
        let item = self.0[at].item.swap(None);
        self.0[at].tag.store(0, Ordering::Relaxed);
        item
    }

    #[inline]
    fn tag(&self, at: usize) -> u64 {
        self.0[at].tag.load(Ordering::Relaxed)
    }
}

/// The rows of all threads.
pub(super) struct AtHand<T> {
    rows: Box<[Row<Arc<T>>]>,
    /// How many items have gone.
    strikes: AtomicU64,
}

impl<T> AtHand<T> {
    pub(super) fn new() -> Self {
        let rows = std::iter::repeat_with(Row::new).take(ROWS).collect();
        Self { rows, strikes: AtomicU64::new(0) }
    }

    #[inline]
    fn row(&self) -> &Row<Arc<T>> {
        &self.rows[own_row()]
    }
}

impl<T: Item> AtHand<T> {
    /// Takes the item after the one that this thread took last, if `is_it` accepts it. A thread
    /// usually goes round its few items. If its last look-up found nothing in its slots, it is likely
    /// to use more keys than fit, and the slots are not tried.
    #[inline]
    pub(super) fn take_next(&self, is_it: impl FnOnce(&T) -> bool) -> Option<Arc<T>> {
        let row = self.row();
        let last = last_slot();
        if last >= SLOTS {
            return None;
        }
        let at = (last + 1..=last + SLOTS).map(|at| at % SLOTS).find(|at| row.tag(*at) != 0)?;
        self.take_from(row, at, is_it)
    }

    /// Takes an item with that tag, if `is_it` accepts it.
    pub(super) fn take(&self, tag: u64, is_it: impl FnOnce(&T) -> bool) -> Option<Arc<T>> {
        let row = self.row();
        let Some(at) = (0..SLOTS).find(|at| row.tag(*at) == tag) else {
            set_last_slot(last_slot().wrapping_add(SLOTS));
            return None;
        };
        self.take_from(row, at, is_it)
    }

    #[inline]
    fn take_from(
        &self,
        row: &Row<Arc<T>>,
        at: usize,
        is_it: impl FnOnce(&T) -> bool,
    ) -> Option<Arc<T>> {
        let item = row.take(at)?;
        if !item.has_gone() && is_it(&item) {
            set_last_slot(at);
            return Some(item);
        }
        self.put_in(row, at, item); // Unless it has gone: then it is dropped there.
        None
    }

    /// Keeps an item at hand for this thread: in the slot from which it came, or else in an empty
    /// one, or else perhaps in place of the oldest item.
    #[inline]
    pub(super) fn put(&self, item: Arc<T>) {
        let (row, last) = (self.row(), last_slot());
        if last < SLOTS && row.tag(last) == 0 {
            self.put_in(row, last, item);
        } else {
            self.put_elsewhere(row, last, item);
        }
    }

    #[inline(never)]
    fn put_elsewhere(&self, row: &Row<Arc<T>>, last: usize, item: Arc<T>) {
        let (slot, misses) = (last % SLOTS, last / SLOTS);
        let free = (0..SLOTS).find(|at| row.tag(*at) == 0);
        if free.is_none() && misses > 1 && misses % KEEPS_ONE_IN != 0 {
            return drop_caught(item);
        }
        let at = free.unwrap_or((slot + 1) % SLOTS);
        set_last_slot(last - slot + at);
        self.put_in(row, at, item);
    }

    #[inline]
    fn put_in(&self, row: &Row<Arc<T>>, at: usize, item: Arc<T>) {
        let strikes = self.strikes.load(Ordering::Acquire);
        if item.has_gone() {
            return drop_caught(item);
        }
        let tag = item.tag();
        let displaced = row.swap(at, item, tag);
        displaced.into_iter().for_each(drop_caught);
        if self.strikes.load(Ordering::Acquire) != strikes {
            row.take(at).into_iter().for_each(drop_caught);
        }
    }

    /// Removes an item from all threads' slots. It must already be marked as gone.
    pub(super) fn strike(&self, item: &T) {
        debug_assert!(item.has_gone(), "it is noted first");
        self.strikes.fetch_add(1, Ordering::AcqRel);
        for row in &self.rows {
            for at in 0..SLOTS {
                if let Some(item) = row.take(at) {
                    self.put_in(row, at, item);
                }
            }
        }
    }
}

/// Drops what may be the last reference, and so a dialer: user code.
#[cold]
fn drop_caught<T>(item: Arc<T>) {
    catch(|| drop(item));
}
