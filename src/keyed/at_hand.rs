//! What threads have at hand: references that they used last, moved and never counted.
//!
//! To count a reference is to write where all threads of a busy key write. So each thread has a row
//! of slots and moves references: out with a guard, and back when that is dropped.
//!
//! Nothing of a key that has gone may stay in a slot, whoever's it is. A reference that is put down
//! and the strike of its key must not miss each other:
//!
//! 1. Whoever puts one down reads the number of strikes, *then* sees that the key has not gone, swaps
//!    the reference into the slot, and reads the number again. If it is another, it empties the slot.
//! 2. Whoever strikes a key notes that it has gone, *then* adds a strike, *then* swaps nothing into
//!    each slot, and puts back what is not of that key, as in 1.
//!
//! If the former has not seen that the key has gone, it has read the number before the strike. Both
//! swap in the same slot, and one of the swaps comes first. If the former's, the latter finds the
//! reference. If the latter's, the former reads what it has written, and so finds another number.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::sync::{
    AtomicCell, AtomicFigure, AtomicU64, Ordering, ROWS, SLOTS, catch, last_slot, own_row,
    set_last_slot,
};

/// Something that threads keep at hand as long as it is of use.
pub(super) trait Item {
    /// What tells it from most others; not 0.
    fn tag(&self) -> u64;

    /// Whether it is of no more use.
    fn has_gone(&self) -> bool;
}

/// The slots of the threads of one number, on cache lines of their own.
struct Row<T>(CachePadded<[Slot<T>; SLOTS]>);

/// Room for one item.
struct Slot<T> {
    item: AtomicCell<Option<T>>,
    /// The tag of what is there, most probably, or 0: a hint that costs no exclusive access.
    tag: AtomicFigure,
}

impl<T> Row<T> {
    fn new() -> Self {
        let slot = |_| Slot { item: AtomicCell::new(None), tag: AtomicFigure::default() };
        Self(CachePadded::new(std::array::from_fn(slot)))
    }

    /// Puts an item down, and takes up what was there.
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
    /// How often something has gone.
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
    /// Takes what comes after the item that this thread took last, if that `is_it`. Threads go round
    /// the few that they have; one that had not what it looked for last is likely to have more.
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

    /// Takes an item of that tag, if it `is_it`.
    pub(super) fn take(&self, tag: u64, is_it: impl FnOnce(&T) -> bool) -> Option<Arc<T>> {
        let row = self.row();
        let Some(at) = (0..SLOTS).find(|at| row.tag(*at) == tag) else {
            set_last_slot(last_slot() % SLOTS + SLOTS);
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
        self.put_in(row, at, item);
        None
    }

    /// Keeps an item at hand for this thread: where it was, or else where nothing is, or else in
    /// place of the one that has been there for longest.
    #[inline]
    pub(super) fn put(&self, item: Arc<T>) {
        let (row, last) = (self.row(), last_slot());
        let is_free = last < SLOTS && row.tag(last) == 0;
        let at = if is_free { last } else { Self::another(row, last) };
        self.put_in(row, at, item);
    }

    #[inline(never)]
    fn another(row: &Row<Arc<T>>, last: usize) -> usize {
        let free = (0..SLOTS).find(|at| row.tag(*at) == 0);
        let at = free.unwrap_or((last + 1) % SLOTS);
        set_last_slot(last - last % SLOTS + at);
        at
    }

    #[inline]
    fn put_in(&self, row: &Row<Arc<T>>, at: usize, item: Arc<T>) {
        let strikes = self.strikes.load(Ordering::Acquire);
        if item.has_gone() {
            return let_go(item);
        }
        let tag = item.tag();
        let displaced = row.swap(at, item, tag);
        displaced.into_iter().for_each(let_go);
        if self.strikes.load(Ordering::Acquire) != strikes {
            row.take(at).into_iter().for_each(let_go);
        }
    }

    /// Nobody has it at hand any more: it has been noted that it has gone.
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

/// Perhaps the last reference, and the end of a dialer: user code.
#[cold]
fn let_go<T>(item: Arc<T>) {
    catch(|| drop(item));
}
