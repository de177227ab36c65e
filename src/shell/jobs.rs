//! Does the jobs that the ledger orders, dials, checks, resets and closes, and tells it how they ended.

use std::time::{Duration, Instant};

use crate::config::far_future;
use crate::dialer::Dialer;
use crate::ledger::close_reason::CloseReason;
use crate::ledger::effects::JobId;
use crate::ledger::roster::ConnectionId;
use crate::ledger::{AtDialerOrder, CloseOrder, DialOrder, Effects, Purpose};
use crate::report::event::Event;
use crate::report::spans;
use crate::runtime::moment::Moment;
use crate::runtime::sync::now;

use super::{BellOf, Connection, EffectsOf, Failure, Shell};

/// A job that the ledger has ordered, and that holds a slot until its end is reported.
pub(super) enum Job<D: Dialer> {
    Dial(DialOrder<BellOf<D>>),
    AtDialer(AtDialerOrder<Connection<D>>),
    Close(CloseOrder<Connection<D>>),
}

impl<D: Dialer> Shell<D> {
    /// Whether a job at the dialer may block.
    pub(super) fn may_block(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Check | Purpose::KeepAlive => self.blocking.check,
            Purpose::Reset => true,
            Purpose::Judge { .. } => false,
        }
    }

    /// Does a job, and tells the ledger how it ended. A panic of the dialer counts as a failure.
    pub(super) fn do_job(&self, job: Job<D>) -> EffectsOf<D> {
        match job {
            Job::Dial(order) => self.do_dial(order),
            Job::AtDialer(order) => self.do_at_dialer(order),
            Job::Close(order) => self.do_close(order),
        }
    }

    fn do_dial(&self, order: DialOrder<BellOf<D>>) -> EffectsOf<D> {
        let DialOrder { id, deadline, sponsor } = order;
        let start = now();
        let of_sponsor =
            |pool: Option<&str>| spans::dial(pool, sponsor.as_ref().map(|bell| bell.span()));
        let outcome = self.in_span(of_sponsor, || self.dial(id, deadline));
        if self.is_inherited() {
            std::mem::forget(outcome); // The dialer has forked.
            return Effects::none();
        }
        let now = now();
        let took = now.since(start);
        match outcome {
            Ok(connection) => {
                self.timings.note_dial(took);
                self.log(|log, pool| log.dialed(pool, &self.streak));
                self.emit(|| Event::Opened { id: ConnectionId::of_dial(id.0), took });
                let handle = self.user_code(|dialer| dialer.abort_handle(&connection)).flatten();
                self.effects_of(|ledger, _| ledger.dialed(id, connection, handle, took, now))
            }
            Err(failure) => self.dial_failed(id, failure, took, now),
        }
    }

    fn do_at_dialer(&self, order: AtDialerOrder<Connection<D>>) -> EffectsOf<D> {
        let AtDialerOrder { id, purpose, mut entry, deadline } = order;
        let connection = &mut entry.connection;
        let mut fault = purpose.fault();
        let is_sound = match purpose {
            Purpose::Judge { since, until } => self.may_stay(connection, since, until),
            Purpose::Check | Purpose::KeepAlive if !self.is_sound(connection) => {
                fault = CloseReason::Broken;
                false
            }
            Purpose::Check | Purpose::KeepAlive => self.passes_check(connection, purpose, deadline),
            Purpose::Reset => self.has_passed(purpose, |dialer| dialer.reset(connection)),
        };
        let (fault, now) = ((!is_sound).then_some(fault), now());
        self.effects_of(|ledger, _| ledger.back_from_dialer(id, entry, fault, now))
    }

    fn do_close(&self, order: CloseOrder<Connection<D>>) -> EffectsOf<D> {
        let CloseOrder { id, connection, handle, reason, of, uses, age } = order;
        self.user_code(|_| drop(handle));
        self.user_code(|dialer| dialer.close(connection));
        self.last_departure().note(now());
        self.emit(|| Event::Closed { id: of, reason, age, uses });
        let now = now();
        self.effects_of(|ledger, _| ledger.closed(id, now))
    }

    /// Whether a connection passes the dialer's check.
    pub(super) fn passes_check(
        &self,
        connection: &mut Connection<D>,
        purpose: Purpose,
        deadline: Option<Moment>,
    ) -> bool {
        self.in_span(spans::check, || {
            self.has_passed(purpose, |dialer| dialer.check(connection, latest(deadline)))
        })
    }

    pub(super) fn dial_failed(
        &self,
        id: JobId,
        failure: Failure<D>,
        took: Duration,
        now: Moment,
    ) -> EffectsOf<D> {
        self.emit(|| Event::DialFailed { failure: &failure, took });
        let (is_permanent, cause) = (failure.is_permanent(), failure.clone());
        let mut is_cancelled = false;
        let effects = self.effects_of(|ledger, _| {
            is_cancelled = ledger.is_dial_cancelled(id);
            ledger.dial_failed(id, failure, is_permanent, now)
        });
        if !is_cancelled {
            self.log(|log, pool| log.dial_failed(pool, &self.streak, &cause));
        }
        self.user_code(|_| drop(cause));
        effects
    }
}

/// The deadline as the dialer is told it: far in the future for `None`.
pub(super) fn latest(deadline: Option<Moment>) -> Instant {
    deadline.unwrap_or_else(|| far_future(now())).into()
}
