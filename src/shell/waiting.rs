//! A checkout by the lock: a caller asks, sleeps until it is told a verdict, and looks when
//! something is due.

use std::sync::Arc;

use crate::bell::{Bell, Woken};
use crate::cancel::{Cancel, Cancellable, IsCancelled};
use crate::close_reason::CloseReason;
use crate::dialer::Dialer;
use crate::error::GetError;
use crate::ledger::{Ledger, Request, Ticket, Verdict, Waker};
use crate::moment::Moment;
use crate::spans::{self, Callers};
use crate::sync::{Ordering, now};

use super::account::{Account, refused, turned_away};
use super::{Answer, Books, Caller, Failure, Lent, Refused, Shell};

/// What a waiting caller is told.
pub(super) struct Told<C, F> {
    verdict: Verdict<C, F>,
    /// Whether others may be served before the queue until it has woken up to this.
    is_waking: bool,
}

/// The way to a caller.
pub(super) type Way<C, F> = Arc<Bell<Told<C, F>>>;

impl<C, F> Waker<C, F> for Way<C, F> {
    fn tell(&self, verdict: Verdict<C, F>, is_waking: bool) {
        self.put(Told { verdict, is_waking });
    }

    fn call(&self) {
        Bell::call(self);
    }
}

/// A verdict, and for a caller who is turned away what it is told of the pool.
type Waited<D> = (Answer<D>, Account);

/// One caller's way to a connection.
pub(super) struct Checkout<'a, D: Dialer> {
    pub(super) shell: &'a Arc<Shell<D>>,
    pub(super) start: Moment,
    /// `None`: it waits for as long as it takes.
    pub(super) deadline: Option<Moment>,
    pub(super) cancel: Option<&'a Cancel>,
    /// Whether it has been in the queue.
    pub(super) has_queued: bool,
}

/// What a caller keeps who was given a broken connection and asks again.
#[derive(Clone, Copy)]
struct Turn {
    ticket: Ticket,
    /// Since when it has waited.
    since: Moment,
}

impl<D: Dialer> Checkout<'_, D> {
    /// Waits for a sound connection.
    pub(super) fn run(&mut self) -> Result<Lent<D>, Refused<D>> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            self.shell.event(Ledger::refuse_cancelled);
            return Err(GetError::Cancelled);
        }
        let mut turn = None;
        loop {
            let (kept, mut entry) = self.next(turn)?;
            match self.shell.fault_at_loan(&mut entry) {
                None => return Ok(entry),
                Some(fault) => self.shell.retire_unused(entry, fault),
            }
            // It asks again, with the ticket and the seniority of the first time.
            turn = Some(kept);
        }
    }

    /// Waits for a connection, which may turn out to be broken.
    fn next(&mut self, turn: Option<Turn>) -> Result<(Turn, Lent<D>), Refused<D>> {
        let Self { shell, start, deadline, .. } = *self;
        // Not dropped under the lock, if the caller is served at once.
        let (mut bell, mut span) = (None, Some(Callers::current()));
        let ((request, since, until), orders) = shell.transact(|locked, now| {
            let waker = || {
                let span = span.take().expect("a caller queues once");
                Arc::clone(bell.insert(Arc::new(Bell::new(span))))
            };
            let (place, since) =
                (turn.map(|turn| turn.ticket), turn.map_or(now, |turn| turn.since));
            let (request, orders) = locked.ledger.request(place, since, deadline, now, waker);
            let (request, until) = match request {
                Request::Granted(ticket, entry) => (Ok((ticket, Some(entry))), None),
                Request::Queued(ticket) => {
                    locked.asking.join(now);
                    // Without orders the caller sleeps next.
                    let sleeps = orders.is_empty() && self.cancel.is_none() && !spans::ARE_KEPT;
                    let until = sleeps.then(|| locked.ledger.sleep(ticket, deadline));
                    (Ok((ticket, None)), until)
                }
                Request::Refused(refusal) => {
                    let pool = shell.name();
                    let error = refused(pool, &locked.ledger, &mut locked.asking, refusal, start);
                    (Err(error), None)
                }
            };
            ((request, since, until), orders)
        });
        shell.carry_out(orders);
        let (ticket, entry) = request?;
        if let Some(entry) = entry {
            return Ok((Turn { ticket, since }, entry));
        }
        self.has_queued = true;
        let bell = bell.expect("a caller who is queued has a bell");
        // A subscriber's code begins the span and ends it.
        let wait = || shell.wait_unless(self.cancel, ticket, &bell, deadline, until);
        match if spans::ARE_KEPT { shell.in_span(spans::wait, wait) } else { wait() } {
            (Verdict::Granted(entry), _) => Ok((Turn { ticket, since }, entry)),
            (verdict, account) => Err(turned_away(verdict, account, start)),
        }
    }
}

