//! `World`: a second implementation of the ledger, slow and obvious, with the dialer and the callers.
//!
//! After each event the ledger's orders must be those that the World expects, its `Stats` must equal the
//! World's numbers, and the promises must hold as the dialer and the callers see them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::config::{Backoff, Config, IdleOrder, OnDialFailure, far_future};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::effects::JobId;
use crate::ledger::outage::BreakerTurn;
use crate::ledger::spread::{Fraction, Spread};
use crate::ledger::stats::Stats;
use crate::ledger::{
    AtDialerOrder, DialOrder, Effects, Entry, Ledger, Overdue, Purpose, RareEffects, Refusal,
    Reply, Ticket, Verdict,
};
use crate::runtime::moment::Moment;
use crate::slips::{Lists, Slip, Slips};

/// How a dial failed: by itself, with its id, or by its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Of(JobId),
    Overdue(Overdue),
}

impl From<Overdue> for Failure {
    fn from(overdue: Overdue) -> Self {
        Self::Overdue(overdue)
    }
}

type LedgerEffects = Effects<u32, Failure, Slip<usize, Failure>>;

/// The least time between two upkeeps.
const UPKEEP_LEAST: Duration = Duration::from_millis(100);

/// The seed of the pool's lifetimes and pauses.
const SEED: u64 = 5;

/// With `min_idle`, a connection is replaced at least this long before its end, but not in the first
/// three quarters of its life.
const LEAD_LEAST: Duration = Duration::from_secs(1);

/// A connection, as the dialer and its borrowers know it.
#[derive(Debug)]
struct Connection {
    place: Place,
    reused: bool,
    loans: u32,
    opened_at: Moment,
    idle_since: Moment,
    proven_at: Moment,
    generation: u64,
    fraction: Fraction,
    /// Whether its successor may be dialed, while it is idle.
    leaving: Leaving,
    /// The epoch up to which predicates have judged it.
    judged: u32,
    /// Its slot was freed before its close returned. `BOUND` does not count it.
    abandoned: bool,
}

/// A connection is replaced early by a time that depends on the average dial time. The World knows only
/// bounds of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    Perhaps,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    /// Given to a caller who has not collected it yet.
    Granted,
    Lent,
    AtDialer,
    /// At the dialer for too long. It is closed when it is back.
    Overdue,
    Closing,
    Closed,
    /// Detached by its borrower.
    Kept,
}

#[derive(Debug)]
struct Dial {
    /// `None`: the pool, for `min_idle`.
    sponsor: Option<usize>,
    began: Moment,
    generation: u64,
    judged: u32,
    deadline: Option<Moment>,
    /// The limit that it has overrun then.
    bound: Overdue,
    /// Whether a caller may still count on it.
    counted: bool,
    /// Whether it ends only at the end of the history.
    hangs: bool,
}

#[derive(Debug)]
struct AtDialer {
    id: JobId,
    purpose: Purpose,
    connection: u32,
    deadline: Option<Moment>,
    /// `None` once it is on its way back.
    entry: Option<Entry<u32>>,
    /// Why it is closed when it is back, if it is retired already.
    written_off: Option<CloseReason>,
    hangs: bool,
}

/// A caller, a warm-up or a drain.
#[derive(Debug)]
struct Client {
    want: Want,
    ticket: Option<Ticket>,
    /// When it first asked.
    since: Option<Moment>,
    deadline: Option<Moment>,
    failure: Option<Failure>,
    dial: Option<JobId>,
    state: State,
    /// Whether it sleeps while it waits, and when it wakes by itself.
    sleep: Sleep,
}

impl Client {
    fn new(want: Want, ticket: Option<Ticket>, deadline: Option<Moment>, state: State) -> Self {
        let (since, failure, dial, sleep) = (None, None, None, Sleep::Awake);
        Self { want, ticket, since, deadline, failure, dial, state, sleep }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    Awake,
    Until(Option<Moment>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Connection,
    WarmUp(u32),
    Rest,
}

#[derive(Debug)]
enum State {
    Waiting,
    /// It has a verdict that it has not collected.
    HasVerdict(Outcome),
    Holding(Entry<u32>),
    /// It was given a broken connection and has retired it.
    Empty,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Granted(u32),
    Failed(Failure),
    Late(Option<Failure>),
    Suspended(Option<Failure>),
    Cancelled,
    Closed,
    Warm,
    Drained,
}

/// The calls of the dialer that return only at the end of the history: bit n for the nth call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hangs {
    pub(crate) dials: u64,
    pub(crate) at_dialer: u64,
    pub(crate) closes: u64,
    /// Whether upkeep never comes by the alarm.
    pub(crate) upkeep: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    ledger: Ledger<u32, Failure, Slip<usize, Failure>>,
    slips: Slips<usize, Failure>,
    now: Moment,
    /// The latest time that an event has had.
    latest: Moment,
    config: Config,
    /// The most that may be open: `max_open`, or more after it was lowered, until enough has closed.
    allowance: u32,
    closed: bool,
    suspended: bool,
    generation: u64,
    /// Raised by flush, reconfigure and retire_where.
    epoch: u32,
    /// The epochs of the predicates that are still needed.
    predicates: Vec<u32>,
    hangs: Hangs,
    jobs: [u32; 3],

    clients: Vec<Client>,
    /// The callers in the queue, the first to come first.
    queue: Vec<usize>,
    connections: BTreeMap<u32, Connection>,
    /// The idle connections, the coldest first.
    idle: Vec<u32>,
    dials: BTreeMap<JobId, Dial>,
    at_dialer: Vec<AtDialer>,
    /// Closes that the dialer has begun, and whether they hang.
    closes: Vec<(JobId, u32, bool)>,
    /// Slots that count as closing.
    closings: BTreeMap<JobId, (u32, Option<Moment>)>,

    last_failure: Option<Failure>,
    /// Dials that have failed since the last one that succeeded, and when the latest failed.
    failures: u32,
    failed_at: Option<Moment>,
    /// Since when the breaker has been open.
    open_since: Option<Moment>,
    /// When idle connections may be replaced, after one that ended younger than `UPKEEP_LEAST`.
    replaces_at: Option<Moment>,
    /// When a connection was last closed because it had been idle for too long.
    pruned_at: Option<Moment>,
    spread: Spread,
    /// The longest that a dial has taken.
    longest_dial: Duration,
    /// When upkeep is ordered for, and when it last came.
    alarm: Option<Moment>,
    upkept_at: Option<Moment>,
    /// When a connection was last found broken.
    doubted_at: Option<Moment>,
    totals: Stats,
    /// The connections that were retired, by reason.
    retired_by: HashMap<CloseReason, u64>,
    /// The ledger's orders that the World has not yet accounted for.
    orders: Lists<usize, Failure>,
}

impl World {
    pub(crate) fn new(config: Config, hangs: Hangs) -> Self {
        let now = Moment::from(std::time::Instant::now()) + Duration::from_secs(1_000_000);
        Self {
            ledger: Ledger::new(config, SEED),
            slips: Slips::default(),
            now,
            latest: now,
            config,
            allowance: config.max_open,
            closed: false,
            suspended: false,
            generation: 0,
            epoch: 0,
            predicates: Vec::new(),
            hangs,
            jobs: [0; 3],
            clients: Vec::new(),
            queue: Vec::new(),
            connections: BTreeMap::new(),
            idle: Vec::new(),
            dials: BTreeMap::new(),
            at_dialer: Vec::new(),
            closes: Vec::new(),
            closings: BTreeMap::new(),
            last_failure: None,
            failures: 0,
            failed_at: None,
            open_since: None,
            replaces_at: None,
            pruned_at: None,
            spread: Spread::new(SEED),
            longest_dial: Duration::ZERO,
            alarm: None,
            upkept_at: None,
            doubted_at: None,
            totals: Stats::default(),
            retired_by: HashMap::new(),
            orders: Effects::none().into(),
        }
    }

    // ---- Events --------------------------------------------------------------------------------

    /// The time of the next event: this much behind the furthest that the clock has been.
    fn read_clock(&mut self, behind: Duration) -> Moment {
        let now = self.now - behind;
        self.latest = self.latest.max(now);
        now
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        // Clients who are awake go to sleep, or leave, before time passes.
        for client in 0..self.clients.len() {
            let Client { state: State::Waiting, sleep, .. } = self.clients[client] else {
                continue;
            };
            if self.is_expired(client, self.now) {
                self.collect_or_leave(client, self.now);
            } else if sleep == Sleep::Awake || self.is_up(client) {
                self.fall_asleep(client);
            }
        }
        self.now += time;
        if !self.hangs.upkeep && self.alarm.is_some_and(|alarm| alarm <= self.now) {
            self.upkeep(Duration::ZERO);
        }
        // Only clients who are woken by the clock report `tick`.
        for client in 0..self.clients.len() {
            if self.is_up(client) {
                self.tick(Duration::ZERO);
            }
        }
        self.agree();
    }

