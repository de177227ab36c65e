//! The shell: a ledger behind its lock. It waits, wakes, and runs what the ledger orders; it
//! decides nothing.
//!
//! A call takes the lock, tells the ledger what has happened, frees the lock, and only then carries
//! out the effects. User code runs in two places, neither under the lock: in an errand, on a
//! worker if it may block or else on the thread that carries it out, and in `is_broken` and `reset`
//! on the thread that borrows or returns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigError, far_future};
use crate::dialer::{Blocking, Dialer};
use crate::error::{DialFailure, GetError};
use crate::ledger::{
    AsideOrder, CloseOrder, DialOrder, Effects, Entry, Ledger, Refusal, Request, Task, Ticket,
    Verdict,
};
use crate::stats::Stats;
use crate::sync::{Bell, Mutex, MutexGuard, Wake, catch, now};
use crate::workers::{Job, Workers};

type Connection<D> = <D as Dialer>::Connection;
type Failure<D> = DialFailure<<D as Dialer>::Error>;
type Books<D> = Ledger<Connection<D>, Failure<D>, Arc<Bell>>;
type Lent<D> = Entry<Connection<D>>;
type Refused<D> = GetError<<D as Dialer>::Error>;
type Waited<'a, D> = (MutexGuard<'a, Books<D>>, Verdict<Connection<D>, Failure<D>>);
type Orders<D> = Effects<Connection<D>, Failure<D>, Arc<Bell>>;

/// One pool, shared by its handles and the errands under way.
pub(crate) struct Shell<D: Dialer> {
    dialer: D,
    blocking: Blocking,
    ledger: Mutex<Books<D>>,
    workers: Arc<Workers<Assignment<D>>>,
}

impl<D: Dialer> Shell<D> {
    pub(crate) fn new(dialer: D, config: Config) -> Arc<Self> {
        let blocking = dialer.blocking();
        let ledger = Mutex::new(Ledger::new(config));
        Arc::new(Self { dialer, blocking, ledger, workers: Workers::new() })
    }

    pub(crate) fn dialer(&self) -> &D {
        &self.dialer
    }

    // ---- Checkout ------------------------------------------------------------------------------

    /// Waits for a sound connection until `deadline`; `None` is for as long as it takes.
    pub(crate) fn get(
        self: &Arc<Self>,
        start: Instant,
        deadline: Option<Instant>,
    ) -> Result<Lent<D>, Refused<D>> {
        let mut place = None;
        loop {
            let (ticket, mut entry) = self.get_any(place, start, deadline)?;
            if entry.just_dialed || self.is_sound(&mut entry.connection) {
                return Ok(entry);
            }
            self.retire(entry);
            place = Some(ticket);
        }
    }

    /// A sound connection at rest, if there is one and nobody waits for it.
    pub(crate) fn try_get(self: &Arc<Self>) -> Result<Lent<D>, Refused<D>> {
        loop {
            let now = now();
            let mut ledger = self.ledger.lock();
            let Some(mut entry) = ledger.try_request(now).map_err(|_| GetError::Closed)? else {
                let (waited, failure) = (Duration::ZERO, ledger.last_failure());
                return Err(GetError::Exhausted {
                    waited,
                    stats: Box::new(ledger.stats(now)),
                    failure,
                });
            };
            drop(ledger);
            if self.is_sound(&mut entry.connection) {
                return Ok(entry);
            }
            self.retire(entry);
        }
    }

    /// Waits for a connection, which may turn out to be broken: then its ticket keeps the place.
    fn get_any(
        self: &Arc<Self>,
        place: Option<Ticket>,
        start: Instant,
        deadline: Option<Instant>,
    ) -> Result<(Ticket, Lent<D>), Refused<D>> {
        // Who asks again has spent time since; who asks first has just read the clock.
        let now = if place.is_some() { now() } else { start };
        let mut bell = None;
        let mut ledger = self.ledger.lock();
        let (request, effects) = ledger
            .request(place, deadline, now, || Arc::clone(bell.insert(Arc::<Bell>::default())));
        let ticket = match request {
            Request::Granted(ticket, entry) => return Ok((ticket, entry)),
            Request::Queued(ticket) => ticket,
            Request::Refused(refusal) => {
                let error = refused(&ledger, refusal, start);
                drop(ledger);
                self.carry_out(effects);
                return Err(error);
            }
        };
        let bell = bell.expect("a caller who is queued has a bell");
        let (ledger, verdict) = self.wait(ledger, effects, ticket, &bell, deadline);
        match verdict {
            Verdict::Granted(entry) => Ok((ticket, entry)),
            verdict => Err(turned_away(&ledger, verdict, start)),
        }
    }

