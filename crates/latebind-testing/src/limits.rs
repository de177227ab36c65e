//! Waits that end, whatever is waited for.

use std::panic;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::pace;

pub(crate) fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Waits until a state is as wanted, or `limit` is over. Returns the state as it is then.
pub(crate) fn wait_on<'a, T>(
    changed: &Condvar,
    mut state: MutexGuard<'a, T>,
    limit: Duration,
    mut is_so: impl FnMut(&T) -> bool,
) -> MutexGuard<'a, T> {
    let begun = Instant::now();
    while !is_so(&state) {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            break;
        }
        state = changed.wait_timeout(state, left).unwrap_or_else(|poison| poison.into_inner()).0;
    }
    state
}

/// Waits for a condition that nobody reports, and says whether it came true.
pub(crate) fn comes_true(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let begun = pace::now();
    while !is_so() {
        if pace::now() - begun >= limit {
            return false;
        }
        pace::sleep(Duration::from_millis(1));
    }
    true
}

/// Does `work` on a thread of its own, and says how long it took.
///
/// # Panics
///
/// If `work` panics, or has not ended within `limit`. Then its thread is left behind.
#[track_caller]
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> (T, Duration) {
    let begun = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let outcome = work();
        let _ = sender.send((outcome, begun.elapsed())); // Nobody listens after the limit.
    });
    match receiver.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what} had not ended after {limit:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => panic::resume_unwind(panic),
            Ok(()) => unreachable!("it has sent what it found"),
        },
    }
}

/// The message of a panic.
pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
