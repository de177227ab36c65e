//! `HandleError`: a handler of a manager's errors.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::error;

/// Gets each error of [`connect`], [`on_acquire`] and [`is_valid`], on the thread where it happened
/// and under no lock of the pool.
///
/// [`connect`]: crate::ManageConnection::connect
/// [`on_acquire`]: crate::CustomizeConnection::on_acquire
/// [`is_valid`]: crate::ManageConnection::is_valid
///
/// # Examples
///
/// ```
/// use r2d2::HandleError;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Debug, Default)]
/// struct Count(AtomicU64);
///
/// impl<E> HandleError<E> for Count {
///     fn handle_error(&self, _: E) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///     }
/// }
/// ```
pub trait HandleError<E>: Debug + Send + Sync + 'static {
    /// An error has happened.
    fn handle_error(&self, error: E);
}

/// Does nothing with errors.
#[derive(Copy, Clone, Debug)]
pub struct NopErrorHandler;

impl<E> HandleError<E> for NopErrorHandler {
    fn handle_error(&self, _: E) {}
}

/// Logs errors by the `log` crate, at the level `error`: the default.
///
/// While a server is away the pool tries up to twenty times a second. An error that was logged within
/// a second is not logged again, so that the log has one line a second of it.
#[derive(Copy, Clone, Debug)]
pub struct LoggingErrorHandler;

impl<E: Error> HandleError<E> for LoggingErrorHandler {
    fn handle_error(&self, error: E) {
        let line = error.to_string();
        if is_news(&line) {
            error!("{line}");
        }
    }
}

/// For how long a line is not said again.
const SILENCE: Duration = Duration::from_secs(1);

/// Whether the line is another than the latest that was logged, or that was a while ago.
fn is_news(line: &str) -> bool {
    static LATEST: Mutex<Option<(Instant, String)>> = Mutex::new(None);
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    let was_just_said = |(at, before): &(Instant, String)| before == line && at.elapsed() < SILENCE;
    let is_news = !latest.as_ref().is_some_and(was_just_said);
    if is_news {
        *latest = Some((Instant::now(), line.to_owned()));
    }
    is_news
}
