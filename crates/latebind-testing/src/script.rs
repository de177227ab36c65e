//! `Script`: what the calls of a dialer do, and what its back end counts.

use std::array;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;
use std::panic;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use crate::gate::Gate;
use crate::limits::lock;
use crate::pace;

/// A call of a [`Dialer`](latebind::Dialer) that a script decides about.
///
/// # Examples
///
/// See [`Script`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// [`dial`](latebind::Dialer::dial).
    Dial,
    /// [`is_broken`](latebind::Dialer::is_broken). To fail is to call the connection broken.
    IsBroken,
    /// [`check`](latebind::Dialer::check).
    Check,
    /// [`reset`](latebind::Dialer::reset).
    Reset,
    /// [`close`](latebind::Dialer::close). It cannot fail, so that failing is the same as proceeding.
    Close,
}

impl Hook {
    const ALL: [Self; 5] = [Self::Dial, Self::IsBroken, Self::Check, Self::Reset, Self::Close];

    fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial => "dial",
            Self::IsBroken => "is_broken",
            Self::Check => "check",
            Self::Reset => "reset",
            Self::Close => "close",
        })
    }
}

/// The outcome of a call.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use latebind_testing::{Act, Gate};
///
/// let gate = Gate::new();
/// let late_failure = Act::Fail.after(Duration::from_millis(5));
/// let panic_on_demand = Act::Panic.once_open(&gate);
/// # drop((late_failure, panic_on_demand));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Act {
    /// The same as without a script: a [`Scripted`](crate::Scripted) dialer succeeds, a
    /// [`Faulty`](crate::Faulty) one does as the dialer that it holds.
    Proceed,
    /// Fails.
    Fail,
    /// Panics, without a message on the standard error.
    Panic,
    /// Waits for so long, and does the other then.
    Delay(Duration, Box<Act>),
    /// Waits until the gate is open, and does the other then.
    Hang(Gate, Box<Act>),
}

impl Act {
    /// Does this after so long.
    ///
    /// # Examples
    ///
    /// See [`Act`].
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self::Delay(delay, Box::new(self))
    }

    /// Does this when the gate is open.
    ///
    /// # Examples
    ///
    /// See [`Gate`].
    #[must_use]
    pub fn once_open(self, gate: &Gate) -> Self {
        Self::Hang(gate.clone(), Box::new(self))
    }
}

/// Directs a [`Scripted`](crate::Scripted) or a [`Faulty`](crate::Faulty) dialer, and keeps the back
/// end's side of the books. Clones direct the same dialer.
///
/// A call does the first of these that there is: the next act that [`on`](Self::on) has lined up for
/// its hook, what the seed decides by [`fail_rate`](Self::fail_rate) and
/// [`panic_rate`](Self::panic_rate), what [`always`](Self::always) says. So without a script all calls
/// proceed.
///
/// A decision of the seed depends on the seed, the hook and the number of the call alone: the seventh
/// dial fails in each run with that seed, whichever thread makes it. The seed is drawn at random unless
/// the environment has `LATEBIND_TESTING_SEED` or the dialer was given one, and stands in its
/// `Debug`, in each error that it injects and in each panic.
///
/// # Examples
///
/// ```
/// use latebind::Pool;
/// use latebind_testing::{Act, Hook, Scripted};
///
/// let dialer = Scripted::new();
/// let script = dialer.script();
/// let pool = Pool::builder(dialer).breaker(None).build()?;
///
/// script.on(Hook::Dial, [Act::Fail, Act::Proceed]);
/// assert!(pool.get().is_err());
/// assert!(pool.get().is_ok());
/// assert_eq!(script.calls(Hook::Dial), 2);
/// assert_eq!(script.books().alive(), 1);
/// # Ok::<(), latebind::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Script(Arc<Inner>);

struct Inner {
    seed: u64,
    state: Mutex<State>,
}

struct State {
    hooks: [Lines; 5],
    books: Books,
}

