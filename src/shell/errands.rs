//! What the ledger orders, carried out: never under the lock, on a worker if it may block.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::abort::AbortHandle;
use crate::close_reason::CloseReason;
use crate::config::far_future;
use crate::dialer::Dialer;
use crate::error::DialFailure;
use crate::event::Event;
use crate::holder::Holder;
use crate::ledger::effects::ErrandId;
use crate::ledger::{AsideOrder, CloseOrder, DialOrder, Effects, Loan, Task};
use crate::maintenance::Upkeep;
use crate::moment::Moment;
use crate::spans;
use crate::sync::{Bell, catch, coarse_now, now};
use crate::workers::Job;

use super::{Books, Connection, Failure, Orders, Shell};

impl<D: Dialer> Shell<D> {
    /// Tells the ledger of an event, and carries out what follows.
    #[cold]
    pub(super) fn event(self: &Arc<Self>, event: impl FnOnce(&mut Books<D>, Moment) -> Orders<D>) {
        if let Some(effects) = self.told(event) {
            self.carry_out(effects);
        }
    }

    /// Carries out what the ledger ordered, and what follows from that. Never under the lock.
    pub(super) fn carry_out(self: &Arc<Self>, effects: Orders<D>) {
        self.trim();
        if !effects.is_empty() {
            self.give_orders(effects).run();
        }
    }

    /// Carries out what takes no user code on this thread: what wakes others, sends errands to workers,
    /// and orders upkeep. Returns the rest. So no order of the pool's own waits for user code.
    fn give_orders(self: &Arc<Self>, effects: Orders<D>) -> Calls<D> {
        let mut calls = Calls(VecDeque::new());
        calls.take_on(Arc::clone(self), effects);
        calls
    }

