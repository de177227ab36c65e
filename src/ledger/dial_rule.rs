//! The dial rule: how many dials the callers in the queue want now.
//!
//! A dial for every caller who finds nothing idle opens 45 connections for a spike that five would have
//! served in less time than one dial takes. One dial at a time makes callers who keep their connections
//! wait for each other's dials. The adaptive rule avoids both:
//!
//! 1. A caller first waits for an eighth of a dial's time, the *hold-off*. Then it is *ripe*.
//! 2. The returns of the last hold-off predict how many callers will be served without a dial while a
//!    dial lasts.
//! 3. Dials begin for the ripe callers beyond those, less what is coming already.
//!
//! Without connections in use, or without a known dial time, every caller gets a dial at once.
//!
//! | dial of 150 ms, 5 idle, at most 50 | spike: 50 callers for 2 ms | 50 callers who keep theirs |
//! | --- | --- | --- |
//! | a dial for each (`Eager`) | last served at 18 ms, 45 dials | 150 ms |
//! | one at a time | 18 ms, 1 dial | 6,750 ms |
//! | `Adaptive` | 18 ms, no dial | 169 ms |
//!
//! A return counts for those who wait only if no newcomer came for it. Otherwise, if more callers come
//! than connections return, the queue would grow for as long as a dial takes. With one caller a
//! millisecond for 5 ms on 2 connections, and dials of 150 ms, this lowers the 99th percentile of the
//! waits from 48 ms to 9 ms, and the longest wait from 158 ms to 118 ms (a dial for each: 0 ms and 92 ms;
//! `tests/dial_rule`, "short holds, dials of 150 ms").
//!
//! If dials are very short, an eighth of one is too short to see a return, and the dial time may have
//! changed since it was measured. So if a dial took at most 250 µs, and none has opened a connection since
//! the first in the queue came, the first dials are a *probe*: one for each eight callers begins at once.
//! The other callers get theirs as soon as one of those ends. Until then the rule assumes that a dial
//! lasts 40 ms, so that they give the connections in use 5 ms. Every return counts for them, as the
//! newcomers belong to the same burst.
//!
//! | 5 idle, opened when a dial took 0.1 ms | 150 ms now: spike | 150 ms now: 50 keep theirs | 0.1 ms still: 50 keep theirs |
//! | --- | --- | --- | --- |
//! | a dial for each (`Eager`) | last served at 18 ms, 45 dials | 150 ms | 0.1 ms |
//! | `Adaptive` | 18 ms, 6 dials | 155 ms | 0.2 ms |

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::DialRule;
use crate::runtime::moment::Moment;

/// The part of a dial's time that a caller waits for returns before a dial begins for it. It delays no
/// caller by more, and is long enough to see whether anything returns.
const HOLD_OFF_PART: u32 = 8;

/// The longest hold-off, however long a dial takes.
const HOLD_OFF_MOST: Duration = Duration::from_millis(250);

/// The shortest hold-off. A shorter one is not worth its timer, which the kernel may let run 50 µs over
/// (timerslack, prctl(2)): the dial begins at once.
const HOLD_OFF_LEAST: Duration = Duration::from_micros(50);

/// The least time between two looks at the rule: each costs a change of threads, about 33 µs.
pub(super) const LOOK_LEAST: Duration = Duration::from_millis(1);

/// The longest dial time that a probe must confirm. If nothing has changed, a probe costs the other
/// callers this much.
const PROBED_MOST: Duration = Duration::from_micros(250);

/// The dial time that is assumed until a probe has ended. Its hold-off is 5 ms: by then a loan of a few
/// queries has ended, and callers who would have had a dial at once lose no more than that.
const UNPROVEN: Duration = Duration::from_millis(40);

/// How many returns are remembered. This many in one hold-off predict eight times as many in one dial.
const RETURNS_MOST: usize = 1024;

/// The numbers of the queue and the connections that the rule goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Since when the first in the queue has waited.
    pub(super) first_since: Option<Moment>,
    /// Callers in the queue who hold no dial's failure.
    pub(super) unfailed: u32,
    /// Those of them who have waited for the hold-off.
    pub(super) ripe: u32,
    /// Dials and checks under way and idle connections, each of which will serve one of them.
    pub(super) coming: u32,
    /// The dials among them.
    pub(super) dialing: u32,
    /// Connections out of the pool's hands that may come back.
    pub(super) busy: u32,
}

