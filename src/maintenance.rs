//! Maintenance: one worker that watches the clock, and wakes the pools whose time has come.
//!
//! One watches only while a pool has asked to be woken; it holds pools weakly. No pool relies on it:
//! what has aged is not lent, whenever that is noticed.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::moment::Moment;
use super::sync::{Condvar, MutexGuard, catch, now};
use super::workers::{Crew, State};

/// Something that asks to be woken now and then.
pub(crate) trait Upkeep: Send + Sync {
    /// The time has come. May ask to be woken again.
    fn upkeep(self: Arc<Self>);
}

/// Who is to be woken, and by whom.
#[derive(Default)]
pub(super) struct Watch {
    /// By when they are due. At most one for each pool.
    alarms: BTreeMap<(Moment, Address), Weak<dyn Upkeep>>,
    /// When each pool's is.
    due: BTreeMap<Address, Moment>,
    /// Rung for the worker that watches, if one does.
    watcher: Option<Arc<Condvar>>,
    /// It is wanted for something else, as there is no other.
    is_interrupted: bool,
}

/// Tells a pool from all others for as long as anything refers to it.
type Address = usize;

fn address(pool: &Weak<dyn Upkeep>) -> Address {
    pool.as_ptr().addr()
}

impl Watch {
    /// Whether nobody watches although somebody should.
    pub(super) fn is_vacant(&self) -> bool {
        self.watcher.is_none() && !self.alarms.is_empty()
    }

    pub(super) fn is_kept(&self) -> bool {
        self.watcher.is_some()
    }

    /// Has the worker that watches, if one does, look for something else to do first.
    pub(super) fn interrupt(&mut self) {
        self.is_interrupted = self.is_kept();
        self.ring();
    }

    fn ring(&self) {
        self.watcher.iter().for_each(|watcher| watcher.ring());
    }

    /// Takes out the pool's alarm. Says for when it was.
    fn take(&mut self, pool: &Weak<dyn Upkeep>) -> Option<Moment> {
        let address = address(pool);
        let due = self.due.remove(&address)?;
        self.alarms.remove(&(due, address));
        Some(due)
    }

    fn put(&mut self, due: Moment, pool: Weak<dyn Upkeep>) {
        self.due.insert(address(&pool), due);
        self.alarms.insert((due, address(&pool)), pool);
    }

    /// Takes out a pool whose time has come.
    fn take_due(&mut self, now: Moment) -> Option<Weak<dyn Upkeep>> {
        self.next_due().filter(|due| *due <= now)?;
        let ((_, address), pool) = self.alarms.pop_first()?;
        self.due.remove(&address);
        Some(pool)
    }

    fn next_due(&self) -> Option<Moment> {
        self.alarms.first_key_value().map(|((due, _), _)| *due)
    }
}

impl Crew {
    /// Has `pool` woken at `due` or a little later, or at the time that it named before if that is
    /// sooner: of two threads that ask, the one that names the later time may come last.
    ///
    /// Says whether that will be: there may be no worker, and no thread to be had. The alarm stands
    /// even so, and the next worker that comes sees to it.
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

    /// Wakes `pool` no more. If no other pool asks for it, nobody watches.
    pub(crate) fn forget(&self, pool: &Weak<dyn Upkeep>) {
        let mut state = self.state.lock();
        if state.watch.take(pool).is_some() && state.watch.alarms.is_empty() {
            state.watch.ring();
        }
    }

    /// Watches for as long as there is anybody to be woken, and nothing else to be done by this one.
    pub(super) fn watch(&self, state: &mut MutexGuard<'_, State>, bell: &Arc<Condvar>) {
        state.watch.watcher = Some(Arc::clone(bell));
        while !state.watch.is_interrupted {
            let Some(due) = state.watch.next_due() else { break };
            if let Some(pool) = state.watch.take_due(now()) {
                MutexGuard::unlocked(state, || {
                    // What it runs is caught where it is called; a fault of our own must not end
                    // all upkeep.
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
