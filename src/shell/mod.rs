//! The shell: a ledger behind its lock. It waits, wakes, and runs what the ledger orders; it
//! decides nothing.
//!
//! A call takes the lock, tells the ledger what has happened, frees the lock, and only then carries
//! out the effects. No user code runs under the lock. The user code of a *job* (a dial, a check, a reset
//! by a worker, a close) runs on a worker if it may block, and otherwise on the thread that carries the
//! effects out. `is_broken`, and a reset that need not wait, run on the thread that borrows or returns.
//!
//! | file | purpose |
//! | --- | --- |
//! | `mod` | a checkout without the lock, and a return |
//! | `waiting` (with a `bell`), `snapshot`, `cancel`, `terms` | a checkout that waits, and its error |
//! | `locked` | the ledger's lock, and the idle connections beside it |
//! | `places`, `knobs` | the idle connections, and the settings, that threads reach without the lock |
//! | `carry_out`, `dialing`, `user_code` | what the ledger orders: dials, checks, resets, closes |
//! | `control` | close, suspend, flush, settings, numbers |
//! | `group`, `quota` | the slots that several pools share, or that something outside bounds |
//!
//! # Races
//!
//! | between | why it is sound | models in `loom-tests` |
//! | --- | --- | --- |
//! | a return to a place, and a caller who is about to queue | both swap in the same place, and the gate is looked at after the swap: see `places.rs` | `resting`, `apart` |
//! | a connection kept for a caller who is waking up, and the caller in the queue whom it is kept from | the last to wake up looks; two additions to one word: see `Shell::woken` | `resting` |
//! | a verdict, and a caller who gives up at its deadline or is cancelled | both take the ledger's lock; a caller who finds itself out of the queue has been told: see `Ledger::leave` | `returning`, `controlling` |
//! | a return without the lock, and upkeep that sleeps until the next known end | the next upkeep is written before the gate is opened, and read after the gate: see `Knobs::next_upkeep` | `aging`, `apart` |
//! | two returns that together exceed `max_idle_total` | each counts its own connection before it looks at the sum: see `IdleCount` | `sharing` |
//! | a holder that changes while it is read | the number of the loan is read first and last: see `LoanRecord` | `apart` |
//! | a pool that is used in the child of a fork | the child compares a number and takes no lock: see `Shell::is_inherited` | none; `tests/pool/fork.rs` forks |

pub(crate) mod bell;
pub(crate) mod cancel;
mod carry_out;
mod control;
mod dialing;
mod group;
mod knobs;
mod locked;
pub(crate) mod places;
pub(crate) mod quota;
mod snapshot;
mod terms;
mod user_code;
mod waiting;

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::dialer::{Blocking, Dialer};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::{Effects, Entry, Ledger, Purpose, RareEffects, Refusal, Verdict};
use crate::report::error::{DialFailure, GetError};
use crate::report::event::Event;
use crate::report::histogram::Timings;
use crate::report::holder::Site;
use crate::report::log_lines::Streak;
use crate::report::reporter::Reporter;
use crate::runtime::moment::Moment;
use crate::runtime::shelf::{Latest, NewLine};
use crate::runtime::sync::{
    AtomicFigure, AtomicU64, Mutex, Process, coarse_now, now, seed, this_thread,
};
use crate::runtime::workers::{Crew, Enlistment};
use crate::shell::cancel::Cancel;
use crate::shell::places::{Open, Places};

use self::dialing::LastClose;
use self::group::{IdleCount, Membership};
use self::knobs::{Knobs, places_at_first};
use self::locked::{Locked, Reading};
use self::snapshot::Snapshot;
use self::waiting::{CallerBell, LedgerCheckout};

pub(crate) use self::group::{Group, OnVacant};
pub(crate) use self::terms::Terms;

