//! `Reporter`: a pool's name, and the observer and log that receive its events.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::report::error::DialFailure;
use crate::report::event::{Event, Observer};
use crate::report::holder::Holder;
use crate::report::log_lines::{self, SharedLog, Streak};

/// A pool's name, its observer and its log. All keys of a keyed pool share one.
pub(crate) struct Reporter<E> {
    name: Option<Arc<str>>,
    observer: Option<Arc<Observer<E>>>,
    log: SharedLog,
}

impl<E> Reporter<E> {
    /// This reporter. In the child of a fork: one whose log has no lock of the parent's.
    pub(crate) fn here(self) -> Self {
        Self { log: log_lines::here(self.log), ..self }
    }

    pub(crate) fn set_name(&mut self, name: Arc<str>) {
        self.name = Some(name);
    }

    /// Adds an observer, who is told after those that are there.
    pub(crate) fn add_observer(&mut self, next: impl Fn(&Event<'_, E>) + Send + Sync + 'static)
    where
        E: 'static,
    {
        self.observer = Some(match self.observer.take() {
            None => Arc::new(next),
            Some(first) => Arc::new(move |event: &Event<'_, E>| {
                first(event);
                next(event);
            }),
        });
    }

    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    #[inline]
    pub(crate) fn has_observer(&self) -> bool {
        self.observer.is_some()
    }

    #[inline]
    pub(crate) fn observer(&self) -> Option<&Observer<E>> {
        self.observer.as_deref()
    }

    /// A dial has failed.
    pub(crate) fn log_failure(&self, streak: &Streak, failure: &DialFailure<E>)
    where
        E: Error + 'static,
    {
        self.log.dial_failed(self.name.as_deref(), streak, failure);
    }

    /// From now on, callers that no open connection can serve are turned away.
    pub(crate) fn log_refusals(&self, streak: &Streak, failures: u32) {
        self.log.refusing(self.name.as_deref(), streak, failures);
    }

    /// A dial has succeeded.
    pub(crate) fn log_success(&self, streak: &Streak) {
        self.log.dialed(self.name.as_deref(), streak);
    }

    pub(crate) fn log_leak(&self, holder: &Holder) {
        self.log.leaked(self.name.as_deref(), holder);
    }

    pub(crate) fn log_panic(&self) {
        self.log.panicked(self.name.as_deref());
    }
}

impl<E> Default for Reporter<E> {
    fn default() -> Self {
        Self { name: None, observer: None, log: SharedLog::default() }
    }
}

impl<E> Clone for Reporter<E> {
    fn clone(&self) -> Self {
        let Self { name, observer, log } = self;
        Self { name: name.clone(), observer: observer.clone(), log: log.clone() }
    }
}

impl<E> fmt::Debug for Reporter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter")
            .field("name", &self.name)
            .field("has_observer", &self.has_observer())
            .finish_non_exhaustive()
    }
}