/// The script of one hook.
struct Lines {
    calls: u64,
    next: VecDeque<Act>,
    fail_rate: f64,
    panic_rate: f64,
    longest_delay: Duration,
    otherwise: Act,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            calls: 0,
            next: VecDeque::new(),
            fail_rate: 0.0,
            panic_rate: 0.0,
            longest_delay: Duration::ZERO,
            otherwise: Act::Proceed,
        }
    }
}

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        let hooks = array::from_fn(|_| Lines::default());
        Self(Arc::new(Inner { seed, state: Mutex::new(State { hooks, books: Books::default() }) }))
    }

    /// With the seed of the environment, or one by the simulation's, or one at random.
    pub(crate) fn with_some_seed() -> Self {
        let told = std::env::var("LATEBIND_TESTING_SEED").ok();
        let told = told.and_then(|text| text.trim().parse().ok());
        let drawn = || RandomState::new().build_hasher().finish();
        Self::new(told.or_else(pace::seed).unwrap_or_else(drawn))
    }

    /// Lines up what the next calls of a hook do, after those lined up already.
    ///
    /// # Examples
    ///
    /// See [`Script`].
    pub fn on(&self, hook: Hook, acts: impl IntoIterator<Item = Act>) {
        self.state().hooks[hook.index()].next.extend(acts);
    }

    /// Says what the calls of a hook do for which nothing is lined up.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::Pool;
    /// use latebind_testing::{Act, Hook, Scripted};
    ///
    /// let dialer = Scripted::new();
    /// dialer.script().always(Hook::Dial, Act::Fail);
    /// assert!(Pool::new(dialer).get().is_err());
    /// ```
    pub fn always(&self, hook: Hook, act: Act) {
        self.state().hooks[hook.index()].otherwise = act;
    }

    /// Has a share of a hook's calls fail, as the seed decides. From 0 (the default) to 1; beyond these
    /// it counts as the nearer one.
    ///
    /// # Examples
    ///
    /// See [`Faulty`](crate::Faulty).
    pub fn fail_rate(&self, hook: Hook, rate: f64) {
        self.state().hooks[hook.index()].fail_rate = rate;
    }

    /// Has a share of a hook's calls panic, as the seed decides. From 0 (the default) to 1; beyond
    /// these it counts as the nearer one.
    ///
    /// # Examples
    ///
    /// See [`Faulty`](crate::Faulty).
    pub fn panic_rate(&self, hook: Hook, rate: f64) {
        self.state().hooks[hook.index()].panic_rate = rate;
    }

    /// Delays each call of a hook for which nothing is lined up, by a time from zero to `longest` that
    /// the seed decides. Zero by default.
    ///
    /// # Examples
    ///
    /// See [`Faulty`](crate::Faulty).
    pub fn delay_up_to(&self, hook: Hook, longest: Duration) {
        self.state().hooks[hook.index()].longest_delay = longest;
    }

    /// How often a hook has been called.
    ///
    /// # Examples
    ///
    /// See [`Script`].
    #[must_use]
    pub fn calls(&self, hook: Hook) -> u64 {
        self.state().hooks[hook.index()].calls
    }

    /// By what the rates decide.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind_testing::Scripted;
    ///
    /// let dialer = Scripted::new();
    /// let seed = dialer.script().seed();
    /// assert!(format!("{dialer:?}").contains(&seed.to_string()));
    /// ```
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// How many connections have been opened and closed, as the dialer counted.
    ///
    /// # Examples
    ///
    /// See [`Script`].
    #[must_use]
    pub fn books(&self) -> Books {
        self.state().books
    }

    /// Counts a call, does what is written for it, and tells its number.
    pub(crate) fn perform(&self, hook: Hook) -> Result<u64, Injected> {
        let (call, act, seed) = {
            let mut state = self.state();
            let lines = &mut state.hooks[hook.index()];
            lines.calls += 1;
            let call = lines.calls;
            match lines.next.pop_front() {
                Some(act) => (call, act, None),
                None => {
                    let (act, seed) = self.decide(hook, lines);
                    (call, act, seed)
                }
            }
        };
        perform(act, Injected { hook, call, seed }).map(|()| call)
    }

    /// The seed's decision on a call, or else the one that holds always.
    fn decide(&self, hook: Hook, lines: &Lines) -> (Act, Option<u64>) {
        let draw = |salt: u64| {
            let place = (hook.index() as u64) << 8 | salt;
            let bits = mix(mix(self.0.seed ^ mix(place)) ^ lines.calls);
            (bits >> 11) as f64 / (1u64 << 53) as f64
        };
        let (mut act, mut seed) = (lines.otherwise.clone(), None);
        if draw(0) < lines.panic_rate {
            (act, seed) = (Act::Panic, Some(self.0.seed));
        } else if draw(1) < lines.fail_rate {
            (act, seed) = (Act::Fail, Some(self.0.seed));
        }
        if !lines.longest_delay.is_zero() {
            act = act.after(lines.longest_delay.mul_f64(draw(2)));
        }
        (act, seed)
    }

    pub(crate) fn note_begun(&self) {
        let books = &mut self.state().books;
        books.dialing += 1;
        books.most_open = books.most_open.max(books.alive() + books.dialing);
    }

    pub(crate) fn note_dialed(&self, is_open: bool) {
        let books = &mut self.state().books;
        books.dialing -= 1;
        books.opened += u64::from(is_open);
    }

    pub(crate) fn note_closed(&self) {
        self.state().books.closed += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

/// With the seed, and how often what was called.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = Hook::ALL.map(|hook| (hook, self.calls(hook)));
        f.debug_struct("Script")
            .field("seed", &self.seed())
            .field("calls", &calls)
            .field("books", &self.books())
            .finish()
    }
}

