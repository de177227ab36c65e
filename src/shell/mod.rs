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
//! | `lend`, `give_back` | a checkout without the lock, or by it; a return |
//! | `waiting` (with a `bell`), `snapshot`, `cancel`, `terms` | a checkout that waits, and its error |
//! | `locked` | the ledger's lock, and the idle connections beside it |
//! | `places`, `knobs` | the idle connections, and the settings, that threads reach without the lock |
//! | `carry_out`, `jobs`, `dialing`, `user_code` | what the ledger orders: dials, checks, resets, closes |
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
//! | a pool that is used in the child of a fork | the child compares a number and takes no lock: see `Shell::lock` | none; `tests/alone_forked` and `tests/pool/fork.rs` fork |

pub(crate) mod bell;
pub(crate) mod cancel;
mod carry_out;
mod control;
mod dialing;
mod give_back;
mod group;
mod jobs;
mod knobs;
mod lend;
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

use crate::config::Config;
use crate::dialer::{Blocking, Dialer};
use crate::ledger::{Effects, Entry, Ledger, RareEffects, Verdict};
use crate::report::error::{DialFailure, GetError};
use crate::report::histogram::Timings;
use crate::report::log_lines::Streak;
use crate::report::reporter::Reporter;
use crate::runtime::shelf::NewLine;
use crate::runtime::sync::{AtomicFigure, AtomicU64, Mutex, Process, now, seed};
use crate::runtime::workers::{Crew, Enlistment};
use crate::shell::places::Places;

use self::bell::CallerBell;
use self::dialing::LastDeparture;
use self::group::{IdleCount, Membership};
use self::knobs::{Knobs, places_at_first};
use self::locked::{Locked, Reading};

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
/// cache lines and no more: with a thousand keys, a thread waits for each further line. The fields after those
/// have cache lines of their own, so that threads on the fast path do not wait for those who take the lock.
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
    /// When a connection of this pool last left its server. Not used by a member of a group: see
    /// `Shell::last_departure`.
    last_departure: LastDeparture,
    /// The failures of dials in a row that the log has reported.
    streak: Streak,
    line_of_numbers: NewLine,
    /// The latest copy of the ledger's numbers, for readers who find the lock taken. They wait only while a
    /// copy is being made: an `AtomicCell` of more than a word would take a lock of the whole process.
    reading: Mutex<Reading>,
    /// The predicates that have yet to judge a connection, by the epoch that each began.
    predicates: Mutex<BTreeMap<u32, Predicate<D>>>,
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
    /// How long waits, dials and loans took. It is here because there is room on the last line.
    timings: Timings,
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
            reading: Mutex::new(reading),
            timings: Timings::default(),
            last_departure: LastDeparture::default(),
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
    fn last_departure(&self) -> &LastDeparture {
        self.membership.as_ref().map_or(&self.last_departure, |member| &member.group.last_departure)
    }

    pub(super) fn name(&self) -> Option<Arc<str>> {
        self.reporter.name().cloned()
    }

    pub(crate) fn dialer(&self) -> &D {
        &self.dialer
    }

    /// Counts an idle connection more or less, if all keys together have a bound on them.
    #[inline]
    fn count_idle(&self, more: i64) {
        if let Some(idle) = &self.idle {
            idle.add(more);
        }
    }

    /// Closes the coldest connections of all keys, if too many rest.
    fn trim(&self) {
        if self.idle.as_ref().is_some_and(|idle| idle.is_beyond()) {
            self.membership.iter().for_each(|membership| membership.group.trim());
        }
    }
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
