//! `Keys`: several real ledgers under one real budget, with scripted callers, servers and places.
//!
//! Keys knows beside them who waits for a slot and since when, and which connections are idle and since
//! when. After each event it checks the promises that hold among keys against that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::Config;
use crate::ledger::budget::{Allowance, Budget, BudgetAction, BudgetOrder, MemberId, Report};
use crate::ledger::close_reason::CloseReason;
use crate::ledger::effects::JobId;
use crate::ledger::lease::Lease;
use crate::ledger::{
    AtDialerOrder, BudgetAccess, CloseOrder, Effects, Entry, Ledger, RareEffects, Refusal, Reply,
    Share, Ticket, Verdict,
};
use crate::runtime::moment::Moment;
use crate::slips::{Lists, Slip, Slips};
use crate::world::Failure;

type KeyLedger = Ledger<u32, Failure, Slip<usize, Failure>>;
type LedgerEffects = Effects<u32, Failure, Slip<usize, Failure>>;

/// A budget behind a lock, as in the shell.
pub(crate) struct Common(Mutex<Budget>);

impl Common {
    pub(crate) fn new(max_open: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Budget::new(max_open))))
    }

    pub(crate) fn visit<T>(&self, visit: impl FnOnce(&mut Budget) -> T) -> T {
        visit(&mut self.0.lock().unwrap())
    }

    /// Changes the bound as the shell does. The orders must be delivered.
    pub(crate) fn resize(&self, max_open: u32, now: Moment) -> Vec<BudgetOrder> {
        let mut orders = Vec::new();
        self.visit(|budget| {
            budget.resize(max_open);
            budget.note_time(now);
            budget.issue_orders(&mut orders);
        });
        orders
    }

    /// Changes what the quota allows, as the shell does. The orders must be delivered.
    pub(crate) fn allow(&self, allowance: Allowance, now: Moment) -> Vec<BudgetOrder> {
        let mut orders = Vec::new();
        self.visit(|budget| {
            budget.set_allowance(allowance);
            budget.note_time(now);
            budget.issue_orders(&mut orders);
        });
        orders
    }

    /// Reports idle connections beyond `max_idle`, as the shell does.
    pub(crate) fn trim(&self, at_rest: u32, max_idle: u32, now: Moment) -> Vec<BudgetOrder> {
        let mut orders = Vec::new();
        self.visit(|budget| {
            let ordered = budget.evictions_ordered() - budget.evicted_total();
            let left = at_rest.saturating_sub(u32::try_from(ordered).unwrap());
            if left > max_idle {
                budget.note_surplus(left - max_idle);
                budget.note_time(now);
                budget.issue_orders(&mut orders);
            }
        });
        orders
    }

    /// Takes back an order whose member has gone.
    pub(crate) fn take_back(&self, order: BudgetOrder, now: Moment) -> Vec<BudgetOrder> {
        let mut orders = Vec::new();
        self.visit(|budget| {
            let report = match order.action {
                BudgetAction::Grant => Report { freed: 1, granted: 1, ..Report::default() },
                BudgetAction::Evict { most, .. } => Report { refused: most, ..Report::default() },
            };
            budget.note_report(order.to, report);
            budget.note_time(now);
            budget.issue_orders(&mut orders);
        });
        orders
    }

    /// Everything that the budget keeps, without its totals, for the tests of what is left.
    pub(crate) fn contents(&self) -> String {
        let contents = self.visit(|budget| format!("{budget:?}"));
        contents.split("evicted_total").next().expect("there is a first part").to_owned()
    }
}

impl BudgetAccess for Common {
    fn with_budget(&self, visit: &mut dyn FnMut(&mut Budget)) {
        visit(&mut self.0.lock().unwrap());
    }
}

/// When orders from key to key are delivered, and by what clock things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Before anything else happens, and the clock never runs back. Then Keys knows each decision among
    /// keys exactly.
    AtOnce,
    /// At any time and in any order, as if threads were held up.
    Late,
}

/// The settings with which a history of keys begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) keys: usize,
    pub(crate) each: Config,
    pub(crate) max_open_total: u32,
    pub(crate) max_idle_total: Option<u32>,
    /// How many places each key has, for connections that are laid out.
    pub(crate) places: usize,
    pub(crate) delivery: Delivery,
}

impl Setting {
    pub(crate) fn is_prompt(&self) -> bool {
        self.delivery == Delivery::AtOnce
    }
}

/// A ledger, from the first use of its key until nothing is left of it.
struct Member {
    key: usize,
    /// `None`: it has been dropped, and orders to it find nobody.
    ledger: Option<KeyLedger>,
    /// `None`: the gate is shut.
    places: Option<Places>,
    alarm: Option<Moment>,
    /// Since when its first caller without a dial has waited, and how many slots it lacks, as Keys knows.
    want: Option<(Moment, u32)>,
    /// Whether it has been granted a slot, and nothing has happened to it since.
    is_granted: bool,
    /// How many of its callers have woken up to a connection.
    woken: u64,
}

struct Places {
    epoch: u32,
    until: Moment,
    at_rest: Vec<Entry<u32>>,
}

#[derive(Debug)]
struct Caller {
    member: usize,
    ticket: Option<Ticket>,
    since: Moment,
    deadline: Option<Moment>,
    /// How many connections a warm-up wants open.
    target: Option<u32>,
    state: State,
    /// The dial that was begun for it, while it is counted on.
    dial: Option<JobId>,
    has_failed: bool,
    sleep: Sleep,
}

#[derive(Debug)]
enum State {
    /// In the queue. If orders may be late, it may have left the queue without knowing.
    Waiting,
    /// Out of the queue, and has yet to check its connection.
    HasVerdict(Verdict<u32, Failure>),
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
    place: Place,
    idle_since: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the ledger or in a place. If orders are late, perhaps granted.
    AtRest,
    Out,
    Closing,
    /// Or detached.
    Ended,
}

struct Dial {
    member: usize,
    id: JobId,
    lease: u64,
    is_counted: bool,
}

struct AtDialer {
    member: usize,
    order: AtDialerOrder<u32>,
    is_counted: bool,
}

