//! `Cancel`: ends, from another thread, the waits that were started with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::ledger::Ticket;
use crate::runtime::sync::{Mutex, MutexGuard, Process};

/// Ends the waits of callers from another thread.
///
/// A handle: all clones are the same token. It may serve any number of callers, one after the other
/// or at once, in any number of pools. Once cancelled, it stays cancelled.
///
/// In the child of a fork, a token from before the fork counts as cancelled, because the threads
/// that waited with it do not exist there.
///
/// # Examples
///
/// ```
/// use latebind::{Cancel, GetError, Pool, net::TcpDialer};
/// use std::time::Duration;
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let dialer = TcpDialer::from(listener.local_addr()?);
/// let pool = Pool::builder(dialer).max_open(1).build()?;
/// let held = pool.get()?;
/// let cancel = Cancel::new();
/// std::thread::scope(|scope| {
///     let caller = scope.spawn(|| pool.checkout().cancel(&cancel).timeout(Duration::MAX).get().map(drop));
///     cancel.cancel();
///     assert!(matches!(caller.join().unwrap(), Err(GetError::Cancelled)));
/// });
/// # drop(held);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Cancel {
    state: Arc<Mutex<State>>,
    /// The process that made it.
    process: Process,
}

struct State {
    is_cancelled: bool,
    next_wait: u64,
    /// The waits with this token, each for as long as it lasts. Weak, so that a token keeps no pool
    /// open.
    waits: BTreeMap<u64, (Weak<dyn Cancellable>, Ticket)>,
}

/// A pool in which callers wait.
pub(crate) trait Cancellable: Send + Sync {
    /// Ends the wait of the holder of `ticket`, if it still waits.
    fn cancel(self: Arc<Self>, ticket: Ticket);
}

impl Cancel {
    /// A token that nobody has cancelled.
    #[must_use]
    pub fn new() -> Self {
        let state = State { is_cancelled: false, next_wait: 0, waits: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)), process: Process::this() }
    }

    /// `None` in a child of its process, where another thread's lock may never be unlocked.
    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        (!self.process.is_a_parent()).then(|| self.state.lock())
    }

    /// Ends all waits that were started with this token, and lets none start from now on.
    ///
    /// Each such caller gets [`GetError::Cancelled`](crate::GetError::Cancelled). A caller that was
    /// given a connection at that moment keeps it. May be called more than once.
    pub fn cancel(&self) {
        let waits = {
            let Some(mut state) = self.lock() else { return };
            state.is_cancelled = true;
            std::mem::take(&mut state.waits)
        };
        for (pool, ticket) in waits.into_values() {
            if let Some(pool) = pool.upgrade() {
                pool.cancel(ticket);
            }
        }
    }

    /// Whether it has been cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.lock().is_none_or(|state| state.is_cancelled)
    }

    /// Registers the wait of the holder of `ticket`, for as long as the returned value lives. `None`: it
    /// was cancelled before.
    pub(crate) fn register(
        &self,
        pool: Weak<dyn Cancellable>,
        ticket: Ticket,
    ) -> Option<Registration<'_>> {
        let mut state = self.lock().filter(|state| !state.is_cancelled)?;
        state.next_wait += 1;
        let wait = state.next_wait;
        state.waits.insert(wait, (pool, ticket));
        Some(Registration { cancel: self, wait })
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (is_cancelled, waiting) =
            self.lock().map_or((true, 0), |state| (state.is_cancelled, state.waits.len()));
        f.debug_struct("Cancel")
            .field("is_cancelled", &is_cancelled)
            .field("waiting", &waiting)
            .finish()
    }
}

/// A registered wait. Dropping it removes the wait from the token.
pub(crate) struct Registration<'a> {
    cancel: &'a Cancel,
    wait: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        if let Some(mut state) = self.cancel.lock() {
            state.waits.remove(&self.wait);
        }
    }
}
