//! Random histories of processes that share a limit, on the lease logic alone: they want and return slots,
//! stop for a while, die, are cut off from the store, and the store forgets. The server counts.

use std::collections::BTreeMap;
use std::time::Duration;

use latebind_fleet::{Ask, Book, Demand, Holder, HolderId, Manners, Terms};
use proptest::collection::vec;
use proptest::prelude::*;

const TICK: Duration = Duration::from_millis(10);

/// A process with its pool, as far as leases go.
struct Process {
    holder: Holder,
    /// How far its clock is ahead of the store's, and what a second is there.
    offset: Duration,
    wants: u32,
    /// Since when a caller has waited.
    waits_since: Option<Duration>,
    /// Sessions that the pool has, of which so many are in use.
    sessions: u32,
    in_use: u32,
    /// When slots have settled.
    settling: Vec<Duration>,
    allowed: (u32, Option<Duration>),
    /// Until then it is stopped.
    stopped_until: Duration,
    cut_until: Duration,
    is_dead: bool,
    next: Duration,
}

/// The world: processes, the store, and the server with its sessions.
struct World {
    terms: Terms,
    book: Book,
    now: Duration,
    processes: Vec<Process>,
    /// Sessions that their clients have ended and that the server still counts, with their end.
    lingering: Vec<(HolderId, Duration)>,
    most: u32,
    last_id: u64,
}

#[derive(Clone, Debug)]
enum Event {
    Want(usize, u32),
    Stop(usize, u32),
    Kill(usize),
    Start,
    Cut(usize, u32),
    Forget,
    Pass(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..8usize, 0..12u32).prop_map(|(who, slots)| Event::Want(who, slots)),
        2 => (0..8usize, 1..1200u32).prop_map(|(who, ticks)| Event::Stop(who, ticks)),
        1 => (0..8usize).prop_map(Event::Kill),
        2 => Just(Event::Start),
        2 => (0..8usize, 1..1200u32).prop_map(|(who, ticks)| Event::Cut(who, ticks)),
        1 => Just(Event::Forget),
        8 => (1..200u32).prop_map(Event::Pass),
    ]
}

impl World {
    fn new(limit: u32) -> Self {
        let manners = Manners::default();
        let lease = Duration::from_secs(5);
        let terms = Terms { limit, lease, settle: manners.settle };
        let mut world = Self {
            terms,
            book: Book::first(terms),
            now: Duration::from_secs(1000),
            processes: Vec::new(),
            lingering: Vec::new(),
            most: 0,
            last_id: 0,
        };
        (0..3).for_each(|_| world.start());
        world
    }

    fn start(&mut self) {
        self.last_id += 1;
        let id = self.last_id;
        self.processes.push(Process {
            holder: Holder::new(HolderId(id), Manners::default()),
            offset: Duration::from_secs(id * 77),
            wants: 0,
            waits_since: None,
            sessions: 0,
            in_use: 0,
            settling: Vec::new(),
            allowed: (0, None),
            stopped_until: Duration::ZERO,
            cut_until: Duration::ZERO,
            is_dead: false,
            next: Duration::ZERO,
        });
    }

    fn happen(&mut self, event: &Event) {
        let alive: Vec<_> =
            (0..self.processes.len()).filter(|at| !self.processes[*at].is_dead).collect();
        let pick = |who: usize| alive.get(who % alive.len().max(1)).copied();
        match *event {
            Event::Want(who, slots) => {
                pick(who).into_iter().for_each(|at| self.processes[at].wants = slots);
            }
            Event::Stop(who, ticks) => pick(who).into_iter().for_each(|at| {
                self.processes[at].stopped_until = self.now + TICK * ticks;
            }),
            Event::Kill(who) => pick(who).into_iter().for_each(|at| {
                let process = &mut self.processes[at];
                process.is_dead = true;
                let (id, sessions) = (process.holder.id(), std::mem::take(&mut process.sessions));
                self.linger(id, sessions);
            }),
            Event::Start if alive.len() < 8 => self.start(),
            Event::Start => {}
            Event::Cut(who, ticks) => pick(who).into_iter().for_each(|at| {
                self.processes[at].cut_until = self.now + TICK * ticks;
            }),
            Event::Forget => self.book = Book::new(self.terms, self.now),
            Event::Pass(ticks) => (0..ticks).for_each(|_| self.pass()),
        }
        self.count();
    }