struct Close {
    member: usize,
    id: JobId,
    connection: u32,
    makes_room: bool,
}

pub(crate) struct Keys {
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
    is_closed: bool,
    slips: Slips<usize, Failure>,
    members: Vec<Member>,
    /// The members that the keys have now.
    current: Vec<Option<usize>>,
    callers: Vec<Caller>,
    connections: BTreeMap<u32, Connection>,
    dials: Vec<Dial>,
    at_dialer: Vec<AtDialer>,
    closes: Vec<Close>,
    /// Orders on their way.
    orders: Vec<BudgetOrder>,
    /// Members that have reported that nothing is left of them.
    vacant: Vec<usize>,
    evicted: u32,
}

impl Keys {
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
            is_closed: false,
            slips: Slips::default(),
            members: Vec::new(),
            current: vec![None; keys],
            callers: Vec::new(),
            connections: BTreeMap::new(),
            dials: Vec::new(),
            at_dialer: Vec::new(),
            closes: Vec::new(),
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

    fn is_prompt(&self) -> bool {
        self.setting.is_prompt()
    }

    /// Says whether there was anything to trim.
    fn trim(&mut self) -> bool {
        let Some(max_idle) = self.setting.max_idle_total else { return false };
        let at_rest = self.connections.values().filter(|it| it.place == Place::AtRest).count();
        let orders = self.common.trim(small(at_rest), max_idle, self.now);
        let is_trimmed = !orders.is_empty();
        self.orders.extend(orders);
        is_trimmed
    }

    /// Delivers what follows at once from an event.
    fn follow(&mut self) {
        while self.is_prompt() && (self.trim() || self.follow_up()) {}
    }

    fn follow_up(&mut self) -> bool {
        if !self.orders.is_empty() {
            self.deliver(self.orders.len() - 1);
        } else if let Some(caller) = self.pick(0, |it| matches!(it.state, State::HasVerdict(_))) {
            self.collect_of(caller);
        } else if !self.vacant.is_empty() {
            self.close_if_vacant(0);
        } else {
            return false;
        }
        true
    }

    // ---- Callers -------------------------------------------------------------------------------

    pub(crate) fn request(&mut self, key: usize, patience: Option<Duration>) {
        self.ask_those_who_have_closed(key);
        let member = self.member(key);
        let deadline = patience.and_then(|patience| self.clock().after(patience));
        self.callers.push(Caller::new(member, self.clock(), deadline, None));
        let caller = self.callers.len() - 1;
        match self.take_from_place(member) {
            Some(entry) => self.lend(caller, None, entry),
            None => self.ask(caller),
        }
    }

    /// KEY-02: a caller who found a key's ledger before it closed is refused, and asks another.
    fn ask_those_who_have_closed(&mut self, key: usize) {
        for member in 0..self.members.len() {
            let is_left = self.members[member].key == key && self.current[key] != Some(member);
            if is_left && self.members[member].ledger.is_some() {
                let now = self.open(member);
                let (answer, effects) = self.ledger(member).request(None, now, None, now, || {
                    unreachable!("nobody waits for what is closed")
                });
                assert!(matches!(answer, Reply::Refused(Refusal::Closed)), "KEY-02: {answer:?}");
                self.note(member, now, effects);
            }
        }
    }

    fn ask(&mut self, caller: usize) {
        let Caller { member, ticket: place, since, deadline, .. } = self.callers[caller];
        let now = self.open(member);
        let slip = self.slips.give(caller);
        let (answer, effects) = self.ledger(member).request(place, since, deadline, now, || slip);
        let it = &mut self.callers[caller];
        (it.dial, it.has_failed, it.state) = (None, false, State::Gone);
        match answer {
            Reply::Granted(ticket, entry) => self.lend(caller, Some(ticket), entry),
            Reply::Queued(ticket) => {
                let it = &mut self.callers[caller];
                (it.ticket, it.state, it.sleep) = (Some(ticket), State::Waiting, Sleep::Awake);
            }
            Reply::Refused(refusal) => {
                let is_late = deadline.is_some_and(|deadline| deadline <= now);
                assert!(refusal != Refusal::TooLate || is_late);
                let has_closed = self.is_closed || !self.current.contains(&Some(member));
                assert_eq!(refusal == Refusal::Closed, has_closed, "KEY-02");
            }
        }
        self.note(member, now, effects);
    }

    pub(crate) fn rejoin(&mut self, pick: usize) {
        if let Some(caller) = self.pick(pick, |it| matches!(it.state, State::Empty)) {
            // Its ledger may have closed meanwhile.
            match self.members[self.callers[caller].member].ledger {
                Some(_) => self.ask(caller),
                None => self.callers[caller].state = State::Gone,
            }
        }
    }

    pub(crate) fn try_request(&mut self, key: usize) {
        let Some(member) = self.current[key] else { return };
        let now = self.open(member);
        let (answer, effects) = self.ledger(member).try_request(now);
        if let Ok(Some(entry)) = answer {
            self.callers.push(Caller::new(member, now, None, None));
            self.lend(self.callers.len() - 1, None, entry);
        }
        self.note(member, now, effects);
    }

    pub(crate) fn warm_up(&mut self, key: usize, target: u32, patience: Option<Duration>) {
        let member = self.member(key);
        let now = self.open(member);
        let caller = self.callers.len();
        let slip = self.slips.give(caller);
        // As in the shell.
        let target =
            target.min(self.setting.max_idle_total.unwrap_or(u32::MAX)).min(self.max_open_total);
        let (ticket, effects) = self.ledger(member).warm_up(target, now, || slip);
        let deadline = patience.and_then(|patience| now.after(patience));
        self.callers.push(Caller::new(member, now, deadline, Some(target)));
        let it = &mut self.callers[caller];
        (it.ticket, it.state) = (Some(ticket), State::Waiting);
        self.note(member, now, effects);
    }

    /// A caller wakes, for a reason or for none, and sleeps again if it has to.
    pub(crate) fn collect(&mut self, pick: usize) {
        if let Some(caller) = self.pick(pick, |it| matches!(it.state, State::Waiting)) {
            self.collect_of(caller);
        }
    }

