//! The shell: a ledger behind its lock. It waits, wakes, and runs what the ledger orders; it
//! decides nothing.
//!
//! A call takes the lock, tells the ledger what has happened, frees the lock, and only then carries
//! out the effects. User code runs in two places, neither under the lock: in an errand, on a
//! worker if it may block or else on the thread that carries it out, and in `is_broken` and `reset`
//! on the thread that borrows or returns.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigError, far_future, moment};
use crate::dialer::{Blocking, Dialer};
use crate::error::{DialFailure, GetError};
use crate::holder::{Holder, Holders, Site, is_self_deadlock};
use crate::ledger::{
    AsideOrder, CloseOrder, DialOrder, Effects, Entry, Ledger, Loan, Refusal, Request, Task,
    Ticket, Verdict,
};
use crate::places::Places;
use crate::stats::Stats;
use crate::sync::{
    Bell, CoarseDuration, CoarseInstant, Mutex, MutexGuard, Wake, catch, now, this_thread,
};
use crate::workers::{Job, Workers};

type Connection<D> = <D as Dialer>::Connection;
type Failure<D> = DialFailure<<D as Dialer>::Error>;
type Books<D> = Ledger<Connection<D>, Failure<D>, Arc<Bell>>;
type Lent<D> = Entry<Connection<D>>;
type Refused<D> = GetError<<D as Dialer>::Error>;
type Waited<D> = (Verdict<Connection<D>, Failure<D>>, Account);
type Orders<D> = Effects<Connection<D>, Failure<D>, Arc<Bell>>;

/// One pool, shared by its handles and the errands under way.
pub(crate) struct Shell<D: Dialer> {
    dialer: D,
    blocking: Blocking,
    check_after: CoarseDuration,
    start: Instant,
    places: Places<Lent<D>>,
    ledger: Mutex<Books<D>>,
    workers: Arc<Workers<Assignment<D>>>,
}

impl<D: Dialer> Shell<D> {
    pub(crate) fn new(dialer: D, config: Config) -> Arc<Self> {
        let blocking = dialer.blocking();
        let check_after = CoarseDuration::new(config.check_after);
        // What the coarse clock cannot tell is left to the ledger.
        let is_timed = config.check_after >= CoarseDuration::LEAST;
        let places = Places::new(if is_timed { config.max_idle() } else { 0 });
        let (start, workers) = (now(), Workers::new());
        let ledger = Mutex::new(Ledger::new(config, start));
        Arc::new(Self { dialer, blocking, check_after, start, places, ledger, workers })
    }

    pub(crate) fn dialer(&self) -> &D {
        &self.dialer
    }

    // ---- Checkout ------------------------------------------------------------------------------

    /// Takes a sound connection that rests in a place, if nobody waits and there is one: the way
    /// that nearly every checkout goes. Neither a lock, nor an allocation, nor a precise clock.
    #[inline]
    pub(crate) fn take_resting(self: &Arc<Self>, location: Site) -> Option<Lent<D>> {
        let open = self.places.gate()?;
        let now = CoarseInstant::now();
        let mut entry = self.places.take(now)?;
        let is_fresh = now.is_within(self.check_after, CoarseInstant(entry.rests_since));
        // One from before a flush rests here for the moment until its returner has looked.
        let is_valid = entry.generation == open.generation;
        if is_fresh && is_valid && self.is_sound(&mut entry.connection) {
            let (thread, record) = (this_thread(), entry.record());
            record.count_loan();
            record.hand_to(Loan { since: now.0, thread, location });
            return Some(entry);
        }
        self.reject(entry, is_fresh);
        None
    }

    /// A connection from a place is of no more use, or must be checked first.
    #[cold]
    fn reject(self: &Arc<Self>, entry: Lent<D>, is_fresh: bool) {
        if is_fresh {
            return self.retire(entry);
        }
        let rested = CoarseInstant::now().since(CoarseInstant(entry.rests_since));
        self.event(|ledger, now| {
            ledger.take_in(entry, rested, now);
            ledger.look(now)
        });
    }

