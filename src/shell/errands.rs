//! What the ledger orders, carried out: never under the lock, on a worker if it may block.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

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
use crate::sync::{catch, coarse_now, now};
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
    ///
    /// A loop, not a recursion: without threads, a thousand waiting callers are a thousand dials
    /// that fail one after the other, and a thousand keys may be asked in turn for a slot.
    pub(super) fn carry_out(self: &Arc<Self>, effects: Orders<D>) {
        self.trim();
        if effects.is_empty() {
            return;
        }
        let mut pending = Vec::new();
        self.carry_out_one(effects, &mut pending);
        while let Some((shell, effects)) = pending.pop() {
            shell.carry_out_one(effects, &mut pending);
        }
    }

    /// Carries out what the ledger ordered, and adds what follows from that.
    fn carry_out_one(
        self: &Arc<Self>,
        effects: Orders<D>,
        pending: &mut Vec<(Arc<Self>, Orders<D>)>,
    ) {
        let follows = |effects| (Arc::clone(self), effects);
        let Effects { wake, handles, dials, asides, closes, spent, .. } = effects;
        if let Some(membership) = self.membership.as_ref().filter(|_| !effects.orders.is_empty()) {
            // First, as the keys wait for each other's answers, and for no user code.
            pending.extend(membership.pass_on(effects.orders));
        }
        for bell in wake {
            bell.ring();
        }
        if let Some(due) = effects.alarm {
            self.order_upkeep(due);
        }
        for handle in handles {
            catch(|| drop(handle));
        }
        for order in dials {
            pending.extend(self.on_worker(Errand::Dial(order)).map(follows));
        }
        for order in asides {
            let may_block = match order.task {
                Task::Check | Task::KeepAlive => self.blocking.check,
                Task::Reset => true,
                Task::Judge { .. } => false,
            };
            pending.extend(self.run(Errand::Aside(order), may_block).map(follows));
        }
        for order in closes {
            pending.extend(self.run(Errand::Close(order), self.blocking.close).map(follows));
        }
        for failure in spent {
            catch(|| drop(failure));
        }
        if let Some(epoch) = effects.judged {
            self.forget_predicates(epoch);
        }
        if let Some(membership) = self.membership.as_ref().filter(|_| effects.is_vacant) {
            membership.tell_vacant(self);
        }
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

    fn run(self: &Arc<Self>, errand: Errand<D>, may_block: bool) -> Option<Orders<D>> {
        if may_block { self.on_worker(errand) } else { Some(self.perform(errand)) }
    }

    /// Sends an errand to a worker. If there is none and no thread to be had, a dial fails; other
    /// errands are run here, as a connection must not be lost for want of a thread.
    fn on_worker(self: &Arc<Self>, errand: Errand<D>) -> Option<Orders<D>> {
        let assignment = Assignment { shell: Arc::clone(self), errand };
        let (Assignment { errand, .. }, error) = self.crew.submit(assignment).err()?;
        Some(match errand {
            Errand::Dial(DialOrder { id, .. }) => {
                self.dial_failed(id, DialFailure::no_thread(error), false, Duration::ZERO, now())
            }
            errand => self.perform(errand),
        })
    }

    /// Does what is to be done, and tells the ledger. To it, a panic of the dialer is a failure.
    fn perform(&self, errand: Errand<D>) -> Orders<D> {
        match errand {
            Errand::Dial(DialOrder { id, deadline }) => {
                let start = now();
                let outcome = self.in_span(spans::dial, || {
                    self.user_code(|dialer| dialer.dial(latest(deadline)))
                });
                let now = now();
                let took = now.since(start);
                let (failure, is_permanent) = match outcome {
                    Some(Ok(connection)) => {
                        self.timings.note_dial(took);
                        self.tell(|| Event::Opened { took });
                        let handle = self.user_code(|dialer| dialer.abort_handle(&connection));
                        return self
                            .report(|books| books.dialed(id, connection, handle.flatten(), now));
                    }
                    Some(Err(error)) => {
                        let is_permanent = self.user_code(|dialer| dialer.is_permanent(&error));
                        (DialFailure::new(error), is_permanent == Some(true))
                    }
                    None => (DialFailure::panicked(), false),
                };
                self.dial_failed(id, failure, is_permanent, took, now)
            }
            Errand::Aside(AsideOrder { id, task, mut entry, deadline }) => {
                let connection = &mut entry.connection;
                let is_sound = match task {
                    Task::Judge { since, until } => self.may_stay(connection, since, until),
                    Task::Check | Task::KeepAlive => self.in_span(spans::check, || {
                        self.has_passed(task, |dialer| dialer.check(connection, latest(deadline)))
                    }),
                    Task::Reset => self.has_passed(task, |dialer| dialer.reset(connection)),
                };
                let now = now();
                self.report(|books| books.back(id, entry, is_sound, now))
            }
            Errand::Close(CloseOrder { id, connection, reason, age }) => {
                self.user_code(|dialer| dialer.close(connection));
                self.tell(|| Event::Closed { reason, age });
                let now = now();
                self.report(|books| books.closed(id, now))
            }
            Errand::Upkeep(orders, leaks) => {
                for holder in Holder::all(leaks) {
                    self.tell(|| Event::Leaked { holder: &holder });
                }
                orders
            }
        }
    }

    fn dial_failed(
        &self,
        id: ErrandId,
        failure: Failure<D>,
        is_permanent: bool,
        took: Duration,
        now: Moment,
    ) -> Orders<D> {
        self.tell(|| Event::DialFailed { failure: &failure, took });
        self.report(|books| books.dial_failed(id, failure, is_permanent, now))
    }

    /// Tells the ledger how an errand has ended.
    fn report(&self, end: impl FnOnce(&mut Books<D>) -> Orders<D>) -> Orders<D> {
        self.told(|books, _| end(books)).unwrap_or_else(Effects::none)
    }
}

/// Something to do outside the lock, with the slot that it is done for.
pub(super) enum Errand<D: Dialer> {
    Dial(DialOrder),
    Aside(AsideOrder<Connection<D>>),
    Close(CloseOrder<Connection<D>>),
    /// All that an upkeep has led to, and the leaks that it has found.
    Upkeep(Orders<D>, Vec<Loan>),
}

/// An errand on its way to a worker.
pub(super) struct Assignment<D: Dialer> {
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
        // The thread that this runs on is that of all pools: no dialer may hold it up, nor may an
        // observer.
        let left = if orders.may_call_out() || !leaks.is_empty() {
            self.on_worker(Errand::Upkeep(orders, leaks))
        } else {
            Some(orders)
        };
        if let Some(orders) = left {
            self.carry_out(orders);
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
fn latest(deadline: Option<Moment>) -> Instant {
    deadline.unwrap_or_else(|| far_future(now())).into()
}
