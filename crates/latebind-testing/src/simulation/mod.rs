//! Runs pools, and the code that uses them, under a schedule and a clock that a seed decides.
//!
//! [`run`] gives a simulation to a closure: the pools that are opened inside, their worker threads, and
//! the threads that [`spawn`] starts are the pools and threads of that simulation. They are the real
//! `Pool` and `KeyedPool`. One of these threads runs at a time, and at every lock, atomic and wait
//! inside the pool the seed decides who goes on. So a run with the same seed is the same run, to the
//! last step.
//!
//! # Time
//!
//! The pools read the simulation's clock, and so does [`now`]. It stands still as long as a thread can
//! run, but for the delays that the seed thinks up, and goes on at once to the next thing that is due
//! when all threads wait. Ten minutes of [`sleep`] take microseconds, and every idle limit, lifetime,
//! leak report, back-off and deadline in between comes in its order. So this is also the clock that a
//! test turns by hand:
//!
//! ```
//! use std::time::Duration;
//! use latebind::Pool;
//! use latebind_testing::{Scripted, simulation};
//!
//! simulation::run(1, || {
//!     let pool = Pool::builder(Scripted::new()).max_idle_time(Duration::from_secs(600)).build()?;
//!     drop(pool.get());
//!     simulation::sleep(Duration::from_secs(590));
//!     assert_eq!(pool.stats().idle, 1);
//!     simulation::sleep(Duration::from_secs(20));
//!     assert_eq!(pool.stats().idle, 0);
//!     Ok::<(), latebind::ConfigError>(())
//! })?;
//! # Ok::<(), latebind::ConfigError>(())
//! ```
//!
//! # What a failure says
//!
//! A simulation fails if a thread panics, if the pool catches a panic that was not
//! [planned](expect_panic), if threads are left that wait for ever, or if it does not come to an end.
//! The message has the seed, what each thread was about, and the latest turns. `run` with that seed does
//! it again.
//!
//! # Rules for the code inside
//!
//! - Threads are started with [`spawn`] and joined with [`JoinHandle::join`]. Only they use the pools.
//! - Waiting is done with the pool, [`sleep`], [`JoinHandle::join`], a [`Gate`](crate::Gate) or a script's
//!   delay. To wait by other means keeps the turn: harmless for a lock that is never held across a call
//!   of the above, a standstill if another thread of the simulation would have to run. A standstill of a
//!   minute fails the simulation.
//! - Time is read with [`now`]. Deadlines that a dialer is given are of that clock.
//! - Chance comes from [`random`], and a map that is gone through is a `BTreeMap`, or the run is not the
//!   same again.
//!
//! # What it does not find
//!
//! All atomics are sequentially consistent here: what a processor may reorder is for loom, with which the
//! pool's own parts are checked. And a seed tries one schedule, not all.
//!
//! # Why threads of the system
//!
//! `shuttle` has the schedules, but no time; its threads share the thread-locals and the id of one thread
//! of the system, which the pool reads; and code that waits with anything but shuttle's own types stops
//! everything, so nobody could run their own code in it. Here a thread is a thread of the system that
//! waits for its turn. A change of turn costs some microseconds, but most steps change nothing.

mod luck;
mod world;

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use latebind::simulation::Conductor;

use self::world::Id;
use self::world::Member;
use self::world::On;
use self::world::World;
use crate::limits::lock;

pub use self::world::expect_panic;
pub(crate) use self::world::this;

/// The result of a simulation.
///
/// # Examples
///
/// See [`Simulation`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome<T = ()> {
    /// The value that the closure has returned.
    pub value: T,
    /// How often a thread could have lost its turn.
    pub steps: u64,
    /// How often another thread had the turn next.
    pub switches: u64,
    /// By the simulation's clock.
    pub time: Duration,
    /// A number that differs for two runs that differ in any turn or time.
    pub trace: u64,
}

/// Runs `body` in a simulation, and all that comes of it to its end. Returns what `body` returns.
///
/// # Panics
///
/// If the simulation fails: see [the module](self). The message has the seed.
///
/// # Examples
///
/// A program's own code, with a server that is away now and then. Each seed is another course of
/// events:
///
/// ```
/// use std::time::Duration;
/// use latebind::Pool;
/// use latebind_testing::{Hook, Scripted, simulation};
///
/// for seed in 0..20 {
///     simulation::run(seed, move || {
///         let dialer = Scripted::new().seed(seed);
///         let script = dialer.script();
///         script.fail_rate(Hook::Dial, 0.3);
///         script.delay_up_to(Hook::Dial, Duration::from_millis(20));
///         let pool = Pool::builder(dialer).max_open(2).build().unwrap();
///         let callers: Vec<_> = (0..4)
///             .map(|_| {
///                 let pool = pool.clone();
///                 simulation::spawn(move || {
///                     let begun = simulation::now();
///                     let outcome = pool.get_timeout(Duration::from_secs(1)).map(drop);
///                     assert!(simulation::now() - begun <= Duration::from_secs(1) + simulation::lag());
///                     outcome.is_ok()
///                 })
///             })
///             .collect();
///         let served = callers.into_iter().filter_map(|caller| caller.join().then_some(())).count();
///         assert!(served <= 4);
///         assert!(script.books().most_open <= 2);
///     });
/// }
/// ```
#[track_caller]
pub fn run<T: Send + 'static>(seed: u64, body: impl FnOnce() -> T + Send + 'static) -> T {
    Simulation::new(seed).run(body).value
}