    /// Whether the clock wakes a client that sleeps.
    fn is_up(&self, client: usize) -> bool {
        match self.clients[client] {
            Client { state: State::Waiting, sleep: Sleep::Until(Some(until)), .. } => {
                until <= self.now
            }
            _ => false,
        }
    }

    fn fall_asleep(&mut self, client: usize) {
        let Client { ticket, deadline, .. } = self.clients[client];
        let ticket = ticket.expect("who waits has a ticket");
        let until = self.ledger.sleep(ticket, deadline);
        let as_watch = deadline.into_iter().chain(self.next_due()).min();
        assert!(until == deadline || until == as_watch, "{until:?}");
        self.clients[client].sleep = Sleep::Until(until);
    }

    pub(crate) fn request(&mut self, patience: Option<Duration>, behind: Duration) {
        let now = self.read_clock(behind);
        let deadline = patience.and_then(|patience| now.after(patience));
        self.clients.push(Client::new(Want::Connection, None, deadline, State::Gone));
        self.ask(self.clients.len() - 1, now);
    }

    pub(crate) fn rejoin(&mut self, pick: usize, behind: Duration) {
        let now = self.read_clock(behind);
        if let Some(client) = self.pick_client(pick, |p| matches!(p.state, State::Empty)) {
            self.ask(client, now);
        }
    }

    fn ask(&mut self, client: usize, now: Moment) {
        let since = *self.clients[client].since.get_or_insert(now);
        let Client { ticket: place, deadline, .. } = self.clients[client];
        let is_late = deadline.is_some_and(|deadline| deadline <= now);
        let at_once = |world: &Self| {
            !world.closed && !world.suspended && world.queue.is_empty() && world.is_fresh(now)
        };
        let slip = self.slips.give(client);
        let (request, orders) = self.ledger.request(place, since, deadline, now, || slip);
        self.clients[client].state = State::Gone;
        match request {
            Reply::Granted(ticket, entry) => {
                self.event(now, orders, |world, _| {
                    assert!(
                        at_once(world),
                        "BOUNDED-BYPASS: a newcomer is served before the queue"
                    );
                    let connection = world.take_idle().expect("something is idle");
                    assert_eq!(entry.connection, connection, "the next in order is lent");
                    world.lend(connection, now);
                    world.hold(client, ticket, entry);
                });
            }
            Reply::Queued(ticket) => {
                assert!(!self.closed && !is_late, "waits for no reason");
                assert!(place.is_none_or(|place| place == ticket), "FAIR-04: the place is lost");
                self.clients[client].ticket = Some(ticket);
                let sleeps_at_once = orders.is_empty();
                self.event(now, orders, |world, _| {
                    assert!(!at_once(world), "waits for no reason");
                    assert!(place.is_some() || !world.is_queue_full(now), "the queue is full");
                    world.totals.waited_total += u64::from(place.is_none());
                    world.clients[client].state = State::Waiting;
                    world.clients[client].sleep = Sleep::Awake;
                    world.queue.push(client);
                    world.queue.sort_by_key(|client| world.clients[*client].ticket);
                });
                if sleeps_at_once && matches!(self.clients[client].state, State::Waiting) {
                    self.fall_asleep(client);
                }
            }
            Reply::Refused(Refusal::Closed) => {
                self.event(now, orders, |world, _| assert!(world.closed));
            }
            Reply::Refused(Refusal::TooLate) => {
                assert!(is_late && !self.closed);
                assert!(!self.suspended, "REASON: a suspended pool says so");
                self.event(now, orders, |world, _| {
                    assert!(!at_once(world), "it could be served");
                    world.totals.timed_out_total += 1;
                });
            }
            Reply::Refused(Refusal::Suspended) => {
                assert!(is_late && self.suspended && !self.closed);
                self.event(now, orders, |world, _| world.totals.timed_out_total += 1);
            }
            Reply::Refused(Refusal::QueueFull) => {
                assert!(!self.closed && !is_late && place.is_none());
                self.event(now, orders, |world, _| {
                    assert!(!at_once(world) && world.is_queue_full(now), "it could be served");
                    world.totals.queue_full_total += 1;
                });
            }
        }
    }

    pub(crate) fn try_request(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        let (lent, orders) = self.ledger.try_request(now);
        self.event(now, orders, |world, now| match lent {
            Err(Refusal::Closed) => assert!(world.closed),
            Err(refusal) => {
                assert!(!world.closed && world.suspended && refusal == Refusal::Suspended);
            }
            Ok(None) => assert!(world.idle.is_empty() || !world.queue.is_empty()),
            Ok(Some(entry)) => {
                assert!(!world.closed && !world.suspended && world.queue.is_empty(), "FAIR-05");
                let connection = world.take_idle().expect("something is idle");
                assert_eq!(entry.connection, connection, "the next in order is lent");
                world.lend(connection, now);
                world.connection(connection).place = Place::Lent;
                let holds = State::Holding(entry);
                world.clients.push(Client::new(Want::Connection, None, None, holds));
            }
        });
    }

    /// A client wakes, for a reason or for none, and collects its verdict if it has one.
    pub(crate) fn collect(&mut self, pick: usize) {
        let client =
            self.pick_client(pick, |p| matches!(p.state, State::Waiting | State::HasVerdict(_)));
        if let Some(client) = client {
            if !self.collect_of(client) && !self.is_expired(client, self.now) {
                self.fall_asleep(client);
            }
        }
        self.agree();
    }

    fn collect_of(&mut self, client: usize) -> bool {
        let ticket = self.clients[client].ticket.expect("who waits has a ticket");
        let collected = self.slips.collect(client);
        self.ledger.note_woken(self.slips.woken);
        match (collected, &self.clients[client].state) {
            (None, State::Waiting) => return false,
            (Some(verdict), State::HasVerdict(expected)) => {
                assert_eq!(name(&verdict), *expected, "the verdict for client {client}");
                self.clients[client].state = State::Gone;
                if let Verdict::Granted(entry) = verdict {
                    self.hold(client, ticket, entry);
                }
                self.look_at(self.now);
            }
            (verdict, state) => panic!("client {client} is {state:?} and gets {verdict:?}"),
        }
        true
    }

    /// A client is cancelled. It may have stopped waiting before.
    pub(crate) fn cancel(&mut self, pick: usize, behind: Duration) {
        let now = self.read_clock(behind);
        let client = self.pick_client(pick, |p| p.want == Want::Connection && p.ticket.is_some());
        let Some(client) = client else { return };
        let ticket = self.clients[client].ticket.expect("just picked by that");
        let orders = self.ledger.cancel(ticket, now);
        self.event(now, orders, |world, _| {
            if world.queue.contains(&client) {
                world.queue.retain(|waiting| *waiting != client);
                world.totals.cancelled_total += 1;
                world.notify(client, Outcome::Cancelled);
            }
        });
    }

    /// A client whose deadline has passed collects its verdict, or else leaves.
    pub(crate) fn leave(&mut self, pick: usize) {
        let now = self.read_clock(Duration::ZERO);
        let late = |p: &Client| p.deadline.is_some_and(|deadline| deadline <= now);
        let client = self.pick_client(pick, |p| {
            matches!(p.state, State::Waiting | State::HasVerdict(_)) && late(p)
        });
        if let Some(client) = client {
            self.collect_or_leave(client, now);
        }
    }

    fn collect_or_leave(&mut self, client: usize, now: Moment) {
        if !self.collect_of(client) {
            let ticket = self.clients[client].ticket.expect("who waits has a ticket");
            let (left, orders) = self.ledger.leave(ticket, now, |_| ());
            self.event(now, orders, |world, _| {
                let Some((verdict, ())) = left else {
                    let state = &world.clients[client].state;
                    return assert!(
                        matches!(state, State::HasVerdict(_)),
                        "gets no verdict: {state:?}"
                    );
                };
                assert_eq!(name(&verdict), world.lateness(client), "REASON: of client {client}");
                if world.queue.contains(&client) {
                    world.totals.timed_out_total += 1;
                    world.queue.retain(|waiting| *waiting != client);
                }
                world.clients[client].state = State::Gone;
            });
        }
    }

    pub(crate) fn tick(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        self.look_at(now);
    }

    /// Upkeep comes, at the time of the alarm or at another.
    pub(crate) fn upkeep(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        (self.alarm, self.upkept_at) = (None, Some(now));
        let orders = self.ledger.upkeep(now);
        self.event(now, orders, |_, _| {});
    }

    fn look_at(&mut self, now: Moment) {
        let orders = self.ledger.tick(now);
        self.event(now, orders, |_, _| {});
    }

