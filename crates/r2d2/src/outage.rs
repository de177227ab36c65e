//! `Outage`: how often a server that serves nobody is bothered.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The least time from one dial to the next. r2d2's pauses grow to 15 s, and so it finds a server that
/// is back as late. Twenty dials a second bother none.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// Whether dials are of use, and when the next may be made while they are not.
///
/// latebind makes one dial at a time while dials fail. It leaves two things open: how soon a caller
/// who has just come may have one (at once, and here all callers wait for a server that is away), and
/// what it cannot know of connections that open and then are not valid.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// `None`: at once.
    next: Mutex<Option<Instant>>,
    is_over: Condvar,
}

impl Outage {
    /// Waits until it is time for a dial.
    pub(crate) fn await_turn(&self) {
        let mut next = self.lock();
        let Some(at) = &mut *next else { return };
        let now = Instant::now();
        let turn = now.max(*at);
        *at = turn + PAUSE;
        let wait = turn.duration_since(now);
        drop(self.is_over.wait_timeout_while(next, wait, |next| next.is_some()));
    }

    /// Notes whether a dial was of use.
    pub(crate) fn note(&self, was_of_use: bool) {
        let mut next = self.lock();
        if was_of_use {
            *next = None;
            self.is_over.notify_all();
        } else {
            *next = (*next).max(Some(Instant::now() + PAUSE));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A dial under way, which may end by a panic: of no use unless it is told otherwise.
pub(crate) struct Attempt<'a> {
    pub(crate) outage: &'a Outage,
    pub(crate) was_of_use: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.outage.note(self.was_of_use);
    }
}
