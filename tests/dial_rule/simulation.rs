//! A pool without threads: the real ledger, callers and a server under a simulated clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::config::{Config, DialRule};
use crate::ledger::effects::JobId;
use crate::ledger::{Effects, Entry, Ledger, Overdue, RareEffects, Reply, Ticket, Verdict};
use crate::runtime::moment::Moment;
use crate::slips::{Lists, Slip};

/// Milliseconds, the unit of all scenarios.
pub(crate) fn ms(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1e3)
}

/// A small generator of random numbers: the scenarios must be the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Uniform in (0, 1). Xorshift64*, after Vigna, "An experimental exploration of Marsaglia's
    /// xorshift generators" (2016).
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        (bits as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }

    /// Log-normal about `median`.
    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        median * (sigma * normal).exp()
    }

    /// Pareto with shape 1.5: its mean is three times `least`, its variance is not finite.
    pub(crate) fn heavy_tailed(&mut self, least: f64) -> f64 {
        least / self.unit().powf(1.0 / 1.5)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure;

impl From<Overdue> for Failure {
    fn from(_: Overdue) -> Self {
        Self
    }
}

/// Connections carry no data, and a caller is woken by its number.
type Way = Slip<u64, Failure, ()>;
type Books = Ledger<(), Failure, Way>;
type LedgerEffects = Effects<(), Failure, Way>;

/// How a caller behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// How long it keeps its connection, in milliseconds.
    pub(crate) hold: f64,
    /// How many milliseconds after returning it the caller asks again; `None`: never.
    pub(crate) again: Option<f64>,
}

enum Event {
    Arrive(Caller),
    Return(Entry<()>, Caller),
    Dialed(JobId, Duration),
}

struct Waiting {
    ticket: Ticket,
    slip: Way,
    caller: Caller,
    since: Moment,
    /// When it wakes by the clock, as the ledger said when it fell asleep.
    until: Option<Moment>,
}

/// One run.
pub(crate) struct Simulation {
    ledger: Books,
    dial_time: Box<dyn FnMut(Duration) -> f64>,
    /// How long it takes until a dial that is ordered begins, in milliseconds.
    worker_time: f64,
    start: Moment,
    pub(crate) now: Moment,
    agenda: BinaryHeap<Reverse<(Moment, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    /// The callers who wait, by number.
    waiting: BTreeMap<u64, Waiting>,
    /// How long each caller has waited, in milliseconds, in order of service.
    pub(crate) waits: Vec<f64>,
    pub(crate) dials: u32,
    /// The time that the longest dial took, in milliseconds.
    pub(crate) longest_dial: f64,
    /// How many callers have woken up to a connection.
    woken: u64,
    last_return: Moment,
    /// The longest time that a caller waited while nothing came back and no dial was under way for it, in
    /// milliseconds.
    pub(crate) longest_idle_wait: f64,
}

impl Simulation {
    /// A pool with `idle` connections open. If it has any, it knows how long a dial takes.
    pub(crate) fn new(
        rule: DialRule,
        max_open: u32,
        idle: u32,
        worker_time: f64,
        mut dial_time: impl FnMut(Duration) -> f64 + 'static,
    ) -> Self {
        let config = Config {
            max_open,
            dial_rule: rule,
            check_after: Duration::MAX,
            dial_timeout: Duration::MAX,
            ..Config::default()
        };
        let start = Moment::from(std::time::Instant::now());
        let mut ledger: Books = Ledger::new(config, 0);
        let mut now = start;
        if idle > 0 {
            let slip = Slip::new(0);
            let (_, effects) = ledger.warm_up(idle, now, || slip.clone());
            let took = ms(dial_time(Duration::ZERO));
            now += ms(worker_time) + took;
            for order in Lists::from(effects).rare.dials {
                let after = ledger.dialed(order.id, (), None, took, now);
                assert!(Lists::from(after).rare.dials.is_empty());
            }
            assert!(matches!(slip.take(), Some((Verdict::Warm, false))));
        }
        Self {
            ledger,
            dial_time: Box::new(dial_time),
            worker_time,
            start: now,
            now,
            agenda: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            waiting: BTreeMap::new(),
            waits: Vec::new(),
            dials: 0,
            longest_dial: 0.0,
            woken: 0,
            last_return: now,
            longest_idle_wait: 0.0,
        }
    }

    pub(crate) fn open(&self) -> u32 {
        self.ledger.stats(self.now).open()
    }

    pub(crate) fn longest_wait(&self) -> f64 {
        self.waits.iter().copied().fold(0.0, f64::max)
    }

    /// The wait that this part of the callers did not exceed.
    pub(crate) fn wait_percentile(&self, share: f64) -> f64 {
        let mut waits = self.waits.clone();
        waits.sort_by(f64::total_cmp);
        waits[((waits.len() as f64 * share) as usize).min(waits.len() - 1)]
    }

