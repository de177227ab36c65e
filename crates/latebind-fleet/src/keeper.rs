//! `Fleet`: the keeper of one process's lease, a thread of its own.

use std::any::Any;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder as ThreadBuilder, JoinHandle, panicking, sleep};
use std::time::{Duration, Instant};

use latebind::Quota;

use crate::book::{Answer, Ask, HolderId, Terms};
use crate::holder::{Demand, Holder, Manners};
use crate::store::{Failure, Server, Store, tag};

/// A process's part in a fleet: it leases slots for one pool, by a thread of its own.
///
/// Dropped, it allows the pool nothing more, and returns the lease if the pool has nothing open: so drain
/// the pool first. Otherwise the lease lasts until its end. The drop waits for the store, but no longer than
/// 5 s: a thread that the store keeps beyond that returns the lease once it can.
///
/// See the [crate](crate#examples) for an example.
pub struct Fleet {
    quota: Quota,
    tag: String,
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    /// Disconnected once the keeper has ended.
    ended: Mutex<Receiver<()>>,
}

/// How a process's lease stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The number of the lease; 0: there is none.
    pub number: u64,
    /// The slots that the store has given.
    pub leased: u32,
    /// The slots that the pool may take: fewer while some are on their way back.
    pub allowed: u32,
    /// Questions that the store has answered.
    pub answers: u64,
    /// How the latest question went wrong, if it did. A panic of the [`Store`] or the [`Server`] counts as
    /// an error.
    pub failure: Option<String>,
}

/// A setting of a fleet is out of bounds, or there is no thread for its keeper.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// The name of the fleet is empty, too long, or has characters that a server would change.
    #[error("{0:?} cannot name a fleet: it takes 1 to 24 of a to z, A to Z, 0 to 9, _ and -")]
    Name(String),
    /// A limit of no slots.
    #[error("the limit of a fleet must be at least 1")]
    NoLimit,
    /// The lease is too short for its margin, or for a store that counts in milliseconds.
    #[error(
        "a lease of {lease:?} is too short: beside a margin of {margin:?} it takes {least:?} or more"
    )]
    LeaseTooShort {
        /// How long a lease lasts.
        lease: Duration,
        /// The time that is taken off it.
        margin: Duration,
        /// The least that a lease must last: twice the margin, and 1 ms.
        least: Duration,
    },
    /// A span is too long.
    #[error("{setting} is {span:?}, but takes {most:?} or less")]
    TooLong {
        /// The setting: `lease`, `settle` or `margin`.
        setting: &'static str,
        /// Its value.
        span: Duration,
        /// The most that it takes.
        most: Duration,
    },
    /// The system has no thread for the keeper.
    #[error("no thread could be started to keep the lease")]
    NoThread,
}

struct Shared {
    ends: AtomicBool,
    status: Mutex<Status>,
}

/// The settings of a fleet. All processes must have the same limit, lease and settling time.
#[must_use = "nothing is leased before `start`"]
pub struct FleetBuilder {
    name: String,
    terms: Terms,
    manners: Manners,
    server: Option<Box<dyn Server>>,
}

impl Fleet {
    /// Begins with the name of the fleet and the most connections of all its processes together.
    pub fn builder(name: impl Into<String>, limit: u32) -> FleetBuilder {
        let manners = Manners::default();
        let terms = Terms { limit, lease: Duration::from_secs(10), settle: manners.settle };
        FleetBuilder { name: name.into(), terms, manners, server: None }
    }

    /// The quota to give to the pool: [`Settings::quota`](latebind::Settings::quota).
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// The name that each of the pool's sessions must bear at the server: `application_name` in
    /// PostgreSQL. The server's count goes by it.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// How the lease stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status().clone()
    }
}

