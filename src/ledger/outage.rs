//! Outages: how many dials have failed in a row, and when the next attempt may be made.

use std::time::Duration;

use crate::config::{Backoff, Breaker, far_future};
use crate::runtime::moment::Moment;

use super::spread::Spread;

/// The pauses between dials for `min_idle` while dials fail. Nobody waits for these connections, so a
/// server that is away gets at most one dial every ten seconds, or every ten minutes if the dialer says
/// that trying again cannot help.
const REFILL_FIRST: Duration = Duration::from_millis(100);
const REFILL_MOST: Duration = Duration::from_secs(10);
const REFILL_MOST_PERMANENT: Duration = Duration::from_secs(10 * 60);

/// After this many probe intervals without a failure nobody has asked for a while, and a keyed pool may
/// forget that the breaker was open.
const MEMORY: u32 = 10;

/// The failures of the latest dials.
#[derive(Debug)]
pub(super) struct Outage {
    /// How many dials have failed since the last one that succeeded.
    failures: u32,
    /// When the latest of them failed.
    failed_at: Option<Moment>,
    /// Whether the latest failure said that trying again cannot help.
    is_permanent: bool,
    /// Since when the breaker has been open, as `turn` last saw it.
    open_since: Option<Moment>,
    spread: Spread,
}

/// The breaker has opened or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerTurn {
    /// After so many failures in a row.
    Opened { failures: u32 },
    /// After so long.
    Closed { open_for: Duration },
}

impl Outage {
    pub(super) fn new(spread: Spread) -> Self {
        Self { failures: 0, failed_at: None, is_permanent: false, open_since: None, spread }
    }

    pub(super) fn note_success(&mut self) {
        (self.failures, self.failed_at, self.is_permanent) = (0, None, false);
    }

    pub(super) fn note_failure(&mut self, is_permanent: bool, now: Moment) {
        self.is_permanent = is_permanent;
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
    }

    /// Notes what has become of the breaker, after a dial has ended or the settings have changed.
    pub(super) fn turn(&mut self, breaker: Option<Breaker>, now: Moment) -> Option<BreakerTurn> {
        match (self.open_since, self.has_opened(breaker)) {
            (None, true) => {
                self.open_since = Some(now);
                Some(BreakerTurn::Opened { failures: self.failures })
            }
            (Some(since), false) => {
                self.open_since = None;
                Some(BreakerTurn::Closed { open_for: now.since(since) })
            }
            _ => None,
        }
    }

    /// How many dials have failed since the last one that succeeded.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn open_since(&self) -> Option<Moment> {
        self.open_since
    }

    pub(super) fn is_over(&self) -> bool {
        self.failures == 0
    }

    /// Whether the latest dial failed for good: trying again cannot help.
    pub(super) fn is_permanent(&self) -> bool {
        self.is_permanent
    }

    /// Whether this breaker refuses callers.
    pub(super) fn has_opened(&self, breaker: Option<Breaker>) -> bool {
        breaker.is_some_and(|breaker| self.failures >= breaker.failures())
    }

    /// When the next dial may probe whether the outage is over; `None` is at once.
    pub(super) fn next_probe(&self, breaker: Breaker) -> Option<Moment> {
        let failed_at = self.failed_at.filter(|_| self.has_opened(Some(breaker)))?;
        Some(failed_at.after(breaker.probe_every()).unwrap_or_else(|| far_future(failed_at)))
    }

    /// When the failures may be forgotten; `None` is at once.
    pub(super) fn forgotten_at(&self, breaker: Breaker) -> Option<Moment> {
        let failed_at = self.failed_at?;
        let at = failed_at.after(breaker.probe_every().saturating_mul(MEMORY));
        Some(at.unwrap_or_else(|| far_future(failed_at)))
    }

    /// When a caller whose dial has failed may dial again; `None` is at once.
    pub(super) fn next_retry(&self, backoff: Backoff) -> Option<Moment> {
        let failed_at = self.failed_at?;
        let half = backoff.pause(self.failures) / 2;
        let fraction = self.spread.fraction(u64::from(self.failures));
        failed_at.after(half + fraction.of(half))
    }

    /// When a dial for `min_idle` may begin; `None` is at once.
    pub(super) fn next_refill(&self) -> Option<Moment> {
        let most = if self.is_permanent { REFILL_MOST_PERMANENT } else { REFILL_MOST };
        self.next_retry(Backoff::new(REFILL_FIRST, most))
    }
}
