//! The holder: one process's part in a fleet, as plain data.
//!
//! It decides what the pool may open, what is asked of the store, and when. It waits for nothing and reads
//! no clock.

use std::collections::VecDeque;
use std::time::Duration;

use crate::book::{Answer, Ask, HolderId};

/// How a process keeps its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manners {
    /// For how long a server may count a session that its client has ended.
    pub settle: Duration,
    /// How much earlier than the store the process takes its lease for ended, as clocks differ.
    pub margin: Duration,
    /// For how long slots are kept that were needed.
    pub calm: Duration,
    /// How often the store is asked whether others lack slots, by a process that has some.
    pub look: Duration,
    /// How long to wait, at first and at most, before the store is asked again for what it did not have.
    /// The pauses double.
    pub retry: (Duration, Duration),
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(250),
            margin: Duration::from_millis(500),
            calm: Duration::from_secs(1),
            look: Duration::from_millis(500),
            retry: (Duration::from_millis(20), Duration::from_millis(160)),
        }
    }
}

/// The pool's need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Slots that are taken, with those that settle: which the server may count.
    pub open: u32,
    /// How many of these are idle.
    pub idle: u32,
    /// Further slots that callers wait for.
    pub wanted: u32,
    /// For how long the first of them has waited.
    pub waiting: Duration,
}

/// The result of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The slots that the pool may take, and until when; `None`: without an end.
    pub allow: (u32, Option<Duration>),
    /// The lease is over: what is open must be closed before anything is allowed again.
    pub is_over: bool,
    /// The request to send to the store now.
    pub ask: Option<Ask>,
    /// When the next turn is, at the latest.
    pub next: Duration,
}

/// One process's lease.
///
/// Times are those of the process's clock, from any beginning.
#[derive(Clone, Debug)]
pub struct Holder {
    id: HolderId,
    manners: Manners,
    number: u64,
    leased: u32,
    /// The slots that the store gave last: more than `leased` while some are on their way back.
    stored: u32,
    keep: u32,
    is_scarce: bool,
    /// How long the lease lasts, and when it ends here.
    lasts: Option<Duration>,
    until: Option<Duration>,
    /// The slots that the pool may take.
    allowed: u32,
    /// The most slots that were of use lately.
    used: Peak,
    next_ask: Duration,
    /// When the store is asked although nothing has changed.
    next_look: Duration,
    pause: Duration,
    is_asking: bool,
    /// The lease is over, and something of it may be open.
    must_clear: bool,
    /// The store has not answered lately.
    is_cut_off: bool,
}

impl Holder {
    /// A process that has no lease yet.
    #[must_use]
    pub fn new(id: HolderId, manners: Manners) -> Self {
        Self {
            id,
            manners,
            number: 0,
            leased: 0,
            stored: 0,
            keep: 0,
            is_scarce: false,
            lasts: None,
            until: None,
            allowed: 0,
            used: Peak::new(manners.calm),
            next_ask: Duration::ZERO,
            next_look: Duration::ZERO,
            pause: manners.retry.0,
            is_asking: false,
            must_clear: false,
            is_cut_off: false,
        }
    }

    /// Time has passed, or the pool's needs have changed.
    pub fn turn(&mut self, now: Duration, demand: Demand) -> Turn {
        let Demand { open, idle, wanted, waiting } = demand;
        let is_over = self.number > 0 && self.until.is_some_and(|until| until <= now);
        if is_over {
            self.end();
        }
        if self.must_clear && open == 0 {
            // Everything that was open is closed. It counts until the server has noticed.
            self.must_clear = false;
            self.next_ask = self.next_ask.max(now.saturating_add(self.manners.settle));
        }
        self.used.note(now, open.saturating_sub(idle) + wanted);
        let used = self.used.most();
        let is_pressed = self.keep < self.leased;
        // A little ahead of the load, unless others lack it.
        let need = if self.is_scarce || used == 0 { used } else { used + 1 + used / 8 };
        // A process does not keep idle slots either, then.
        let target = if self.is_scarce { need.min(self.keep) } else { need.max(open) };
        self.allowed = if self.must_clear { 0 } else { target.min(self.leased) };
        if self.is_cut_off && self.until.is_none() {
            // Without an end the lease may be lost already: what is open counts, and nothing is added.
            self.allowed = self.allowed.min(open);
        }
        let held = self.allowed.max(open).min(self.leased);

        // A process that needs nothing and has nothing lets its lease end.
        let is_due = self.leased > 0 && self.next_look <= now;
        let is_short = need > self.leased && !is_pressed || wanted > 0;
        let wants_to_ask = is_short || held < self.leased || is_due;
        let may_ask = !self.is_asking && !self.must_clear && self.next_ask <= now;
        let ask = (wants_to_ask && may_ask).then(|| {
            self.is_asking = true;
            // If the answer is lost, the store may have taken back what is returned.
            self.leased = held;
            Ask { holder: self.id, number: self.number, held, need, waiting, sessions: None }
        });
        let mut next = now + self.manners.calm;
        let looks_at = Some(self.next_look).filter(|_| self.leased > 0);
        for at in [self.until, looks_at, Some(self.next_ask).filter(|_| wants_to_ask)] {
            next = at.filter(|at| *at > now).map_or(next, |at| next.min(at));
        }
        if let Some(at) = self.used.falls_at() {
            next = next.min(at.max(now + Duration::from_millis(1)));
        }
        Turn { allow: (self.allowed, self.until), is_over, ask, next }
    }

