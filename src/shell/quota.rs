//! `Quota`: bounds a pool's slots from outside, while it runs.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::ConfigError;
use crate::ledger::budget::{Allowance, Need};
use crate::ledger::lease::Lease;
use crate::runtime::moment::Moment;
use crate::runtime::sync::{AtomicU64, Condvar, Mutex, Ordering, Process, Wake, now};

/// Bounds how many connections a pool may have open, from outside and while the pool runs.
///
/// A server's limit belongs to all processes that use it together. Somebody outside of the pool shares
/// it among them, for example a thread that leases slots from a common store. A quota is what this
/// *keeper* and the pool have in common. The pool takes a slot from it before each dial, and returns the
/// slot when the dialer's `close` has returned. The keeper learns what the pool [needs](Self::demand),
/// and says what it [may have](Self::allow).
///
/// A handle: cheap to clone, and all clones are the same quota. It bounds one pool at a time, a
/// [`Pool`](crate::Pool) or a [`KeyedPool`](crate::KeyedPool) with all of its keys, beside the pool's
/// own `max_open` or `max_open_total`. At first it allows nothing: callers wait, as they do while all
/// connections are in use.
///
/// A checkout of an idle connection and its return cost the same with a quota and without.
///
/// # Less than is open
///
/// If the keeper allows fewer slots than are taken, idle connections are closed at once, longest idle
/// first, and others when they are returned, even if callers wait for them. Nothing is dialed meanwhile.
///
/// # A slot that settles
///
/// A server counts a connection until it has ended its own side, some milliseconds after the client has
/// closed it. In that time a plain pool may have one connection more than its bound, as the server counts.
/// With a [settling time](Self::with_settling) a slot counts as open for that much longer, and no dial takes
/// it before. In a pool that is at its bound, the replacement of a connection comes later by that time.
///
/// # The end of a lease
///
/// An allowance may end at a given time. From then on nothing is dialed, and nothing that is open is
/// lent: what is idle is closed, and what is in use is closed at its return. Connections whose dialer
/// gave an [abort handle](crate::Dialer::abort_handle) are aborted, as by
/// [`Pool::abort`](crate::Pool::abort). A connection from before is not lent again even if the keeper
/// allows slots later. No thread has to run in time for this: a process that was stopped past the end
/// (SIGSTOP, a suspended machine) finds its connections too old to be lent when it goes on. A dial's
/// deadline is never later than the end, as it was known when the dial began.
///
/// Upkeep may close and abort up to 100 ms late, so let the end be that much before the slots go to
/// others.
///
/// # Examples
///
/// ```
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let dialer = latebind::net::TcpDialer::from(listener.local_addr()?);
/// use latebind::{Pool, Quota};
///
/// let quota = Quota::new();
/// let pool = Pool::builder(dialer).quota(&quota).build()?;
/// assert!(pool.try_get().is_err(), "nothing is allowed yet");
/// quota.allow(2, None);
/// let guard = pool.get()?;
/// assert_eq!(quota.demand().open, 1);
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Quota {
    shared: Arc<Shared>,
    /// The process that made it. In a child of that process nothing is needed or allowed.
    process: Process,
}

/// The slots that a pool under a [`Quota`] needs, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Demand {
    /// The slots that are taken: connections idle, in use, being dialed and being closed, and slots that
    /// [settle](Quota#a-slot-that-settles).
    pub open: u32,
    /// Further slots that the pool could use now, for callers who wait, for a
    /// [warm-up](crate::Pool::warm_up) and for [`min_idle`](crate::Settings::min_idle).
    pub wanted: u32,
    /// Since when the first of those has waited.
    pub waiting_since: Option<Instant>,
    /// How many of `open` serve nobody now: they settle, or are idle, as counted without a lock.
    pub idle: u32,
}

/// A pool, or the pools of all keys, that a quota bounds.
pub(crate) trait Bounded: Send + Sync {
    /// Applies the quota's allowance of this moment. Takes the locks of the pool.
    fn apply_quota(&self);

    fn idle(&self) -> u32;
}

struct Shared {
    settling: Duration,
    /// 0 or 1: whether a lease has ever had an end. Written before the lease reaches the pool, and read
    /// without the lock by a caller to whom the pool has lent.
    may_lapse: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

/// Locked last: a thread that holds it takes no other lock.
struct State {
    allowance: Allowance,
    /// The number of the lease: one more at each allowance that comes after the end of the previous one.
    number: u64,
    pool: Option<Weak<dyn Bounded>>,
    need: Need,
}

impl State {
    /// Whether the pool that it bounds may take a slot, or has one.
    fn has_pool(&self) -> bool {
        // A closed pool may be there for a while yet: a caller has a handle, or a thread is at its last event.
        !self.need.is_over && self.pool.as_ref().is_some_and(|pool| pool.strong_count() > 0)
    }
}

impl Quota {
    /// A quota that allows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_settling(Duration::ZERO)
    }