// The general types, for the connections, errors and callers of a pool of `D`.
type Connection<D> = <D as Dialer>::Connection;
type Failure<D> = DialFailure<<D as Dialer>::Error>;
type BellOf<D> = CallerBell<Connection<D>, Failure<D>>;
type LedgerOf<D> = Ledger<Connection<D>, Failure<D>, BellOf<D>>;
type EntryOf<D> = Entry<Connection<D>>;
type GetErrorOf<D> = GetError<<D as Dialer>::Error>;
type VerdictOf<D> = Verdict<Connection<D>, Failure<D>>;
type EffectsOf<D> = Effects<Connection<D>, Failure<D>, BellOf<D>>;
type RareEffectsOf<D> = RareEffects<Connection<D>, Failure<D>, BellOf<D>>;

type Predicate<D> = Arc<dyn Fn(&Connection<D>) -> bool + Send + Sync>;

/// One pool, shared by its handles and the jobs under way.
///
/// The fields lie in this order in memory. A checkout by a place and its return read the first two
/// cache lines and no more: with a thousand keys, a thread waits for each further line. What follows has
/// cache lines of its own, so that threads on the fast path do not wait for those who take the lock.
#[repr(C)]
pub(crate) struct Shell<D: Dialer> {
    /// The process that opened it. In a child of that process it is closed: see
    /// `Shell::is_inherited`.
    process: Process,
    places: Places<EntryOf<D>>,
    knobs: Knobs,
    /// The group's count of idle connections, if these have a bound of their own. It is here as well,
    /// as every checkout reads it.
    idle: Option<Arc<IdleCount>>,
    reporter: Reporter<<D as Dialer>::Error>,
    dialer: D,
    blocking: Blocking,
    crew: Arc<Crew>,
    /// `None` for the pool of a key: the keyed pool is enlisted as a whole.
    enlistment: Option<Enlistment>,
    /// Its membership in a group, if it is the pool of a key or has a quota.
    membership: Option<Membership<D>>,
    /// When this pool last closed a connection. Not used by a member of a group: see
    /// `Shell::last_close`.
    last_close: LastClose,
    /// The failures of dials in a row that the log has told of.
    streak: Streak,
    line_of_numbers: NewLine,
    /// The latest copy of the ledger's numbers, for readers who find the lock taken.
    reading: Latest<Reading>,
    /// The predicates that have yet to judge a connection, by the epoch that each began.
    predicates: Mutex<BTreeMap<u32, Predicate<D>>>,
    /// How long waits, dials and loans took.
    timings: Timings,
    line_of_lock: NewLine,
    locked: Mutex<Locked<D>>,
    /// How many callers who were given a connection while they slept have woken up. Each of them adds
    /// one, without the lock.
    ///
    /// While such a caller is waking up, an idle connection may be kept from the queue. So the last
    /// caller to wake up must look at the ledger, and must not miss that. A thread that keeps a
    /// connection writes `is_kept` and then adds nothing to `woken`, under the lock; a caller who
    /// wakes up adds one to `woken` and then reads `is_kept`. One of these two additions comes first.
    /// If the keeper's does, the caller sees `is_kept`. If the caller's does, the keeper sees that
    /// nobody is waking up any more, and hands the connection over.
    woken: AtomicU64,
    /// 0 or 1. Written under the lock.
    is_kept: AtomicU64,
}

impl<D: Dialer> Shell<D> {
    pub(crate) fn new(
        dialer: D,
        config: Config,
        reporter: Reporter<D::Error>,
        crew: Arc<Crew>,
    ) -> Arc<Self> {
        Self::with(dialer, Ledger::new(config, seed()), reporter, crew, None)
    }