/// How fast this pool dials, and how fast connections come back to it while callers wait.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The moving average of the time that a dial takes; `None` before the first.
    pub(super) dial_time: Option<Duration>,
    /// When a dial last opened a connection; `None`: never.
    dialed_at: Option<Moment>,
    /// When connections came back while callers waited, during the last hold-off.
    returns: VecDeque<Moment>,
}

impl Pace {
    /// A dial has opened a connection.
    pub(super) fn note_dial(&mut self, took: Duration, now: Moment) {
        self.dialed_at = Some(now);
        let average = |before: Duration| before.mul_f64(0.8).saturating_add(took.mul_f64(0.2));
        self.dial_time = Some(self.dial_time.map_or(took, average));
    }

    /// A connection has come back while callers wait.
    pub(super) fn note_return(&mut self, now: Moment) {
        if self.returns.len() == RETURNS_MOST {
            self.returns.pop_front();
        }
        self.returns.push_back(now);
    }

    /// Nobody waits any more.
    pub(super) fn forget_returns(&mut self) {
        self.returns.clear();
    }

    /// Whether the dial time needs a probe: it is short, and older than the wait of the first caller.
    fn is_unproven(&self, first_since: Option<Moment>) -> bool {
        self.dial_time.is_some_and(|dial_time| dial_time <= PROBED_MOST)
            && first_since.is_some_and(|since| self.dialed_at < Some(since))
    }

    /// The dial time that the rule assumes; `None` before the first dial.
    fn expected_dial_time(&self, first_since: Option<Moment>) -> Option<Duration> {
        if self.is_unproven(first_since) { Some(UNPROVEN) } else { self.dial_time }
    }

    /// How long a caller waits for returns before a dial begins for it; `None`: not at all.
    pub(super) fn hold_off(&self, first_since: Option<Moment>) -> Option<Duration> {
        let dial_time = self.expected_dial_time(first_since)?;
        let hold_off = (dial_time / HOLD_OFF_PART).min(HOLD_OFF_MOST);
        (hold_off >= HOLD_OFF_LEAST).then_some(hold_off)
    }

    /// How many connections will have come back to those who wait now by the end of a dial that begins
    /// now: the returns of the last hold-off, less its newcomers, for each hold-off that a dial takes.
    fn expected_returns(
        &mut self,
        dial_time: Duration,
        hold_off: Duration,
        newcomers: u32,
        now: Moment,
    ) -> u32 {
        let is_old = |at: &Moment| now.since(*at) >= hold_off;
        while self.returns.front().is_some_and(is_old) {
            self.returns.pop_front();
        }
        let seen = u32::try_from(self.returns.len()).unwrap_or(u32::MAX);
        let surplus = f64::from(seen.saturating_sub(newcomers));
        (surplus * dial_time.div_duration_f64(hold_off)) as u32
    }

    /// How many dials should begin now, before the limits on them are applied. Never more than callers
    /// without a failure: each dial has a sponsor (NO-DEMAND-NO-DIAL).
    pub(super) fn wanted(&mut self, rule: DialRule, outlook: Outlook, now: Moment) -> u32 {
        let Outlook { first_since, unfailed, ripe, coming, dialing, busy } = outlook;
        let unserved = unfailed.saturating_sub(coming);
        let is_unproven = self.is_unproven(first_since);
        let hold_off = self.hold_off(first_since);
        let hold_off = hold_off.filter(|_| rule != DialRule::Eager && busy > 0);
        let Some((dial_time, hold_off)) = self.expected_dial_time(first_since).zip(hold_off) else {
            return unserved;
        };
        let newcomers = if is_unproven { 0 } else { unfailed - ripe };
        let returns = self.expected_returns(dial_time, hold_off, newcomers, now);
        let wanted = ripe.saturating_sub(coming).saturating_sub(returns);
        if is_unproven {
            let probes = unfailed.div_ceil(HOLD_OFF_PART).saturating_sub(dialing);
            return wanted.max(probes.min(unserved));
        }
        wanted
    }
}