    /// Waits for a sound connection until `deadline`; `None` is for as long as it takes.
    #[cold]
    pub(crate) fn get(
        self: &Arc<Self>,
        start: Instant,
        deadline: Option<Instant>,
        location: Site,
    ) -> Result<Lent<D>, Refused<D>> {
        let mut place = None;
        loop {
            let (ticket, mut entry) = self.get_any(place, start, deadline)?;
            if entry.just_dialed || self.is_sound(&mut entry.connection) {
                entry.record().hand_to(loan_from_now(location));
                return Ok(entry);
            }
            self.retire(entry);
            place = Some(ticket);
        }
    }

    /// A sound connection at rest, if there is one and nobody waits for it.
    pub(crate) fn try_get(self: &Arc<Self>, location: Site) -> Result<Lent<D>, Refused<D>> {
        loop {
            let mut lent = Ok(None);
            let (mut account, mut failure) = (Account::default(), None);
            self.event(|ledger, now| {
                let effects = ledger.look(now);
                lent = ledger.try_request(now);
                if let Ok(None) = lent {
                    (account, failure) = (Account::of(ledger, now), ledger.last_failure());
                }
                effects
            });
            let Some(mut entry) = lent.map_err(|_| GetError::Closed)? else {
                return Err(account.exhausted(Duration::ZERO, failure));
            };
            if self.is_sound(&mut entry.connection) {
                entry.record().hand_to(loan_from_now(location));
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
        let mut ledger = self.books();
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
        match self.wait(ledger, effects, ticket, &bell, deadline) {
            (Verdict::Granted(entry), _) => Ok((ticket, entry)),
            (verdict, account) => Err(turned_away(verdict, account, start)),
        }
    }

    /// Waits until there is a verdict for `ticket` or `deadline` has passed.
    fn wait<'a>(
        self: &'a Arc<Self>,
        mut ledger: OpenBooks<'a, D>,
        mut effects: Orders<D>,
        ticket: Ticket,
        bell: &Arc<Bell>,
        deadline: Option<Instant>,
    ) -> Waited<D> {
        let mut is_late = false;
        loop {
            if !effects.is_empty() {
                drop(ledger);
                self.carry_out(effects);
                ledger = self.books();
            }
            let now = now();
            // Collect first: a grant already made outranks the deadline.
            let verdict = ledger.collect(ticket);
            let verdict =
                verdict.or_else(|| is_late.then(|| Verdict::Late(ledger.leave(ticket, now))));
            if let Some(verdict) = verdict {
                // Before others are found to be late as well: they ask still. Who is served asks
                // for no account.
                let is_served = matches!(verdict, Verdict::Granted(_));
                let account =
                    if is_served { Account::default() } else { Account::of(&ledger, now) };
                let effects = ledger.look(now);
                drop(ledger);
                self.carry_out(effects);
                return (verdict, account);
            }
            let until = ledger.sleep(ticket, deadline, now, Arc::clone(bell));
            effects = match ledger.wait(bell, until) {
                Wake::Rung => Effects::none(),
                Wake::Late => {
                    is_late = until == deadline;
                    ledger.look(self::now())
                }
            };
        }
    }

    // ---- Return --------------------------------------------------------------------------------

    /// A borrowed connection comes back: to the next caller, to rest, or to its end.
    #[inline]
    pub(crate) fn give_back(self: &Arc<Self>, mut entry: Lent<D>, was_touched: bool) {
        let connection = &mut entry.connection;
        if !self.is_sound(connection) {
            return self.retire(entry);
        }
        if was_touched {
            let Some(needs_reset) = self.user_code(|dialer| dialer.needs_reset(connection)) else {
                return self.retire(entry);
            };
            if needs_reset && self.blocking.reset {
                return self.event(|ledger, now| ledger.set_aside_for_reset(entry, now));
            }
            if needs_reset
                && self.user_code(|dialer| dialer.reset(connection).is_ok()) != Some(true)
            {
                return self.retire(entry);
            }
        }
        match self.places.gate() {
            Some(open) if open.generation == entry.generation => {
                entry.rests_since = CoarseInstant::now().0;
                entry.record().let_go();
                if let Err(left) = self.places.put(entry, open) {
                    self.give_back_slowly(left);
                }
            }
            _ => self.give_back_slowly([Some(entry), None]),
        }
    }

    #[cold]
    fn give_back_slowly(self: &Arc<Self>, entries: [Option<Lent<D>>; 2]) {
        for entry in entries.into_iter().flatten() {
            self.event(|ledger, now| ledger.give_back(entry, now));
        }
    }

    /// A borrowed connection is of no more use.
    #[cold]
    pub(crate) fn retire(self: &Arc<Self>, entry: Lent<D>) {
        self.event(|ledger, now| ledger.retire(entry, now));
    }

    /// A borrower keeps its connection.
    pub(crate) fn detach(self: &Arc<Self>, entry: Lent<D>) -> Connection<D> {
        let (connection, effects) = self.books().detach(entry, now());
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
        let mut ledger = self.books();
        let (ticket, effects) = ledger.warm_up(target, start, || Arc::clone(&bell));
        match self.wait(ledger, effects, ticket, &bell, deadline) {
            (Verdict::Warm, _) => Ok(()),
            (verdict, account) => Err(turned_away(verdict, account, start)),
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
        let mut ledger = self.books();
        let (ticket, effects) = ledger.drain(now(), || Arc::clone(&bell));
        self.wait(ledger, effects, ticket, &bell, deadline).1.stats
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
        let mut ledger = self.books();
        let mut config = *ledger.config();
        change(&mut config);
        let effects = ledger.reconfigure(config.check_bounds()?, now());
        drop(ledger);
        self.carry_out(effects);
        Ok(())
    }

    pub(crate) fn stats(self: &Arc<Self>) -> Stats {
        let mut stats = Stats::default();
        self.event(|ledger, now| {
            let effects = ledger.look(now);
            stats = ledger.stats(now);
            effects
        });
        stats
    }

    /// Who has a connection now, longest first.
    pub(crate) fn holders(self: &Arc<Self>) -> Vec<Holder> {
        let mut loans = Vec::new();
        self.event(|ledger, now| {
            let effects = ledger.look(now);
            loans = ledger.loans();
            effects
        });
        Holder::all(loans)
    }

    /// How long ago a connection was dialed.
    pub(crate) fn age(&self, entry: &Lent<D>) -> Duration {
        entry.age(self.start, now())
    }

    // ---- The lock ------------------------------------------------------------------------------

    /// Locks the ledger, with everything that rests in the places taken in.
    fn books(&self) -> OpenBooks<'_, D> {
        let mut books = OpenBooks { shell: self, ledger: self.ledger.lock() };
        books.take_in();
        books
    }

    // ---- Effects -------------------------------------------------------------------------------

    /// Tells the ledger of an event, and carries out what follows.
    #[cold]
    fn event(self: &Arc<Self>, event: impl FnOnce(&mut Books<D>, Instant) -> Orders<D>) {
        let now = now();
        let effects = event(&mut self.books(), now);
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
            for failure in spent {
                catch(|| drop(failure));
            }
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
                self.books().dial_failed(id, failure, now())
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
                    Some(Ok(connection)) => self.books().dialed(id, connection, now),
                    Some(Err(error)) => {
                        let failure = DialFailure::new(error);
                        self.books().dial_failed(id, failure, now)
                    }
                    None => self.books().dial_failed(id, DialFailure::panicked(), now),
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
                self.books().back(id, entry, sound == Some(true), now)
            }
            Errand::Close(CloseOrder { id, connection }) => {
                self.user_code(|dialer| dialer.close(connection));
                let now = now();
                self.books().closed(id, now)
            }
        }
    }

    /// Runs user code; `None` if it panicked.
    #[inline]
    fn user_code<T>(&self, code: impl FnOnce(&D) -> T) -> Option<T> {
        let value = catch(|| code(&self.dialer));
        if value.is_none() {
            self.note_panic();
        }
        value
    }

    #[cold]
    fn note_panic(&self) {
        self.books().note_panic();
    }

    #[inline]
    fn is_sound(&self, connection: &mut Connection<D>) -> bool {
        self.user_code(|dialer| dialer.is_broken(connection)) == Some(false)
    }
}