    pub(crate) fn dialed(&mut self, pick: usize, behind: Duration) {
        let now = self.read_clock(behind);
        let Some(id) = self.pick_dial(pick) else { return };
        let connection = u32::try_from(self.connections.len()).expect("few connections");
        let orders = self.ledger.dialed(id, connection, None, Duration::MAX, now);
        self.event(now, orders, |world, now| {
            let dial = world.dials.remove(&id).expect("it was under way");
            world.part(id, dial.sponsor);
            world.totals.dialed_total += 1;
            world.last_failure = None;
            (world.failures, world.failed_at) = (0, None);
            world.note_breaker(now);
            let took = now.since(dial.began);
            world.longest_dial = world.longest_dial.max(took);
            let opened = Connection {
                place: Place::Closed,
                reused: false,
                loans: 0,
                opened_at: now,
                idle_since: now,
                proven_at: now,
                generation: dial.generation,
                fraction: world.spread.fraction(id.0),
                leaving: Leaving::No,
                judged: dial.judged,
                abandoned: false,
            };
            world.connections.insert(connection, opened);
            world.admit(connection, now);
        });
    }

    pub(crate) fn dial_failed(&mut self, pick: usize, panicked: bool, behind: Duration) {
        let now = self.read_clock(behind);
        let Some(id) = self.pick_dial(pick) else { return };
        if panicked {
            self.ledger.note_panic();
            self.totals.panics_total += 1;
        }
        let orders = self.ledger.dial_failed(id, Failure::Of(id), false, now);
        self.event(now, orders, |world, now| {
            let dial = world.dials.remove(&id).expect("it was under way");
            world.totals.dial_failed_total += 1;
            // A cancelled dial says nothing of the server.
            if !world.closed && dial.generation == world.generation {
                world.note_failure(id, &dial, Failure::Of(id), now);
            }
        });
    }

    pub(crate) fn give_back(&mut self, pick: usize, behind: Duration) {
        let now = self.read_clock(behind);
        let Some(entry) = self.take_held(pick, State::Gone) else { return };
        let connection = entry.connection;
        let orders = self.ledger.give_back(entry, now);
        self.event(now, orders, |world, now| {
            let returned = world.connection(connection);
            returned.reused = true;
            (returned.proven_at, returned.idle_since) = (now, now);
            world.admit(connection, now);
        });
    }

    pub(crate) fn give_back_for_reset(&mut self, pick: usize, behind: Duration) {
        let now = self.read_clock(behind);
        let Some(entry) = self.take_held(pick, State::Gone) else { return };
        let connection = entry.connection;
        let orders = self.ledger.give_back_for_reset(entry, now);
        self.event(now, orders, |world, now| {
            world.connection(connection).idle_since = now;
            world.connection(connection).reused = true;
            world.send_to_dialer(Purpose::Reset, connection, now);
        });
    }

    pub(crate) fn back(&mut self, pick: usize, sound: bool, behind: Duration) {
        let now = self.read_clock(behind);
        let able: Vec<_> =
            (0..self.at_dialer.len()).filter(|at| !self.at_dialer[*at].hangs).collect();
        let Some(at) = choose(&able, pick) else { return };
        let entry =
            self.at_dialer[at].entry.take().expect("a connection comes back from the dialer once");
        let fault = (!sound).then(|| self.at_dialer[at].purpose.fault());
        let orders = self.ledger.back_from_dialer(self.at_dialer[at].id, entry, fault, now);
        self.event(now, orders, |world, now| {
            let AtDialer { id, purpose, connection, written_off, .. } = world.at_dialer.remove(at);
            if let Some(reason) = written_off {
                let close = world.take_close(connection, reason, now);
                assert_eq!(close, id, "the job goes on under its name");
            } else if sound {
                match purpose {
                    Purpose::Judge { until, .. } => world.connection(connection).judged = until,
                    _ => world.connection(connection).proven_at = now,
                }
                world.admit(connection, now);
            } else {
                let reason = match purpose {
                    Purpose::Check | Purpose::KeepAlive => CloseReason::CheckFailed,
                    Purpose::Reset => CloseReason::ResetFailed,
                    Purpose::Judge { .. } => CloseReason::Predicate,
                };
                world.totals.check_failed_total += u64::from(is_check(purpose));
                world.begin_close(connection, reason, now);
            }
        });
    }

    pub(crate) fn retire(&mut self, pick: usize, to_rejoin: bool, behind: Duration) {
        let now = self.read_clock(behind);
        // A caller of `try_request` has no ticket, and so cannot ask again.
        let then = if to_rejoin { State::Empty } else { State::Gone };
        let Some(entry) = self.take_held(pick, then) else { return };
        let connection = entry.connection;
        let reason = if to_rejoin { CloseReason::Broken } else { CloseReason::Discarded };
        let orders = self.ledger.retire(entry, reason, now);
        self.event(now, orders, |world, now| world.begin_close(connection, reason, now));
    }

    pub(crate) fn detach(&mut self, pick: usize, behind: Duration) {
        let now = self.read_clock(behind);
        let Some(entry) = self.take_held(pick, State::Gone) else { return };
        let connection = entry.connection;
        let (kept, orders) = self.ledger.detach(entry, now);
        assert_eq!(kept, connection);
        self.event(now, orders, |world, _| {
            world.connection(connection).place = Place::Kept;
            world.totals.detached_total += 1;
        });
    }

    /// The dialer's close has returned.
    pub(crate) fn closed(&mut self, pick: usize, behind: Duration) {
        let now = self.read_clock(behind);
        let able: Vec<_> = (0..self.closes.len()).filter(|at| !self.closes[*at].2).collect();
        let Some(at) = choose(&able, pick) else { return };
        let (id, connection, _) = self.closes.remove(at);
        let orders = self.ledger.closed(id, now);
        self.event(now, orders, |world, _| {
            let closed = world.connection(connection);
            assert_eq!(closed.place, Place::Closing, "closed exactly once");
            closed.place = Place::Closed;
            world.closings.remove(&id);
        });
    }

    pub(crate) fn warm_up(&mut self, target: u32, patience: Option<Duration>, behind: Duration) {
        let now = self.read_clock(behind);
        let client = self.clients.len();
        let slip = self.slips.give(client);
        let (ticket, orders) = self.ledger.warm_up(target, now, || slip);
        let is_closed = self.closed;
        let deadline = patience.and_then(|patience| now.after(patience));
        let want = Want::WarmUp(target);
        self.clients.push(Client::new(want, Some(ticket), deadline, State::Waiting));
        self.event(now, orders, |world, _| {
            if is_closed {
                world.clients[client].state = State::HasVerdict(Outcome::Closed);
            }
        });
    }

    pub(crate) fn close_unused(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        let orders = self.ledger.close_idle(now);
        self.event(now, orders, |world, now| {
            while world.idle.len() > world.queue.len() {
                let coldest = world.idle.remove(0);
                world.begin_close(coldest, CloseReason::ClosedIdle, now);
            }
        });
    }

    pub(crate) fn flush(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        let orders = self.ledger.flush(now);
        self.event(now, orders, |world, now| {
            world.generation += 1;
            world.begin_epoch();
            world.close_idle(CloseReason::Flushed, now);
            for id in world.dials.keys().copied().collect::<Vec<_>>() {
                let dial = world.dials.get_mut(&id).expect("just found");
                dial.counted = false;
                let sponsor = dial.sponsor;
                world.part(id, sponsor);
            }
            for at in 0..world.at_dialer.len() {
                let AtDialer { id, connection, written_off, .. } = world.at_dialer[at];
                if written_off.is_none() {
                    world.at_dialer[at].written_off = Some(CloseReason::Flushed);
                    world.note_closing(id, connection, CloseReason::Flushed, now);
                    world.connection(connection).place = Place::Overdue;
                }
            }
        });
    }

    pub(crate) fn retire_where(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        let (epoch, orders) = self.ledger.retire_where(now);
        self.event(now, orders, |world, now| {
            let idle = std::mem::take(&mut world.idle);
            world.begin_epoch();
            assert_eq!(epoch, world.epoch, "each predicate has its own");
            world.predicates.push(epoch);
            for connection in idle {
                world.admit(connection, now);
            }
        });
    }

    pub(crate) fn reconfigure(&mut self, change: impl FnOnce(&mut Config), behind: Duration) {
        let now = self.read_clock(behind);
        let mut config = self.config;
        change(&mut config);
        let orders = self.ledger.reconfigure(config, now);
        self.event(now, orders, |world, now| {
            world.allowance = world.open();
            world.config = config;
            world.note_breaker(now);
            world.begin_epoch();
            while world.live() > world.config.max_open && !world.idle.is_empty() {
                let coldest = world.idle.remove(0);
                world.begin_close(coldest, CloseReason::Surplus, now);
            }
            // The former limits do not count any more.
            world.connections.values_mut().for_each(|it| it.leaving = Leaving::No);
            world.retire_aged(now);
        });
    }

