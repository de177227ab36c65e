//! `CloseReason`: why the pool took a connection out for good.

use std::fmt;

/// Why the pool took a connection out for good, as given in
/// [`Event::Closed`](crate::Event::Closed) and counted in [`Stats::retired_by`](crate::Stats::retired_by).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The dialer's `is_broken` said so, or panicked, at a checkout or a return. If there are many, the
    /// server or the network ends connections before the pool does.
    Broken,
    /// Its check failed or panicked.
    CheckFailed,
    /// It was idle at a [`close_idle`](crate::Pool::close_idle).
    ClosedIdle,
    /// Its borrower [discarded](crate::Guard::discard) it.
    Discarded,
    /// Its borrower [doubted](crate::Guard::doubt) it, and with it all that were idle then.
    Doubted,
    /// It made room for other keys of a [keyed pool](crate::KeyedPool), or the pool's
    /// [`Quota`](crate::Quota) allows fewer: it had been idle longest.
    Evicted,
    /// It had reached its `max_lifetime`.
    Expired,
    /// It was opened, or its dial was begun, before a [flush](crate::Pool::flush).
    Flushed,
    /// It had been idle for `max_idle_time`. If there are many, the pool is larger than its program needs
    /// most of the time.
    IdleTooLong,
    /// Its check or reset overran `check_timeout`. It is closed once that call has returned.
    Late,
    /// It was open when the lease of the pool's [`Quota`](crate::Quota) ended.
    LeaseEnded,
    /// Its guard was dropped by a panic.
    Panicked,
    /// The pool is closed.
    PoolClosed,
    /// A predicate given to [`retire_where`](crate::Pool::retire_where) selected it, or panicked.
    Predicate,
    /// Its reset failed or panicked.
    ResetFailed,
    /// It was one more than `max_idle` or `max_open` allows. If there are many, `max_idle` is too small, and
    /// connections are dialed again and again.
    Surplus,
    /// It had been lent `max_uses` times.
    UsedUp,
}

impl CloseReason {
    /// All reasons with their texts, in the order in which they are declared: `RetiredBy` counts by that.
    pub(crate) const ALL: [(Self, &'static str); 17] = [
        (Self::Broken, "broken"),
        (Self::CheckFailed, "check failed"),
        (Self::ClosedIdle, "closed while idle"),
        (Self::Discarded, "discarded"),
        (Self::Doubted, "doubted"),
        (Self::Evicted, "evicted"),
        (Self::Expired, "expired"),
        (Self::Flushed, "flushed"),
        (Self::IdleTooLong, "idle too long"),
        (Self::Late, "check or reset late"),
        (Self::LeaseEnded, "lease ended"),
        (Self::Panicked, "panicked"),
        (Self::PoolClosed, "pool closed"),
        (Self::Predicate, "named by a predicate"),
        (Self::ResetFailed, "reset failed"),
        (Self::Surplus, "surplus"),
        (Self::UsedUp, "used up"),
    ];
}

const _: () = {
    assert!(CloseReason::UsedUp as usize + 1 == CloseReason::ALL.len(), "the last is `UsedUp`");
    let mut at = 0;
    while at < CloseReason::ALL.len() {
        assert!(CloseReason::ALL[at].0 as usize == at, "in the order of the declaration");
        at += 1;
    }
};

impl CloseReason {
    /// Whether other connections may have the same fault: then all that have been idle since before
    /// are checked.
    pub(crate) fn casts_doubt(self) -> bool {
        matches!(self, Self::Broken | Self::CheckFailed | Self::Doubted | Self::ResetFailed)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}
