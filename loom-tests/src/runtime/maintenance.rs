//! The twin of the crate's `maintenance.rs`: nobody watches, but a model can have the pools woken.
//! Models of the crate's own are in `models/watching.rs`.
//!
//! Nothing depends on when that is if it is not too late, so a model does it at any moment, whatever
//! is due, or else once what was ordered is due.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use crate::runtime::moment::Moment;
use crate::runtime::sync::{Condvar, MutexGuard, now};
use crate::runtime::workers::{Crew, State};

/// Something that asks to be woken now and then.
pub(crate) trait Upkeep: Send + Sync {
    /// The time has come. May ask to be woken again.
    fn upkeep(self: Arc<Self>);
}

thread_local! {
    /// A model's threads are one thread of the system.
    static ASKED: RefCell<Vec<Alarm>> = const { RefCell::new(Vec::new()) };
}

type Alarm = (Moment, Weak<dyn Upkeep>);

/// Nobody is wanted for it.
#[derive(Default)]
pub(crate) struct Watch {}

impl Watch {
    pub(crate) fn is_vacant(&self) -> bool {
        false
    }

    pub(crate) fn is_kept(&self) -> bool {
        false
    }

    pub(crate) fn interrupt(&mut self) {}
}

impl Crew {
    pub(crate) fn wake_at(&self, due: Moment, pool: Weak<dyn Upkeep>) -> bool {
        ASKED.with_borrow_mut(|asked| {
            let before = asked.iter().position(|(_, other)| other.ptr_eq(&pool));
            let before = before.map(|at| asked.swap_remove(at).0);
            asked.push((before.map_or(due, |before| before.min(due)), pool));
        });
        true
    }

    pub(crate) fn forget(&self, pool: &Weak<dyn Upkeep>) {
        ASKED.with_borrow_mut(|asked| asked.retain(|(_, other)| !other.ptr_eq(pool)));
    }

    pub(super) fn watch(&self, _: &mut MutexGuard<'_, State>, _: &Arc<Condvar>) {}
}

/// Wakes every pool that has asked for it.
pub(crate) fn wake() {
    wake_those(|_| true);
}

/// Wakes those that have asked for it by now.
pub(crate) fn wake_due() {
    let now = now();
    wake_those(|due| due <= now);
}

fn wake_those(is_due: impl Fn(Moment) -> bool) {
    let asked = ASKED.with_borrow_mut(std::mem::take);
    let (due, later): (Vec<Alarm>, _) = asked.into_iter().partition(|(due, _)| is_due(*due));
    ASKED.set(later);
    for pool in due.iter().filter_map(|(_, pool)| pool.upgrade()) {
        pool.upkeep();
    }
}