    fn collect_of(&mut self, caller: usize) {
        let Caller { member, ticket, deadline, .. } = self.callers[caller];
        let ticket = ticket.expect("who waits has a ticket");
        if self.members[member].ledger.is_none() {
            let verdict = self.collect_verdict(caller);
            assert!(!matches!(verdict, None | Some(Verdict::Granted(_))), "KEY-02: {verdict:?}");
            self.callers[caller].state = State::Gone;
            return;
        }
        let now = self.open(member);
        let verdict = match std::mem::replace(&mut self.callers[caller].state, State::Gone) {
            State::HasVerdict(verdict) => Some(verdict),
            _ => self.collect_verdict(caller),
        };
        let is_late = deadline.is_some_and(|deadline| deadline <= now);
        match verdict {
            Some(Verdict::Granted(entry)) if self.ledger(member).has_overstayed(&entry, now) => {
                self.callers[caller].state = State::Empty;
                let effects = self.ledger(member).retire(entry, CloseReason::LeaseEnded, now);
                self.note(member, now, effects);
            }
            Some(Verdict::Granted(entry)) => {
                self.lend(caller, Some(ticket), entry);
                let effects = self.ledger(member).tick(now);
                self.note(member, now, effects);
            }
            Some(_) => self.end_event(member, now),
            None if is_late => {
                let (left, effects) = self.ledger(member).leave(ticket, now, |_| ());
                if left.is_none() {
                    self.callers[caller].state = State::Waiting;
                }
                self.note(member, now, effects);
            }
            None => {
                let until = self.ledger(member).sleep(ticket, deadline);
                let it = &mut self.callers[caller];
                (it.state, it.sleep) = (State::Waiting, Sleep::Until(until));
                self.end_event(member, now);
            }
        }
    }

    /// Collects a caller's verdict. The caller counts as woken if it was asleep.
    fn collect_verdict(&mut self, caller: usize) -> Option<Verdict<u32, Failure>> {
        let member = self.callers[caller].member;
        let before = self.slips.woken;
        let verdict = self.slips.collect(caller);
        self.members[member].woken += self.slips.woken - before;
        let woken = self.members[member].woken;
        if let Some(ledger) = &mut self.members[member].ledger {
            ledger.note_woken(woken);
        }
        verdict
    }

    pub(crate) fn cancel(&mut self, pick: usize) {
        let may_be = |it: &Caller| matches!(it.state, State::Waiting) && it.target.is_none();
        let Some(caller) = self.pick(pick, may_be) else { return };
        let Caller { member, ticket, .. } = self.callers[caller];
        if self.members[member].ledger.is_none() {
            // The key's ledger may have closed before, which gave every caller a verdict.
            assert!(self.slips.has_verdict(caller), "KEY-02: closed with somebody in it");
            return;
        }
        let ticket = ticket.expect("who waits has a ticket");
        self.event(member, |ledger, now| ledger.cancel(ticket, now));
    }

    fn lend(&mut self, caller: usize, ticket: Option<Ticket>, entry: Entry<u32>) {
        let lease = self.connection(entry.connection).lease;
        assert_eq!(lease, self.lease.number, "FLEET-03: opened under another lease");
        assert!(self.clock() < self.lease.until, "FLEET-03: lent after the lease has ended");
        self.connection(entry.connection).place = Place::Out;
        let it = &mut self.callers[caller];
        (it.ticket, it.state) = (ticket, State::Holding(entry));
    }

    // ---- Connections ---------------------------------------------------------------------------

    /// Takes a connection from a place without the ledger, if the gate is open and one there is fresh.
    fn take_from_place(&mut self, member: usize) -> Option<Entry<u32>> {
        let now = self.clock();
        let entry = self.gate(member, now)?.at_rest.pop()?;
        let Config { check_after, max_idle_time, .. } = self.setting.each;
        let is_fresh = now.since(entry.idle_since()) <= check_after.min(max_idle_time);
        if !is_fresh || !self.may_rest_in_place(member, &entry, now) {
            self.event(member, |ledger, now| {
                ledger.take_from_place(entry);
                ledger.tick(now)
            });
            return None;
        }
        entry.record().count_loan();
        Some(entry)
    }

    fn gate(&mut self, member: usize, now: Moment) -> Option<&mut Places> {
        let places = self.members[member].places.as_mut()?;
        (now <= places.until).then_some(places)
    }

    fn may_rest_in_place(&mut self, member: usize, entry: &Entry<u32>, now: Moment) -> bool {
        let gate = self.gate(member, now);
        gate.is_some_and(|it| it.epoch == entry.epoch) && now < entry.expires
    }

    pub(crate) fn give_back(&mut self, pick: usize) {
        let Some((member, mut entry)) = self.take_held(pick, State::Gone) else { return };
        let now = self.clock();
        let connection = self.connection(entry.connection);
        (connection.place, connection.idle_since) = (Place::AtRest, now);
        let most = self.setting.places;
        let may_rest = self.may_rest_in_place(member, &entry, now);
        match self.gate(member, now).filter(|it| may_rest && it.at_rest.len() < most) {
            Some(places) => {
                entry.come_to_rest(now);
                entry.record().let_go();
                places.at_rest.push(entry);
            }
            None => self.event(member, |ledger, now| ledger.give_back(entry, now)),
        }
    }

    /// The connection is broken. If it was just granted, its caller may ask again with the same ticket.
    pub(crate) fn retire(&mut self, pick: usize, to_rejoin: bool) {
        let then = if to_rejoin { State::Empty } else { State::Gone };
        let Some((member, entry)) = self.take_held(pick, then) else { return };
        let reason = if to_rejoin { CloseReason::Broken } else { CloseReason::Discarded };
        self.event(member, |ledger, now| ledger.retire(entry, reason, now));
    }

    pub(crate) fn detach(&mut self, pick: usize) {
        let Some((member, entry)) = self.take_held(pick, State::Gone) else { return };
        self.connection(entry.connection).place = Place::Ended;
        self.event(member, |ledger, now| ledger.detach(entry, now).1);
    }