    pub(crate) fn close(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        let orders = self.ledger.close(now);
        self.event(now, orders, |world, now| {
            (world.closed, world.suspended) = (true, false);
            world.last_failure = None;
            world.close_idle(CloseReason::PoolClosed, now);
            world.queue.clear();
            for client in 0..world.clients.len() {
                let Client { want, state, .. } = &world.clients[client];
                if matches!(state, State::Waiting) && *want != Want::Rest {
                    world.notify(client, Outcome::Closed);
                }
            }
        });
    }

    pub(crate) fn suspend(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        let orders = self.ledger.set_suspended(true, now);
        self.event(now, orders, |world, _| world.suspended = !world.closed);
    }

    pub(crate) fn resume(&mut self, behind: Duration) {
        let now = self.read_clock(behind);
        let orders = self.ledger.set_suspended(false, now);
        self.event(now, orders, |world, _| world.suspended = false);
    }

    /// A client waits until a closed pool has nothing open.
    pub(crate) fn drain(&mut self, patience: Option<Duration>, behind: Duration) {
        if !self.closed {
            return;
        }
        let now = self.read_clock(behind);
        let client = self.clients.len();
        let slip = self.slips.give(client);
        let (ticket, orders) = self.ledger.drain(now, || slip);
        let deadline = patience.and_then(|patience| now.after(patience));
        self.clients.push(Client::new(Want::Rest, Some(ticket), deadline, State::Waiting));
        self.event(now, orders, |_, _| {});
    }

    /// Everything ends: calls that hang return, and connections come back. Then nobody may be left
    /// waiting. At last the pool is closed, and nothing may be left open.
    pub(crate) fn finish(mut self, refuses: bool) {
        self.hangs = Hangs { dials: 0, at_dialer: 0, closes: 0, upkeep: true };
        self.dials.values_mut().for_each(|dial| dial.hangs = false);
        self.at_dialer.iter_mut().for_each(|stay| stay.hangs = false);
        self.closes.iter_mut().for_each(|close| close.2 = false);
        self.come_to_rest(refuses);
        self.resume(Duration::ZERO);
        self.come_to_rest(refuses);

        let stranded: Vec<_> = self.waiting().collect();
        assert!(stranded.is_empty() || self.closed, "NO-STRANDED-WAITER: {stranded:?}");
        let stats = self.ledger.stats(self.now);
        let busy = (stats.in_use, stats.dialing, stats.closing, stats.waiting);
        assert_eq!(busy, (0, 0, 0, 0), "at rest: {stats}");
        assert!(stats.idle <= self.config.max_idle(), "at rest: {stats}");
        self.live_on();

        self.close(Duration::ZERO);
        self.drain(None, Duration::ZERO);
        self.come_to_rest(refuses);
        assert_eq!(self.waiting().count(), 0, "a drain of a closed pool ends");
        assert_eq!(self.ledger.stats(self.now).open(), 0, "a drained pool is empty");
        for (id, connection) in &self.connections {
            let place = connection.place;
            assert!(matches!(place, Place::Closed | Place::Kept), "{id} is left {place:?}");
        }
    }

    /// Nobody calls any more, and the server answers: upkeep alone does what time requires.
    fn live_on(&mut self) {
        for _ in 0..6 {
            let Some(alarm) = self.alarm.filter(|_| !self.closed) else { break };
            self.now = self.now.max(alarm);
            self.upkeep(Duration::ZERO);
            self.come_to_rest(false);
            let is_full = self.open() >= self.config.max_open;
            let is_paused = self.failures > 0 || self.replaces_at.is_some();
            assert!(is_full || is_paused || self.missing(Leaving::Yes) == 0, "min_idle");
        }
    }

    fn come_to_rest(&mut self, mut refuses: bool) {
        let zero = Duration::ZERO;
        loop {
            if !self.closes.is_empty() {
                self.closed(0, zero);
            } else if !self.at_dialer.is_empty() {
                self.back(0, true, zero);
            } else if self.clients.iter().any(|p| matches!(p.state, State::Holding(_))) {
                self.give_back(0, zero);
            } else if let Some(client) =
                self.pick_client(0, |p| matches!(p.state, State::HasVerdict(_)))
            {
                self.collect_of(client);
            } else if !self.dials.is_empty() && refuses {
                self.dial_failed(0, false, zero);
            } else if !self.dials.is_empty() {
                self.dialed(0, zero);
            } else if let Some(client) = self.pick_client(0, |p| matches!(p.state, State::Empty)) {
                self.ask(client, self.now);
            } else if self.queue.iter().any(|client| self.is_expired(*client, self.now)) {
                self.leave(0);
            } else if let Some(next) = self.next_retry() {
                // The server is back for the next attempt.
                refuses = false;
                self.wait(next.since(self.now));
            } else if let Some(next) = self.next_warm_up() {
                self.wait(next.since(self.now));
            } else {
                break;
            }
        }
        self.agree();
    }

    // ---- The outcome of an event ----------------------------------------------------------------

    fn event(&mut self, now: Moment, orders: LedgerEffects, what: impl FnOnce(&mut Self, Moment)) {
        self.orders = orders.into();
        self.expire(now);
        what(self, now);
        self.settle(now);
        self.appoint_watcher();
        self.forget_predicates();
        self.note_alarm(now);
        self.assert_all_expected();
        self.agree();
    }

    fn assert_all_expected(&self) {
        let Lists { wake, rare } = &self.orders;
        let RareEffects { dials, at_dialer, closes, breaker, .. } = rare;
        assert!(breaker.is_empty(), "told of for nothing: {breaker:?}");
        assert!(wake.is_empty(), "WAK-04: woken for nothing: {wake:?}");
        assert!(dials.is_empty(), "NO-DEMAND-NO-DIAL: {dials:?}");
        assert!(at_dialer.is_empty(), "sent to the dialer for nothing: {at_dialer:?}");
        assert!(closes.is_empty(), "closed for nothing: {closes:?}");
    }

    /// A predicate is needed while something older has not been judged by it.
    fn forget_predicates(&mut self) {
        let at_large = self.connections.values().filter(|connection| {
            !matches!(connection.place, Place::Closing | Place::Closed | Place::Kept)
        });
        let unjudged = at_large
            .map(|connection| connection.judged)
            .chain(self.dials.values().map(|dial| dial.judged))
            .min();
        let is_needed = |epoch: &u32| unjudged.is_some_and(|judged| judged < *epoch);
        let forgotten = self.predicates.iter().filter(|epoch| !is_needed(epoch)).max().copied();
        assert_eq!(
            self.orders.rare.judged, forgotten,
            "a predicate is kept as long as it is needed"
        );
        self.predicates.retain(is_needed);
    }

    /// Upkeep is ordered for the next change that time alone makes.
    fn note_alarm(&mut self, now: Moment) {
        let least = self.upkept_at.and_then(|last| last.after(UPKEEP_LEAST));
        if let Some(ordered) = self.orders.rare.alarm {
            assert!(!self.closed, "nothing of a closed pool is kept up");
            let is_lost = |before| now.since(before) >= UPKEEP_LEAST;
            let is_news = |before: Moment| ordered < before || is_lost(before);
            assert!(self.alarm.is_none_or(is_news), "ordered twice");
            assert!(least.is_none_or(|least| ordered >= least), "LIFE-09: upkeep without pause");
            self.alarm = Some(ordered);
        }
        if !self.closed {
            if let Some(due) = self.next_by_time(now) {
                // No alarm is in the past, even if the clock has run back.
                let due = due.max(self.latest).max(least.unwrap_or(due));
                let alarm = self.alarm;
                assert!(
                    alarm.is_some_and(|alarm| alarm <= due),
                    "nobody comes at {due:?}: {alarm:?}"
                );
            }
        }
    }

    /// When time alone will next change something, although nobody calls.
    fn next_by_time(&self, now: Moment) -> Option<Moment> {
        let aging = self.idle.iter().map(|idle| &self.connections[idle]).flat_map(|idle| {
            let is_noted = idle.leaving != Leaving::No;
            let leaves = if is_noted { None } else { self.leaves_at(idle, LEAD_LEAST) };
            let check = if self.keep_alives() > 0 { None } else { self.check_at(idle) };
            [self.ends_at(idle), leaves, check]
        });
        let is_missing =
            !self.suspended && self.missing(Leaving::Yes) > 0 && self.open() < self.config.max_open;
        // If it is past, something else than time is in the way.
        let fill = self.next_fill().filter(|at| is_missing && *at > now);
        // A job that hangs must not hold these up.
        let is_held_up = self.config.min_idle() > 0 || self.keep_alives() > 0;
        let job = self.next_job_due().filter(|_| is_held_up);
        // A connection in use may come to rest in a place.
        let Config { max_lifetime, max_idle_time, check_idle_every, .. } = self.config;
        let shortest = max_lifetime.min(max_idle_time).min(check_idle_every);
        let is_out = self.at(&[Place::Granted, Place::Lent]) > 0;
        let unseen = now.after(shortest).filter(|_| is_out);
        aging.chain([self.next_idled_out(), fill, job, unseen]).flatten().min()
    }

