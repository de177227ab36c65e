//! `Pools`: real ledgers, of one pool or of several keys under one budget, with scripted callers, dialers and
//! places.
//!
//! Pools predicts no order. It notes what callers were told and the dialer was asked for, and has books of
//! its own. After each event it checks by them that the promises hold.
//!
//! | file | purpose |
//! | --- | --- |
//! | `callers`, `connections`, `control` | the events, by what they concern |
//! | `note` | what an event has brought: verdicts, dials, checks, closes |
//! | `promises` | what must be true of one ledger after each of its events |
//! | `books` | the numbers of one ledger, counted from the events |
//! | `among_keys` | what must be true among the keys of one budget |
//! | `end` | time passes; everything comes to rest, and nothing is left |

mod among_keys;
mod books;
mod callers;
mod connections;
mod control;
mod end;
mod note;
mod promises;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::common::Common;
use crate::config::Config;
use crate::ledger::budget::{BudgetOrder, MemberId};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::effects::JobId;
use crate::ledger::lease::Lease;
use crate::ledger::outage::BreakerTurn;
use crate::ledger::stats::Stats;
use crate::ledger::{Effects, Entry, Ledger, Overdue, Purpose, Share, Ticket};
use crate::runtime::moment::Moment;
use crate::slips::{Failure, Outcome, Slip, Slips};

type PoolLedger = Ledger<u32, Failure, Slip<usize, Failure>>;
type LedgerEffects = Effects<u32, Failure, Slip<usize, Failure>>;

/// Whose the slots are, and when orders from key to key are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// There is one pool, without a budget.
    Alone,
    /// Before anything else happens, and the clock never runs back. Then Pools knows each decision among
    /// keys exactly.
    AtOnce,
    /// At any time and in any order, as if threads were held up.
    Late,
}

/// The settings with which a history begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) keys: usize,
    pub(crate) each: Config,
    /// The settings that changes are taken from.
    pub(crate) others: [Config; 3],
    pub(crate) max_open_total: u32,
    pub(crate) max_idle_total: Option<u32>,
    /// How many places each ledger has, for connections that are laid out.
    pub(crate) places: usize,
    pub(crate) delivery: Delivery,
    /// Whether upkeep comes when it is ordered for.
    pub(crate) has_upkeep: bool,
}

impl Setting {
    pub(crate) fn is_prompt(&self) -> bool {
        self.delivery == Delivery::AtOnce
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.delivery == Delivery::Alone
    }
}

/// A ledger, from the first use of its key until nothing is left of it, and what Pools knows of it.
struct Member {
    key: usize,
    /// `None`: it has been dropped, and orders to it find nobody.
    ledger: Option<PoolLedger>,
    /// `None`: the gate is shut.
    places: Option<Places>,
    config: Config,
    is_closed: bool,
    is_suspended: bool,
    /// The most that may be open: `max_open`, or more after it was lowered, until enough has closed.
    allowance: u32,
    /// How often everything has been written off, by a flush or another lease.
    generation: u32,
    /// The epochs of the predicates so far, and how many of them the ledger has called done with.
    predicates: Vec<u32>,
    judged: usize,
    outage: Outage,
    /// When idle connections may be replaced, after one that ended too young.
    replaces_at: Option<Moment>,
    /// When a connection was last closed because it had been idle for too long, and last cast doubt on
    /// others.
    pruned_at: Option<Moment>,
    doubted_at: Option<Moment>,
    /// When upkeep is ordered for, and when it last came.
    alarm: Option<Moment>,
    upkept_at: Option<Moment>,
    /// The longest that a dial has taken.
    longest_dial: Duration,
    totals: Stats,
    retired_by: HashMap<CloseReason, u64>,
    /// Since when its first caller without a dial has waited, and how many slots it lacks, as Pools knows.
    want: Option<(Moment, u32)>,
    /// Whether it has been granted a slot, and nothing has happened to it since.
    is_granted: bool,
    /// How many of its callers have woken up to a connection.
    woken: u64,
}

/// The failures of a ledger's latest dials, as reported.
#[derive(Debug, Default)]
struct Outage {
    failures: u32,
    failed_at: Option<Moment>,
    last_failure: Option<Failure>,
    /// Since when the breaker has been open, and its turns in this event.
    open_since: Option<Moment>,
    turns: Vec<BreakerTurn>,
}

struct Places {
    epoch: u32,
    until: Moment,
    at_rest: Vec<Entry<u32>>,
}

/// A caller, a warm-up or a drain.
#[derive(Debug)]
struct Caller {
    member: usize,
    want: Want,
    ticket: Option<Ticket>,
    since: Moment,
    joined: Moment,
    deadline: Option<Moment>,
    state: State,
    /// The dial that was begun for it, while it is counted on.
    dial: Option<JobId>,
    /// The failure of its own dial.
    failure: Option<Failure>,
    /// Whether it may dial again after that.
    may_be_revived: bool,
    /// The failures of others that it may hold, one of them: those that were the latest while the breaker was
    /// open. When it is refused, a probe may be due for which there is no slot.
    refused: Vec<Failure>,
    sleep: Sleep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Connection,
    /// So many connections open.
    WarmUp(u32),
    /// A closed pool with nothing open.
    Rest,
}

