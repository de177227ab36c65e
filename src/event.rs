//! `Observer`: who is told what happens in a pool, and the events that it is told of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::error::DialFailure;

/// Is told what happens in a pool. Any closure that takes an [`Event`] is one.
///
/// Set it with [`Builder::observer`](crate::Builder::observer). It is called on the thread where the
/// event happened, never under a lock of the pool, so it may use the pool and may block; but what it
/// is told of goes on only when it returns, so it does best to note and leave. A panic in it is
/// caught, counted in [`Stats::panics_total`](crate::Stats), and harms nothing.
///
/// An observer that keeps a handle of its own pool keeps that pool from closing by itself.
pub trait Observer<E>: Send + Sync + 'static {
    /// Something has happened.
    fn observe(&self, event: &Event<'_, E>);
}

impl<E, F: Fn(&Event<'_, E>) + Send + Sync + 'static> Observer<E> for F {
    fn observe(&self, event: &Event<'_, E>) {
        self(event);
    }
}

/// What happens in a pool whose dialer fails with `E`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a, E> {
    /// The dialer has closed a connection.
    #[non_exhaustive]
    Closed {
        /// Why it was taken out.
        reason: CloseReason,
        /// How long after its dial it was taken out.
        age: Duration,
    },
    /// A dial has failed.
    #[non_exhaustive]
    DialFailed {
        /// How.
        failure: &'a DialFailure<E>,
        /// How long it took.
        took: Duration,
    },
}

/// The observer of a pool, if it has one.
pub(crate) struct Watch<E>(Option<Arc<dyn Observer<E>>>);

impl<E> Watch<E> {
    pub(crate) fn by(observer: impl Observer<E>) -> Self {
        Self(Some(Arc::new(observer)))
    }

    #[inline]
    pub(crate) fn observer(&self) -> Option<&dyn Observer<E>> {
        self.0.as_deref()
    }
}

impl<E> Default for Watch<E> {
    fn default() -> Self {
        Self(None)
    }
}

impl<E> Clone for Watch<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> fmt::Debug for Watch<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "observed" } else { "unobserved" })
    }
}
