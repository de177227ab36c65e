//! Carries out the effects of an event: never under the lock, and on a worker if it may block.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::abort::AbortHandle;
use crate::config::far_future;
use crate::dialer::Dialer;
use crate::ledger::close_reason::CloseReason;
use crate::ledger::effects::JobId;
use crate::ledger::outage::BreakerTurn;
use crate::ledger::roster::ConnectionId;
use crate::ledger::{AtDialerOrder, CloseOrder, DialOrder, Effects, Loan, Purpose, RareEffects};
use crate::report::error::DialFailure;
use crate::report::event::Event;
use crate::report::holder::Holder;
use crate::report::spans;
use crate::runtime::maintenance::Upkeep;
use crate::runtime::moment::Moment;
use crate::runtime::sync::{catch, coarse_now, now};
use crate::runtime::workers::Job;

use super::waiting::Way;
use super::{Books, Caller, Connection, Duties, Failure, Lent, Orders, Shell};

impl<D: Dialer> Shell<D> {
    /// Carries out the effects of an event, and what follows from them. Never under the lock.
    #[inline]
    pub(super) fn carry_out(self: &Arc<Self>, effects: Orders<D>) {
        self.trim();
        if !effects.is_empty() {
            self.carry_out_some(effects);
        }
    }

    #[inline(never)]
    fn carry_out_some(self: &Arc<Self>, effects: Orders<D>) {
        if let Some(work) = effects.wake_first() {
            self.give_orders(work).run();
        }
    }

    /// Sends errands to workers and orders upkeep, and returns the user code that is left for this
    /// thread. So nothing that the pool does for itself waits for user code.
    fn give_orders(self: &Arc<Self>, work: Box<Duties<D>>) -> Calls<D> {
        let mut calls = Calls(VecDeque::new());
        calls.take_on(Arc::clone(self), work);
        calls
    }

    /// Drops the predicates up to `epoch`.
    fn forget_predicates(&self, epoch: u32) {
        let done = {
            let mut predicates = self.predicates.lock();
            let needed = predicates.split_off(&(epoch + 1));
            std::mem::replace(&mut *predicates, needed)
        };
        for predicate in done.into_values() {
            catch(|| drop(predicate));
        }
    }

    #[cold]
    fn order_upkeep(self: &Arc<Self>, due: Moment) {
        let is_taken = self.crew.wake_at(due, self.weak());
        // The pool may have been closed since the effects were made.
        let mut locked = self.books();
        if !is_taken {
            locked.ledger.alarm_refused();
        }
        let is_closed = locked.ledger.is_closed();
        drop(locked);
        if is_closed {
            self.crew.forget(&self.weak());
        }
    }

    pub(super) fn weak(self: &Arc<Self>) -> Weak<dyn Upkeep> {
        let weak: Weak<Self> = Arc::downgrade(self);
        weak
    }

    /// Sends an errand to a worker. If the system has no thread, a dial fails; the caller runs any other
    /// errand itself, as a connection must not be lost for want of a thread.
    fn send(self: &Arc<Self>, errand: Errand<D>) -> Option<Call<D>> {
        let assignment = Assignment { shell: Arc::clone(self), errand };
        let (Assignment { errand, .. }, error) = self.crew.submit(assignment).err()?;
        Some(match errand {
            Errand::Dial(DialOrder { id, .. }) => {
                Call::DialFailed(id, DialFailure::no_thread(error))
            }
            errand => Call::Perform(errand),
        })
    }

