//! `Outage`: how often a server that is away is bothered.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The least time from a failed dial to the next. r2d2's pauses grow to 15 s, and so it finds a server
/// that is back as late. Twenty dials a second bother none.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// Whether the latest dial has failed, and when.
///
/// While dials fail, latebind makes one at a time. What it leaves open is how soon a caller who has
/// just come may have one: at once. As all callers wait here, that would be a dial for each.
#[derive(Debug, Default)]
pub(crate) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// Waits until it is time for a dial, which fails unless the attempt is told otherwise.
    pub(crate) fn attempt(&self) -> Attempt<'_> {
        let failed_at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failed_at) = failed_at {
            thread::sleep(PAUSE.saturating_sub(failed_at.elapsed()));
        }
        Attempt { outage: self, has_succeeded: false }
    }
}

/// A dial under way. It may end by a panic.
pub(crate) struct Attempt<'a> {
    outage: &'a Outage,
    has_succeeded: bool,
}

impl Attempt<'_> {
    pub(crate) fn succeed(mut self) {
        self.has_succeeded = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let failed_at = (!self.has_succeeded).then(Instant::now);
        *self.outage.0.lock().unwrap_or_else(PoisonError::into_inner) = failed_at;
    }
}