    /// Waits until there is a verdict for `ticket` or `deadline` has passed.
    fn wait<'a>(
        self: &'a Arc<Self>,
        mut ledger: MutexGuard<'a, Books<D>>,
        mut effects: Orders<D>,
        ticket: Ticket,
        bell: &Bell,
        deadline: Option<Instant>,
    ) -> Waited<'a, D> {
        let mut is_late = false;
        loop {
            if !effects.is_empty() {
                drop(ledger);
                self.carry_out(effects);
                ledger = self.ledger.lock();
            }
            // Collect first: a grant already made outranks the deadline.
            if let Some(verdict) = ledger.collect(ticket) {
                return (ledger, verdict);
            }
            if is_late {
                let failure = ledger.leave(ticket, now());
                return (ledger, Verdict::Late(failure));
            }
            let until = [deadline, ledger.next_look()].into_iter().flatten().min();
            effects = match bell.wait(&mut ledger, until) {
                Wake::Rung => Effects::none(),
                Wake::Late => {
                    is_late = until == deadline;
                    ledger.look(now())
                }
            };
        }
    }

    // ---- Return --------------------------------------------------------------------------------

    /// A borrowed connection comes back: to the next caller, to rest, or to its end.
    pub(crate) fn give_back(self: &Arc<Self>, mut entry: Lent<D>) {
        let connection = &mut entry.connection;
        let sound = self.is_sound(connection)
            && (self.blocking.reset
                || self.user_code(|dialer| dialer.reset(connection).is_ok()) == Some(true));
        self.event(|ledger, now| match sound {
            false => ledger.retire(entry, now),
            true if self.blocking.reset => ledger.set_aside_for_reset(entry, now),
            true => ledger.give_back(entry, now),
        });
    }

    /// A borrowed connection is of no more use.
    pub(crate) fn retire(self: &Arc<Self>, entry: Lent<D>) {
        self.event(|ledger, now| ledger.retire(entry, now));
    }

    /// A borrower keeps its connection.
    pub(crate) fn detach(self: &Arc<Self>, entry: Lent<D>) -> Connection<D> {
        let (connection, effects) = self.ledger.lock().detach(entry, now());
        self.carry_out(effects);
        connection
    }

    // ---- Control -------------------------------------------------------------------------------

    /// Opens connections until `target` are open, and waits for them.
    pub(crate) fn warm_up(
        self: &Arc<Self>,
        target: u32,
        deadline: Option<Instant>,
    ) -> Result<(), Refused<D>> {
        let (start, bell) = (now(), Arc::<Bell>::default());
        let mut ledger = self.ledger.lock();
        let (ticket, effects) = ledger.warm_up(target, start, || Arc::clone(&bell));
        let (ledger, verdict) = self.wait(ledger, effects, ticket, &bell, deadline);
        match verdict {
            Verdict::Warm => Ok(()),
            verdict => Err(turned_away(&ledger, verdict, start)),
        }
    }

    /// Lends nothing from now on, and leaves no thread at rest.
    pub(crate) fn close(self: &Arc<Self>) {
        self.event(Ledger::close);
        self.workers.close();
    }

    /// Closes, and waits until nothing is open. The numbers at the end tell whether it came to that.
    pub(crate) fn drain(self: &Arc<Self>, deadline: Option<Instant>) -> Stats {
        self.close();
        let bell = Arc::<Bell>::default();
        let mut ledger = self.ledger.lock();
        let (ticket, effects) = ledger.drain(now(), || Arc::clone(&bell));
        let (ledger, _) = self.wait(ledger, effects, ticket, &bell, deadline);
        ledger.stats(now())
    }

    /// Lends nothing again that was opened, or began to be, before now.
    pub(crate) fn flush(self: &Arc<Self>) {
        self.event(Ledger::flush);
    }

    /// Changes the settings; refuses those that are out of bounds.
    pub(crate) fn reconfigure(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Config),
    ) -> Result<(), ConfigError> {
        let mut ledger = self.ledger.lock();
        let mut config = *ledger.config();
        change(&mut config);
        let effects = ledger.reconfigure(config.check_bounds()?, now());
        drop(ledger);
        self.carry_out(effects);
        Ok(())
    }

    pub(crate) fn stats(&self) -> Stats {
        let now = now();
        self.ledger.lock().stats(now)
    }

    // ---- Effects -------------------------------------------------------------------------------

    /// Tells the ledger of an event, and carries out what follows.
    fn event(self: &Arc<Self>, event: impl FnOnce(&mut Books<D>, Instant) -> Orders<D>) {
        let now = now();
        let effects = event(&mut self.ledger.lock(), now);
        self.carry_out(effects);
    }

    /// Carries out what the ledger ordered, and what follows from that. Never under the lock.
    ///
    /// A loop, not a recursion: without threads, a thousand waiting callers are a thousand dials
    /// that fail one after the other.
    fn carry_out(self: &Arc<Self>, effects: Orders<D>) {
        if effects.is_empty() {
            return;
        }
        let mut pending = vec![effects];
        while let Some(Effects { wake, dials, asides, closes, spent }) = pending.pop() {
            for bell in wake {
                bell.ring();
            }
            for order in dials {
                pending.extend(self.on_worker(Errand::Dial(order)));
            }
            for order in asides {
                let may_block = order.task == Task::Reset || self.blocking.check;
                pending.extend(self.run(Errand::Aside(order), may_block));
            }
            for order in closes {
                pending.extend(self.run(Errand::Close(order), self.blocking.close));
            }
            catch(|| drop(spent));
        }
    }

    fn run(self: &Arc<Self>, errand: Errand<Connection<D>>, may_block: bool) -> Option<Orders<D>> {
        if may_block { self.on_worker(errand) } else { Some(self.perform(errand)) }
    }

    /// Sends an errand to a worker. Without a thread a dial fails; other errands are run here, as
    /// a connection must not be lost for want of a thread.
    fn on_worker(self: &Arc<Self>, errand: Errand<Connection<D>>) -> Option<Orders<D>> {
        let assignment = Assignment { shell: Arc::clone(self), errand };
        let (Assignment { errand, .. }, error) = self.workers.submit(assignment).err()?;
        Some(match errand {
            Errand::Dial(DialOrder { id, .. }) => {
                let failure = DialFailure::no_thread(error);
                self.ledger.lock().dial_failed(id, failure, now())
            }
            errand => self.perform(errand),
        })
    }

    /// Does what is to be done, and tells the ledger. To it, a panic of the dialer is a failure.
    fn perform(&self, errand: Errand<Connection<D>>) -> Orders<D> {
        match errand {
            Errand::Dial(DialOrder { id, deadline }) => {
                let outcome = self.user_code(|dialer| dialer.dial(latest(deadline)));
                let now = now();
                match outcome {
                    Some(Ok(connection)) => self.ledger.lock().dialed(id, connection, now),
                    Some(Err(error)) => {
                        let failure = DialFailure::new(error);
                        self.ledger.lock().dial_failed(id, failure, now)
                    }
                    None => self.ledger.lock().dial_failed(id, DialFailure::panicked(), now),
                }
            }
            Errand::Aside(AsideOrder { id, task, mut entry, deadline }) => {
                let connection = &mut entry.connection;
                let sound = self.user_code(|dialer| {
                    match task {
                        Task::Check => dialer.check(connection, latest(deadline)),
                        Task::Reset => dialer.reset(connection),
                    }
                    .is_ok()
                });
                let now = now();
                self.ledger.lock().back(id, entry, sound == Some(true), now)
            }
            Errand::Close(CloseOrder { id, connection }) => {
                self.user_code(|dialer| dialer.close(connection));
                let now = now();
                self.ledger.lock().closed(id, now)
            }
        }
    }

    /// Runs user code; `None` if it panicked.
    fn user_code<T>(&self, code: impl FnOnce(&D) -> T) -> Option<T> {
        let value = catch(|| code(&self.dialer));
        if value.is_none() {
            self.ledger.lock().note_panic();
        }
        value
    }

    fn is_sound(&self, connection: &mut Connection<D>) -> bool {
        self.user_code(|dialer| dialer.is_broken(connection)) == Some(false)
    }
}

