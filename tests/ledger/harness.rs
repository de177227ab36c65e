//! `Harness`: one ledger by a hand-turned clock, whose orders wait until a test carries them out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::abort::AbortHandle;
use crate::config::{BreakerChoice, Config, DialRule};
use crate::ledger::budget::BudgetOrder;
use crate::ledger::close_reason::CloseReason;
use crate::ledger::effects::JobId;
use crate::ledger::stats::Stats;
use crate::ledger::{
    AtDialerOrder, CloseOrder, DialOrder, Effects, Entry, Ledger, RareEffects, Reply, Share,
    Ticket, Verdict,
};
use crate::runtime::moment::Moment;
use crate::slips::{Failure, Lists, Slip};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Settings under which time changes nothing, except that a check counts for a while only.
pub(crate) fn ageless() -> Config {
    Config {
        max_lifetime: Duration::MAX,
        max_idle_time: Duration::MAX,
        breaker: BreakerChoice::Off,
        ..Config::default()
    }
}

type TestLedger = Ledger<u32, Failure, Slip<u32, Failure>>;
type TestEffects = Effects<u32, Failure, Slip<u32, Failure>>;

/// A ledger, and its orders that no test has carried out yet.
pub(crate) struct Harness {
    pub(crate) ledger: TestLedger,
    pub(crate) now: Moment,
    slips: BTreeMap<Ticket, Slip<u32, Failure>>,
    /// How many callers have woken up to a connection.
    awake: u64,
    pub(crate) woken: Vec<u32>,
    pub(crate) dials: Vec<DialOrder<Slip<u32, Failure>>>,
    pub(crate) at_dialer: Vec<AtDialerOrder<u32>>,
    pub(crate) closes: Vec<CloseOrder<u32>>,
    /// Dials ever ordered. The nth opens connection n.
    pub(crate) begun: u32,
    pub(crate) opened: u32,
    /// The budget's orders to other members.
    pub(crate) orders: Vec<BudgetOrder>,
    /// The abort handles of loans whose lease has ended.
    pub(crate) aborts: Vec<AbortHandle>,
    /// When upkeep is ordered for.
    pub(crate) alarm: Option<Moment>,
    /// The time at the start.
    pub(crate) started: Moment,
}

impl Harness {
    pub(crate) fn new(max_open: u32) -> Self {
        Self::with(Config { max_open, ..ageless() })
    }

    /// A ledger that dials and hands over without delay.
    pub(crate) fn with(config: Config) -> Self {
        Self::seeded(config, 0)
    }

    pub(crate) fn seeded(config: Config, seed: u64) -> Self {
        let now = Moment::from(std::time::Instant::now()) + 1_000_000 * SECOND;
        let at_once = Config { dial_rule: DialRule::Eager, bypass: Duration::ZERO, ..config };
        Self {
            ledger: Ledger::new(at_once, seed),
            now,
            slips: BTreeMap::new(),
            awake: 0,
            woken: Vec::new(),
            dials: Vec::new(),
            at_dialer: Vec::new(),
            closes: Vec::new(),
            begun: 0,
            opened: 0,
            orders: Vec::new(),
            aborts: Vec::new(),
            alarm: None,
            started: now,
        }
    }

    /// The same ledger, with its slots from a budget.
    pub(crate) fn sharing(mut self, share: Share) -> Self {
        self.ledger = self.ledger.sharing(share);
        self
    }

    pub(crate) fn note_effects(&mut self, orders: TestEffects) {
        let Lists { wake, rare } = orders.into();
        let RareEffects { dials, at_dialer, closes, aborts, alarm, budget_orders, .. } = rare;
        self.aborts.extend(aborts);
        self.orders.extend(budget_orders);
        self.alarm = alarm.or(self.alarm);
        self.begun += u32::try_from(dials.len()).expect("few dials");
        self.woken.extend(wake);
        self.dials.extend(dials);
        self.at_dialer.extend(at_dialer);
        self.closes.extend(closes);
    }

    /// Runs an event on the ledger, and notes its effects.
    pub(crate) fn event(&mut self, event: impl FnOnce(&mut TestLedger, Moment) -> TestEffects) {
        let effects = event(&mut self.ledger, self.now);
        self.note_effects(effects);
    }

    pub(crate) fn request(&mut self, caller: u32, patience: Option<Duration>) -> Reply<u32> {
        let deadline = patience.and_then(|patience| self.now.after(patience));
        let slip = Slip::new(caller);
        let waker = || slip.clone();
        let (request, orders) = self.ledger.request(None, self.now, deadline, self.now, waker);
        if let Reply::Queued(ticket) = request {
            self.slips.insert(ticket, slip);
        }
        self.note_effects(orders);
        request
    }

    /// A caller who was given a broken connection, and has waited `since` then, waits again.
    pub(crate) fn ask_again(&mut self, ticket: Ticket, since: Moment) -> Ticket {
        let slip = Slip::new(self.slips[&ticket].caller());
        let waker = || slip.clone();
        let (request, orders) = self.ledger.request(Some(ticket), since, None, self.now, waker);
        let Reply::Queued(ticket) = request else { panic!("does not wait: {request:?}") };
        self.slips.insert(ticket, slip);
        self.note_effects(orders);
        ticket
    }

