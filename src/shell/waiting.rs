//! A checkout by the lock: a caller asks the ledger, sleeps until its bell has a verdict, and looks
//! at the ledger when something is due.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::dialer::Dialer;
use crate::ledger::close_reason::CloseReason;
use crate::ledger::{Ledger, Purpose, Reply, Ticket, Verdict};
use crate::report::error::GetError;
use crate::report::spans::{self, CallerSpan};
use crate::runtime::moment::Moment;
use crate::runtime::sync::{Ordering, now};
use crate::shell::bell::{Bell, Notice, Woken};
use crate::shell::cancel::{Cancel, Cancellable};

use super::snapshot::{Snapshot, refused, turned_away};
use super::{BellOf, Connection, EntryOf, Failure, GetErrorOf, LedgerOf, Shell, VerdictOf};

/// A verdict, and a snapshot for the error of a caller who is turned away. Boxed, as few are.
type Waited<D> = (VerdictOf<D>, Option<Box<Snapshot>>);

/// What a caller in the queue does next, as the ledger has been told.
pub(super) enum Next {
    /// It is awake, and looks for a verdict.
    Look,
    /// It sleeps until then, or until it is woken if there is no limit.
    Sleep(Option<Moment>),
}

/// One caller's checkout by the ledger: it asks, sleeps, and asks again if the connection that it was given
/// is broken.
pub(super) struct LedgerCheckout<'a, D: Dialer> {
    pub(super) shell: &'a Arc<Shell<D>>,
    pub(super) start: Moment,
    /// `None`: the caller waits for as long as it takes.
    pub(super) deadline: Option<Moment>,
    pub(super) cancel: Option<&'a Cancel>,
    /// Whether it has been in the queue.
    pub(super) has_queued: bool,
}

impl<D: Dialer> LedgerCheckout<'_, D> {
    /// Waits for a sound connection.
    pub(super) fn run(&mut self) -> Result<EntryOf<D>, GetErrorOf<D>> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            self.shell.event(Ledger::refuse_cancelled);
            return Err(GetError::Cancelled);
        }
        let mut ticket = None;
        loop {
            let (kept, mut entry) = self.next(ticket)?;
            match self.shell.fault_at_loan(&mut entry) {
                None => return Ok(entry),
                Some(fault) => self.shell.retire_unused(entry, fault),
            }
            // Asks again, with the ticket of the first time.
            ticket = Some(kept);
        }
    }

    /// Waits for a connection, which may turn out to be broken.
    fn next(&mut self, ticket: Option<Ticket>) -> Result<(Ticket, EntryOf<D>), GetErrorOf<D>> {
        let Self { shell, start, deadline, .. } = *self;
        // Made here, so that the span of a caller who is served at once is not dropped under the lock.
        let (mut bell, mut span) = (None, Some(CallerSpan::current()));
        let answer = shell.ask(|locked, now| {
            let waker = || {
                let span = span.take().expect("a caller queues once");
                Arc::clone(bell.insert(Bell::new(span)))
            };
            let (reply, effects) = locked.ledger.request(ticket, start, deadline, now, waker);
            let (outcome, next) = match reply {
                Reply::Granted(ticket, entry) => (Ok((ticket, Some(entry))), Next::Look),
                Reply::Queued(ticket) => {
                    locked.waiting.join(now);
                    // It sleeps next, unless something comes first: effects to carry out, a cancellation to
                    // register, or a subscriber's span to begin.
                    let sleeps = effects.is_empty() && self.cancel.is_none() && !spans::ARE_KEPT;
                    let next = if sleeps {
                        Next::Sleep(locked.ledger.sleep(ticket, deadline))
                    } else {
                        Next::Look
                    };
                    (Ok((ticket, None)), next)
                }
                Reply::Refused(refusal) => {
                    let pool = shell.name();
                    let (ledger, waiting) = (&locked.ledger, &mut locked.waiting);
                    let error = refused(pool, ledger, waiting, refusal, start, now);
                    (Err(Box::new(error)), Next::Look)
                }
            };
            ((outcome, next), effects)
        });
        let Some((outcome, next)) = answer else { return Err(GetError::Closed) };
        let (ticket, entry) = outcome.map_err(|error| *error)?;
        if let Some(entry) = entry {
            return Ok((ticket, entry));
        }
        self.has_queued = true;
        let bell = bell.expect("a caller who is queued has a bell");
        // The subscriber's code runs at both ends of the span.
        let wait = || self.wait(ticket, &bell, next);
        let waited = if spans::ARE_KEPT { shell.in_span(spans::wait, wait) } else { wait() };
        bell.lay_by();
        match waited {
            (Verdict::Granted(entry), _) => Ok((ticket, entry)),
            (verdict, snapshot) => Err(turned_away(verdict, *snapshot.unwrap_or_default(), start)),
        }
    }

    /// Waits in the queue, and lets `cancel` end the wait.
    fn wait(&self, ticket: Ticket, bell: &BellOf<D>, next: Next) -> Waited<D> {
        let shell = self.shell;
        // From here on a cancellation finds the caller in the queue. It may have come before.
        let registered =
            self.cancel.map(|cancel| cancel.register(Arc::downgrade(shell) as _, ticket));
        if matches!(registered, Some(None)) {
            Cancellable::cancel(Arc::clone(shell), ticket);
        }
        shell.wait(ticket, bell, self.deadline, next)
    }
}