    fn take_held(&mut self, pick: usize, then: State) -> Option<(usize, Entry<u32>)> {
        let needs_place = matches!(then, State::Empty);
        let caller = self.pick(pick, |it| {
            matches!(it.state, State::Holding(_)) && (it.ticket.is_some() || !needs_place)
        })?;
        let it = &mut self.callers[caller];
        match std::mem::replace(&mut it.state, then) {
            State::Holding(entry) => Some((it.member, entry)),
            _ => unreachable!("just picked as a holder"),
        }
    }

    pub(crate) fn dialed(&mut self, pick: usize) {
        let Some(at) = choose(self.dials.len(), pick) else { return };
        let Dial { member, id, lease, .. } = self.dials.remove(at);
        self.part(member, id, false);
        let number = small(self.connections.len()) + 1;
        let (place, idle_since) = (Place::AtRest, self.clock());
        let connection = Connection { member, lease, place, idle_since };
        self.connections.insert(number, connection);
        self.event(member, |ledger, now| ledger.dialed(id, number, None, Duration::MAX, now));
    }

    pub(crate) fn dial_failed(&mut self, pick: usize) {
        let Some(at) = choose(self.dials.len(), pick) else { return };
        let Dial { member, id, .. } = self.dials.remove(at);
        self.part(member, id, true);
        self.event(member, |ledger, now| ledger.dial_failed(id, Failure::Of(id), false, now));
    }

    /// The dial has ended, or is written off.
    fn part(&mut self, member: usize, dial: JobId, has_failed: bool) {
        let is_sponsor = |it: &&mut Caller| it.member == member && it.dial == Some(dial);
        for it in self.callers.iter_mut().filter(is_sponsor) {
            (it.dial, it.has_failed) = (None, has_failed);
        }
    }

    pub(crate) fn back(&mut self, pick: usize, is_sound: bool) {
        let Some(at) = choose(self.at_dialer.len(), pick) else { return };
        let AtDialer { member, order: AtDialerOrder { id, entry, purpose, .. }, .. } =
            self.at_dialer.remove(at);
        self.connection(entry.connection).place = Place::AtRest;
        self.event(member, |ledger, now| {
            ledger.back_from_dialer(id, entry, (!is_sound).then(|| purpose.fault()), now)
        });
    }

    /// A close has returned.
    pub(crate) fn closed(&mut self, pick: usize) {
        let Some(at) = choose(self.closes.len(), pick) else { return };
        let Close { member, id, connection, .. } = self.closes.remove(at);
        self.connection(connection).place = Place::Ended;
        self.event(member, |ledger, now| ledger.closed(id, now));
    }

    // ---- Control -------------------------------------------------------------------------------

    pub(crate) fn tick(&mut self, key: usize) {
        if let Some(member) = self.current[key] {
            self.event(member, Ledger::tick);
        }
    }

    pub(crate) fn flush(&mut self, key: usize) {
        let Some(member) = self.current[key] else { return };
        self.write_off(member);
        self.event(member, Ledger::flush);
    }

    /// Nobody counts any more on what is under way for this member.
    fn write_off(&mut self, member: usize) {
        let written_off = self.dials.iter_mut().filter(|it| it.member == member);
        let parted: Vec<_> = written_off
            .map(|dial| {
                dial.is_counted = false;
                dial.id
            })
            .collect();
        self.at_dialer
            .iter_mut()
            .filter(|it| it.member == member)
            .for_each(|it| it.is_counted = false);
        for it in self.callers.iter_mut().filter(|it| it.member == member) {
            it.dial = it.dial.filter(|dial| !parted.contains(dial));
        }
    }

    /// The quota allows so many slots from now on, for so long.
    pub(crate) fn allow(&mut self, slots: u32, lasts: Option<Duration>) {
        let number = self.lease.number + u64::from(self.lease.until <= self.now);
        let is_another = number != self.lease.number;
        let until = lasts.and_then(|lasts| self.now.after(lasts)).unwrap_or(Moment::LAST);
        let before = std::mem::replace(&mut self.lease, Lease { number, until });
        self.quota = slots;
        let taken = self.common.visit(|budget| budget.taken());
        self.allowance = self.bound().max(taken);
        let orders = self.common.allow(Allowance { slots, until }, self.now);
        self.send(orders);
        self.agree();
        // As in the shell, the lease reaches one member after the other.
        for member in 0..self.members.len() {
            if self.members[member].ledger.is_some() && before != self.lease {
                if is_another {
                    self.write_off(member);
                }
                self.behind = Duration::ZERO;
                let lease = self.lease;
                self.event(member, |ledger, now| ledger.set_lease(lease, now));
            }
        }
    }

    /// The most slots that may be taken now.
    fn bound(&self) -> u32 {
        let allowed = if self.lease.until <= self.clock() { 0 } else { self.quota };
        self.max_open_total.min(allowed)
    }

    pub(crate) fn resize(&mut self, max_open_total: u32) {
        let taken = self.common.visit(|budget| budget.taken());
        self.max_open_total = max_open_total;
        self.allowance = self.bound().max(taken);
        let orders = self.common.resize(max_open_total, self.now);
        self.send(orders);
        self.agree();
    }

