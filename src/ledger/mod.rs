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

mod bypass;
mod dial_rule;
pub(crate) mod effects;
mod entry;
mod errands;
mod events;
mod idle;
mod judgements;
mod outage;
mod queue;
mod roster;
mod settle;
mod share;
pub(crate) mod spread;
mod upkeep;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::config::{Backoff, Config, OnDialFailure};
use crate::moment::Moment;
use crate::stats::Stats;

use self::bypass::Bypass;
use self::dial_rule::Pace;
use self::errands::{Aside, Closings, Dials};
use self::idle::{Aging, Idle};
use self::judgements::Judgements;
use self::outage::Outage;
use self::queue::Queue;
use self::roster::Roster;
use self::spread::Spread;

pub(crate) use self::effects::{AsideOrder, CloseOrder, DialOrder, Effects, Task, Ticket, Work};
pub(crate) use self::entry::Entry;
pub(crate) use self::roster::Loan;
pub(crate) use self::share::{Access, Share};
pub(crate) use self::upkeep::UPKEEP_LEAST;

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

/// What a caller who does not wait is given: an idle connection if there is one for it.
pub(crate) type Attempt<C> = Result<Option<Entry<C>>, Refusal>;

/// Why a caller is neither served nor queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    QueueFull,
    /// The pool is suspended, and the caller does not wait for that to end.
    Suspended,
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
    /// The same, and the pool is suspended.
    Suspended(Option<F>),
    Closed,
    /// The caller was told from elsewhere to wait no longer.
    Cancelled,
    /// As many connections are open as the warm-up asked for.
    Warm,
    /// The pool is closed, and the last of its connections with it.
    Drained,
}

/// The way to a caller who waits.
pub(crate) trait Waker<C, F>: Clone {
    /// Leaves a verdict where the caller looks before all else. It is `waking` if it was asleep and
    /// is given a connection: once it has taken that up, it counts itself among the `woken`.
    fn tell(&self, verdict: Verdict<C, F>, is_waking: bool);

    /// Has the caller `look` when it is woken next, although there is no verdict.
    fn call(&self);
}

/// Somebody waits until so many connections are open.
#[derive(Debug)]
struct WarmUp<W> {
    target: u32,
    since: Moment,
    sleeper: Sleeper<W>,
}

/// Somebody who waits outside the queue.
#[derive(Debug)]
struct Sleeper<W> {
    waker: W,
    is_asleep: bool,
}

impl<W> Sleeper<W> {
    fn new(waker: W) -> Self {
        Self { waker, is_asleep: false }
    }
}

/// Who wakes when something is due.
#[derive(Clone, Copy, Debug)]
struct Watch {
    /// The number of its ticket.
    by: u64,
    /// When it wakes for that.
    until: Moment,
}

/// The books of one pool, for connections `C`, dial failures `F` and wakers `W`.
///
/// Time enters as `now`. It may repeat or run backwards a little between events (an errand that ends
/// reads its clock before it takes the lock): then nothing is done early, and nothing is counted
/// twice.
///
/// | promise | how it is kept here |
/// | --- | --- |
/// | `BOUND` | `idle + in_use + dialing + closing <= max_open`: a slot is reserved before its dial begins and freed after its close has ended |
/// | `NO-LOST-SLOT` | each errand has an id, and ends exactly once |
/// | `NO-STRANDED-WAITER` | every event that can free anything ends in `settle`; after it nothing that a waiter could use is left over |
/// | `NO-LOST-CONNECTION` | a grant is laid before its caller under the lock; a caller whose deadline has passed takes the lock, and leaves only if the queue still has it |
/// | `LATE-BINDING` | what comes first goes to the caller who has waited longest, whoever's dial it was |
/// | `BOUNDED-BYPASS` | a newcomer is served before the queue only if it is empty, or while a connection is on its way to a caller who is waking up and the first of the others has waited for less than `bypass.rs` allows; and a caller of another key who lacks a slot for longer than that is passed by nobody here who has waited less |
/// | `DEADLINE` | one of those who sleep, the watch, wakes when the next thing is due, or is woken to hear of it |
/// | `REASON` | nobody holds a dial's failure and waits while nothing is in use, unless to dial again |
/// | `NO-DEMAND-NO-DIAL` | a dial has a sponsor: a caller in the queue, a warm-up, or `min_idle` |
#[derive(Debug)]
pub(crate) struct Ledger<C, F, W> {
    config: Config,
    /// What `open` may be: `max_open`, or more while connections from before a `resize` are out.
    ceiling: u32,
    closed: bool,
    /// Whether nothing is lent and nothing dialed, until it is resumed.
    suspended: bool,
    /// Raised by whatever may concern connections that are out: one that comes back from an older
    /// epoch is not lent again before the ledger has let it pass.
    epoch: u32,
    /// The epoch that the last flush began: nothing of an older one passes.
    flushed: u32,
    next_id: u64,
    /// Whether somebody was in the queue after the latest event that had to do with it.
    has_waiting: bool,
    /// Whether a check asks no peer, so that a caller makes its own.
    checks_in_place: bool,