/// Why a caller was not even queued.
fn refused<C, E, W>(
    ledger: &Ledger<C, DialFailure<E>, W>,
    refusal: Refusal,
    start: Instant,
) -> GetError<E> {
    match refusal {
        Refusal::Closed => GetError::Closed,
        Refusal::TooLate => turned_away(ledger, Verdict::Late(ledger.last_failure()), start),
        Refusal::QueueFull => GetError::QueueFull {
            max_waiting: ledger.config().max_waiting.unwrap_or(u32::MAX),
            stats: Box::new(ledger.stats(start)),
        },
    }
}

/// Why a caller was not served.
fn turned_away<C, E, W>(
    ledger: &Ledger<C, DialFailure<E>, W>,
    verdict: Verdict<C, DialFailure<E>>,
    start: Instant,
) -> GetError<E> {
    let now = now();
    let waited = now.saturating_duration_since(start);
    let stats = Box::new(ledger.stats(now));
    match verdict {
        Verdict::Failed(failure) => GetError::Unreachable { waited, stats, failure },
        // Nothing is in use, so nothing but a dial could have served the caller.
        Verdict::Late(Some(failure)) if stats.in_use == 0 => {
            GetError::Unreachable { waited, stats, failure }
        }
        Verdict::Late(failure) => GetError::Exhausted { waited, stats, failure },
        Verdict::Closed => GetError::Closed,
        Verdict::Granted(_) | Verdict::Warm | Verdict::Drained => {
            unreachable!("a verdict in the caller's favour")
        }
    }
}

/// Something to do outside the lock, with the slot that it is done for.
enum Errand<C> {
    Dial(DialOrder),
    Aside(AsideOrder<C>),
    Close(CloseOrder<C>),
}

/// An errand on its way to a worker.
struct Assignment<D: Dialer> {
    shell: Arc<Shell<D>>,
    errand: Errand<Connection<D>>,
}

impl<D: Dialer> Job for Assignment<D> {
    fn run(self) {
        let effects = self.shell.perform(self.errand);
        self.shell.carry_out(effects);
    }
}

/// The deadline that a dialer is told.
fn latest(deadline: Option<Instant>) -> Instant {
    deadline.unwrap_or_else(|| far_future(now()))
}
