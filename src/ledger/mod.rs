//! The ledger: the state of one pool as plain data, and every decision that is made on it.
//!
//! An event goes in together with the time. [`Effects`] come out, and the caller carries them out
//! once the lock around the ledger is free. Nothing here waits, dials, wakes a thread, reads a clock
//! or runs user code. (The observer's `Event` is something else: the shell makes those.)
//!
//! ```text
//!            reserve           dialed            lend
//!   (free) ──────────▶ dialing ───────▶ ┌──────┐ ───────▶ ┌────────┐
//!      ▲                  │             │ idle │          │ in use │
//!      │   dial_failed    │             └──────┘ ◀─────── └────────┘
//!      ├──────────────────┘               │  ▲   give_back    │  │
//!      │                            check │  │ back_from      │  │ detach
//!      │   closed                         ▼  │  _dialer       │  ▼
//!      ├───────────── closing ◀──────── (at dialer) ◀─────────┤ (free)
//!      │                 ▲                         reset      │
//!      └─────────────────┴────────────── retire ──────────────┘
//! ```
//!
//! | file | purpose |
//! | --- | --- |
//! | `callers`, `connections`, `control`, `laid_out`, `lease`, `slots` | the events, by what they concern |
//! | `settle` | the one sequence of decisions in which every event ends |
//! | `serve`, `dialing`, `upkeep`, `watcher` | the steps of that sequence |
//! | `moves` | how a connection changes its state |
//! | `queue` (in a `slab`), `idle`, `jobs`, `roster`, `epochs`, `share`, `outage` | the tables that those files work on |
//! | `dial_rule`, `bypass`, `spread` | rules that are numbers only |
//! | `numbers` | what can be read of the pool |

mod answers;
pub(crate) mod budget;
mod bypass;
mod callers;
pub(crate) mod close_reason;
mod connections;
mod control;
mod dial_rule;
pub(crate) mod dialing;
pub(crate) mod effects;
mod entry;
mod epochs;
mod idle;
mod jobs;
mod laid_out;
pub(crate) mod lease;
mod moves;
mod numbers;
pub(crate) mod outage;
mod queue;
pub(crate) mod roster;
mod serve;
mod settle;
mod share;
mod slab;
mod slots;
pub(crate) mod spread;
pub(crate) mod stats;
mod upkeep;
mod watcher;

use std::collections::BTreeMap;

use crate::abort::AbortHandle;
use crate::config::Config;
use crate::ledger::stats::Stats;
use crate::runtime::moment::Moment;

use self::bypass::Bypass;
use self::dialing::Dialing;
use self::epochs::Epochs;
use self::idle::{Aging, Idle};
use self::jobs::Jobs;
use self::lease::Lease;
use self::queue::Queue;
use self::roster::{ConnectionId, Roster};
use self::settle::Quiet;
use self::spread::Spread;
use self::upkeep::UpkeepTimes;
use self::watcher::{Others, Wakes};

pub(crate) use self::answers::{Overdue, Refusal, Reply, Verdict, Waker};
pub(crate) use self::effects::{
    AtDialerOrder, CloseOrder, DialOrder, Effects, Purpose, RareEffects, Ticket,
};
pub(crate) use self::entry::Entry;
pub(crate) use self::idle::UPKEEP_LEAST;
pub(crate) use self::roster::Loan;
pub(crate) use self::share::{BudgetAccess, Share};

/// The life of a pool. Once closed, it stays so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// Nothing is lent or dialed until it runs again.
    Suspended,
    Closed,
}

/// The state of one pool, for connections `C`, dial failures `F` and wakers `W`.
///
/// Time enters as `now`. It may repeat or run backwards a little between events, as a job that ends
/// reads its clock before it takes the lock. Then nothing is done early, and nothing is counted twice.
///
/// All fields are written and read under the lock that the shell has around the ledger.
///
/// | promise | how it is kept here |
/// | --- | --- |
/// | `BOUND` | `idle + in_use + dialing + closing <= max_open`: a slot is reserved before its dial begins and freed after its close has ended |
/// | `NO-LOST-SLOT` | each job has an id, and ends exactly once |
/// | `NO-STRANDED-WAITER` | every event that can free anything ends in `settle`; after it nothing that a waiter could use is left over |
/// | `NO-LOST-CONNECTION` | a caller gets its verdict under the lock; a caller whose deadline has passed takes the lock, and leaves only if the queue still has it |
/// | `LATE-BINDING` | the first free connection goes to the caller who has waited longest, regardless of whose dial it was |
/// | `BOUNDED-BYPASS` | a newcomer is served before the queue only if the queue is empty, or while a connection is on its way to a caller who is waking up and the first of the others has waited for less than `bypass.rs` allows; a caller of another key who has lacked a slot for longer than that is passed by nobody here who has waited less |
/// | `DEADLINE` | the watcher, one of those who sleep, wakes when the next thing is due, or is woken to hear of it |
/// | `REASON` | nobody holds a dial's failure and waits while nothing is in use, unless to dial again |
/// | `NO-DEMAND-NO-DIAL` | a dial has a sponsor: a caller in the queue, a warm-up, or `min_idle` |
#[derive(Debug)]
pub(crate) struct Ledger<C, F, W> {
    // The pool as a whole.
    config: Config,
    /// The most that may be open: `max_open`, or more after `max_open` was lowered, until enough has
    /// closed.
    ceiling: u32,
    phase: Phase,
    /// Whether a check asks no peer, so that callers make their checks themselves.
    checks_in_place: bool,
    /// The pool's part in the budget of a keyed pool, or in one that a quota bounds, if there is one.
    /// Boxed, as most pools are alone.
    share: Option<Box<Share>>,
    lease: Lease,
    /// Whether the loans under that lease have been aborted: they are aborted once.
    has_aborted: bool,
    epochs: Epochs,
    /// The last number that was given to a job or a ticket.
    last_id: u64,
    spread: Spread,
    /// Totals, without the loans that the ledger has not seen; `stats` fills in the rest.
    totals: Stats,
    quiet: Quiet,

