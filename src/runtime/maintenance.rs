//! Maintenance: one worker watches the clock, and wakes pools when their upkeep is due.
//!
//! A worker watches only while a pool has asked to be woken. It holds pools weakly. No promise relies
//! on it: a connection that is too old is not lent, however late upkeep comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::moment::Moment;
use super::sync::{Condvar, MutexGuard, catch, now};
use super::workers::{Crew, State};

/// A pool, as the watcher sees it.
pub(crate) trait Upkeep: Send + Sync {
    /// Does the upkeep that is due. May ask to be woken again.
    fn upkeep(self: Arc<Self>);
}

/// The pools to be woken, and the worker that watches.
#[derive(Default)]
pub(super) struct Watch {
    /// In the order in which they are due, and then in that in which they came. At most one for each
    /// pool.
    alarms: BTreeMap<Turn, Weak<dyn Upkeep>>,
    /// The turn of each pool that has an alarm.
    turns: BTreeMap<Address, Turn>,
    /// How many alarms there have been.
    count: u64,
    /// The bell of the worker that watches, if one does.
    watcher: Option<Arc<Condvar>>,
    /// Whether the watcher is wanted for a job, as there is no other worker.
    is_interrupted: bool,
}

/// When an alarm is due, and its number.
type Turn = (Moment, u64);

/// Tells a pool from all others, as long as a reference to it exists.
type Address = usize;

fn address(pool: &Weak<dyn Upkeep>) -> Address {
    pool.as_ptr().addr()
}

impl Watch {
    /// Whether a watcher is lacking.
    pub(super) fn is_vacant(&self) -> bool {
        self.watcher.is_none() && !self.alarms.is_empty()
    }

    pub(super) fn is_kept(&self) -> bool {
        self.watcher.is_some()
    }

    /// Has the watcher, if there is one, look for a job first.
    pub(super) fn interrupt(&mut self) {
        self.is_interrupted = self.is_kept();
        self.ring();
    }

    fn ring(&self) {
        self.watcher.iter().for_each(|watcher| watcher.ring());
    }

    /// Takes a pool's alarm out, and returns when it was due.
    fn take(&mut self, pool: &Weak<dyn Upkeep>) -> Option<Moment> {
        let turn = self.turns.remove(&address(pool))?;
        self.alarms.remove(&turn);
        Some(turn.0)
    }

    fn put(&mut self, due: Moment, pool: Weak<dyn Upkeep>) {
        self.count += 1;
        let turn = (due, self.count);
        self.turns.insert(address(&pool), turn);
        self.alarms.insert(turn, pool);
    }

    /// Takes out a pool whose alarm is due.
    fn take_due(&mut self, now: Moment) -> Option<Weak<dyn Upkeep>> {
        self.next_due().filter(|due| *due <= now)?;
        let (_, pool) = self.alarms.pop_first()?;
        self.turns.remove(&address(&pool));
        Some(pool)
    }

    fn next_due(&self) -> Option<Moment> {
        self.alarms.first_key_value().map(|((due, _), _)| *due)
    }
}

impl Crew {
    /// Has `pool` woken at `due` or a little later, or at the time that it named before if that is
    /// sooner: two threads may ask, and the one that names the later time may come last.
    ///
    /// Says whether a worker will see to it. If the system has no thread, the alarm stands all the same,
    /// and the next worker that comes sees to it.
    pub(crate) fn wake_at(self: &Arc<Self>, due: Moment, pool: Weak<dyn Upkeep>) -> bool {
        let mut state = self.state.lock();
        let before = state.watch.next_due();
        let due = state.watch.take(&pool).map_or(due, |earlier| earlier.min(due));
        state.watch.put(due, pool);
        if state.watch.is_kept() {
            if before != state.watch.next_due() {
                state.watch.ring();
            }
            return true;
        }
        self.summon(&mut state, 0).is_ok() || state.is_manned()
    }

    /// Takes the alarm of `pool` back. If no other pool has one, the watcher stops watching.
    pub(crate) fn forget(&self, pool: &Weak<dyn Upkeep>) {
        let mut state = self.state.lock();
        if state.watch.take(pool).is_some() && state.watch.alarms.is_empty() {
            state.watch.ring();
        }
    }

    /// Watches as long as there are alarms, and until it is interrupted for a job.
    pub(super) fn watch(&self, state: &mut MutexGuard<'_, State>, bell: &Arc<Condvar>) {
        state.watch.watcher = Some(Arc::clone(bell));
        while !state.watch.is_interrupted {
            let Some(due) = state.watch.next_due() else { break };
            if let Some(pool) = state.watch.take_due(now()) {
                MutexGuard::unlocked(state, || {
                    // User code is caught where it is called. This catches a fault of our own, which
                    // must not end the upkeep of all pools.
                    catch(|| pool.upgrade().map(|pool| pool.upkeep()));
                });
            } else {
                bell.wait(state, Some(due));
            }
        }
        state.watch.watcher = None;
        state.watch.is_interrupted = false;
    }
}
