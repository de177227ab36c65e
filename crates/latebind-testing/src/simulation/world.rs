//! The world of one simulation: its clock, and its threads. One thread runs at a time.
//!
//! A thread has the turn until it takes a step, waits or ends. Then the seed says who has it next. If
//! all wait, the clock goes on to the first time for which one waits.

use std::any::Any;
use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use latebind::Threads;
use latebind::simulation::Conductor;
use latebind::simulation::Place;
use latebind::simulation::conduct_by;
use latebind::simulation::simulate_threads;

use super::luck::Luck;
use super::luck::Manner;
use crate::limits::lock;
use crate::limits::message;
use crate::script::mix;

/// A thread that has had the turn for so long, by the system's clock, is stuck in something that is not
/// of the simulation.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// How many changes of turn a failure tells.
const TOLD: usize = 60;

/// Index into `State::threads`.
pub(crate) type Id = usize;

type Body = Box<dyn FnOnce() + Send>;

/// All of one simulation.
pub(crate) struct World {
    begun: Instant,
    most_steps: u64,
    state: Mutex<State>,
    /// Rung when it is over.
    over: Condvar,
    /// Those of the pools that are given none.
    threads: Threads,
}

struct State {
    luck: Luck,
    manner: Manner,
    /// Nanoseconds since it began.
    time: u64,
    /// Nanoseconds of `time` that passed while a thread could have run.
    lag: u64,
    threads: Vec<Thread>,
    ready: Vec<Id>,
    waiting: Vec<Id>,
    /// The first time for which a thread waits; `u64::MAX`: none does.
    next_alarm: u64,
    running: Id,
    steps: u64,
    switches: u64,
    /// Tells two courses of events apart.
    trace: u64,
    latest: VecDeque<(u64, Id)>,
    /// Counts turns of those who do not wait for quiet.
    turns: u64,
    least_priority: u64,
    /// Whether the thread that has the turn keeps it, and no time passes.
    is_still: bool,
    over: Option<Result<(), String>>,
}

struct Thread {
    name: String,
    seat: Arc<Seat>,
    state: Standing,
    priority: u64,
    is_late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ready,
    Waits(On, u64),
    Ended,
}

/// The thing that a thread waits for, besides a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Time,
    Place(Place),
    End(Id),
    /// That no other can run; with the count of turns when it began to wait.
    Quiet(u64),
}

/// Where a thread of the system sits until it has the turn.
#[derive(Default)]
struct Seat {
    has_turn: AtomicBool,
    thread: OnceLock<thread::Thread>,
}

impl Seat {
    fn give_turn(&self) {
        self.has_turn.store(true, SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn await_turn(&self) {
        self.thread.get_or_init(thread::current);
        while !self.has_turn.swap(false, SeqCst) {
            thread::park();
        }
    }
}

/// The counts of a simulation.
pub(crate) struct Tally {
    pub(crate) steps: u64,
    pub(crate) switches: u64,
    pub(crate) time: Duration,
    pub(crate) trace: u64,
}

thread_local! {
    static THIS: RefCell<Option<Member>> = const { RefCell::new(None) };
    static EXPECTS_PANIC: Cell<bool> = const { Cell::new(false) };
}

/// One thread of a simulation.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) world: Arc<World>,
    pub(crate) id: Id,
}

/// This thread, if it is of a simulation.
pub(crate) fn this() -> Option<Member> {
    THIS.try_with(|this| this.borrow().clone()).ok().flatten()
}

/// Says that this thread is about to panic on purpose, to see what the pool makes of it. Any other panic
/// that a pool catches fails its simulation.
///
/// An [`Act::Panic`](crate::Act::Panic) says so by itself.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use latebind::{GetError, Pool};
/// use latebind_testing::simulation;
///
/// simulation::run(1, || {
///     let pool = Pool::new(latebind::dialers::dialer_fn(|_| -> Result<(), Infallible> {
///         simulation::expect_panic();
///         panic!("a mistake in the dialer");
///     }));
///     assert!(matches!(pool.get(), Err(GetError::Unreachable { .. })));
/// });
/// ```
pub fn expect_panic() {
    EXPECTS_PANIC.set(true);
}

impl World {
    pub(crate) fn new(seed: u64, most_steps: u64) -> Arc<Self> {
        let mut luck = Luck::new(seed);
        let manner = Manner::by(&mut luck);
        let state = State {
            luck,
            manner,
            time: 0,
            lag: 0,
            threads: Vec::new(),
            ready: Vec::new(),
            waiting: Vec::new(),
            next_alarm: u64::MAX,
            running: 0,
            steps: 0,
            switches: 0,
            trace: seed,
            latest: VecDeque::new(),
            turns: 0,
            least_priority: u64::MAX / 2,
            is_still: false,
            over: None,
        };
        Arc::new(Self {
            begun: Instant::now(),
            most_steps,
            state: Mutex::new(state),
            over: Condvar::new(),
            threads: Threads::new(|thread, body| thread.spawn(body)),
        })
    }