#[derive(Debug)]
enum State {
    Waiting,
    /// It has a verdict that it has not collected, and is waking up to it or was awake.
    Told(Outcome, bool),
    Holding(Entry<u32>),
    /// Was given a broken connection and has retired it.
    Empty,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    Awake,
    Until(Option<Moment>),
}

/// A connection as its server knows it.
#[derive(Clone, Copy, Debug)]
struct Connection {
    member: usize,
    /// The number of the lease under which its dial began.
    lease: u64,
    generation: u32,
    /// How many predicates need not judge it any more.
    judged: usize,
    place: Place,
    opened_at: Moment,
    idle_since: Moment,
    proven_at: Moment,
    loans: u32,
    retired: Option<Retired>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the ledger or in a place.
    AtRest,
    /// A caller has it or is given it.
    Lent,
    AtDialer,
    Closing,
    /// Or detached.
    Ended,
}

/// The end of a connection. Its slot is free once the close has returned or is overdue.
#[derive(Clone, Copy, Debug)]
struct Retired {
    reason: CloseReason,
    due: Option<Moment>,
    is_slot_free: bool,
}

struct Dial {
    member: usize,
    id: JobId,
    /// `None`: the pool, for `min_idle`.
    sponsor: Option<usize>,
    lease: u64,
    generation: u32,
    judged: usize,
    began: Moment,
    deadline: Option<Moment>,
    /// The limit that it has overrun then.
    bound: Overdue,
    is_counted: bool,
}

struct AtDialer {
    member: usize,
    id: JobId,
    purpose: Purpose,
    entry: Entry<u32>,
    deadline: Option<Moment>,
    is_counted: bool,
}

struct Close {
    member: usize,
    id: JobId,
    connection: u32,
    makes_room: bool,
}

pub(crate) struct Pools {
    setting: Setting,
    common: Arc<Common>,
    max_open_total: u32,
    /// The slots that the quota allows, for as long as its lease lasts.
    quota: u32,
    lease: Lease,
    /// The most that may be taken: the bound, or more after it was lowered, until enough is returned.
    allowance: u32,
    now: Moment,
    /// How far the clock of the event at hand is behind.
    behind: Duration,
    /// The latest time that an event has had.
    latest: Moment,
    is_closed: bool,
    slips: Slips,
    members: Vec<Member>,
    /// The members that the keys have now.
    current: Vec<Option<usize>>,
    callers: Vec<Caller>,
    connections: BTreeMap<u32, Connection>,
    dials: Vec<Dial>,
    at_dialer: Vec<AtDialer>,
    closes: Vec<Close>,
    /// Why the event at hand closes a connection, and which; none if it is one of the idle.
    cause: Option<(Option<u32>, CloseReason)>,
    /// The caller whom the event at hand cancels.
    cancelled: Option<usize>,
    /// What was idle and which settings there were as the event at hand began, and what it has granted.
    idle_before: Vec<u32>,
    former: Config,
    granted: Vec<u32>,
    /// Orders on their way.
    orders: Vec<BudgetOrder>,
    /// Members that have reported that nothing is left of them.
    vacant: Vec<usize>,
    evicted: u32,
}

impl Pools {
    pub(crate) fn new(setting: Setting) -> Self {
        let now = Moment::from(std::time::Instant::now()) + Duration::from_secs(1_000_000);
        let Setting { max_open_total, keys, .. } = setting;
        Self {
            setting,
            common: Common::new(max_open_total),
            max_open_total,
            quota: u32::MAX,
            lease: Lease::ENDLESS,
            allowance: max_open_total,
            now,
            behind: Duration::ZERO,
            latest: now,
            is_closed: false,
            slips: Slips::default(),
            members: Vec::new(),
            current: vec![None; keys],
            callers: Vec::new(),
            connections: BTreeMap::new(),
            dials: Vec::new(),
            at_dialer: Vec::new(),
            closes: Vec::new(),
            cause: None,
            cancelled: None,
            idle_before: Vec::new(),
            former: setting.each,
            granted: Vec::new(),
            orders: Vec::new(),
            vacant: Vec::new(),
            evicted: 0,
        }
    }

    /// One event, by a clock that is behind, and everything that follows from it at once.
    pub(crate) fn step(&mut self, behind: Duration, what: impl FnOnce(&mut Self)) {
        self.behind = if self.is_prompt() { Duration::ZERO } else { behind };
        what(self);
        self.trim();
        self.follow();
        if self.orders.is_empty() {
            self.nobody_stalls_beside_idle_connections();
        }
    }

    /// Delivers what follows at once from an event.
    fn follow(&mut self) {
        while self.is_prompt() && (self.trim() || self.follow_up()) {}
    }