    /// The whole pool is closed.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        for member in 0..self.members.len() {
            if self.members[member].ledger.is_some() {
                self.event(member, Ledger::close);
            }
        }
    }

    /// An order reaches its member.
    pub(crate) fn deliver(&mut self, pick: usize) {
        let Some(at) = choose(self.orders.len(), pick) else { return };
        let BudgetOrder { to, action } = self.orders.swap_remove(at);
        let member = to.0 as usize;
        if self.members[member].ledger.is_none() {
            let orders = self.common.take_back(BudgetOrder { to, action }, self.now);
            self.send(orders);
            return self.agree();
        }
        self.event(member, |ledger, now| match action {
            BudgetAction::Grant => ledger.slot_granted(now),
            BudgetAction::Evict { most, bar } => ledger.evict(most, bar, now),
        });
    }

    /// Somebody learns that nothing is left of a member.
    pub(crate) fn close_if_vacant(&mut self, pick: usize) {
        let Some(at) = choose(self.vacant.len(), pick) else { return };
        let member = self.vacant.swap_remove(at);
        if self.members[member].ledger.is_none() {
            return;
        }
        let now = self.open(member);
        let (is_vacant, effects) = self.ledger(member).close_if_vacant(now);
        if !is_vacant {
            return self.note(member, now, effects);
        }
        for current in self.current.iter_mut().filter(|it| **it == Some(member)) {
            *current = None;
        }
        self.note(member, now, effects);
        let mut its = self.callers.iter().enumerate().filter(|(_, it)| it.member == member);
        let is_left = its.any(|(at, it)| match it.state {
            State::Waiting => !self.slips.has_verdict(at),
            State::Holding(_) => true,
            _ => false,
        });
        assert!(!is_left, "KEY-02: closed with somebody in it");
        let open = self.ledger(member).stats(now).open();
        assert_eq!(open, 0, "KEY-02: closed with something in it");
        // A close that has taken too long may still refer to it.
        if self.alive(member) == 0 && member % 2 == 0 {
            self.members[member].ledger = None;
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.behind = Duration::ZERO;
        // Callers who are awake go to sleep, or leave, before time passes.
        for caller in 0..self.callers.len() {
            let Caller { state: State::Waiting, sleep, .. } = self.callers[caller] else {
                continue;
            };
            if sleep == Sleep::Awake || self.is_up(caller) {
                self.collect_of(caller);
                self.follow();
            }
        }
        self.now += time;
        for member in 0..self.members.len() {
            if self.members[member].alarm.is_some_and(|alarm| alarm <= self.now) {
                self.members[member].alarm = None;
                if self.members[member].ledger.is_some() {
                    self.event(member, Ledger::upkeep);
                    self.follow();
                }
            }
        }
        for caller in 0..self.callers.len() {
            if self.is_up(caller) {
                self.wake(caller);
                self.follow();
            }
        }
    }

    /// A caller wakes, by the clock or by its waker, and reports `tick`.
    fn wake(&mut self, caller: usize) {
        let member = self.callers[caller].member;
        if self.is_up(caller) && self.members[member].ledger.is_some() {
            self.event(member, Ledger::tick);
            // The effects are carried out before it looks at its own deadline.
            self.follow();
        }
        if matches!(self.callers[caller].state, State::Waiting) {
            self.collect_of(caller);
        }
    }

    /// Whether the clock wakes a caller that sleeps.
    fn is_up(&self, caller: usize) -> bool {
        let Caller { state, sleep, .. } = &self.callers[caller];
        let is_due = |until: Option<Moment>| until.is_some_and(|until| until <= self.now);
        matches!((state, sleep), (State::Waiting, Sleep::Until(until)) if is_due(*until))
    }

    // ---- The end -------------------------------------------------------------------------------

    /// Everything under way ends, and all connections come back. Then nobody may be left waiting. When the
    /// last connection is closed, nothing may be left of any key.
    pub(crate) fn finish(mut self, refuses: bool, closes: bool) {
        self.step(Duration::ZERO, |keys| keys.allow(u32::MAX, None));
        let Config { max_lifetime, max_idle_time, .. } = self.setting.each;
        if max_lifetime.min(max_idle_time) < Duration::MAX {
            // Those for which there are too few slots would replace what has aged for ever.
            self.end_warm_ups();
        }
        self.come_to_rest(refuses);
        // A warm-up keeps its key's idle connections, and perhaps there are no more to be had.
        self.end_warm_ups();
        self.come_to_rest(refuses);
        let is_waiting = |it: &&Caller| matches!(it.state, State::Waiting);
        let stranded: Vec<_> = self.callers.iter().filter(is_waiting).collect();
        assert!(stranded.is_empty(), "NO-STRANDED-WAITER: {stranded:?}");
        let at_rest = self.connections.values().filter(|it| it.place == Place::AtRest).count();
        assert_eq!(self.common.visit(|budget| budget.taken()), small(at_rest), "NO-LOST-SLOT");
        let max_idle = self.setting.max_idle_total.unwrap_or(u32::MAX).min(self.max_open_total);
        assert!(small(at_rest) <= max_idle, "{at_rest} rest, of {max_idle}");

        for key in 0..self.setting.keys {
            self.step(Duration::ZERO, |keys| keys.flush(key));
        }
        if closes {
            self.step(Duration::ZERO, Self::close);
        }
        self.come_to_rest(refuses);
        for _ in 0..8 {
            let left = self.members.iter().filter(|it| it.ledger.is_some());
            let Some(alarm) = left.filter_map(|it| it.alarm).min() else { break };
            self.step(Duration::ZERO, |keys| keys.wait(alarm.since(keys.now)));
            self.come_to_rest(refuses);
        }
        assert!(self.current.iter().all(Option::is_none), "KEY-02: {:?}", self.current);
        let all_new = Common::new(self.max_open_total);
        assert_eq!(self.common.contents(), all_new.contents(), "nothing is left of anything");
    }

    /// The time of all warm-ups that wait is up.
    fn end_warm_ups(&mut self) {
        let is_warm_up = |it: &Caller| it.target.is_some() && matches!(it.state, State::Waiting);
        while let Some(caller) = self.pick(0, is_warm_up) {
            self.callers[caller].deadline = Some(self.clock());
            self.step(Duration::ZERO, |keys| keys.collect_of(caller));
        }
    }

    fn come_to_rest(&mut self, mut refuses: bool) {
        for _ in 0..10_000 {
            if !self.orders.is_empty() {
                self.step(Duration::ZERO, |keys| keys.deliver(0));
            } else if !self.vacant.is_empty() {
                self.step(Duration::ZERO, |keys| keys.close_if_vacant(0));
            } else if self.end_something(refuses) {
            } else if let Some(until) = self.next_up() {
                // The server is back for the next attempt.
                refuses = false;
                let time = until.since(self.now);
                self.step(Duration::ZERO, |keys| keys.wait(time));
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// When a caller wakes by itself for another attempt to dial, rather than for its deadline.
    fn next_up(&self) -> Option<Moment> {
        let until = self.callers.iter().filter_map(|it| match (&it.state, it.target, it.sleep) {
            (State::Waiting, None, Sleep::Until(until)) => until,
            _ => None,
        });
        until.min().filter(|_| !self.is_prompt())
    }

    fn end_something(&mut self, refuses: bool) -> bool {
        let awake = (0..self.callers.len()).find(|caller| {
            let Caller { state, sleep, .. } = &self.callers[*caller];
            matches!(state, State::Waiting) && *sleep == Sleep::Awake || self.is_up(*caller)
        });
        let is_held = self.pick(0, |it| matches!(it.state, State::Holding(_))).is_some();
        let is_empty = self.pick(0, |it| matches!(it.state, State::Empty)).is_some();
        let end: fn(&mut Self) = match () {
            () if !self.closes.is_empty() => |keys| keys.closed(0),
            () if !self.at_dialer.is_empty() => |keys| keys.back(0, true),
            () if is_held => |keys| keys.give_back(0),
            () if !self.dials.is_empty() && refuses => |keys| keys.dial_failed(0),
            () if !self.dials.is_empty() => |keys| keys.dialed(0),
            () if is_empty => |keys| keys.rejoin(0),
            () if awake.is_none() => return false,
            () => |_| {},
        };
        self.step(Duration::ZERO, |keys| match awake {
            Some(caller) => keys.wake(caller),
            None => end(keys),
        });
        true
    }

    // ---- The outcome of an event ----------------------------------------------------------------

    fn event(
        &mut self,
        member: usize,
        event: impl FnOnce(&mut KeyLedger, Moment) -> LedgerEffects,
    ) {
        let now = self.open(member);
        let effects = event(self.ledger(member), now);
        self.note(member, now, effects);
    }

    /// Shuts the gate, and takes the connections from the places.
    fn open(&mut self, member: usize) -> Moment {
        let now = self.clock();
        let places = self.members[member].places.take();
        for entry in places.into_iter().flat_map(|it| it.at_rest) {
            self.ledger(member).take_from_place(entry);
        }
        now
    }

    /// Takes note of an event's effects, and lays connections out again.
    fn note(&mut self, member: usize, now: Moment, effects: LedgerEffects) {
        let Lists { wake, rare } = effects.into();
        let RareEffects { dials, at_dialer, closes, alarm, budget_orders, is_vacant, .. } = rare;
        for caller in wake {
            self.callers[caller].sleep = Sleep::Awake;
        }
        let is_evicted = |order: &&CloseOrder<u32>| order.reason == CloseReason::Evicted;
        let making_room = closes.iter().filter(is_evicted).count();
        if self.is_prompt() {
            self.note_verdict(member, making_room);
        }
        let for_callers = self.unfailed(member, now);
        for (begun, order) in dials.into_iter().enumerate() {
            self.begin_dial(member, order.id, small(begun) < for_callers, now);
        }
        for order in at_dialer {
            self.connection(order.entry.connection).place = Place::Out;
            self.at_dialer.push(AtDialer { member, order, is_counted: true });
        }
        let (making_room, others): (Vec<_>, Vec<_>) =
            closes.into_iter().partition(|order| order.reason == CloseReason::Evicted);
        for order in others.into_iter().chain(making_room) {
            let makes_room = order.reason == CloseReason::Evicted;
            if makes_room {
                self.may_be_evicted(member, order.connection);
            }
            self.connection(order.connection).place = Place::Closing;
            let (id, connection) = (order.id, order.connection);
            self.closes.push(Close { member, id, connection, makes_room });
        }
        self.members[member].is_granted = false;
        self.members[member].want = self.want(member, now);
        self.members[member].alarm = alarm.or(self.members[member].alarm);
        if is_vacant && !self.vacant.contains(&member) {
            self.vacant.push(member);
        }
        self.send(budget_orders);
        self.end_event(member, now);
    }

    fn end_event(&mut self, member: usize, now: Moment) {
        self.lay_out(member, now);
        self.agree();
    }

    /// Checks those who have left the queue or are warm, while so many connections begin to make room.
    fn note_verdict(&mut self, member: usize, making_room: usize) {
        // A warm-up has ended well even if callers have its connections now.
        let warming = self.warm_ups(member).map(|(_, since)| since).min();
        let ledger = self.members[member].ledger.as_mut().expect("it has a ledger");
        let waiting: Vec<_> = ledger.waiting().map(Slip::caller).collect();
        for at in 0..self.callers.len() {
            let it = &mut self.callers[at];
            let State::Waiting = it.state else { continue };
            if it.member != member || waiting.contains(&at) {
                continue;
            }
            let is_warm_up = it.target.is_some();
            let verdict = self.collect_verdict(at);
            assert!(verdict.is_some() || is_warm_up, "out of the queue without a verdict");
            let Some(verdict) = verdict else { continue };
            if let Verdict::Granted(entry) = &verdict {
                let number = entry.connection;
                self.connection(number).place = Place::Out;
                let since = self.callers[at].since;
                let since = warming.map_or(since, |warming| warming.min(since));
                self.passes_nobody(member, since, making_room);
            }
            self.callers[at].state = State::HasVerdict(verdict);
        }
    }

    fn begin_dial(&mut self, member: usize, id: JobId, is_for_caller: bool, now: Moment) {
        let cold_since = self.cold(member, now).map(|(since, _)| since);
        assert!(now < self.lease.until, "FLEET-03: dialed after the lease has ended");
        self.dials.push(Dial { member, id, lease: self.lease.number, is_counted: true });
        let sponsor = self.sponsor(member, now).filter(|_| is_for_caller);
        if let Some(sponsor) = sponsor {
            self.callers[sponsor].dial = Some(id);
            if self.is_prompt() {
                let since = self.callers[sponsor].since;
                self.is_next(member, cold_since.map_or(since, |cold| cold.min(since)));
            }
        }
    }

    fn lay_out(&mut self, member: usize, now: Moment) {
        let most = self.setting.places;
        let Member { ledger: Some(ledger), places, .. } = &mut self.members[member] else { return };
        let Some(until) = ledger.may_lay_out_until(now) else { return };
        let mut at_rest = Vec::new();
        while at_rest.len() < most {
            let Some(entry) = ledger.lay_out(now) else { break };
            at_rest.push(entry);
        }
        *places = Some(Places { epoch: ledger.epoch(), until, at_rest });
    }

    fn send(&mut self, orders: Vec<BudgetOrder>) {
        for order in &orders {
            let to = order.to.0 as usize;
            if order.action == BudgetAction::Grant {
                if self.is_prompt() {
                    let (since, _) = self.members[to].want.expect("KEY-05: granted for nothing");
                    self.is_next(to, since);
                }
                self.members[to].is_granted = true;
            }
        }
        self.orders.extend(orders);
    }

    // ---- Decisions among keys, slow and obvious ----------------------------------

    /// The first caller in the queue for whom a dial may begin.
    fn sponsor(&self, member: usize, now: Moment) -> Option<usize> {
        let ledger = self.members[member].ledger.as_ref()?;
        let may_dial = |caller: &usize| {
            let Caller { dial, has_failed, deadline, .. } = &self.callers[*caller];
            dial.is_none() && !has_failed && deadline.is_none_or(|deadline| deadline > now)
        };
        ledger.waiting().map(Slip::caller).find(may_dial)
    }

    /// Callers in the queue for whom nothing is under way.
    fn unfailed(&self, member: usize, now: Moment) -> u32 {
        let Some(ledger) = &self.members[member].ledger else { return 0 };
        let counted = self.dials.iter().filter(|it| it.member == member && it.is_counted).count();
        let checks =
            self.at_dialer.iter().filter(|it| it.member == member && it.is_counted).count();
        let unfailed =
            ledger.waiting().filter(|slip| !self.callers[slip.caller()].has_failed).count();
        small(unfailed).saturating_sub(small(counted + checks) + ledger.stats(now).idle)
    }

    /// The slots that a member lacks, for its callers or else for a warm-up, within its limits.
    fn want(&self, member: usize, now: Moment) -> Option<(Moment, u32)> {
        let ledger = self.members[member].ledger.as_ref().filter(|_| self.is_prompt())?;
        let (stats, config) = (ledger.stats(now), &self.setting.each);
        let dials = config.max_dialing().saturating_sub(stats.dialing);
        let room = (stats.max_open - stats.open()).min(dials);
        let cold = self.cold(member, now);
        let lacking = self.unfailed(member, now).min(room);
        if let Some(sponsor) = self.sponsor(member, now).filter(|_| lacking > 0) {
            let since = self.callers[sponsor].since;
            return Some((cold.map_or(since, |(cold, _)| cold.min(since)), lacking));
        }
        let (since, lacking) = cold?;
        (lacking.min(room) > 0).then_some((since, lacking.min(room)))
    }

    /// Since when the first warm-up that lacks a connection has waited, and how many all of them lack.
    fn cold(&self, member: usize, now: Moment) -> Option<(Moment, u32)> {
        let stats = self.members[member].ledger.as_ref()?.stats(now);
        let counted = self.dials.iter().filter(|it| it.member == member && it.is_counted).count();
        let coming = stats.idle + stats.in_use + small(counted);
        let limit = self.setting.each.max_idle();
        let lacks = |target: u32| target.min(limit).saturating_sub(coming);
        let cold = self.warm_ups(member).filter(|(target, _)| lacks(*target) > 0);
        let since = cold.clone().map(|(_, since)| since).min()?;
        Some((since, cold.map(|(target, _)| lacks(target)).max()?))
    }

    /// The targets of a key's warm-ups, and since when they have waited.
    fn warm_ups(&self, member: usize) -> impl Iterator<Item = (u32, Moment)> + Clone {
        let is_waiting =
            move |it: &&Caller| it.member == member && matches!(it.state, State::Waiting);
        self.callers.iter().filter(is_waiting).filter_map(|it| Some((it.target?, it.since)))
    }

    /// Since when the first caller or warm-up that is not served yet has waited.
    fn waits_since(&self, member: usize) -> Option<Moment> {
        let ledger = self.members[member].ledger.as_ref()?;
        let callers = ledger.waiting().map(|slip| self.callers[slip.caller()].since);
        callers.chain(self.warm_ups(member).map(|(_, since)| since)).min()
    }

    /// Members that have waited for a slot since before `since`, and for which nothing makes room.
    fn passed(&self, member: usize, since: Moment, making_room: usize) -> usize {
        let older = self.wants().filter(|(other, want)| *other != member && want.0 < since);
        let beyond = self.common.visit(|budget| budget.taken()).saturating_sub(self.bound());
        let closes = self.closes.iter().filter(|it| it.makes_room).count() + making_room;
        older.count().saturating_sub(closes.saturating_sub(beyond as usize))
    }

    /// Slots taken beyond the bound that no close under way returns.
    fn beyond(&self) -> u32 {
        let taken = self.common.visit(|budget| budget.taken());
        let making_room = self.closes.iter().filter(|it| it.makes_room).count();
        taken.saturating_sub(self.bound()).saturating_sub(small(making_room))
    }

    /// BOUNDED-BYPASS with a bound of zero: a caller who is lent a connection has waited for longer than
    /// anybody of another key who lacks a slot.
    fn passes_nobody(&self, member: usize, since: Moment, making_room: usize) {
        let passed = self.passed(member, since, making_room);
        assert_eq!(passed, 0, "BOUNDED-BYPASS: of {member}, before others");
    }

    /// The members that wait for a slot and have none on its way, with the slots that they lack.
    fn wants(&self) -> impl Iterator<Item = (usize, (Moment, u32))> {
        let wants = self.members.iter().enumerate().filter(|(_, it)| !it.is_granted);
        wants.filter_map(|(member, it)| Some((member, it.want?)))
    }

    /// A slot goes to the caller who has waited longest for one.
    fn is_next(&self, member: usize, since: Moment) {
        let before = self.wants().find(|(other, want)| *other != member && want.0 < since);
        assert_eq!(before, None, "LATE-BINDING: {member} is not the next");
    }

    /// Whether a member's connections at rest may be closed for others: nobody of its own waits.
    fn is_evictable(&self, member: usize) -> bool {
        let Some(ledger) = &self.members[member].ledger else { return false };
        ledger.waiting().next().is_none() && self.warm_ups(member).next().is_none()
    }

    fn may_be_evicted(&mut self, member: usize, connection: u32) {
        self.evicted += 1;
        let evicted = self.connections[&connection];
        assert_eq!(evicted.place, Place::AtRest, "KEY-07: {connection} is in use");
        if !self.is_prompt() {
            return;
        }
        if !self.is_evictable(member) {
            // Then somebody of its own has waited for longer than all others.
            // Or more is open than may be.
            let since = self.waits_since(member).expect("else it is evictable");
            let is_due = self.passed(member, since, 0) > 0 || self.beyond() > 0;
            assert!(is_due, "KEY-07: {connection} is another's");
            return;
        }
        let at_rest = self.connections.values().filter(|it| it.place == Place::AtRest);
        let coldest = at_rest.filter(|it| self.is_evictable(it.member)).map(|it| it.idle_since);
        assert_eq!(coldest.min(), Some(evicted.idle_since), "KEY-08: {connection} is not coldest");
        assert!(self.needed() > 0, "{connection} is closed for nobody");
    }

    /// How many idle connections must be closed: one for each slot that is lacking or beyond a lowered
    /// bound, less those being closed for that; or else the surplus beyond `max_idle`.
    fn needed(&self) -> i64 {
        let lacking: u32 = self.wants().map(|(_, (_, slots))| slots).sum();
        let beyond = self.common.visit(|budget| budget.taken()).saturating_sub(self.bound());
        let making_room = self.closes.iter().filter(|it| it.makes_room).count();
        let at_rest = self.connections.values().filter(|it| it.place == Place::AtRest).count();
        let surplus = self.setting.max_idle_total.map(|most| at_rest as i64 - i64::from(most));
        let slots = i64::from(lacking) + i64::from(beyond) - making_room as i64;
        surplus.map_or(slots, |surplus| surplus.max(slots))
    }

    /// KEY-04: once all orders are delivered, nothing is idle that somebody lacks.
    fn nobody_stalls_beside_idle_connections(&self) {
        let is_at_rest = |member: &usize| {
            let Some(ledger) = &self.members[*member].ledger else { return false };
            let unseen = self.members[*member].places.as_ref().map_or(0, |it| it.at_rest.len());
            ledger.stats(self.now).idle > 0 || unseen > 0
        };
        let resting: Vec<_> = (0..self.members.len())
            .filter(|member| self.is_evictable(*member))
            .filter(is_at_rest)
            .collect();
        if self.is_prompt() {
            let needed = self.needed();
            assert!(needed <= 0 || resting.is_empty(), "KEY-04: {needed}, beside {resting:?}");
        }
        let is_making_room = self.closes.iter().any(|it| it.makes_room);
        let stalled = self.common.visit(|budget| budget.stalled());
        assert!(stalled == 0 || is_making_room || resting.is_empty(), "KEY-04: beside {resting:?}");
    }

    // ---- Sums, and what must be true of them ---------------------------------------------------

    /// The numbers that a member's server sees.
    fn alive(&self, member: usize) -> u32 {
        let is_open = |it: &&Connection| it.member == member && it.place != Place::Ended;
        let dials = self.dials.iter().filter(|it| it.member == member).count();
        small(self.connections.values().filter(is_open).count() + dials)
    }

    fn agree(&mut self) {
        let (mut open, mut stalled) = (0, 0);
        for (at, member) in self.members.iter().enumerate() {
            let Some(ledger) = &member.ledger else { continue };
            let stats = ledger.stats(self.now);
            open += stats.open();
            stalled += usize::from(stats.stalled && !member.is_granted);
            let alive = self.alive(at);
            let never = self.setting.each.close_timeout == Duration::MAX;
            assert!(alive == stats.open() || !never && alive > stats.open(), "{alive}: {stats}");
            if self.is_prompt() {
                assert_eq!(stats.stalled, member.want.is_some(), "NO-STRANDED-WAITER: {stats}");
            }
        }
        let grants = self.orders.iter().filter(|order| order.action == BudgetAction::Grant).count();
        let bound = self.bound();
        self.common.visit(|budget| {
            assert_eq!(budget.taken(), open + small(grants), "NO-LOST-SLOT");
            // By a clock that is behind the lease lasts a little longer.
            let most = self.allowance.max(bound);
            assert!(budget.taken() <= most, "BOUND: {} taken of {most}", budget.taken());
            // A member with a slot on its way may claim no further one.
            let has_asked = budget.stalled();
            let are_coming = grants > 0 && has_asked <= stalled;
            assert!(has_asked == stalled || are_coming, "who is stalled has asked");
            let is_full = budget.taken() >= bound.min(budget.max_open());
            assert!(has_asked == 0 || is_full, "NO-STRANDED-WAITER: a slot is free");
            self.allowance = bound.max(budget.taken());
            assert_eq!(budget.evicted_total(), u64::from(self.evicted));
        });
    }

    // ---- Finding -------------------------------------------------------------------------------

    fn clock(&self) -> Moment {
        self.now - self.behind
    }

    /// The key's ledger, created if there is none.
    fn member(&mut self, key: usize) -> usize {
        if let Some(member) = self.current[key] {
            return member;
        }
        let (member, way) = (self.members.len(), Arc::clone(&self.common) as _);
        let share = Share::new(MemberId(member as u64), way);
        let ledger = Ledger::new(self.setting.each, member as u64).sharing(share);
        self.members.push(Member {
            key,
            ledger: Some(ledger),
            places: None,
            alarm: None,
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
            self.event(member, Ledger::close);
        }
        member
    }

    fn ledger(&mut self, member: usize) -> &mut KeyLedger {
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
}

impl Caller {
    fn new(member: usize, since: Moment, deadline: Option<Moment>, target: Option<u32>) -> Self {
        Self {
            member,
            ticket: None,
            since,
            deadline,
            target,
            state: State::Gone,
            dial: None,
            has_failed: false,
            sleep: Sleep::Awake,
        }
    }
}

fn choose(len: usize, pick: usize) -> Option<usize> {
    (len > 0).then(|| pick % len)
}

fn small(count: usize) -> u32 {
    u32::try_from(count).expect("a test has few of anything")
}