    /// Whether a question needs the server's own count: it asks for more, or returns something.
    #[must_use]
    pub fn needs_count(&self, ask: &Ask) -> bool {
        ask.need > ask.held || ask.held < self.stored || self.number == 0
    }

    /// The store has answered a question that was sent then.
    pub fn answered(&mut self, sent: Duration, now: Duration, ask: &Ask, answer: &Answer) {
        (self.is_asking, self.is_cut_off) = (false, false);
        if answer.number == 0 || answer.number != self.number && self.number > 0 {
            if self.number > 0 {
                self.end();
            }
            self.next_ask = now + self.manners.retry.1;
            return;
        }
        let has_gained = answer.slots > ask.held;
        (self.number, self.keep, self.is_scarce) = (answer.number, answer.keep, answer.is_scarce);
        (self.leased, self.stored) = (answer.slots, answer.slots);
        self.lasts = answer.lasts;
        let lasts = answer.lasts.map(|lasts| lasts.saturating_sub(self.manners.margin));
        self.until = lasts.map(|lasts| sent.saturating_add(lasts));
        let (first, most) = self.manners.retry;
        self.pause = if has_gained { first } else { (self.pause * 2).min(most) };
        self.next_ask = now + self.pause;
        let third = answer.lasts.map_or(self.manners.look, |lasts| lasts / 3);
        self.next_look = now + self.manners.look.min(third);
    }

    /// The store could not be asked.
    pub fn failed(&mut self, now: Duration) {
        (self.is_asking, self.is_cut_off) = (false, true);
        self.pause = (self.pause * 2).min(self.manners.retry.1);
        self.next_ask = now + self.pause;
    }

    /// The lease is over: what was opened under it must not be used.
    fn end(&mut self) {
        (self.number, self.leased, self.stored) = (0, 0, 0);
        (self.keep, self.allowed, self.is_scarce) = (0, 0, false);
        (self.until, self.lasts) = (None, None);
        self.must_clear = true;
    }

    /// This holder's id.
    #[must_use]
    pub fn id(&self) -> HolderId {
        self.id
    }

    /// The number of the lease; 0: there is none.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The slots that the store has given.
    #[must_use]
    pub fn stored(&self) -> u32 {
        self.stored
    }

    /// The slots that the pool may take.
    #[must_use]
    pub fn allowed(&self) -> u32 {
        self.allowed
    }
}

/// The largest of the numbers that held at some time within a span until now.
#[derive(Clone, Debug)]
struct Peak {
    span: Duration,
    /// Falling numbers, each with the time until which it held, the last until now.
    held: VecDeque<(Duration, u32)>,
}

impl Peak {
    fn new(span: Duration) -> Self {
        Self { span, held: VecDeque::new() }
    }

    /// The number is `number` from now on; the one before held until now.
    fn note(&mut self, now: Duration, number: u32) {
        if let Some(last) = self.held.back_mut() {
            last.0 = now;
        }
        while self.held.back().is_some_and(|(_, before)| *before <= number) {
            self.held.pop_back();
        }
        self.held.push_back((now, number));
        while self.held.len() > 1 && self.held[0].0 + self.span <= now {
            self.held.pop_front();
        }
    }

    fn most(&self) -> u32 {
        self.held.front().map_or(0, |(_, number)| *number)
    }

    /// When it falls next, if nothing changes.
    fn falls_at(&self) -> Option<Duration> {
        (self.held.len() > 1).then(|| self.held[0].0 + self.span)
    }
}
