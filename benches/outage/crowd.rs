//! The callers: each asks again and again, and records the outcomes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::client::request;
use crate::peer::{Peer, Refusal};

/// Callers that use a pool in a loop until they are stopped.
pub(crate) struct Crowd {
    callers: Vec<Caller>,
    pause: Duration,
    is_over: AtomicBool,
}

struct Caller {
    timeout: Duration,
    served: AtomicU64,
}

/// One checkout and its outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) asked: Instant,
    /// When the pool answered.
    pub(crate) told: Instant,
    pub(crate) timeout: Duration,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// The server had answered by this time.
    Served(Instant),
    /// The connection was dead.
    Dead,
    Refused(Refusal),
}

impl Attempt {
    /// How long after its deadline the caller got an answer.
    pub(crate) fn overrun(&self) -> Duration {
        (self.told - self.asked).saturating_sub(self.timeout)
    }

    pub(crate) fn served(&self) -> Option<Instant> {
        if let Outcome::Served(at) = self.outcome { Some(at) } else { None }
    }
}

impl Crowd {
    /// Makes a caller for each time limit, all with the same pause after each attempt.
    pub(crate) fn new(timeouts: impl IntoIterator<Item = Duration>, pause: Duration) -> Self {
        let callers = timeouts.into_iter().map(|timeout| Caller { timeout, served: 0.into() });
        Self { callers: callers.collect(), pause, is_over: false.into() }
    }

    /// Starts the callers. Each returns its attempts when it is stopped.
    pub(crate) fn set_off<'s>(
        &'s self,
        pool: &'s dyn Peer,
        scope: &'s Scope<'s, '_>,
    ) -> Vec<ScopedJoinHandle<'s, Vec<Attempt>>> {
        let all = self.callers.len() as u32;
        let evenly = (0..all).map(|nth| self.pause * nth / all).zip(&self.callers);
        evenly.map(|(wait, caller)| scope.spawn(move || self.run(caller, wait, pool))).collect()
    }

    fn run(&self, caller: &Caller, wait: Duration, pool: &dyn Peer) -> Vec<Attempt> {
        // Not all at once, because they would keep every connection busy, and none would be idle.
        thread::sleep(wait);
        let mut attempts = Vec::new();
        while !self.is_over.load(Ordering::Relaxed) {
            let attempt = attempt(pool, caller.timeout);
            caller.served.fetch_add(u64::from(attempt.served().is_some()), Ordering::Relaxed);
            attempts.push(attempt);
            thread::sleep(self.pause);
        }
        attempts
    }

    /// Waits until each caller has been served once more, for at most `limit`.
    pub(crate) fn await_all_served(&self, limit: Duration) {
        let served = || self.callers.iter().map(|caller| caller.served.load(Ordering::Relaxed));
        let before: Vec<_> = served().collect();
        let deadline = Instant::now() + limit;
        while served().zip(&before).any(|(now, before)| now == *before) {
            if Instant::now() >= deadline {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn attempt(pool: &dyn Peer, timeout: Duration) -> Attempt {
    let asked = Instant::now();
    let mut told = None;
    let mut answer = Err(io::ErrorKind::NotConnected.into());
    let lent = pool.lend(timeout, &mut |connection| {
        told = Some(Instant::now());
        answer = request(connection);
    });
    let answered = Instant::now();
    let outcome = match (lent, answer) {
        (Err(refusal), _) => Outcome::Refused(refusal),
        (Ok(()), Err(_)) => Outcome::Dead,
        (Ok(()), Ok(())) => Outcome::Served(answered),
    };
    Attempt { asked, told: told.unwrap_or(answered), timeout, outcome }
}