    idle: Idle<C>,
    /// Taken in from an older epoch, or after the close: `settle` sees to them. They count as in use.
    outdated: Vec<Entry<C>>,
    /// Entries in callers' hands, or granted and not yet collected.
    in_use: u32,
    roster: Roster,
    dials: Dials,
    aside: Aside,
    closings: Closings,
    /// Its part in the budget of a keyed pool, if it is of one.
    share: Option<Share>,
    /// Of the connections open and not on their way out, by the address of the entry: for those
    /// only whose dialer gave one.
    handles: BTreeMap<usize, AbortHandle>,
    judgements: Judgements,

    spread: Spread,
    /// What follows from the limits of age and the time that a dial takes.
    aging: Aging,
    outage: Outage,
    /// When a connection was last closed for a reason that casts doubt: what has rested since before then is checked
    /// before it is lent.
    doubted_at: Option<Moment>,
    /// When connections at rest may be replaced; `None` is at once. One that time ends as soon as it
    /// is there would be replaced without end.
    replaces_at: Option<Moment>,
    /// The moment for which `upkeep` is ordered, if it is.
    alarm: Option<Moment>,
    /// When it last came.
    upkept_at: Option<Moment>,

    queue: Queue<F, W>,
    pace: Pace,
    bypass: Bypass,
    /// When the dial rule must look again, if it holds a dial back.
    dial_look: Option<Moment>,
    /// Connections given to callers who were asleep, and how many of those callers have woken up.
    handed: u64,
    woken: u64,
    /// Warm-ups under way, the first begun first.
    warm_ups: BTreeMap<Ticket, WarmUp<W>>,
    /// Those who wait for the last connection of a closed pool to end.
    drains: BTreeMap<Ticket, Sleeper<W>>,
    watch: Option<Watch>,
    /// How the latest dial failed, unless one has succeeded since.
    last_failure: Option<F>,
    /// Totals only, without the loans that the ledger has not seen; `stats` fills in the rest.
    totals: Stats,
}

impl<C, F: Clone + From<Overdue>, W: Waker<C, F>> Ledger<C, F, W> {
    /// Books of a pool with nothing open. What differs between pools by the `seed` is how early
    /// their connections end.
    pub(crate) fn new(config: Config, seed: u64) -> Self {
        let spread = Spread::new(seed);
        Self {
            config,
            ceiling: config.max_open,
            closed: false,
            suspended: false,
            epoch: 0,
            flushed: 0,
            next_id: 0,
            has_waiting: true,
            checks_in_place: false,
            idle: Idle::new(),
            outdated: Vec::new(),
            in_use: 0,
            roster: Roster::default(),
            dials: Dials::default(),
            aside: Aside::default(),
            closings: Closings::default(),
            share: None,
            handles: BTreeMap::new(),
            judgements: Judgements::default(),
            spread,
            aging: Aging::new(&config, None),
            outage: Outage::new(spread),
            doubted_at: None,
            replaces_at: None,
            alarm: None,
            upkept_at: None,
            queue: Queue::new(),
            pace: Pace::default(),
            bypass: Bypass::default(),
            dial_look: None,
            handed: 0,
            woken: 0,
            warm_ups: BTreeMap::new(),
            drains: BTreeMap::new(),
            watch: None,
            last_failure: None,
            totals: Stats::default(),
        }
    }

    /// The same books, of a pool whose callers check what they are lent.
    pub(crate) fn checking_in_place(mut self, checks_in_place: bool) -> Self {
        self.checks_in_place = checks_in_place;
        self
    }

    /// The same books, with slots from a budget that others have a part in.
    pub(crate) fn sharing(mut self, share: Share) -> Self {
        self.share = Some(share);
        self
    }

    /// A number that changes with each connection that begins to open, opens, or begins or ends to close.
    pub(crate) fn turnover(&self) -> u64 {
        let Stats { dials_total, dialed_total, dial_failed_total, retired_total, .. } = self.totals;
        let begun = dials_total + dialed_total + dial_failed_total + retired_total;
        u64::from(self.open()) | begun << u32::BITS
    }

    /// The slots that are taken.
    fn open(&self) -> u32 {
        self.live() + self.closings.len()
    }

    /// What is open and not on its way out.
    pub(crate) fn live(&self) -> u32 {
        self.idle.len() + self.busy() + self.dials.len()
    }

    /// Connections out of the pool's hands that may come back to serve someone.
    fn busy(&self) -> u32 {
        self.in_use + self.aside.len()
    }