    // Connections, by where they are.
    idle: Idle<C>,
    /// Taken from the places although of an older epoch or of a closed pool. They count as in use
    /// until `settle` deals with them.
    outdated: Vec<Entry<C>>,
    /// Entries in callers' hands, granted and not yet collected, or laid out.
    in_use: u32,
    jobs: Jobs,
    roster: Roster,
    /// The abort handles of open connections that are not on their way out. Most dialers give none.
    handles: BTreeMap<ConnectionId, AbortHandle>,

    // Idle connections as time goes on.
    aging: Aging,
    /// When a connection was last closed for a reason that casts doubt on others. A connection that
    /// was last known alive before then is checked before it is lent.
    doubted_at: Option<Moment>,
    upkeep: UpkeepTimes,

    // Callers who wait, and the dials for them.
    queue: Queue<F, W>,
    /// Whether somebody was in the queue after the last event that served it. Then its rates must be
    /// forgotten once it is empty: see `note_waiting`.
    had_waiting: bool,
    bypass: Bypass,
    others: Others<W>,
    wakes: Wakes,
    dialing: Dialing<F>,
}

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// The ledger of a pool with nothing open. The `seed` differs between pools, so that their
    /// connections do not end at the same time.
    pub(crate) fn new(config: Config, seed: u64) -> Self {
        let spread = Spread::new(seed);
        Self {
            config,
            ceiling: config.max_open,
            phase: Phase::Running,
            checks_in_place: false,
            share: None,
            lease: Lease::ENDLESS,
            has_aborted: false,
            epochs: Epochs::default(),
            last_id: 0,
            spread,
            totals: Stats::default(),
            quiet: Quiet::NEVER,
            idle: Idle::new(),
            outdated: Vec::new(),
            in_use: 0,
            jobs: Jobs::default(),
            roster: Roster::default(),
            handles: BTreeMap::new(),
            aging: Aging::new(&config, Lease::ENDLESS, None),
            doubted_at: None,
            upkeep: UpkeepTimes::default(),
            queue: Queue::new(),
            had_waiting: false,
            bypass: Bypass::default(),
            others: Others::new(),
            wakes: Wakes::default(),
            dialing: Dialing::new(spread),
        }
    }

    /// The same ledger, of a pool whose callers check their connections themselves.
    pub(crate) fn checking_in_place(mut self, checks_in_place: bool) -> Self {
        self.checks_in_place = checks_in_place;
        self
    }

    /// The same ledger, with its slots from a budget that it shares with others.
    pub(crate) fn sharing(mut self, share: Share) -> Self {
        self.share = Some(Box::new(share));
        self
    }

    /// The same ledger, suspended from the beginning if so.
    pub(crate) fn suspended(mut self, is_suspended: bool) -> Self {
        self.phase = if is_suspended { Phase::Suspended } else { Phase::Running };
        self
    }

    /// The slots that are taken.
    fn open_count(&self) -> u32 {
        self.live() + self.jobs.closings.len()
    }

    /// Open connections and dials, without connections on their way out.
    pub(crate) fn live(&self) -> u32 {
        self.idle.len() + self.busy() + self.jobs.dials.len()
    }

    /// Connections out of the pool's hands that may come back to serve someone.
    fn busy(&self) -> u32 {
        self.in_use + self.jobs.at_dialer.len()
    }

    /// Connections and dials that nobody has begun to close, including those that are retired already
    /// and whose check or reset has not returned.
    fn unclosed(&self) -> u32 {
        self.live() + self.jobs.at_dialer.written_off()
    }

    /// The connections that callers in the queue can count on: dials and checks under way, and idle
    /// connections, which are yet to be checked or are handed over one by one.
    fn coming(&self) -> u32 {
        self.jobs.dials.counted_on() + self.jobs.at_dialer.checks() + self.idle.len()
    }

    fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn fresh_ticket(&mut self) -> Ticket {
        Ticket { number: self.fresh_id(), node: slab::NONE }
    }
}

/// The earlier of two times; `None` is never.
#[inline]
fn earlier(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}