/// The ledger, locked. What rests in the places is in it, and is laid out again on unlocking if
/// nobody has to be served first.
struct OpenBooks<'a, D: Dialer> {
    shell: &'a Shell<D>,
    ledger: MutexGuard<'a, Books<D>>,
}

impl<D: Dialer> OpenBooks<'_, D> {
    /// Unlocks for the time of a wait.
    fn wait(&mut self, bell: &Bell, until: Option<Instant>) -> Wake {
        self.lay_out();
        let wake = bell.wait(&mut self.ledger, until);
        self.take_in();
        wake
    }

    fn take_in(&mut self) {
        let mut found = Vec::new();
        self.shell.places.sweep(|entry| found.push(entry));
        self.take_in_all(found);
    }

    fn lay_out(&mut self) {
        let (now, coarse) = (now(), CoarseInstant::now());
        let Some(ease) = self.ledger.ease(now) else { return };
        let (generation, until) = (self.ledger.generation(), moment(now, ease));
        let mut found = Vec::new();
        let lay_out = || {
            let (mut entry, rested) = self.ledger.lay_out(now)?;
            entry.rests_since = coarse.before(rested).0;
            Some(entry)
        };
        self.shell.places.open(generation, until, lay_out, |entry| found.push(entry));
        self.take_in_all(found);
    }

    fn take_in_all(&mut self, found: Vec<Lent<D>>) {
        if !found.is_empty() {
            let (now, coarse) = (now(), CoarseInstant::now());
            for entry in found {
                let rested = coarse.since(CoarseInstant(entry.rests_since));
                self.ledger.take_in(entry, rested, now);
            }
        }
    }
}