    fn with(
        dialer: D,
        ledger: LedgerOf<D>,
        reporter: Reporter<D::Error>,
        crew: Arc<Crew>,
        membership: Option<Membership<D>>,
    ) -> Arc<Self> {
        const {
            const LINE: usize = align_of::<NewLine>();
            let is_close = offset_of!(Self, reporter) < 128;
            let is_apart =
                offset_of!(Self, reading) % LINE == 0 && offset_of!(Self, locked) % LINE == 0;
            // The atomics of the models are larger.
            assert!(size_of::<AtomicFigure>() > 8 || is_close && is_apart, "see `Shell`");
        }
        let (blocking, config) = (dialer.blocking(), *ledger.config());
        let ledger = ledger.checking_in_place(!blocking.check);
        let reading = Reading { stats: ledger.stats_seen(now()), is_laid_out: false };
        Arc::new(Self {
            dialer,
            blocking,
            knobs: Knobs::new(&config),
            places: Places::new(places_at_first(&config, blocking, membership.is_some())),
            line_of_numbers: NewLine::new(()),
            line_of_lock: NewLine::new(()),
            locked: Mutex::new(Locked::new(ledger)),
            woken: AtomicU64::new(0),
            is_kept: AtomicU64::new(0),
            predicates: Mutex::new(BTreeMap::new()),
            process: Process::this(),
            enlistment: membership.is_none().then(|| crew.enlist()),
            crew,
            idle: membership.as_ref().and_then(|membership| membership.group.idle.clone()),
            membership,
            reading: Latest::new(reading),
            timings: Timings::default(),
            last_close: LastClose::default(),
            streak: Streak::default(),
            reporter,
        })
    }

    /// Starts the dials for `min_idle`.
    pub(crate) fn begin(self: &Arc<Self>) {
        self.event(Ledger::tick);
    }