    /// Lets a caller come `at` milliseconds after the start.
    pub(crate) fn arrive(&mut self, at: f64, caller: Caller) {
        let at = self.start + ms(at);
        self.plan(at, Event::Arrive(caller));
    }

    fn plan(&mut self, at: Moment, event: Event) {
        self.next += 1;
        self.events.insert(self.next, event);
        self.agenda.push(Reverse((at, self.next)));
    }

    /// Runs until nothing is left to happen, or until `end` milliseconds after the start.
    pub(crate) fn run(&mut self, end: f64) {
        let end = self.start + ms(end);
        loop {
            let planned = self.agenda.peek().map(|Reverse((at, _))| *at);
            let looked = self.waiting.values().filter_map(|waiting| waiting.until).min();
            let Some(at) = planned.into_iter().chain(looked).min().filter(|at| *at <= end) else {
                return;
            };
            self.now = self.now.max(at);
            if Some(at) == planned {
                let Reverse((_, id)) = self.agenda.pop().expect("something is planned");
                let event = self.events.remove(&id).expect("what is planned has not happened");
                self.happen(event);
            } else {
                self.look(at);
            }
        }
    }

    fn look(&mut self, at: Moment) {
        let is_due = |waiting: &Waiting| waiting.until == Some(at);
        let lookers = self.waiting.iter().filter(|(_, waiting)| is_due(waiting));
        let lookers: Vec<u64> = lookers.map(|(number, _)| *number).collect();
        let effects = self.ledger.tick(self.now);
        self.carry_out(effects);
        lookers.into_iter().for_each(|number| self.wake(number));
    }

    fn happen(&mut self, event: Event) {
        let effects = match event {
            Event::Arrive(caller) => return self.arrived(caller),
            Event::Return(entry, caller) => {
                self.last_return = self.now;
                if let Some(again) = caller.again {
                    self.plan(self.now + ms(again), Event::Arrive(caller));
                }
                self.ledger.give_back(entry, self.now)
            }
            Event::Dialed(id, took) => self.ledger.dialed(id, (), None, took, self.now),
        };
        self.carry_out(effects);
    }

    fn arrived(&mut self, caller: Caller) {
        self.next += 1;
        let number = self.next;
        let slip = Slip::new(number);
        let waker = || slip.clone();
        let (request, effects) = self.ledger.request(None, self.now, None, self.now, waker);
        match request {
            Reply::Granted(_, entry) => self.serve(entry, caller, self.now),
            Reply::Queued(ticket) => {
                let waiting = Waiting { ticket, slip, caller, since: self.now, until: None };
                self.waiting.insert(number, waiting);
                self.wake(number);
            }
            Reply::Refused(refusal) => panic!("no caller is refused: {refusal:?}"),
        }
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: LedgerEffects) {
        let Lists { wake, rare } = effects.into();
        let RareEffects { dials, at_dialer, closes, .. } = rare;
        for order in dials {
            self.dials += 1;
            let took = (self.dial_time)(self.now - self.start);
            self.longest_dial = self.longest_dial.max(took);
            let at = self.now + ms(self.worker_time) + ms(took);
            self.plan(at, Event::Dialed(order.id, ms(took)));
        }
        assert!(at_dialer.is_empty() && closes.is_empty());
        wake.into_iter().for_each(|number| self.wake(number));
        self.note_idle_wait();
    }

    /// Handles a caller who is woken, or who is about to sleep for the first time.
    fn wake(&mut self, number: u64) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        match waiting.slip.take() {
            None => waiting.until = self.ledger.sleep(waiting.ticket, None),
            Some((Verdict::Granted(entry), is_waking)) => {
                let Waiting { caller, since, .. } =
                    self.waiting.remove(&number).expect("it was there just now");
                self.serve(entry, caller, since);
                self.woken += u64::from(is_waking);
                self.ledger.note_woken(self.woken);
                let effects = self.ledger.tick(self.now);
                self.carry_out(effects);
            }
            Some((verdict, _)) => panic!("every caller is served: {verdict:?}"),
        }
    }

    fn note_idle_wait(&mut self) {
        let stats = self.ledger.stats(self.now);
        let Some(first) = self.waiting.values().map(|waiting| waiting.since).min() else { return };
        if stats.dialing == 0 && stats.open() < stats.max_open {
            let idle = self.now.since(first.max(self.last_return));
            self.longest_idle_wait = self.longest_idle_wait.max(idle.as_secs_f64() * 1e3);
        }
    }

    fn serve(&mut self, entry: Entry<()>, caller: Caller, since: Moment) {
        self.waits.push((self.now - since).as_secs_f64() * 1e3);
        self.plan(self.now + ms(caller.hold), Event::Return(entry, caller));
    }
}
