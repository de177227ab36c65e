//! The housekeeper: the one worker that sleeps until the next alarm of a pool, and then does that
//! pool's upkeep.
//!
//! There is one only while a pool has an alarm. It holds pools weakly. No promise relies on it: a
//! connection that is too old is not lent, however late upkeep comes.
//!
//! This file and `workers` know each other, as the housekeeper is a worker, and workers see to it that
//! there is one. They are two files because the models need workers without a housekeeper.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::moment::Moment;
use super::sync::{Condvar, MutexGuard, catch, now};
use super::workers::{Crew, State};

/// A pool, as the housekeeper sees it.
pub(crate) trait Upkeep: Send + Sync {
    /// Does the upkeep that is due. May set another alarm.
    fn upkeep(self: Arc<Self>);

    /// Hears that no worker keeps its alarm any more.
    fn alarm_refused(&self);
}

/// The alarms of all pools, and the worker that keeps them.
#[derive(Default)]
pub(super) struct Alarms {
    /// In the order in which they are due, and then in that in which they were set. At most one for
    /// each pool.
    by_time: BTreeMap<Alarm, Weak<dyn Upkeep>>,
    /// The same alarms by their pools.
    by_pool: BTreeMap<Address, Alarm>,
    /// How many alarms have been set.
    count: u64,
    /// What wakes the housekeeper, if there is one.
    housekeeper: Option<Arc<Condvar>>,
    /// Whether the housekeeper must run a task first, as there is no other worker. Set only while there
    /// is a housekeeper.
    is_interrupted: bool,
    /// Whether some pool counts on a worker for its alarm.
    is_promised: bool,
}

/// When an alarm is due, and its number.
type Alarm = (Moment, u64);

/// Tells a pool from all others, as long as a reference to it exists.
type Address = usize;

fn address(pool: &Weak<dyn Upkeep>) -> Address {
    pool.as_ptr().addr()
}

impl Alarms {
    /// Whether there are alarms, and nobody keeps them.
    pub(super) fn lack_housekeeper(&self) -> bool {
        self.housekeeper.is_none() && !self.by_time.is_empty()
    }

    pub(super) fn have_housekeeper(&self) -> bool {
        self.housekeeper.is_some()
    }

    /// Has the housekeeper, if there is one, run a task first.
    pub(super) fn interrupt(&mut self) {
        self.is_interrupted = self.have_housekeeper();
        self.ring();
    }

    /// The pools that count on a worker for their alarms, and have none.
    pub(super) fn forsaken(&mut self) -> Vec<Weak<dyn Upkeep>> {
        let is_promised = std::mem::take(&mut self.is_promised);
        self.by_time.values().filter(|_| is_promised).cloned().collect()
    }

    fn ring(&self) {
        self.housekeeper.iter().for_each(|condvar| condvar.ring());
    }

    /// Takes a pool's alarm out, and returns when it was due.
    fn take(&mut self, pool: &Weak<dyn Upkeep>) -> Option<Moment> {
        let alarm = self.by_pool.remove(&address(pool))?;
        self.by_time.remove(&alarm);
        Some(alarm.0)
    }

    fn put(&mut self, due: Moment, pool: Weak<dyn Upkeep>) {
        self.count += 1;
        let alarm = (due, self.count);
        self.by_pool.insert(address(&pool), alarm);
        self.by_time.insert(alarm, pool);
    }

    /// Takes out a pool whose alarm is due.
    fn take_due(&mut self, now: Moment) -> Option<Weak<dyn Upkeep>> {
        self.next_due().filter(|due| *due <= now)?;
        let (_, pool) = self.by_time.pop_first()?;
        self.by_pool.remove(&address(&pool));
        Some(pool)
    }

    fn next_due(&self) -> Option<Moment> {
        self.by_time.first_key_value().map(|((due, _), _)| *due)
    }
}

impl Crew {
    /// Sets the alarm of `pool` to `due`, unless it is set to a sooner time: two threads may set it, and
    /// the one with the later time may come last.
    ///
    /// Says whether a worker will keep it. If the system has no thread, the alarm stands all the same,
    /// and the next worker that comes keeps it.
    pub(crate) fn set_alarm(self: &Arc<Self>, due: Moment, pool: Weak<dyn Upkeep>) -> bool {
        let mut state = self.state.lock();
        let before = state.alarms.next_due();
        let due = state.alarms.take(&pool).map_or(due, |earlier| earlier.min(due));
        state.alarms.put(due, pool);
        if before != state.alarms.next_due() {
            state.alarms.ring();
        }
        let is_kept = state.alarms.have_housekeeper()
            || self.summon(&mut state, 0).is_ok()
            || state.has_worker();
        state.alarms.is_promised |= is_kept;
        is_kept
    }

    /// Takes the alarm of `pool` back. Without any alarm the housekeeper becomes a worker like the others.
    pub(crate) fn remove_alarm(&self, pool: &Weak<dyn Upkeep>) {
        let mut state = self.state.lock();
        if state.alarms.take(pool).is_some() && state.alarms.by_time.is_empty() {
            state.alarms.ring();
        }
    }

    /// Makes this worker the housekeeper, as long as there are alarms and until it is interrupted.
    pub(super) fn keep_house(&self, state: &mut MutexGuard<'_, State>, condvar: &Arc<Condvar>) {
        state.alarms.housekeeper = Some(Arc::clone(condvar));
        while !state.alarms.is_interrupted {
            let Some(due) = state.alarms.next_due() else { break };
            if let Some(pool) = state.alarms.take_due(now()) {
                MutexGuard::unlocked(state, || {
                    // User code is caught where it is called. This catches a fault of our own, which
                    // must not end the upkeep of all pools.
                    catch(|| pool.upgrade().map(|pool| pool.upkeep()));
                });
            } else {
                condvar.wait(state, Some(due));
            }
        }
        state.alarms.housekeeper = None;
        state.alarms.is_interrupted = false;
    }
}
