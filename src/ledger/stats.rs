//! `Stats`: a pool's numbers at one moment.

use std::fmt;
use std::time::Duration;

use crate::ledger::Lack;
use crate::ledger::close_reason::CloseReason;

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
    /// Retired connections that `is_broken` found broken at a checkout or a return. If there are
    /// many, the server or the network ends connections before the pool does.
    pub broken_total: u64,
    /// Retired connections whose reset failed.
    pub reset_failed_total: u64,
    /// Retired connections beyond `max_idle` or `max_open`. If there are many, `max_idle` is too
    /// small, and connections are dialed again and again.
    pub surplus_total: u64,
    /// Retired connections that were closed to make room for other keys, or because the
    /// [`Quota`](crate::Quota) allows fewer.
    pub evicted_total: u64,
    /// Retired connections that had reached their `max_lifetime`.
    pub expired_total: u64,
    /// Retired connections that were open when the lease of the [`Quota`](crate::Quota) ended.
    pub lease_ended_total: u64,
    /// Retired connections that had been idle for `max_idle_time`. If there are many, the pool is
    /// larger than its program needs most of the time.
    pub idle_too_long_total: u64,
    /// Retired connections that had been lent `max_uses` times.
    pub used_up_total: u64,
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
        let Self {
            max_open,
            idle,
            in_use,
            dialing,
            closing,
            waiting,
            overdue,
            failing_dials,
            breaker_open_for,
            stalled,
            stalled_by_quota,
            lent_total,
            reused_total,
            waited_total,
            wait_time_total,
            timed_out_total,
            cancelled_total,
            queue_full_total,
            dials_total,
            dialed_total,
            dial_failed_total,
            breaker_opened_total,
            check_failed_total,
            retired_total,
            broken_total,
            reset_failed_total,
            surplus_total,
            evicted_total,
            expired_total,
            lease_ended_total,
            idle_too_long_total,
            used_up_total,
            detached_total,
            leaked_total,
            close_timeouts_total,
            panics_total,
        } = *other;
        self.max_open += max_open;
        self.idle += idle;
        self.in_use += in_use;
        self.dialing += dialing;
        self.closing += closing;
        self.waiting += waiting;
        self.overdue += overdue;
        self.failing_dials = self.failing_dials.saturating_add(failing_dials);
        self.breaker_open_for = self.breaker_open_for.max(breaker_open_for);
        self.stalled |= stalled;
        self.stalled_by_quota |= stalled_by_quota;
        self.lent_total += lent_total;
        self.reused_total += reused_total;
        self.waited_total += waited_total;
        self.wait_time_total += wait_time_total;
        self.timed_out_total += timed_out_total;
        self.cancelled_total += cancelled_total;
        self.queue_full_total += queue_full_total;
        self.dials_total += dials_total;
        self.dialed_total += dialed_total;
        self.dial_failed_total += dial_failed_total;
        self.breaker_opened_total += breaker_opened_total;
        self.check_failed_total += check_failed_total;
        self.retired_total += retired_total;
        self.broken_total += broken_total;
        self.reset_failed_total += reset_failed_total;
        self.surplus_total += surplus_total;
        self.evicted_total += evicted_total;
        self.expired_total += expired_total;
        self.lease_ended_total += lease_ended_total;
        self.idle_too_long_total += idle_too_long_total;
        self.used_up_total += used_up_total;
        self.detached_total += detached_total;
        self.leaked_total += leaked_total;
        self.close_timeouts_total += close_timeouts_total;
        self.panics_total += panics_total;
    }

    /// The same, of a pool that lacks a slot for that reason.
    pub(crate) fn lacking(self, lack: Option<Lack>) -> Self {
        let (stalled, stalled_by_quota) = (lack.is_some(), lack == Some(Lack::OfQuota));
        Self { stalled, stalled_by_quota, ..self }
    }

    /// Counts a retired connection by its reason.
    pub(crate) fn count_retired(&mut self, reason: CloseReason) {
        match reason {
            CloseReason::Broken => self.broken_total += 1,
            CloseReason::ResetFailed => self.reset_failed_total += 1,
            CloseReason::Surplus => self.surplus_total += 1,
            CloseReason::Evicted => self.evicted_total += 1,
            CloseReason::Expired => self.expired_total += 1,
            CloseReason::IdleTooLong => self.idle_too_long_total += 1,
            CloseReason::LeaseEnded => self.lease_ended_total += 1,
            CloseReason::UsedUp => self.used_up_total += 1,
            _ => {}
        }
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
