//! The callers: what each of them asks for, again and again, and what becomes of it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::client::request;
use crate::peer::{Peer, Refusal};

/// Callers that loop on a pool until they are told to stop.
pub(crate) struct Crowd {
    callers: Vec<Caller>,
    pause: Duration,
    is_over: AtomicBool,
}

struct Caller {
    timeout: Duration,
    served: AtomicU64,
}

/// One checkout and what was done with it.
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
    /// The server had answered by then.
    Served(Instant),
    /// The connection was of no use.
    Dead,
    Refused(Refusal),
}

impl Attempt {
    /// How much later than its deadline the caller was answered.
    pub(crate) fn overrun(&self) -> Duration {
        (self.told - self.asked).saturating_sub(self.timeout)
    }

    pub(crate) fn served(&self) -> Option<Instant> {
        if let Outcome::Served(at) = self.outcome { Some(at) } else { None }
    }
}

impl Crowd {
    /// A caller for each time limit, all with the same pause after each attempt.
    pub(crate) fn new(timeouts: impl IntoIterator<Item = Duration>, pause: Duration) -> Self {
        let callers = timeouts.into_iter().map(|timeout| Caller { timeout, served: 0.into() });
        Self { callers: callers.collect(), pause, is_over: false.into() }
    }

    /// Sends them off. Each tells what it met when it is stopped.
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
        // Not all at once: else they would keep every connection busy, and none would rest.
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

    /// Waits until each of them has been served once more, or for as long as `limit`.
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