impl<D: Dialer> Shell<D> {
    /// Why a connection that is about to be lent is of no use, if it is of none.
    pub(super) fn fault_at_loan(&self, entry: &mut Lent<D>) -> Option<CloseReason> {
        if entry.must_check {
            if !self.is_sound(&mut entry.connection) {
                return Some(CloseReason::Broken);
            }
            if !self.passes_own_check(entry) {
                return Some(CloseReason::CheckFailed);
            }
        }
        // After a check too, which may have found out what only a look tells.
        let is_broken = !entry.just_dialed && !self.is_sound(&mut entry.connection);
        is_broken.then_some(CloseReason::Broken)
    }

    /// Waits, and lets `cancel` end the wait.
    fn wait_unless(
        self: &Arc<Self>,
        cancel: Option<&Cancel>,
        ticket: Ticket,
        bell: &Caller<D>,
        deadline: Option<Moment>,
        until: Option<Option<Moment>>,
    ) -> Waited<D> {
        // A cancellation finds the caller in the queue from here on, or has come before.
        let watch = cancel.map(|cancel| cancel.watch(Arc::downgrade(self) as _, ticket));
        let watch = watch.transpose();
        if let Err(IsCancelled) = watch {
            Cancellable::cancel(Arc::clone(self), ticket);
        }
        self.wait(ticket, bell, deadline, until)
    }

    /// Waits until there is a verdict for `ticket` or `deadline` has passed. The caller is asleep
    /// `until` then in the eyes of the ledger, if it is.
    pub(super) fn wait(
        self: &Arc<Self>,
        ticket: Ticket,
        bell: &Caller<D>,
        deadline: Option<Moment>,
        mut until: Option<Option<Moment>>,
    ) -> Waited<D> {
        let mut is_late = false;
        loop {
            let woken = match until.take() {
                Some(until) => {
                    let woken = bell.wait(until);
                    is_late = matches!(woken, Woken::Late) && until == deadline;
                    woken
                }
                None => bell.take().map_or(Woken::Called, Woken::Told),
            };
            if let Woken::Told(told) = woken {
                return self.collect(told);
            }
            let (left, orders) = self.transact(|locked, now| {
                let (ledger, asking) = (&mut locked.ledger, &mut locked.asking);
                if is_late {
                    let account = |books: &_| Account::after_wait(self.name(), books, asking, now);
                    return ledger.leave(ticket, now, account);
                }
                let orders = ledger.look(now);
                until = orders.is_empty().then(|| ledger.sleep(ticket, deadline));
                (None, orders)
            });
            self.carry_out(orders);
            if let Some(left) = left {
                return left;
            }
        }
    }

    /// Takes up what a caller was told.
    fn collect(self: &Arc<Self>, told: Told<super::Connection<D>, Failure<D>>) -> Waited<D> {
        let Told { verdict, is_waking } = told;
        if is_waking {
            self.woken.fetch_add(1, Ordering::AcqRel);
            if self.is_kept.load(Ordering::Acquire) != 0 {
                self.event(Ledger::look);
            }
        }
        if matches!(verdict, Verdict::Granted(_) | Verdict::Warm) {
            // Who is served asks for no account.
            return (verdict, Account::default());
        }
        let mut locked = self.books();
        let locked = &mut *locked;
        let account = Account::after_wait(self.name(), &locked.ledger, &mut locked.asking, now());
        (verdict, account)
    }

    /// Whether a caller is waking up to a connection that it was given. Who asks so under the lock,
    /// and after it has said what is kept, knows that whoever wakes up later sees that.
    pub(super) fn is_anyone_waking(&self, ledger: &mut Books<D>) -> bool {
        ledger.note_woken(self.woken.fetch_add(0, Ordering::AcqRel));
        ledger.is_anyone_waking()
    }
}
