//! The shell: a ledger behind its lock. It waits, wakes, and runs what the ledger orders; it
//! decides nothing.
//!
//! A call takes the lock, tells the ledger what has happened, frees the lock, and only then carries
//! out the effects. User code runs in two places, neither under the lock: in an errand, on a
//! worker if it may block or else on the thread that carries it out, and in `is_broken` and `reset`
//! on the thread that borrows or returns.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, Cancellable, IsCancelled};
use crate::close_reason::CloseReason;
use crate::config::{Config, ConfigError, far_future, moment};
use crate::dialer::{Blocking, Dialer};
use crate::error::{DialFailure, GetError};
use crate::event::{Event, Observer, Watch};
use crate::histogram::{Histograms, Timings};
use crate::holder::{Holder, Holders, Site, is_self_deadlock};
use crate::ledger::effects::ErrandId;
use crate::ledger::{
    AsideOrder, CloseOrder, DialOrder, Effects, Entry, Ledger, Loan, Refusal, Request, Task,
    Ticket, Verdict,
};
use crate::maintenance::{self, Upkeep};
use crate::places::Places;
use crate::stats::Stats;
use crate::sync::{
    Bell, CoarseDuration, CoarseInstant, Figure, Latest, Mutex, MutexGuard, Wake, catch, now, seed,
    this_thread,
};
use crate::workers::{Job, Workers};

type Connection<D> = <D as Dialer>::Connection;
type Failure<D> = DialFailure<<D as Dialer>::Error>;
type Books<D> = Ledger<Connection<D>, Failure<D>, Arc<Bell>>;
type Lent<D> = Entry<Connection<D>>;
type Refused<D> = GetError<<D as Dialer>::Error>;
type Waited<D> = (Verdict<Connection<D>, Failure<D>>, Account);
type Orders<D> = Effects<Connection<D>, Failure<D>, Arc<Bell>>;

type Predicate<D> = Arc<dyn Fn(&Connection<D>) -> bool + Send + Sync>;

/// One pool, shared by its handles and the errands under way.
pub(crate) struct Shell<D: Dialer> {
    dialer: D,
    blocking: Blocking,
    knobs: Knobs,
    places: Places<Lent<D>>,
    ledger: Mutex<Books<D>>,
    /// Those that have yet to judge a connection, by the epoch that each began.
    predicates: Mutex<BTreeMap<u32, Predicate<D>>>,
    workers: Arc<Workers<Assignment<D>>>,
    reading: Latest<Reading>,
    timings: Timings,
    watch: Watch<<D as Dialer>::Error>,
}

impl<D: Dialer> Shell<D> {
    pub(crate) fn new(dialer: D, config: Config, watch: Watch<D::Error>) -> Arc<Self> {
        let blocking = dialer.blocking();
        let ledger = Ledger::new(config, seed());
        let reading = Reading { stats: ledger.stats_seen(now()), is_laid_out: false };
        Arc::new(Self {
            dialer,
            blocking,
            knobs: Knobs::new(&config),
            places: Places::new(places_for(&config)),
            ledger: Mutex::new(ledger),
            predicates: Mutex::new(BTreeMap::new()),
            workers: Workers::new(),
            reading: Latest::new(reading),
            timings: Timings::default(),
            watch,
        })
    }

    /// Has what is to rest from the start dialed for.
    pub(crate) fn begin(self: &Arc<Self>) {
        self.event(Ledger::look);
    }

    pub(crate) fn knobs(&self) -> &Knobs {
        &self.knobs
    }

    pub(crate) fn dialer(&self) -> &D {
        &self.dialer
    }

    // ---- Checkout ------------------------------------------------------------------------------