/// A simulation that is about to begin: see [the module](self).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use latebind_testing::simulation::{self, Simulation};
///
/// let told = Simulation::new(7).run(|| simulation::sleep(Duration::from_secs(3600)));
/// assert!(told.time >= Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug)]
pub struct Simulation {
    seed: u64,
    most_steps: u64,
}

impl Simulation {
    /// With that seed, and at most a million steps.
    ///
    /// # Examples
    ///
    /// See [`Simulation`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, most_steps: 1_000_000 }
    }

    /// After how many steps it fails, because it does not seem to come to an end. A checkout and its
    /// return take some tens.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use latebind_testing::simulation::{self, Simulation};
    ///
    /// let endless = || loop {
    ///     simulation::sleep(Duration::from_secs(1));
    /// };
    /// let failure = Simulation::new(1).most_steps(1000).attempt::<()>(endless).unwrap_err();
    /// assert!(failure.contains("it has not ended after 1000 steps"));
    /// ```
    #[must_use]
    pub fn most_steps(mut self, most_steps: u64) -> Self {
        self.most_steps = most_steps;
        self
    }

    /// Runs `body`, and all that comes of it to its end.
    ///
    /// # Panics
    ///
    /// If the simulation fails. The message has the seed.
    ///
    /// # Examples
    ///
    /// See [`Simulation`].
    #[track_caller]
    pub fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
        self.attempt(body).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The same, but returns the text of a failure.
    ///
    /// The threads of a simulation that fails stay where they are until the process ends.
    ///
    /// # Errors
    ///
    /// The error with which [`run`](Self::run) panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind_testing::simulation::Simulation;
    ///
    /// let failure = Simulation::new(3).attempt(|| assert_eq!(1, 2)).unwrap_err();
    /// assert!(failure.contains("seed 3") && failure.contains("main panicked"));
    /// ```
    pub fn attempt<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Outcome<T>, String> {
        let world = World::new(self.seed, self.most_steps);
        let (slot, body) = returning(body);
        let told = world.run(body);
        let told = told.map_err(|why| format!("the simulation with seed {}: {why}", self.seed))?;
        let value = lock(&slot).take().expect("it has ended");
        let world::Tally { steps, switches, time, trace } = told;
        Ok(Outcome { value, steps, switches, time, trace })
    }
}

/// The seeds that a test tries: those that the environment has in `LATEBIND_SIMULATION_SEEDS`, as `17` or
/// `1000..2000`, or else `usual`.
///
/// # Panics
///
/// If the environment has something else there.
///
/// # Examples
///
/// ```
/// use latebind_testing::simulation;
///
/// for seed in simulation::seeds(0..10) {
///     simulation::run(seed, || {});
/// }
/// ```
#[must_use]
pub fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("LATEBIND_SIMULATION_SEEDS") else { return usual };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match text.split_once("..") {
        Some((first, end)) => number(first).zip(number(end)).map(|(first, end)| first..end),
        None => number(&text).map(|seed| seed..seed + 1),
    };
    range.unwrap_or_else(|| panic!("LATEBIND_SIMULATION_SEEDS is a seed or a range, not {text:?}"))
}

/// The value that a thread has returned, once it has.
type Returned<T> = Arc<Mutex<Option<T>>>;

/// A body that keeps what it returns, and where it does.
fn returning<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> (Returned<T>, Box<dyn FnOnce() + Send>) {
    let slot = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&slot);
    let body = move || {
        let value = body();
        *lock(&filled) = Some(value);
    };
    (slot, Box::new(body))
}

#[track_caller]
fn here() -> Member {
    this().expect(
        "this thread belongs to a simulation: see `simulation::run` and `simulation::spawn`",
    )
}

/// Starts a thread of this simulation. It need not be joined.
///
/// # Panics
///
/// If this thread belongs to none.
///
/// # Examples
///
/// See [`run`].
#[track_caller]
pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    start(None, body)
}

/// The same, with a name for the thread, which a failure shows.
///
/// # Panics
///
/// As [`spawn`].
///
/// # Examples
///
/// ```
/// use latebind_testing::simulation;
///
/// let sum = simulation::run(1, || simulation::spawn_named("adder", || 1 + 1).join());
/// assert_eq!(sum, 2);
/// ```
#[track_caller]
pub fn spawn_named<T: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    start(Some(name.into()), body)
}