    /// Drops the predicates up to that epoch.
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
        // The pool may have been closed since the order was given.
        let mut ledger = self.books();
        if !is_taken {
            ledger.alarm_refused();
        }
        let is_closed = ledger.is_closed();
        drop(ledger);
        if is_closed {
            self.crew.forget(&self.weak());
        }
    }

    pub(super) fn weak(self: &Arc<Self>) -> Weak<dyn Upkeep> {
        let weak: Weak<Self> = Arc::downgrade(self);
        weak
    }

    /// Sends an errand to a worker. If there is none and no thread to be had, a dial fails; other
    /// errands are run here, as a connection must not be lost for want of a thread.
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

    fn may_block(&self, task: Task) -> bool {
        match task {
            Task::Check | Task::KeepAlive => self.blocking.check,
            Task::Reset => true,
            Task::Judge { .. } => false,
        }
    }

    /// Runs user code, and says what follows from it.
    fn make(self: &Arc<Self>, call: Call<D>) -> Orders<D> {
        match call {
            Call::Forget(handle) => drop(catch(|| drop(handle))),
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

    /// Does what is to be done, and tells the ledger. To it, a panic of the dialer is a failure.
    fn perform(&self, errand: Errand<D>) -> Orders<D> {
        match errand {
            Errand::Dial(DialOrder { id, deadline, sponsor }) => {
                let start = now();
                let of_sponsor = |pool: Option<&str>| {
                    spans::dial(pool, sponsor.as_ref().map(|bell| bell.span()))
                };
                let outcome = self.in_span(of_sponsor, || self.dial(deadline));
                let now = now();
                let took = now.since(start);
                match outcome {
                    Ok(connection) => {
                        self.timings.note_dial(took);
                        self.log(|reporter| reporter.log_success(&self.streak));
                        self.tell(|| Event::Opened { took });
                        let handle = self.user_code(|dialer| dialer.abort_handle(&connection));
                        let handle = handle.flatten();
                        self.report(|books| books.dialed(id, connection, handle, took, now))
                    }
                    Err(failure) => self.dial_failed(id, failure, took, now),
                }
            }
            Errand::Aside(AsideOrder { id, task, mut entry, deadline }) => {
                let connection = &mut entry.connection;
                let mut fault = task.fault();
                let is_sound = match task {
                    Task::Judge { since, until } => self.may_stay(connection, since, until),
                    Task::Check | Task::KeepAlive if !self.is_sound(connection) => {
                        fault = CloseReason::Broken;
                        false
                    }
                    Task::Check | Task::KeepAlive => self.in_span(spans::check, || {
                        self.has_passed(task, |dialer| dialer.check(connection, latest(deadline)))
                    }),
                    Task::Reset => self.has_passed(task, |dialer| dialer.reset(connection)),
                };
                let (fault, now) = ((!is_sound).then_some(fault), now());
                self.report(|books| books.back(id, entry, fault, now))
            }
            Errand::Close(CloseOrder { id, connection, handle, reason, age }) => {
                catch(|| drop(handle));
                self.user_code(|dialer| dialer.close(connection));
                self.last_close().note(now());
                self.tell(|| Event::Closed { reason, age });
                let now = now();
                self.report(|books| books.closed(id, now))
            }
        }
    }

    fn dial_failed(
        &self,
        id: ErrandId,
        failure: Failure<D>,
        took: Duration,
        now: Moment,
    ) -> Orders<D> {
        self.tell(|| Event::DialFailed { failure: &failure, took });
        let (is_permanent, cause) = (failure.is_permanent(), failure.clone());
        let mut is_refusing = false;
        let orders = self.report(|books| {
            let orders = books.dial_failed(id, failure, is_permanent, now);
            is_refusing = books.is_broken_off();
            orders
        });
        self.log(|reporter| reporter.log_failure(&self.streak, &cause, is_refusing));
        catch(|| drop(cause));
        orders
    }

    /// Tells the ledger how an errand has ended.
    fn report(&self, end: impl FnOnce(&mut Books<D>) -> Orders<D>) -> Orders<D> {
        self.told(|books, _| end(books)).unwrap_or_else(Effects::none)
    }
}

/// Something to do outside the lock, with the slot that it is done for.
enum Errand<D: Dialer> {
    Dial(DialOrder<Arc<Bell>>),
    Aside(AsideOrder<Connection<D>>),
    Close(CloseOrder<Connection<D>>),
}

/// User code to be run on the thread at hand.
enum Call<D: Dialer> {
    /// The abort handle of a connection that is detached next.
    Forget(AbortHandle),
    Perform(Errand<D>),
    /// There was no thread for it.
    DialFailed(ErrandId, Failure<D>),
    /// Nobody wants this error any more.
    Spend(Failure<D>),
    /// The predicates up to that epoch are needed no more.
    ForgetPredicates(u32),
    TellVacant,
    TellLeaks(Vec<Loan>),
}

/// User code of some shells, in the order in which it is to run.
struct Calls<D: Dialer>(VecDeque<(Arc<Shell<D>>, Call<D>)>);

impl<D: Dialer> Calls<D> {
    /// Gives a shell's orders, and those of the keys that they are passed on to, and adds the user code
    /// that is left.
    ///
    /// A loop, not a recursion: without threads, a thousand waiting callers are a thousand dials that
    /// fail one after the other, and a thousand keys may be asked in turn for a slot.
    fn take_on(&mut self, shell: Arc<Shell<D>>, effects: Orders<D>) {
        // Most events concern one shell alone: then nothing is allocated for the others.
        let (mut first, mut others) = (Some((shell, effects)), Vec::new());
        while let Some((shell, effects)) = first.take().or_else(|| others.pop()) {
            let Effects { wake, handle, dials, asides, closes, spent, .. } = effects;
            let Effects { alarm, judged, orders, is_vacant, .. } = effects;
            if let Some(membership) = shell.membership.as_ref().filter(|_| !orders.is_empty()) {
                others.extend(membership.pass_on(orders));
            }
            wake.iter().for_each(|bell| bell.ring());
            if let Some(due) = alarm {
                shell.order_upkeep(due);
            }
            let mut add = |call| self.0.push_back((Arc::clone(&shell), call));
            handle.map(Call::Forget).into_iter().for_each(&mut add);
            let dials = dials.into_iter().map(|order| (Errand::Dial(order), true));
            let asides = asides.into_iter().map(|order| {
                let may_block = shell.may_block(order.task);
                (Errand::Aside(order), may_block)
            });
            let closes =
                closes.into_iter().map(|order| (Errand::Close(order), shell.blocking.close));
            for (errand, may_block) in dials.chain(asides).chain(closes) {
                if may_block {
                    shell.send(errand).into_iter().for_each(&mut add);
                } else {
                    add(Call::Perform(errand));
                }
            }
            spent.into_iter().map(Call::Spend).for_each(&mut add);
            judged.map(Call::ForgetPredicates).into_iter().for_each(&mut add);
            if is_vacant {
                add(Call::TellVacant);
            }
        }
    }

    /// Runs all of it, and what follows from it.
    fn run(mut self) {
        while let Some((shell, call)) = self.0.pop_front() {
            let effects = shell.make(call);
            if !effects.is_empty() {
                self.take_on(shell, effects);
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
        let told = self.told(|ledger, now| {
            let orders = ledger.upkeep(now);
            // By the clock by which loans begin: so each is told with its whole length.
            (orders, ledger.take_leaks(coarse_now()))
        });
        let Some((orders, leaks)) = told else { return };
        let mut calls = self.give_orders(orders);
        if !leaks.is_empty() {
            calls.0.push_back((Arc::clone(&self), Call::TellLeaks(leaks)));
        }
        if calls.0.is_empty() {
            return;
        }
        // The thread that this runs on is that of all pools: no user code may hold it up.
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

/// The deadline that a dialer is told.
pub(super) fn latest(deadline: Option<Moment>) -> Instant {
    deadline.unwrap_or_else(|| far_future(now())).into()
}
