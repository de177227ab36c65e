//! Decides when to try which address: RFC 8305 as plain data, without sockets and without a clock.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often an attempt is repeated if the kernel's choice of a local port was at fault.
///
/// As in Go's `net` (golang/go#2690): two more times.
const PORT_RETRIES: u32 = 2;

/// The least time that an address gets when addresses are tried one at a time.
///
/// As in Go's `net` (`saneMinimum`): a share that is too short for a handshake helps no address.
const LEAST_SHARE: Duration = Duration::from_secs(2);

/// The shortest delay between two attempts (RFC 8305, section 5: must not be less).
const LEAST_DELAY: Duration = Duration::from_millis(10);

/// The next step of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Start an attempt at the address of this index.
    Start(usize),
    /// Give up the attempt at the address of this index, because its share of the deadline is over.
    /// Then call `failed`.
    Abandon(usize),
    /// Wait for an attempt to end, until this instant at most.
    Wait(Instant),
    /// No address or no time is left.
    Lost,
}

/// The cause of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The address or the network: the next address is tried.
    Address,
    /// The kernel chose an unusable local port: the same address is tried again.
    LocalPort,
}

/// A race between the addresses of one host. Time comes in as `now`.
#[derive(Debug)]
pub(crate) struct Race {
    addresses: Vec<SocketAddr>,
    delay: Duration,
    port_is_ours: bool,
    deadline: Instant,
    next: usize,
    next_due: Instant,
    again: VecDeque<usize>,
    tries: Vec<u32>,
    running: Vec<usize>,
}

impl Race {
    /// A race over `addresses`, in the order of [`interleave`].
    ///
    /// The next address starts `delay` after the one before, or at once when none is running.
    /// `Duration::MAX` means one at a time. `port_is_ours` says that the caller chose the local
    /// port, so that another try would use the same one.
    pub(crate) fn new(
        addresses: Vec<SocketAddr>,
        delay: Duration,
        port_is_ours: bool,
        now: Instant,
        deadline: Instant,
    ) -> Self {
        let addresses = interleave(addresses);
        Self {
            tries: vec![0; addresses.len()],
            addresses,
            delay,
            port_is_ours,
            deadline,
            next: 0,
            next_due: now,
            again: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// The address at `index`.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.addresses[index]
    }

    /// The addresses that were never tried.
    pub(crate) fn untried(&self) -> &[SocketAddr] {
        &self.addresses[self.next..]
    }

    /// The next step at `now`. Call it again after each step.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        // Even at the deadline, because `failed` has promised it and the error must list the
        // address.
        if let Some(index) = self.again.pop_front() {
            return self.start(index);
        }
        if now >= self.deadline {
            return Step::Lost;
        }
        let one_at_a_time = self.delay == Duration::MAX;
        if one_at_a_time && now >= self.next_due {
            if let Some(&index) = self.running.first() {
                return Step::Abandon(index);
            }
        }
        let is_due = self.running.is_empty() || (!one_at_a_time && now >= self.next_due);
        if self.next < self.addresses.len() && is_due {
            let index = self.next;
            self.next_due = self.next_start(now);
            self.next += 1;
            return self.start(index);
        }
        if self.running.is_empty() {
            return Step::Lost;
        }
        let waits_for_next = one_at_a_time || self.next < self.addresses.len();
        Step::Wait(if waits_for_next { self.next_due.min(self.deadline) } else { self.deadline })
    }

    /// Records that the attempt at the address of `index` failed. Returns whether it is repeated.
    pub(crate) fn failed(&mut self, index: usize, fault: Fault, now: Instant) -> bool {
        self.running.retain(|&running| running != index);
        let again = fault == Fault::LocalPort
            && !self.port_is_ours
            && self.tries[index] <= PORT_RETRIES
            && now < self.deadline;
        if again {
            self.again.push_back(index);
        } else {
            // RFC 8305, section 5: a failure starts the next attempt at once.
            self.next_due = now;
        }
        again
    }

    fn start(&mut self, index: usize) -> Step {
        self.tries[index] += 1;
        self.running.push(index);
        Step::Start(index)
    }

    /// When the address after the one that starts at `now` may start.
    fn next_start(&self, now: Instant) -> Instant {
        let left = self.addresses.len() - self.next;
        if self.delay == Duration::MAX {
            return partial_deadline(now, self.deadline, left).unwrap_or(self.deadline);
        }
        // If the deadline is too short for the usual delays, shorter ones let all addresses have a
        // turn.
        let share = (self.deadline - now) / u32::try_from(left).unwrap_or(u32::MAX);
        let delay = self.delay.min(share).max(LEAST_DELAY);
        now.checked_add(delay).unwrap_or(self.deadline)
    }
}

/// Sorts addresses so that the families alternate, that of the first address first (RFC 8305,
/// section 4).
///
/// Within a family the resolver's order stays, which is that of RFC 6724.
pub(crate) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv4) else {
        return addresses;
    };
    let (primary, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first);
    let (mut primary, mut other) = (primary.into_iter(), other.into_iter());
    let mut interleaved = Vec::new();
    loop {
        let pair = [primary.next(), other.next()];
        if pair == [None, None] {
            return interleaved;
        }
        interleaved.extend(pair.into_iter().flatten());
    }
}

/// When the attempt at one of `left` addresses ends if they are tried one at a time: an equal share
/// of the time left, but at least two seconds; `None` if no time is left.
///
/// This is Go's `partialDeadline`.
pub(crate) fn partial_deadline(now: Instant, deadline: Instant, left: usize) -> Option<Instant> {
    let remaining = deadline.checked_duration_since(now).filter(|left| !left.is_zero())?;
    let share = remaining / u32::try_from(left.max(1)).unwrap_or(u32::MAX);
    Some(now + share.max(LEAST_SHARE).min(remaining))
}
