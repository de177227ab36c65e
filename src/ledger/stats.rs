//! `Stats`: a pool's numbers at one moment.

use std::fmt;
use std::ops::Index;
use std::time::Duration;

use crate::ledger::close_reason::CloseReason;
use crate::ledger::share::Lack;

/// A pool's numbers: the connections that it holds now, and totals since it was opened.
///
/// Taken under one lock at one moment, so that always `open() == idle + in_use + dialing +
/// closing`, and `open() <= max_open` unless `max_open` was just lowered below the number of open
/// connections.
///
/// # Examples
///
/// ```
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let dialer = latebind::net::TcpDialer::from(listener.local_addr()?);
/// let pool = latebind::Pool::new(dialer);
/// let guard = pool.get()?;
/// let stats = pool.stats();
/// assert_eq!((stats.in_use, stats.idle, stats.open()), (1, 0, 1));
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The most connections that may be open.
    pub max_open: u32,
    /// Idle connections.
    pub idle: u32,
    /// Connections held by callers, or being checked before a loan or reset after one.
    pub in_use: u32,
    /// Slots for which a dial is under way, including those overdue.
    pub dialing: u32,
    /// Connections being closed. They count as open until the dialer's `close` has returned.
    pub closing: u32,
    /// Callers in the queue.
    pub waiting: u32,
    /// Dials that have outrun their deadline and still hold their slot.
    pub overdue: u32,
    /// Dials that have failed in a row, up to now; 0 once the pool is closed. [`Pool::last_dial_failure`] tells how the latest did.
    ///
    /// [`Pool::last_dial_failure`]: crate::Pool::last_dial_failure
    pub failing_dials: u32,
    /// For how long the [breaker](crate::Settings::breaker) has been open: callers whom no open connection
    /// can serve are refused. `None`: it is not open, there is none, or the pool is closed. Added up over keys: the longest.
    pub breaker_open_for: Option<Duration>,
    /// Whether the pool wants to dial and has no slot for that, because the connections of all keys
    /// are as many as [`max_open_total`](crate::Settings::max_open_total) allows, or all of the
    /// pool as many as its [`Quota`](crate::Quota) allows. Always `false` in a pool that is not keyed
    /// and has no quota.
    pub stalled: bool,
    /// Whether it is the [`Quota`](crate::Quota) that has no slot: the pool itself would have one.
    pub stalled_by_quota: bool,

    /// Loans, including those of connections then found broken and never handed to their caller.
    pub lent_total: u64,
    /// Loans of connections that had been lent before.
    pub reused_total: u64,
    /// Callers that had to queue.
    pub waited_total: u64,
    /// The time that callers spent in the queue, whether they were served or not.
    pub wait_time_total: Duration,
    /// Callers turned away at their deadline.
    pub timed_out_total: u64,
    /// Callers that were [cancelled](crate::Cancel), before they asked or while they waited.
    pub cancelled_total: u64,
    /// Callers turned away because the queue was full.
    pub queue_full_total: u64,
    /// Dials begun.
    pub dials_total: u64,
    /// Dials that opened a connection.
    pub dialed_total: u64,
    /// Dials that failed, also those that a close or a flush has cancelled. An overdue dial has not
    /// ended, and so has not failed yet.
    pub dial_failed_total: u64,
    /// How often the [breaker](crate::Settings::breaker) has opened.
    pub breaker_opened_total: u64,
    /// Checks that found a connection dead or did not end in time.
    pub check_failed_total: u64,
    /// Connections taken out for good and closed by the pool, for whatever
    /// [reason](crate::CloseReason).
    pub retired_total: u64,
    /// The same connections by reason. Their sum is `retired_total` in every reading.
    pub retired_by: RetiredBy,
    /// Connections that their borrowers took out of the pool, to keep.
    pub detached_total: u64,
    /// Loans that lasted longer than `leak_after`, each counted once.
    pub leaked_total: u64,
    /// Slots freed although the dialer's `close` had not returned within `close_timeout`.
    pub close_timeouts_total: u64,
    /// Panics of the dialer that the pool caught.
    pub panics_total: u64,
}

