//! The dial rule: how many dials the callers in the queue want now.
//!
//! A dial for every caller who finds nothing idle opens 45 connections for a spike that five would
//! have served in less time than one dial takes; one dial at a time makes callers who keep what
//! they get wait for each other's. The adaptive rule has both: it first gives the connections in
//! use an eighth of a dial to come back, and then dials for those callers whom returns, at the rate
//! at which they came, would not serve within one dial.
//!
//! | dial of 150 ms, 5 idle, at most 50 | spike: 50 callers for 2 ms | 50 callers who keep theirs |
//! | --- | --- | --- |
//! | a dial for each (`Eager`) | last served at 18 ms, 45 dials | 150 ms |
//! | one at a time | 18 ms, 1 dial | 6,750 ms |
//! | `Adaptive` | 18 ms, no dial | 169 ms |
//!
//! A return counts for those who wait only if no newcomer has come for it: else, where more callers
//! come than connections return, the queue would grow for as long as a dial takes. With one caller
//! a millisecond for 5 ms on 2 connections, and dials of 150 ms, the 99th percentile of the waits
//! falls from 48 ms to 9 ms by that, and the longest from 158 ms to 118 ms (a dial for each: 0 ms
//! and 92 ms; `tests/dial_rule`, "short holds, dials of 150 ms").

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::DialRule;
use crate::moment::Moment;

/// The part of a dial that a caller waits for returns before a dial is begun for it: no caller is
/// served later by more than that, and in that time it is seen whether anything returns.
const HOLD_OFF_SHARE: u32 = 8;

/// The most that a caller waits before that, however long a dial takes.
const HOLD_OFF_MOST: Duration = Duration::from_millis(250);

/// Below this a hold-off is not worth its timer, which the kernel may let run 50 µs over
/// (timerslack, prctl(2)): such a dial is begun at once.
const HOLD_OFF_LEAST: Duration = Duration::from_micros(50);

/// The least time between two looks: a look costs a change of threads, about 33 µs.
const LOOK_LEAST: Duration = Duration::from_millis(1);

/// Returns remembered. With more than this within one hold-off, eight times as many are expected
/// within one dial.
const RETURNS_MOST: usize = 1024;

/// What the queue looks like to the rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Callers in the queue who hold no dial error.
    pub(super) unmet: u32,
    /// Those of them who have waited for the hold-off.
    pub(super) ripe: u32,
    /// Dials and checks under way and idle connections that one of them can count on.
    pub(super) coming: u32,
    /// Connections out of the pool's hands that may come back.
    pub(super) busy: u32,
}

/// How fast this pool dials, and how fast connections come back to it while callers wait.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The moving average of the time that a dial takes; `None` before the first.
    dial_time: Option<Duration>,
    /// When connections came back to a queue, lately.
    returns: VecDeque<Moment>,
}

impl Pace {
    /// A dial has opened a connection.
    pub(super) fn note_dial(&mut self, took: Duration) {
        let average = |before: Duration| before.mul_f64(0.8).saturating_add(took.mul_f64(0.2));
        self.dial_time = Some(self.dial_time.map_or(took, average));
    }

    /// How long a dial takes; `None` before the first.
    pub(super) fn dial_time(&self) -> Option<Duration> {
        self.dial_time
    }

    /// A connection has come back while callers wait.
    pub(super) fn note_return(&mut self, now: Moment) {
        if self.returns.len() == RETURNS_MOST {
            self.returns.pop_front();
        }
        self.returns.push_back(now);
    }

    /// Nobody waits any more.
    pub(super) fn rest(&mut self) {
        self.returns.clear();
    }

    /// How long a caller waits for returns before a dial is begun for it; `None`: not at all.
    pub(super) fn hold_off(&self) -> Option<Duration> {
        let hold_off = (self.dial_time? / HOLD_OFF_SHARE).min(HOLD_OFF_MOST);
        (hold_off >= HOLD_OFF_LEAST).then_some(hold_off)
    }

    /// When to look again, while callers wait on for returns.
    pub(super) fn next_look(&self, now: Moment) -> Option<Moment> {
        now.after(self.hold_off()?.max(LOOK_LEAST))
    }

    /// How many connections will have come back to those who wait now when a dial begun now has
    /// ended: as many as came back during the last hold-off and were not wanted by the `newcomers`
    /// of that time, for each hold-off that a dial takes.
    fn expected_returns(&mut self, newcomers: u32, now: Moment) -> u32 {
        let (Some(hold_off), Some(dial_time)) = (self.hold_off(), self.dial_time) else { return 0 };
        let is_old = |at: &Moment| now.since(*at) >= hold_off;
        while self.returns.front().is_some_and(is_old) {
            self.returns.pop_front();
        }
        let seen = u32::try_from(self.returns.len()).unwrap_or(u32::MAX);
        let surplus = f64::from(seen.saturating_sub(newcomers));
        (surplus * dial_time.div_duration_f64(hold_off)) as u32
    }

    /// The dials to begin now, before the limits on them are looked at. Never more than callers
    /// unmet: what is begun is begun for a caller (NO-DEMAND-NO-DIAL).
    pub(super) fn wanted(&mut self, rule: DialRule, outlook: Outlook, now: Moment) -> u32 {
        let Outlook { unmet, ripe, coming, busy } = outlook;
        if rule == DialRule::Eager || busy == 0 || self.hold_off().is_none() {
            return unmet.saturating_sub(coming);
        }
        let returns = self.expected_returns(unmet - ripe, now);
        ripe.saturating_sub(coming).saturating_sub(returns)
    }
}