    pub(crate) fn warm_up(&mut self, target: u32, caller: u32) -> Ticket {
        let slip = Slip::new(caller);
        let (ticket, orders) = self.ledger.warm_up(target, self.now, || slip.clone());
        self.slips.insert(ticket, slip);
        self.note_effects(orders);
        ticket
    }

    /// Collects the verdict of the holder of `ticket`. Its waking up may serve others.
    pub(crate) fn collect(&mut self, ticket: Ticket) -> Option<Verdict<u32, Failure>> {
        let (verdict, is_waking) = self.slips.get(&ticket)?.take()?;
        self.awake += u64::from(is_waking);
        self.ledger.note_woken(self.awake);
        Some(verdict)
    }

    /// A caller who is not served at once and waits for as long as it takes.
    pub(crate) fn queue(&mut self, caller: u32) -> Ticket {
        self.queue_for(caller, Duration::MAX)
    }

    pub(crate) fn queue_for(&mut self, caller: u32, patience: Duration) -> Ticket {
        match self.request(caller, Some(patience)) {
            Reply::Queued(ticket) => ticket,
            other => panic!("caller {caller} does not wait: {other:?}"),
        }
    }

    /// A caller who is served at once.
    pub(crate) fn get(&mut self) -> Entry<u32> {
        match self.request(0, None) {
            Reply::Granted(_, entry) => entry,
            other => panic!("not served at once: {other:?}"),
        }
    }

    /// A caller who is served by a dial that is begun for it.
    pub(crate) fn dial_and_get(&mut self) -> Entry<u32> {
        let ticket = self.queue(0);
        self.dialed();
        self.granted(ticket)
    }

    pub(crate) fn granted(&mut self, ticket: Ticket) -> Entry<u32> {
        match self.collect(ticket) {
            Some(Verdict::Granted(entry)) => entry,
            other => panic!("not granted: {other:?}"),
        }
    }

    pub(crate) fn failure(&mut self, ticket: Ticket) -> Failure {
        match self.collect(ticket) {
            Some(Verdict::Failed(failure)) => failure,
            other => panic!("not failed: {other:?}"),
        }
    }

    /// The dial that was ordered first succeeds.
    pub(crate) fn dialed(&mut self) {
        let DialOrder { id, .. } = self.dials.remove(0);
        self.opened += 1;
        let orders = self.ledger.dialed(id, self.opened, None, Duration::MAX, self.now);
        self.note_effects(orders);
    }

    /// The dial that was ordered first fails.
    pub(crate) fn refused(&mut self) -> JobId {
        self.refused_as(false)
    }

    /// The same, perhaps for a reason for which trying again cannot help.
    pub(crate) fn refused_as(&mut self, is_permanent: bool) -> JobId {
        let DialOrder { id, .. } = self.dials.remove(0);
        self.event(|ledger, now| ledger.dial_failed(id, Failure::Of(id), is_permanent, now));
        id
    }

    pub(crate) fn give_back(&mut self, entry: Entry<u32>) {
        self.event(|ledger, now| ledger.give_back(entry, now));
    }

    /// A borrower discards its connection, which is closed at once.
    pub(crate) fn retire(&mut self, entry: Entry<u32>) {
        self.retire_as(entry, CloseReason::Discarded);
        self.close_all();
    }

    pub(crate) fn retire_as(&mut self, entry: Entry<u32>, reason: CloseReason) {
        self.event(|ledger, now| ledger.retire(entry, reason, now));
    }

    pub(crate) fn close_all(&mut self) {
        while let Some(CloseOrder { id, .. }) = self.closes.pop() {
            self.event(|ledger, now| ledger.closed(id, now));
        }
    }

    /// A caller who has looked falls asleep only if there is nothing to do, so a second look at the same
    /// time must find nothing: it would look for ever.
    pub(crate) fn tick(&mut self) {
        self.event(|ledger, now| ledger.tick(now));
        let again = self.ledger.tick(self.now);
        assert!(again.is_empty() || self.stats().waiting == 0, "QUIET: {again:?}");
    }

    pub(crate) fn upkeep(&mut self) {
        self.event(|ledger, now| ledger.upkeep(now));
    }

    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<Failure> {
        let (left, orders) = self.ledger.leave(ticket, self.now, |_| ());
        self.note_effects(orders);
        match left {
            Some((Verdict::Late(failure), ())) => failure,
            other => panic!("not late: {other:?}"),
        }
    }

    /// A caller without a deadline falls asleep.
    pub(crate) fn sleep(&mut self, ticket: Ticket) -> Option<Moment> {
        self.ledger.sleep(ticket, None)
    }

    pub(crate) fn flush(&mut self) {
        self.event(|ledger, now| ledger.flush(now));
    }

    pub(crate) fn resize(&mut self, max_open: u32) {
        let config = Config { max_open, ..*self.ledger.config() };
        self.event(|ledger, now| ledger.reconfigure(config, now));
    }

    pub(crate) fn stats(&self) -> Stats {
        self.ledger.stats(self.now)
    }
}
