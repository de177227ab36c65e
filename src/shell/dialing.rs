//! One dial, repeated while the server may still count a connection that the pool has closed, and ended
//! early if nobody wants its connection any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::dial_context::{DialContext, Underway};
use crate::dialer::Dialer;
use crate::ledger::dialing::BeingEnded;
use crate::ledger::effects::JobId;
use crate::report::error::DialFailure;
use crate::runtime::moment::Moment;
use crate::runtime::shelf::Figure;
use crate::runtime::sync::{now, pause};

use super::jobs::latest;
use super::{Connection, Failure, Shell};

/// How long a server may count a connection that the client has closed. A process of PostgreSQL is gone
/// after some milliseconds, and after some tens of them on a machine that is short of processors.
const LINGER: Duration = Duration::from_secs(1);

/// The first and the longest pause after a dial that a server at its limit refuses. The pauses double,
/// so that there are at most some twenty in `LINGER`.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSE_MOST: Duration = Duration::from_millis(64);

/// When a connection was last closed, or a dial last failed that may have connected.
#[derive(Default)]
pub(super) struct LastDeparture(Figure);

impl LastDeparture {
    pub(super) fn note(&self, now: Moment) {
        self.0.set(now.as_nanos());
    }

    /// Until when the server may count what has left it by now, in nanoseconds of the clock.
    fn lingers_until(&self) -> u64 {
        match self.0.get() {
            0 => 0, // Nothing has left it.
            left_at => left_at + LINGER.as_nanos() as u64,
        }
    }
}

impl<D: Dialer> Shell<D> {
    /// Has the dialer open a connection. A panic of the dialer counts as a failure.
    pub(super) fn dial(
        &self,
        id: JobId,
        deadline: Option<Moment>,
    ) -> Result<Connection<D>, Failure<D>> {
        let dial = Dial { shell: self, id, has_handle: AtomicBool::new(false) };
        let context = DialContext::of(&dial, latest(deadline));
        let (mut wait, mut repeats_until) = (PAUSE_FIRST, None);
        loop {
            let outcome = self.user_code(|dialer| dialer.dial(&context));
            dial.drop_handle();
            let error = match outcome {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => error,
                None => {
                    self.last_departure().note(now()); // It may have connected, too.
                    return Err(DialFailure::panicked());
                }
            };
            let is_at_limit = self.user_code(|dialer| dialer.is_at_limit(&error)) == Some(true);
            if !is_at_limit {
                // It may have connected before it failed: then the server counted it.
                self.last_departure().note(now());
            }
            // By what had left at the first refusal: if later departures counted, a pool that closes often
            // would ask a full server until the dial is overdue.
            let until = *repeats_until.get_or_insert_with(|| self.repeats_until(deadline));
            if !is_at_limit || !now().is_before_nanos(until) || context.is_cancelled() {
                let is_permanent = self.user_code(|dialer| dialer.is_permanent(&error));
                return Err(DialFailure::new(error, is_permanent == Some(true)));
            }
            self.user_code(|_| drop(error));
            pause(wait);
            wait = (wait * 2).min(PAUSE_MOST);
        }
    }

    /// Until when a dial is repeated that a full server refuses: the server may count a closed connection
    /// until then, and there is time to wait for that.
    fn repeats_until(&self, deadline: Option<Moment>) -> u64 {
        let until = self.last_departure().lingers_until();
        deadline.map_or(until, |deadline| until.min(deadline.as_nanos()))
    }
}

/// A dial of a shell, for as long as the dialer is at it.
struct Dial<'a, D: Dialer> {
    shell: &'a Shell<D>,
    id: JobId,
    /// Most dialers give no handle: then the end of the dial takes no lock.
    has_handle: AtomicBool,
}

impl<D: Dialer> Dial<'_, D> {
    /// The dialer has returned: the handle, which may keep a socket open, goes before anybody hears
    /// of that.
    fn drop_handle(&self) {
        if self.has_handle.swap(false, Ordering::Relaxed) {
            let handle = loop {
                let Some(mut locked) = self.shell.lock() else { return };
                let taken = locked.ledger.take_dial_handle(self.id);
                drop(locked);
                match taken {
                    Ok(handle) => break handle,
                    // Another thread is at it, for as long as a call takes that must not block.
                    Err(BeingEnded) => pause(PAUSE_FIRST),
                }
            };
            self.shell.user_code(|_| drop(handle));
        }
    }
}

impl<D: Dialer> Underway for Dial<'_, D> {
    fn is_cancelled(&self) -> bool {
        self.shell.lock().is_none_or(|locked| locked.ledger.is_dial_cancelled(self.id))
    }

    fn abort_with(&self, handle: AbortHandle) {
        let Some(mut locked) = self.shell.lock() else { return self.shell.call(handle) };
        self.has_handle.store(true, Ordering::Relaxed);
        let kept = locked.ledger.keep_dial_handle(self.id, handle);
        drop(locked);
        match kept {
            Ok(replaced) => drop(self.shell.user_code(|_| drop(replaced))),
            Err(handle) => self.shell.call(handle),
        }
    }
}