    /// Whether this process inherited the pool from its parent, by a fork.
    ///
    /// Then the pool is closed here. Threads that this process does not have may hold its locks, and
    /// its connections are the parent's conversations: to close, reset, check or drop one here would
    /// send something on the parent's socket. So no lock is taken, and a connection that comes back is
    /// left in memory for as long as the process lives.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.process.is_a_parent()
    }

    pub(crate) fn knobs(&self) -> &Knobs {
        &self.knobs
    }

    /// When a connection was last closed: by the pool of any key, since keys may share a server.
    fn last_close(&self) -> &LastClose {
        self.membership.as_ref().map_or(&self.last_close, |member| &member.group.last_close)
    }

    pub(super) fn name(&self) -> Option<Arc<str>> {
        self.reporter.name().cloned()
    }

    pub(crate) fn dialer(&self) -> &D {
        &self.dialer
    }

    // ---- Checkout ------------------------------------------------------------------------------

    /// Takes a sound connection that rests in a place, if nobody waits and there is one. Nearly every
    /// checkout goes this way: it takes no lock, allocates nothing, and reads no precise clock.
    #[inline]
    pub(crate) fn take_resting(self: &Arc<Self>, site: Site) -> Option<EntryOf<D>> {
        self.take_resting_or(site, |shell, entry| shell.check_resting(entry))
    }

    /// The same, but leaves a connection that needs a check to the ledger.
    #[inline]
    pub(crate) fn take_fresh(self: &Arc<Self>, site: Site) -> Option<EntryOf<D>> {
        self.take_resting_or(site, |shell, entry| shell.leave_to_ledger(entry))
    }

    /// The same; `stale` takes a connection that has rested for so long that it needs a check.
    #[inline]
    fn take_resting_or(
        self: &Arc<Self>,
        site: Site,
        stale: impl FnOnce(&Arc<Self>, EntryOf<D>) -> Option<EntryOf<D>>,
    ) -> Option<EntryOf<D>> {
        if self.is_inherited() {
            return None;
        }
        let open = self.places.gate()?;
        let now = coarse_now();
        let mut entry = self.places.take(now)?;
        if self.idle.is_some() {
            self.count_idle(-1);
        }
        // An entry of an older epoch can be here for a moment, until its returner rechecks the gate.
        if entry.epoch != open.epoch() || now >= entry.expires {
            return self.leave_to_ledger(entry);
        }
        if !self.knobs.is_fresh(entry.idle_since(), now) {
            entry = stale(self, entry)?;
        } else if !self.is_sound(&mut entry.connection) {
            self.retire(entry, CloseReason::Broken);
            return None;
        }
        let (thread, record) = (this_thread(), entry.record());
        record.count_loan();
        record.hand_to(now, thread, site);
        self.emit(|| lent(&entry, Duration::ZERO));
        Some(entry)
    }

    /// Checks a connection from a place that has rested long enough for that, if its caller may do so
    /// on its own thread.
    #[cold]
    fn check_resting(self: &Arc<Self>, mut entry: EntryOf<D>) -> Option<EntryOf<D>> {
        if self.blocking.check || !self.knobs.may_rest_on(entry.idle_since()) {
            return self.leave_to_ledger(entry);
        }
        match self.fault_by_check(&mut entry) {
            None => Some(entry),
            Some(fault) => {
                self.retire(entry, fault);
                None
            }
        }
    }

    /// Counts an idle connection more or less, if all keys together have a bound on them.
    fn count_idle(&self, more: i64) {
        if let Some(idle) = &self.idle {
            idle.add(more);
        }
    }

    /// Closes the coldest connections of all keys, if too many rest.
    fn trim(&self) {
        if let Some(idle) = self.idle.as_ref().filter(|idle| idle.is_beyond()) {
            self.membership.iter().for_each(|membership| membership.group.trim(idle));
        }
    }

    /// The ledger sees to a connection from a place before it is lent.
    #[cold]
    fn leave_to_ledger(self: &Arc<Self>, entry: EntryOf<D>) -> Option<EntryOf<D>> {
        self.event(|ledger, now| {
            ledger.take_from_place(entry);
            ledger.tick(now)
        });
        None
    }

    /// Waits for a sound connection until `deadline`. `None` waits for as long as it takes, or until
    /// the wait is cancelled.
    #[cold]
    pub(crate) fn get(
        self: &Arc<Self>,
        start: Moment,
        deadline: Option<Moment>,
        cancel: Option<&Cancel>,
        site: Site,
    ) -> Result<EntryOf<D>, GetErrorOf<D>> {
        self.get_of_key(start, deadline, cancel, site).unwrap_or(Err(GetError::Closed))
    }

    /// The same for the pool of a key. `None`: that pool closed because it was empty, and the caller
    /// finds the key's next pool.
    pub(crate) fn get_of_key(
        self: &Arc<Self>,
        start: Moment,
        deadline: Option<Moment>,
        cancel: Option<&Cancel>,
        site: Site,
    ) -> Option<Result<EntryOf<D>, GetErrorOf<D>>> {
        if self.is_inherited() {
            return Some(Err(GetError::Closed));
        }
        let mut checkout =
            LedgerCheckout { shell: self, start, deadline, cancel, has_queued: false };
        let outcome = checkout.run();
        let mut waited = Duration::ZERO;
        if checkout.has_queued {
            waited = now().since(start);
            self.timings.note_wait(waited, outcome.is_ok());
        }
        self.checked_out(outcome, waited, site)
    }

    /// Lends a sound idle connection, if there is one and nobody waits for it.
    pub(crate) fn try_get(self: &Arc<Self>, site: Site) -> Result<EntryOf<D>, GetErrorOf<D>> {
        self.try_get_of_key(site).unwrap_or(Err(GetError::Closed))
    }

    /// The same for the pool of a key: see [`get_of_key`](Self::get_of_key).
    pub(crate) fn try_get_of_key(
        self: &Arc<Self>,
        site: Site,
    ) -> Option<Result<EntryOf<D>, GetErrorOf<D>>> {
        if self.is_inherited() {
            return Some(Err(GetError::Closed));
        }
        let outcome = self.try_get_sound();
        self.checked_out(outcome, Duration::ZERO, site)
    }

    fn try_get_sound(self: &Arc<Self>) -> Result<EntryOf<D>, GetErrorOf<D>> {
        loop {
            let ((lent, turned_away), effects) = self.transact(|locked, now| {
                let (ledger, waiting) = (&mut locked.ledger, &mut locked.waiting);
                let (lent, effects) = ledger.try_request(now);
                let turned_away = match lent {
                    Ok(Some(_)) => (Snapshot::default(), None),
                    _ => (Snapshot::of(self.name(), ledger, waiting, now), ledger.last_failure()),
                };
                ((lent, turned_away), effects)
            });
            self.carry_out(effects);
            let (snapshot, failure) = turned_away;
            let mut entry = match lent {
                Ok(Some(entry)) => entry,
                Ok(None) => return Err(snapshot.exhausted(Duration::ZERO, failure)),
                Err(Refusal::Suspended) => return Err(snapshot.suspended(Duration::ZERO, failure)),
                Err(_) => return Err(GetError::Closed),
            };
            if self.is_sound(&mut entry.connection) {
                return Ok(entry);
            }
            self.retire_unused(entry, CloseReason::Broken);
        }
    }

    /// Ends a checkout that went by the lock: begins its loan, or tells why there is none.
    fn checked_out(
        &self,
        outcome: Result<EntryOf<D>, GetErrorOf<D>>,
        waited: Duration,
        site: Site,
    ) -> Option<Result<EntryOf<D>, GetErrorOf<D>>> {
        match outcome {
            Ok(entry) => {
                let (since, thread) = (coarse_now(), this_thread());
                entry.record().hand_to(since, thread, site);
                self.emit(|| lent(&entry, waited));
                Some(Ok(entry))
            }
            Err(error) => self.turned_away(error, waited).map(Err),
        }
    }

    /// Tells the observer that a caller is given nothing, and counts it for all keys. `None`: this is
    /// the pool of a key, and closed because it was empty; the keyed pool retries on a new one, so
    /// nobody is told.
    fn turned_away(&self, error: GetErrorOf<D>, waited: Duration) -> Option<GetErrorOf<D>> {
        if let Some(membership) = &self.membership {
            if matches!(error, GetError::Closed) && !membership.group.is_closed() {
                return None;
            }
            membership.group.note_turned_away();
        }
        self.emit(|| Event::TurnedAway { error: &error, waited });
        Some(error)
    }

    /// Retires a connection that the ledger lent and that turned out to have a fault before its caller
    /// had it.
    fn retire_unused(self: &Arc<Self>, entry: EntryOf<D>, fault: CloseReason) {
        self.timings.note_vain_loan();
        self.retire(entry, fault);
    }

    // ---- Return --------------------------------------------------------------------------------

    /// Takes a borrowed connection back: it goes to the next caller, comes to rest, or is closed.
    #[inline]
    pub(crate) fn give_back(self: &Arc<Self>, mut entry: EntryOf<D>, was_touched: bool) {
        if self.is_inherited() {
            return std::mem::forget(entry);
        }
        let (now, since) = (coarse_now(), entry.record().since());
        // Nearly every loan ends within a tick of the coarse clock: see `Timings`.
        if now.is_a_tick_after(since) || self.reporter.has_observer() {
            self.note_return(&entry, now);
        }
        let connection = &mut entry.connection;
        if !self.is_sound(connection) {
            return self.retire(entry, CloseReason::Broken);
        }
        if was_touched {
            let Some(needs_reset) = self.user_code(|dialer| dialer.needs_reset(connection)) else {
                self.emit_fault(Purpose::Reset, None);
                return self.retire(entry, CloseReason::ResetFailed);
            };
            if needs_reset && self.resets_on_worker() {
                return self.event(|ledger, now| ledger.give_back_for_reset(entry, now));
            }
            if needs_reset && !self.has_passed(Purpose::Reset, |dialer| dialer.reset(connection)) {
                return self.retire(entry, CloseReason::ResetFailed);
            }
        }
        // `now` was read before the reset. A connection that looks older than it is costs a check.
        match self.places.gate() {
            Some(open) if open.epoch() == entry.epoch && now < entry.expires => {
                entry.come_to_rest(self.knobs.rests_from(now));
                entry.record().let_go();
                let expires = entry.expires;
                if self.idle.is_some() {
                    self.put_counted(entry, open);
                } else if let Err(left) = self.places.put(entry, open) {
                    self.give_back_left(left);
                }
                // Read after the gate, and written before the gate is opened: see `Knobs`.
                if self.knobs.is_before_upkeep(expires) {
                    self.event(Ledger::tick);
                }
            }
            _ => self.give_back_slowly(entry),
        }
    }

    /// Whether this thread must leave a reset to a worker.
    fn resets_on_worker(&self) -> bool {
        self.blocking.reset || self.user_code(|dialer| dialer.must_not_wait()) == Some(true)
    }

    /// Puts a connection into a place, and counts it among the idle ones of all keys.
    #[inline(never)]
    fn put_counted(self: &Arc<Self>, entry: EntryOf<D>, open: Open) {
        self.count_idle(1); // Before anybody can take it again.
        match self.places.put(entry, open) {
            Ok(()) => self.trim(),
            Err(left) => {
                self.count_idle(-(left.iter().flatten().count() as i64));
                self.give_back_left(left);
            }
        }
    }

    #[cold]
    fn give_back_slowly(self: &Arc<Self>, entry: EntryOf<D>) {
        self.event(|ledger, now| ledger.give_back(entry, now));
    }

    #[cold]
    fn give_back_left(self: &Arc<Self>, left: [Option<EntryOf<D>>; 2]) {
        left.into_iter().flatten().for_each(|entry| self.give_back_slowly(entry));
    }

    /// Ends the loan of a connection that is of no more use.
    #[cold]
    pub(crate) fn discard(self: &Arc<Self>, entry: EntryOf<D>, reason: CloseReason) {
        if self.is_inherited() {
            return std::mem::forget(entry);
        }
        self.note_return(&entry, coarse_now());
        self.retire(entry, reason);
    }

    /// The same for a connection with which its borrower's work has failed. If the dialer calls it
    /// broken, the idle ones are in doubt as well.
    #[cold]
    pub(crate) fn discard_failed(self: &Arc<Self>, mut entry: EntryOf<D>) {
        let is_sound = self.is_inherited() || self.is_sound(&mut entry.connection);
        self.discard(entry, if is_sound { CloseReason::Discarded } else { CloseReason::Broken });
    }

    #[cold]
    fn note_return(&self, entry: &EntryOf<D>, now: Moment) {
        let held = self.end_loan(entry, now);
        self.emit(|| Event::Returned { id: entry.record().id(), held });
    }

    /// Notes for how long a connection was lent, and says so.
    #[cold]
    fn end_loan(&self, entry: &EntryOf<D>, now: Moment) -> Duration {
        let since = entry.record().since();
        let held = now.since(since);
        if now.is_a_tick_after(since) {
            self.timings.note_hold(held);
        }
        held
    }

    /// Has the ledger close a lent connection.
    #[cold]
    fn retire(self: &Arc<Self>, entry: EntryOf<D>, reason: CloseReason) {
        self.event(|ledger, now| ledger.retire(entry, reason, now));
    }

    /// Lets a borrower keep its connection.
    pub(crate) fn detach(self: &Arc<Self>, entry: EntryOf<D>) -> Connection<D> {
        let held = self.end_loan(&entry, coarse_now());
        self.emit(|| Event::Detached { id: entry.record().id(), held });
        if self.is_inherited() {
            return entry.into_connection();
        }
        let (connection, effects) = self.transact(|locked, now| locked.ledger.detach(entry, now));
        self.carry_out(effects);
        connection
    }
}

/// The event of a loan that begins.
fn lent<'a, C, E>(entry: &Entry<C>, waited: Duration) -> Event<'a, E> {
    let (id, uses) = (entry.record().id(), entry.record().loans());
    Event::Lent { id, waited, reused: entry.is_reused(), uses }
}

impl<D: Dialer> Drop for Shell<D> {
    fn drop(&mut self) {
        if let Some(membership) = &self.membership {
            let locked = self.locked.lock();
            let read = || (locked.ledger.stats(now()), locked.ledger.in_hands());
            membership.end(&self.numbers_by(read));
        }
    }
}
