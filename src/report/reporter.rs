//! `Reporter`: a pool's name, and the observers and log that receive its events.

use std::fmt;
use std::sync::Arc;

use crate::report::event::{Event, Observer};
use crate::report::log_lines::{self, SharedLog};
use crate::runtime::sync::catch;

/// A pool's name, its observers and its log. All keys of a keyed pool share one.
pub(crate) struct Reporter<E> {
    name: Option<Arc<str>>,
    /// All but empty, so that a pool without an observer reads one word.
    observers: Option<Arc<Vec<Arc<Observer<E>>>>>,
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
        Arc::make_mut(self.observers.get_or_insert_default()).push(Arc::new(next));
    }

    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    #[inline]
    pub(crate) fn has_observer(&self) -> bool {
        self.observers.is_some()
    }

    /// Tells the observers of an event, each of them whether another one panics or not.
    pub(crate) fn tell(&self, event: &Event<'_, E>, note_panic: impl Fn()) {
        for observer in self.observers.iter().flat_map(|observers| &**observers) {
            if catch(|| observer(event)).is_none() {
                note_panic();
            }
        }
    }

    /// Has `line` written into the program's log, under this pool's name.
    pub(crate) fn log(&self, line: impl FnOnce(&SharedLog, Option<&str>)) {
        line(&self.log, self.name.as_deref());
    }
}

impl<E> Default for Reporter<E> {
    fn default() -> Self {
        Self { name: None, observers: None, log: SharedLog::default() }
    }
}

impl<E> Clone for Reporter<E> {
    fn clone(&self) -> Self {
        let Self { name, observers, log } = self;
        Self { name: name.clone(), observers: observers.clone(), log: log.clone() }
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