    /// When a job next overruns its time limit, or a caller may dial again: somebody must be awake then.
    fn next_due(&self) -> Option<Moment> {
        [self.next_job_due(), self.next_retry(), self.next_warm_up()].into_iter().flatten().min()
    }

    /// When a warm-up may dial, if one waits for that time.
    fn next_warm_up(&self) -> Option<Moment> {
        let warms = |client: &Client| {
            matches!(client, Client { want: Want::WarmUp(_), state: State::Waiting, .. })
        };
        self.replaces_at.filter(|_| self.clients.iter().any(warms))
    }

    fn next_job_due(&self) -> Option<Moment> {
        let dials = self.dials.values().filter(|dial| dial.counted).map(|dial| dial.deadline);
        let at_dialer =
            self.at_dialer.iter().filter(|a| a.written_off.is_none()).map(|stay| stay.deadline);
        let closings = self.closings.values().map(|(_, deadline)| *deadline);
        dials.chain(at_dialer).chain(closings).flatten().min()
    }

    /// The watcher wakes for that, or a sleeper is woken to become the watcher.
    fn appoint_watcher(&mut self) {
        let is_waiting = |client: &Client| matches!(client.state, State::Waiting);
        let to_tick = self.orders.wake.iter().find(|woken| is_waiting(&self.clients[**woken]));
        if let Some(client) = to_tick.copied() {
            assert!(self.next_due().is_some(), "WAK-04: client {client} is woken for nothing");
            assert!(matches!(self.clients[client].sleep, Sleep::Until(_)), "it is awake already");
            self.take_wake(client);
            self.clients[client].sleep = Sleep::Awake;
        }
        let Some(due) = self.next_due() else { return };
        let mut waiting = self.clients.iter().filter(|client| is_waiting(client)).peekable();
        let is_watched = waiting.peek().is_none()
            || waiting.any(|client| match client.sleep {
                Sleep::Awake => true,
                Sleep::Until(until) => until.is_some_and(|until| until <= due),
            });
        assert!(is_watched, "DEADLINE: nobody wakes at {due:?}");
    }

    fn take_wake(&mut self, client: usize) {
        let at = self.orders.wake.iter().position(|woken| *woken == client);
        let at = at.unwrap_or_else(|| panic!("client {client} is not woken"));
        self.orders.wake.remove(at);
    }

    fn expire(&mut self, now: Moment) {
        let is_due = |deadline: Option<Moment>| deadline.is_some_and(|deadline| deadline <= now);
        let overdue = self.dials.iter().filter(|(_, dial)| dial.counted && is_due(dial.deadline));
        // The latest failure is that of the dial that had the latest deadline.
        let overdue: BTreeSet<_> = overdue.map(|(id, dial)| (dial.deadline, *id)).collect();
        for (_, id) in overdue {
            let dial = self.dials.remove(&id).expect("just found");
            self.note_failure(id, &dial, Failure::Overdue(dial.bound), now);
            self.dials.insert(id, Dial { counted: false, ..dial });
        }
        for at in 0..self.at_dialer.len() {
            let AtDialer { id, purpose, connection, deadline, written_off, .. } =
                self.at_dialer[at];
            if written_off.is_none() && is_due(deadline) {
                self.at_dialer[at].written_off = Some(CloseReason::Late);
                self.totals.check_failed_total += u64::from(is_check(purpose));
                self.note_closing(id, connection, CloseReason::Late, now);
                self.connection(connection).place = Place::Overdue;
            }
        }
        self.replaces_at.take_if(|at| *at <= now);
        self.retire_aged(now);
        let overdue: Vec<_> =
            self.closings.iter().filter(|(_, c)| is_due(c.1)).map(|(id, _)| *id).collect();
        for id in overdue {
            let (connection, _) = self.closings.remove(&id).expect("just found");
            self.connection(connection).abandoned = true;
            self.totals.close_timeouts_total += 1;
        }
    }

    fn settle(&mut self, now: Moment) {
        if self.closed {
            if self.open() == 0 {
                for client in 0..self.clients.len() {
                    let Client { want, state, .. } = &self.clients[client];
                    if matches!(state, State::Waiting) && *want == Want::Rest {
                        self.notify(client, Outcome::Drained);
                    }
                }
            }
        } else {
            if !self.suspended {
                self.serve(now);
                self.revive(now);
                self.begin_dials(now);
                self.fill(now);
                self.refuse(now);
                if self.fail_hopeless() {
                    self.serve(now);
                    self.begin_dials(now);
                }
            }
            self.finish_warm_ups();
            while self.idle.len() > self.queue.len().max(self.config.max_idle() as usize) {
                self.close_surplus(now);
            }
            self.check_coldest(now);
        }
        self.allowance = self.allowance.min(self.open()).max(self.config.max_open);
    }

    fn serve(&mut self, now: Moment) {
        while let Some(&front) = self.queue.first() {
            if self.is_expired(front, now) {
                self.queue.remove(0);
                self.clients[front].state = State::HasVerdict(self.lateness(front));
                self.totals.timed_out_total += 1;
            } else if self.is_fresh(now) {
                self.queue.remove(0);
                let connection = self.take_idle().expect("something is idle");
                self.lend(connection, now);
                self.notify(front, Outcome::Granted(connection));
            } else if self.checks() < self.queue.len() && !self.idle.is_empty() {
                let stale = self.take_idle().expect("something is idle");
                self.send_to_dialer(Purpose::Check, stale, now);
            } else {
                break;
            }
        }
    }

    /// Says whether there are any.
    fn fail_hopeless(&mut self) -> bool {
        let fails_at_once = self.config.on_dial_failure == OnDialFailure::Fail;
        let is_hopeless = fails_at_once || self.busy() == 0;
        let before = self.queue.len();
        for client in self.queue.clone() {
            let failure = self.clients[client].failure.filter(|_| is_hopeless && !self.may_retry());
            if let Some(failure) = failure {
                self.queue.retain(|waiting| *waiting != client);
                self.notify(client, Outcome::Failed(failure));
            }
        }
        self.queue.len() < before
    }

    /// While dials fail, one caller at a time dials again. Once a dial has succeeded, all may.
    fn revive(&mut self, now: Moment) {
        let may_dial_again = self.may_retry() || self.config.breaker().is_some();
        if may_dial_again && self.failures == 0 {
            for client in &self.queue {
                self.clients[*client].failure = None;
            }
        } else if self.next_retry().is_some_and(|at| at <= now) {
            let failed = self.queue.iter().find(|client| self.clients[**client].failure.is_some());
            self.clients[*failed.expect("one waits to retry")].failure = None;
        }
    }

    /// Keeps `min_idle` connections idle. The World knows only bounds of how many are about to end.
    fn fill(&mut self, now: Moment) {
        let is_paused = self.next_fill().is_some_and(|at| at > now);
        let is_tried = self.failures > 0 && self.counted() > 0;
        let tries = if self.failures > 0 { 1 } else { u32::MAX };
        let most = if is_paused || is_tried { 0 } else { self.room(now).min(tries) };
        let least = most.min(self.missing(Leaving::Yes));
        let most = most.min(self.missing(Leaving::Perhaps));
        let dials = small(self.orders.rare.dials.len());
        assert!((least..=most).contains(&dials), "min_idle: {dials} dials, not {least} to {most}");
        for _ in 0..dials {
            self.begin_dial(None, now);
        }
    }

    /// While the breaker is open, callers who need a dial are refused at once, except the one that probes.
    fn refuse(&mut self, now: Moment) {
        let Some(failure) = self.last_failure else { return };
        if !self.is_breaker_open() || self.may_probe(now) {
            return;
        }
        for client in &self.queue {
            let Client { dial, failure: own, .. } = &mut self.clients[*client];
            if dial.is_none() && own.is_none() {
                *own = Some(failure);
            }
        }
        if self.counted() == 0 {
            for client in 0..self.clients.len() {
                let Client { want, state, .. } = &self.clients[client];
                if matches!((want, state), (Want::WarmUp(_), State::Waiting)) {
                    self.notify(client, Outcome::Failed(failure));
                }
            }
        }
    }