    /// Runs `body` as the first thread, and all threads that come of it to their ends.
    pub(crate) fn run(self: &Arc<Self>, body: Body) -> Result<Tally, String> {
        let body = self.enroll("main".to_owned(), body);
        thread::Builder::new().spawn(body).map_err(|error| format!("no thread: {error}"))?;
        let first = Arc::clone(&self.state().threads[0].seat);
        first.give_turn();
        let mut state = self.state();
        let mut steps = state.steps;
        while state.over.is_none() {
            let waited = self.over.wait_timeout(state, STUCK_AFTER);
            let (back, wait) = waited.unwrap_or_else(|poison| poison.into_inner());
            state = back;
            if wait.timed_out() && state.over.is_none() && state.steps == steps {
                let name = &state.threads[state.running].name;
                let text = format!("{name} is stuck in something that is not of the simulation");
                state.end(Err(text));
            }
            steps = state.steps;
        }
        let State { steps, switches, time, trace, .. } = *state;
        let tally = Tally { steps, switches, time: Duration::from_nanos(time), trace };
        state.over.clone().expect("it is over").map(|()| tally)
    }

    /// Wraps `body`, so that a thread of the system that runs it runs as a thread of this simulation.
    pub(crate) fn enroll(self: &Arc<Self>, name: String, body: Body) -> Body {
        let id = self.state().add(name);
        let ticket = Ticket { world: Arc::clone(self), id, has_begun: false };
        Box::new(move || ticket.begin(body))
    }

    /// A thread of this simulation, started by the system.
    pub(crate) fn spawn(self: &Arc<Self>, name: Option<String>, body: Body) -> Id {
        let id = self.state().threads.len();
        let name = name.unwrap_or_else(|| format!("thread {id}"));
        let body = self.enroll(name.clone(), body);
        if let Err(error) = thread::Builder::new().name(name).spawn(body) {
            self.fail(format!("no thread: {error}"));
        }
        id
    }

    pub(crate) fn lag(&self) -> Duration {
        Duration::from_nanos(self.state().lag)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.state().time)
    }

    pub(crate) fn random(&self) -> u64 {
        self.state().luck.next()
    }

    /// Has the thread at turn keep it while it looks, and the clock stand still.
    pub(crate) fn look<T>(&self, look: impl FnOnce() -> T) -> T {
        self.state().is_still = true;
        let seen = look();
        self.state().is_still = false;
        seen
    }

    pub(crate) fn has_ended(&self, id: Id) -> bool {
        self.state().threads[id].state == Standing::Ended
    }

    /// Ends the simulation with a failure. This thread and all others stay where they are.
    pub(crate) fn fail(&self, why: String) -> ! {
        self.note_failure(why);
        loop {
            thread::park();
        }
    }

    fn note_failure(&self, why: String) {
        self.state().end(Err(why));
        self.over.notify_all();
    }

    /// Lets another thread have the turn.
    pub(crate) fn step(&self, me: Id) {
        let mut state = self.state();
        state.steps += 1;
        if state.is_still {
            return;
        }
        state.let_time_pass();
        let next = state.choose(Some(me));
        self.pass_turn(state, me, Some(next));
    }

    /// Waits, and says whether its time was up.
    pub(crate) fn wait(&self, me: Id, on: On, until: Option<u64>) -> bool {
        let mut state = self.state();
        state.steps += 1;
        state.is_still = false;
        state.fall_asleep(me, on, until.unwrap_or(u64::MAX));
        let State { luck, manner, .. } = &mut *state;
        if matches!(on, On::Place(Place::Bell(_))) && luck.once_in(manner.spurious) {
            state.wake(me, false);
        }
        let next = state.next();
        self.pass_turn(state, me, next);
        self.state().threads[me].is_late
    }

    pub(crate) fn wake(&self, on: On) {
        let mut state = self.state();
        loop {
            let waits =
                |id: &Id| matches!(state.threads[*id].state, Standing::Waits(at, _) if at == on);
            let sleepers: Vec<Id> = state.waiting.iter().copied().filter(waits).collect();
            if sleepers.is_empty() {
                return;
            }
            let at = state.luck.below(sleepers.len() as u64) as usize;
            state.wake(sleepers[at], false);
        }
    }