    /// The clients have ended these sessions. The server notices up to a settling time later.
    fn linger(&mut self, id: HolderId, sessions: u32) {
        for nth in 0..sessions {
            let late = self.terms.settle * (nth % 4) / 4;
            self.lingering.push((id, self.now + late));
        }
    }

    fn pass(&mut self) {
        self.now += TICK;
        let now = self.now;
        self.lingering.retain(|(_, until)| *until > now);
        for at in 0..self.processes.len() {
            let process = &self.processes[at];
            if !process.is_dead && process.stopped_until <= now {
                self.act(at);
                self.count();
            }
        }
    }

    /// A process runs for a tick: its pool first, then its keeper.
    fn act(&mut self, at: usize) {
        let process = &mut self.processes[at];
        let own_now = self.now + process.offset;
        let (slots, until) = process.allowed;
        let has_ended = until.is_some_and(|until| until <= own_now);
        let allowed = if has_ended { 0 } else { slots };
        process.in_use = process.wants.min(process.sessions);
        let id = process.holder.id();
        // Beyond what is allowed it closes; and it opens what it wants and may.
        let closed =
            if has_ended { process.sessions } else { process.sessions.saturating_sub(allowed) };
        process.sessions -= closed;
        let settles_at = own_now + self.terms.settle;
        process.settling.retain(|at| *at > own_now);
        process.settling.extend((0..closed).map(|_| settles_at));
        let taken = process.sessions + process.settling.len() as u32;
        let lacking = process.wants.saturating_sub(process.sessions);
        let opened = lacking.min(allowed.saturating_sub(taken));
        process.sessions += opened;
        process.in_use = process.wants.min(process.sessions);
        self.linger(id, closed);
        self.count();

        let process = &mut self.processes[at];
        if own_now < process.next && closed + opened == 0 {
            return;
        }
        let is_waiting = process.wants > process.in_use;
        let since = process.waits_since.filter(|_| opened == 0).unwrap_or(own_now);
        process.waits_since = is_waiting.then_some(since);
        let open = process.sessions + process.settling.len() as u32;
        let demand = Demand {
            open,
            idle: open - process.in_use,
            wanted: process.wants - process.in_use,
            waiting: own_now - since,
        };
        let turn = process.holder.turn(own_now, demand);
        process.next = turn.next;
        process.allowed = turn.allow;
        if turn.is_over {
            let sessions = std::mem::take(&mut process.sessions);
            self.linger(id, sessions);
        }
        if let Some(ask) = turn.ask {
            self.ask(at, ask, own_now);
        }
    }

    fn ask(&mut self, at: usize, mut ask: Ask, own_now: Duration) {
        if self.processes[at].cut_until > self.now {
            return self.processes[at].holder.failed(own_now);
        }
        let sessions = self.sessions();
        let own = sessions.get(&ask.holder).copied().unwrap_or(0);
        ask.held = ask.held.max(own).min(self.processes[at].holder.stored());
        ask.sessions = Some(sessions.into_iter().collect());
        let answer = self.book.ask(&ask, self.now);
        let process = &mut self.processes[at];
        process.holder.answered(own_now, own_now, &ask, &answer);
        process.next = own_now;
        for id in answer.lapsed {
            // The server ends them; their client does not know yet.
            let (now, settle) = (self.now, self.terms.settle);
            for it in self.processes.iter_mut().filter(|it| it.holder.id() == id) {
                let ended = std::mem::take(&mut it.sessions);
                self.lingering.extend((0..ended).map(|_| (id, now + settle / 2)));
            }
        }
    }