    /// A connection whose end is near, or else the coldest.
    fn close_surplus(&mut self, now: Moment) {
        let closes = &self.orders.rare.closes;
        let is_ordered = |idle: &u32| closes.iter().any(|order| order.connection == *idle);
        let at = self.idle.iter().position(is_ordered).expect("more are idle than max_idle");
        let any_leaves = self.idle.iter().any(|it| self.connections[it].leaving == Leaving::Yes);
        let leaves = self.connections[&self.idle[at]].leaving != Leaving::No;
        assert!(leaves || at == 0 && !any_leaves, "{} is not the one to go", self.idle[at]);
        let surplus = self.idle.remove(at);
        self.begin_close(surplus, CloseReason::Surplus, now);
    }

    /// Closes connections that have lived or been idle for too long, and marks those whose end is near.
    fn retire_aged(&mut self, now: Moment) {
        let is_by = |moment: Option<Moment>| moment.is_some_and(|moment| moment <= now);
        let has_ended = |idle: &u32| is_by(self.ends_at(&self.connections[idle]));
        let (ended, idle) = self.idle.iter().partition(|idle| has_ended(idle));
        self.idle = idle;
        let ended: Vec<u32> = ended;
        for connection in ended {
            self.begin_close(connection, CloseReason::Expired, now);
        }
        let lead_most = self.longest_dial.saturating_mul(2).max(LEAD_LEAST);
        for idle in self.idle.clone() {
            let connection = &self.connections[&idle];
            let leaving = if is_by(self.leaves_at(connection, LEAD_LEAST)) {
                Leaving::Yes
            } else if is_by(self.leaves_at(connection, lead_most)) {
                Leaving::Perhaps
            } else {
                continue;
            };
            if connection.leaving != Leaving::Yes {
                self.connection(idle).leaving = leaving;
            }
        }
        while is_by(self.next_idled_out()) {
            let coldest = self.idle.remove(0);
            self.begin_close(coldest, CloseReason::IdleTooLong, now);
            self.pruned_at = Some(now);
        }
    }

    /// Checks one idle connection at a time.
    fn check_coldest(&mut self, now: Moment) {
        if self.keep_alives() > 0 {
            return;
        }
        let is_due =
            |idle: &u32| self.check_at(&self.connections[idle]).is_some_and(|due| due <= now);
        if let Some(at) = self.idle.iter().position(is_due) {
            let connection = self.idle.remove(at);
            self.send_to_dialer(Purpose::KeepAlive, connection, now);
        }
    }

    fn begin_dials(&mut self, now: Moment) {
        loop {
            let wants = |client: &&usize| {
                let Client { dial, failure, .. } = &self.clients[**client];
                dial.is_none() && failure.is_none() && !self.is_expired(**client, now)
            };
            let sponsor = self.queue.iter().find(wants).copied();
            let Some(sponsor) = sponsor.filter(|_| self.coming() < self.unfailed()) else { break };
            if self.room(now) == 0 {
                break;
            }
            self.clients[sponsor].dial = Some(self.begin_dial(Some(sponsor), now));
        }
        let warm_ups = self.clients.iter().enumerate().filter_map(|(at, client)| match client {
            Client { want: Want::WarmUp(target), state: State::Waiting, .. } => Some((at, *target)),
            _ => None,
        });
        let Some((sponsor, target)) = warm_ups.max_by_key(|(_, target)| *target) else { return };
        if self.replaces_at.is_some() {
            return;
        }
        let coming = |world: &Self| world.idle.len() + world.busy() + world.counted();
        while coming(self) < target.min(self.config.max_idle()) as usize && self.room(now) > 0 {
            self.begin_dial(Some(sponsor), now);
        }
    }

    fn finish_warm_ups(&mut self) {
        for at in 0..self.clients.len() {
            let Client { want: Want::WarmUp(target), state: State::Waiting, .. } = self.clients[at]
            else {
                continue;
            };
            if self.idle.len() + self.busy() >= target.min(self.config.max_idle()) as usize {
                self.notify(at, Outcome::Warm);
            }
        }
    }

    fn begin_dial(&mut self, sponsor: Option<usize>, now: Moment) -> JobId {
        assert!(!self.orders.rare.dials.is_empty(), "NO-STRANDED-WAITER: no dial for {sponsor:?}");
        let DialOrder { id, deadline, .. } = self.orders.rare.dials.remove(0);
        assert_eq!(deadline, now.after(self.config.dial_timeout));
        let hangs = self.hangs_next(0, self.hangs.dials);
        let dial = Dial {
            sponsor,
            began: now,
            generation: self.generation,
            judged: self.epoch,
            deadline,
            bound: Overdue::Limit(self.config.dial_timeout),
            counted: true,
            hangs,
        };
        assert!(self.dials.insert(id, dial).is_none(), "each job has its own name");
        self.totals.dials_total += 1;
        id
    }

    /// The dial is written off.
    fn part(&mut self, id: JobId, sponsor: Option<usize>) {
        if let Some(sponsor) = sponsor.map(|sponsor| &mut self.clients[sponsor]) {
            sponsor.dial = sponsor.dial.filter(|dial| *dial != id);
        }
    }

    fn note_failure(&mut self, id: JobId, dial: &Dial, failure: Failure, now: Moment) {
        self.last_failure = Some(failure);
        if dial.counted {
            (self.failures, self.failed_at) = (self.failures + 1, Some(now));
            self.note_breaker(now);
        }
        let Some(client) = dial.sponsor else { return };
        let sponsor = &mut self.clients[client];
        if sponsor.dial == Some(id) {
            sponsor.dial = None;
            sponsor.failure = Some(failure);
        }
        let is_warm_up = matches!(sponsor.want, Want::WarmUp(_));
        if is_warm_up && dial.counted && matches!(sponsor.state, State::Waiting) {
            self.notify(client, Outcome::Failed(failure));
        }
    }

    /// The observer is told of a breaker that opens or closes.
    fn note_breaker(&mut self, now: Moment) {
        let turn = match (self.open_since, self.is_breaker_open()) {
            (None, true) => {
                self.open_since = Some(now);
                self.totals.breaker_opened_total += 1;
                BreakerTurn::Opened { failures: self.failures }
            }
            (Some(since), false) => {
                self.open_since = None;
                BreakerTurn::Closed { open_for: now.since(since) }
            }
            _ => return,
        };
        assert!(!self.orders.rare.breaker.is_empty(), "nobody is told: {turn:?}");
        assert_eq!(self.orders.rare.breaker.remove(0), turn);
    }

    /// A client gets its verdict, and is woken.
    fn notify(&mut self, client: usize, outcome: Outcome) {
        self.take_wake(client);
        if let Outcome::Granted(_) = outcome {
            let earlier =
                self.queue.iter().find(|p| self.clients[**p].ticket < self.clients[client].ticket);
            assert_eq!(earlier, None, "LATE-BINDING: the longest-waiting caller is served first");
        }
        if let Outcome::Failed(_) = outcome {
            let may_wait = self.config.on_dial_failure != OnDialFailure::Fail;
            let is_caller = self.clients[client].want == Want::Connection;
            assert!(
                !is_caller || !may_wait || self.busy() == 0,
                "REASON: a return could have served {client}"
            );
        }
        let Client { state, dial, failure, .. } = &mut self.clients[client];
        assert!(matches!(state, State::Waiting), "two verdicts for client {client}");
        *state = State::HasVerdict(outcome);
        (*dial, *failure) = (None, None);
    }

    fn lend(&mut self, connection: u32, now: Moment) {
        assert!(!self.suspended, "lent although the pool is suspended");
        let end = self.ends_at(&self.connections[&connection]);
        assert!(end.is_none_or(|end| end > now), "LIFE-03: lent beyond its life");
        let generation = self.generation;
        let lent = self.connection(connection);
        (lent.place, lent.loans) = (Place::Granted, lent.loans + 1);
        assert_eq!(lent.generation, generation, "SHUT-12: nothing older than the flush is lent");
        let judged = lent.judged;
        assert!(self.predicates.last() <= Some(&judged), "lent before it was judged");
        let lent = self.connection(connection);
        let reused = lent.reused;
        self.totals.lent_total += 1;
        self.totals.reused_total += u64::from(reused);
    }

    fn hold(&mut self, client: usize, ticket: Ticket, entry: Entry<u32>) {
        let lent = self.connection(entry.connection);
        assert_eq!(lent.place, Place::Granted, "nobody else holds it");
        lent.place = Place::Lent;
        assert_eq!(entry.is_reused(), lent.reused);
        let Client { ticket: own, state, .. } = &mut self.clients[client];
        (*own, *state) = (Some(ticket), State::Holding(entry));
    }