impl FleetBuilder {
    /// How long a lease lasts if it is not renewed. Defaults to 10 s: a process that has died is replaced
    /// within that time, and a store that is away for less than that is not noticed. Stores that have no
    /// use for it ([`PostgresStore`](crate::PostgresStore)) do not heed it. It takes twice the
    /// [margin](Self::margin), and 1 ms, at least, and a day at most.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.terms.lease = lease;
        self
    }

    /// For how long the server may count a session that its client has ended, at most. Defaults to 250 ms.
    ///
    /// A slot is returned so much later than its connection was closed. Where the server is
    /// [counted](Self::server), it is returned after that and once the server counts the session no more. It
    /// takes a day at most.
    pub fn settle(mut self, settle: Duration) -> Self {
        (self.terms.settle, self.manners.settle) = (settle, settle);
        self
    }

    /// How much earlier than the store this process takes its lease for ended. Defaults to 500 ms, which
    /// covers what two clocks may differ by in a lease, and the 100 ms by which upkeep may be late.
    pub fn margin(mut self, margin: Duration) -> Self {
        self.manners.margin = margin;
        self
    }

    /// The server that is protected, as it counts: for a store that is elsewhere.
    ///
    /// With it a slot of a process that was killed, stopped or cut off is given to another only once the
    /// server has ended that process's sessions. Without it, when the lease has ended and the settling time
    /// has passed: then a process that is stopped may still have them.
    pub fn server(mut self, server: impl Server) -> Self {
        self.server = Some(Box::new(server));
        self
    }

    /// Starts the keeper's thread. It connects by itself, and again after every failure.
    ///
    /// # Errors
    ///
    /// [`FleetError`] says which setting is out of bounds, or that there is no thread.
    pub fn start(self, mut store: impl Store) -> Result<Fleet, FleetError> {
        let Self { name, terms, manners, mut server } = self;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 24 || !name.chars().all(is_plain) {
            return Err(FleetError::Name(name));
        }
        if terms.limit == 0 {
            return Err(FleetError::NoLimit);
        }
        let (lease, margin) = (terms.lease, manners.margin);
        for (setting, span) in [("lease", lease), ("settle", terms.settle), ("margin", margin)] {
            if span > LONGEST {
                return Err(FleetError::TooLong { setting, span, most: LONGEST });
            }
        }
        let least = SHORTEST_LEASE.max(margin * 2);
        if lease < least {
            return Err(FleetError::LeaseTooShort { lease, margin, least });
        }
        let id = HolderId(RandomState::new().hash_one(std::process::id()));
        let tag = tag(&name, id);
        let quota = Quota::with_settling(terms.settle);
        let shared = Arc::new(Shared::new());
        store.open(&name, terms);
        if let Some(server) = &mut server {
            server.open(&name);
        }
        let keeper = Keeper {
            quota: quota.clone(),
            shared: Arc::clone(&shared),
            holder: Holder::new(id, manners),
            store: Box::new(store),
            server,
            origin: Instant::now(),
            settle: terms.settle,
        };
        let thread = ThreadBuilder::new().name("latebind-fleet".to_owned());
        let (ends, ended) = channel();
        let run = || {
            let _ends = ends; // Dropped after all else of the keeper's.
            keeper.run();
        };
        let keeper = thread.spawn(run).map_err(|_| FleetError::NoThread)?;
        Ok(Fleet { quota, tag, shared, keeper: Some(keeper), ended: Mutex::new(ended) })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        // Before the wait: the keeper may be waiting for its store.
        self.quota.allow(0, Some(Instant::now()));
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let has_ended = ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected);
        if let Some(keeper) = self.keeper.take().filter(|_| has_ended) {
            let _ = keeper.join(); // A panic of its has taken the allowance away.
        }
        // The keeper may have allowed something meanwhile, and been held up before it looked whether it may.
        self.quota.allow(0, Some(Instant::now()));
    }
}