impl Stats {
    /// The number of taken slots: `idle + in_use + dialing + closing`.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.idle + self.in_use + self.dialing + self.closing
    }

    /// Adds the numbers of another pool.
    pub(crate) fn add(&mut self, other: &Self) {
        // Without `..`, so that a new field cannot be forgotten.
        *self = Self {
            max_open: self.max_open.saturating_add(other.max_open),
            idle: self.idle + other.idle,
            in_use: self.in_use + other.in_use,
            dialing: self.dialing + other.dialing,
            closing: self.closing + other.closing,
            waiting: self.waiting + other.waiting,
            overdue: self.overdue + other.overdue,
            failing_dials: self.failing_dials.saturating_add(other.failing_dials),
            breaker_open_for: self.breaker_open_for.max(other.breaker_open_for),
            stalled: self.stalled | other.stalled,
            stalled_by_quota: self.stalled_by_quota | other.stalled_by_quota,
            lent_total: self.lent_total + other.lent_total,
            reused_total: self.reused_total + other.reused_total,
            waited_total: self.waited_total + other.waited_total,
            wait_time_total: self.wait_time_total + other.wait_time_total,
            timed_out_total: self.timed_out_total + other.timed_out_total,
            cancelled_total: self.cancelled_total + other.cancelled_total,
            queue_full_total: self.queue_full_total + other.queue_full_total,
            dials_total: self.dials_total + other.dials_total,
            dialed_total: self.dialed_total + other.dialed_total,
            dial_failed_total: self.dial_failed_total + other.dial_failed_total,
            breaker_opened_total: self.breaker_opened_total + other.breaker_opened_total,
            check_failed_total: self.check_failed_total + other.check_failed_total,
            retired_total: self.retired_total + other.retired_total,
            retired_by: self.retired_by.plus(other.retired_by),
            detached_total: self.detached_total + other.detached_total,
            leaked_total: self.leaked_total + other.leaked_total,
            close_timeouts_total: self.close_timeouts_total + other.close_timeouts_total,
            panics_total: self.panics_total + other.panics_total,
        };
    }

    /// The same, of a pool that lacks a slot for that reason.
    pub(crate) fn lacking(self, lack: Option<Lack>) -> Self {
        let (stalled, stalled_by_quota) = (lack.is_some(), lack == Some(Lack::OfQuota));
        Self { stalled, stalled_by_quota, ..self }
    }

    /// Counts a retired connection.
    pub(crate) fn count_retired(&mut self, reason: CloseReason) {
        self.retired_total += 1;
        self.retired_by.0[reason as usize] += 1;
        self.check_failed_total += u64::from(reason == CloseReason::CheckFailed);
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "open {} of {}: idle {}, in use {}, dialing {}, closing {}; waiting {}",
            self.open(),
            self.max_open,
            self.idle,
            self.in_use,
            self.dialing,
            self.closing,
            self.waiting
        )?;
        if self.overdue > 0 {
            write!(f, "; dials overdue {}", self.overdue)?;
        }
        if self.stalled_by_quota {
            f.write_str("; no slot left of the fleet's quota")?;
        } else if self.stalled {
            f.write_str("; no slot left for all keys together")?;
        }
        Ok(())
    }
}

/// Totals of a pool's retired connections, one for each [`CloseReason`].
///
/// Its `Display` names the reasons that there were: `broken 3, expired 12`.
///
/// # Examples
///
/// ```
/// use latebind::{CloseReason, PooledConnection};
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let dialer = latebind::net::TcpDialer::from(listener.local_addr()?);
/// let pool = latebind::Pool::new(dialer);
/// PooledConnection::discard(pool.get()?);
/// let stats = pool.stats();
/// assert_eq!(stats.retired_by[CloseReason::Discarded], 1);
/// assert_eq!(stats.retired_by.iter().map(|(_, total)| total).sum::<u64>(), stats.retired_total);
/// assert_eq!(stats.retired_by.to_string(), "discarded 1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RetiredBy([u64; CloseReason::ALL.len()]);

impl RetiredBy {
    /// Each reason with its total, also those that there were none of.
    pub fn iter(&self) -> impl Iterator<Item = (CloseReason, u64)> + use<> {
        CloseReason::ALL.into_iter().map(|(reason, _)| reason).zip(self.0)
    }

    fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] + other.0[at]))
    }
}

impl Index<CloseReason> for RetiredBy {
    type Output = u64;

    fn index(&self, reason: CloseReason) -> &u64 {
        &self.0[reason as usize]
    }
}

impl fmt::Display for RetiredBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = self.iter().filter(|(_, total)| *total > 0);
        for (nth, (reason, total)) in some.enumerate() {
            let comma = if nth > 0 { ", " } else { "" };
            write!(f, "{comma}{reason} {total}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RetiredBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().filter(|(_, total)| *total > 0)).finish()
    }
}