    fn admit(&mut self, connection: u32, now: Moment) {
        // Until it is somewhere again it counts nowhere.
        self.connection(connection).place = Place::Kept;
        let surplus = self.live() >= self.config.max_open;
        if self.closed {
            self.begin_close(connection, CloseReason::PoolClosed, now);
        } else if self.connections[&connection].generation != self.generation {
            self.begin_close(connection, CloseReason::Flushed, now);
        } else if self.ends_at(&self.connections[&connection]).is_some_and(|end| end <= now) {
            self.begin_close(connection, CloseReason::Expired, now);
        } else if self
            .config
            .max_uses
            .is_some_and(|most| self.connections[&connection].loans >= most)
        {
            self.begin_close(connection, CloseReason::UsedUp, now);
        } else if surplus {
            self.begin_close(connection, CloseReason::Surplus, now);
        } else if self.predicates.last() > Some(&self.connections[&connection].judged) {
            let since = self.connections[&connection].judged;
            self.send_to_dialer(Purpose::Judge { since, until: self.epoch }, connection, now);
        } else {
            let epoch = self.epoch;
            let idle = self.connection(connection);
            (idle.place, idle.judged, idle.leaving) = (Place::Idle, epoch, Leaving::No);
            self.idle.push(connection);
            // With a clock that is behind, it may have come to rest before others.
            self.idle.sort_by_key(|idle| self.connections[idle].idle_since);
        }
    }

    fn lateness(&self, client: usize) -> Outcome {
        let failure = self.clients[client].failure.or(self.last_failure);
        if self.suspended { Outcome::Suspended(failure) } else { Outcome::Late(failure) }
    }

    fn begin_epoch(&mut self) {
        self.epoch += 1;
        for connection in self.idle.clone() {
            self.connection(connection).judged = self.epoch;
        }
    }

    fn send_to_dialer(&mut self, purpose: Purpose, connection: u32, now: Moment) {
        let at_dialer = &mut self.orders.rare.at_dialer;
        let at = at_dialer.iter().position(|order| order.entry.connection == connection);
        let at =
            at.unwrap_or_else(|| panic!("{connection} is not sent to the dialer for {purpose:?}"));
        let AtDialerOrder { id, purpose: ordered, entry, deadline } = at_dialer.remove(at);
        // A predicate has no limit of time.
        let limit =
            Some(self.config.check_timeout).filter(|_| !matches!(purpose, Purpose::Judge { .. }));
        assert_eq!((ordered, deadline), (purpose, limit.and_then(|limit| now.after(limit))));
        self.connection(connection).place = Place::AtDialer;
        let hangs = self.hangs_next(1, self.hangs.at_dialer);
        let entry = Some(entry);
        self.at_dialer.push(AtDialer {
            id,
            purpose,
            connection,
            deadline,
            entry,
            written_off: None,
            hangs,
        });
    }

    fn begin_close(&mut self, connection: u32, reason: CloseReason, now: Moment) {
        if reason.casts_doubt() {
            self.doubted_at = Some(now);
        }
        let age = now.since(self.connections[&connection].opened_at);
        let has_aged = matches!(reason, CloseReason::Expired | CloseReason::IdleTooLong);
        if has_aged && age < UPKEEP_LEAST {
            self.replaces_at = now.after(UPKEEP_LEAST);
        }
        let id = self.take_close(connection, reason, now);
        self.note_closing(id, connection, reason, now);
    }

    fn note_closing(&mut self, id: JobId, connection: u32, reason: CloseReason, now: Moment) {
        *self.retired_by.entry(reason).or_default() += 1;
        self.totals.retired_total += 1;
        let due = now.after(self.config.close_timeout);
        assert!(self.closings.insert(id, (connection, due)).is_none());
    }

    fn take_close(&mut self, connection: u32, reason: CloseReason, now: Moment) -> JobId {
        let closes = &mut self.orders.rare.closes;
        let at = closes.iter().position(|order| order.connection == connection);
        let at = at.unwrap_or_else(|| panic!("{connection} is not closed"));
        let order = closes.remove(at);
        let age = now.since(self.connection(connection).opened_at);
        assert_eq!((order.reason, order.age), (reason, age), "why {connection} is closed");
        let hangs = self.hangs_next(2, self.hangs.closes);
        let place = &mut self.connection(connection).place;
        assert!(!matches!(place, Place::Closing | Place::Closed), "closed exactly once");
        *place = Place::Closing;
        self.closes.push((order.id, connection, hangs));
        order.id
    }

    fn close_idle(&mut self, reason: CloseReason, now: Moment) {
        for connection in std::mem::take(&mut self.idle) {
            self.begin_close(connection, reason, now);
        }
    }

    // ---- Sums, and what must be true of them ---------------------------------------------------

    fn at(&self, places: &[Place]) -> usize {
        self.connections.values().filter(|c| places.contains(&c.place)).count()
    }

    fn busy(&self) -> usize {
        self.at(&[Place::Granted, Place::Lent, Place::AtDialer])
    }

    fn live(&self) -> u32 {
        small(self.idle.len() + self.busy() + self.dials.len())
    }

    fn open(&self) -> u32 {
        self.live() + small(self.closings.len())
    }

    fn checks(&self) -> usize {
        let counts = |a: &&AtDialer| a.purpose != Purpose::Reset && a.written_off.is_none();
        self.at_dialer.iter().filter(counts).count()
    }

    fn keep_alives(&self) -> usize {
        let counts = |a: &&AtDialer| a.purpose == Purpose::KeepAlive && a.written_off.is_none();
        self.at_dialer.iter().filter(counts).count()
    }

    fn counted(&self) -> usize {
        self.dials.values().filter(|dial| dial.counted).count()
    }

    fn coming(&self) -> usize {
        self.counted() + self.checks()
    }

    fn unfailed(&self) -> usize {
        self.queue.iter().filter(|client| self.clients[**client].failure.is_none()).count()
    }

    fn room(&self, now: Moment) -> u32 {
        let dials = self.config.max_dialing();
        let slots = self.config.max_open.saturating_sub(self.open());
        let tries = match self.config.breaker() {
            Some(_) if self.failures > 0 => u32::from(self.may_probe(now)),
            _ => u32::MAX,
        };
        slots.min(dials.saturating_sub(small(self.dials.len()))).min(tries)
    }

    // ---- Outages -------------------------------------------------------------------------------

    fn is_breaker_open(&self) -> bool {
        self.config.breaker().is_some_and(|breaker| self.failures >= breaker.failures())
    }

    fn may_retry(&self) -> bool {
        matches!(self.config.on_dial_failure, OnDialFailure::Retry(_)) && !self.is_breaker_open()
    }

    /// Whether the breaker lets a dial begin while dials fail.
    fn may_probe(&self, now: Moment) -> bool {
        self.counted() == 0 && self.next_probe().is_none_or(|next| next <= now)
    }

    fn next_probe(&self) -> Option<Moment> {
        let breaker = self.config.breaker().filter(|_| self.is_breaker_open())?;
        let failed_at = self.failed_at?;
        Some(failed_at.after(breaker.probe_every()).unwrap_or_else(|| far_future(failed_at)))
    }

    /// When the first caller whose dial has failed may dial again, if one waits for that alone.
    fn next_retry(&self) -> Option<Moment> {
        let mut callers = self.queue.iter().map(|client| &self.clients[*client]);
        let is_tried = self.counted() > 0
            || callers.clone().any(|caller| caller.dial.is_none() && caller.failure.is_none());
        let is_wanted = !self.suspended && callers.any(|caller| caller.failure.is_some());
        match self.config.on_dial_failure {
            _ if is_tried || !is_wanted => None,
            // Nobody else may come to probe.
            _ if self.is_breaker_open() => {
                self.next_probe().filter(|_| self.open() < self.config.max_open)
            }
            OnDialFailure::Retry(backoff) => self.pause_ends(backoff),
            _ => None,
        }
    }

    /// The pause doubles with each failure, and is shortened by up to a half.
    fn pause_ends(&self, backoff: Backoff) -> Option<Moment> {
        let half = backoff.pause(self.failures) / 2;
        self.failed_at?.after(half + self.spread.fraction(u64::from(self.failures)).of(half))
    }

    /// When a dial for `min_idle` may begin; `None` is at once.
    fn next_fill(&self) -> Option<Moment> {
        let pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        self.pause_ends(pauses).max(self.next_probe()).max(self.replaces_at)
    }

    /// How many connections `min_idle` lacks, without those that are leaving with at least this certainty.
    fn missing(&self, least: Leaving) -> u32 {
        let stays = |idle: &&u32| match self.connections[*idle].leaving {
            Leaving::No => true,
            Leaving::Perhaps => least == Leaving::Yes,
            Leaving::Yes => false,
        };
        let staying = self.idle.iter().filter(stays).count();
        let coming = staying + self.counted() + self.at(&[Place::AtDialer]);
        self.config.min_idle().saturating_sub(small(coming.saturating_sub(self.queue.len())))
    }

