//! The ledger: a pool's books as plain data, and every decision that is made on them.
//!
//! Events go in, with the time; [`Effects`] come out, to be carried out by the caller once the lock
//! around the ledger is free. Nothing here waits, dials, wakes, reads a clock or runs user code.
//!
//! ```text
//!            reserve           dialed            grant
//!   (free) ──────────▶ dialing ───────▶ ┌──────┐ ───────▶ ┌────────┐
//!      ▲                  │             │ idle │          │ in use │
//!      │   dial_failed    │             └──────┘ ◀─────── └────────┘
//!      ├──────────────────┘               │  ▲   give_back    │  │
//!      │                            check │  │ back           │  │ detach
//!      │   closed                         ▼  │     reset      │  ▼
//!      ├───────────── closing ◀──────── (aside) ◀─────────────┤ (free)
//!      │                 ▲                                    │
//!      └─────────────────┴────────────── retire ──────────────┘
//! ```

mod dial_rule;
pub(crate) mod effects;
mod entry;
mod errands;
mod events;
mod queue;
mod roster;
mod settle;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::stats::Stats;

use self::dial_rule::Pace;
use self::errands::{Aside, Closings, Dials};
use self::queue::{Queue, count};
use self::roster::Roster;

pub(crate) use self::effects::{AsideOrder, CloseOrder, DialOrder, Effects, Task, Ticket};
pub(crate) use self::entry::Entry;
pub(crate) use self::roster::Loan;

/// A moment in nanoseconds since the ledger's start: an `Instant` takes twice the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(u64);

impl Stamp {
    fn new(moment: Instant, start: Instant) -> Self {
        let since = moment.saturating_duration_since(start).as_nanos();
        Self(u64::try_from(since).unwrap_or(u64::MAX)) // After 584 years.
    }

    fn at(self, start: Instant) -> Instant {
        start + Duration::from_nanos(self.0)
    }
}

/// A dial has not ended within its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) limit: Duration,
}

/// What a caller who asked for a connection is told.
#[derive(Debug)]
pub(crate) enum Request<C> {
    /// A connection, at once. The ticket keeps the place if it turns out to be broken.
    Granted(Ticket, Entry<C>),
    /// Wait until the waker is woken, then `collect`.
    Queued(Ticket),
    /// Neither, and why.
    Refused(Refusal),
}

/// Why a caller is neither served nor queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    QueueFull,
    /// The deadline had passed before the caller could join the queue.
    TooLate,
}

/// What waiting has come to.
#[derive(Debug)]
pub(crate) enum Verdict<C, F> {
    Granted(Entry<C>),
    /// The caller's own dial failed, and no connection in use can come back to serve it.
    Failed(F),
    /// The deadline passed; with the caller's own dial error or else the pool's latest.
    Late(Option<F>),
    Closed,
    /// As many connections are open as the warm-up asked for.
    Warm,
    /// The pool is closed, and the last of its connections with it.
    Drained,
}

/// The books of one pool, for connections `C`, dial failures `F` and wakers `W`.
///
/// Time enters as `now`. It may repeat or run backwards a little between events (each caller reads
/// its clock before it takes the lock): then nothing is done early, and nothing is counted twice.
///
/// | promise | how it is kept here |
/// | --- | --- |
/// | `BOUND` | `idle + in_use + dialing + closing <= max_open`: a slot is reserved before its dial begins and freed after its close has ended |
/// | `NO-LOST-SLOT` | each errand has an id, and ends exactly once |
/// | `NO-STRANDED-WAITER` | every event that can free anything ends in `settle`; after it nothing that a waiter could use is left over |
/// | `NO-LOST-CONNECTION` | a grant lies in `served` until it is collected, and is collected before a deadline is looked at |
/// | `LATE-BINDING` | what comes first goes to the caller who has waited longest, whoever's dial it was |
/// | `BOUNDED-BYPASS` | a newcomer is served before the queue only if it is empty, or while a connection is on its way to a caller who has not woken and the first of the others has waited for less than `bypass` |
/// | `DEADLINE` | whoever has slept longest wakes when the next errand is due, or is woken to hear of it |
/// | `REASON` | nobody holds a dial's failure and waits while nothing is in use |
/// | `NO-DEMAND-NO-DIAL` | a dial has a sponsor: a caller in the queue, or a warm-up |
#[derive(Debug)]
pub(crate) struct Ledger<C, F, W> {
    config: Config,
    start: Instant,
    /// What `open` may be: `max_open`, or more while connections from before a `resize` are out.
    ceiling: u32,
    closed: bool,
    /// Raised by `flush`; what was begun under an older one is not lent again.
    generation: u32,
    next_id: u64,