    /// Takes a sound connection that rests in a place, if nobody waits and there is one: the way
    /// that nearly every checkout goes. Neither a lock, nor an allocation, nor a precise clock.
    #[inline]
    pub(crate) fn take_resting(self: &Arc<Self>, site: Site) -> Option<Lent<D>> {
        let open = self.places.gate()?;
        let now = CoarseInstant::now();
        let mut entry = self.places.take(now)?;
        let is_fresh = now.is_within(self.knobs.fresh_for(), CoarseInstant(entry.rests_since));
        // One of an older epoch rests here for the moment until its returner has looked.
        if !is_fresh || entry.epoch != open.epoch || now >= CoarseInstant(entry.expires) {
            self.pass_on(entry);
            return None;
        }
        if !self.is_sound(&mut entry.connection) {
            self.retire(entry, CloseReason::Broken);
            return None;
        }
        let (thread, record) = (this_thread(), entry.record());
        record.count_loan();
        record.hand_to(Loan { since: now.0, thread, location: site });
        self.tell(|| Event::Lent { waited: Duration::ZERO, reused: entry.is_reused() });
        Some(entry)
    }

    /// The ledger shall see to a connection from a place before it is lent.
    #[cold]
    fn pass_on(self: &Arc<Self>, entry: Lent<D>) {
        let rested = CoarseInstant::now().since(CoarseInstant(entry.rests_since));
        self.event(|ledger, now| {
            ledger.take_in(entry, rested, now);
            ledger.look(now)
        });
    }

    /// Waits for a sound connection until `deadline`; `None` is for as long as it takes, or until it
    /// is cancelled.
    #[cold]
    pub(crate) fn get(
        self: &Arc<Self>,
        start: Instant,
        deadline: Option<Instant>,
        cancel: Option<&Cancel>,
        site: Site,
    ) -> Result<Lent<D>, Refused<D>> {
        let mut has_queued = false;
        let outcome = self.get_sound(start, deadline, cancel, &mut has_queued);
        let mut waited = Duration::ZERO;
        if has_queued {
            waited = now().saturating_duration_since(start);
            self.timings.note_wait(waited, outcome.is_ok());
        }
        self.checked_out(outcome, waited, site)
    }

    fn get_sound(
        self: &Arc<Self>,
        start: Instant,
        deadline: Option<Instant>,
        cancel: Option<&Cancel>,
        has_queued: &mut bool,
    ) -> Result<Lent<D>, Refused<D>> {
        let mut place = None;
        loop {
            let (ticket, mut entry) = self.get_any(place, start, deadline, cancel, has_queued)?;
            if entry.just_dialed || self.is_sound(&mut entry.connection) {
                return Ok(entry);
            }
            self.retire_unused(entry);
            place = Some(ticket);
        }
    }

    /// A sound connection at rest, if there is one and nobody waits for it.
    pub(crate) fn try_get(self: &Arc<Self>, site: Site) -> Result<Lent<D>, Refused<D>> {
        let outcome = self.try_get_sound();
        self.checked_out(outcome, Duration::ZERO, site)
    }

    fn try_get_sound(self: &Arc<Self>) -> Result<Lent<D>, Refused<D>> {
        loop {
            let mut lent = Ok(None);
            let (mut account, mut failure) = (Account::default(), None);
            self.event(|ledger, now| {
                let effects;
                (lent, effects) = ledger.try_request(now);
                if !matches!(lent, Ok(Some(_))) {
                    (account, failure) = (Account::of(ledger, now), ledger.last_failure());
                }
                effects
            });
            let mut entry = match lent {
                Ok(Some(entry)) => entry,
                Ok(None) => return Err(account.exhausted(Duration::ZERO, failure)),
                Err(Refusal::Suspended) => return Err(account.suspended(Duration::ZERO, failure)),
                Err(_) => return Err(GetError::Closed),
            };
            if self.is_sound(&mut entry.connection) {
                return Ok(entry);
            }
            self.retire_unused(entry);
        }
    }

    /// A checkout has come to its end by the lock: its loan begins, or there is none.
    fn checked_out(
        &self,
        outcome: Result<Lent<D>, Refused<D>>,
        waited: Duration,
        site: Site,
    ) -> Result<Lent<D>, Refused<D>> {
        match &outcome {
            Ok(entry) => {
                let (since, thread) = (CoarseInstant::now().0, this_thread());
                entry.record().hand_to(Loan { since, thread, location: site });
                self.tell(|| Event::Lent { waited, reused: entry.is_reused() });
            }
            Err(error) => self.tell(|| Event::TurnedAway { error, waited }),
        }
        outcome
    }

