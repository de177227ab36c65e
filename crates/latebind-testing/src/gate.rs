//! `Gate`: where a scripted call waits until a test lets it go on.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use crate::limits::lock;
use crate::pace::Changed;

/// A place to wait at until a test opens it. Clones are the same gate.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use latebind::Pool;
/// use latebind_testing::{Act, Gate, Hook, Scripted};
///
/// let gate = Gate::new();
/// let dialer = Scripted::new();
/// dialer.script().on(Hook::Dial, [Act::Proceed.once_open(&gate)]);
/// let pool = Pool::new(dialer);
/// std::thread::scope(|scope| {
///     let caller = scope.spawn(|| pool.get().is_ok());
///     gate.await_arrivals(1, Duration::from_secs(10)); // The dial is under way.
///     gate.open();
///     assert!(caller.join().unwrap());
/// });
/// ```
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Changed)>);

#[derive(Default)]
struct State {
    is_open: bool,
    arrivals: u32,
}

impl Gate {
    /// A gate that is shut.
    ///
    /// # Examples
    ///
    /// See [`Gate`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets all go on that wait here, and all that come.
    ///
    /// # Examples
    ///
    /// See [`Gate`].
    pub fn open(&self) {
        self.state().is_open = true;
        self.0.1.tell();
    }

    /// Waits until the gate is open.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind_testing::Gate;
    ///
    /// let gate = Gate::new();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| gate.pass());
    ///     gate.open();
    /// });
    /// ```
    pub fn pass(&self) {
        self.state().arrivals += 1;
        self.0.1.tell();
        drop(self.0.1.await_state(&self.0.0, Duration::MAX, |state| state.is_open));
    }

    /// Waits until `count` calls have come here, those that went on included.
    ///
    /// # Panics
    ///
    /// If `limit` is over first.
    ///
    /// # Examples
    ///
    /// See [`Gate`].
    #[track_caller]
    pub fn await_arrivals(&self, count: u32, limit: Duration) {
        let state = self.0.1.await_state(&self.0.0, limit, |state| state.arrivals >= count);
        let arrivals = state.arrivals;
        drop(state);
        assert!(arrivals >= count, "{arrivals} of {count} came to the gate in {limit:?}");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.0)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { is_open, arrivals } = *self.state();
        f.debug_struct("Gate").field("is_open", &is_open).field("arrivals", &arrivals).finish()
    }
}