    /// All that the dialer has opened or is at, and nobody has begun to close.
    fn at_large(&self) -> u32 {
        self.live() + self.aside.written_off()
    }

    /// What a caller in the queue can count on: errands under way, and what is idle although it
    /// waits, which is yet to be checked or is handed over one by one.
    fn coming(&self) -> u32 {
        self.dials.counted_on() + self.aside.checks() + self.idle.len()
    }

    /// When somebody who waits must look: an errand will have overrun its time limit, a caller may
    /// dial again, the dial rule must be asked again, or what has aged may be replaced.
    fn next_due(&self) -> Option<Moment> {
        let is_idle = !self.is_under_way() && !self.queue.any_failed();
        if is_idle && self.dial_look.is_none() && self.warm_ups.is_empty() {
            return None;
        }
        let retry = if self.queue.any_failed() { self.next_retry() } else { None };
        let warm_up = if self.warm_ups.is_empty() { None } else { self.replaces_at };
        let due = earlier(earlier(retry, warm_up), self.dial_look);
        earlier(due, self.next_errand_due())
    }

    /// Callers who are waking up to a connection that they were given.
    fn waking(&self) -> u64 {
        self.handed - self.woken
    }

    fn next_errand_due(&self) -> Option<Moment> {
        earlier(earlier(self.dials.next_due(), self.aside.next_due()), self.closings.next_due())
    }

    /// When a caller whose dial has failed may dial again, if one waits for that.
    fn next_retry(&self) -> Option<Moment> {
        let is_wanted = self.queue.any_failed() && !self.queue.any_unsponsored();
        let is_alone = is_wanted && self.dials.counted_on() == 0 && !self.suspended;
        let backoff = self.backoff().filter(|_| is_alone)?;
        self.outage.next_retry(backoff)
    }

    /// The pauses after which callers whose dials have failed may dial again, if they may.
    fn backoff(&self) -> Option<Backoff> {
        match self.config.on_dial_failure {
            OnDialFailure::Retry(backoff) if !self.is_broken_off() => Some(backoff),
            _ => None,
        }
    }

    /// Slots that may be dialed into now.
    fn room(&self, now: Moment) -> u32 {
        let slots = self.config.max_open.saturating_sub(self.open());
        if slots == 0 || self.is_stalled() {
            return 0;
        }
        let dials = self.config.max_dialing().saturating_sub(self.dials.len());
        slots.min(dials).min(self.probes(now))
    }

    /// Whether a dial is wanted for which the budget has no slot yet.
    fn is_stalled(&self) -> bool {
        self.share.as_ref().is_some_and(Share::is_stalled)
    }

    /// Dials that the breaker lets begin now.
    fn probes(&self, now: Moment) -> u32 {
        match self.config.breaker() {
            Some(breaker) if !self.outage.is_over() => {
                let is_due = self.outage.next_probe(breaker).is_none_or(|next| next <= now);
                u32::from(is_due && self.dials.counted_on() == 0)
            }
            _ => u32::MAX,
        }
    }

    /// Whether callers who need a dial are turned away.
    pub(crate) fn is_broken_off(&self) -> bool {
        self.outage.has_opened(self.config.breaker())
    }

    /// Whether one more caller would be one too many without a dial or a check to count on, begun
    /// or yet to begin.
    fn is_queue_full(&self, now: Moment) -> bool {
        let Some(most) = self.config.max_waiting else { return false };
        let room = self.room(now);
        let served = if self.suspended { 0 } else { self.coming().saturating_add(room) };
        self.queue.len() >= most.saturating_add(served)
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn fresh_ticket(&mut self) -> Ticket {
        Ticket { number: self.fresh_id(), slot: queue::NONE }
    }

    /// The promises, by name.
    fn audit(&self, now: Moment) {
        debug_assert!(self.open() <= self.ceiling, "BOUND");
        let held = self.share.as_ref().map(Share::held);
        debug_assert!(held.is_none_or(|held| held == self.open()), "BOUND: of all keys");
        debug_assert!(self.woken <= self.handed, "nobody wakes up to what it was not given");
        if self.closed {
            debug_assert!(self.idle.is_empty() && self.queue.is_empty(), "closed and at rest");
        } else if !self.queue.is_empty() && !self.suspended {
            debug_assert!(
                self.idle.is_empty()
                    || self.aside.checks() >= self.queue.len()
                    || self.may_be_passed(now),
                "NO-STRANDED-WAITER: idle"
            );
            debug_assert!(
                self.room(now) == 0
                    || self.coming() >= self.queue.unmet()
                    || self.dial_look.is_some()
                    || self.queue.sponsor(now).is_none(),
                "NO-STRANDED-WAITER: slot"
            );
            let may_retry = self.backoff().is_some();
            debug_assert!(self.busy() > 0 || may_retry || !self.queue.any_failed(), "REASON");
        }
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