/// The finisher of SplitMix64: each bit of the result depends on each of the number.
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn perform(act: Act, injected: Injected) -> Result<(), Injected> {
    match act {
        Act::Proceed => Ok(()),
        Act::Fail => Err(injected),
        Act::Panic => {
            pace::expect_panic();
            panic::resume_unwind(Box::new(injected.to_string()))
        }
        Act::Delay(delay, act) => {
            pace::sleep(delay);
            perform(*act, injected)
        }
        Act::Hang(gate, act) => {
            gate.pass();
            perform(*act, injected)
        }
    }
}

/// Counts a dial that is under way, also when it panics.
pub(crate) struct Dialing<'a> {
    script: &'a Script,
    is_open: bool,
}

impl<'a> Dialing<'a> {
    pub(crate) fn begin(script: &'a Script) -> Self {
        script.note_begun();
        Self { script, is_open: false }
    }

    pub(crate) fn end(mut self) {
        self.is_open = true;
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.script.note_dialed(self.is_open);
    }
}

/// The counts of a dialer.
///
/// # Examples
///
/// See [`Script`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Books {
    /// Dials under way.
    pub dialing: u64,
    /// Connections that dials have opened.
    pub opened: u64,
    /// Connections that have ended: closed, for a [`Faulty`](crate::Faulty) dialer; dropped, for a
    /// [`Scripted`](crate::Scripted) one, which also counts those that were detached.
    pub closed: u64,
    /// The most that were open or being dialed at one moment.
    pub most_open: u64,
}

impl Books {
    /// Connections that are open: `opened - closed`.
    ///
    /// # Examples
    ///
    /// See [`Script`].
    #[must_use]
    pub fn alive(&self) -> u64 {
        self.opened - self.closed
    }
}

/// A fault that a script has injected.
///
/// # Examples
///
/// ```
/// use latebind::Pool;
/// use latebind_testing::{Act, Hook, Scripted};
///
/// let dialer = Scripted::new();
/// dialer.script().on(Hook::Dial, [Act::Fail]);
/// let error = Pool::new(dialer).get().map(drop).unwrap_err();
/// assert_eq!(error.dial_error().unwrap().to_string(), "dial 1 does as the script says");
/// assert_eq!(error.dial_error().unwrap().call, 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Injected {
    /// The call that failed.
    pub hook: Hook,
    /// Its number, from 1.
    pub call: u64,
    /// The seed, if that has decided.
    pub seed: Option<u64>,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} does as ", self.hook, self.call)?;
        match self.seed {
            Some(seed) => write!(f, "the seed {seed} says (LATEBIND_TESTING_SEED)"),
            None => f.write_str("the script says"),
        }
    }
}

impl Error for Injected {}
