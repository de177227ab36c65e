//! Simulated hours with every feature on, with a scripted load, server and clock, random but seeded.
//!
//! The test records what the server and the callers see, and compares it with the ledger throughout. At
//! the end every connection is accounted for.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Backoff, Breaker, Config, DialRule, OnDialFailure};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::{
    AtDialerOrder, CloseOrder, DialOrder, Effects, Entry, Ledger, Purpose, RareEffects, Reply,
    Ticket, UPKEEP_LEAST, Verdict,
};
use crate::runtime::moment::Moment;
use crate::slips::{Lists, Slip, Slips};
use crate::world::Failure;

const HOUR: Duration = Duration::from_secs(60 * 60);
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Upkeep comes late by at most this.
const LATENESS: Duration = Duration::from_millis(20);

type PoolLedger = Ledger<u32, Failure, Slip<u32, Failure>>;
type LedgerEffects = Effects<u32, Failure, Slip<u32, Failure>>;

#[derive(Debug)]
enum Item {
    Arrive,
    /// Woken by the ledger, or by the timer of the sleep with this number.
    Wake(u32, Option<u32>),
    Return(u32),
    DialEnds(DialOrder<Slip<u32, Failure>>, bool),
    BackFromDialer(AtDialerOrder<u32>),
    CloseEnds(CloseOrder<u32>),
    Upkeep(Moment),
    Change,
    Resume,
    ServerGoes,
    ServerComes,
}

/// A caller or a warm-up.
#[derive(Debug)]
struct Caller {
    ticket: Option<Ticket>,
    since: Moment,
    deadline: Option<Moment>,
    is_waiting: bool,
    holds: Option<Entry<u32>>,
    /// How many connections a warm-up wants open; 0 for a caller.
    target: u32,
    sleeps: u32,
}

/// An open connection as the server knows it, and since when it has been idle.
#[derive(Debug)]
struct Connection {
    opened_at: Moment,
    rests_since: Moment,
    is_at_dialer: bool,
    /// When its slot may be freed although it is open, as its close, check or reset hangs.
    slot_until: Option<Moment>,
}

/// How often each kind of event has happened, to assert that all do.
#[derive(Debug, Default)]
struct Seen {
    unseen_loans: u32,
    keep_alives: u32,
    failed: u32,
    late: u32,
    cancelled: u32,
    refilled: u32,
    reasons: BTreeMap<String, u32>,
}