impl Shared {
    fn new() -> Self {
        Self { ends: AtomicBool::new(false), status: Mutex::default() }
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most that a span may be. No fleet needs more, and no sum of a few of them is beyond a clock.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The least that a lease may last: stores count in milliseconds.
const SHORTEST_LEASE: Duration = Duration::from_millis(1);

/// How long the drop of a fleet waits for its keeper.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the keeper sleeps at most, and at least between two turns.
const TURN_MOST: Duration = Duration::from_millis(100);
const TURN_LEAST: Duration = Duration::from_millis(1);

struct Keeper {
    quota: Quota,
    shared: Arc<Shared>,
    holder: Holder,
    store: Box<dyn Store>,
    server: Option<Box<dyn Server>>,
    origin: Instant,
    settle: Duration,
}

impl Keeper {
    fn run(mut self) {
        let (mut seen, mut allowed) = (self.quota.demand(), (0, None));
        while !self.shared.ends.load(Ordering::Acquire) {
            let now = self.origin.elapsed();
            let waiting = seen.waiting_since.map_or(Duration::ZERO, |since| since.elapsed());
            let demand = Demand { open: seen.open, idle: seen.idle, wanted: seen.wanted, waiting };
            let turn = self.holder.turn(now, demand);
            if turn.is_over {
                self.quota.allow(0, Some(Instant::now()));
            }
            if turn.is_over || turn.allow != allowed {
                allowed = turn.allow;
                self.allow(allowed.0, allowed.1);
                self.note();
            }
            if let Some(ask) = turn.ask {
                self.ask(ask);
                self.note();
                seen = self.quota.demand();
                continue;
            }
            sleep(TURN_LEAST);
            let until = self.origin + turn.next.min(now + TURN_MOST);
            seen = self.quota.demand_after(&seen, until);
        }
        self.leave();
    }

    /// Allows the pool so much, unless the fleet has been dropped meanwhile.
    fn allow(&self, slots: u32, until: Option<Duration>) {
        // An end beyond the clock is none.
        self.quota.allow(slots, until.and_then(|until| self.origin.checked_add(until)));
        if self.shared.ends.load(Ordering::Acquire) {
            self.quota.allow(0, Some(Instant::now()));
        }
    }

    /// Asks the store, and takes in what it says.
    fn ask(&mut self, mut ask: Ask) {
        let sent = self.origin.elapsed();
        let outcome = guarded(|| self.question(&mut ask));
        let now = self.origin.elapsed();
        match outcome {
            Ok(answer) => {
                self.holder.answered(sent, now, &ask, &answer);
                let ends = |id| self.server.as_mut().map_or(Ok(()), |server| server.end(id));
                let ended = guarded(|| answer.lapsed.iter().copied().try_for_each(ends));
                let mut status = self.shared.status();
                status.answers += 1;
                status.failure = ended.err();
            }
            Err(failure) => {
                self.holder.failed(now);
                self.shared.status().failure = Some(failure);
            }
        }
    }

    /// Asks the store, and before that the server if something depends on its count.
    fn question(&mut self, ask: &mut Ask) -> Result<Answer, Failure> {
        let needs_count = self.holder.needs_count(ask);
        let sessions = match &mut self.server {
            Some(server) if needs_count => Some(server.sessions()?),
            Some(_) => None,
            None => Some(Vec::new()),
        };
        let own = |list: &Vec<(HolderId, u32)>| {
            list.iter().find(|(id, _)| *id == ask.holder).map_or(0, |(_, count)| *count)
        };
        // A slot that the server still counts is not returned yet.
        ask.held = ask.held.max(sessions.as_ref().map_or(0, own)).min(self.holder.stored());
        ask.sessions = sessions;
        self.store.ask(ask)
    }

    fn note(&self) {
        let mut status = self.shared.status();
        status.number = self.holder.number();
        status.leased = self.holder.stored();
        status.allowed = self.holder.allowed();
    }

    /// Returns the lease, if nothing of it is open.
    fn leave(&mut self) {
        self.quota.allow(0, Some(Instant::now()));
        let (mut open, deadline) = (self.quota.demand(), Instant::now() + self.settle * 2);
        while open.open > 0 && Instant::now() < deadline {
            // The slots of connections that have just closed still settle.
            open = self.quota.demand_after(&open, deadline);
        }
        if self.holder.number() == 0 || open.open > 0 {
            return;
        }
        let id = self.holder.id();
        let is_clear = match &mut self.server {
            Some(server) => guarded(|| server.sessions())
                .is_ok_and(|list| list.iter().all(|(other, count)| *other != id || *count == 0)),
            None => true,
        };
        if is_clear {
            // If the store cannot be told, the lease lasts until its end.
            let _ = guarded(|| self.store.leave(id, self.holder.number()));
        }
    }
}

/// However it ends: where a lease has no end, the pool would have its slots for ever.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.quota.allow(0, Some(Instant::now()));
        let mut status = self.shared.status();
        status.allowed = 0;
        if panicking() {
            status.failure = Some("the keeper has ended by a panic".to_owned());
        }
    }
}

/// Calls a store or a server, which are others' code, as are their errors.
fn guarded<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, String> {
    let call = || call().map_err(|error| one_line(&error));
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(format!("a panic: {}", message(&*panic))))
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}

/// An error with its sources.
fn one_line(error: &Failure) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, .. } = self;
        f.debug_struct("Fleet")
            .field("tag", tag)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