impl<D: Dialer> Deref for OpenBooks<'_, D> {
    type Target = Books<D>;

    fn deref(&self) -> &Books<D> {
        &self.ledger
    }
}

impl<D: Dialer> DerefMut for OpenBooks<'_, D> {
    fn deref_mut(&mut self) -> &mut Books<D> {
        &mut self.ledger
    }
}

impl<D: Dialer> Drop for OpenBooks<'_, D> {
    fn drop(&mut self) {
        self.lay_out();
    }
}

/// Who holds a connection from now on, having asked for it at `location`.
fn loan_from_now(location: Site) -> Loan {
    Loan { since: CoarseInstant::now().0, thread: this_thread(), location }
}

/// What a caller who is turned away is told of the pool.
#[derive(Default)]
struct Account {
    stats: Stats,
    loans: Vec<Loan>,
    is_self_deadlock: bool,
}

impl Account {
    /// Of this moment, for this thread.
    fn of<C, E>(ledger: &Ledger<C, DialFailure<E>, Arc<Bell>>, now: Instant) -> Self {
        let (stats, loans) = (ledger.stats(now), ledger.loans());
        let asking = ledger.waiting().map(|bell| bell.thread()).chain([this_thread()]);
        let is_self_deadlock = is_self_deadlock(&loans, stats.in_use, asking);
        Self { stats, loans, is_self_deadlock }
    }

    fn exhausted<E>(self, waited: Duration, failure: Option<DialFailure<E>>) -> GetError<E> {
        let holders = Box::new(Holders::new(self.loans, self.is_self_deadlock));
        GetError::Exhausted { waited, stats: Box::new(self.stats), holders, failure }
    }

    fn unreachable<E>(self, waited: Duration, failure: DialFailure<E>) -> GetError<E> {
        GetError::Unreachable { waited, stats: Box::new(self.stats), failure }
    }
}

/// Why a caller was not even queued.
fn refused<C, E>(
    ledger: &Ledger<C, DialFailure<E>, Arc<Bell>>,
    refusal: Refusal,
    start: Instant,
) -> GetError<E> {
    match refusal {
        Refusal::Closed => GetError::Closed,
        Refusal::TooLate => {
            let verdict = Verdict::<C, _>::Late(ledger.last_failure());
            turned_away(verdict, Account::of(ledger, start), start)
        }
        Refusal::QueueFull => GetError::QueueFull {
            max_waiting: ledger.config().max_waiting.unwrap_or(u32::MAX),
            stats: Box::new(ledger.stats(start)),
        },
    }
}

/// Why a caller was not served.
fn turned_away<C, E>(
    verdict: Verdict<C, DialFailure<E>>,
    account: Account,
    start: Instant,
) -> GetError<E> {
    let waited = now().saturating_duration_since(start);
    let is_unused = account.stats.in_use == 0;
    match verdict {
        Verdict::Failed(failure) => account.unreachable(waited, failure),
        // Nothing is in use, so nothing but a dial could have served the caller.
        Verdict::Late(Some(failure)) if is_unused => account.unreachable(waited, failure),
        Verdict::Late(failure) => account.exhausted(waited, failure),
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