    fn follow_up(&mut self) -> bool {
        if !self.orders.is_empty() {
            self.deliver(self.orders.len() - 1);
        } else if let Some(caller) = self.pick(0, |it| matches!(it.state, State::Told(..))) {
            self.collect_of(caller);
        } else if !self.vacant.is_empty() {
            self.close_if_vacant(0);
        } else {
            return false;
        }
        true
    }

    fn event(
        &mut self,
        member: usize,
        event: impl FnOnce(&mut PoolLedger, Moment) -> LedgerEffects,
    ) {
        let now = self.open(member);
        self.carry_out(member, now, event);
    }

    /// The rest of an event that has begun with `open`.
    fn carry_out(
        &mut self,
        member: usize,
        now: Moment,
        event: impl FnOnce(&mut PoolLedger, Moment) -> LedgerEffects,
    ) {
        let effects = event(self.ledger(member), now);
        self.note(member, now, effects);
    }

    /// Begins an event: shuts the gate, takes the connections from the places, and notes what is due.
    fn open(&mut self, member: usize) -> Moment {
        let now = self.clock();
        self.latest = self.latest.max(now);
        let places = self.members[member].places.take();
        for entry in places.into_iter().flat_map(|it| it.at_rest) {
            self.ledger(member).take_from_place(entry);
        }
        self.note_overdue(member, now);
        self.idle_before = self.idle(member);
        self.former = self.members[member].config;
        now
    }

    // ---- Finding -------------------------------------------------------------------------------

    fn is_prompt(&self) -> bool {
        self.setting.is_prompt()
    }

    fn clock(&self) -> Moment {
        self.now - self.behind
    }

    /// The key's ledger, created if there is none.
    fn member(&mut self, key: usize) -> usize {
        if let Some(member) = self.current[key] {
            return member;
        }
        let member = self.members.len();
        let config = self.setting.each;
        let mut ledger = Ledger::new(config, member as u64);
        if !self.setting.is_alone() {
            let way = Arc::clone(&self.common) as _;
            ledger = ledger.sharing(Share::new(MemberId(member as u64), way, false));
        }
        self.members.push(Member {
            key,
            ledger: Some(ledger),
            places: None,
            config,
            is_closed: false,
            is_suspended: false,
            allowance: config.max_open,
            generation: 0,
            predicates: Vec::new(),
            judged: 0,
            outage: Outage::default(),
            replaces_at: None,
            pruned_at: None,
            doubted_at: None,
            alarm: None,
            upkept_at: None,
            longest_dial: Duration::ZERO,
            totals: Stats::default(),
            retired_by: HashMap::new(),
            want: None,
            is_granted: false,
            woken: 0,
        });
        self.current[key] = Some(member);
        if self.lease != Lease::ENDLESS {
            let lease = self.lease;
            self.event(member, |ledger, now| ledger.set_lease(lease, now));
        }
        if self.is_closed {
            // Its member is not in the map any more.
            self.close_member(member);
        }
        member
    }

    fn ledger(&mut self, member: usize) -> &mut PoolLedger {
        self.members[member].ledger.as_mut().expect("it has a ledger")
    }

    fn connection(&mut self, number: u32) -> &mut Connection {
        self.connections.get_mut(&number).expect("a connection is known once it is open")
    }

    fn pick(&self, pick: usize, is_able: impl Fn(&Caller) -> bool) -> Option<usize> {
        let able: Vec<_> =
            (0..self.callers.len()).filter(|at| is_able(&self.callers[*at])).collect();
        Some(able[choose(able.len(), pick)?])
    }

    /// The callers and others of a member who have no verdict.
    fn waiting(&self, member: usize) -> impl Iterator<Item = (usize, &Caller)> + Clone {
        let callers = self.callers.iter().enumerate();
        callers.filter(move |(_, it)| it.member == member && matches!(it.state, State::Waiting))
    }

    /// The callers of a member in the queue.
    fn queue(&self, member: usize) -> impl Iterator<Item = (usize, &Caller)> + Clone {
        self.waiting(member).filter(|(_, it)| it.want == Want::Connection)
    }

    fn dials_of(&self, member: usize) -> impl Iterator<Item = &Dial> + Clone {
        self.dials.iter().filter(move |it| it.member == member)
    }

    fn connections_of(&self, member: usize) -> impl Iterator<Item = (u32, &Connection)> + Clone {
        let all = self.connections.iter().map(|(number, it)| (*number, it));
        all.filter(move |(_, it)| it.member == member)
    }

    /// A member's connections at rest, the coldest first.
    fn idle(&self, member: usize) -> Vec<u32> {
        let at_rest = self.connections_of(member).filter(|(_, it)| it.place == Place::AtRest);
        let mut idle: Vec<_> = at_rest.map(|(number, _)| number).collect();
        idle.sort_by_key(|number| self.connections[number].idle_since);
        idle
    }
}

fn choose(len: usize, pick: usize) -> Option<usize> {
    (len > 0).then(|| pick % len)
}

fn small(count: usize) -> u32 {
    u32::try_from(count).expect("a test has few of anything")
}