    /// At rest, the most recently used at the back.
    idle: VecDeque<Entry<C>>,
    /// Taken in although they may not be lent again: `settle` closes them. They count as in use.
    unfit: Vec<Entry<C>>,
    /// Entries in callers' hands, or granted and not yet collected.
    in_use: u32,
    roster: Roster,
    dials: Dials,
    aside: Aside,
    closings: Closings,

    queue: Queue<F, W>,
    pace: Pace,
    /// The caller whose wait ends when the dial rule must look again, if it must.
    looker: Option<Ticket>,
    served: BTreeMap<Ticket, Verdict<C, F>>,
    /// Connections among `served`: each is on its way to a caller who has not woken yet.
    granted: u32,
    /// Warm-ups under way, and the number of connections that each wants open.
    warm_ups: BTreeMap<Ticket, (u32, W)>,
    /// Those who wait for the last connection of a closed pool to end.
    drains: BTreeMap<Ticket, W>,
    /// Those who sleep, for whichever of these reasons, and when they will look by themselves.
    asleep: BTreeMap<Ticket, (Option<Instant>, W)>,

    /// How the latest dial failed, unless one has succeeded since.
    last_failure: Option<F>,
    /// Totals only; `stats` fills in the rest.
    totals: Stats,
}

impl<C, F: Clone + From<Overdue>, W: Clone> Ledger<C, F, W> {
    pub(crate) fn new(config: Config, start: Instant) -> Self {
        Self {
            config,
            start,
            ceiling: config.max_open,
            closed: false,
            generation: 0,
            next_id: 0,
            idle: VecDeque::new(),
            unfit: Vec::new(),
            in_use: 0,
            roster: Roster::default(),
            dials: Dials::default(),
            aside: Aside::default(),
            closings: Closings::default(),
            queue: Queue::new(),
            pace: Pace::default(),
            looker: None,
            served: BTreeMap::new(),
            granted: 0,
            warm_ups: BTreeMap::new(),
            drains: BTreeMap::new(),
            asleep: BTreeMap::new(),
            last_failure: None,
            totals: Stats::default(),
        }
    }

    fn open(&self) -> u32 {
        self.live() + self.closings.len()
    }

    /// What is open and not on its way out.
    fn live(&self) -> u32 {
        count(self.idle.len()) + self.busy() + self.dials.len()
    }

    /// Connections out of the pool's hands that may come back to serve someone.
    fn busy(&self) -> u32 {
        self.in_use + self.aside.len()
    }

    /// What a caller in the queue can count on: errands under way, and what is idle although it
    /// waits, which is yet to be checked or is handed over one by one.
    fn coming(&self) -> u32 {
        self.dials.counted_on() + self.aside.checks() + count(self.idle.len())
    }

    /// When an errand under way will have overrun its time limit.
    fn next_due(&self) -> Option<Instant> {
        [self.dials.next_due(), self.aside.next_due(), self.closings.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Slots that may be dialed into now.
    fn room(&self) -> u32 {
        let slots = self.config.max_open.saturating_sub(self.open());
        let dials = self.config.max_dialing.unwrap_or(u32::MAX).saturating_sub(self.dials.len());
        slots.min(dials)
    }

    /// Whether one more caller would be one too many without a dial or a check to count on, begun
    /// or yet to begin.
    fn is_queue_full(&self) -> bool {
        let served = self.coming() + self.room();
        self.config.max_waiting.is_some_and(|most| self.queue.len() >= most.saturating_add(served))
    }

    fn stamp(&self, moment: Instant) -> Stamp {
        Stamp::new(moment, self.start)
    }

    fn proven_at(&self, entry: &Entry<C>) -> Instant {
        entry.proven_at.at(self.start)
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The promises, by name.
    fn audit(&self, now: Instant) {
        debug_assert!(self.open() <= self.ceiling, "BOUND");
        let waiting = self.queue.len() as usize + self.warm_ups.len() + self.drains.len();
        debug_assert!(self.asleep.len() <= waiting, "nobody sleeps who waits for nothing");
        if self.closed {
            debug_assert!(self.idle.is_empty() && self.queue.is_empty(), "closed and at rest");
        } else if !self.queue.is_empty() {
            debug_assert!(
                self.idle.is_empty()
                    || self.aside.checks() >= self.queue.len()
                    || self.may_be_passed(now),
                "NO-STRANDED-WAITER: idle"
            );
            debug_assert!(
                self.room() == 0
                    || self.coming() >= self.queue.unmet()
                    || self.looker.is_some()
                    || self.queue.sponsor(now).is_none(),
                "NO-STRANDED-WAITER: slot"
            );
            debug_assert!(self.busy() > 0 || !self.queue.any_failed(), "REASON");
        }
    }
}
