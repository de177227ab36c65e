//! Time and waiting: the system's, or on a thread of a simulation that simulation's.

use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use crate::limits::lock;
use crate::limits::wait_on;

pub(crate) use self::by::expect_panic;
pub(crate) use self::by::now;
pub(crate) use self::by::seed;
pub(crate) use self::by::sleep;

#[cfg(feature = "simulation")]
mod by {
    use std::time::Duration;

    use latebind::simulation::Conductor;
    use latebind::simulation::Place;

    pub(crate) use crate::simulation::expect_panic;
    pub(crate) use crate::simulation::now;
    pub(crate) use crate::simulation::sleep;

    use crate::simulation::this;

    pub(crate) fn seed() -> Option<u64> {
        this().map(|me| me.random())
    }

    /// Waits at `place`, and says whether it has, if this thread is of a simulation.
    pub(crate) fn wait_at(place: usize, limit: Duration) -> bool {
        this().map(|me| me.wait(Place::Bell(place), me.now().checked_add(limit))).is_some()
    }

    pub(crate) fn wake_all_at(place: usize) {
        if let Some(me) = this() {
            me.wake_all(Place::Bell(place));
        }
    }
}

#[cfg(not(feature = "simulation"))]
mod by {
    use std::time::Duration;
    use std::time::Instant;

    pub(crate) use std::thread::sleep;

    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    pub(crate) fn wait_at(_place: usize, _limit: Duration) -> bool {
        false
    }

    pub(crate) fn wake_all_at(_place: usize) {}

    pub(crate) fn expect_panic() {}

    pub(crate) fn seed() -> Option<u64> {
        None
    }
}

/// Tells threads that something has changed.
#[derive(Default)]
pub(crate) struct Changed(Condvar);

impl Changed {
    pub(crate) fn tell(&self) {
        self.0.notify_all();
        by::wake_all_at(self.place());
    }

    /// Waits until a state is as wanted, or `limit` is over. Returns the state as it is then.
    pub(crate) fn await_state<'a, T>(
        &self,
        shared: &'a Mutex<T>,
        limit: Duration,
        mut is_so: impl FnMut(&T) -> bool,
    ) -> MutexGuard<'a, T> {
        let begun = now();
        loop {
            let state = lock(shared);
            let left = limit.saturating_sub(now() - begun);
            if left.is_zero() || is_so(&state) {
                return state;
            }
            drop(state);
            if !by::wait_at(self.place(), left) {
                return wait_on(&self.0, lock(shared), left, is_so);
            }
        }
    }

    fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