    fn may_block(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Check | Purpose::KeepAlive => self.blocking.check,
            Purpose::Reset => true,
            Purpose::Judge { .. } => false,
        }
    }

    /// Runs one call of user code, and returns its effects.
    fn make(self: &Arc<Self>, call: Call<D>) -> Orders<D> {
        match call {
            Call::Forget(handle) => drop(catch(|| drop(handle))),
            Call::Abort(handle) => self.call(handle),
            Call::TellBreaker(BreakerTurn::Opened { failures }) => {
                self.log(|reporter| reporter.log_refusals(&self.streak, failures));
                self.tell(|| Event::BreakerOpened { failures });
            }
            Call::TellBreaker(BreakerTurn::Closed { open_for }) => {
                self.tell(|| Event::BreakerClosed { open_for });
            }
            Call::Perform(errand) => return self.perform(errand),
            Call::DialFailed(id, failure) => {
                return self.dial_failed(id, failure, Duration::ZERO, now());
            }
            Call::Spend(failure) => drop(catch(|| drop(failure))),
            Call::ForgetPredicates(epoch) => self.forget_predicates(epoch),
            Call::TellVacant => self.membership.iter().for_each(|m| m.tell_vacant(self)),
            Call::TellLeaks(leaks) => {
                for holder in Holder::all(leaks) {
                    self.log(|reporter| reporter.log_leak(&holder));
                    self.tell(|| Event::Leaked { holder: &holder });
                }
            }
        }
        Effects::none()
    }

    /// Runs an errand, and tells the ledger how it ended. A panic of the dialer counts as a failure.
    fn perform(&self, errand: Errand<D>) -> Orders<D> {
        match errand {
            Errand::Dial(DialOrder { id, deadline, sponsor }) => {
                let start = now();
                let of_sponsor = |pool: Option<&str>| {
                    spans::dial(pool, sponsor.as_ref().map(|bell| bell.span()))
                };
                let outcome = self.in_span(of_sponsor, || self.dial(id, deadline));
                let now = now();
                let took = now.since(start);
                match outcome {
                    Ok(connection) => {
                        self.timings.note_dial(took);
                        self.log(|reporter| reporter.log_success(&self.streak));
                        self.tell(|| Event::Opened { id: ConnectionId::of_dial(id.0), took });
                        let handle = self.user_code(|dialer| dialer.abort_handle(&connection));
                        let handle = handle.flatten();
                        self.report(|books| books.dialed(id, connection, handle, took, now))
                    }
                    Err(failure) => self.dial_failed(id, failure, took, now),
                }
            }
            Errand::Aside(AtDialerOrder { id, purpose, mut entry, deadline }) => {
                let connection = &mut entry.connection;
                let mut fault = purpose.fault();
                let is_sound = match purpose {
                    Purpose::Judge { since, until } => self.may_stay(connection, since, until),
                    Purpose::Check | Purpose::KeepAlive if !self.is_sound(connection) => {
                        fault = CloseReason::Broken;
                        false
                    }
                    Purpose::Check | Purpose::KeepAlive => {
                        self.passes_check(connection, purpose, deadline)
                    }
                    Purpose::Reset => self.has_passed(purpose, |dialer| dialer.reset(connection)),
                };
                let (fault, now) = ((!is_sound).then_some(fault), now());
                self.report(|books| books.back_from_dialer(id, entry, fault, now))
            }
            Errand::Close(CloseOrder { id, connection, handle, reason, of, uses, age }) => {
                catch(|| drop(handle));
                self.user_code(|dialer| dialer.close(connection));
                self.last_close().note(now());
                self.tell(|| Event::Closed { id: of, reason, age, uses });
                let now = now();
                self.report(|books| books.closed(id, now))
            }
        }
    }

    /// Whether a connection passes the dialer's check.
    fn passes_check(
        &self,
        connection: &mut Connection<D>,
        purpose: Purpose,
        deadline: Option<Moment>,
    ) -> bool {
        self.in_span(spans::check, || {
            self.has_passed(purpose, |dialer| dialer.check(connection, latest(deadline)))
        })
    }

    /// Whether a connection passes a check on this thread, whose caller is about to have it.
    pub(super) fn passes_own_check(&self, entry: &mut Lent<D>) -> bool {
        let deadline = now().after(self.knobs.check_timeout());
        let passes = self.passes_check(&mut entry.connection, Purpose::Check, deadline);
        if passes {
            entry.prove(now());
        }
        passes
    }

    /// Checks a connection that was lent for that, unless it has just been dialed, and takes it back.
    /// Says whether it is alive.
    pub(crate) fn check_lent(
        self: &Arc<Self>,
        mut entry: Lent<D>,
        deadline: Option<Moment>,
    ) -> bool {
        // The flag is that of its latest loan by the ledger: others may have borrowed it since.
        let is_new = entry.just_dialed && !entry.is_reused();
        let passes = is_new || self.passes_check(&mut entry.connection, Purpose::Check, deadline);
        if passes {
            self.give_back(entry, false);
        } else {
            self.discard(entry, CloseReason::CheckFailed);
        }
        passes
    }

    fn dial_failed(
        &self,
        id: JobId,
        failure: Failure<D>,
        took: Duration,
        now: Moment,
    ) -> Orders<D> {
        self.tell(|| Event::DialFailed { failure: &failure, took });
        let (is_permanent, cause) = (failure.is_permanent(), failure.clone());
        let mut is_cancelled = false;
        let orders = self.report(|books| {
            is_cancelled = books.is_dial_cancelled(id);
            books.dial_failed(id, failure, is_permanent, now)
        });
        if !is_cancelled {
            self.log(|reporter| reporter.log_failure(&self.streak, &cause));
        }
        catch(|| drop(cause));
        orders
    }

    /// Tells the ledger how an errand has ended.
    fn report(&self, end: impl FnOnce(&mut Books<D>) -> Orders<D>) -> Orders<D> {
        self.told(|books, _| end(books)).unwrap_or_else(Effects::none)
    }
}

/// The effects that are left once callers have been woken.
type Rest<C, F> = Box<RareEffects<C, F, Way<C, F>>>;

impl<C, F> Effects<C, F, Way<C, F>> {
    /// Wakes the callers, and returns the other effects.
    fn wake_first(self) -> Option<Rest<C, F>> {
        if let Some(bell) = self.wake {
            bell.ring();
        }
        for bell in self.rare.iter().flat_map(|rare| &rare.wake) {
            bell.ring();
        }
        self.rare
    }
}

/// A job outside the lock, which holds the slot that it is done for.
enum Errand<D: Dialer> {
    Dial(DialOrder<Caller<D>>),
    Aside(AtDialerOrder<Connection<D>>),
    Close(CloseOrder<Connection<D>>),
}