    // ---- Ages ----------------------------------------------------------------------------------

    fn lifetime(&self, connection: &Connection) -> Option<Duration> {
        let Config { max_lifetime, lifetime_jitter, .. } = self.config;
        let jitter = lifetime_jitter.unwrap_or(max_lifetime / 10).min(max_lifetime);
        (max_lifetime < Duration::MAX).then(|| max_lifetime - connection.fraction.of(jitter))
    }

    fn ends_at(&self, connection: &Connection) -> Option<Moment> {
        connection.opened_at.after(self.lifetime(connection)?)
    }

    fn leaves_at(&self, connection: &Connection, lead: Duration) -> Option<Moment> {
        let lifetime = self.lifetime(connection).filter(|_| self.config.min_idle() > 0)?;
        connection.opened_at.after(lifetime - lead.min(lifetime / 4))
    }

    /// Checks come within the last tenth of the interval, so that not all come at once.
    fn check_at(&self, connection: &Connection) -> Option<Moment> {
        let every = self.config.check_idle_every.max(UPKEEP_LEAST);
        let after = every - connection.fraction.of(every / 10);
        connection.proven_at.after(after).filter(|_| every < Duration::MAX)
    }

    fn next_idled_out(&self) -> Option<Moment> {
        let coldest = self.idle.first().filter(|_| small(self.idle.len()) > self.config.min_idle());
        let at = self.connections[coldest?].idle_since.after(self.config.max_idle_time)?;
        let Config { prune_every, max_idle_time, .. } = self.config;
        let pause = prune_every.min(max_idle_time).max(UPKEEP_LEAST);
        let pruned_at = self.pruned_at.filter(|_| !prune_every.is_zero());
        pruned_at.map_or(Some(at), |pruned_at| Some(at.max(pruned_at.after(pause)?)))
    }

    fn is_queue_full(&self, now: Moment) -> bool {
        let can_serve = self.coming() + self.idle.len() + self.room(now) as usize;
        let can_serve = if self.suspended { 0 } else { can_serve };
        let most = self.config.max_waiting.map(|most| most as usize + can_serve);
        most.is_some_and(|most| self.queue.len() >= most)
    }

    fn is_expired(&self, client: usize, now: Moment) -> bool {
        self.clients[client].deadline.is_some_and(|deadline| deadline <= now)
    }

    fn is_fresh(&self, now: Moment) -> bool {
        let Some(next) = self.next_idle() else { return false };
        let proven_at = self.connections[&self.idle[next]].proven_at;
        now.since(proven_at) <= self.config.check_after
            && self.doubted_at.is_none_or(|doubted_at| proven_at >= doubted_at)
    }

    /// The callers and warm-ups without a verdict.
    fn waiting(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| matches!(client.state, State::Waiting))
    }

    /// Asserts that the ledger's numbers are the World's, and that the promises hold.
    fn agree(&self) {
        let now = self.now;
        let open_since = self.open_since.filter(|_| !self.closed);
        let actual = self.ledger.stats(now);
        let expected = Stats {
            max_open: self.config.max_open,
            idle: small(self.at(&[Place::Idle])),
            in_use: small(self.busy()),
            dialing: small(self.dials.len()),
            closing: small(self.closings.len()),
            waiting: small(self.queue.len()),
            overdue: small(
                self.dials.values().filter(|d| d.deadline.is_some_and(|at| at <= now)).count(),
            ),
            failing_dials: if self.closed { 0 } else { self.failures },
            breaker_open_for: open_since.map(|since| now.since(since)),
            // The World does not measure it: `promises` shows who waits how long.
            wait_time_total: actual.wait_time_total,
            retired_by: actual.retired_by,
            ..self.totals
        };
        assert_eq!(actual, expected, "the books balance");
        for (reason, total) in actual.retired_by.iter() {
            assert_eq!(total, self.retired_by.get(&reason).copied().unwrap_or(0), "{reason}");
        }
        let retired_by: u64 = actual.retired_by.iter().map(|(_, total)| total).sum();
        assert_eq!(retired_by, expected.retired_total, "each is retired for one reason");
        assert_eq!(self.ledger.last_failure(), self.last_failure);
        let Stats { dials_total, dialed_total, dial_failed_total, dialing, .. } = expected;
        assert_eq!(dials_total, dialed_total + dial_failed_total + u64::from(dialing));

        let alive = self.connections.values().filter(|connection| {
            !matches!(connection.place, Place::Closed | Place::Kept) && !connection.abandoned
        });
        let at_the_driver = small(alive.count() + self.dials.len());
        assert_eq!(at_the_driver, expected.open(), "each connection is in exactly one state");
        assert!(at_the_driver <= self.allowance, "BOUND: {at_the_driver} > {}", self.allowance);

        if self.closed {
            assert!(self.idle.is_empty() && self.queue.is_empty(), "closed, and at rest");
        }
        if self.suspended {
            return; // Free connections are left over, until it is resumed.
        }
        let queue = || self.queue.iter().filter(|client| !self.is_expired(**client, self.latest));
        let waiting = queue().count();
        let unfailed = queue().filter(|client| self.clients[**client].failure.is_none()).count();
        if waiting > 0 {
            let enough = self.idle.is_empty() || self.checks() >= waiting;
            assert!(enough, "NO-STRANDED-WAITER: {} idle, {waiting} wait", self.idle.len());
        }
        let enough = self.room(self.latest) == 0 || self.coming() >= unfailed;
        assert!(enough, "NO-STRANDED-WAITER: a slot is free, {unfailed} wait");
        let holds_failure = |client: &&usize| self.clients[**client].failure.is_some();
        let is_hopeless = self.busy() == 0 && !self.may_retry();
        let hopeless = self.queue.iter().find(holds_failure).filter(|_| is_hopeless);
        assert_eq!(hopeless, None, "REASON: waits although nothing can come");
    }

    // ---- Picking -------------------------------------------------------------------------------

    fn connection(&mut self, connection: u32) -> &mut Connection {
        self.connections.get_mut(&connection).expect("a connection is known once it is open")
    }

    fn take_idle(&mut self) -> Option<u32> {
        self.next_idle().map(|at| self.idle.remove(at))
    }

    /// The idle connection that is lent next.
    fn next_idle(&self) -> Option<usize> {
        match self.config.idle_order {
            IdleOrder::Lifo => self.idle.len().checked_sub(1),
            IdleOrder::Fifo => (!self.idle.is_empty()).then_some(0),
        }
    }

    fn pick_client(&self, pick: usize, is_able: impl Fn(&Client) -> bool) -> Option<usize> {
        let able: Vec<_> = (0..self.clients.len()).filter(|p| is_able(&self.clients[*p])).collect();
        choose(&able, pick)
    }

    fn pick_dial(&self, pick: usize) -> Option<JobId> {
        let able: Vec<_> = self.dials.iter().filter(|(_, d)| !d.hangs).map(|(id, _)| *id).collect();
        choose(&able, pick)
    }

    fn take_held(&mut self, pick: usize, then: State) -> Option<Entry<u32>> {
        let needs_place = matches!(then, State::Empty);
        let client = self.pick_client(pick, |p| {
            matches!(p.state, State::Holding(_)) && (p.ticket.is_some() || !needs_place)
        })?;
        let State::Holding(entry) = std::mem::replace(&mut self.clients[client].state, then) else {
            unreachable!("just picked as a holder")
        };
        // Until it is somewhere again it counts nowhere.
        self.connection(entry.connection).place = Place::Kept;
        Some(entry)
    }

    fn hangs_next(&mut self, kind: usize, pattern: u64) -> bool {
        self.jobs[kind] += 1;
        pattern >> (self.jobs[kind] % 64) & 1 == 1
    }
}

fn name(verdict: &Verdict<u32, Failure>) -> Outcome {
    match verdict {
        Verdict::Granted(entry) => Outcome::Granted(entry.connection),
        Verdict::Failed(failure) => Outcome::Failed(*failure),
        Verdict::Late(failure) => Outcome::Late(*failure),
        Verdict::Suspended(failure) => Outcome::Suspended(*failure),
        Verdict::Closed => Outcome::Closed,
        Verdict::Cancelled => Outcome::Cancelled,
        Verdict::Warm => Outcome::Warm,
        Verdict::Drained => Outcome::Drained,
    }
}

fn is_check(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Check | Purpose::KeepAlive)
}

fn choose<T: Copy>(able: &[T], pick: usize) -> Option<T> {
    (!able.is_empty()).then(|| able[pick % able.len()])
}

fn small(count: usize) -> u32 {
    u32::try_from(count).expect("a test has few of anything")
}
