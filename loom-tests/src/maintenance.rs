//! The twin of the crate's `maintenance.rs`: no thread, but a model can have the pools woken.
//!
//! Nothing depends on when that is, so a model does it at any moment: whatever was ordered is due.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Something that asks to be woken now and then.
pub(crate) trait Upkeep: Send + Sync {
    /// The time has come. May ask to be woken again.
    fn upkeep(self: Arc<Self>);
}

thread_local! {
    /// A model's threads are one thread of the system.
    static ASKED: RefCell<Vec<Weak<dyn Upkeep>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn wake_at(_due: Instant, pool: Weak<dyn Upkeep>) -> bool {
    forget(&pool);
    ASKED.with_borrow_mut(|asked| asked.push(pool));
    true
}

pub(crate) fn forget(pool: &Weak<dyn Upkeep>) {
    ASKED.with_borrow_mut(|asked| asked.retain(|other| !other.ptr_eq(pool)));
}

/// Wakes every pool that has asked for it.
pub(crate) fn wake() {
    let asked = ASKED.with_borrow_mut(std::mem::take);
    for pool in asked.iter().filter_map(Weak::upgrade) {
        pool.upkeep();
    }
}