    fn pass_turn(&self, mut state: MutexGuard<'_, State>, me: Id, next: Option<Id>) {
        if state.over.is_none() && state.steps > self.most_steps {
            let text = format!("it has not ended after {} steps", self.most_steps);
            state.end(Err(text));
        }
        if state.over.is_none() && next.is_none() {
            state.end(Err("nobody can run, and no time is waited for".to_owned()));
        }
        if state.over.is_some() {
            drop(state);
            self.over.notify_all();
            loop {
                thread::park();
            }
        }
        let next = next.expect("there is one");
        state.note_turn(me, next);
        if next != me {
            let (own, other) =
                (Arc::clone(&state.threads[me].seat), Arc::clone(&state.threads[next].seat));
            drop(state);
            other.give_turn();
            own.await_turn();
        }
    }

    /// Gives the turn away for good.
    fn leave(&self, me: Id) {
        let mut state = self.state();
        state.bury(me);
        if state.threads.iter().all(|thread| thread.state == Standing::Ended) {
            state.end(Ok(()));
        } else if let Some(next) = state.next() {
            state.note_turn(me, next);
            let other = Arc::clone(&state.threads[next].seat);
            drop(state);
            return other.give_turn();
        } else {
            state.end(Err("nobody can run, and no time is waited for".to_owned()));
        }
        drop(state);
        self.over.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn add(&mut self, name: String) -> Id {
        let id = self.threads.len();
        let priority = self.luck.next() / 2 + u64::MAX / 2;
        let state = Standing::Ready;
        self.threads.push(Thread { name, seat: Arc::default(), state, priority, is_late: false });
        self.ready.push(id);
        id
    }

    /// Time goes on while threads run, and now and then they are held up until somebody's time is up.
    fn let_time_pass(&mut self) {
        let mut to = self.time + self.manner.per_step;
        let is_near = self.next_alarm < self.time + self.manner.longest_stall;
        if is_near && self.luck.once_in(self.manner.stalls) {
            to = self.next_alarm.max(to);
        }
        self.lag += to - self.time;
        self.go_to(to);
    }

    fn go_to(&mut self, time: u64) {
        self.time = self.time.max(time); // A wait may begin after its time.
        while self.next_alarm <= self.time {
            let now = self.time;
            self.wake_where(
                true,
                |standing| matches!(standing, Standing::Waits(_, until) if until <= now),
            );
        }
    }

    /// Chooses a thread that can run for the next turn. Mostly the one that has the turn keeps it.
    fn choose(&mut self, me: Option<Id>) -> Id {
        if self.manner.is_by_priority {
            if let Some(me) = me.filter(|_| self.luck.once_in(self.manner.switches)) {
                self.least_priority -= 1;
                self.threads[me].priority = self.least_priority;
            }
            let first = self.ready.iter().max_by_key(|id| self.threads[**id].priority);
            return *first.expect("one can run");
        }
        match me {
            Some(me) if !self.luck.once_in(self.manner.switches) => me,
            _ => self.ready[self.luck.below(self.ready.len() as u64) as usize],
        }
    }

    /// The thread that has the turn when the one that had it waits or has ended.
    fn next(&mut self) -> Option<Id> {
        if self.ready.is_empty() {
            self.call_those_for_quiet();
        }
        if self.ready.is_empty() && self.next_alarm < u64::MAX {
            self.go_to(self.next_alarm);
        } else if self.ready.is_empty() {
            self.dismiss_those_for_quiet();
        }
        (!self.ready.is_empty()).then(|| self.choose(None))
    }

    fn call_those_for_quiet(&mut self) {
        let turns = self.turns;
        self.wake_where(
            false,
            |standing| matches!(standing, Standing::Waits(On::Quiet(since), _) if since < turns),
        );
    }

    /// Nothing will happen any more.
    fn dismiss_those_for_quiet(&mut self) {
        self.wake_where(true, |standing| matches!(standing, Standing::Waits(On::Quiet(_), _)));
    }

    fn wake_where(&mut self, is_late: bool, is_meant: impl Fn(Standing) -> bool) {
        let waiting = self.waiting.iter().copied();
        let meant: Vec<Id> = waiting.filter(|id| is_meant(self.threads[*id].state)).collect();
        meant.into_iter().for_each(|id| self.wake(id, is_late));
    }

    fn fall_asleep(&mut self, id: Id, mut on: On, until: u64) {
        if let On::Quiet(since) = &mut on {
            *since = self.turns;
        } else {
            self.turns += 1;
        }
        self.threads[id].state = Standing::Waits(on, until);
        self.threads[id].is_late = false;
        self.ready.retain(|other| *other != id);
        self.waiting.push(id);
        self.next_alarm = self.next_alarm.min(until);
    }

    fn wake(&mut self, id: Id, is_late: bool) {
        self.threads[id].state = Standing::Ready;
        self.threads[id].is_late = is_late;
        self.waiting.retain(|other| *other != id);
        self.ready.push(id);
        let alarms = self.waiting.iter().filter_map(|id| match self.threads[*id].state {
            Standing::Waits(_, until) => Some(until),
            _ => None,
        });
        self.next_alarm = alarms.min().unwrap_or(u64::MAX);
    }

    fn bury(&mut self, id: Id) {
        self.turns += 1;
        self.threads[id].state = Standing::Ended;
        self.ready.retain(|other| *other != id);
        self.wake_where(
            false,
            |standing| matches!(standing, Standing::Waits(On::End(of), _) if of == id),
        );
    }

    fn note_turn(&mut self, me: Id, next: Id) {
        self.trace = mix(self.trace ^ mix(self.time) ^ (me as u64) << 32 ^ next as u64);
        self.running = next;
        if me != next {
            self.switches += 1;
            self.latest.push_back((self.time, next));
            if self.latest.len() > TOLD {
                self.latest.pop_front();
            }
        }
    }

    fn end(&mut self, outcome: Result<(), String>) {
        if self.over.is_none() {
            self.over = Some(outcome.map_err(|why| self.story(&why)));
        }
    }

    /// An account of the run so far, for a failure.
    fn story(&self, why: &str) -> String {
        let mut story = format!("{why}\n");
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let _ = writeln!(story, "after {} steps, at {:.6} s:", self.steps, seconds(self.time));
        for (id, thread) in self.threads.iter().enumerate() {
            let does = match thread.state {
                Standing::Ended => continue,
                Standing::Ready if id == self.running => "runs".to_owned(),
                Standing::Ready => "could run".to_owned(),
                Standing::Waits(on, u64::MAX) => format!("waits for {}", self.name_of(on)),
                Standing::Waits(on, until) => {
                    format!("waits for {} until {:.6} s", self.name_of(on), seconds(until))
                }
            };
            let _ = writeln!(story, "  {id} {}: {does}", thread.name);
        }
        let _ = write!(story, "the latest turns:");
        for (time, id) in &self.latest {
            let _ = write!(story, " {:.6} {};", seconds(*time), self.threads[*id].name);
        }
        story
    }

    fn name_of(&self, on: On) -> String {
        match on {
            On::Time => "a time".to_owned(),
            On::Place(Place::Lock(_)) => "a lock".to_owned(),
            On::Place(Place::Bell(_)) => "a bell".to_owned(),
            On::End(id) => format!("the end of {}", self.threads[id].name),
            On::Quiet(_) => "quiet".to_owned(),
        }
    }
}

/// Carried by what a thread of the system is to run. If it never runs, its drop takes the thread off.
struct Ticket {
    world: Arc<World>,
    id: Id,
    has_begun: bool,
}

impl Ticket {
    fn begin(mut self, body: Body) {
        self.has_begun = true;
        let (world, id) = (Arc::clone(&self.world), self.id);
        let seat = Arc::clone(&world.state().threads[id].seat);
        seat.await_turn();
        let member = Member { world, id };
        THIS.set(Some(member.clone()));
        simulate_threads(Some(member.world.threads.clone()));
        conduct_by(Some(Box::new(member.clone())));
        let outcome = catch_unwind(AssertUnwindSafe(body));
        conduct_by(None);
        simulate_threads(None);
        THIS.set(None);
        match outcome {
            Ok(()) => member.world.leave(id),
            Err(payload) => {
                let name = member.world.state().threads[id].name.clone();
                member.world.note_failure(format!("{name} panicked: {}", message(&*payload)));
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.has_begun {
            self.world.state().bury(self.id);
        }
    }
}

impl Member {
    fn since_begin(&self, time: Instant) -> u64 {
        let span = time.saturating_duration_since(self.world.begun);
        u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Conductor for Member {
    fn step(&self) {
        self.world.step(self.id);
    }

    fn wait(&self, at: Place, until: Option<Instant>) -> bool {
        self.world.wait(self.id, On::Place(at), until.map(|until| self.since_begin(until)))
    }

    fn wake_all(&self, at: Place) {
        self.world.wake(On::Place(at));
    }

    fn sleep(&self, span: Duration) {
        let until = (self.world.elapsed().saturating_add(span)).as_nanos();
        self.world.wait(self.id, On::Time, u64::try_from(until).ok());
    }

    fn now(&self) -> Instant {
        self.world.begun + self.world.elapsed()
    }

    fn coarse_now(&self) -> Instant {
        let state = self.world.state();
        self.world.begun + Duration::from_nanos(state.time - state.time % state.manner.tick)
    }

    fn number(&self) -> usize {
        self.id + 1
    }

    fn random(&self) -> u64 {
        self.world.random()
    }

    fn enroll(&self, body: Body) -> Body {
        let id = self.world.state().threads.len();
        self.world.enroll(format!("worker {id}"), body)
    }

    fn note_panic(&self, payload: &(dyn Any + Send)) {
        if !EXPECTS_PANIC.take() {
            self.world.fail(format!("the pool has caught a panic: {}", message(payload)));
        }
    }
}