impl<D: Dialer> Shell<D> {
    /// The fault of a connection that the ledger has lent, if there is one.
    pub(super) fn fault_at_loan(&self, entry: &mut EntryOf<D>) -> Option<CloseReason> {
        if self.has_overstayed(entry) {
            return Some(CloseReason::LeaseEnded);
        }
        if entry.must_check {
            return self.fault_by_check(entry);
        }
        let is_broken = !entry.just_dialed && !self.is_sound(&mut entry.connection);
        is_broken.then_some(CloseReason::Broken)
    }

    /// Checks a connection on this thread before it is lent, and returns its fault, if there is one.
    pub(super) fn fault_by_check(&self, entry: &mut EntryOf<D>) -> Option<CloseReason> {
        if !self.is_sound(&mut entry.connection) {
            return Some(CloseReason::Broken);
        }
        self.fault_in_check(&mut entry.connection, self.knobs.check_late_at(now()))
    }

    /// Checks a connection by `deadline`, and returns the fault that this has shown, if there is one.
    pub(super) fn fault_in_check(
        &self,
        connection: &mut Connection<D>,
        deadline: Option<Moment>,
    ) -> Option<CloseReason> {
        if !self.passes_check(connection, Purpose::Check, deadline) {
            return Some(CloseReason::CheckFailed);
        }
        // A check may leave a sign that only `is_broken` reads.
        (!self.is_sound(connection)).then_some(CloseReason::Broken)
    }

    /// Waits until there is a verdict for `ticket` or `deadline` has passed.
    pub(super) fn wait(
        self: &Arc<Self>,
        ticket: Ticket,
        bell: &BellOf<D>,
        deadline: Option<Moment>,
        mut next: Next,
    ) -> Waited<D> {
        loop {
            if self.is_inherited() {
                // User code that this caller ran has forked: nobody will wake it.
                return (Verdict::Closed, None);
            }
            let (woken, until) = match next {
                Next::Sleep(until) => (bell.wait(until), until),
                Next::Look => (bell.take().map_or(Woken::Called, Woken::Found), None),
            };
            let is_late = match woken {
                Woken::Found(notice) => return self.collect(notice),
                Woken::Late => until == deadline,
                _ => false,
            };
            match self.look(ticket, deadline, is_late) {
                ControlFlow::Break(left) => return left,
                ControlFlow::Continue(then) => next = then,
            }
        }
    }

    /// Has a caller who woke up without a verdict leave if it `is_late`, or see to what is due and wait on.
    #[cold]
    fn look(
        self: &Arc<Self>,
        ticket: Ticket,
        deadline: Option<Moment>,
        is_late: bool,
    ) -> ControlFlow<Waited<D>, Next> {
        let looked = self.ask(|locked, now| {
            let (ledger, waiting) = (&mut locked.ledger, &mut locked.waiting);
            if is_late {
                let snapshot = |ledger: &_| {
                    Some(Box::new(Snapshot::after_wait(self.name(), ledger, waiting, now)))
                };
                let (left, effects) = ledger.leave(ticket, now, snapshot);
                // If the ledger has let it go with a verdict already, that lies on its tray.
                let left = left.map_or(ControlFlow::Continue(Next::Look), ControlFlow::Break);
                return (left, effects);
            }
            let effects = ledger.look(ticket, now);
            let next = if effects.is_empty() {
                Next::Sleep(ledger.sleep(ticket, deadline))
            } else {
                Next::Look
            };
            (ControlFlow::Continue(next), effects)
        });
        looked.unwrap_or(ControlFlow::Continue(Next::Look))
    }

    /// Takes a verdict up. If it woke the caller, counts that, and looks at what was kept from the
    /// queue meanwhile.
    fn collect(self: &Arc<Self>, notice: Notice<Connection<D>, Failure<D>>) -> Waited<D> {
        let Notice { verdict, is_waking } = notice;
        if is_waking {
            self.woken.fetch_add(1, Ordering::AcqRel);
            if self.is_kept.load(Ordering::Acquire) != 0 {
                self.event(Ledger::tick);
            }
        }
        if matches!(verdict, Verdict::Granted(_) | Verdict::Warm) {
            // A caller who is served needs no snapshot.
            return (verdict, None);
        }
        // An event, so that what rests in the places counts as idle.
        let looked = self.ask(|locked, now| {
            let effects = locked.ledger.tick(now);
            let (ledger, waiting) = (&locked.ledger, &mut locked.waiting);
            (Snapshot::after_wait(self.name(), ledger, waiting, now), effects)
        });
        let Some(snapshot) = looked else { return (verdict, None) };
        (verdict, Some(Box::new(snapshot)))
    }

    /// Whether a caller is waking up to a connection that it was given. Asked under the lock, after
    /// `is_kept` has been written: a caller who wakes up later sees it.
    pub(super) fn is_anyone_waking(&self, ledger: &mut LedgerOf<D>) -> bool {
        // An addition of nothing and the caller's addition have an order. A plain read might miss it.
        ledger.note_woken(self.woken.fetch_add(0, Ordering::AcqRel));
        ledger.is_anyone_waking()
    }
}