    /// A connection was lent by the ledger and is broken, so that nobody has had it.
    fn retire_unused(self: &Arc<Self>, entry: Lent<D>) {
        self.timings.note_vain_loan();
        self.retire(entry, CloseReason::Broken);
    }

    /// Waits for a connection, which may turn out to be broken: then its ticket keeps the place.
    fn get_any(
        self: &Arc<Self>,
        place: Option<Ticket>,
        start: Instant,
        deadline: Option<Instant>,
        cancel: Option<&Cancel>,
        has_queued: &mut bool,
    ) -> Result<(Ticket, Lent<D>), Refused<D>> {
        // Who asks again has spent time since; who asks first has just read the clock.
        let now = if place.is_some() { now() } else { start };
        let mut bell = None;
        let mut ledger = self.books();
        let (request, mut effects) = ledger
            .request(place, deadline, now, || Arc::clone(bell.insert(Arc::<Bell>::default())));
        let ticket = match request {
            Request::Granted(ticket, mut entry) => {
                date::<D>(&ledger, &mut entry, now, CoarseInstant::now());
                drop(ledger);
                self.carry_out(effects);
                return Ok((ticket, entry));
            }
            Request::Queued(ticket) => ticket,
            Request::Refused(refusal) => {
                let error = refused(&ledger, refusal, start);
                drop(ledger);
                self.carry_out(effects);
                return Err(error);
            }
        };
        *has_queued = true;
        let bell = bell.expect("a caller who is queued has a bell");
        // A cancellation finds the caller in the queue from here on, or has come before.
        let watch = cancel.map(|cancel| cancel.watch(Arc::downgrade(self) as _, ticket));
        let watch = watch.transpose();
        if let Err(IsCancelled) = watch {
            drop(ledger);
            self.carry_out(effects);
            Cancellable::cancel(Arc::clone(self), ticket);
            (ledger, effects) = (self.books(), Effects::none());
        }
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
            let verdict = verdict.or_else(|| is_late.then(|| ledger.leave(ticket, now)));
            if let Some(mut verdict) = verdict {
                let account = if let Verdict::Granted(entry) = &mut verdict {
                    date::<D>(&ledger, entry, now, CoarseInstant::now());
                    Account::default() // Who is served asks for none.
                } else {
                    // Before others are found to be late as well: they are asking still.
                    Account::of(&ledger, now)
                };
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
        let (now, since) = (CoarseInstant::now(), CoarseInstant(entry.record().since()));
        // Nearly every loan ends within a tick of that clock: see `Timings`.
        if now.is_a_tick_after(since) || self.watch.is_kept() {
            let held = self.end_loan(&entry, now);
            self.tell(|| Event::Returned { held });
        }
        let connection = &mut entry.connection;
        if !self.is_sound(connection) {
            return self.retire(entry, CloseReason::Broken);
        }
        if was_touched {
            let Some(needs_reset) = self.user_code(|dialer| dialer.needs_reset(connection)) else {
                self.task_failed(Task::Reset, None);
                return self.retire(entry, CloseReason::ResetFailed);
            };
            if needs_reset && self.blocking.reset {
                return self.event(|ledger, now| ledger.set_aside_for_reset(entry, now));
            }
            if needs_reset && !self.has_passed(Task::Reset, |dialer| dialer.reset(connection)) {
                return self.retire(entry, CloseReason::ResetFailed);
            }
        }
        // A reset has taken some time since: to have proved less than it has costs at most a check.
        match self.places.gate() {
            Some(open) if open.epoch == entry.epoch && now.0 < entry.expires => {
                (entry.came_back, entry.rests_since) = (true, now.0);
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

    /// A borrower is done with a connection that is of no more use.
    #[cold]
    pub(crate) fn discard(self: &Arc<Self>, entry: Lent<D>, reason: CloseReason) {
        let held = self.end_loan(&entry, CoarseInstant::now());
        self.tell(|| Event::Returned { held });
        self.retire(entry, reason);
    }

    /// Notes for how long a connection was lent, and tells.
    #[cold]
    fn end_loan(&self, entry: &Lent<D>, now: CoarseInstant) -> Duration {
        let since = CoarseInstant(entry.record().since());
        let held = now.since(since);
        if now.is_a_tick_after(since) {
            self.timings.note_hold(held);
        }
        held
    }

    /// A lent connection is of no more use.
    #[cold]
    fn retire(self: &Arc<Self>, entry: Lent<D>, reason: CloseReason) {
        self.event(|ledger, now| ledger.retire(entry, reason, now));
    }

    /// A borrower keeps its connection.
    pub(crate) fn detach(self: &Arc<Self>, entry: Lent<D>) -> Connection<D> {
        let held = self.end_loan(&entry, CoarseInstant::now());
        self.tell(|| Event::Detached { held });
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
        maintenance::forget(&self.weak());
        self.workers.close();
    }

    /// Closes, and aborts what is in use as far as it can be; says how many connections that were.
    pub(crate) fn abort(self: &Arc<Self>) -> u32 {
        self.close();
        let handles = self.books().handles_in_use();
        let count = u32::try_from(handles.len()).expect("no more are open than max_open allows");
        for handle in handles {
            self.user_code(|_| handle.abort());
            // Perhaps the last one: then its drop is user code too.
            self.user_code(|_| drop(handle));
        }
        count
    }

    /// Closes, and waits until nothing is open. The numbers at the end tell whether it came to that.
    pub(crate) fn drain(self: &Arc<Self>, deadline: Option<Instant>) -> Stats {
        self.close();
        let bell = Arc::<Bell>::default();
        let mut ledger = self.books();
        let (ticket, effects) = ledger.drain(now(), || Arc::clone(&bell));
        self.wait(ledger, effects, ticket, &bell, deadline).1.stats
    }

    /// Lends nothing and dials nothing until it is resumed.
    pub(crate) fn suspend(self: &Arc<Self>) {
        self.event(Ledger::suspend);
    }

    pub(crate) fn resume(self: &Arc<Self>) {
        self.event(Ledger::resume);
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.books().is_suspended()
    }

    /// Lends nothing again that was opened, or began to be, before now.
    pub(crate) fn flush(self: &Arc<Self>) {
        self.event(Ledger::flush);
    }

    /// Retires what the predicate says: of what was begun before now, and not lent when it does.
    pub(crate) fn retire_where(self: &Arc<Self>, predicate: Predicate<D>) {
        let mut ledger = self.books();
        let (epoch, effects) = ledger.retire_where(now());
        // Before anybody can be told to judge by it.
        self.predicates.lock().insert(epoch, predicate);
        drop(ledger);
        self.carry_out(effects);
    }

    /// Changes the settings, from those of this moment to what `change` makes of them.
    pub(crate) fn reconfigure(
        self: &Arc<Self>,
        change: impl FnOnce(Config) -> Result<Config, ConfigError>,
    ) -> Result<(), ConfigError> {
        let mut ledger = self.books();
        let config = change(*ledger.config())?;
        let effects = ledger.reconfigure(config, now());
        self.knobs.set(&config);
        self.places.grow(places_for(&config));
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

    /// The numbers without the lock: a glance at the places, and the rest as last noted.
    pub(crate) fn recent_stats(&self) -> Stats {
        let Reading { mut stats, is_laid_out } = self.reading.get();
        if is_laid_out {
            // Of one moment or of two, they add up to what is open.
            let resting = self.places.resting().min(stats.in_use);
            stats.idle += resting;
            stats.in_use -= resting;
        }
        stats
    }

    pub(crate) fn histograms(&self) -> Histograms {
        self.timings.histograms(|| {
            let ledger = self.books();
            (ledger.stats(now()).lent_total, ledger.in_hands())
        })
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
        while let Some(effects) = pending.pop() {
            let Effects { wake, handles, dials, asides, closes, spent, alarm, judged } = effects;
            for bell in wake {
                bell.ring();
            }
            if let Some(due) = alarm {
                self.order_upkeep(due);
            }
            for handle in handles {
                catch(|| drop(handle));
            }
            for order in dials {
                pending.extend(self.on_worker(Errand::Dial(order)));
            }
            for order in asides {
                let may_block = match order.task {
                    Task::Check | Task::KeepAlive => self.blocking.check,
                    Task::Reset => true,
                    Task::Judge { .. } => false,
                };
                pending.extend(self.run(Errand::Aside(order), may_block));
            }
            for order in closes {
                pending.extend(self.run(Errand::Close(order), self.blocking.close));
            }
            for failure in spent {
                catch(|| drop(failure));
            }
            if let Some(epoch) = judged {
                self.forget_predicates(epoch);
            }
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
    fn order_upkeep(self: &Arc<Self>, due: Instant) {
        let is_taken = maintenance::wake_at(due, self.weak());
        // The pool may have been closed since the order was given. To see to that, nothing need be
        // swept in, and nothing that is swept in may be left without an event.
        let mut ledger = self.ledger.lock();
        if !is_taken {
            ledger.alarm_refused();
        }
        let is_closed = ledger.is_closed();
        drop(ledger);
        if is_closed {
            maintenance::forget(&self.weak());
        }
    }

    fn weak(self: &Arc<Self>) -> Weak<dyn Upkeep> {
        let weak: Weak<Self> = Arc::downgrade(self);
        weak
    }

    fn run(self: &Arc<Self>, errand: Errand<D>, may_block: bool) -> Option<Orders<D>> {
        if may_block { self.on_worker(errand) } else { Some(self.perform(errand)) }
    }

    /// Sends an errand to a worker. Without a thread a dial fails; other errands are run here, as
    /// a connection must not be lost for want of a thread.
    fn on_worker(self: &Arc<Self>, errand: Errand<D>) -> Option<Orders<D>> {
        let assignment = Assignment { shell: Arc::clone(self), errand };
        let (Assignment { errand, .. }, error) = self.workers.submit(assignment).err()?;
        Some(match errand {
            Errand::Dial(DialOrder { id, .. }) => {
                self.dial_failed(id, DialFailure::no_thread(error), Duration::ZERO, now())
            }
            errand => self.perform(errand),
        })
    }

    /// Does what is to be done, and tells the ledger. To it, a panic of the dialer is a failure.
    fn perform(&self, errand: Errand<D>) -> Orders<D> {
        match errand {
            Errand::Dial(DialOrder { id, deadline }) => {
                let start = now();
                let outcome = self.user_code(|dialer| dialer.dial(latest(deadline)));
                let now = now();
                let took = now.saturating_duration_since(start);
                let failure = match outcome {
                    Some(Ok(connection)) => {
                        self.timings.note_dial(took);
                        self.tell(|| Event::Opened { took });
                        let handle = self.user_code(|dialer| dialer.abort_handle(&connection));
                        return self.books().dialed(id, connection, handle.flatten(), now);
                    }
                    Some(Err(error)) => DialFailure::new(error),
                    None => DialFailure::panicked(),
                };
                self.dial_failed(id, failure, took, now)
            }
            Errand::Aside(AsideOrder { id, task, mut entry, deadline }) => {
                let connection = &mut entry.connection;
                let is_sound = match task {
                    Task::Judge { since, until } => self.may_stay(connection, since, until),
                    Task::Check | Task::KeepAlive => {
                        self.has_passed(task, |dialer| dialer.check(connection, latest(deadline)))
                    }
                    Task::Reset => self.has_passed(task, |dialer| dialer.reset(connection)),
                };
                let now = now();
                self.books().back(id, entry, is_sound, now)
            }
            Errand::Close(CloseOrder { id, connection, reason, age }) => {
                self.user_code(|dialer| dialer.close(connection));
                self.tell(|| Event::Closed { reason, age });
                let now = now();
                self.books().closed(id, now)
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
        took: Duration,
        now: Instant,
    ) -> Orders<D> {
        self.tell(|| Event::DialFailed { failure: &failure, took });
        self.books().dial_failed(id, failure, now)
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

    /// Whether a check or a reset has succeeded. To the pool, a panic of the dialer is a failure.
    #[inline]
    fn has_passed(&self, task: Task, code: impl FnOnce(&D) -> Result<(), D::Error>) -> bool {
        let error = match self.user_code(code) {
            Some(Ok(())) => return true,
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.task_failed(task, error);
        false
    }

    #[cold]
    fn task_failed(&self, task: Task, error: Option<D::Error>) {
        self.tell(|| match task {
            Task::Reset => Event::ResetFailed { error: error.as_ref() },
            _ => Event::CheckFailed { error: error.as_ref() },
        });
        self.user_code(|_| drop(error));
    }

    /// Tells the observer, if there is one. Never under the lock, and before the ledger is told:
    /// so what follows from an event is observed after it.
    #[inline]
    fn tell<'a>(&self, event: impl FnOnce() -> Event<'a, D::Error>)
    where
        D::Error: 'a,
    {
        if let Some(observer) = self.watch.observer() {
            self.tell_observer(observer, &event());
        }
    }

    #[cold]
    fn tell_observer(&self, observer: &dyn Observer<D::Error>, event: &Event<'_, D::Error>) {
        if catch(|| observer.observe(event)).is_none() {
            self.note_panic();
        }
    }

    #[cold]
    fn note_panic(&self) {
        self.books().note_panic();
    }

    /// Whether none of the predicates of those epochs retires a connection.
    fn may_stay(&self, connection: &Connection<D>, since: u32, until: u32) -> bool {
        let epochs = (Bound::Excluded(since), Bound::Included(until));
        let predicates: Vec<_> =
            self.predicates.lock().range(epochs).map(|(_, p)| Arc::clone(p)).collect();
        let may_stay =
            predicates.iter().all(|retires| self.user_code(|_| retires(connection)) == Some(false));
        for predicate in predicates {
            catch(|| drop(predicate));
        }
        may_stay
    }

    #[inline]
    fn is_sound(&self, connection: &mut Connection<D>) -> bool {
        self.user_code(|dialer| dialer.is_broken(connection)) == Some(false)
    }
}

impl<D: Dialer> Cancellable for Shell<D> {
    fn cancel(self: Arc<Self>, ticket: Ticket) {
        self.event(|ledger, now| ledger.cancel(ticket, now));
    }
}

/// The settings that are read without the lock. They are set under it.
#[derive(Default)]
pub(crate) struct Knobs {
    fresh_for: Figure,
    get_timeout: Figure,
    retire_on_panic: Figure,
}

impl Knobs {
    fn new(config: &Config) -> Self {
        let knobs = Self::default();
        knobs.set(config);
        knobs
    }

    fn set(&self, config: &Config) {
        self.fresh_for.set(CoarseDuration::new(config.check_after.min(config.max_idle_time)).0);
        let nanoseconds = u64::try_from(config.get_timeout.as_nanos()).unwrap_or(u64::MAX);
        self.get_timeout.set(nanoseconds);
        self.retire_on_panic.set(u64::from(config.retire_on_panic));
    }

    /// What has rested for longer is to be checked or closed.
    #[inline]
    fn fresh_for(&self) -> CoarseDuration {
        CoarseDuration(self.fresh_for.get())
    }

    pub(crate) fn get_timeout(&self) -> Duration {
        // Of what nanoseconds cannot say, nobody sees the end.
        match self.get_timeout.get() {
            u64::MAX => Duration::MAX,
            nanoseconds => Duration::from_nanos(nanoseconds),
        }
    }

    pub(crate) fn retire_on_panic(&self) -> bool {
        self.retire_on_panic.get() != 0
    }
}

/// Whether the coarse clock can tell how long a connection may rest. If not, all callers go by the
/// ledger.
fn is_timed(config: &Config) -> bool {
    config.check_after >= CoarseDuration::LEAST
}

fn places_for(config: &Config) -> u32 {
    if is_timed(config) { config.max_idle() } else { 0 }
}

/// The pool's numbers as they were when the lock was last freed.
#[derive(Clone, Copy, Debug)]
struct Reading {
    stats: Stats,
    /// Whether connections have been in the places since: to the ledger they are in use.
    is_laid_out: bool,
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
        self.put_away();
        let wake = bell.wait(&mut self.ledger, until);
        self.take_in();
        wake
    }

    fn take_in(&mut self) {
        let mut found = Vec::new();
        self.shell.places.sweep(|entry| found.push(entry));
        self.take_in_all(found);
    }

    /// Before unlocking: what may rest within reach of all is laid out, and the numbers are noted.
    fn put_away(&mut self) {
        let now = now();
        let ease = self.ledger.ease(now).filter(|_| is_timed(self.ledger.config()));
        if let Some(ease) = ease {
            self.lay_out(ease, now);
        }
        let (stats, is_laid_out) = (self.ledger.stats_seen(now), ease.is_some());
        self.shell.reading.set(Reading { stats, is_laid_out });
    }

    fn lay_out(&mut self, ease: Duration, now: Instant) {
        let coarse = CoarseInstant::now();
        let (epoch, until) = (self.ledger.epoch(), moment(now, ease));
        let mut found = Vec::new();
        let lay_out = || {
            let (mut entry, rested) = self.ledger.lay_out(now)?;
            entry.rests_since = coarse.before(rested).0;
            date::<D>(&self.ledger, &mut entry, now, coarse);
            Some(entry)
        };
        self.shell.places.open(epoch, until, lay_out, |entry| found.push(entry));
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
        self.put_away();
    }
}

/// Writes on a connection when it has to end, by the coarse clock, for those who do not ask the ledger.
fn date<D: Dialer>(ledger: &Books<D>, entry: &mut Lent<D>, now: Instant, coarse: CoarseInstant) {
    if entry.expires == 0 {
        let left = ledger.life_left(entry, now);
        entry.expires = left.map_or(u64::MAX, |left| coarse.after(left).0);
    }
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

    fn suspended<E>(self, waited: Duration, failure: Option<DialFailure<E>>) -> GetError<E> {
        GetError::Suspended { waited, stats: Box::new(self.stats), failure }
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
    let failure = ledger.last_failure();
    let verdict = match refusal {
        Refusal::Closed => return GetError::Closed,
        Refusal::Suspended => Verdict::<C, _>::Suspended(failure),
        Refusal::TooLate => Verdict::Late(failure),
        Refusal::QueueFull => {
            let max_waiting = ledger.config().max_waiting.unwrap_or(u32::MAX);
            return GetError::QueueFull { max_waiting, stats: Box::new(ledger.stats(start)) };
        }
    };
    turned_away(verdict, Account::of(ledger, start), start)
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
        Verdict::Suspended(failure) => account.suspended(waited, failure),
        Verdict::Closed => GetError::Closed,
        Verdict::Cancelled => GetError::Cancelled,
        Verdict::Granted(_) | Verdict::Warm | Verdict::Drained => {
            unreachable!("a verdict in the caller's favour")
        }
    }
}

/// Something to do outside the lock, with the slot that it is done for.
enum Errand<D: Dialer> {
    Dial(DialOrder),
    Aside(AsideOrder<Connection<D>>),
    Close(CloseOrder<Connection<D>>),
    /// All that an upkeep has led to, and the leaks that it has found.
    Upkeep(Orders<D>, Vec<Loan>),
}

/// An errand on its way to a worker.
struct Assignment<D: Dialer> {
    shell: Arc<Shell<D>>,
    errand: Errand<D>,
}

impl<D: Dialer> Upkeep for Shell<D> {
    fn upkeep(self: Arc<Self>) {
        let now = now();
        let (orders, leaks) = {
            let mut ledger = self.books();
            let orders = ledger.upkeep(now);
            let leak_after = ledger.config().leak_after;
            (orders, ledger.take_leaks(CoarseInstant::now().before(leak_after).0))
        };
        // The thread that this runs on is that of all pools: no dialer may hold it up, nor may an
        // observer.
        let left = if orders.may_call_out() || !leaks.is_empty() {
            self.on_worker(Errand::Upkeep(orders, leaks))
        } else {
            Some(orders)
        };
        left.into_iter().for_each(|orders| self.carry_out(orders));
    }
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