/// A call of user code on the thread at hand.
enum Call<D: Dialer> {
    /// Drops the abort handle of a connection that is about to be detached.
    Forget(AbortHandle),
    /// Aborts a connection in use.
    Abort(AbortHandle),
    Perform(Errand<D>),
    TellBreaker(BreakerTurn),
    /// Reports a dial for which there was no thread.
    DialFailed(JobId, Failure<D>),
    /// Drops an error that nobody wants any more.
    Spend(Failure<D>),
    /// Drops the predicates up to that epoch.
    ForgetPredicates(u32),
    TellVacant,
    TellLeaks(Vec<Loan>),
}

/// Calls of user code for some shells, in the order in which they run.
struct Calls<D: Dialer>(VecDeque<(Arc<Shell<D>>, Call<D>)>);

impl<D: Dialer> Calls<D> {
    /// Carries out a shell's effects, and those of the keys to which its budget orders go, and adds the
    /// user code that is left.
    ///
    /// A loop, not a recursion: without threads, a thousand waiting callers are a thousand dials that
    /// fail one after the other, and a thousand keys may be asked in turn for a slot.
    fn take_on(&mut self, shell: Arc<Shell<D>>, work: Box<Duties<D>>) {
        // Most events concern one shell: nothing is allocated for others then.
        let (mut first, mut others) = (Some((shell, work)), Vec::new());
        while let Some((shell, work)) = first.take().or_else(|| others.pop()) {
            let RareEffects {
                wake: _,
                handle,
                breaker,
                aborts,
                dials,
                at_dialer,
                closes,
                unwanted,
                alarm,
                judged,
                budget_orders,
                is_vacant,
            } = *work;
            if let Some(membership) =
                shell.membership.as_ref().filter(|_| !budget_orders.is_empty())
            {
                for (shell, effects) in membership.pass_on(budget_orders) {
                    others.extend(effects.wake_first().map(|work| (shell, work)));
                }
            }
            if let Some(due) = alarm {
                shell.order_upkeep(due);
            }
            let mut add = |call| self.0.push_back((Arc::clone(&shell), call));
            handle.map(Call::Forget).into_iter().for_each(&mut add);
            breaker.into_iter().map(Call::TellBreaker).for_each(&mut add);
            aborts.into_iter().map(Call::Abort).for_each(&mut add);
            let dials = dials.into_iter().map(|order| (Errand::Dial(order), true));
            let at_dialer = at_dialer.into_iter().map(|order| {
                let may_block = shell.may_block(order.purpose);
                (Errand::Aside(order), may_block)
            });
            let closes =
                closes.into_iter().map(|order| (Errand::Close(order), shell.blocking.close));
            for (errand, may_block) in dials.chain(at_dialer).chain(closes) {
                if may_block {
                    shell.send(errand).into_iter().for_each(&mut add);
                } else {
                    add(Call::Perform(errand));
                }
            }
            unwanted.into_iter().map(Call::Spend).for_each(&mut add);
            judged.map(Call::ForgetPredicates).into_iter().for_each(&mut add);
            if is_vacant {
                add(Call::TellVacant);
            }
        }
    }

    /// Runs all calls, and what follows from them.
    fn run(mut self) {
        while let Some((shell, call)) = self.0.pop_front() {
            let effects = shell.make(call);
            if let Some(work) = effects.wake_first() {
                self.take_on(shell, work);
            }
        }
    }
}

impl<D: Dialer> Job for Calls<D> {
    fn run(self: Box<Self>) {
        Self::run(*self);
    }
}

/// An errand on its way to a worker.
struct Assignment<D: Dialer> {
    shell: Arc<Shell<D>>,
    errand: Errand<D>,
}

impl<D: Dialer> Upkeep for Shell<D> {
    fn upkeep(self: Arc<Self>) {
        if self.is_inherited() {
            return;
        }
        let (leaks, orders) = self.transact(|locked, now| {
            let orders = locked.ledger.upkeep(now);
            // By the clock that dates loans, so that each is reported with its whole length.
            (locked.ledger.take_leaks(coarse_now()), orders)
        });
        let mut calls = match orders.wake_first() {
            Some(work) => self.give_orders(work),
            None => Calls(VecDeque::new()),
        };
        if !leaks.is_empty() {
            calls.0.push_back((Arc::clone(&self), Call::TellLeaks(leaks)));
        }
        if calls.0.is_empty() {
            return;
        }
        // This thread watches the clock for all pools: no user code may hold it up.
        if let Err((calls, _)) = self.crew.submit(calls) {
            calls.run();
        }
    }
}

impl<D: Dialer> Job for Assignment<D> {
    fn run(self: Box<Self>) {
        let Self { shell, errand } = *self;
        let effects = shell.perform(errand);
        shell.carry_out(effects);
    }
}

/// The deadline as the dialer is told it: far in the future for `None`.
pub(super) fn latest(deadline: Option<Moment>) -> Instant {
    deadline.unwrap_or_else(|| far_future(now())).into()
}