    fn sessions(&self) -> BTreeMap<HolderId, u32> {
        let mut sessions = BTreeMap::new();
        for it in &self.processes {
            *sessions.entry(it.holder.id()).or_insert(0) += it.sessions;
        }
        for (id, _) in &self.lingering {
            *sessions.entry(*id).or_insert(0) += 1;
        }
        sessions.retain(|_, count| *count > 0);
        sessions
    }

    fn count(&mut self) {
        let counted: u32 = self.sessions().values().sum();
        assert!(counted <= self.terms.limit, "BOUND: {counted} of {}", self.terms.limit);
        self.most = self.most.max(counted);
    }

    /// Nothing goes wrong any more, and all want `wants`: what each has after a while.
    fn settle_down(&mut self, wants: u32) -> Vec<u32> {
        for process in &mut self.processes {
            (process.stopped_until, process.cut_until, process.wants) = (self.now, self.now, wants);
        }
        (0..4000).for_each(|_| self.pass());
        let alive = self.processes.iter().filter(|it| !it.is_dead);
        alive.map(|it| it.sessions).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// FLEET-04, FLEET-05, FLEET-06: whatever happens, the server never counts more than the limit, and no
    /// slot is lost: in the end all of them are used, and each process has its share.
    #[test]
    fn in_any_history_the_limit_holds_and_every_slot_is_used_in_the_end(
        limit in 1..20u32,
        history in vec(event(), 0..60),
    ) {
        let mut world = World::new(limit);
        history.iter().for_each(|event| world.happen(event));
        let each = world.settle_down(20);
        if !each.is_empty() && each.len() as u32 <= limit {
            let total: u32 = each.iter().sum();
            assert_eq!(total, limit.min(20 * each.len() as u32), "NO-LOST-SLOT: {each:?}");
            let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
            assert!(most - least <= 1, "FLEET-06: unfair: {each:?}");
        }
        let each = world.settle_down(0);
        assert!(each.iter().sum::<u32>() <= limit);
    }
}

/// FLEET-06: who needs little leaves the rest to the others.
#[test]
fn slots_that_one_does_not_need_go_to_those_who_do() {
    let mut world = World::new(12);
    for (process, wants) in world.processes.iter_mut().zip([1, 9, 9]) {
        process.wants = wants;
    }
    (0..4000).for_each(|_| world.pass());
    let mut each: Vec<_> = world.processes.iter().map(|it| it.sessions).collect();
    each.sort_unstable();
    // The first may keep what a little ahead of its load is.
    assert_eq!((each[0], each.iter().sum::<u32>()), (1, 12), "{each:?}");
}

/// FLEET-07: a process that needs nothing has nothing, and asks nothing.
#[test]
fn what_nobody_needs_any_more_is_returned() {
    let mut world = World::new(12);
    world.processes.iter_mut().for_each(|it| it.wants = 4);
    (0..1000).for_each(|_| world.pass());
    world.processes.iter_mut().for_each(|it| (it.wants, it.sessions, it.in_use) = (0, 0, 0));
    (0..2000).for_each(|_| world.pass());
    assert_eq!(world.book.held(), 0);
}

/// FLEET-06: with fewer slots than processes they go round, and nobody is left out.
#[test]
fn with_fewer_slots_than_processes_each_has_its_turn() {
    let mut world = World::new(2);
    world.start();
    let mut had = [0; 4];
    world.processes.iter_mut().for_each(|it| it.wants = 1);
    for _ in 0..60_000 {
        world.pass();
        for (had, process) in had.iter_mut().zip(&world.processes) {
            *had += u64::from(process.sessions > 0);
        }
    }
    assert!(had.iter().all(|had| *had > 0), "{had:?}");
}