    /// The same, whose slots [settle](Quota#a-slot-that-settles) for so long after each close. The thread
    /// that waits in [`demand_after`](Self::demand_after) sees to it that callers get them then.
    #[must_use]
    pub fn with_settling(settling: Duration) -> Self {
        let allowance = Allowance { slots: 0, until: Moment::LAST };
        let state = State { allowance, number: 0, pool: None, need: Need::default() };
        let (state, changed) = (Mutex::new(state), Condvar::default());
        let shared = Shared { settling, may_lapse: AtomicU64::new(0), state, changed };
        Self { shared: Arc::new(shared), process: Process::this() }
    }

    /// Allows the pool `slots` connections in all, until `until`; `None` sets no end.
    ///
    /// Replaces what was allowed before. See [above](Quota#less-than-is-open) what happens to connections
    /// beyond it, and [above](Quota#the-end-of-a-lease) what happens at the end. An end in the past ends
    /// the lease now.
    pub fn allow(&self, slots: u32, until: Option<Instant>) {
        if self.process.is_a_parent() {
            return;
        }
        let until = until.map_or(Moment::LAST, Moment::from);
        if until < Moment::LAST {
            self.shared.may_lapse.store(1, Ordering::Relaxed);
        }
        let pool = {
            let mut state = self.shared.state.lock();
            state.number += u64::from(state.allowance.until <= now());
            state.allowance = Allowance { slots, until };
            state.pool.clone()
        };
        if let Some(pool) = pool.as_ref().and_then(Weak::upgrade) {
            pool.apply_quota();
        }
    }

    /// The pool's need now. Takes time proportional to the number of keys, to count what is idle.
    #[must_use]
    pub fn demand(&self) -> Demand {
        if self.process.is_a_parent() {
            return Demand::default();
        }
        let (need, pool) = {
            let state = self.shared.state.lock();
            (state.need, state.pool.clone())
        };
        let idle = pool.as_ref().and_then(Weak::upgrade).map_or(0, |pool| pool.idle());
        need.with_idle(idle + need.settling)
    }

    /// Waits until the pool has other needs than `seen`, or until `deadline`, and returns them.
    ///
    /// A change of `idle` alone does not count. Meant for the keeper's own thread.
    #[must_use]
    pub fn demand_after(&self, seen: &Demand, deadline: Instant) -> Demand {
        let deadline = Moment::from(deadline);
        let has_passed = |at: Option<Moment>| at.is_some_and(|at| at <= now());
        while !self.process.is_a_parent() {
            let mut state = self.shared.state.lock();
            if !has_passed(state.need.settles_at) && state.need.with_idle(seen.idle) == *seen {
                let until = state.need.settles_at.map_or(deadline, |at| at.min(deadline));
                if self.shared.changed.wait(&mut state, Some(until)) != Wake::Late {
                    continue;
                }
            }
            let pool = state.pool.clone().filter(|_| has_passed(state.need.settles_at));
            drop(state);
            // A slot that has settled may be somebody's: then the need is another one.
            match pool.map(|pool| pool.upgrade()) {
                Some(Some(pool)) => pool.apply_quota(),
                Some(None) => self.settle_what_is_left(),
                None => break,
            }
        }
        self.demand()
    }

    /// A slot has settled whose pool has gone: nobody else counts those that are left.
    fn settle_what_is_left(&self) {
        let mut state = self.shared.state.lock();
        if state.has_pool() {
            return;
        }
        state.need = match state.need.all_settle_at {
            Some(at) if at > now() => Need { settles_at: Some(at), ..state.need },
            _ => Need::default(),
        };
    }

    /// Makes the quota bound this pool from now on. Returns how many slots of the pool before it settle,
    /// and until when: the server may count those of both.
    pub(crate) fn join(
        &self,
        pool: Weak<dyn Bounded>,
    ) -> Result<(u32, Option<Moment>), ConfigError> {
        if self.process.is_a_parent() {
            // Its keeper may have held its lock at the fork.
            return Err(ConfigError::QuotaInUse);
        }
        let mut state = self.shared.state.lock();
        if state.has_pool() {
            return Err(ConfigError::QuotaInUse);
        }
        (state.pool, state.need.is_over) = (Some(pool), false);
        Ok((state.need.settling, state.need.all_settle_at))
    }

    /// Notes the need of the pool at that address. Called after each change of its budget.
    pub(crate) fn note_need(&self, pool: *const (), need: Need) {
        let mut state = self.shared.state.lock();
        // A pool that was bounded before may be there yet, and is asked for its numbers.
        let is_bounded = state.pool.as_ref().is_some_and(|it| it.as_ptr().cast() == pool);
        if is_bounded && state.need != need {
            state.need = need;
            self.shared.changed.ring();
        }
    }

    pub(crate) fn settling(&self) -> Duration {
        self.shared.settling
    }

    pub(crate) fn may_lapse(&self) -> bool {
        self.shared.may_lapse.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn allowance(&self) -> Allowance {
        self.shared.state.lock().allowance
    }

    pub(crate) fn lease(&self) -> Lease {
        let state = self.shared.state.lock();
        Lease { number: state.number, until: state.allowance.until }
    }
}

impl Need {
    fn with_idle(self, idle: u32) -> Demand {
        let Self { open, wanted, since, .. } = self;
        Demand { open, wanted, waiting_since: since.map(Instant::from), idle }
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").field("demand", &self.demand()).finish_non_exhaustive()
    }
}