struct Soak {
    ledger: PoolLedger,
    slips: Slips<u32, Failure>,
    now: Moment,
    end: Moment,
    random: u64,
    agenda: BTreeMap<(Moment, u64), Item>,
    /// Items on the agenda that are not upkeep.
    pending: u32,
    numbers: u64,
    /// Callers who wait or hold a connection.
    callers: BTreeMap<u32, Caller>,
    arrived: u32,
    verdicts: u32,
    connections: BTreeMap<u32, Connection>,
    dialing: u32,
    opened: u32,
    closed: u32,
    detached: u32,
    is_away: bool,
    /// When `min_idle` was last fulfilled as far as the server allowed.
    complete_at: Moment,
    /// When the server last went or came back, or the settings changed.
    changed_at: Moment,
    /// When a connection was last closed that had been idle for too long.
    pruned_at: Option<Moment>,
    allowance: u32,
    alarm: Option<Moment>,
    /// Connections in the places; `None`: the gate is shut.
    places: Option<Vec<Entry<u32>>>,
    seen: Seen,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let now = Moment::from(std::time::Instant::now()) + 1_000_000 * SECOND;
        let mut random = seed;
        let config = config(&mut random);
        let mut soak = Self {
            ledger: Ledger::new(config, seed),
            slips: Slips::default(),
            now,
            end: now + HOUR,
            random,
            agenda: BTreeMap::new(),
            pending: 0,
            numbers: 0,
            callers: BTreeMap::new(),
            arrived: 0,
            verdicts: 0,
            connections: BTreeMap::new(),
            dialing: 0,
            opened: 0,
            closed: 0,
            detached: 0,
            is_away: false,
            complete_at: now,
            changed_at: now,
            pruned_at: None,
            allowance: config.max_open,
            alarm: None,
            places: None,
            seen: Seen::default(),
        };
        soak.put(Duration::ZERO, Item::Arrive);
        soak.put(5 * SECOND, Item::Change);
        soak.put(60 * SECOND, Item::ServerGoes);
        soak
    }

    // ---- The clock -----------------------------------------------------------------------------

    fn put(&mut self, after: Duration, item: Item) {
        self.numbers += 1;
        self.pending += u32::from(!matches!(item, Item::Upkeep(_)));
        self.agenda.insert((self.now + after, self.numbers), item);
    }

    fn random(&mut self, sides: u64) -> u64 {
        next(&mut self.random) % sides
    }

    /// At least this, and at most twice as much.
    fn about(&mut self, least: Duration) -> Duration {
        least + least.mul_f64(self.random(1000) as f64 / 1000.0)
    }

    /// Runs until nothing is under way and nobody comes.
    fn run(&mut self) {
        while self.pending > 0 {
            let ((at, _), item) = self.agenda.pop_first().expect("something is pending");
            self.pending -= u32::from(!matches!(item, Item::Upkeep(_)));
            self.now = self.now.max(at);
            match item {
                Item::Arrive => self.arrive(),
                Item::Wake(caller, sleep) => self.wake(caller, sleep),
                Item::Return(caller) => self.come_back(caller),
                Item::DialEnds(order, succeeds) => self.dial_ends(&order, succeeds),
                Item::BackFromDialer(order) => self.back_from_dialer(order),
                Item::CloseEnds(order) => self.close_ends(&order),
                Item::Upkeep(alarm) if self.alarm == Some(alarm) => {
                    self.alarm = None;
                    self.event(Ledger::upkeep);
                }
                Item::Upkeep(_) => {}
                Item::Change => self.change(),
                Item::Resume => self.event(|ledger, now| ledger.set_suspended(false, now)),
                Item::ServerGoes => self.go(true),
                Item::ServerComes => self.go(false),
            }
            self.compare();
        }
    }

    fn is_over(&self) -> bool {
        self.now >= self.end
    }

    fn go(&mut self, away: bool) {
        (self.is_away, self.changed_at) = (away, self.now);
        if away {
            let outage = self.about(3 * SECOND) * (1 + self.random(4) as u32);
            self.put(outage, Item::ServerComes);
        } else if !self.is_over() {
            let up = self.about(60 * SECOND);
            self.put(up, Item::ServerGoes);
        }
    }

    // ---- The ledger and its places -------------------------------------------------------------

    fn event(&mut self, event: impl FnOnce(&mut PoolLedger, Moment) -> LedgerEffects) {
        for entry in self.places.take().into_iter().flatten() {
            self.ledger.take_from_place(entry);
        }
        let orders = event(&mut self.ledger, self.now);
        if self.ledger.may_lay_out_until(self.now).is_some() && self.random(3) > 0 {
            let mut places = Vec::new();
            while places.len() < 8 {
                let Some(entry) = self.ledger.lay_out(self.now) else { break };
                places.push(entry);
            }
            self.places = Some(places);
        }
        self.allowance = self.ledger.config().max_open.max(self.allowance.min(self.open()));
        self.carry_out(orders);
    }

    fn may_rest_in_place(&self, entry: &Entry<u32>) -> bool {
        entry.epoch == self.ledger.epoch() && self.now < entry.expires
    }

    /// Takes a connection from a place, without the ledger.
    fn take_from_place(&mut self) -> Option<Entry<u32>> {
        let entry = self.places.as_mut()?.pop()?;
        let Config { check_after, max_idle_time, .. } = *self.ledger.config();
        let is_fresh = self.now.since(entry.idle_since()) <= check_after.min(max_idle_time);
        if !is_fresh || !self.may_rest_in_place(&entry) {
            self.event(|ledger, now| {
                ledger.take_from_place(entry);
                ledger.tick(now)
            });
            return None;
        }
        entry.record().count_loan();
        self.seen.unseen_loans += 1;
        Some(entry)
    }

    fn carry_out(&mut self, orders: LedgerEffects) {
        let Lists { wake, rare } = orders.into();
        let RareEffects { dials, at_dialer, closes, alarm, .. } = rare;
        for caller in wake {
            let after = Duration::from_micros(self.random(200));
            self.put(after, Item::Wake(caller, None));
        }
        if let Some(alarm) = alarm {
            self.alarm = Some(alarm);
            let late = LATENESS.mul_f64(self.random(100) as f64 / 100.0);
            self.put(alarm.since(self.now) + late, Item::Upkeep(alarm));
        }
        let waiting = self.callers.values().filter(|caller| caller.is_waiting);
        let demand: u32 = waiting.map(|caller| caller.target.max(1)).sum();
        let most = demand + self.ledger.config().min_idle();
        assert!(dials.len() as u32 <= most, "NO-DEMAND-NO-DIAL: {} for {demand}", dials.len());
        self.seen.refilled += u32::from(demand == 0 && !dials.is_empty());
        for order in dials {
            self.dialing += 1;
            let (away, luck) = (self.is_away, self.random(1000));
            let takes = match luck {
                0..5 => 30 * SECOND,
                5..100 if away => 4 * SECOND,
                _ => (2 + luck as u32 % 60) * MILLISECOND,
            };
            let takes = self.about(takes);
            self.put(takes, Item::DialEnds(order, !away && luck % 50 > 0));
        }
        for order in at_dialer {
            self.seen.keep_alives += u32::from(order.purpose == Purpose::KeepAlive);
            let limit = self.ledger.config().close_timeout;
            let connection = self.connection(order.entry.connection);
            connection.is_at_dialer = true;
            connection.slot_until = order.deadline.map(|deadline| deadline + limit);
            let takes = match self.random(100) {
                _ if matches!(order.purpose, Purpose::Judge { .. }) => Duration::ZERO,
                0 => self.about(4 * SECOND),
                _ => self.about(MILLISECOND),
            };
            self.put(takes, Item::BackFromDialer(order));
        }
        for order in closes {
            self.begin_close(&order);
            let hangs = self.random(100) == 0;
            let takes = self.about(if hangs { 4 * SECOND } else { MILLISECOND / 2 });
            self.put(takes, Item::CloseEnds(order));
        }
    }

    fn begin_close(&mut self, order: &CloseOrder<u32>) {
        *self.seen.reasons.entry(order.reason.to_string()).or_default() += 1;
        let (now, changed_at) = (self.now, self.changed_at);
        let Config { max_lifetime, max_idle_time, prune_every, close_timeout, min_idle, .. } =
            *self.ledger.config();
        let is_pruned = order.reason == CloseReason::IdleTooLong;
        let pruned_at = if is_pruned { self.pruned_at.replace(now) } else { None };
        let pruned_at = pruned_at.filter(|_| !prune_every.is_zero());
        let step = pruned_at.map_or(Moment::FIRST, |pruned_at| pruned_at + prune_every);
        assert!(now >= step, "two closes without a step between: {order:?}");
        let connection = self.connection(order.connection);
        let until = now + close_timeout;
        connection.slot_until = Some(connection.slot_until.map_or(until, |at| at.min(until)));
        // No alarm is lost: idle connections end in time, as far as that is visible from outside.
        let due = match order.reason {
            CloseReason::Expired => connection.opened_at + max_lifetime,
            CloseReason::IdleTooLong if min_idle == 0 => {
                step.max(connection.rests_since + max_idle_time)
            }
            _ => return,
        };
        let late = now.since(due.max(connection.rests_since).max(changed_at));
        assert!(late <= 100 * MILLISECOND + 2 * LATENESS, "{late:?} late: {order:?}");
    }

    // ---- The server ----------------------------------------------------------------------------

    fn connection(&mut self, connection: u32) -> &mut Connection {
        self.connections.get_mut(&connection).expect("it is open")
    }

    fn dial_ends(&mut self, order: &DialOrder<Slip<u32, Failure>>, succeeds: bool) {
        self.dialing -= 1;
        if !succeeds {
            self.seen.failed += 1;
            return self.event(|ledger, now| {
                ledger.dial_failed(order.id, Failure::Of(order.id), false, now)
            });
        }
        self.opened += 1;
        let (connection, now) = (self.opened, self.now);
        let opened =
            Connection { opened_at: now, rests_since: now, is_at_dialer: false, slot_until: None };
        self.connections.insert(connection, opened);
        self.event(|ledger, now| ledger.dialed(order.id, connection, None, Duration::MAX, now));
    }

    fn back_from_dialer(&mut self, order: AtDialerOrder<u32>) {
        let is_sound = self.random(20) > 0 && !self.is_away;
        let (now, is_late) = (self.now, order.deadline.is_some_and(|at| at <= self.now));
        let connection = self.connection(order.entry.connection);
        // A connection that is written off is closed in its slot.
        (connection.is_at_dialer, connection.rests_since) = (false, now);
        connection.slot_until = connection.slot_until.filter(|_| is_late);
        let fault = (!is_sound).then(|| order.purpose.fault());
        self.event(|ledger, now| ledger.back_from_dialer(order.id, order.entry, fault, now));
    }

    fn close_ends(&mut self, order: &CloseOrder<u32>) {
        self.connections.remove(&order.connection).expect("closed exactly once");
        self.closed += 1;
        self.event(|ledger, now| ledger.closed(order.id, now));
    }

    // ---- Callers -------------------------------------------------------------------------------

    fn arrive(&mut self) {
        if !self.is_over() {
            let pause = match self.random(1000) {
                0 => self.about(30 * SECOND), // The load goes away for a while.
                1..300 => Duration::ZERO,
                _ => self.about(80 * MILLISECOND),
            };
            self.put(pause, Item::Arrive);
            self.call();
        }
    }

    /// A caller asks for a connection.
    fn call(&mut self) {
        let patience =
            [Some(20 * MILLISECOND), Some(SECOND), Some(5 * SECOND), Some(30 * SECOND), None]
                [self.random(5) as usize];
        let caller = self.newcomer(patience, 0);
        match self.take_from_place() {
            Some(entry) => self.lend(caller, entry),
            None => self.ask(caller, None),
        }
    }

    fn newcomer(&mut self, patience: Option<Duration>, target: u32) -> u32 {
        self.arrived += 1;
        let caller = Caller {
            ticket: None,
            since: self.now,
            deadline: patience.map(|patience| self.now + patience),
            is_waiting: true,
            holds: None,
            target,
            sleeps: 0,
        };
        self.callers.insert(self.arrived, caller);
        self.arrived
    }

    fn caller(&mut self, caller: u32) -> &mut Caller {
        self.callers.get_mut(&caller).expect("it has come")
    }

    fn ask(&mut self, id: u32, place: Option<Ticket>) {
        let caller = self.caller(id);
        caller.is_waiting = true;
        let (since, deadline) = (caller.since, caller.deadline);
        let mut answer = None;
        let slip = self.slips.give(id);
        self.event(|ledger, now| {
            let (request, orders) = ledger.request(place, since, deadline, now, || slip);
            answer = Some(request);
            orders
        });
        match answer.expect("the ledger answers") {
            Reply::Granted(ticket, entry) => {
                self.caller(id).ticket = Some(ticket);
                self.lend(id, entry);
            }
            Reply::Queued(ticket) => {
                self.caller(id).ticket = Some(ticket);
                self.wait_on(id);
            }
            Reply::Refused(_) => self.turn_away(id),
        }
    }

    /// The caller collects its verdict, or else sleeps.
    fn wait_on(&mut self, id: u32) {
        let Caller { ticket, deadline, .. } = *self.caller(id);
        let ticket = ticket.expect("who waits has a ticket");
        let mut verdict = self.slips.collect(id);
        let woken = self.slips.woken;
        self.event(|ledger, now| {
            ledger.note_woken(woken);
            let is_late = deadline.is_some_and(|deadline| deadline <= now);
            if verdict.is_none() && is_late {
                let (left, orders) = ledger.leave(ticket, now, |_| ());
                verdict = left.map(|(verdict, ())| verdict);
                orders
            } else {
                ledger.tick(now)
            }
        });
        let verdict = verdict.or_else(|| self.slips.collect(id));
        match verdict {
            Some(Verdict::Granted(entry)) => self.lend(id, entry),
            Some(verdict) => {
                self.seen.late += u32::from(matches!(verdict, Verdict::Late(_)));
                self.seen.cancelled += u32::from(matches!(verdict, Verdict::Cancelled));
                self.turn_away(id);
            }
            None => {
                let until = self.ledger.sleep(ticket, deadline);
                let caller = self.caller(id);
                caller.sleeps += 1;
                let sleep = caller.sleeps;
                if let Some(until) = until {
                    let after = until.since(self.now);
                    self.put(after, Item::Wake(id, Some(sleep)));
                }
            }
        }
    }

    fn wake(&mut self, id: u32, sleep: Option<u32>) {
        let is_timer = sleep.is_some();
        let Some(Caller { is_waiting: true, sleeps, .. }) = self.callers.get(&id) else { return };
        if sleep.is_some_and(|sleep| sleep != *sleeps) {
            return;
        }
        if is_timer {
            self.event(Ledger::tick);
        }
        self.wait_on(id);
    }

    fn note_verdict(&mut self, id: u32) {
        let caller = self.caller(id);
        assert!(caller.is_waiting, "has a verdict although it does not wait: {caller:?}");
        caller.is_waiting = false;
        self.verdicts += 1;
    }

    fn turn_away(&mut self, id: u32) {
        self.note_verdict(id);
        self.callers.remove(&id);
    }

    fn lend(&mut self, id: u32, entry: Entry<u32>) {
        self.note_verdict(id);
        let lifetime = self.ledger.config().max_lifetime;
        let age = entry.age(self.now);
        assert!(age < lifetime.saturating_add(MILLISECOND), "LIFE-03: {age:?} of {lifetime:?}");
        let ticket = self.caller(id).ticket;
        if ticket.is_some() && self.random(100) == 0 {
            // The connection is broken: the caller keeps its place in the queue.
            self.verdicts -= 1;
            self.event(|ledger, now| ledger.retire(entry, CloseReason::Broken, now));
            return self.ask(id, ticket);
        }
        let entry = entry;
        self.caller(id).holds = Some(entry);
        let hold = match self.random(1000) {
            0 => 20 * SECOND,
            1..50 => SECOND,
            _ => 20 * MILLISECOND,
        };
        let hold = self.about(hold);
        self.put(hold, Item::Return(id));
    }

    fn come_back(&mut self, id: u32) {
        let caller = self.callers.remove(&id).expect("who holds a connection is there");
        let mut entry = caller.holds.expect("it holds a connection");
        let now = self.now;
        self.connection(entry.connection).rests_since = now;
        match self.random(100) {
            dice @ 0..3 => {
                let reasons = [CloseReason::Discarded, CloseReason::Panicked, CloseReason::Broken];
                self.event(|ledger, now| ledger.retire(entry, reasons[dice as usize], now));
            }
            3 => {
                self.connections.remove(&entry.connection).expect("detached once");
                self.detached += 1;
                self.event(|ledger, now| ledger.detach(entry, now).1);
            }
            4..15 => self.event(|ledger, now| ledger.give_back_for_reset(entry, now)),
            _ if self.places.is_some() && self.may_rest_in_place(&entry) => {
                entry.come_to_rest(now);
                let expires = entry.expires;
                let places = self.places.as_mut().expect("just looked");
                places.push(entry);
                let upkeep = self.alarm.map_or(Moment::LAST, |at| at - UPKEEP_LEAST);
                if expires < upkeep {
                    self.event(Ledger::tick);
                }
            }
            _ => self.event(|ledger, now| ledger.give_back(entry, now)),
        }
    }

    // ---- Control -------------------------------------------------------------------------------

    fn change(&mut self) {
        if self.is_over() {
            return;
        }
        let pause = self.about(4 * SECOND);
        self.put(pause, Item::Change);
        match self.random(16) {
            0 => {
                let until = self.now + self.ledger.config().close_timeout;
                for connection in self.connections.values_mut().filter(|it| it.is_at_dialer) {
                    let before = connection.slot_until.unwrap_or(until);
                    connection.slot_until = Some(before.min(until));
                }
                self.event(Ledger::flush);
            }
            1 => self.event(|ledger, now| ledger.retire_where(now).1),
            2 => {
                self.event(|ledger, now| ledger.set_suspended(true, now));
                let pause = self.about(SECOND);
                self.put(pause, Item::Resume);
            }
            3..5 => {
                let config = config(&mut self.random);
                self.changed_at = self.now;
                self.allowance = config.max_open.max(self.open());
                self.event(|ledger, now| ledger.reconfigure(config, now));
            }
            5..7 => {
                let target = self.random(8) as u32;
                let caller = self.newcomer(Some(5 * SECOND), target);
                let mut ticket = None;
                let slip = self.slips.give(caller);
                self.event(|ledger, now| {
                    let (given, orders) = ledger.warm_up(target, now, || slip);
                    ticket = Some(given);
                    orders
                });
                self.caller(caller).ticket = ticket;
                self.wait_on(caller);
            }
            7..9 => {
                for _ in 0..30 {
                    self.call();
                }
            }
            _ => {
                let waiting = self.callers.values().find(|it| it.is_waiting && it.target == 0);
                if let Some(ticket) = waiting.and_then(|caller| caller.ticket) {
                    self.event(|ledger, now| ledger.cancel(ticket, now));
                }
            }
        }
    }

    // ---- Invariants ---------------------------------------------------------------------

    fn open(&self) -> u32 {
        self.ledger.stats(self.now).open()
    }

    fn compare(&mut self) {
        let stats = self.ledger.stats(self.now);
        let has_slot = |it: &&Connection| it.slot_until.is_none_or(|until| until > self.now);
        let open = self.connections.values().filter(has_slot).count() as u32 + self.dialing;
        assert!(open <= self.allowance, "BOUND: the server sees {open} of {}", self.allowance);
        let alive = self.connections.len() as u32 + self.dialing;
        assert!((open..=alive).contains(&stats.open()), "{open} to {alive}: {stats}");
        // While the server answers, `min_idle` is fulfilled within the longest pause.
        let resting = stats.idle + self.places.as_ref().map_or(0, |places| places.len() as u32);
        let is_full = stats.open() >= stats.max_open;
        let is_coming = stats.dialing > 0 || stats.in_use > 0 || stats.waiting > 0;
        let may_lack = self.is_away || self.ledger.is_suspended() || self.ledger.is_closed();
        let least = self.ledger.config().min_idle();
        if resting >= least || is_full || is_coming || may_lack {
            self.complete_at = self.now;
        }
        assert!(self.now - self.complete_at <= 11 * SECOND, "min_idle {least}: {stats}");
    }

    /// The load has ended. Everyone has had one verdict, and nothing is left over or missing.
    fn finish(mut self) -> Seen {
        self.event(Ledger::tick);
        self.run();
        assert!(self.callers.is_empty(), "NO-STRANDED-WAITER: {:?}", self.callers);
        assert_eq!(self.verdicts, self.arrived, "each gets exactly one verdict");
        self.places
            .take()
            .into_iter()
            .flatten()
            .for_each(|entry| self.ledger.take_from_place(entry));
        let stats = self.ledger.stats(self.now);
        assert_eq!(self.opened, self.closed + self.detached + stats.idle, "{stats}");
        assert_eq!((stats.open(), stats.waiting), (stats.idle, 0), "{stats}");

        self.event(Ledger::close);
        let caller = self.newcomer(None, 0);
        let mut ticket = None;
        let slip = self.slips.give(caller);
        self.event(|ledger, now| {
            let (given, orders) = ledger.drain(now, || slip);
            ticket = Some(given);
            orders
        });
        self.caller(caller).ticket = ticket;
        self.wait_on(caller);
        self.run();
        assert!(self.callers.is_empty(), "a drained pool says so");
        let stats = self.ledger.stats(self.now);
        assert_eq!((stats.open(), self.opened), (0, self.closed + self.detached), "{stats}");
        assert_eq!(stats.dialed_total, u64::from(self.opened));
        assert_eq!(stats.dial_failed_total, u64::from(self.seen.failed));
        assert_eq!(stats.detached_total, u64::from(self.detached));
        self.seen
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Settings under which every kind of event happens within about a minute.
fn config(random: &mut u64) -> Config {
    let mut dice = |sides: u64| (next(random) % sides) as u32;
    let backoff = Backoff::new(10 * MILLISECOND, SECOND);
    let max_open = 1 + dice(12);
    Config {
        max_open,
        max_idle: (dice(2) == 0).then(|| dice(12).min(max_open)),
        max_dialing: (dice(3) == 0).then(|| 1 + dice(4).min(max_open - 1)),
        max_waiting: (dice(3) == 0).then(|| dice(20)),
        min_idle: dice(5),
        max_lifetime: [20 * SECOND, 60 * SECOND, HOUR][dice(3) as usize],
        lifetime_jitter: (dice(2) == 0).then_some(10 * SECOND),
        max_idle_time: [2 * SECOND, 15 * SECOND, HOUR][dice(3) as usize],
        prune_every: [Duration::ZERO, SECOND][dice(2) as usize],
        check_idle_every: [3 * SECOND, 10 * SECOND, Duration::MAX][dice(3) as usize],
        on_dial_failure: [
            OnDialFailure::AwaitReturn,
            OnDialFailure::Fail,
            OnDialFailure::Retry(backoff),
        ][dice(3) as usize],
        breaker: (dice(2) == 0).then(|| Breaker::new(1 + dice(4), 200 * MILLISECOND)).into(),
        dial_rule: [DialRule::Adaptive, DialRule::Eager][dice(2) as usize],
        dial_timeout: [SECOND, 20 * SECOND][dice(2) as usize],
        bypass: [Duration::ZERO, Config::default().bypass][dice(2) as usize],
        check_after: [100 * MILLISECOND, SECOND, HOUR][dice(3) as usize],
        check_timeout: SECOND,
        close_timeout: SECOND,
        ..Config::default()
    }
}

#[test]
fn hours_of_everything_balance_to_the_last_connection() {
    for seed in 1..=6 {
        let mut soak = Soak::new(seed);
        soak.run();
        let (arrived, dials) = (soak.arrived, soak.opened);
        let seen = soak.finish();
        assert!(arrived > 10_000 && dials > 500, "{arrived} callers, {dials} dials");
        let Seen { unseen_loans, keep_alives, failed, late, cancelled, refilled, reasons } = &seen;
        let counts = [*unseen_loans, *keep_alives, *failed, *late, *cancelled, *refilled];
        assert!(counts.iter().all(|count| *count > 10), "each happens: {seen:?}");
        assert!(reasons.len() >= 10, "each happens: {seen:?}");
    }
}