#[track_caller]
fn start<T: Send + 'static>(
    name: Option<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let Member { world, .. } = here();
    let (slot, body) = returning(body);
    let id = world.spawn(name, body);
    JoinHandle { world, id, slot }
}

/// A thread of a simulation, to be waited for.
///
/// # Examples
///
/// See [`run`].
pub struct JoinHandle<T> {
    world: Arc<World>,
    id: Id,
    slot: Returned<T>,
}

impl<T> JoinHandle<T> {
    /// Waits for the thread's end, and returns what it has returned. Its panic fails the simulation.
    ///
    /// # Examples
    ///
    /// See [`run`].
    #[track_caller]
    pub fn join(self) -> T {
        let me = here();
        me.step();
        while !self.world.has_ended(self.id) {
            self.world.wait(me.id, On::End(self.id), None);
        }
        lock(&self.slot).take().expect("its panic would have ended the simulation")
    }
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Sleeps by this simulation's clock; by the system's on a thread that belongs to none.
///
/// # Examples
///
/// See [the module](self).
pub fn sleep(span: Duration) {
    match this() {
        Some(me) => me.sleep(span),
        None => std::thread::sleep(span),
    }
}

/// The time by this simulation's clock, or by the system's on a thread that belongs to no simulation.
///
/// # Examples
///
/// See [`run`].
#[must_use]
pub fn now() -> Instant {
    this().map_or_else(Instant::now, |me| me.now())
}

/// Lets the other threads run, if the seed says so: for code that meets other threads by means of its
/// own. Does nothing on a thread that belongs to no simulation.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
/// use latebind_testing::simulation;
///
/// // Two threads add by a read and a write: for some seeds, one addition is lost.
/// let sum = |seed| {
///     simulation::run(seed, || {
///         let sum = Arc::new(AtomicU32::new(0));
///         let add = |sum: Arc<AtomicU32>| {
///             let read = sum.load(SeqCst);
///             simulation::step();
///             sum.store(read + 1, SeqCst);
///         };
///         let other = Arc::clone(&sum);
///         let other = simulation::spawn(move || add(other));
///         add(Arc::clone(&sum));
///         other.join();
///         sum.load(SeqCst)
///     })
/// };
/// assert!((0..50).any(|seed| sum(seed) == 1) && (0..50).any(|seed| sum(seed) == 2));
/// ```
pub fn step() {
    if let Some(me) = this() {
        me.step();
    }
}

/// A number from 0 to `bound` - 1 by this simulation's seed; 0 if `bound` is.
///
/// # Panics
///
/// If this thread belongs to no simulation.
///
/// # Examples
///
/// ```
/// use latebind_testing::simulation;
///
/// let dice = || simulation::run(5, || [(); 3].map(|()| 1 + simulation::random(6)));
/// assert_eq!(dice(), dice());
/// ```
#[must_use]
#[track_caller]
pub fn random(bound: u64) -> u64 {
    ((u128::from(here().random()) * u128::from(bound)) >> 64) as u64
}

/// How much time of this simulation has passed while a thread could have run, because steps take time
/// and the seed has held all threads up. A caller is answered by its deadline, and this much later at
/// most.
///
/// # Panics
///
/// If this thread belongs to no simulation.
///
/// # Examples
///
/// See [`run`].
#[must_use]
#[track_caller]
pub fn lag() -> Duration {
    here().world.lag()
}

/// Has a thread of its own look at the state of things each time that all other threads wait, just
/// before time goes on, and once more at the end.
///
/// Nothing happens beside `look`, and no time passes in it. It must not wait. A pool's
/// [`recent_stats`](latebind::Pool::recent_stats) only reads, while `stats` also has the pool do what is
/// due.
///
/// # Panics
///
/// If this thread belongs to no simulation. A panic of `look` fails the simulation.
///
/// # Examples
///
/// ```
/// use latebind::Pool;
/// use latebind_testing::{Scripted, simulation};
///
/// simulation::run(1, || {
///     let pool = Pool::new(Scripted::new());
///     let watched = pool.clone();
///     simulation::when_quiet(move || {
///         let stats = watched.recent_stats();
///         assert!(stats.waiting == 0 || stats.idle == 0, "a caller waits beside a connection: {stats}");
///     });
///     drop(pool.get());
///     pool.close(); // The observer's handle would keep it open.
/// });
/// ```
#[track_caller]
pub fn when_quiet(mut look: impl FnMut() + Send + 'static) {
    let Member { world, .. } = here();
    spawn_named("observer", move || {
        let me = here();
        loop {
            let is_over = world.wait(me.id, On::Quiet(0), None);
            world.look(&mut look);
            if is_over {
                break;
            }
        }
    });
}
