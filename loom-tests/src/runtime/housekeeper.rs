//! The twin of the crate's `housekeeper.rs`: there is none, but a model can do the pools' upkeep.
//! Models of the crate's own are in `models/housekeeping.rs`.
//!
//! Nothing depends on when upkeep comes if it is not too late. So a model does it at any moment, or
//! once an alarm is due.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use crate::runtime::moment::Moment;
use crate::runtime::sync::{Condvar, MutexGuard, now};
use crate::runtime::workers::{Crew, State};

/// A pool, as the housekeeper sees it.
pub(crate) trait Upkeep: Send + Sync {
    /// Does the upkeep that is due. May set another alarm.
    fn upkeep(self: Arc<Self>);

    /// Hears that no worker keeps its alarm any more.
    fn alarm_refused(&self);
}

thread_local! {
    /// A model's threads are one thread of the system.
    static ASKED: RefCell<Vec<Alarm>> = const { RefCell::new(Vec::new()) };
}

type Alarm = (Moment, Weak<dyn Upkeep>);

/// No housekeeper is needed.
#[derive(Default)]
pub(crate) struct Alarms {}

impl Alarms {
    pub(crate) fn lack_housekeeper(&self) -> bool {
        false
    }

    pub(crate) fn have_housekeeper(&self) -> bool {
        false
    }

    pub(crate) fn interrupt(&mut self) {}

    pub(crate) fn forsaken(&mut self) -> Vec<Weak<dyn Upkeep>> {
        Vec::new()
    }
}

impl Crew {
    pub(crate) fn set_alarm(&self, due: Moment, pool: Weak<dyn Upkeep>) -> bool {
        ASKED.with_borrow_mut(|asked| {
            let before = asked.iter().position(|(_, other)| other.ptr_eq(&pool));
            let before = before.map(|at| asked.swap_remove(at).0);
            asked.push((before.map_or(due, |before| before.min(due)), pool));
        });
        true
    }

    pub(crate) fn remove_alarm(&self, pool: &Weak<dyn Upkeep>) {
        ASKED.with_borrow_mut(|asked| asked.retain(|(_, other)| !other.ptr_eq(pool)));
    }

    pub(super) fn keep_house(&self, _: &mut MutexGuard<'_, State>, _: &Arc<Condvar>) {}
}

/// Does the upkeep of every pool that has an alarm.
pub(crate) fn wake() {
    wake_those(|_| true);
}

/// Does the upkeep of the pools whose alarm is due.
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
