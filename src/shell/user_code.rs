//! Calls of user code (dialer, observer, predicates), with their panics caught.

use std::ops::Bound;
use std::sync::Arc;

use crate::abort::AbortHandle;
use crate::dialer::Dialer;
use crate::ledger::Purpose;
use crate::report::event::Event;
use crate::report::log_lines::SharedLog;
use crate::report::spans::{self, Span};
use crate::runtime::sync::catch;

use super::{Connection, Shell};

impl<D: Dialer> Shell<D> {
    /// Runs user code; `None` if it panicked.
    #[inline]
    pub(super) fn user_code<T>(&self, code: impl FnOnce(&D) -> T) -> Option<T> {
        let value = catch(|| code(&self.dialer));
        if value.is_none() {
            self.note_panic();
        }
        value
    }

    /// Calls an abort handle, and drops it.
    pub(super) fn call(&self, handle: AbortHandle) {
        self.user_code(|_| handle.abort());
        // This may be the last clone of the handle, whose drop is user code too.
        self.user_code(|_| drop(handle));
    }

    /// Runs `body` in a span. The subscriber's code is user code: if it panics, the span is lost and
    /// nothing else.
    pub(super) fn in_span<T>(
        &self,
        begin: impl FnOnce(Option<&str>) -> Span,
        body: impl FnOnce() -> T,
    ) -> T {
        let span = self.user_code(|_| begin(self.reporter.name().map(|name| &**name)));
        let value = body();
        if let Some(span) = span {
            self.user_code(|_| spans::end(span));
        }
        value
    }

    /// Whether a check or a reset has succeeded. A panic of the dialer counts as a failure.
    #[inline]
    pub(super) fn has_passed(
        &self,
        purpose: Purpose,
        code: impl FnOnce(&D) -> Result<(), D::Error>,
    ) -> bool {
        let error = match self.user_code(code) {
            Some(Ok(())) => return true,
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.emit_fault(purpose, error);
        false
    }

    #[cold]
    pub(super) fn emit_fault(&self, purpose: Purpose, error: Option<D::Error>) {
        self.emit(|| match purpose {
            Purpose::Reset => Event::ResetFailed { error: error.as_ref() },
            _ => Event::CheckFailed { error: error.as_ref() },
        });
        self.user_code(|_| drop(error));
    }

    /// Tells the observers of an event, if there are any. Never under the lock, and before the
    /// ledger hears of the event, so that an observer sees the consequences later.
    #[inline]
    pub(super) fn emit<'a>(&self, event: impl FnOnce() -> Event<'a, D::Error>)
    where
        D::Error: 'a,
    {
        if self.reporter.has_observer() {
            self.tell_observers(&event());
        }
    }

    #[cold]
    fn tell_observers(&self, event: &Event<'_, D::Error>) {
        if !self.is_inherited() {
            self.reporter.tell(event, || self.note_panic());
        }
    }

    #[cold]
    fn note_panic(&self) {
        if let Some(mut locked) = self.lock() {
            locked.ledger.note_panic();
        }
        self.log(|log, pool| log.panicked(pool));
    }

    /// Writes a line into the program's log. Never under the lock.
    pub(super) fn log(&self, line: impl FnOnce(&SharedLog, Option<&str>)) {
        if !self.is_inherited() {
            self.reporter.log(line);
        }
    }

    /// Whether the predicates of those epochs all let a connection stay.
    pub(super) fn may_stay(&self, connection: &Connection<D>, since: u32, until: u32) -> bool {
        let epochs = (Bound::Excluded(since), Bound::Included(until));
        let predicates: Vec<_> =
            self.predicates.lock().range(epochs).map(|(_, p)| Arc::clone(p)).collect();
        let may_stay =
            predicates.iter().all(|retires| self.user_code(|_| retires(connection)) == Some(false));
        for predicate in predicates {
            self.user_code(|_| drop(predicate));
        }
        may_stay
    }

    #[inline]
    pub(super) fn is_sound(&self, connection: &mut Connection<D>) -> bool {
        self.user_code(|dialer| dialer.is_broken(connection)) == Some(false)
    }
}
